"""Lower bounds on the latency of all solutions, and the argument of each.

Every step takes at least its compute and at least its traffic, so the sums over all steps of either are bounds.
"""

from __future__ import annotations

import math
from functools import cache

from instances.subgraphs import Kind, SubgraphProblem

ROUNDING = 1 - 1e-12
"""Bounds are sums of floating-point numbers: this much is given up."""


def bounds(p: SubgraphProblem) -> dict[str, float]:
    """All bounds by name."""
    found = {"traffic": traffic_bound(p), "streaming": streaming_bound(p), "compute": compute_bound(p)}
    return {name: value * ROUNDING for name, value in found.items()}


def traffic_bound(p: SubgraphProblem) -> float:
    """What must cross the channel: every element of an input that is read, every element of a result.

    An input is never retained (R9), so some step loads all of each that is read; some step evicts each result.
    """
    inputs = {t for op in range(p.count) for t in p.inputs[op] if t not in p.maker}
    return (sum(map(p.size, inputs)) + sum(map(p.size, p.results))) / p.slow_memory_bandwidth


def compute_bound(p: SubgraphProblem) -> float:
    """What must be computed: each operator once per tile of the grid of some step that it may run in.

    The grid is that of a result downstream of the operator (or its own); tiles are at most native.
    """
    width, height = p.native_granularity
    fewest: dict[int, int] = {}
    for op in reversed(p.order):
        w, h = p.shape(p.out(op))
        own = -(-w // width) * -(-h // height)
        fewest[op] = min([own, *(fewest[after] for after in p.after[op])])
    return math.fsum(p.base_costs[op] * fewest[op] for op in range(p.count))


def streaming_bound(p: SubgraphProblem) -> float:
    """What must cross the channel, counting what products deeper than a tile load again for every tile.

    A product that runs the depth loop of its step over more than the native depth splits it (R5), and then reloads both
    operands for every tile (R10): its left one as often as there are columns of tiles, its right one as often as there
    are rows. It runs the loop wherever no other product of its step reads its result, directly or through elementwise
    operators; these may lead into a product of the same step only where that is no deeper than a tile (R6), or is no
    loop itself. An operand that is an input is loaded (R9). So is one that an elementwise operator makes which may not
    feed the product in one step, if it is too large to be retained; and it is evicted before.

    Where a product's result may lead into another, it either runs the loop all the same, and its left operand is loaded
    for every column of tiles; or it hands slices to the left of that one, which takes its right operand whole for every
    tile of that one's grid, part by part if it does not fit (and if it does not, that one must run a split loop). So of
    products that share a right operand, an input, and have left ones of their own that are inputs, either all run
    loops, or one does not: the cheaper of the two is counted.
    """
    native, (tile_w, tile_h) = p.native_granularity[0], p.native_granularity

    @cache
    def feeds(op: int) -> bool:
        """Whether a product's result may lead into another product of its step."""
        return any(p.op_types[o] is Kind.MATMUL or leads(o) for o in p.after[op])

    @cache
    def leads(op: int) -> bool:
        """Whether an elementwise operator's result may lead into a product of its step."""
        return any(admits(o) if p.op_types[o] is Kind.MATMUL else leads(o) for o in p.after[op])

    def admits(op: int) -> bool:
        """Whether an elementwise operator may feed a product in one step."""
        return p.depth(op) <= native or feeds(op)

    def times(op: int, tensor: int) -> int:
        """How often an operator's step loads all of a tensor, at least, if it lies outside."""
        if p.op_types[op] is not Kind.MATMUL or p.depth(op) <= native or feeds(op):
            return 1
        width, height = p.shape(p.out(op))
        left, _ = p.inputs[op]
        return -(-width // tile_w) if tensor == left else -(-height // tile_h)

    def handing(op: int) -> int:
        """How often an operator that runs no loop loads its right operand, at least."""
        held = p.size(p.inputs[op][1]) <= p.fast_memory_capacity
        found = []
        for after in p.after[op]:
            width, height = p.shape(p.out(after))
            product = p.op_types[after] is Kind.MATMUL
            left_alone = product and p.inputs[after][0] == p.out(op) != p.inputs[after][1]
            found.append(-(-width // tile_w) * -(-height // tile_h) if left_alone and not held else 1)
        return min(found, default=1)

    def either(tensor: int, counted: int) -> int:
        """Elements beyond those counted, for products that share a right operand and may lead into others."""
        sharing = [
            op
            for op in p.readers[tensor]
            if p.op_types[op] is Kind.MATMUL and p.depth(op) > native and feeds(op) and p.inputs[op][1] == tensor
        ]
        loops = 0
        for op in sharing:
            left = p.inputs[op][0]
            if left not in p.maker and p.readers[left] == (op,) and left != tensor:
                loops += (-(-p.shape(p.out(op))[0] // tile_w) - 1) * p.size(left)
        hands = [(handing(op) - counted) * p.size(tensor) for op in sharing]
        return max(0, min([loops, *hands])) if sharing else 0

    moved = sum(map(p.size, p.results))
    for tensor, readers in p.readers.items():
        maker = p.maker.get(tensor)
        if maker is None:
            often = max(times(op, tensor) for op in readers)
            moved += p.size(tensor) * often + either(tensor, often)
            continue
        if p.op_types[maker] is Kind.MATMUL or p.size(tensor) <= p.fast_memory_capacity:
            continue
        apart = [op for op in readers if p.op_types[op] is Kind.MATMUL and not admits(op)]
        if apart:
            moved += p.size(tensor) * (1 + max(times(op, tensor) for op in apart))
    return moved / p.slow_memory_bandwidth
