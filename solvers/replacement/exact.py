"""The exact search: parts between cuts apart, each wider and wider until it is exact, then addresses for the whole."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from formulations.replacement.facts import Facts
from formulations.replacement.orders import least_peak
from formulations.replacement.plan import bounded, lyings, placed, written_plan
from formulations.replacement.sets import Sets, TooWideError
from formulations.replacement.states import States, Walk
from instances.replacement import Plan
from solvers.replacement.cpsat import solve_intervals
from solvers.replacement.policies import POLICIES, run_policy

WIDTHS = (10, 100, 1_000, 10_000)
"""States of a level that each pass for a better walk keeps."""

WIDEST = 500_000
"""States of a level that a pass for a better bound keeps: about 1 GiB."""

SEARCH_SHARE = 0.85
"""Share of the time for the search of states; the rest is for addresses."""

PACK_S = 3.0
"""Seconds for the addresses of one walk."""

MOST_MODELLED, LEAST_S = 100, 2.0
"""Operators up to which the interval model is asked, and seconds that it needs at least: it takes time to build."""

SMALLER = (0.99, 0.97, 0.94, 0.9, 0.85)
"""Shares of the scratchpad that are searched where what lives together fits, and its addresses do not."""


@dataclass
class _Segment:
    """A part between cuts: its search, the best walk, a bound (bytes), whether that is exact, or cannot rise."""

    states: States | None
    walk: Walk | None = None
    bound_bytes: int = 0
    exact: bool = False
    passes: int = 0
    stuck: bool = False

    def widen(self, stop: Callable[[], bool]) -> None:
        """One pass: ten times as wide as the last, for a better walk; once that is wide enough, for a better bound."""
        if self.states is None or self.exact or self.stuck:
            return
        below = None if self.walk is None else self.walk.extra_bytes
        if self.passes < len(WIDTHS) or below is None:
            found = self.states.search(WIDTHS[min(self.passes, len(WIDTHS) - 1)], below, stop)
        else:  # is there a walk at the bound? Few states can lead there; if there is none, the bound rises
            found = self.states.search(WIDEST, min(below, self.bound_bytes + self.states.grain_bytes), stop)
            if found.exact and found.walk is None:
                found = replace(found, exact=found.bound_bytes == below)
            elif not found.exact:
                self.stuck = True
        self.passes += 1
        self.bound_bytes = max(self.bound_bytes, found.bound_bytes)
        self.exact = found.exact
        if found.walk is not None:
            self.walk = found.walk
        if self.walk is not None and self.walk.extra_bytes == self.bound_bytes:
            self.exact = True


def solve_exactly(
    facts: Facts,
    time_limit_s: float,
    workers: int = 1,
    seed: int = 0,
    fixed_order: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Plan:
    """The plan of least traffic that is found in time, with its bound.

    With ``fixed_order`` operators run in the program's order, and the bound holds for that order.
    """
    started = time.monotonic()
    deadline = started + time_limit_s
    name = "packing-only" if fixed_order else "exact"
    best: Plan | None = None
    for policy in POLICIES[:2] if fixed_order else POLICIES:
        plan = run_policy(facts, policy)
        if best is None or plan.extra_bytes < best.extra_bytes:
            best = plan
        if not best.extra_bytes:
            return bounded(best, name, {"nothing is below": 0})
    assert best is not None
    if not fixed_order and (free := _without_extra(facts, deadline, workers, seed)) is not None:
        return bounded(free, name, {"nothing is below": 0})
    capacity = facts.problem.capacity_bytes
    until = started + SEARCH_SHARE * time_limit_s

    def over() -> bool:
        return stop() or time.monotonic() > until

    segments = _segments(facts, capacity, fixed_order, over)
    _widen(segments, over)
    bound = min(sum(segment.bound_bytes for segment in segments), best.extra_bytes)
    best = _with_addresses(facts, segments, best, deadline, workers, seed)
    for share in SMALLER:
        smaller = int(share * capacity)
        if best.extra_bytes == bound or smaller < facts.problem.least_bytes or time.monotonic() > until or stop():
            break
        tighter = _segments(facts, smaller, fixed_order, over)
        _widen(tighter, over, most=4)
        best = _with_addresses(facts, tighter, best, deadline, workers, seed)
    bounds = {"states": bound}
    small = facts.count <= MOST_MODELLED and deadline - time.monotonic() > LEAST_S
    if bound < best.extra_bytes and small and not stop():
        better, proven = solve_intervals(facts, best, bound, deadline - time.monotonic(), workers, seed, fixed_order)
        best = better if better is not None else best
        bounds["intervals"] = min(proven, best.extra_bytes)
    return bounded(best, name, bounds)


def _without_extra(facts: Facts, deadline: float, workers: int, seed: int) -> Plan | None:
    """The plan of an order of least peak where that fits, and addresses are found for it."""
    found = least_peak(facts)
    if found is None or found[0] > facts.problem.capacity_bytes:
        return None
    order = found[1]
    lying = lyings(facts, order, [0] * facts.count)
    until = min(deadline, time.monotonic() + PACK_S)
    offsets = placed(facts, lying, facts.problem.capacity_bytes, until, workers, seed)
    return None if offsets is None else written_plan(facts, order, lying, offsets, "exact")


def _segments(facts: Facts, capacity: int, fixed_order: bool, over: Callable[[], bool]) -> list[_Segment]:
    """The parts between cuts; one with too many sets of operators has the walk of the program's order and no bound."""
    order = list(range(facts.count))
    found = []
    for part in facts.segments:
        states = _states(facts, part, order if fixed_order else None, capacity, over)
        if states is not None:
            found.append(_Segment(states, bound_bytes=states.root_bound_bytes))
            continue
        in_order = None if fixed_order else _states(facts, part, order, capacity, lambda: False)
        found.append(_Segment(None, walk=None if in_order is None else in_order.search(WIDTHS[2]).walk))
    return found


def _states(
    facts: Facts, part: tuple[int, int], order: Sequence[int] | None, capacity: int, over: Callable[[], bool]
) -> States | None:
    """The search of a part, ``None`` where it is too wide."""
    try:
        return States(Sets(facts, *part, order, over), capacity)
    except TooWideError:
        return None


def _widen(segments: Sequence[_Segment], over: Callable[[], bool], most: int | None = None) -> None:
    """All segments pass by pass, so that each has a walk before one gets much time."""
    for number in itertools.count():
        for segment in segments:
            if over() and segment.walk is not None:
                continue
            segment.widen(over if segment.walk is not None else lambda: False)
        if over() or number == most or all(segment.exact or segment.stuck for segment in segments):
            return


def _with_addresses(
    facts: Facts,
    segments: Sequence[_Segment],
    best: Plan,
    deadline: float,
    workers: int,
    seed: int,
) -> Plan:
    """The segments' walks as one plan, where it is better and addresses are found."""
    walks = [segment.walk for segment in segments if segment.walk is not None]
    if len(walks) < len(segments) or sum(walk.extra_bytes for walk in walks) >= best.extra_bytes:
        return best
    order = [i for walk in walks for i in walk.order]
    evicted = [gone for walk in walks for gone in walk.evicted]
    lying = lyings(facts, order, evicted)
    until = min(deadline, time.monotonic() + PACK_S)
    offsets = placed(facts, lying, facts.problem.capacity_bytes, until, workers, seed)
    if offsets is None:
        return best
    plan = written_plan(facts, order, lying, offsets, "exact")
    return plan if plan.extra_bytes < best.extra_bytes else best
