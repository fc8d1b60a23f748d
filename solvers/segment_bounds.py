"""Lower bound of a large model: the sum over segments of what each needs by itself (``formulations.segments``)."""

from __future__ import annotations

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.segments import Segment, cut
from solvers.bounds import relaxation_bound
from solvers.condensed import SUBSOLVERS
from solvers.incumbent import Incumbent

LEAST_OPERATORS = 14
"""Operators of a segment, at least: short ones lose where kernels of one could run beside those of the next."""

RELAXATION_S = 10.0
"""Seconds for the static relaxation of one segment."""

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
        """CP-SAT's bound up to a horizon: all that is longer exceeds what it says anyway."""
        instance = segment.instance
        horizon = round(STRETCH * known_ns)
        facts = Facts(instance)
        routed = frozenset(t for t in facts.sources if t not in facts.prefetchable)
        model = JointModel(instance, horizon, {"addresses", "l2_capacity"}, routed)
        model.model.add(model.latency >= known_ns)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self._incumbent.options.seed
        solver.parameters.catch_sigint_signal = False
        solver.parameters.subsolvers.extend(SUBSOLVERS)
        solver.parameters.max_time_in_seconds = max(0.05, 0.4 * self._incumbent.spare_s)
        with self._incumbent.watching(solver.stop_search):
            status = solver.solve(model.model)
        if status == cp_model.INFEASIBLE:
            return horizon
        return min(horizon, max(0, round(solver.best_objective_bound)))
