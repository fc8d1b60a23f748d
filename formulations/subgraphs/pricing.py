"""What a step costs: the best tile, depth and order of tiles for a group of operators, in closed form.

A group's slices fall into few kinds by the ranges they span: rows ``h`` of a tile, columns ``w``, a part ``k`` of the
depth, or all. :class:`Profile` adds them up once, and everything else follows: fast memory is a polynomial in h, w and
k, and tiles differ only in whether they are at the rim and in what the tile before left behind. Groups of the same
profile cost the same, so each profile is priced once, however many groups of a graph have it.

Tiles are cut evenly: for each number of columns and rows the least w and h that give it, since fewer tiles never cost
more compute and smaller ones never need less traffic. They need not divide the result. The depth is as large as fits:
splitting further only adds steps. Orders are the two snakes, which reuse all that rasters do and one operand at each
turn besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from instances.subgraphs import Kind, SubgraphProblem

MOST_CUTS = 32
"""Numbers of rows, or of columns, of tiles that are looked at."""


@dataclass(frozen=True)
class Profile:
    """All that the price of a step depends on.

    ``by_row`` and ``by_column``: elements per row of h, per column of w, of slices that span all of the other axis;
    ``tiles`` and ``tail``: slices of a whole tile, needed from the start, or in the last depth step alone;
    ``fixed``: elements that do not depend on the tile; ``row_parts``, ``column_parts``: slices of h by k and of k by w;
    ``flat_parts``: elements per unit of k of slices that span all of the other axis. ``outs``: results that leave;
    ``sums``: accumulators; ``kept``: elements that stay whole. ``least_w``, ``least_h``: what a prologue demands.
    """

    width: int
    height: int
    depth: int
    most_k: int
    split: bool
    product_cost: float
    first_cost: float
    last_cost: float
    by_row: int
    by_column: int
    tiles: int
    tail: int
    fixed: int
    row_parts: int
    column_parts: int
    flat_parts: int
    outs: int
    sums: int
    kept: int
    least_w: int
    least_h: int


SliceKey = tuple[int, str, str, str, bool]
"""Tensor, role, span of its rows (h, k, all), of its columns (w, k, all), whether only the last depth step needs it."""


@dataclass(frozen=True)
class _Form:
    """What a group is: shapes, costs, and its slices where the depth is whole and where it is split."""

    width: int
    height: int
    depth: int
    most_k: int
    product_cost: float
    first_cost: float
    last_cost: float
    slices: tuple[tuple[SliceKey, ...] | None, tuple[SliceKey, ...] | None]
    sinks: tuple[int, ...]
    sums: int
    least_w: int
    least_h: int


@dataclass(frozen=True)
class Price:
    """Latency of a step and how it is had: tile, depth, and whether rows (or columns) of tiles are walked."""

    latency: float
    granularity: tuple[int, int, int]
    along_rows: bool


class Pricer:
    """Prices groups of one problem."""

    def __init__(self, problem: SubgraphProblem) -> None:
        self.problem = problem
        self.capacity = problem.fast_memory_capacity
        self.rate = float(problem.slow_memory_bandwidth)
        self.native = problem.native_granularity
        self._prices: dict[Profile, Price | None] = {}
        self._forms: dict[frozenset[int], _Form | None] = {}
        self._known: dict[tuple[frozenset[int], frozenset[int], frozenset[int]], Price | None] = {}

    def price(self, ops: frozenset[int], resident: frozenset[int], retained: frozenset[int]) -> Price | None:
        """The best way to run a group with some tensors resident, leaving some; ``None`` where there is none."""
        key = (ops, resident, retained)
        if key not in self._known:
            best: Price | None = None
            for split in (False, True):
                profile = self.profile(ops, resident, retained, split)
                if profile is None:
                    continue
                if profile not in self._prices:
                    self._prices[profile] = best_tile(profile, self.capacity, self.rate, self.native)
                found = self._prices[profile]
                if found is not None and (best is None or found.latency < best.latency):
                    best = found
            self._known[key] = best
        return self._known[key]

    def may_run(self, ops: frozenset[int]) -> bool:
        """Whether operators may be a step at all, whatever fits."""
        if ops not in self._forms:
            self._forms[ops] = self._form(ops)
        return self._forms[ops] is not None

    @property
    def priced(self) -> int:
        """Profiles priced so far."""
        return len(self._prices)

    def profile(
        self, ops: frozenset[int], resident: frozenset[int], retained: frozenset[int], split: bool
    ) -> Profile | None:
        """What a group's price depends on; ``None`` where it may not run in one step, or not split (not whole)."""
        form = self._forms[ops] if self.may_run(ops) else None
        if form is None or form.slices[split] is None:
            return None
        p = self.problem
        return Profile(
            width=form.width,
            height=form.height,
            depth=form.depth,
            most_k=form.most_k,
            split=split,
            product_cost=form.product_cost,
            first_cost=form.first_cost,
            last_cost=form.last_cost,
            **_counted(p, form.slices[split] or (), resident),
            outs=sum(t not in retained for t in form.sinks),
            sums=form.sums if split else 0,
            kept=sum(map(p.size, resident | retained)),
            least_w=form.least_w if split else 1,
            least_h=form.least_h if split else 1,
        )

    def _form(self, ops: frozenset[int]) -> _Form | None:
        """What a group is, whatever stays around it; ``None`` where it may not be a step."""
        p = self.problem
        made = {p.out(op): op for op in ops}
        used = {t for op in ops for t in p.inputs[op]}
        sinks = [op for op in ops if p.out(op) not in used]
        shapes = {p.shape(p.out(op)) for op in sinks}
        if len(shapes) != 1 or not connected(p, ops):
            return None
        matmuls = [op for op in ops if p.op_types[op] is Kind.MATMUL]
        below = _below(p, ops)
        loop = [op for op in matmuls if not any(o in below[op] for o in matmuls)]
        depths = {p.depth(op) for op in loop}
        if len(depths) > 1:
            return None
        depth = max(depths, default=1)
        most_k = min([self.native[0], *(p.depth(op) for op in matmuls)], default=1)
        least_w = least_h = 1
        for op in matmuls:
            left, right = p.inputs[op]
            if left in made and p.op_types[made[left]] is Kind.POINTWISE:
                least_w = max(least_w, p.depth(op))
            if right in made and p.op_types[made[right]] is Kind.POINTWISE:
                least_h = max(least_h, p.depth(op))
        behind = {op for op in ops if p.op_types[op] is Kind.POINTWISE and any(op in below[o] for o in loop)}
        whole = None if loop and depth > most_k else tuple(_slices(p, made, sinks, set(loop), below, False))
        width, height = next(iter(shapes))
        return _Form(
            width=width,
            height=height,
            depth=depth,
            most_k=most_k,
            product_cost=math.fsum(p.base_costs[op] for op in matmuls),
            first_cost=math.fsum(p.base_costs[op] for op in ops - behind - set(matmuls)),
            last_cost=math.fsum(p.base_costs[op] for op in behind),
            slices=(whole, tuple(_slices(p, made, sinks, set(loop), below, True)) if loop and depth > 1 else None),
            sinks=tuple(p.out(op) for op in sinks),
            sums=sum(op not in sinks for op in loop),
            least_w=least_w,
            least_h=least_h,
        )


