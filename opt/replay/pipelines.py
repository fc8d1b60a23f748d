"""The replay of a kernel's modulo schedule: its operations laid out in time, iteration after iteration, and looked at.

Nothing is taken over from those who made the schedule. Operations of many iterations are put where the schedule says;
then every wait, every turn on a pipe and every content of every slot is checked by its times, and all iterations are
run through once more, each operation as soon as it may, to see that the time which the price counts is enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from instances.machine import Machine, MemoryName
from instances.pipelines.course import course
from instances.pipelines.loop import KernelLoop, LoopKernel, PipelineSchedule, Ring

MOST_LAID_OUT = 128
"""Iterations that are laid out at most: a schedule with more in flight is refused."""

MOST_RUN = 24
"""Iterations that are run through at most; from one to the next nothing changes any more but the time."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a pipeline, and by how much: ps, or bytes."""

    what: str
    amount: float


def check_pipeline(loop: KernelLoop, schedule: PipelineSchedule, machine: Machine) -> list[Fault]:
    """What is wrong with the schedule of a kernel's loop; empty where it is legal and its time is enough."""
    body = loop.body
    if schedule.loop != body.fingerprint or len(schedule.start_ps) != len(body.ops):
        return [Fault("the schedule is of another loop", 1)]
    if {ring.key for ring in body.rings} != set(schedule.slots) or schedule.lead > body.most_lead:
        return [Fault("the schedule has other buffers than the loop", 1)]
    layout = _Layout(body, schedule)
    if layout.turns > MOST_LAID_OUT:
        return [Fault(f"{layout.turns} iterations would have to be looked at together", layout.turns)]
    faults = [*layout.waits(), *layout.pipes(), *layout.slots(), *_memories(body, schedule, machine)]
    if schedule.bound_ps > (schedule.ii_ps if body.cyclic else schedule.span_ps(body)):
        faults.append(Fault("the bound is above what it bounds", schedule.bound_ps - schedule.ii_ps))
    return faults or list(_time(loop, schedule))


class _Layout:
    """So many iterations at the times of the schedule that everything in flight meets everything that it may."""

    def __init__(self, body: LoopKernel, schedule: PipelineSchedule) -> None:
        self.body, self.schedule = body, schedule
        most = max([d.distance for d in body.dependences] + list(schedule.slots.values()) + [1])
        self.turns = schedule.stages(body) + most + schedule.lead + 1 if body.cyclic else 1

    def start(self, turn: int, op: int) -> int:
        return turn * self.schedule.ii_ps + self.schedule.start_ps[op]

    def end(self, turn: int, op: int) -> int:
        return self.start(turn, op) + self.body.ops[op].busy_ps

    def waits(self) -> Iterator[Fault]:
        """Every operation comes long enough after what it depends on."""
        for d in self.body.dependences:
            if d.distance >= self.turns:
                continue
            early = self.start(0, d.source) + d.latency_ps - self.start(d.distance, d.target)
            if early > 0:
                ops = self.body.ops
                yield Fault(f"{ops[d.target].name} starts {early} ps before {ops[d.source].name} lets it", early)

    def pipes(self) -> Iterator[Fault]:
        """Nobody holds a pipe, an issue slot or a turn while another does."""
        held: dict[str, list[tuple[int, int, int]]] = {}
        for turn in range(self.turns):
            for number, op in enumerate(self.body.ops):
                begin = self.start(turn, number)
                for resource, length in ((op.pipe, op.busy_ps), *op.holds.items()):
                    if length:
                        held.setdefault(resource, []).append((begin, begin + length, number))
        for resource, spans in held.items():
            spans.sort()
            free, last = -1, -1
            for begin, end, number in spans:
                if begin < free:
                    names = f"{self.body.ops[last].name} and {self.body.ops[number].name}"
                    yield Fault(f"{names} hold {resource} at once for {free - begin} ps", free - begin)
                    break
                free, last = end, number

    def slots(self) -> Iterator[Fault]:
        """What is in a slot stays there until its last reader has ended."""
        for ring in self.body.rings:
            yield from self._ring(ring, self.schedule.slots[ring.key])

    def _ring(self, ring: Ring, slots: int) -> Iterator[Fault]:
        contents = []  # in the order in which slots are taken
        for turn in range(self.turns):
            for place, use in enumerate(ring.uses):
                ahead = turn - self.schedule.lead if use.leads else turn
                contents.append((ahead * len(ring.uses) + place, turn, use))
        by_number = {number: (turn, use) for number, turn, use in contents}
        for number, turn, use in contents:
            after = by_number.get(number + slots)
            if after is None or not use.readers:
                continue
            done = max(self.end(turn, reader) for reader in use.readers)
            late = done - self.start(after[0], after[1].fill)
            if late > 0:
                yield Fault(f"a slot of {ring.key} is filled again {late} ps before it has been read", late)
                return


