"""Paths through the operator graph along which kernels cannot overlap."""

from __future__ import annotations

from formulations.facts import Facts


def longest_paths(facts: Facts) -> list[tuple[str, ...]]:
    """For each operator a path through it that is longest by least durations; duplicates dropped.

    An operator weighs its share in the shortest kernel that could hold it. Kernels are convex, so all that meet one
    path run one after the other: the sum of their durations is a lower bound of the latency.
    """
    weight: dict[str, float] = {}
    for name, holders in facts.instance.candidates_of.items():
        weight[name] = min(facts.least_ns[g] / len(facts.instance.candidates[g].operators) for g in holders)
    producers: dict[str, set[str]] = {name: set() for name in facts.order}
    consumers: dict[str, set[str]] = {name: set() for name in facts.order}
    for edge in facts.edges:
        producers[edge.consumer].add(edge.producer)
        consumers[edge.producer].add(edge.consumer)
    before = _heaviest(list(facts.order), producers, weight)
    after = _heaviest(list(reversed(facts.order)), consumers, weight)
    found = {(*_trace(name, before)[::-1], *_trace(name, after)[1:]) for name in facts.order}
    return sorted(found)


def _heaviest(
    order: list[str], neighbours: dict[str, set[str]], weight: dict[str, float]
) -> dict[str, tuple[float, str | None]]:
    """Per operator: weight of the heaviest walk that ends there, and the step before it."""
    best: dict[str, tuple[float, str | None]] = {}
    for name in order:
        step = max(sorted(neighbours[name]), key=lambda other: best[other][0], default=None)
        best[name] = (weight[name] + (best[step][0] if step else 0.0), step)
    return best


def _trace(name: str, best: dict[str, tuple[float, str | None]]) -> tuple[str, ...]:
    """The walk from an operator back along its heaviest steps."""
    walk = [name]
    while (step := best[walk[-1]][1]) is not None:
        walk.append(step)
    return tuple(walk)
