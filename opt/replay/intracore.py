"""Replay of an answer to a task of tile operations: every rule, residency, traffic and time, from the task alone.

Where the statement leaves something open, :class:`Rules` has both readings; the first named is the default.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from instances.intracore import COUNTED, SINGLE, Pipe, Place, TileAnswer, TileTask, spill_cycles

MOST_FAULTS = 100
"""Broken rules that a verdict lists at most."""


@dataclass(frozen=True)
class Rules:
    """Readings of what the statement leaves open.

    Parameters
    ----------
    problem
        1: order only, residency; 2: extra traffic; 3: time.
    reuse
        ``all``: whatever releases cells (FREE, or a spill's way out) holds back whatever claims them later (ALLOC, or
        a spill's way back). ``literal``: FREE before ALLOC only, as the statement has it; two buffers may then share
        cells at one time.
    single_l0
        Whether L0A, L0B and L0C hold one buffer at a time in sub-problems 2 and 3 too (in 1 they do). A buffer counts
        from its ALLOC to its FREE, also while a spill has moved it out.
    baseline_traffic, slack
        In sub-problem 3: extra traffic above ``baseline_traffic * (1 + slack)`` is a fault.
    """

    problem: Literal[1, 2, 3] = 3
    reuse: Literal["all", "literal"] = "all"
    single_l0: bool = False
    baseline_traffic: int | None = None
    slack: float = 0.05


@dataclass(frozen=True)
class TileVerdict:
    """What an answer comes to: peak residency (units), extra traffic (units), time (cycles), and broken rules."""

    residency: int
    traffic: int
    makespan: int
    starts: dict[int, int]
    faults: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """True where no rule is broken."""
        return not self.faults

    def objective(self, problem: int) -> int:
        """What a sub-problem asks for: residency, extra traffic or time."""
        return {1: self.residency, 2: self.traffic, 3: self.makespan}[problem]


@dataclass
class _Memory:
    """Cells of one memory: whose they are (-1: nobody's), and when they were last released."""

    owner: list[int]
    released: list[int]


@dataclass
class _Walk:
    """State of a walk through the order."""

    task: TileTask
    rules: Rules
    faults: list[str] = field(default_factory=list)
    memories: dict[Place, _Memory] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)  # buffer -> offset while it is resident
    end: dict[int, int] = field(default_factory=dict)  # node -> end
    since: dict[int, int] = field(default_factory=dict)  # buffer -> when its present content is there
    last_use: dict[int, int] = field(default_factory=dict)  # buffer -> latest end of what used it

    def note(self, sentence: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(sentence)

    def claim(self, buffer: int, offset: int | None, node: int, kind: str) -> int:
        """Take cells at an offset; when they are free. Faults are noted, and nothing is taken."""
        one = self.task.buffer[buffer]
        if offset is None:
            self.note(f"node {node}: buffer {buffer} has no offset")
            return 0
        memory = self.memories[one.place]
        if offset < 0:
            self.note(f"node {node}: buffer {buffer} starts {-offset} units before {one.place}")
            return 0
        if offset + one.size > len(memory.owner):
            self.note(
                f"node {node}: buffer {buffer} ends {offset + one.size - len(memory.owner)} units beyond {one.place}"
            )
            return 0
        cells = slice(offset, offset + one.size)
        for other in sorted(set(memory.owner[cells]) - {-1}):
            shared = memory.owner[cells].count(other)
            self.note(f"node {node}: buffers {other} and {buffer} share {shared} units of {one.place}")
        memory.owner[cells] = [buffer] * one.size
        self.at[buffer] = offset
        if self.rules.reuse == "literal" and kind != "ALLOC":
            return 0
        return max(memory.released[cells])

    def release(self, buffer: int, when: int, kind: str) -> None:
        """Give cells back."""
        one = self.task.buffer[buffer]
        if buffer not in self.at:
            return
        offset = self.at.pop(buffer)
        memory = self.memories[one.place]
        cells = slice(offset, offset + one.size)
        memory.owner[cells] = [-1 if other == buffer else other for other in memory.owner[cells]]
        if self.rules.reuse == "all" or kind == "FREE":
            memory.released[cells] = [max(earlier, when) for earlier in memory.released[cells]]


def judge_tiles(task: TileTask, answer: TileAnswer, rules: Rules | None = None) -> TileVerdict:
    """Walk through an answer's order; never raises on a bad one, but lists what is wrong with it."""
    rules = rules or Rules()
    walk = _Walk(task, rules)
    for place, size in task.capacity.items():
        walk.memories[place] = _Memory([-1] * size, [0] * size)
    _check_nodes(walk, answer)
    if walk.faults:
        return TileVerdict(0, 0, 0, {}, tuple(walk.faults))
    residency = _check_residency(walk, answer)
    _check_edges(walk, answer)
    traffic = sum(task.traffic_of_spill(spill.buffer) for spill in answer.spills)
    starts: dict[int, int] = {}
    if rules.problem == 1:
        if answer.spills:
            walk.note("sub-problem 1 has no spills; leave them out")
    else:
        starts = _replay(walk, answer)
        if rules.problem == 3 and rules.baseline_traffic is not None:
            allowed = int(rules.baseline_traffic * (1 + rules.slack) + 1e-9)
            if traffic > allowed:
                walk.note(f"extra traffic is {traffic}, {traffic - allowed} above the {allowed} that are allowed")
    return TileVerdict(residency, traffic, max(walk.end.values(), default=0), starts, tuple(walk.faults))


def _check_nodes(walk: _Walk, answer: TileAnswer) -> None:
    """Every node once; spills and offsets of buffers that there are."""
    task = walk.task
    whole = task.count + 2 * len(answer.spills)
    times = Counter(answer.order)
    missing = [node for node in range(whole) if node not in times]
    for node in missing[:MOST_FAULTS]:
        walk.note(f"node {node} is not in the schedule")
    for node, count in sorted(times.items()):
        if node >= whole:
            walk.note(f"node {node} is in the schedule, but nodes end at {whole - 1}")
        elif count > 1:
            walk.note(f"node {node} is in the schedule {count} times")
    for number, spill in enumerate(answer.spills):
        if spill.buffer not in task.buffer:
            walk.note(f"spill {number} names buffer {spill.buffer}, which the task does not have")
    for buffer in answer.offsets:
        if buffer not in task.buffer:
            walk.note(f"an offset is given for buffer {buffer}, which the task does not have")


def _check_edges(walk: _Walk, answer: TileAnswer) -> None:
    """No edge leads backwards, nothing is used outside ALLOC and FREE."""
    task = walk.task
    position = {node: place for place, node in enumerate(answer.order)}
    for before, after in task.edges:
        if position[before] > position[after]:
            walk.note(f"node {after} stands before node {before}, which an edge puts first")
    for buffer, users in task.users.items():
        one = task.buffer[buffer]
        if position[one.alloc] > position[one.free]:
            walk.note(f"buffer {buffer} is released by node {one.free} before node {one.alloc} claims it")
        for node in users:
            if not position[one.alloc] < position[node] < position[one.free]:
                walk.note(f"node {node} uses buffer {buffer} outside its ALLOC and FREE")


def _check_residency(walk: _Walk, answer: TileAnswer) -> int:
    """Largest sum of live L1 and UB buffers; one live buffer in each L0 where that is the rule."""
    task, rules = walk.task, walk.rules
    claims = {one.alloc: one for one in task.buffers}
    frees = {one.free: one for one in task.buffers}
    now = peak = 0
    live: dict[Place, set[int]] = {place: set() for place in SINGLE}
    single = rules.problem == 1 or rules.single_l0
    for node in answer.order:
        if node in claims:
            one = claims[node]
            if one.place in COUNTED:
                now += one.size
                peak = max(peak, now)
            elif single and live[one.place]:
                walk.note(f"node {node}: {one.place} holds buffer {min(live[one.place])}, and {one.id} is claimed")
            if one.place in live:
                live[one.place].add(one.id)
        elif node in frees:
            one = frees[node]
            if one.place in COUNTED:
                now -= one.size
            else:
                live[one.place].discard(one.id)
    return peak


def _replay(walk: _Walk, answer: TileAnswer) -> dict[int, int]:
    """Start of every node; addresses, spills and the time that each waits for."""
    task = walk.task
    claims = {one.alloc: one for one in task.buffers}
    frees = {one.free: one for one in task.buffers}
    before: dict[int, list[int]] = {}
    for first, second in task.edges:
        before.setdefault(second, []).append(first)
    free_pipe = dict.fromkeys(Pipe, 0)
    starts: dict[int, int] = {}
    out: dict[int, int] = {}  # buffer in main memory -> the spill that moved it there
    for node in answer.order:
        ready = max((walk.end.get(other, 0) for other in before.get(node, ())), default=0)
        pipe, cycles = None, 0
        buffer = -1
        if node in claims:
            buffer = claims[node].id
            ready = max(ready, walk.claim(buffer, answer.offsets.get(buffer), node, "ALLOC"))
        elif node in frees:
            buffer = frees[node].id
            ready = max(ready, walk.last_use.get(buffer, 0), walk.since.get(buffer, 0))
            if buffer in out:
                walk.note(f"node {node} releases buffer {buffer}, which is in main memory")
        elif node in task.operation:
            op = task.operation[node]
            pipe, cycles = op.pipe, op.cycles
            for used in op.buffers:
                if used in out:
                    walk.note(f"node {node} uses buffer {used}, which is in main memory")
                ready = max(ready, walk.since.get(used, 0))
        else:
            number, back = (node - task.count) // 2, (node - task.count) % 2 == 1
            spill = answer.spills[number]
            buffer = spill.buffer
            one = task.buffer[buffer]
            cycles = 0 if not back and buffer in task.backed else spill_cycles(one.size)
            pipe = Pipe.MTE2 if back else Pipe.MTE3
            if buffer not in walk.since:
                walk.note(f"node {node} moves buffer {buffer} outside its ALLOC and FREE")
            if back:
                if buffer not in out:
                    walk.note(f"node {node} brings buffer {buffer} back, which is not in main memory")
                elif out[buffer] != number:
                    moved = task.count + 2 * out[buffer]
                    walk.note(f"node {node} brings buffer {buffer} back, which node {moved} of another spill moved out")
                out.pop(buffer, None)
                ready = max(ready, walk.since.get(buffer, 0), walk.claim(buffer, spill.offset, node, "IN"))
            else:
                if buffer in out:
                    walk.note(f"node {node} moves buffer {buffer} out, which is in main memory already")
                out[buffer] = number
                ready = max(ready, walk.last_use.get(buffer, 0), walk.since.get(buffer, 0))
        if pipe is not None:
            ready = max(ready, free_pipe[pipe])
        starts[node] = ready
        end = walk.end[node] = ready + cycles
        if pipe is not None:
            free_pipe[pipe] = end
        if node in claims:
            walk.since[buffer] = end
        elif node in frees:
            walk.release(buffer, end, "FREE")
            walk.since.pop(buffer, None)  # not there where FREE stands before ALLOC
        elif node in task.operation:
            for used in task.operation[node].buffers:
                walk.last_use[used] = max(walk.last_use.get(used, 0), end)
        elif (node - task.count) % 2 == 0:
            walk.since[buffer] = end
            walk.release(buffer, end, "OUT")
        else:
            walk.since[buffer] = end
    return starts
