"""Iterative modulo scheduling: operations by height into a table of the interval, those in the way thrown out again.

Source: B. R. Rau, Iterative modulo scheduling, MICRO 1994. Here the slots of rings are shared out first and become
dependences, and times are exact: the table is a set of intervals on a circle of length II, not rows of cycles.
"""

from __future__ import annotations

import heapq

from formulations.cycle_ratio import ArcList
from formulations.modulo import Modulo
from formulations.modulo_facts import (
    even_slots,
    given_arcs,
    order_arcs,
    ring_arcs,
    span_ps,
)
from instances.pipelines.loop import LoopKernel

STRETCHES = (1.0, 1.003, 1.01, 1.03, 1.06, 1.12, 1.25, 1.5, 2.0, 3.0)
"""Intervals tried, relative to the lower bound; what comes out is tightened to the least that its order allows."""

BUDGET = 6
"""Placements per operation before an interval is given up."""


def list_schedule(loop: LoopKernel, bound_ps: int) -> Modulo | None:
    """A schedule near the bound, tightened; ``None`` where even one operation after the other breaks a ring."""
    best: Modulo | None = None
    for lead in range(loop.most_lead + 1):
        found = _at_lead(loop, bound_ps, lead)
        if found is not None and (best is None or found.rank(loop) < best.rank(loop)):
            best = found
    return best


def _at_lead(loop: LoopKernel, bound_ps: int, lead: int) -> Modulo | None:
    slots = even_slots(loop)
    arcs = [*given_arcs(loop), *ring_arcs(loop, slots, lead)]
    least = ArcList(len(loop.ops), arcs).least(bound_ps if loop.cyclic else loop.serial_ps)
    if least is None:
        return None
    stretches = STRETCHES if loop.cyclic else (1.0,)
    tries = [int(least.ii_ps * stretch) for stretch in stretches] if loop.cyclic else []
    for ii in (*tries, loop.serial_ps):
        starts = _place(loop, arcs, max(ii, least.ii_ps))
        if starts is not None:
            return tightened(loop, Modulo(max(ii, least.ii_ps), tuple(starts), slots, lead), bound_ps)
    return None


def tightened(loop: LoopKernel, found: Modulo, bound_ps: int) -> Modulo:
    """The least interval and the earliest starts for the order of a schedule, with as few slots as these need."""
    orders = list(order_arcs(loop, found.start_ps, found.ii_ps))
    fixed = [*given_arcs(loop), *orders]
    at_least = bound_ps if loop.cyclic else found.ii_ps
    periodic = ArcList(len(loop.ops), [*fixed, *ring_arcs(loop, found.slots, found.lead)]).least(at_least)
    if periodic is None:  # rounding at the edge of an interval; the schedule itself stands
        return found
    best = Modulo(periodic.ii_ps, periodic.start_ps, found.slots, found.lead)
    span = span_ps(loop, best.start_ps)
    for ring in sorted(loop.rings, key=lambda ring: -ring.size_bytes):
        while best.slots[ring.key] > 1:
            fewer = {**best.slots, ring.key: best.slots[ring.key] - 1}
            starts = ArcList(len(loop.ops), [*fixed, *ring_arcs(loop, fewer, found.lead)]).starts(best.ii_ps)
            if starts is None or span_ps(loop, starts) > span:
                break
            best = Modulo(best.ii_ps, tuple(starts), fewer, found.lead)
    return best


class _Table:
    """Who holds each resource when, on a circle of the interval's length."""

    def __init__(self, loop: LoopKernel, ii_ps: int) -> None:
        self._ii = ii_ps
        self._held: dict[str, dict[int, tuple[int, int]]] = {resource: {} for resource in loop.resources}
        self._needs: list[list[tuple[str, int]]] = [[] for _ in loop.ops]
        for resource, users in loop.resources.items():
            for op, length in users:
                self._needs[op].append((resource, length))

    def clash(self, op: int, at: int) -> tuple[int, int] | None:
        """Who is in the way of an operation at a time, and how far on the table is free of it; ``None``: nobody."""
        for resource, length in self._needs[op]:
            begin = at % self._ii
            for other, (start, held) in self._held[resource].items():
                after = (start - begin) % self._ii  # until the other begins
                before = (begin - start) % self._ii  # since it began
                if after < length or before < held:
                    return other, (held - before) if before < held else after + held
        return None

    def free_from(self, op: int, earliest: int) -> int | None:
        """The first time within an interval from ``earliest`` on at which nobody is in the way."""
        at = earliest
        while at < earliest + self._ii:
            clash = self.clash(op, at)
            if clash is None:
                return at
            at += clash[1]
        return None

    def put(self, op: int, at: int) -> None:
        """Enter an operation."""
        for resource, length in self._needs[op]:
            self._held[resource][op] = (at % self._ii, length)

    def remove(self, op: int) -> None:
        """Take it out."""
        for resource, _ in self._needs[op]:
            self._held[resource].pop(op, None)


def _place(loop: LoopKernel, arcs: list[tuple[int, int, int, int]], ii: int) -> list[int] | None:
    """Starts at an interval; ``None`` where the budget runs out."""
    count = len(loop.ops)
    if any(sum(length for _, length in users) > ii for users in loop.resources.values()):
        return None
    heights = ArcList(count, arcs).tails(ii, [op.busy_ps for op in loop.ops])
    into: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    out: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for source, target, latency, distance in arcs:
        if source == target:
            if latency > ii * distance:
                return None
            continue
        into[target].append((source, latency - ii * distance))
        out[source].append((target, latency - ii * distance))
    table = _Table(loop, ii)
    starts: dict[int, int] = {}
    last: dict[int, int] = {}
    queue = [(-heights[op], op) for op in range(count)]
    heapq.heapify(queue)
    budget = BUDGET * count + 20
    while queue:
        _, op = heapq.heappop(queue)
        if op in starts:
            continue
        budget -= 1
        if budget < 0:
            return None
        earliest = max((starts[source] + gap for source, gap in into[op] if source in starts), default=0)
        at = table.free_from(op, max(0, earliest))
        if at is None:
            at = max(0, earliest, last.get(op, -1) + 1)
        thrown = []
        while (clash := table.clash(op, at)) is not None:
            table.remove(clash[0])
            del starts[clash[0]]
            thrown.append(clash[0])
        starts[op] = last[op] = at
        table.put(op, at)
        for target, gap in out[op]:
            if target in starts and starts[target] < at + gap:
                table.remove(target)
                del starts[target]
                thrown.append(target)
        for other in thrown:
            heapq.heappush(queue, (-heights[other], other))
    return [starts[op] for op in range(count)]
