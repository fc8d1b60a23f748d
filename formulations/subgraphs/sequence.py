"""Groups in a row: what is retained between them, and what they cost together.

Given which operators each step runs, what is left to decide is which tensors stay in fast memory across each boundary.
That is a shortest path over the boundaries: a tensor that is made and used inside its step must stay for a later reader
(none of the other steps has stored it), one that the step would store may stay where nobody but the next step reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from formulations.subgraphs.pricing import Price, Pricer
from instances.subgraphs import SubgraphProblem

MOST_KEPT = 3
"""Tensors that may stay across a boundary by choice, beside those that must."""

Group = frozenset[int]

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chosen:
    """A sequence with what stays after each step, and its latency."""

    groups: tuple[Group, ...]
    retained: tuple[frozenset[int], ...]
    latency: float


Node = TypeVar("Node", bound=tuple[Any, ...])
"""A place on a shortest path over steps; its second entry is what stays."""


def traced(parent: Mapping[Node, tuple[Node, Group]], goal: Node, latency: float) -> Chosen:
    """The sequence along a shortest path, from the node and the group that each node was reached by."""
    groups: list[Group] = []
    retained: list[frozenset[int]] = []
    node = goal
    while node in parent:
        retained.append(node[1])
        node, group = parent[node]
        groups.append(group)
    return Chosen(tuple(reversed(groups)), tuple(reversed(retained)), latency)


class Sequences:
    """Evaluates sequences of groups of one problem."""

    def __init__(self, problem: SubgraphProblem, pricer: Pricer | None = None) -> None:
        self.problem = problem
        self.pricer = pricer or Pricer(problem)
        self._made: dict[Group, frozenset[int]] = {}
        self._external: dict[Group, frozenset[int]] = {}
        self._sinks: dict[Group, frozenset[int]] = {}

    def made(self, group: Group) -> frozenset[int]:
        """Tensors that a group writes."""
        if group not in self._made:
            p = self.problem
            made = frozenset(p.out(op) for op in group)
            used = frozenset(t for op in group for t in p.inputs[op])
            self._made[group] = made
            self._external[group] = frozenset(t for t in used - made if t in p.maker)
            self._sinks[group] = made - used
        return self._made[group]

    def external(self, group: Group) -> frozenset[int]:
        """Tensors that a group reads and others make."""
        self.made(group)
        return self._external[group]

    def sinks(self, group: Group) -> frozenset[int]:
        """Tensors that a group makes and does not read itself."""
        self.made(group)
        return self._sinks[group]

    def price(self, group: Group, resident: frozenset[int], retained: frozenset[int]) -> Price | None:
        """The price of one step."""
        return self.pricer.price(group, resident, retained)

    def evaluate(self, groups: Sequence[Group], limit: float = math.inf) -> Chosen | None:
        """The cheapest retention for a sequence; ``None`` where it is illegal, or dearer than ``limit``."""
        options = self._options(groups)
        if options is None:
            return None
        layers: list[dict[frozenset[int], tuple[float, frozenset[int]]]] = []
        current: dict[frozenset[int], float] = {NOTHING: 0.0}
        for place, group in enumerate(groups):
            following: dict[frozenset[int], tuple[float, frozenset[int]]] = {}
            for kept in options[place]:
                for resident, cost in current.items():
                    known = following.get(kept)
                    if cost >= limit or (known is not None and cost >= known[0]):
                        continue
                    price = self.price(group, resident, kept)
                    if price is not None:
                        total = cost + price.latency
                        if known is None or total < known[0]:
                            following[kept] = total, resident
            if not following:
                return None
            layers.append(following)
            current = {kept: total for kept, (total, _) in following.items()}
        kept = min(current, key=lambda item: current[item])
        latency = current[kept]
        if latency >= limit:
            return None
        retained = []
        for layer in reversed(layers):
            retained.append(kept)
            kept = layer[kept][1]
        return Chosen(tuple(groups), tuple(reversed(retained)), latency)

    def _options(self, groups: Sequence[Group]) -> list[list[frozenset[int]]] | None:
        """What may stay after each step; ``None`` where a reader finds its tensor nowhere."""
        p = self.problem
        readers: dict[int, list[int]] = {}
        makers: dict[int, list[int]] = {}
        for place, group in enumerate(groups):
            for tensor in self.external(group):
                readers.setdefault(tensor, []).append(place)
            for tensor in self.made(group):
                makers.setdefault(tensor, []).append(place)
        must: list[set[int]] = [set() for _ in groups]
        may: list[set[int]] = [set() for _ in groups]
        for tensor, places in readers.items():
            made = makers.get(tensor)
            if made is None:
                return None
            stored = [m for m in made if tensor in self.sinks(groups[m])]
            for place in places:
                if any(m < place for m in stored):
                    continue
                if place - 1 in made and place - 1 not in stored:
                    must[place - 1].add(tensor)
                else:
                    return None
            if len(stored) == 1 and len(made) == 1 and places == [stored[0] + 1]:
                may[stored[0]].add(tensor)
            for m in made:  # inner results that the next step reads may stay even if another step stored them
                if m not in stored and m + 1 in places:
                    may[m].add(tensor)
        for tensor in p.results:
            if not any(tensor in self.sinks(groups[m]) for m in makers.get(tensor, ())):
                return None
        options = []
        for needed, free in zip(must, may, strict=True):
            base = frozenset(needed)
            extra = sorted(free - needed, key=lambda t: -p.size(t))[:MOST_KEPT]
            options.append([base | frozenset(s) for n in range(len(extra) + 1) for s in combinations(extra, n)])
        return options
