"""Least extra traffic for a fixed order of operations: what stays between uses, and where, proven for that order.

A buffer is resident at each operation that uses it. Between two of its uses it is kept, or it is moved out right after
the first and comes back right before the second; no other moment leaves more room. Memories do not bear on each
other, so each is a problem of its own.

Sets and data
    i          places in the order; u_i units that the operation at place i itself uses of the memory, C its capacity
    g in G     gaps: two uses p < q of a buffer with none between; size z_g, price t_g of a spill
Variables
    y_g        the gap is kept
    a_bi       lowest address of buffer b at its use at place i, where sizes differ
Objective     least sum of t_g (1 - y_g)
Families
    room       u_i + sum of z_g y_g over gaps with p < i < q  <=  C for all i
    address    y_g -> a_bp = a_bq; rectangles of uses (one place wide) and of kept gaps do not overlap

Where all buffers of a memory have one size, the room is all that counts: intervals that fit by number have slots, by
the first that is free. Then the columns of the room are runs of ones, and the problem is one of cheapest flow: as many
units as there are slots run from the first place to the last, along kept gaps or along the line, of which u_i are bound
to the line at place i. Otherwise CP-SAT first solves it without addresses; where the stays of that plan can be packed,
the plan is least; else with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

from ortools.graph.python import min_cost_flow
from ortools.sat.python import cp_model

from formulations.intracore.decisions import Stay, answer_of, in_order
from instances.errors import InfeasibleError
from instances.intracore import SINGLE, Place, TileAnswer, TileTask


@dataclass(frozen=True)
class OrderResult:
    """An answer, its extra traffic, and a bound for all answers in that order."""

    answer: TileAnswer
    traffic: int
    bound: int
    runtime_s: float

    @property
    def optimal(self) -> bool:
        """Whether the bound meets the traffic."""
        return self.traffic == self.bound


@dataclass(frozen=True)
class _Gap:
    """Two uses of a buffer with none between."""

    buffer: int
    first: int
    last: int
    size: int
    price: int


@dataclass
class _Memory:
    """A memory with the uses of its buffers, by place in the order; sizes in units of their common divisor."""

    slots: int
    unit: int
    uses: dict[int, list[int]]
    size: dict[int, int]
    price: dict[int, int]
    needed: list[int]

    @property
    def gaps(self) -> list[_Gap]:
        return [
            _Gap(buffer, first, last, self.size[buffer], self.price[buffer])
            for buffer, places in self.uses.items()
            for first, last in pairwise(places)
        ]


Plan = dict[int, list[tuple[list[int], int]]]
"""Stays of each buffer: places of its uses, and the offset."""


def least_traffic(
    task: TileTask,
    order: Sequence[int],
    time_limit_s: float = 60.0,
    single_l0: bool = False,
    workers: int = 1,
    seed: int = 0,
) -> OrderResult:
    """Spills and offsets of least extra traffic for an order of operations.

    Parameters
    ----------
    order
        All operations, each after what it waits for.
    single_l0
        Whether L0A, L0B and L0C hold one live buffer at a time.

    Raises
    ------
    ValueError
        Where the order is no order of the operations, or an edge ties a buffer to an operation that does not use it.
    InfeasibleError
        Where the buffers of an operation do not fit, or by ``single_l0``.
    """
    begun = time.monotonic()
    rank = _ranks(task, order)
    stays: dict[int, list[Stay]] = {}
    traffic = bound = 0
    for place in Place:
        memory = _memory(task, order, rank, place)
        if memory is None:
            continue
        if single_l0 and place in SINGLE:
            _one_at_a_time(memory, place)
        left = max(0.1, time_limit_s - (time.monotonic() - begun))
        plan, least = _solve(memory, left, workers, seed)
        bound += least
        traffic += _price_of(memory, plan)
        for buffer, listed in plan.items():
            stays[buffer] = [
                Stay(frozenset(order[i] for i in places), offset * memory.unit) for places, offset in listed
            ]
    decisions = in_order(task, order, {buffer: tuple(listed) for buffer, listed in stays.items()})
    return OrderResult(answer_of(task, decisions), traffic, bound, time.monotonic() - begun)


def _ranks(task: TileTask, order: Sequence[int]) -> dict[int, int]:
    rank = {node: i for i, node in enumerate(order)}
    if len(rank) != len(order) or set(rank) != set(task.operation):
        raise ValueError("the order does not hold every operation once")
    for node, before in task.waits.items():
        for other in before:
            if rank[other] > rank[node]:
                raise ValueError(f"node {node} stands before node {other}, which it waits for")
    for buffer, span in task.spans.items():
        if span != frozenset(task.users[buffer]):
            raise ValueError(f"buffer {buffer} waits for an operation that does not use it")
    return rank


def _memory(task: TileTask, order: Sequence[int], rank: dict[int, int], place: Place) -> _Memory | None:
    members = [one for one in task.buffers if one.place is place and task.users[one.id]]
    if not members:
        return None
    unit = gcd(*(one.size for one in members))
    uses = {one.id: sorted(rank[user] for user in task.users[one.id]) for one in members}
    needed = [0] * len(order)
    for one in members:
        for i in uses[one.id]:
            needed[i] += one.size // unit
    slots = task.capacity[place] // unit
    for i, units in enumerate(needed):
        if units > slots:
            short = units * unit
            raise InfeasibleError(
                f"node {order[i]} needs {short} units of {place.value}, which has {task.capacity[place]}; cut it"
            )
    size = {one.id: one.size // unit for one in members}
    price = {one.id: task.traffic_of_spill(one.id) for one in members}
    return _Memory(slots, unit, uses, size, price, needed)


def _one_at_a_time(memory: _Memory, place: Place) -> None:
    lives = sorted((places[0], places[-1], buffer) for buffer, places in memory.uses.items())
    for (_, last, one), (first, _, other) in pairwise(lives):
        if first <= last:
            raise InfeasibleError(f"buffers {one} and {other} of {place.value} are live together; change the order")
    memory.slots = max(memory.slots, *memory.needed)


def _solve(memory: _Memory, seconds: float, workers: int, seed: int) -> tuple[Plan, int]:
    """The stays of all buffers of a memory, and a bound on their traffic."""
    deadline = time.monotonic() + seconds
    if set(memory.size.values()) == {1}:
        least = _flow(memory)
        slotted = _first_fit(memory, least)
        assert slotted is not None
        return slotted, _price(memory, least)
    kept, bound = _choose(memory, seconds / 2, workers, seed)
    plan = None if kept is None else _first_fit(memory, kept)
    if plan is not None and kept is not None and _price(memory, kept) == bound:
        return plan, bound
    better, proven = _pack(memory, kept or set(), max(0.1, deadline - time.monotonic()), workers, seed)
    plans = [found for found in (plan, better) if found is not None] or [_farthest_out(memory, kept or set())]
    return min(plans, key=lambda found: _price_of(memory, found)), max(bound, proven)


def _price_of(memory: _Memory, plan: Plan) -> int:
    return sum(memory.price[buffer] * (len(listed) - 1) for buffer, listed in plan.items())


def _price(memory: _Memory, kept: set[_Gap]) -> int:
    return sum(gap.price for gap in memory.gaps if gap not in kept)


def _flow(memory: _Memory) -> set[_Gap]:
    """Gaps to keep where all sizes are one slot, by cheapest flow."""
    flow = min_cost_flow.SimpleMinCostFlow()
    gaps = [gap for gap in memory.gaps if gap.last > gap.first + 1]
    kept = {gap for gap in memory.gaps if gap.last == gap.first + 1}
    bound = 1 + sum(gap.price for gap in gaps)
    count = len(memory.needed)
    for i, units in enumerate(memory.needed):  # the line past place i; what the operation itself uses stays on it
        flow.add_arc_with_capacity_and_unit_cost(i, i + 1, units, -bound)
        flow.add_arc_with_capacity_and_unit_cost(i, i + 1, memory.slots - units, 0)
    arcs = [flow.add_arc_with_capacity_and_unit_cost(gap.first + 1, gap.last, 1, -gap.price) for gap in gaps]
    flow.set_node_supply(0, memory.slots)
    flow.set_node_supply(count, -memory.slots)
    status = flow.solve()
    assert status == flow.OPTIMAL
    return kept | {gap for gap, arc in zip(gaps, arcs, strict=True) if flow.flow(arc)}


def _room(memory: _Memory, model: cp_model.CpModel, keep: dict[_Gap, cp_model.IntVar]) -> None:
    """u_i + sum of z_g y_g <= C where that is no matter of course; places with the same gaps are told once."""
    begins: dict[int, list[_Gap]] = {}
    for gap in keep:
        begins.setdefault(gap.first + 1, []).append(gap)
    across: list[_Gap] = []
    tightest: dict[tuple[int, ...], tuple[int, list[_Gap]]] = {}
    number = {gap: k for k, gap in enumerate(keep)}
    for i, units in enumerate(memory.needed):
        across = [gap for gap in across if gap.last > i] + begins.get(i, [])
        if units + sum(gap.size for gap in across) <= memory.slots:
            continue
        key = tuple(sorted(number[gap] for gap in across))
        if key not in tightest or tightest[key][0] < units:
            tightest[key] = (units, across)
    for units, there in tightest.values():
        model.add(sum(gap.size * keep[gap] for gap in there) <= memory.slots - units)


def _choose(memory: _Memory, seconds: float, workers: int, seed: int) -> tuple[set[_Gap] | None, int]:
    """Gaps to keep without addresses, and the bound on the traffic."""
    model = cp_model.CpModel()
    gaps = memory.gaps
    keep = {gap: model.new_bool_var("") for gap in gaps if gap.last > gap.first + 1}
    _room(memory, model, keep)
    model.minimize(sum(gap.price * (1 - flag) for gap, flag in keep.items()))
    for flag in keep.values():
        model.add_hint(flag, 0)
    solver = _solver(seconds, workers, seed)
    status = solver.solve(model)
    bound = max(0, round(solver.best_objective_bound)) if status != cp_model.UNKNOWN else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, bound
    chosen = {gap for gap, flag in keep.items() if solver.value(flag)}
    return chosen | {gap for gap in gaps if gap.last == gap.first + 1}, bound


def _solver(seconds: float, workers: int, seed: int) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    solver.parameters.max_time_in_seconds = max(0.1, seconds)
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    return solver


def _runs(memory: _Memory, kept: Callable[[_Gap], bool]) -> list[tuple[int, int, int, list[int]]]:
    """Stays as (first place, last place, buffer, uses)."""
    found = []
    for buffer, places in memory.uses.items():
        run = [places[0]]
        for first, last in pairwise(places):
            if not kept(_Gap(buffer, first, last, memory.size[buffer], memory.price[buffer])):
                found.append((run[0], run[-1], buffer, run))
                run = []
            run.append(last)
        found.append((run[0], run[-1], buffer, run))
    return found


def _first_fit(memory: _Memory, kept: set[_Gap]) -> Plan | None:
    """Stays at the lowest offset that is free, by begin or by size and length; ``None`` where they do not fit so."""
    runs = _runs(memory, kept.__contains__)
    uniform = set(memory.size.values()) == {1}
    rules: list[Callable[[tuple[int, int, int, list[int]]], tuple[int, ...]]] = [lambda run: (run[0], run[2])]
    if not uniform:
        rules.append(lambda run: (-memory.size[run[2]], run[0]))
        rules.append(lambda run: (-(run[1] - run[0]), run[0]))
        rules.append(lambda run: (-(run[1] - run[0] + 1) * memory.size[run[2]], run[0]))
    for rule in rules:
        plan = _greedy(memory, sorted(runs, key=rule), uniform)
        if plan is not None:
            return plan
    return None


def _greedy(memory: _Memory, runs: list[tuple[int, int, int, list[int]]], uniform: bool) -> Plan | None:
    found: list[tuple[int, int, int, int]] = []  # first, last, low, high
    plan: Plan = {buffer: [] for buffer in memory.uses}
    until = [-1] * memory.slots
    for first, last, buffer, uses in runs:
        size = memory.size[buffer]
        if uniform:
            low = next(slot for slot, end in enumerate(until) if end < first)
            until[low] = last
        else:
            taken = sorted((low, high) for f, e, low, high in found if f <= last and first <= e)
            low = 0
            for start, high in taken:
                if start - low >= size:
                    break
                low = max(low, high)
            if low + size > memory.slots:
                return None
            found.append((first, last, low, low + size))
        plan[buffer].append((uses, low))
    for listed in plan.values():
        listed.sort()
    return plan


def _farthest_out(memory: _Memory, kept: set[_Gap]) -> Plan:
    """A plan that always is: stays of gaps that are to be kept, but for those that end when no room is left.

    Where a buffer finds no room, whoever has its next use farthest away goes; in the end, all that the operation
    uses is put down anew, side by side.
    """
    plan: Plan = {buffer: [] for buffer in memory.uses}
    after = {(buffer, i): j for buffer, places in memory.uses.items() for i, j in pairwise(places)}
    used: dict[int, list[int]] = {}
    for buffer, places in memory.uses.items():
        for i in places:
            used.setdefault(i, []).append(buffer)
    at: dict[int, int] = {}  # resident buffers
    last: dict[int, int] = {}

    def hole(size: int) -> int | None:
        low = 0
        for buffer in sorted(at, key=at.__getitem__):
            if at[buffer] - low >= size:
                return low
            low = at[buffer] + memory.size[buffer]
        return low if low + size <= memory.slots else None

    for i, named in sorted(used.items()):
        mine = set(named)
        new = sorted((b for b in named if b not in at), key=lambda b: -memory.size[b])
        begun = set(new)
        while new:
            low = hole(memory.size[new[0]])
            if low is not None:
                at[new.pop(0)] = low
                continue
            others = [b for b in at if b not in mine]
            if others:
                del at[max(others, key=lambda b: after[b, last[b]])]
                continue
            at.clear()
            begun, new = mine, sorted(named)
        for buffer in named:
            if buffer in begun:
                plan[buffer].append(([], at[buffer]))
            plan[buffer][-1][0].append(i)
            last[buffer] = i
            j = after.get((buffer, i))
            if j is None or (j > i + 1 and _Gap(buffer, i, j, memory.size[buffer], memory.price[buffer]) not in kept):
                del at[buffer]
    return plan


def _pack(memory: _Memory, hint: set[_Gap], seconds: float, workers: int, seed: int) -> tuple[Plan | None, int]:
    """Stays with addresses, and the bound on the traffic."""
    model = cp_model.CpModel()
    keep: dict[_Gap, cp_model.IntVar] = {}
    x, y = [], []
    at: dict[tuple[int, int], cp_model.IntVar] = {}
    for buffer, places in memory.uses.items():
        size = memory.size[buffer]
        for i in places:
            at[buffer, i] = model.new_int_var(0, memory.slots - size, f"a{buffer}_{i}")
            x.append(model.new_fixed_size_interval_var(i, 1, ""))
            y.append(model.new_fixed_size_interval_var(at[buffer, i], size, ""))
    for gap in memory.gaps:
        flag = keep[gap] = model.new_bool_var(f"y{gap.buffer}_{gap.first}")
        model.add(at[gap.buffer, gap.first] == at[gap.buffer, gap.last]).only_enforce_if(flag)
        model.add_hint(flag, gap in hint)
        if gap.last > gap.first + 1:
            width = gap.last - gap.first - 1
            x.append(model.new_optional_fixed_size_interval_var(gap.first + 1, width, flag, ""))
            y.append(model.new_optional_fixed_size_interval_var(at[gap.buffer, gap.first], gap.size, flag, ""))
    model.add_no_overlap_2d(x, y)
    _room(memory, model, {gap: flag for gap, flag in keep.items() if gap.last > gap.first + 1})
    model.minimize(sum(gap.price * (1 - flag) for gap, flag in keep.items()))
    solver = _solver(seconds, workers, seed)
    status = solver.solve(model)
    bound = max(0, round(solver.best_objective_bound)) if status != cp_model.UNKNOWN else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, bound
    plan: Plan = {buffer: [] for buffer in memory.uses}
    for _, _, buffer, uses in _runs(memory, lambda gap: bool(solver.value(keep[gap]))):
        plan[buffer].append((uses, solver.value(at[buffer, uses[0]])))
    for listed in plan.values():
        listed.sort()
    return plan, bound