def connected(problem: SubgraphProblem, ops: frozenset[int]) -> bool:
    """Whether operators hang together through tensors made or read in common (rule R3)."""
    if len(ops) == 1:
        return True
    by_tensor: dict[int, list[int]] = {}
    for op in ops:
        for tensor in (*problem.inputs[op], problem.out(op)):
            by_tensor.setdefault(tensor, []).append(op)
    reached: set[int] = set()
    stack = [next(iter(ops))]
    while stack:
        op = stack.pop()
        if op in reached:
            continue
        reached.add(op)
        for tensor in (*problem.inputs[op], problem.out(op)):
            stack += [o for o in by_tensor[tensor] if o not in reached]
    return len(reached) == len(ops)


def _below(problem: SubgraphProblem, ops: frozenset[int]) -> dict[int, set[int]]:
    """Operators of a group downstream of each, within it."""
    below: dict[int, set[int]] = {}

    def visit(op: int) -> set[int]:
        if op not in below:
            inner = [o for o in problem.after[op] if o in ops]
            below[op] = set(inner).union(*(visit(o) for o in inner))
        return below[op]

    for op in ops:
        visit(op)
    return below


def _slices(
    p: SubgraphProblem, made: dict[int, int], sinks: list[int], loop: set[int], below: dict[int, set[int]], split: bool
) -> set[SliceKey]:
    """The distinct external slices of a group, by the rules R6 and R7."""
    found: set[SliceKey] = set()
    part = "k" if split else "all"
    behind = {op for op in below if any(op in below[o] for o in loop)} | loop

    def need(tensor: int, role: str, rows: str, columns: str, late: bool) -> None:
        maker = made.get(tensor)
        if maker is None:
            found.add((tensor, role, rows, columns, late))
            return
        if p.op_types[maker] is Kind.POINTWISE:
            if split:  # it runs once per tile, over the whole depth
                columns = "all" if role == "left" else columns
                rows = "all" if role == "right" else rows
            for inner in p.inputs[maker]:
                need(inner, role if inner in made else "pointwise", rows, columns, late)
            return
        left, right = p.inputs[maker]
        need(left, "left", rows, "all", late)
        need(right, "right", "all", columns, late)

    seen: set[int] = set()

    def collect(op: int) -> None:
        if op in seen:
            return
        seen.add(op)
        if op in loop:
            left, right = p.inputs[op]
            need(left, "left", "h", part, False)
            need(right, "right", part, "w", False)
            return
        late = op in behind and split
        for tensor in p.inputs[op]:
            maker = made.get(tensor)
            if maker is not None and maker in behind:
                collect(maker)
            else:
                need(tensor, "pointwise", "h", "w", late)

    for op in sinks:
        collect(op)
    return {(t, role, r, c, late) for t, role, r, c, late in found if not (late and (t, role, r, c, False) in found)}