def _memories(body: LoopKernel, schedule: PipelineSchedule, machine: Machine) -> Iterator[Fault]:
    """All slots fit."""
    taken: dict[MemoryName, int] = {}
    for buffer in body.held:
        taken[buffer.memory] = taken.get(buffer.memory, 0) + buffer.size_bytes * buffer.slots
    for ring in body.rings:
        taken[ring.memory] = taken.get(ring.memory, 0) + ring.size_bytes * schedule.slots[ring.key]
    for memory, used in taken.items():
        over = used - min(body.room_bytes.get(memory, 0), machine.capacity(memory))
        if over > 0:
            yield Fault(f"slots exceed {memory.value} by {over} bytes", over)


def _time(loop: KernelLoop, schedule: PipelineSchedule) -> Iterator[Fault]:
    """That the iterations, run as soon as they may in the order of the schedule, end when the price says, or before."""
    turns = min(MOST_RUN, math.floor(loop.iterations))
    counted = course(loop.model_copy(update={"iterations": float(turns)}), schedule).end_ps - loop.entry_ps
    needed = _run(loop.body, schedule, turns)
    if needed > counted:
        yield Fault(f"{turns} iterations take {needed} ps, {counted} ps are counted", needed - counted)


def _run(body: LoopKernel, schedule: PipelineSchedule, turns: int) -> int:
    """Time of so many iterations with every operation as soon as it may; by who still has to be looked at again."""
    count = len(body.ops)
    behind: dict[int, list[tuple[int, int]]] = {}

    def wait(source: tuple[int, int], target: tuple[int, int], latency: int) -> None:
        if 0 <= source[0] < turns and 0 <= target[0] < turns:
            behind.setdefault(source[0] * count + source[1], []).append((target[0] * count + target[1], latency))

    queues: dict[str, list[tuple[int, int, int, int]]] = {}
    for turn in range(turns):
        for d in body.dependences:
            wait((turn, d.source), (turn + d.distance, d.target), d.latency_ps)
        for number, op in enumerate(body.ops):
            begin = turn * schedule.ii_ps + schedule.start_ps[number]
            for resource, length in ((op.pipe, op.busy_ps), *op.holds.items()):
                if length:
                    queues.setdefault(resource, []).append((begin, turn, number, length))
    for ring in body.rings:
        uses = len(ring.uses)
        for turn in range(turns):
            for place, use in enumerate(ring.uses):
                lead = schedule.lead if use.leads else 0
                number = (turn - lead) * uses + place + schedule.slots[ring.key]
                other = ring.uses[number % uses]
                again = number // uses + (schedule.lead if other.leads else 0)
                for reader in use.readers:
                    wait((turn, reader), (again, other.fill), body.ops[reader].busy_ps)
    for queue in queues.values():
        queue.sort()
        for (_, turn, number, length), (_, later, following, _) in pairwise(queue):
            wait((turn, number), (later, following), length)
    starts = [0] * (turns * count)
    waiting = deque(range(turns * count))
    queued = [True] * (turns * count)
    while waiting:
        node = waiting.popleft()
        queued[node] = False
        for target, latency in behind.get(node, ()):
            if starts[node] + latency > starts[target]:
                starts[target] = starts[node] + latency
                if not queued[target]:
                    queued[target] = True
                    waiting.append(target)
    return max(start + body.ops[node % count].busy_ps for node, start in enumerate(starts))
