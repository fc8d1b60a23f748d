"""A loop's modulo schedule: list scheduling, then CP-SAT where that does not meet the lower bound."""

from __future__ import annotations

from dataclasses import replace

from ortools.sat.python import cp_model

from formulations.modulo import MOST_STAGES, Modulo, ModuloModel, pairs_to_order
from formulations.modulo_facts import Bound, interval_bound, least_interval, objection, shortest_iteration, span_ps
from instances.pipelines.loop import LoopKernel, PipelineSchedule
from solvers.pipelining.listing import list_schedule, tightened

MOST_PAIRS = 1500
"""Pairs of operations to be ordered up to which CP-SAT is asked."""

SECOND_PAIRS = 40
"""The same, for the shortest span and the fewest bytes at the interval found."""

SECOND_S = 0.25
"""Seconds for each of the two."""

NEAR = 1.0005
"""An interval so near its bound is as good as the least: the event simulation is trusted to 5 per cent."""


def schedule_loop(loop: LoopKernel, time_limit_s: float = 2.0) -> PipelineSchedule | None:
    """The least interval found in time with a proven bound; ``None`` where no slots let the loop run.

    Lexicographic: interval, then span (prologue and epilogue), then bytes of rings. Of a loop that is gone through
    once, the span counts first.
    """
    bound = least_interval(loop)
    found = None if bound is None else list_schedule(loop, bound.ps)
    if bound is None or found is None:
        return None
    effort = _Effort(time_limit_s)
    pairs = pairs_to_order(loop)
    if _value(loop, found) > NEAR * bound.ps and pairs <= MOST_PAIRS:
        found, bound = _least(loop, found, bound, effort)
    if 0 < pairs <= SECOND_PAIRS:
        found = _second(loop, found, effort)
    first = min(found.start_ps)
    made = PipelineSchedule(
        loop=loop.fingerprint,
        ii_ps=found.ii_ps,
        start_ps=tuple(start - first for start in found.start_ps),
        slots=found.slots,
        lead=found.lead,
        bound_ps=min(bound.ps, _value(loop, found)),
        bound_by=bound.by,
    )
    return _doubled(loop, made)


def _doubled(loop: LoopKernel, schedule: PipelineSchedule) -> PipelineSchedule:
    """The same with a second slot for each ring while there is room.

    The interval does not need them; moves that L2 holds up for a while do.
    """
    for ring in sorted(loop.rings, key=lambda ring: ring.size_bytes):
        if schedule.slots[ring.key] == 1 and ring.most > 1:
            more = schedule.model_copy(update={"slots": {**schedule.slots, ring.key: 2}})
            schedule = schedule if objection(loop, more) else more
    return schedule


def _value(loop: LoopKernel, found: Modulo) -> int:
    return found.ii_ps if loop.cyclic else span_ps(loop, found.start_ps)


def _least(loop: LoopKernel, found: Modulo, bound: Bound, effort: _Effort) -> tuple[Modulo, Bound]:
    """The least interval by CP-SAT, lead by lead; the bound is the least that any lead allows."""
    proven: list[Bound] = []
    owns = {
        lead: own
        for lead in range(loop.most_lead + 1)
        if (own := interval_bound(loop, lead) if loop.cyclic else shortest_iteration(loop)) is not None
    }
    for lead in sorted(owns, key=lambda lead: lead != found.lead):
        own = owns[lead]
        worth = [other for other, least in owns.items() if least.ps < _value(loop, found)]
        seconds = effort.left / max(1, len(worth) - len(proven))
        if lead not in worth or seconds <= 0.01:
            proven.append(own)
            continue
        model = ModuloModel(loop, own, replace(found, lead=lead))
        model.least_interval()
        solver, status = effort.solve(model, seconds)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            better = _tidied(loop, model.read(solver), own.ps)
            found = better if _value(loop, better) <= _value(loop, found) else found
        known = own.ps
        if status == cp_model.INFEASIBLE:  # nothing at this lead is as short as what is known
            known = _value(loop, found)
        elif status != cp_model.MODEL_INVALID:
            known = max(own.ps, round(solver.best_objective_bound))
        by = f"CP-SAT, up to {MOST_STAGES} iterations in flight" if known > own.ps else own.by
        proven.append(Bound(known, by))
    return found, min(proven, key=lambda one: one.ps, default=bound)


def _second(loop: LoopKernel, found: Modulo, effort: _Effort) -> Modulo:
    """Shortest span at the interval, then fewest bytes at both."""
    for bytes_ in (False, True):
        seconds = min(SECOND_S, effort.left)
        if seconds <= 0.01:
            break
        model = ModuloModel(loop, Bound(found.ii_ps, ""), found)
        if bytes_:
            model.fewest_bytes(found.ii_ps, span_ps(loop, found.start_ps))
        else:
            model.shortest_span(found.ii_ps)
        solver, status = effort.solve(model, seconds)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            better = _tidied(loop, model.read(solver), found.ii_ps)
            found = min(found, better, key=lambda one: one.rank(loop))
    return found


def _tidied(loop: LoopKernel, found: Modulo, at_least_ps: int) -> Modulo:
    """The better of a schedule and the same tightened."""
    tidy = tightened(loop, found, min(at_least_ps, found.ii_ps))
    return min(found, tidy, key=lambda one: one.rank(loop))


class _Effort:
    """Seconds of search that are left, as CP-SAT counts them by its steps: a search ends the same everywhere."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def solve(self, model: ModuloModel, seconds: float) -> tuple[cp_model.CpSolver, cp_model.CpSolverStatus]:
        """Search for so long."""
        solver = cp_model.CpSolver()
        solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
        solver.parameters.max_deterministic_time = seconds
        solver.parameters.num_workers = 1
        solver.parameters.linearization_level = 2  # without, cycles of conditional constraints are crept around
        status = solver.solve(model.model)
        self.left -= solver.response_proto.deterministic_time
        return solver, status