def _counted(p: SubgraphProblem, slices: Iterable[SliceKey], resident: frozenset[int]) -> dict[str, int]:
    """Slices added up by kind, without those of tensors that are resident as a whole."""
    names = ("by_row", "by_column", "tiles", "tail", "fixed", "row_parts", "column_parts", "flat_parts")
    count = dict.fromkeys(names, 0)
    for tensor, _role, rows, columns, late in slices:
        if tensor in resident:
            continue
        width, height = p.shape(tensor)
        match rows, columns:
            case "h", "w":
                count["tail" if late else "tiles"] += 1
            case "h", "all":
                count["by_row"] += width
            case "all", "w":
                count["by_column"] += height
            case "h", "k":
                count["row_parts"] += 1
            case "k", "w":
                count["column_parts"] += 1
            case "all", "k":
                count["flat_parts"] += height
            case "k", "all":
                count["flat_parts"] += width
            case _:
                count["fixed"] += width * height
    return count


@lru_cache(maxsize=4096)
def _cuts(extent: int, native: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of tiles along an axis, and the size of one, evenly cut."""
    fewest = -(-extent // native)
    counts, sizes = [], []
    last = None
    for count in range(fewest, extent + 1):
        size = -(-extent // count)
        if size == last:
            continue
        counts.append(-(-extent // size))
        sizes.append(size)
        last = size
        if len(sizes) == MOST_CUTS:
            break
    return np.array(counts), np.array(sizes)


def best_tile(profile: Profile, capacity: int, rate: float, native: tuple[int, int]) -> Price | None:
    """The cheapest tile, depth and order of tiles that fit; ``None`` where none does."""
    nx, w = _cuts(profile.width, native[0])
    ny, h = _cuts(profile.height, native[1])
    nx, ny = (grid.ravel() for grid in np.meshgrid(nx, ny, indexing="ij"))
    w, h = (grid.ravel() for grid in np.meshgrid(w, h, indexing="ij"))
    tiles_held = profile.tiles + profile.tail + profile.outs + profile.sums
    room = capacity - profile.kept - profile.fixed - h * profile.by_row - w * profile.by_column - h * w * tiles_held
    fits = (room >= 0) & (w >= profile.least_w) & (h >= profile.least_h)
    if profile.split:
        per_k = h * profile.row_parts + w * profile.column_parts + profile.flat_parts
        most = min(profile.most_k, profile.depth - 1)
        k = np.minimum(most, room // np.maximum(per_k, 1))
        fits &= k >= 1
    else:
        k = np.full_like(w, profile.depth)
    if not fits.any():
        return None
    keep = _worth_it(nx, ny, fits)
    nx, ny, w, h, k = (array[keep] for array in (nx, ny, w, h, k))
    if profile.split:  # as deep as fits, and the same number of depth steps cut evenly
        even = -(-profile.depth // -(-profile.depth // k))
        nx, ny, w, h = (np.concatenate((array, array)) for array in (nx, ny, w, h))
        k = np.concatenate((k, even))
    best: Price | None = None
    for along_rows in (True, False):
        latency = _latency(profile, nx, ny, w, h, k, rate, along_rows)
        place = int(np.argmin(latency))
        if best is None or latency[place] < best.latency:
            tile = (int(w[place]), int(h[place]), int(k[place]))
            best = Price(float(latency[place]), tile, along_rows)
    return best


NEXT_BEST = 2
"""Numbers of rows of tiles that are looked at for each number of columns: the fewest that fit."""


def _worth_it(nx: np.ndarray, ny: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Indices of the fitting tiles with the fewest rows for each number of columns, and a few more."""
    columns = len(np.unique(nx))
    table = fits.reshape(columns, -1)  # rows of one number of columns, fewest rows of tiles first
    first = table & (np.cumsum(table, axis=1) <= NEXT_BEST)
    return np.flatnonzero(first.ravel())


def _latency(
    f: Profile, nx: np.ndarray, ny: np.ndarray, w: np.ndarray, h: np.ndarray, k: np.ndarray, rate: float, rows: bool
) -> np.ndarray:
    """Time of all tiles in a snake along rows, or along columns, for arrays of tiles."""
    by_row, by_column = float(f.by_row), float(f.by_column)
    row_parts, column_parts = float(f.row_parts), float(f.column_parts)
    width, height = f.width, f.height
    if not rows:  # the same walk on the transposed problem
        nx, ny, w, h = ny, nx, h, w
        by_row, by_column, row_parts, column_parts = by_column, by_row, column_parts, row_parts
        width, height = height, width
    last_w, last_h = width - (nx - 1) * w, height - (ny - 1) * h
    steps = -(-f.depth // k) if f.split else np.ones_like(k)
    last_k = f.depth - (steps - 1) * k
    whole = steps == 1

    def tile(rows_of: np.ndarray, columns_of: np.ndarray, kind: str) -> np.ndarray:
        area = rows_of * columns_of
        load = area * float(f.tiles)
        if kind != "row":
            load = load + rows_of * by_row
        if kind != "turn":
            load = load + columns_of * by_column
        if kind == "first":
            load = load + f.fixed
        leave = area * float(f.outs)
        tail = area * float(f.tail)
        per_k = rows_of * row_parts + columns_of * column_parts + f.flat_parts
        once: np.ndarray = np.maximum(
            f.product_cost + f.first_cost + f.last_cost, (load + tail + leave + per_k * f.depth * f.split) / rate
        )
        if not f.split:
            return once
        share, last_share = f.product_cost * k / f.depth, f.product_cost * last_k / f.depth
        first = np.maximum(share + f.first_cost, (load + per_k * k) / rate)
        middle = np.maximum(share, per_k * k / rate) * (steps - 2)
        end = np.maximum(last_share + f.last_cost, (per_k * last_k + tail + leave) / rate)
        return np.where(whole, once, first + middle + end)

    def row(rows_of: np.ndarray, kind: str, backward: bool) -> np.ndarray:
        """A row of tiles: where it starts, then the others."""
        start = np.where(nx == 1, last_w, last_w if backward else w)
        inner = np.where(nx == 1, 0, nx - 1 if backward else nx - 2)
        total: np.ndarray = tile(rows_of, start, kind) + np.maximum(inner, 0) * tile(rows_of, w, "row")
        if not backward:
            total = total + np.where(nx > 1, tile(rows_of, last_w, "row"), 0.0)
        return total

    only = ny == 1
    total = row(np.where(only, last_h, h), "first", backward=False)
    # full rows 1 .. ny - 2: every other one, the first of them included, is walked backward
    backward, forward = np.maximum(0, (ny - 1) // 2), np.maximum(0, (ny - 2) // 2)
    total = total + np.where(only, 0.0, backward * row(h, "turn", backward=True))
    total = total + np.where(only, 0.0, forward * row(h, "turn", backward=False))
    ends_backward = (ny - 1) % 2 == 1
    end = np.where(ends_backward, row(last_h, "turn", backward=True), row(last_h, "turn", backward=False))
    return total + np.where(only, 0.0, end)


def snake(nx: int, ny: int, along_rows: bool) -> tuple[int, ...]:
    """Tile indices (row by row) in the order of a snake."""
    found = []
    outer, inner = (ny, nx) if along_rows else (nx, ny)
    for o in range(outer):
        walk = range(inner) if o % 2 == 0 else range(inner - 1, -1, -1)
        found += [o * nx + i if along_rows else i * nx + o for i in walk]
    return tuple(found)
