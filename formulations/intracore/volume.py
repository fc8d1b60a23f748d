"""Least extra traffic of sums of products of tiles, by the volume of what so many tiles can make.

The argument is that of Hong and Kung (1981) with windows that end where a run of products on one sum ends, and with an
inequality in place of that of Loomis and Whitney that knows how long the runs are.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import highspy
import numpy as np
from numpy.typing import NDArray

from instances.intracore import SINGLE, Place, TileTask

MOST_DEPTH = 32
"""Products of one sum up to which the argument is tried; its time grows with the square and more."""

MOST_TRIES = 6
"""Sizes of windows that are tried."""

MOST_TILES = 20_000
"""Tiles of one slice up to which they are counted; more products there need so many at least."""

SLACK = 1e-9
"""Share by which computed values are lowered, so that no rounding error of the machine lifts a bound."""

Array = NDArray[np.float64]
Pairs = dict[int, tuple[int, int, int]]


def volume(task: TileTask) -> int:
    r"""Traffic of tiles and sums where the operations are products of two tiles each that are added up.

    **Words.** A *sum* is a buffer of one L0 memory (the core memory), a *product* an operation that uses exactly one
    sum and exactly two *tiles* of L1 (UB): a tile itself, or a copy in another L0 memory, which one earlier operation
    makes from one tile and no other product uses. Tiles that products join make *slices*, and each must have two
    sides such that a product has a tile of each. (In a product of matrices a slice is one depth k: a column of A and a
    row of B.) A sum has at most one product in a slice. What does not fit this is not counted, or the bound is 0.

    **Runs and windows.** A *run* is a longest series of products of one sum, in the order of the answer, between which
    the sum is not spilled; n runs of a sum are n - 1 spills of it or more. Walk along the order, and end a window with
    the product that ends a run when the squares of the lengths of the runs that ended in the window come to T or more.
    They come to less than T + K * K then, where K is the most products of a sum. While that last product runs, its own
    sum is in the core memory, so at most q other runs are open, q + 1 being the number of smallest sums that fit.

    **What a window loads.** A window begins while the last product of the window before runs; all that this product
    names is in its memory then. A tile that a product of the window uses was in L1 within the window, or its
    copy was made before. So it came into L1 within the window, or lay there when the window began (as it does where
    the product in progress makes the copy), or its copy lay in L0 then beside what the product in progress uses, or its
    copy was in main memory then, by a spill that serves this one product and costs as much traffic as the tile has
    units or more. Hence: loads, and spills of copies, come to the size of the tiles that are used less R, the capacity
    of L1 and what the copies in L0 hold. Nothing is subtracted from the first window. A load is the first of its tile,
    or the way back of a spill, which costs a unit of traffic or two for each unit of the tile.

    **What a window uses.** Let e products of a window lie in one slice, and no more than u of all on the same two
    tiles. With r tiles of the one side and c of the other, e <= u r c. Let E(v) be the greatest u r c with r + c = v,
    where r is at most the size of a smaller side; :math:`\phi` joins the points (0, 0) and (E(v), v), v = 2, 3, ... by
    straight lines. The steps of E grow, so :math:`\phi` is concave, and the tiles of the slice are at least
    :math:`\phi(e)`. Let the runs have pieces of x_1, x_2, ... products in the window. Each piece has its products in
    different slices, so that j slices have at most :math:`\sum_i \min(x_i, j)` of them, which is what the first j
    slices would have if every piece were in slices 1, 2, ..., x_i. Concave functions sum up to least where values are
    most spread (Karamata), so that the tiles are at least :math:`\sum_k \phi(n_k)`, where n_k is the number of pieces
    of k products or more. (With :math:`\phi(n) = 2 \sqrt n` and one length this is Loomis and Whitney's.)

    **Credits.** A run of l products is given g(l) units, spread evenly on its products; g(l) / l does not fall. If in
    every window the credits of its products are at most the smallest tile's size s times :math:`\sum_k \phi(n_k)`, less
    R, then the loads of all windows but for what remains at the end are at least the credits there, and R more for the
    first one. Of a window it is known that: m_l runs of l products lie in it, for each l, up to q runs of l' products
    end in it with a tail of t < l' (1 <= t), and up to q others are open at its end after h <= K - 1 products in it,
    each of which is credited g(K) / K at most; also if it is open at both ends. The squares,
    :math:`\sum_l m_l l^2 + \sum l'^2`, are from T to T + K * K - 1. Allow fractions of runs. Then what is used less
    credits is a concave function on a polytope, and least at a vertex. Let T > q K * K; then at a vertex no tails or q
    alike, no heads or q alike, one l with m_l > 0, and squares at an end of their range. For one l and l' what is used
    is linear in t and h between the lines t = l, h = l, t = h. So t is one of 1, l, l' - 1, and h one of 0, l, t,
    K - 1: some 24 K * K cases, all of which are looked at.

    **The end.** What remains after the last window has squares below T and no heads. It loads the larger of 0 and of
    what it uses less R, or more, and so at least any mean of the two. D is the most by which its credits are above such
    a mean, which is one that makes D small: the maximum of a convex function on a polytope, again over its vertices.
    Then its loads are at least its credits less D. (If there is no window at all, it loads all tiles, which are more
    than R units, and so R more than the larger of 0 and of what it uses less R, as if a first window had been there.)

    **Result.** The credits of a sum of k products in runs of l_1 + ... + l_n = k, and n - 1 times the price of its
    spill, are at least their minimum over all n and l_i. The minima of all sums, plus R, less D and the first load of
    each tile, are a bound. T is one of a few multiples of K * K, and g comes from a linear program. How they are found
    proves nothing and need not: g is lowered until every case holds.
    """
    best = 0.0
    for place, core in product((Place.L1, Place.UB), SINGLE):
        found = _products(task, place, core)
        if found is not None:
            best = max(best, _bound(found))
    prices = [task.traffic_of_spill(one.id) for one in task.buffers]
    step = math.gcd(*prices) if prices else 1  # traffic is a multiple of it
    return math.ceil(best * (1 - SLACK) / step - SLACK) * step


@dataclass(frozen=True)
class _Products:
    """Sums of products; units are those of the task."""

    lengths: dict[int, int]
    """Number of sums by their number of products."""
    price: int
    """Least traffic of a spill of a sum."""
    others: int
    """Runs that can be open beside the one that has just ended (q)."""
    room: int
    """Units of tiles that can be in L1 and the other L0 memories at a window's beginning (R)."""
    tile: int
    """Least size of a tile."""
    first: int
    """Size of all tiles."""
    same: int
    """Most products on the same two tiles."""
    side: int
    """Most tiles in the smaller side of a slice."""


def _products(task: TileTask, place: Place, core: Place) -> _Products | None:
    """What the argument needs; ``None`` where it does not apply."""
    of = {one.id: one.place for one in task.buffers}
    size = {one.id: one.size for one in task.buffers}
    source = _copies(task, place, core)
    pairs: Pairs = {}  # operation -> sum and two tiles
    taken = {other: task.room(other) for other in SINGLE if other is not core}  # by every product at least
    for op in task.operations:
        used = tuple(dict.fromkeys(op.buffers))
        sums = [b for b in used if of[b] is core]
        tiles = {b for b in used if of[b] is place} | {source[b, op.id] for b in used if (b, op.id) in source}
        if len(sums) == 1 and len(tiles) == 2:
            pairs[op.id] = (sums[0], min(tiles), max(tiles))
            for other in taken:
                taken[other] = min(taken[other], sum(size[b] for b in used if of[b] is other))
    if not pairs:
        return None
    sides = _slices(pairs)
    if sides is None:
        return None
    slice_of, smaller = sides
    lengths = Counter(held for held, _, _ in pairs.values())
    if max(Counter((held, slice_of[tile]) for held, tile, _ in pairs.values()).values()) > 1:
        return None
    held = Fraction(0)
    for other, least in taken.items():
        ratios = [Fraction(size[t], size[b]) for (b, op), t in source.items() if of[b] is other and op in pairs]
        held += max(ratios, default=Fraction(0)) * (task.room(other) - least)
    tiles = {tile for _, *both in pairs.values() for tile in both}
    return _Products(
        lengths=dict(Counter(lengths.values())),
        price=min(task.traffic_of_spill(b) for b in lengths),
        others=task.room(core) // min(size[b] for b in lengths) - 1,
        room=task.room(place) + math.floor(held),
        tile=min(size[tile] for tile in tiles),
        first=sum(size[tile] for tile in tiles),
        same=max(Counter((one, two) for _, one, two in pairs.values()).values()),
        side=smaller,
    )


def _copies(task: TileTask, place: Place, core: Place) -> dict[tuple[int, int], int]:
    """The tile that a copy holds, by copy and the only operation that it is for.

    The operation that makes the copy uses no other tile and comes first in every order. A copy whose spill costs less
    than its tile has units is left out.
    """
    found = {}
    known = task.operation
    of = {one.id: one.place for one in task.buffers}
    for one in task.buffers:
        users = task.users[one.id]
        if one.place not in SINGLE or one.place is core or len(users) != 2:
            continue
        for maker, reader in (users, users[::-1]):
            tiles = {b for b in known[maker].buffers if of[b] is place}
            if maker in task.waits[reader] and len(tiles) == 1:
                tile = min(tiles)
                if task.buffer[tile].size <= task.traffic_of_spill(one.id):
                    found[one.id, reader] = tile
    return found


def _slices(pairs: Pairs) -> tuple[dict[int, int], int] | None:
    """Slice of each tile, and most tiles in the smaller side of a slice; ``None`` where a slice has no two sides."""
    near: dict[int, set[int]] = {}
    for _, one, two in pairs.values():
        near.setdefault(one, set()).add(two)
        near.setdefault(two, set()).add(one)
    slice_of: dict[int, int] = {}
    side: dict[int, int] = {}
    smaller = 0
    for start in near:
        if start in side:
            continue
        side[start], slice_of[start] = 0, start
        stack, count = [start], [1, 0]
        while stack:
            tile = stack.pop()
            for other in near[tile]:
                if other not in side:
                    side[other], slice_of[other] = 1 - side[tile], start
                    count[side[other]] += 1
                    stack.append(other)
                elif side[other] == side[tile]:
                    return None
        smaller = max(smaller, min(count))
    return slice_of, smaller


def _bound(found: _Products) -> float:
    depth, sums = max(found.lengths), sum(found.lengths.values())
    if found.first <= found.room or depth > MOST_DEPTH or found.others < 0:
        return 0.0
    uses = _Uses(found, (sums + 2) * depth * depth)
    whole = np.arange(found.others + 1, sums + 1, dtype=float)
    loads = (found.tile * depth * uses.tiles(whole) - found.room) / whole
    tries = whole[np.argsort(-loads, kind="stable")][:MOST_TRIES]
    return max((_with_windows(found, uses, int(n) * depth * depth) for n in tries), default=0.0)


class _Uses:
    """Tiles that products of one slice use at least."""

    def __init__(self, found: _Products, most: int) -> None:
        products, tiles = [0.0], [0.0]
        v = 2
        while products[-1] < most and v < MOST_TILES:
            r = min(v // 2, found.side)
            products.append(float(found.same * r * (v - r)))
            tiles.append(float(v))
            v += 1
        self._products, self._tiles = np.array(products), np.array(tiles)

    def tiles(self, products: Array | float) -> Array:
        """Of one slice."""
        return np.asarray(np.interp(products, self._products, self._tiles))

    def of_window(self, pieces: list[tuple[Array, Array]]) -> Array:
        """Of all slices: kinds of pieces by their length and number; each piece is in slices 1, 2, ..., its length."""
        ends = np.sort(np.stack([length for length, _ in pieces]), axis=0)
        total, before = np.zeros(ends.shape[1]), np.zeros(ends.shape[1])
        for end in ends:
            here = sum((number * (length >= end) for length, number in pieces), np.zeros(ends.shape[1]))
            total += (end - before) * self.tiles(here)
            before = end
        return total


class _Cases:
    """Vertices: windows with runs of ``length``, tails ``tail`` of runs of ``broken``, and heads ``head``."""

    def __init__(self, found: _Products, uses: _Uses, threshold: int, heads: bool) -> None:
        depth, q = max(found.lengths), found.others
        rows = []
        for length, broken in product(range(1, depth + 1), (0, *range(2, depth + 1)) if q else (0,)):
            for tail in {1, min(length, broken - 1), broken - 1} if broken else {0}:
                for head in {0, min(length, depth - 1), tail, depth - 1} if heads and q else {0}:
                    rows.append((length, broken, tail, head))
        columns = np.array(rows).T
        length, broken = columns[:2]
        squares = (threshold, threshold + depth * depth - 1) if heads else (threshold - 1,)
        numbers = [(one - q * broken**2) / length**2 for one in squares]
        if not heads:  # what remains may be short
            numbers.append(np.zeros(len(rows)))
        number = np.concatenate(numbers)
        length, broken, tail, head = np.tile(columns, len(numbers))
        alike = np.full(len(number), float(q))
        used = uses.of_window([(length, number), (tail, alike), (head, alike)])
        self.loads = found.tile * used * (1 - SLACK) - found.room
        """Least units that come in."""
        self.weights = np.zeros((len(number), depth + 1))
        """Of g(0), g(1), ... in the credits."""
        row = np.arange(len(number))
        self.weights[row, length] += number
        self.weights[row, broken] += q * tail / np.maximum(broken, 1)
        self.weights[:, depth] += q * head / depth


def _with_windows(found: _Products, uses: _Uses, threshold: int) -> float:
    """Bound of windows that end when squares come to the threshold."""
    depth = max(found.lengths)
    cases = _Cases(found, uses, threshold, heads=True)
    if cases.loads.min() < 0:
        return 0.0
    credits = _lawful(cases, _chosen_credits(found, cases))
    rest = _Cases(found, uses, threshold, heads=False)
    given = rest.weights @ credits
    lost = min(float((given - share * rest.loads).max()) for share in np.linspace(0, 1, 11))
    total = found.room - (max(lost, 0.0) + found.first) * (1 + SLACK)
    least = [-float(found.price)]  # of sums of 0, 1, ... products
    for k in range(1, depth + 1):
        least.append(min(least[k - n] + found.price + credits[n] for n in range(1, k + 1)))
    return total + sum(number * least[k] for k, number in found.lengths.items())


def _lawful(cases: _Cases, credits: Array) -> Array:
    """Credits lowered until all cases hold and g(l) / l does not fall."""
    length = np.maximum(np.arange(len(credits)), 1)
    rate = np.maximum(credits, 0.0) / length
    rate[0] = 0.0
    lowered = np.minimum.accumulate(rate[::-1])[::-1] * length
    given = cases.weights @ lowered
    some = given > 0
    factor = float((cases.loads[some] / given[some]).min()) if some.any() else 1.0
    return np.asarray(lowered * min(1.0, factor) * (1 - SLACK))


def _chosen_credits(found: _Products, cases: _Cases) -> Array:
    """Credits under which the least of all sums together is greatest, by a linear program.

    Columns: g(0) = 0, ..., g(K), and the least of a sum of 1, ..., K products with the price of its spills, which is at
    most that of fewer products and of one more run.
    """
    depth = max(found.lengths)
    rows, right = [], []
    for k in range(1, depth + 1):
        for n in range(1, k + 1):
            row = np.zeros(2 * depth + 1)
            row[n] -= 1
            row[depth + k] = 1
            if n < k:
                row[depth + k - n] = -1
            rows.append(row)
            right.append(float(found.price if n < k else 0))
    for n in range(1, depth):
        row = np.zeros(2 * depth + 1)
        row[n], row[n + 1] = 1 / n, -1 / (n + 1)
        rows.append(row)
        right.append(0.0)
    matrix = np.vstack([np.pad(cases.weights, ((0, 0), (0, depth))), np.array(rows)])
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = matrix.shape[1], matrix.shape[0]
    program.sense_ = highspy.ObjSense.kMaximize
    gain = np.zeros(matrix.shape[1])
    for k, number in found.lengths.items():
        gain[depth + k] = number
    program.col_cost_ = gain
    program.col_lower_ = np.zeros(matrix.shape[1])
    program.col_upper_ = np.concatenate([[0.0], np.full(2 * depth, highspy.kHighsInf)])
    program.row_lower_ = np.full(len(matrix), -highspy.kHighsInf)
    program.row_upper_ = np.concatenate([cases.loads, right])
    filled = matrix != 0
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
    program.a_matrix_.index_ = np.nonzero(filled)[1]
    program.a_matrix_.value_ = matrix[filled]
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(program)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return np.arange(depth + 1.0) ** 2
    return np.array(solver.getSolution().col_value[: depth + 1])
