"""Least extra traffic of one memory by parts: small sets of operations, each with a model of its own.

Take disjoint sets of operations, the parts, and leave everything else out of an answer. What remains of a part is an
order of its operations in which each of its buffers is kept or spilled between two uses, and the memory holds what each
operation needs: the joint model of sub-problem 2, without addresses. A spill counts for a part when a use of the part
comes before it and one after it. So bounds of parts add up if no spill counts twice: a buffer is charged in the part
with most of its users, and in another one only if either all users in the one wait for all users in the other, or the
other way round. Where it is not charged, each of its users just needs room for it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from formulations.intracore.model import TileModel
from formulations.intracore.reach import ancestors_of
from instances.intracore import Place, TileBuffer, TileOperation, TileTask

SIZES = (16, 20, 12)
"""Most operations of a part; the task is cut up for each in turn."""

PART_S = 2.0
"""Longest search of one part."""

ROUNDS = 6
"""Ways of cutting up that are tried."""


@dataclass(frozen=True)
class _Proven:
    """A part from ``first`` to before ``end`` in the list of operations, what it is charged with, and its bound."""

    first: int
    end: int
    buffers: frozenset[int]
    bound: int


class _Part(TileTask):
    """A part as a task of its own, with prices of spills."""

    prices: dict[int, int]

    def traffic_of_spill(self, buffer: int) -> int:
        return self.prices[buffer]


def parts_bound(task: TileTask, place: Place, deadline: float, sizes: Sequence[int] = SIZES) -> int:
    """Units of extra traffic of a memory, summed over parts; parts with most to keep between uses have a search first.

    The task is cut up for each of the sizes, a few times with other cuts where they are worth much the same; of the
    parts of all of them, those are taken that do not overlap and have the largest sum. A search that ends at the
    deadline still leaves its bound.
    """
    named = {op.id: [b for b in dict.fromkeys(op.buffers) if task.buffer[b].place is place] for op in task.operations}
    total = sum(one.size for one in task.buffers if one.place is place)
    if total <= task.room(place):
        return 0
    parts = _Parts(task, place, named)
    best = 0
    rng = random.Random(0)
    for turn in range(ROUNDS):
        if time.monotonic() > deadline:
            break
        cuts = parts.cut_up(sizes[turn % len(sizes)], rng)
        best = max(best, parts.of_cuts(cuts, deadline))
        best = max(best, parts.of_cuts(parts.heaviest(), deadline))
        if turn == len(sizes) - 1 and not best:
            break
    return best


class _Parts:
    """Parts of a task that have been looked at."""

    def __init__(self, task: TileTask, place: Place, named: dict[int, list[int]]) -> None:
        self.task, self.place, self.named = task, place, named
        self.shared = {b for b, users in task.users.items() if task.buffer[b].place is place and len(users) > 1}
        many = [node for node in sorted(task.order) if len(self.shared & set(named[node])) > 1]
        self.nodes = many or [node for node in sorted(task.order) if self.shared & set(named[node])]
        self.bit, self.above = ancestors_of(task)
        self.proven: dict[tuple[int, int], _Proven] = {}

    def cut_up(self, size: int, rng: random.Random) -> list[tuple[int, int]]:
        """Runs of up to so many operations, by number, with about the most units between uses inside a run."""
        found = []
        for start in range(len(self.nodes)):
            seen: set[int] = set()
            worth = 0
            for end in range(start, min(len(self.nodes), start + size)):
                for buffer in self.shared & set(self.named[self.nodes[end]]):
                    worth += self.task.buffer[buffer].size if buffer in seen else 0
                    seen.add(buffer)
                found.append((start, end + 1, round(worth * rng.uniform(1, 1.1))))
        return _disjoint(len(self.nodes), found)

    def heaviest(self) -> list[tuple[int, int]]:
        """The parts with the largest sum of their bounds."""
        return _disjoint(len(self.nodes), [(one.first, one.end, one.bound) for one in self.proven.values()])

    def of_cuts(self, cuts: Sequence[tuple[int, int]], deadline: float) -> int:
        """The sum of the bounds of disjoint parts."""
        runs = [self.nodes[first:end] for first, end in cuts]
        charged = _charged(runs, self.named, self.shared, self.bit, self.above)
        sizes = {one.id: one.size for one in self.task.buffers}
        found = 0
        jobs = []
        for cut, run, buffers in zip(cuts, runs, charged, strict=True):
            known = self.proven.get(cut)
            if known is not None and known.buffers <= buffers:  # what is charged besides makes it no less
                found += known.bound
                continue
            beside = max(sum(sizes[b] for b in self.named[node] if b not in buffers) for node in run)
            worth = sum(sizes[b] for b in buffers) + beside
            if worth > self.task.capacity[self.place]:
                jobs.append((worth, cut, run, buffers))
        jobs.sort(key=lambda job: -job[0])
        for number, (_, cut, run, buffers) in enumerate(jobs):
            left = min(PART_S, (deadline - time.monotonic()) / (len(jobs) - number))
            if left < 0.05:
                break
            part = _as_task(self.task, self.place, run, buffers, self.named, self.bit, self.above)
            bound = _least(part, left)
            self.proven[cut] = _Proven(*cut, frozenset(buffers), bound)
            found += bound
        return found


def _disjoint(count: int, runs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Runs (first, end, worth) of 0 .. count - 1 that do not overlap and are worth most together."""
    ending: dict[int, list[tuple[int, int]]] = {}
    for first, end, worth in runs:
        ending.setdefault(end, []).append((first, worth))
    best = [0] * (count + 1)
    come: list[int | None] = [None] * (count + 1)
    for end in range(1, count + 1):
        best[end] = best[end - 1]
        for first, worth in ending.get(end, ()):
            if best[first] + worth > best[end]:
                best[end], come[end] = best[first] + worth, first
    found = []
    place = count
    while place:
        start = come[place]
        if start is None:
            place -= 1
        else:
            found.append((start, place))
            place = start
    return found[::-1]


