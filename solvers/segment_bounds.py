"""Lower bound of a large model: the sum over segments of what each needs by itself (``formulations.segments``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.segments import Segment, cut
from solvers.bounds import relaxation_bound
from solvers.condensed import proving_solver
from solvers.incumbent import Incumbent
from solvers.interface import Options

LEAST_OPERATORS = 14
"""Operators of a segment, at least: short ones lose where kernels of one could run beside those of the next."""

RELAXATION_S = 10.0
"""Seconds for the static relaxation of one segment."""

LEFT_OUT = frozenset({"addresses", "l2_capacity", "traffic"})
"""Families that say nothing here; ``traffic`` would be wrong, as the kernel that ends a segment streams nothing."""

SEARCH_SHARE = 0.4
"""Share of the time left for CP-SAT on one segment."""

STRETCH = 1.1
"""Horizon of a segment's joint model, relative to its relaxation: a longer segment needs no more than that proven."""


class SegmentBound:
    """The sum, in a thread of its own: by the static relaxation of each segment first, then by CP-SAT."""

    def __init__(self, incumbent: Incumbent) -> None:
        self._incumbent = incumbent
        self._thread = incumbent.run_beside(self._run)

    def wait(self, patience_s: float) -> None:
        """Wait so long for its end."""
        self._thread.join(patience_s)

    def _run(self) -> None:
        segments = cut(self._incumbent.facts, LEAST_OPERATORS)
        proven = [0] * len(segments)
        for improve in (self._relax, self._search):
            for n in sorted(range(len(segments)), key=lambda n: -segments[n].count):
                if self._incumbent.over:
                    return
                proven[n] = max(proven[n], improve(segments[n], proven[n]))
                total = sum(bound * segment.count for bound, segment in zip(proven, segments, strict=True))
                self._incumbent.prove({"segments": total})

    def _relax(self, segment: Segment, _: int) -> int:
        seconds = min(RELAXATION_S, self._incumbent.spare_s)
        return relaxation_bound(Facts(segment.instance), None, seconds, lambda: self._incumbent.over)

    def _search(self, segment: Segment, known_ns: int) -> int:
        incumbent = self._incumbent
        seconds = SEARCH_SHARE * incumbent.spare_s
        return search_segment(segment, known_ns, incumbent.options, seconds, incumbent.watching)


def search_segment(
    segment: Segment,
    known_ns: int,
    options: Options,
    seconds: float,
    watching: Callable[[Callable[[], None]], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> int:
    """CP-SAT's bound (ns) of a segment, from a known one on, up to a horizon: what is longer exceeds that anyway."""
    instance = segment.instance
    horizon = round(STRETCH * known_ns)
    facts = Facts(instance)
    routed = frozenset(t for t in facts.sources if t not in facts.prefetchable)
    model = JointModel(instance, horizon, LEFT_OUT, routed)
    model.model.add(model.latency >= known_ns)
    solver = proving_solver(replace(options, workers=1, gap=0.0), seconds)
    with watching(solver.stop_search):
        status = solver.solve(model.model)
    if status == cp_model.INFEASIBLE:
        return horizon
    return max(known_ns, min(horizon, round(solver.best_objective_bound)))
