"""The joint model on CP-SAT, seeded with heuristic schedules so that any time limit gives a valid answer."""

from __future__ import annotations

import threading

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.joint_answers import hint, read_back
from formulations.plan import Decisions, build_schedule, time_decisions
from instances.errors import NoScheduleError
from instances.instance import Instance
from instances.schedule import Schedule
from solvers.anneal import Annealer
from solvers.bounds import prove, quick_bounds, relaxation_bound
from solvers.interface import Event, Options, Result
from solvers.sequential import choose_by_bytes_saved, greedy_schedule

RESERVE_S = 0.5
"""Seconds kept back for reading the answer back, replaying it and writing it."""

ANNEAL_SHARE, ANNEAL_MOST_S = 0.2, 10.0
"""Share of the remaining time that annealing gets, and its most."""

RELAX_SHARE, RELAX_MOST_S = 0.35, 20.0
"""Share of the remaining time that the relaxation gets, and its most."""


def solve_cpsat(instance: Instance, options: Options) -> Result:
    """The best schedule found in time, with the best of all bounds.

    Greedy first, then annealing, then the static relaxation with the latency found as its horizon, then the joint
    model on CP-SAT with the best schedule as a complete hint and the best bound as a constraint.
    """
    facts = Facts(instance)
    progress = _Progress(options)
    bounds = quick_bounds(facts, min(5.0, 0.1 * options.remaining_s))
    progress.bound(max(bounds.values()), max(bounds, key=lambda argument: bounds[argument]))
    best = greedy_schedule(facts, bounds)
    progress.objective(best.latency_ns, "greedy")
    if options.warm_start is not None and options.warm_start.latency_ns < best.latency_ns:
        best = options.warm_start
        progress.objective(best.latency_ns, "warm start")
    annealed = _anneal(facts, options, best, bounds)
    if annealed.latency_ns < best.latency_ns:
        best = annealed
        progress.objective(best.latency_ns, "annealing")
    bounds["relaxation"] = _relax(facts, options, best.latency_ns)
    progress.bound(bounds["relaxation"], "relaxation")
    if max(bounds.values()) < (1 - options.gap) * best.latency_ns:
        found, bounds["cp-sat"] = _search(facts, best, bounds, options, progress)
        if found is not None and found.latency_ns < best.latency_ns:
            best = found
    proof = prove(facts, "cpsat", best.latency_ns, bounds)
    best = best.model_copy(update={"proof": proof}).sealed()
    progress.bound(proof.bound_ns, proof.bound_by)
    return Result(best, options.elapsed_s, options.worker_count, options.seed, tuple(progress.events))


def _anneal(facts: Facts, options: Options, best: Schedule, bounds: dict[str, int]) -> Schedule:
    """Annealing from the greedy cover for a share of the time; the better of its result and ``best``."""
    annealer = Annealer(facts, options.seed)
    seconds = min(ANNEAL_MOST_S, ANNEAL_SHARE * options.remaining_s)
    improved = annealer.improve(annealer.first_state(frozenset(choose_by_bytes_saved(facts))), seconds, options)
    schedule = annealer.schedule(*improved, bounds) if improved else None
    return schedule if schedule is not None and schedule.latency_ns < best.latency_ns else best


def _relax(facts: Facts, options: Options, horizon_ns: int) -> int:
    """The relaxation's bound: without the horizon first, which is quick, then with it for what time is granted.

    Under a deterministic limit the clock must not decide, so the quick one has to do.
    """
    quick = relaxation_bound(facts, None, min(RELAX_MOST_S, RELAX_SHARE * options.remaining_s))
    if options.deterministic_limit is not None:
        return quick
    seconds = min(RELAX_MOST_S, RELAX_SHARE * options.remaining_s)
    return max(quick, min(horizon_ns, relaxation_bound(facts, horizon_ns, seconds)))


def _search(
    facts: Facts, best: Schedule, bounds: dict[str, int], options: Options, progress: _Progress
) -> tuple[Schedule | None, int]:
    """The joint model from the best schedule on: a schedule, if one was found, and the proven bound (ns)."""
    model = JointModel(facts.instance, best.latency_ns, options.leave_out)
    model.model.add(model.latency >= max(bounds.values()))
    try:
        hint(model, best)
    except ValueError as error:  # a warm start from outside the candidates still stands, as a horizon
        if options.log:
            options.log(f"no hint: {error}")
    decisions, proven = _run(model, options, progress)
    if decisions is None:
        return None, proven
    timing = time_decisions(facts, decisions)
    moved = [move.start_ns + facts.move_ns(move.tensor) for move in decisions.moves]
    latency = max([*timing.end, *moved])
    proof = prove(facts, "cpsat", latency, bounds)
    try:
        return build_schedule(facts, decisions, proof), proven
    except NoScheduleError:  # counts of cores fit, but no assignment pairs every cube core with its vector cores
        return None, proven


def _run(model: JointModel, options: Options, progress: _Progress) -> tuple[Decisions | None, int]:
    """Run CP-SAT; the decisions of the last solution, if any, and the proven bound (ns)."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = options.worker_count
    parameters.random_seed = options.seed
    parameters.relative_gap_limit = options.gap
    parameters.max_time_in_seconds = max(0.05, options.remaining_s - RESERVE_S)
    if options.deterministic_limit is not None:
        parameters.max_deterministic_time = options.deterministic_limit
    if options.log:
        parameters.log_search_progress = True
        parameters.log_to_stdout = False
        solver.log_callback = options.log
    watcher = _Watcher(progress)
    solver.best_bound_callback = lambda bound: progress.bound(round(bound), "cp-sat")
    status = solver.solve(model.model, watcher)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return read_back(model, solver.value), _whole_bound(solver)
    if status == cp_model.UNKNOWN:
        return None, _whole_bound(solver)
    raise NoScheduleError(f"CP-SAT says {solver.status_name(status)} although a schedule is known: please report this")


def _whole_bound(solver: cp_model.CpSolver) -> int:
    """The objective is a whole number of ns, so its bound is one too."""
    return round(solver.best_objective_bound)


class _Watcher(cp_model.CpSolverSolutionCallback):
    """Reports solutions as they are found."""

    def __init__(self, progress: _Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        self._progress.objective(round(self.objective_value), "cp-sat")


class _Progress:
    """Monotone record of objective and bound; callbacks come from several threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._objective: int | None = None
        self._bound = 0
        self.events: list[Event] = []

    def objective(self, value_ns: int, source: str) -> None:
        """A schedule was found."""
        with self._lock:
            if self._objective is None or value_ns < self._objective:
                self._objective = value_ns
                self._emit(source)

    def bound(self, value_ns: int, source: str) -> None:
        """A bound was proven."""
        with self._lock:
            if value_ns > self._bound:
                self._bound = value_ns
                self._emit(source)

    def _emit(self, source: str) -> None:
        event = Event(self._options.elapsed_s, self._objective, self._bound, source)
        self.events.append(event)
        if self._options.on_event:
            self._options.on_event(event)
