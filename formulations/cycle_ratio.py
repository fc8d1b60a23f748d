"""The least interval of a loop whose orders are fixed: a maximum cycle ratio, and the cycle that proves it.

With the order on every pipe and the slots of every ring decided, all that is left are constraints

    start(j) + II * distance >= start(i) + latency        for each arc (i, j)

which have a solution just if no cycle has ``sum(latency) > II * sum(distance)``. The least II is the largest ratio of
the two over all cycles, and the starts are longest paths. Source: R. Reiter, Scheduling parallel computations, J. ACM
15, 1968; the iteration that raises II to the ratio of the cycle found is Howard's, told of one cycle at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Arc = tuple[int, int, int, int]
"""Source, target, latency (ps), distance (iterations)."""

MOST_RAISES = 200
"""Cycles looked at before a loop is given up; no loop took more than thirty."""


@dataclass(frozen=True)
class Periodic:
    """The least interval (ps), earliest starts (ps), and the operations of the cycle that forbids a shorter one."""

    ii_ps: int
    start_ps: tuple[int, ...]
    cycle: tuple[int, ...]


class ArcList:
    """Arcs over ``count`` operations, ordered so that one sweep settles all that lies within an iteration."""

    def __init__(self, count: int, arcs: Iterable[Arc]) -> None:
        self.count = count
        within: dict[int, list[int]] = {}
        strongest: dict[tuple[int, int, int], int] = {}
        for source, target, latency, distance in arcs:
            key = (source, target, distance)
            if latency > strongest.get(key, -(2**62)):
                strongest[key] = latency
        for source, target, distance in strongest:
            if not distance:
                within.setdefault(source, []).append(target)
        rank = _ranks(count, within)
        self.arcs: list[Arc] = sorted(
            ((s, t, latency, d) for (s, t, d), latency in strongest.items()), key=lambda arc: rank[arc[0]]
        )

    def least(self, at_least_ps: int) -> Periodic | None:
        """The least interval from ``at_least_ps`` on; ``None`` where a cycle allows none."""
        ii = at_least_ps
        cycle: tuple[int, ...] = ()
        for _ in range(MOST_RAISES):
            starts, found = self._paths(ii)
            if starts is not None:
                return Periodic(ii, tuple(starts), cycle)
            latency = sum(self.arcs[arc][2] for arc in found)
            distance = sum(self.arcs[arc][3] for arc in found)
            if distance <= 0 or -(-latency // distance) <= ii:
                return None
            ii, cycle = -(-latency // distance), tuple(self.arcs[arc][0] for arc in reversed(found))
        return None

    def starts(self, ii_ps: int) -> list[int] | None:
        """Earliest starts at an interval; ``None`` where there are none."""
        return self._paths(ii_ps)[0]

    def tails(self, ii_ps: int, lengths: Sequence[int]) -> list[int]:
        """Longest way from the start of each operation to the end of any, at a feasible interval."""
        tails = list(lengths)
        for _ in range(self.count + 1):
            changed = False
            for source, target, latency, distance in reversed(self.arcs):
                value = tails[target] + latency - ii_ps * distance
                if value > tails[source]:
                    tails[source] = value
                    changed = True
            if not changed:
                break
        return tails

    def _paths(self, ii: int) -> tuple[list[int] | None, list[int]]:
        """Longest paths from time 0, or the arcs of a cycle that is too long, from its end to its start."""
        starts = [0] * self.count
        by: list[int] = [-1] * self.count
        weighed = [(s, t, latency - ii * d, n) for n, (s, t, latency, d) in enumerate(self.arcs)]
        for sweep in range(self.count + 2):
            changed = False
            for source, target, weight, number in weighed:
                value = starts[source] + weight
                if value > starts[target]:
                    starts[target] = value
                    by[target] = number
                    changed = True
            if not changed:
                return starts, []
            if sweep:
                found = self._cycle(by)
                if found:
                    return None, found
        return None, []

    def _cycle(self, by: list[int]) -> list[int]:
        """Arcs of a cycle among those that set the starts; none where they form a forest."""
        seen = [0] * self.count
        for begin in range(self.count):
            node, trail = begin, begin + 1
            while node >= 0 and not seen[node]:
                seen[node] = trail
                node = self.arcs[by[node]][0] if by[node] >= 0 else -1
            if node >= 0 and seen[node] == trail:
                cycle, at = [], node
                while True:
                    cycle.append(by[at])
                    at = self.arcs[by[at]][0]
                    if at == node:
                        return cycle
        return []


def _ranks(count: int, within: dict[int, list[int]]) -> list[int]:
    """Topological positions; operations on a cycle come last."""
    missing = [0] * count
    for targets in within.values():
        for target in targets:
            missing[target] += 1
    ready = [n for n in range(count) if not missing[n]]
    rank, position = [count] * count, 0
    for node in ready:
        rank[node], position = position, position + 1
        for target in within.get(node, ()):
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return rank
