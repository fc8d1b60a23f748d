"""The joint model on CP-SAT, seeded with heuristic schedules so that any time limit gives a valid answer."""

from __future__ import annotations

import threading
from collections.abc import Callable

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
from solvers.periodic import anneal_periodic
from solvers.sequential import greedy_schedule

RESERVE_S, RESERVE_S_PER_OPERATOR = 0.5, 0.0015
"""Seconds kept back for reading the answer back, replaying it and writing it: for any, and for each operator."""

ANNEAL_SHARE, ANNEAL_MOST_S = 0.2, 10.0
"""Share of the remaining time that annealing gets, and its most."""

PERIODIC_SHARE = 0.5
"""Share of the remaining time in which the blocks of a large model are annealed together, before that."""

RELAX_PATIENCE = 0.1
"""Share of the remaining time that is spent waiting for the quick relaxation after annealing."""


MODEL_S_PER_OPERATOR = 0.01
"""Seconds per operator that building and presolving the joint model take; with less left, it is not begun."""


def solve_cpsat(instance: Instance, options: Options) -> Result:
    """The best schedule found in time, with the best of all bounds.

    Greedy first; then annealing; then the joint model on CP-SAT with the best schedule as a complete hint. Beside the
    annealing, and again beside CP-SAT, the static relaxation runs in a thread of its own: first without a horizon,
    which is quick, then with the annealed latency as its horizon, which proves more the better that latency is.
    """
    facts = Facts(instance)
    progress = _Progress(options)
    bounds = quick_bounds(facts, min(5.0, 0.1 * options.remaining_s))
    progress.bound(max(bounds.values()), max(bounds, key=lambda argument: bounds[argument]))
    best = greedy = greedy_schedule(facts, bounds)
    progress.objective(best.latency_ns, "greedy")
    if options.warm_start is not None and options.warm_start.latency_ns < best.latency_ns:
        best = options.warm_start
        progress.objective(best.latency_ns, "warm start")
    quick = _Relaxing(facts, None, ANNEAL_SHARE * options.remaining_s + 1.0)
    annealed = anneal(facts, options, greedy, best, bounds)
    if annealed.latency_ns < best.latency_ns:
        best = annealed
        progress.objective(best.latency_ns, "annealing")
    _strengthen(bounds, min(best.latency_ns, quick.result(RELAX_PATIENCE * options.remaining_s)))
    progress.bound(max(bounds.values()), "relaxation")
    worthwhile = options.remaining_s > _reserve_s(facts) + MODEL_S_PER_OPERATOR * len(facts.order)
    if worthwhile and max(bounds.values()) < (1 - options.gap) * best.latency_ns:
        best = _search(facts, best, bounds, options, progress)
    proof = prove(facts, "cpsat", best.latency_ns, bounds)
    best = best.model_copy(update={"proof": proof}).sealed()
    progress.bound(proof.bound_ns, proof.bound_by)
    return Result(best, options.elapsed_s, options.worker_count, options.seed, tuple(progress.events))


def anneal(facts: Facts, options: Options, greedy: Schedule, best: Schedule, bounds: dict[str, int]) -> Schedule:
    """Annealing from the greedy cover for a share of the time; the better of its result and ``best``.

    Large models with repeated blocks are annealed block by block first, all blocks alike.
    """
    annealer = Annealer(facts, options.seed)
    number = {candidate.operators: g for g, candidate in enumerate(facts.instance.candidates)}
    groups = frozenset(number[kernel.operators] for kernel in greedy.kernels)
    first = annealer.first_state(groups)
    if facts.large:
        unrolled = anneal_periodic(facts, groups, PERIODIC_SHARE * options.remaining_s, options, bounds)
        if unrolled is not None:
            first = unrolled[0]
            best = min(best, unrolled[1], key=lambda schedule: schedule.latency_ns)
    seconds = min(ANNEAL_MOST_S, ANNEAL_SHARE * options.remaining_s)
    improved = annealer.improve(first, seconds, options)
    schedule = annealer.schedule(*improved, bounds) if improved else None
    return schedule if schedule is not None and schedule.latency_ns < best.latency_ns else best


def _strengthen(bounds: dict[str, int], relaxation_ns: int) -> None:
    """Enter what the relaxation has proven, if anything."""
    if relaxation_ns > 0:
        bounds["relaxation"] = max(relaxation_ns, bounds.get("relaxation", 0))


def _reserve_s(facts: Facts) -> float:
    """Seconds to keep back."""
    return RESERVE_S + RESERVE_S_PER_OPERATOR * len(facts.order)


