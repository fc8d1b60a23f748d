"""Small tasks of tile operations, exactly: the joint model in CP-SAT."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ortools.sat.python import cp_model

from formulations.intracore.decisions import answer_of, decisions_of, makespan_of, residency_of, traffic_of
from formulations.intracore.model import MemoryForm, OrderForm, Problem, TileModel
from formulations.intracore.reading import hint as hint_answer
from formulations.intracore.reading import read
from instances.errors import InfeasibleError
from instances.intracore import Place, TileAnswer, TileTask


@dataclass(frozen=True)
class ExactResult:
    """An answer (or ``None``), its objective, and a bound that no answer goes below (``None``: nothing proven)."""

    answer: TileAnswer | None
    objective: int | None
    bound: int | None
    runtime_s: float

    @property
    def optimal(self) -> bool:
        """Whether the bound meets the objective."""
        return self.objective is not None and self.objective == self.bound


def value_of(task: TileTask, answer: TileAnswer, problem: Problem) -> int:
    """The objective of a legal answer."""
    decisions = decisions_of(task, answer)
    if problem == 1:
        return residency_of(task, decisions.operations)
    return traffic_of(task, decisions.stays) if problem == 2 else makespan_of(task, decisions)


def _fits(task: TileTask) -> None:
    """:class:`InfeasibleError` where the buffers of an operation are larger than their memory."""
    for op in task.operations:
        needed: dict[Place, int] = {}
        for buffer in dict.fromkeys(op.buffers):
            one = task.buffer[buffer]
            needed[one.place] = needed.get(one.place, 0) + one.size
        for place, units in needed.items():
            if units > task.capacity[place]:
                room = task.capacity[place]
                raise InfeasibleError(f"node {op.id} needs {units} units of {place.value}, which has {room}; cut it")


@contextmanager
def _watching(should_stop: Callable[[], bool] | None, stop: Callable[[], None]) -> Iterator[None]:
    """Calls ``stop`` while ``should_stop`` says so."""
    if should_stop is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if should_stop():
                stop()  # again and again: a search that has not begun yet does not hear it

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def solve_exact(
    task: TileTask,
    problem: Problem,
    time_limit_s: float = 60.0,
    workers: int = 1,
    seed: int = 0,
    hint: TileAnswer | None = None,
    most_traffic: int | None = None,
    most_spills: int | None = None,
    single_l0: bool = False,
    memory_form: MemoryForm | None = None,
    order_form: OrderForm = "places",
    should_stop: Callable[[], bool] | None = None,
    least: int = 0,
) -> ExactResult:
    """Solve one sub-problem of a small task; :class:`InfeasibleError` where no answer exists.

    Parameters
    ----------
    hint
        A legal answer to start from.
    most_traffic
        Bound on the extra traffic, for sub-problem 3 above all.
    most_spills
        Spills of one buffer; with it, no bound is given in 2 and 3 unless it is as many as can be of use.
    should_stop
        Asked every twentieth of a second; where it says so, the best so far is the answer.
    least
        A proven bound of the objective, such as those of :mod:`formulations.intracore.bounds`; the model is told of it.
    """
    begun = time.monotonic()
    if problem > 1:
        _fits(task)
    model = TileModel(task, problem, most_traffic, most_spills, single_l0, memory_form, order_form)
    model.at_least(least)
    if hint is not None:
        hint_answer(model, hint)
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    solver.parameters.max_time_in_seconds = max(0.1, time_limit_s - (time.monotonic() - begun))
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    with _watching(should_stop, solver.stop_search):
        status = solver.solve(model.model)
    whole = most_spills is None or most_spills + 1 >= max(map(len, task.users.values()), default=1)
    if status == cp_model.INFEASIBLE and whole:
        raise InfeasibleError(f"{task.name} has no answer within its memories and limits; allow more of either")
    bound = None
    if whole and status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        proven = solver.best_objective_bound
        bound = max(0, math.ceil(proven - 1e-6)) // model.scale if math.isfinite(proven) else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return ExactResult(None, None, bound, time.monotonic() - begun)
    answer = answer_of(task, read(model, solver.value), addresses=problem > 1)
    return ExactResult(answer, value_of(task, answer, problem), bound, time.monotonic() - begun)
