"""The joint model on CP-SAT, seeded with the greedy schedule so that any time limit gives a valid answer."""

from __future__ import annotations

import threading

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.plan import Decisions, build_schedule, time_decisions
from instances.errors import NoScheduleError
from instances.instance import Instance
from instances.schedule import Schedule
from solvers.bounds import analytic_bounds, prove
from solvers.interface import Event, Options, Result
from solvers.sequential import greedy_schedule

RESERVE_S = 0.5
"""Seconds kept back for reading the answer back, replaying it and writing it."""


def solve_cpsat(instance: Instance, options: Options) -> Result:
    """The best schedule that the joint model finds in time, with the best of all bounds."""
    facts = Facts(instance)
    progress = _Progress(options)
    bounds = analytic_bounds(facts, min(20.0, 0.2 * options.remaining_s))
    progress.bound(max(bounds.values()), max(bounds, key=lambda argument: bounds[argument]))
    best = greedy_schedule(facts, bounds)
    progress.objective(best.latency_ns, "greedy")
    if options.warm_start is not None and options.warm_start.latency_ns < best.latency_ns:
        best = options.warm_start
        progress.objective(best.latency_ns, "warm start")
    model = JointModel(instance, best.latency_ns, options.leave_out)
    model.model.add(model.latency >= max(bounds.values()))
    try:
        model.hint(best)
    except ValueError as error:  # a warm start from outside the candidates still stands, as a horizon
        if options.log:
            options.log(f"no hint: {error}")
    decisions, proven = _search(model, options, progress)
    bounds["cp-sat"] = max(0, proven)
    if decisions is not None:
        found = _schedule(facts, decisions, bounds)
        if found is not None and found.latency_ns <= best.latency_ns:
            best = found
    proof = prove(facts, "cpsat", best.latency_ns, bounds)
    best = best.model_copy(update={"proof": proof}).sealed()
    progress.bound(proof.bound_ns, proof.bound_by)
    return Result(best, options.elapsed_s, options.worker_count, options.seed, tuple(progress.events))


def _schedule(facts: Facts, decisions: Decisions, bounds: dict[str, int]) -> Schedule | None:
    latency = max(
        [
            *time_decisions(facts, decisions).end,
            *(move.start_ns + facts.move_ns(move.tensor) for move in decisions.moves),
        ]
    )
    try:
        return build_schedule(facts, decisions, prove(facts, "cpsat", latency, bounds))
    except NoScheduleError:
        return None


def _search(model: JointModel, options: Options, progress: _Progress) -> tuple[Decisions | None, int]:
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
        return model.read_back(solver.value), _whole_bound(solver)
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
