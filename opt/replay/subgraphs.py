"""Judge of the two-level graph scheduling problem: every step tile by tile, rectangle by rectangle, as the rules say.

Shares nothing with the solvers' price: slices are concrete rectangles of tensors here, and what is resident is a set.
Rules are named as in the statement (R1 to R12), open questions as options of :class:`Rules` (A1 to A8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from instances.subgraphs import Kind, SubgraphProblem, SubgraphSolution, SubgraphStep

Rect = tuple[int, int, int, int]
"""Rows from, to, columns from, to."""

Slice = tuple[int, str, Rect]
"""Tensor, role (left, right or elementwise), rectangle."""


@dataclass(frozen=True)
class Rules:
    """How the statement's open questions are answered; defaults as the published results demand.

    Parameters
    ----------
    k_cap
        A1: whether the depth of a tile is limited by the native granularity.
    acc
        A2: whether the accumulator of a split product that is used inside takes room of its own, or that of the output.
    inner
        A3: what an inner operator costs: its base cost per tile of the step's grid, per tile of its own result
        (physical), or per tile it delivers, again and again.
    pw
        A4: when an elementwise operator behind a split product is charged: in the last, the first, or every depth step.
    retain_out
        A5: room of a tensor that is to stay: all of it, or the slice that is written.
    carry
        A6: whether a tensor that stayed may be kept once more.
    shared_input
        A8: whether operators that share an input alone are connected.
    """

    k_cap: Literal["native", "none"] = "native"
    acc: Literal["own", "overlap"] = "own"
    inner: Literal["grid", "own", "strict"] = "grid"
    pw: Literal["last", "first", "spread"] = "last"
    retain_out: Literal["full", "slice"] = "full"
    carry: bool = False
    shared_input: bool = True


@dataclass(frozen=True)
class StepVerdict:
    """Latency of a step, elements it needs at most, elements it moves, and what is wrong with it."""

    latency: float
    working_set: int
    traffic: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class SolutionVerdict:
    """All steps; the latency is their sum."""

    steps: tuple[StepVerdict, ...]
    faults: tuple[str, ...]

    @property
    def latency(self) -> float:
        """Sum of the steps' latencies."""
        return math.fsum(step.latency for step in self.steps)

    @property
    def valid(self) -> bool:
        """Whether no rule is broken."""
        return not self.faults


def judge_solution(problem: SubgraphProblem, solution: SubgraphSolution, rules: Rules | None = None) -> SolutionVerdict:
    """Every rule that a solution breaks, and what it costs."""
    rules = rules or Rules()
    stored = {t for t in range(len(problem.widths)) if t not in problem.maker}
    resident: frozenset[int] = frozenset()
    done: set[int] = set()
    verdicts, faults = [], []
    for number, step in enumerate(solution.steps):
        wrong = _form_faults(problem, step)
        if wrong:
            verdicts.append(StepVerdict(0.0, 0, 0, tuple(wrong)))
            faults += [f"step {number}: {text}" for text in wrong]
            resident = frozenset()
            continue
        retained = frozenset(step.retain)
        made = {problem.out(op) for op in step.ops}
        external = {t for op in step.ops for t in problem.inputs[op]} - made
        for tensor in sorted(external - stored - resident):
            wrong.append(f"R2: tensor {tensor} is neither in slow memory nor retained by the step before")
        for tensor in sorted(retained - made):
            if not (rules.carry and tensor in resident):
                wrong.append(f"R9: tensor {tensor} is retained, but not made in this step")
        verdict = judge_step(problem, step, resident, rules)
        verdicts.append(StepVerdict(verdict.latency, verdict.working_set, verdict.traffic, (*wrong, *verdict.faults)))
        faults += [f"step {number}: {text}" for text in (*wrong, *verdict.faults)]
        used = {t for op in step.ops for t in problem.inputs[op]}
        stored |= {t for t in made if t not in used and t not in retained}
        resident = retained
        done |= set(step.ops)
    missing = sorted(set(range(problem.count)) - done)
    faults += [f"R1: operator {op} is executed in no step" for op in missing]
    faults += [
        f"R9: tensor {t} is a result of the graph and is evicted by no step" for t in sorted(problem.results - stored)
    ]
    return SolutionVerdict(tuple(verdicts), tuple(faults))