def _charged(
    parts: Sequence[Sequence[int]],
    named: dict[int, list[int]],
    shared: set[int],
    bit: dict[int, int],
    above: dict[int, int],
) -> list[set[int]]:
    """Buffers whose spills each part is charged with."""
    users: dict[int, list[tuple[int, list[int]]]] = {}
    for number, part in enumerate(parts):
        of: dict[int, list[int]] = {}
        for node in part:
            for buffer in named[node]:
                if buffer in shared:
                    of.setdefault(buffer, []).append(node)
        for buffer, nodes in of.items():
            if len(nodes) > 1:
                users.setdefault(buffer, []).append((number, nodes))

    def ahead(one: Sequence[int], other: Sequence[int]) -> bool:
        return all(above[b] >> bit[a] & 1 for a in one for b in other)

    found: list[set[int]] = [set() for _ in parts]
    for buffer, listed in users.items():
        taken: list[list[int]] = []
        for number, nodes in sorted(listed, key=lambda item: -len(item[1])):
            if all(ahead(nodes, other) or ahead(other, nodes) for other in taken):
                taken.append(nodes)
                found[number].add(buffer)
    return found


def _as_task(
    task: TileTask,
    place: Place,
    part: Sequence[int],
    buffers: set[int],
    named: dict[int, list[int]],
    bit: dict[int, int],
    above: dict[int, int],
) -> _Part:
    """The part with its buffers, and one buffer per operation for what else it needs."""
    count = len(part)
    rank = {node: number for number, node in enumerate(part)}
    held = sorted(buffers)
    users = [[rank[node] for node in part if b in named[node]] for b in held]
    sizes = [task.buffer[b].size for b in held]
    for node in part:
        rest = sum(task.buffer[b].size for b in named[node] if b not in buffers)
        if rest:
            users.append([rank[node]])
            sizes.append(rest)
    uses: dict[int, list[int]] = {number: [] for number in range(count)}
    edges = [
        (rank[one], rank[other]) for one in part for other in part if one != other and above[other] >> bit[one] & 1
    ]
    made = []
    for number, nodes in enumerate(users):
        alloc, free = count + 2 * number, count + 2 * number + 1
        made.append(TileBuffer(id=number, place=place, size=sizes[number], alloc=alloc, free=free))
        edges.append((alloc, free))
        for one in nodes:
            uses[one].append(number)
            edges += [(alloc, one), (one, free)]
    operations = [
        TileOperation(id=number, name="PART", pipe=task.operation[node].pipe, cycles=1, buffers=tuple(uses[number]))
        for node, number in rank.items()
    ]
    return _Part(
        name=f"{task.name} part",
        operations=tuple(operations),
        buffers=tuple(made),
        edges=tuple(edges),
        capacity=task.capacity,
        prices={
            number: task.traffic_of_spill(held[number]) if number < len(held) else 1 for number in range(len(made))
        },
    )


def _least(part: _Part, seconds: float) -> int:
    """The search's bound."""
    model = TileModel(part, 2, memory_form="sums")
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.solve(model.model)
    if status == cp_model.UNKNOWN or not math.isfinite(solver.best_objective_bound):
        return 0
    return max(0, math.ceil(solver.best_objective_bound - 1e-6))
