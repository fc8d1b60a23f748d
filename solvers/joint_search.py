"""The joint model on CP-SAT, from the incumbent on."""

from __future__ import annotations

from ortools.sat.python import cp_model

from formulations.joint import JointModel
from formulations.joint_answers import hint, read_back
from instances.errors import NoScheduleError
from solvers.incumbent import Incumbent, Relaxing
from solvers.interface import Options

MODEL_S_PER_OPERATOR = 0.01
"""Seconds per operator that building and presolving the joint model take; with less left, it is not begun."""

LEAST_S = 0.05
"""Seconds that CP-SAT gets in any case."""


def new_solver(options: Options, seconds: float) -> cp_model.CpSolver:
    """CP-SAT with the parameters that every use of it here shares."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = options.worker_count
    parameters.random_seed = options.seed
    parameters.relative_gap_limit = options.gap
    parameters.max_time_in_seconds = max(LEAST_S, seconds)
    if options.deterministic_limit is not None:
        parameters.max_deterministic_time = options.deterministic_limit
    parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    if options.log:
        parameters.log_search_progress = True
        parameters.log_to_stdout = False
        solver.log_callback = options.log
    return solver


def worth_modelling(incumbent: Incumbent) -> bool:
    """Whether there is a gap to close, and time to build the model."""
    return not incumbent.over and incumbent.spare_s > MODEL_S_PER_OPERATOR * len(incumbent.facts.order)


def search_jointly(incumbent: Incumbent) -> None:
    """Search the joint model for the rest of the time, with the incumbent as a complete hint.

    Beside it the static relaxation runs with the incumbent's latency as its horizon, which proves more the better that
    latency is. Under a deterministic limit the clock must not decide: the relaxation is left out then, and the model
    gets no bound that a busier machine might not have proven in time.
    """
    facts, options = incumbent.facts, incumbent.options
    model = JointModel(facts.instance, incumbent.best.latency_ns, options.leave_out)
    model.model.add(model.latency >= incumbent.usable_bound_ns)
    try:
        hint(model, incumbent.best)
    except ValueError as error:  # a warm start from outside the candidates still stands, as a horizon
        if options.log:
            options.log(f"no hint: {error}")
    relaxing: Relaxing | None = None
    if options.deterministic_limit is None and incumbent.spare_s > incumbent.reserve_s:
        relaxing = Relaxing(incumbent, incumbent.best.latency_ns, incumbent.spare_s - incumbent.reserve_s)
    _run(model, incumbent)
    if relaxing is not None and not incumbent.progress.stopped:
        relaxing.wait(incumbent.spare_s + incumbent.reserve_s / 2)


def _run(model: JointModel, incumbent: Incumbent) -> None:
    """Solve; solutions and CP-SAT's own bound go to the incumbent as they come."""
    options, progress = incumbent.options, incumbent.progress
    solver = new_solver(options, incumbent.spare_s)
    solver.best_bound_callback = lambda bound: progress.bound(round(bound), "cp-sat")
    with incumbent.watching(solver.stop_search):
        status = solver.solve(model.model, _Watcher(incumbent, model))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        name = solver.status_name(status)
        raise NoScheduleError(f"CP-SAT says {name} although a schedule is known: please report this")
    proven = round(solver.best_objective_bound)  # a whole number of ns, like the objective
    if proven > 0:
        incumbent.prove({"cp-sat": proven})


class _Watcher(cp_model.CpSolverSolutionCallback):
    """Offers solutions as they are found."""

    def __init__(self, incumbent: Incumbent, model: JointModel) -> None:
        super().__init__()
        self._incumbent, self._model = incumbent, model

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        self._incumbent.offer_decisions(read_back(self._model, self.value), "cp-sat")
