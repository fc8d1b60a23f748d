"""What is decided about a task of tile operations, apart from how it is written down: order, stays, addresses.

A buffer's *stay* is a time over which it lies in its memory: the first from its ALLOC, each later one from a spill's
way back, until the next spill's way out, or FREE. Stays that nobody uses are never worth having and are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from instances.intracore import COUNTED, Spill, TileAnswer, TileTask, spill_cycles

OPERATION, OUT, BACK = 0, 1, 2
"""Kinds of step."""

Step = tuple[int, int, int]
"""Kind; node of an operation, or buffer; for a move, which stay it ends (OUT) or begins (BACK)."""


@dataclass(frozen=True)
class Stay:
    """Operations that use a buffer in one stay, and its offset."""

    users: frozenset[int]
    offset: int = 0


@dataclass(frozen=True)
class Decisions:
    """Steps in schedule order, and the stays of each buffer that something uses, in turn."""

    steps: tuple[Step, ...]
    stays: Mapping[int, tuple[Stay, ...]]

    @property
    def operations(self) -> tuple[int, ...]:
        """Operations in order."""
        return tuple(node for kind, node, _ in self.steps if kind == OPERATION)


def duration_of(task: TileTask, step: Step) -> int:
    """Cycles of a step."""
    kind, what, _ = step
    if kind == OPERATION:
        return task.operation[what].cycles
    return 0 if kind == OUT and what in task.backed else spill_cycles(task.buffer[what].size)


def in_order(task: TileTask, order: Sequence[int], stays: Mapping[int, tuple[Stay, ...]]) -> Decisions:
    """Decisions with every move as close as can be to the uses before and after it."""
    rank = {node: place for place, node in enumerate(order)}
    outs: dict[int, list[Step]] = {}
    backs: dict[int, list[Step]] = {}
    for buffer, listed in stays.items():
        for number, stay in enumerate(listed):
            if number:
                backs.setdefault(min(rank[node] for node in stay.users), []).append((BACK, buffer, number))
            if number + 1 < len(listed):
                outs.setdefault(max(rank[node] for node in stay.users), []).append((OUT, buffer, number))
    steps: list[Step] = []
    for place, node in enumerate(order):
        steps += [*backs.get(place, ()), (OPERATION, node, 0), *outs.get(place, ())]
    return Decisions(tuple(steps), stays)


def decisions_of(task: TileTask, answer: TileAnswer) -> Decisions:
    """What a legal answer decides, without stays that nobody uses."""
    offsets: dict[int, list[int]] = {}
    groups: dict[int, list[set[int]]] = {}
    raw: list[tuple[int, int, int]] = []
    for node in answer.order:
        if node in task.operation:
            raw.append((OPERATION, node, 0))
            for buffer in dict.fromkeys(task.operation[node].buffers):
                groups.setdefault(buffer, [set()])[-1].add(node)
                offsets.setdefault(buffer, [answer.offsets.get(buffer, 0)])
        elif node >= task.count:
            spill = answer.spills[(node - task.count) // 2]
            listed = groups.setdefault(spill.buffer, [set()])
            offsets.setdefault(spill.buffer, [answer.offsets.get(spill.buffer, 0)])
            if (node - task.count) % 2 == 0:
                raw.append((OUT, spill.buffer, len(listed) - 1))
            else:
                listed.append(set())
                offsets[spill.buffer].append(spill.offset)
                raw.append((BACK, spill.buffer, len(listed) - 1))
    number: dict[tuple[int, int], int] = {}
    stays: dict[int, tuple[Stay, ...]] = {}
    for buffer, listed in groups.items():
        kept = [place for place, users in enumerate(listed) if users]
        if kept:
            stays[buffer] = tuple(Stay(frozenset(listed[p]), offsets[buffer][p]) for p in kept)
            number.update({(buffer, place): new for new, place in enumerate(kept)})
    steps: list[Step] = []
    for kind, what, place in raw:
        if kind == OPERATION:
            steps.append((kind, what, 0))
            continue
        new = number.get((what, place), -1)
        if (kind == BACK and new > 0) or (kind == OUT and 0 <= new < len(stays[what]) - 1):
            steps.append((kind, what, new))
    return Decisions(tuple(steps), stays)


def answer_of(task: TileTask, decisions: Decisions, addresses: bool = True) -> TileAnswer:
    """The answer: ALLOC right before the first use, FREE right after the last; unused buffers come first."""
    rank = {node: place for place, node in enumerate(decisions.operations)}
    firsts: dict[int, list[int]] = {}
    lasts: dict[int, list[int]] = {}
    order: list[int] = []
    for one in task.buffers:
        if users := task.users[one.id]:
            firsts.setdefault(min(users, key=rank.__getitem__), []).append(one.alloc)
            lasts.setdefault(max(users, key=rank.__getitem__), []).append(one.free)
        else:
            order += [one.alloc, one.free]
    spills: list[Spill] = []
    node_of: dict[tuple[int, int], int] = {}
    for step in decisions.steps:
        kind, what, stay = step
        if kind == OPERATION:
            order += [*firsts.get(what, ()), what, *lasts.get(what, ())]
        elif kind == OUT:
            node_of[what, stay] = task.count + 2 * len(spills)
            order.append(node_of[what, stay])
            spills.append(Spill(buffer=what, offset=decisions.stays[what][stay + 1].offset))
        else:
            order.append(node_of[what, stay - 1] + 1)
    if not addresses:
        return TileAnswer(order=tuple(order))
    offsets = {one.id: decisions.stays[one.id][0].offset if task.users[one.id] else 0 for one in task.buffers}
    return TileAnswer(order=tuple(order), offsets=offsets, spills=tuple(spills))


def residency_of(task: TileTask, order: Iterable[int]) -> int:
    """Peak of L1 and UB together for an order of operations, each buffer live from its first to its last use."""
    left = {buffer: len(users) for buffer, users in task.users.items()}
    total = dict(left)
    size = {one.id: one.size if one.place in COUNTED else 0 for one in task.buffers}
    now = 0
    peak = max((size[buffer] for buffer, users in total.items() if not users), default=0)
    for node in order:
        named = tuple(dict.fromkeys(task.operation[node].buffers))
        now += sum(size[buffer] for buffer in named if left[buffer] == total[buffer])
        peak = max(peak, now)
        for buffer in named:
            left[buffer] -= 1
            if not left[buffer]:
                now -= size[buffer]
    return peak


def traffic_of(task: TileTask, stays: Mapping[int, tuple[Stay, ...]]) -> int:
    """Extra traffic of all spills."""
    return sum((len(listed) - 1) * task.traffic_of_spill(buffer) for buffer, listed in stays.items())


def starts_of(
    task: TileTask, decisions: Decisions, duration: Callable[[TileTask, Step], int] = duration_of
) -> dict[Step, int]:
    """Earliest start of every step: after what it waits for, its pipe, and the release of the cells it claims."""
    released = {place: [0] * size for place, size in task.capacity.items()}
    pipes: dict[str, int] = {}
    end: dict[int, int] = {}
    since: dict[int, int] = {}
    last: dict[int, int] = {}
    at: dict[int, int] = {}
    left = {buffer: len(users) for buffer, users in task.users.items()}
    starts: dict[Step, int] = {}

    def claim(buffer: int, stay: int) -> int:
        at[buffer] = decisions.stays[buffer][stay].offset
        one = task.buffer[buffer]
        return max(released[one.place][at[buffer] : at[buffer] + one.size])

    def release(buffer: int, when: int) -> None:
        one = task.buffer[buffer]
        cells = released[one.place]
        for cell in range(at[buffer], at[buffer] + one.size):
            cells[cell] = max(cells[cell], when)

    for step in decisions.steps:
        kind, what, stay = step
        if kind == OPERATION:
            op = task.operation[what]
            pipe, named = op.pipe.value, tuple(dict.fromkeys(op.buffers))
            for buffer in named:
                if buffer not in since:
                    since[buffer] = claim(buffer, 0)
            ready = max([*(since[b] for b in named), *(end[node] for node in task.waits[what])], default=0)
        elif kind == OUT:
            pipe, named = "MTE3", ()
            ready = max(last[what], since[what])
        else:
            pipe, named = "MTE2", ()
            ready = max(since[what], claim(what, stay))
        start = starts[step] = max(ready, pipes.get(pipe, 0))
        done = pipes[pipe] = start + duration(task, step)
        if kind != OPERATION:
            since[what] = done
            if kind == OUT:
                release(what, done)
            continue
        end[what] = done
        for buffer in named:
            last[buffer] = max(last.get(buffer, 0), done)
            left[buffer] -= 1
            if not left[buffer]:
                release(buffer, max(last[buffer], since[buffer]))
    return starts


def makespan_of(task: TileTask, decisions: Decisions) -> int:
    """Cycles until the last step ends."""
    return max(start + duration_of(task, step) for step, start in starts_of(task, decisions).items())