def _form_faults(problem: SubgraphProblem, step: SubgraphStep) -> list[str]:
    """What makes a step impossible to look at."""
    wrong = []
    if not step.ops:
        wrong.append("R1: a step without operators")
    wrong += [f"R1: operator {op} does not exist" for op in step.ops if not 0 <= op < problem.count]
    if len(set(step.ops)) < len(step.ops):
        wrong.append("R1: an operator occurs twice in one step")
    if min(step.granularity) < 1:
        wrong.append(f"R5: granularity {list(step.granularity)} is below 1")
    wrong += [f"R9: tensor {t} does not exist" for t in step.retain if not 0 <= t < len(problem.widths)]
    return wrong


def judge_step(problem: SubgraphProblem, step: SubgraphStep, resident: frozenset[int], rules: Rules) -> StepVerdict:
    """One step with what the step before left."""
    return _Step(problem, step, resident, rules).verdict()


class _Step:
    def __init__(self, problem: SubgraphProblem, step: SubgraphStep, resident: frozenset[int], rules: Rules) -> None:
        self.problem, self.step, self.rules = problem, step, rules
        self.resident, self.retained = resident, frozenset(step.retain)
        self.w, self.h, self.k = step.granularity
        self.ops = set(step.ops)
        self.made = {problem.out(op): op for op in step.ops}
        self.used = {t for op in step.ops for t in problem.inputs[op]}
        self.sinks = [op for op in step.ops if problem.out(op) not in self.used]
        self.matmuls = [op for op in step.ops if problem.op_types[op] is Kind.MATMUL]
        self.below = self._reach()
        self.loop = [op for op in self.matmuls if not any(self._leads(op, other) for other in self.matmuls)]
        self.faults: list[str] = []
        self.peak = 0

    def _reach(self) -> dict[int, set[int]]:
        """Operators of the step downstream of each."""
        below: dict[int, set[int]] = {}
        for op in reversed(self.problem.order):
            if op in self.ops:
                after = [o for o in self.problem.after[op] if o in self.ops]
                below[op] = set(after).union(*(below[o] for o in after))
        return below

    def _leads(self, op: int, other: int) -> bool:
        return other in self.below[op]

    def verdict(self) -> StepVerdict:
        """Checks, then the walk over all tiles."""
        self._check_form()
        if self.faults:
            return StepVerdict(0.0, 0, 0, tuple(self.faults))
        latency, traffic = self._walk()
        capacity = self.problem.fast_memory_capacity
        if self.peak > capacity:
            self.faults.append(f"R8: needs {self.peak} elements of fast memory, {self.peak - capacity} too many")
        return StepVerdict(latency, self.peak, traffic, tuple(self.faults))

    def _check_form(self) -> None:
        p = self.problem
        position = {op: i for i, op in enumerate(self.step.ops)}
        for op in self.step.ops:
            if any(position[o] > position[op] for o in p.before[op] if o in position):
                self.faults.append(f"R2: operator {op} is listed before what it reads")
        if not self._connected():
            self.faults.append("R3: the operators are not connected")
        shapes = {p.shape(p.out(op)) for op in self.sinks}
        if len(shapes) > 1:
            self.faults.append(f"R4: results of different shapes {sorted(shapes)}")
        native_w, native_h = p.native_granularity
        if self.w > native_w or self.h > native_h:
            self.faults.append(f"R5: tile {self.w} x {self.h} exceeds the native {native_w} x {native_h}")
        if self.matmuls and self.rules.k_cap == "native" and self.k > native_w:
            self.faults.append(f"R5: depth {self.k} exceeds the native {native_w}")
        depths = {p.depth(op) for op in self.matmuls}
        if depths and self.k > min(depths):
            self.faults.append(f"R5: depth {self.k} exceeds that of a product, {min(depths)}")
        loop_depths = {p.depth(op) for op in self.loop}
        if len(loop_depths) > 1:
            self.faults.append(f"R7: products of different depths {sorted(loop_depths)} run the depth loop")
        self.depth = max(loop_depths, default=1)
        self.split = bool(self.loop) and self.k < self.depth
        if self.split:
            self._check_prologues()
        self.width, self.height = next(iter(shapes))
        self.nx, self.ny = -(-self.width // self.w), -(-self.height // self.h)
        order = self.step.traversal
        if order is not None and sorted(order) != list(range(self.nx * self.ny)):
            self.faults.append(f"R4: the traversal is no permutation of {self.nx * self.ny} tiles")

    def _check_prologues(self) -> None:
        p = self.problem
        for op in self.matmuls:
            for side, tensor in zip(("left", "right"), p.inputs[op], strict=True):
                maker = self.made.get(tensor)
                if maker is None or p.op_types[maker] is not Kind.POINTWISE:
                    continue
                have, what = (self.w, "width") if side == "left" else (self.h, "height")
                if have < p.depth(op):
                    self.faults.append(
                        f"R6: operator {maker} feeds the {side} input of split product {op}: tile {what} {have} "
                        f"is below its depth {p.depth(op)}"
                    )

    def _connected(self) -> bool:
        p = self.problem
        touching: dict[int, set[int]] = {}
        for op in self.ops:
            for tensor in p.inputs[op]:
                if tensor in self.made:
                    touching.setdefault(op, set()).add(self.made[tensor])
                    touching.setdefault(self.made[tensor], set()).add(op)
                elif self.rules.shared_input:
                    for other in p.readers[tensor]:
                        if other in self.ops and other != op:
                            touching.setdefault(op, set()).add(other)
        reached, stack = set(), [next(iter(self.ops))]
        while stack:
            op = stack.pop()
            if op not in reached:
                reached.add(op)
                stack += touching.get(op, ())
        return reached == self.ops

    # ---------------------------------------------------------------------- the walk

    def _walk(self) -> tuple[float, int]:
        order = self.step.traversal if self.step.traversal is not None else range(self.nx * self.ny)
        steps = -(-self.depth // self.k) if self.split else 1
        latency, traffic = 0.0, 0
        previous: set[Slice] = set()
        rate = self.problem.slow_memory_bandwidth
        for tile in order:
            i, j = divmod(tile, self.nx)
            rect = (i * self.h, min((i + 1) * self.h, self.height), j * self.w, min((j + 1) * self.w, self.width))
            for part in range(steps):
                span = (part * self.k, min((part + 1) * self.k, self.depth)) if self.split else (0, self.depth)
                last = part == steps - 1
                held = self._needs(rect, span, last)
                loaded = sum(_area(rectangle) for tensor, role, rectangle in held - previous)
                evicted = 0
                if last:
                    evicted = sum(_area(rect) for op in self.sinks if self.problem.out(op) not in self.retained)
                traffic += loaded + evicted
                compute = self._compute(rect, (span[1] - span[0]) / self.depth if self.loop else 1.0, part, steps)
                latency += max(compute, (loaded + evicted) / rate)
                previous = held
            self._measure(rect, steps)
        return latency, traffic

    def _needs(self, rect: Rect, span: tuple[int, int], last: bool) -> set[Slice]:
        """External slices that a depth step of a tile needs, without what is resident as a whole."""
        found: set[Slice] = set()
        for op in self.sinks:
            self._collect(op, rect, span, last, found)
        return {item for item in found if item[0] not in self.resident}

    def _collect(self, op: int, rect: Rect, span: tuple[int, int], last: bool, found: set[Slice]) -> None:
        """From a result back: elementwise operators behind the depth loop act in its last step alone."""
        p = self.problem
        if op in self.loop:
            left, right = p.inputs[op]
            self._need(left, "left", (rect[0], rect[1], *span), found)
            self._need(right, "right", (*span, rect[2], rect[3]), found)
            return
        behind = any(self._leads(other, op) for other in self.loop)
        for tensor in p.inputs[op]:
            maker = self.made.get(tensor)
            if maker is not None and (maker in self.loop or any(self._leads(o, maker) for o in self.loop)):
                self._collect(maker, rect, span, last, found)
            elif last or not behind:
                self._need(tensor, "pointwise", rect, found)

    def _need(self, tensor: int, role: str, rect: Rect, found: set[Slice]) -> None:
        """A rectangle of a tensor: loaded from outside, or made of rectangles of others."""
        p = self.problem
        maker = self.made.get(tensor)
        if maker is None:
            found.add((tensor, role, rect))
            return
        if p.op_types[maker] is Kind.POINTWISE:
            if self.split:  # it runs once per tile, over the whole depth
                rect = (rect[0], rect[1], 0, p.widths[tensor]) if role == "left" else rect
                rect = (0, p.heights[tensor], rect[2], rect[3]) if role == "right" else rect
            for inner in p.inputs[maker]:
                self._need(inner, role if inner in self.made else "pointwise", rect, found)
            return
        left, right = p.inputs[maker]
        depth = p.depth(maker)
        self._need(left, "left", (rect[0], rect[1], 0, depth), found)
        self._need(right, "right", (0, depth, rect[2], rect[3]), found)

    def _compute(self, rect: Rect, share: float, part: int, steps: int) -> float:
        total = 0.0
        for op in self.step.ops:
            cost = self.problem.base_costs[op] * self._tiles(op)
            if self.problem.op_types[op] is Kind.MATMUL:
                total += cost * share
                continue
            behind = any(self._leads(other, op) for other in self.loop)
            if behind and self.rules.pw == "spread":
                total += cost * share
            elif part == (steps - 1 if behind and self.rules.pw == "last" else 0):
                total += cost
        return total

    def _tiles(self, op: int) -> float:
        """Base costs of an operator per tile of the grid."""
        if self.rules.inner == "grid":
            return 1.0
        p = self.problem
        own = -(-p.widths[p.out(op)] // self.w) * -(-p.heights[p.out(op)] // self.h)
        grid = self.nx * self.ny
        if self.rules.inner == "own" or op in self.sinks or op in self.loop:
            return own / grid
        return max(1.0, own / max(self.nx, self.ny))

    def _measure(self, rect: Rect, steps: int) -> None:
        """Fast memory of a tile: slices of all depth steps by their full size, results, accumulators, what stays."""
        p = self.problem
        full = (rect[0], rect[0] + min(self.h, self.height), rect[2], rect[2] + min(self.w, self.width))
        span = (0, self.k) if self.split else (0, self.depth)
        slices = self._needs(full, span, True)
        room = sum(_area(rectangle) for _, _, rectangle in slices)
        tile = min(self.h, self.height) * min(self.w, self.width)
        room += sum(tile for op in self.sinks if p.out(op) not in self.retained or self.rules.retain_out == "slice")
        if self.split and self.rules.acc == "own":
            room += sum(tile for op in self.loop if op not in self.sinks)
        kept = self.retained if self.rules.retain_out == "full" else self.retained - {p.out(op) for op in self.sinks}
        room += sum(p.size(t) for t in self.resident) + sum(p.size(t) for t in kept - self.resident)
        self.peak = max(self.peak, room)


def _area(rect: Iterable[int]) -> int:
    top, bottom, left, right = rect
    return (bottom - top) * (right - left)