class _Relaxing:
    """The relaxation's bound, computed in a thread of its own: HiGHS lets Python and CP-SAT go on meanwhile."""

    def __init__(
        self, facts: Facts, horizon_ns: int | None, seconds: float, when_done: Callable[[int], None] | None = None
    ) -> None:
        self._bound = 0
        self._arguments = (facts, horizon_ns, seconds)
        self._when_done = when_done
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._bound = relaxation_bound(*self._arguments)
        if self._when_done:
            self._when_done(self._bound)

    def result(self, patience_s: float | None = None) -> int:
        """The bound (ns), once the thread is done; 0 if it is not after ``patience_s``."""
        self._thread.join(patience_s)
        return self._bound


def _search(facts: Facts, best: Schedule, bounds: dict[str, int], options: Options, progress: _Progress) -> Schedule:
    """The joint model from the best schedule on; the better of what it finds and ``best``. Adds to ``bounds`` (ns).

    Under a deterministic limit the clock must not decide: the relaxation with a horizon is left out, and the model
    gets no bound that a busier machine might not have proven in time.
    """
    model = JointModel(facts.instance, best.latency_ns, options.leave_out)
    known = bounds["hbm_traffic"] if options.deterministic_limit is not None else max(bounds.values())
    model.model.add(model.latency >= known)
    try:
        hint(model, best)
    except ValueError as error:  # a warm start from outside the candidates still stands, as a horizon
        if options.log:
            options.log(f"no hint: {error}")
    run = _Run(model, options, progress)
    relaxing: _Relaxing | None = None
    reserve = _reserve_s(facts)
    if options.deterministic_limit is None and options.remaining_s > 2 * reserve:
        seconds = options.remaining_s - 2 * reserve
        relaxing = _Relaxing(facts, best.latency_ns, seconds, run.bound_proven)
    decisions = run.solve()
    if relaxing is not None:
        patience = 0.0 if run.closed else max(0.0, options.remaining_s - reserve / 2)
        _strengthen(bounds, min(best.latency_ns, relaxing.result(patience)))
    if run.proven_ns > 0:
        bounds["cp-sat"] = run.proven_ns
    if decisions is None:
        return best
    latency = time_decisions(facts, decisions).latency_ns
    try:
        found = build_schedule(facts, decisions, prove(facts, "cpsat", latency, bounds))
    except NoScheduleError:  # counts of cores fit, but no assignment pairs every cube core with its vector cores
        return best
    return found if found.latency_ns < best.latency_ns else best


class _Run:
    """One run of CP-SAT on the joint model, which stops when bounds from elsewhere close the gap."""

    def __init__(self, model: JointModel, options: Options, progress: _Progress) -> None:
        self._model = model
        self._options = options
        self._progress = progress
        self._solver = cp_model.CpSolver()
        self._watcher = _Watcher(progress, self._stop_if_closed)
        self.proven_ns = 0
        self.closed = False

    def bound_proven(self, bound_ns: int) -> None:
        """Take note of a bound from another argument; stop if it is close enough to the best schedule."""
        self._progress.bound(bound_ns, "relaxation")
        self._stop_if_closed()

    def _stop_if_closed(self) -> None:
        if self._progress.gap <= self._options.gap:
            self.closed = True
            self._solver.stop_search()

    def solve(self) -> Decisions | None:
        """Decisions of the last solution, if any; :attr:`proven_ns` is CP-SAT's own bound after that."""
        solver, options = self._solver, self._options
        parameters = solver.parameters
        parameters.num_workers = options.worker_count
        parameters.random_seed = options.seed
        parameters.relative_gap_limit = options.gap
        parameters.max_time_in_seconds = max(0.05, options.remaining_s - _reserve_s(self._model.facts))
        if options.deterministic_limit is not None:
            parameters.max_deterministic_time = options.deterministic_limit
        if options.log:
            parameters.log_search_progress = True
            parameters.log_to_stdout = False
            solver.log_callback = options.log
        solver.best_bound_callback = lambda bound: self._progress.bound(round(bound), "cp-sat")
        status = solver.solve(self._model.model, self._watcher)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
            name = solver.status_name(status)
            raise NoScheduleError(f"CP-SAT says {name} although a schedule is known: please report this")
        self.proven_ns = max(0, round(solver.best_objective_bound))  # a whole number of ns, like the objective
        return None if status == cp_model.UNKNOWN else read_back(self._model, solver.value)


class _Watcher(cp_model.CpSolverSolutionCallback):
    """Reports solutions as they are found."""

    def __init__(self, progress: _Progress, then: Callable[[], None]) -> None:
        super().__init__()
        self._progress = progress
        self._then = then

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        self._progress.objective(round(self.objective_value), "cp-sat")
        self._then()


class _Progress:
    """Monotone record of objective and bound; callbacks come from several threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._objective: int | None = None
        self._bound = 0
        self.events: list[Event] = []

    @property
    def gap(self) -> float:
        """Relative distance of the best latency from the best bound; 1 before there is a schedule."""
        return 1.0 if self._objective is None else (self._objective - self._bound) / self._objective

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
