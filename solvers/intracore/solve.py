"""Tile operations inside one core: a plain first answer, buffers held as briefly as one order lets them be."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from instances.errors import InfeasibleError
from instances.intracore import COUNTED, SINGLE, Pipe, Spill, TileAnswer, TileTask, spill_cycles


@dataclass(frozen=True)
class TileResult:
    """An answer, what it comes to, and the bounds on that."""

    problem: int
    answer: TileAnswer
    objective: int
    residency: int
    traffic: int
    makespan: int
    bounds: dict[str, int]
    solver: str
    runtime_s: float
    covers: str

    @property
    def bound_by(self) -> str:
        """The argument of the best bound."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def bound(self) -> int:
        """The best bound."""
        return self.bounds[self.bound_by]

    @property
    def gap(self) -> float:
        """Distance of the objective from the bound, relative to the objective."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0

    @property
    def optimal(self) -> bool:
        """Whether the bound is met."""
        return self.objective == self.bound


def solve(
    task: TileTask,
    problem: Literal[1, 2, 3],
    *,
    time_limit: float = 300.0,
    seed: int = 0,
    workers: int = 0,
    single_l0: bool = False,
    baseline_traffic: int | None = None,
    slack: float = 0.05,
    on_better: Callable[[int, str], None] = lambda objective, stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TileResult:
    """One answer by rules of thumb."""
    started = time.monotonic()
    order = _order(task)
    answer, peak, span = _walk(task, order, problem, single_l0 or problem == 1)
    traffic = sum(task.traffic_of_spill(spill.buffer) for spill in answer.spills)
    objective = {1: peak, 2: traffic, 3: span}[problem]
    on_better(objective, "rules of thumb")
    return TileResult(
        problem,
        answer,
        objective,
        peak,
        traffic,
        span,
        {"operation": _bound(task, problem)},
        "just-in-time",
        time.monotonic() - started,
        "all orders, offsets and spills",
    )


def _bound(task: TileTask, problem: int) -> int:
    if problem == 1:
        sizes = {one.id: one.size for one in task.buffers if one.place in COUNTED}
        return max(sum(sizes.get(b, 0) for b in set(op.buffers)) for op in task.operations)
    if problem == 2:
        return 0
    busy = dict.fromkeys(Pipe, 0)
    for op in task.operations:
        busy[op.pipe] += op.cycles
    return max(busy.values())


def _order(task: TileTask) -> list[int]:
    """Depth first backwards from the last operations."""
    done: dict[int, None] = {}
    last = {before for waits in task.waits.values() for before in waits}
    for root in sorted(node for node in task.operation if node not in last):
        stack = [root]
        while stack:
            node = stack[-1]
            missing = [w for w in sorted(task.waits[node]) if w not in done]
            if missing:
                stack.append(missing[0])
            else:
                done[node] = None
                stack.pop()
    return list(done)


def _walk(task: TileTask, order: list[int], problem: int, single: bool) -> tuple[TileAnswer, int, int]:
    uses: dict[int, deque[int]] = {b: deque() for b in task.spans}
    for place, node in enumerate(order):
        for b in _needed(task, node):
            uses[b].append(place)
    out: list[int] = []
    offsets: dict[int, int] = {}
    spills: list[Spill] = []
    at: dict[int, int] = {}
    away: dict[int, int] = {}
    live: set[int] = set()
    now = peak = 0

    def claim(b: int, held: frozenset[int]) -> int:
        one = task.buffer[b]
        while True:
            there = sorted((at[x], task.buffer[x].size, x) for x in at if task.buffer[x].place == one.place)
            if problem == 1 or (single and one.place in SINGLE and not there):
                return 0
            low = 0
            for offset, size, _ in there:
                if offset - low >= one.size:
                    return low
                low = offset + size
            if low + one.size <= task.capacity[one.place] and not (single and one.place in SINGLE and there):
                return low
            movable = [x for _, _, x in there if x not in held]
            if not movable:
                raise InfeasibleError(f"the buffers of one operation do not fit {one.place}; enlarge it")
            victim = max(movable, key=lambda x: uses[x][0] if uses[x] else 10**9)
            del at[victim]
            away[victim] = len(spills)
            out.append(task.count + 2 * len(spills))
            spills.append(Spill(buffer=victim, offset=0))

    def bring(b: int, held: frozenset[int]) -> None:
        offset = claim(b, held)
        number = away.pop(b)
        spills[number] = Spill(buffer=b, offset=offset)
        out.append(task.count + 2 * number + 1)
        at[b] = offset

    for node in order:
        needed = _needed(task, node)
        held = frozenset(needed)
        for b in needed:
            if b in live:
                if b in away:
                    bring(b, held)
                continue
            one = task.buffer[b]
            at[b] = offsets[b] = claim(b, held)
            live.add(b)
            out.append(one.alloc)
            if one.place in COUNTED:
                now += one.size
                peak = max(peak, now)
        out.append(node)
        for b in needed:
            uses[b].popleft()
        for b in [b for b in needed if not uses[b]]:
            one = task.buffer[b]
            del at[b]
            live.discard(b)
            out.append(one.free)
            now -= one.size if one.place in COUNTED else 0
    for one in task.buffers:
        if not task.spans[one.id]:
            at[one.id] = offsets[one.id] = claim(one.id, frozenset())
            out += [one.alloc, one.free]
            peak = max(peak, now + one.size * (one.place in COUNTED))
            del at[one.id]
    answer = TileAnswer(order=tuple(out), offsets={} if problem == 1 else offsets, spills=tuple(spills))
    return answer, peak, 0 if problem == 1 else _span(task, answer)


def _needed(task: TileTask, node: int) -> list[int]:
    return _spanned(task)[node]


_SPANNED: dict[int, dict[int, list[int]]] = {}


def _spanned(task: TileTask) -> dict[int, list[int]]:
    if id(task) not in _SPANNED:
        _SPANNED.clear()
        found: dict[int, list[int]] = {op.id: [] for op in task.operations}
        for b, nodes in task.spans.items():
            for node in nodes:
                found[node].append(b)
        _SPANNED[id(task)] = found
    return _SPANNED[id(task)]


def _span(task: TileTask, answer: TileAnswer) -> int:
    """The time that the judge finds."""
    end: dict[int, int] = {}
    before: dict[int, list[int]] = {}
    for first, second in task.edges:
        before.setdefault(second, []).append(first)
    claims = {one.alloc: one.id for one in task.buffers}
    frees = {one.free: one.id for one in task.buffers}
    pipe_end = dict.fromkeys(Pipe, 0)
    released = {place: [0] * size for place, size in task.capacity.items()}
    at: dict[int, int] = {}
    since: dict[int, int] = {}
    used: dict[int, int] = {}

    def cells(b: int) -> tuple[list[int], range]:
        one = task.buffer[b]
        return released[one.place], range(at[b], at[b] + one.size)

    for node in answer.order:
        ready = max((end[x] for x in before.get(node, ())), default=0)
        if node in claims:
            b = claims[node]
            at[b] = answer.offsets[b]
            memory, span = cells(b)
            since[b] = end[node] = max(ready, *(memory[c] for c in span))
        elif node in frees:
            b = frees[node]
            end[node] = max(ready, used.get(b, 0), since[b])
            memory, span = cells(b)
            for c in span:
                memory[c] = max(memory[c], end[node])
        elif node in task.operation:
            op = task.operation[node]
            start = max(ready, pipe_end[op.pipe], *(since[b] for b in op.buffers), 0)
            end[node] = pipe_end[op.pipe] = start + op.cycles
            for b in op.buffers:
                used[b] = max(used.get(b, 0), end[node])
        else:
            number, back = divmod(node - task.count, 2)
            b = answer.spills[number].buffer
            cycles = spill_cycles(task.buffer[b].size)
            if back:
                at[b] = answer.spills[number].offset
                memory, span = cells(b)
                start = max(since[b], pipe_end[Pipe.MTE2], *(memory[c] for c in span))
                since[b] = end[node] = pipe_end[Pipe.MTE2] = start + cycles
            else:
                start = max(since[b], used.get(b, 0), pipe_end[Pipe.MTE3])
                end[node] = pipe_end[Pipe.MTE3] = start + (0 if b in task.backed else cycles)
                memory, span = cells(b)
                for c in span:
                    memory[c] = max(memory[c], end[node])
                since[b] = end[node]
    return max(end.values(), default=0)
