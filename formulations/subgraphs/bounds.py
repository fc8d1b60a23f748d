"""Lower bounds on the latency of all solutions, and the argument of each."""

from __future__ import annotations

import math

from instances.subgraphs import SubgraphProblem


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


def bounds(p: SubgraphProblem) -> dict[str, float]:
    """All bounds by name; each step takes at least its compute and at least its traffic, so each sum is one."""
    found = {"traffic": traffic_bound(p), "compute": compute_bound(p)}
    return {name: value * (1 - 1e-12) for name, value in found.items()}
