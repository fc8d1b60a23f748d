"""Answers to the three sub-problems of tile operations, with bounds: annealing of the order, exact for small tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from formulations.intracore.bounds import residency_bounds, time_bounds, traffic_bounds
from instances.errors import InfeasibleError
from instances.intracore import COUNTED, TileAnswer, TileTask
from solvers.interface import available_workers
from solvers.intracore.exact import solve_exact
from solvers.intracore.runs import SLICE_S, Problem, Runs

RESERVE_S, RESERVE_SHARE = 0.1, 0.01
"""Time kept back for writing the answer down: seconds, and share of the limit."""

BOUND_SHARE, BOUND_MOST_S, BOUND_LONG_SHARE = 0.5, 30.0, 0.25
"""Share of the time that bounds may take up to so many seconds, and share beyond; the search goes on meanwhile.

Cuts for attention of 8 x 8 blocks take 100 s (sub-problem 1: 4,352 units before, 6,176 after).
"""

TRAFFIC_SHARE, LIMIT_SHARE = 0.4, 0.75
"""Share of the time of sub-problem 3 for an order of little traffic: where that sets the limit, and until it is met."""

EXACT_OPERATIONS, EXACT_SHARE = 24, 0.5
"""Largest task that the joint model is asked for, and the share of the time that is left for it."""

COVERS = {
    1: "all orders",
    2: "all orders, offsets, spills",
    3: "all orders, offsets, spills within the limit on extra traffic",
}


@dataclass(frozen=True)
class TileResult:
    """An answer, what it comes to, and the bounds on that.

    Parameters
    ----------
    problem
        1, 2 or 3.
    answer
        What is judged.
    objective
        Residency (units), extra traffic (units) or time (cycles).
    residency, traffic, makespan
        Of the answer; the latter two are 0 in sub-problem 1.
    bounds
        Argument -> what it proves about the objective.
    solver
        What found the answer.
    runtime_s
        Seconds.
    covers
        The answers for which the bounds hold.
    """

    problem: Problem
    answer: TileAnswer
    objective: int
    residency: int
    traffic: int
    makespan: int
    bounds: dict[str, int]
    solver: str
    runtime_s: float
    covers: str

    @property
    def bound_by(self) -> str:
        """The argument of the best bound."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def bound(self) -> int:
        """The best bound."""
        return self.bounds[self.bound_by]

    @property
    def gap(self) -> float:
        """Distance of the objective from the bound, relative to the objective."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0

    @property
    def optimal(self) -> bool:
        """Whether the bound is met."""
        return self.objective == self.bound


def solve(
    task: TileTask,
    problem: Problem,
    *,
    time_limit: float = 300.0,
    seed: int = 0,
    workers: int = 0,
    single_l0: bool = False,
    baseline_traffic: int | None = None,
    slack: float = 0.05,
    start: TileAnswer | None = None,
    on_better: Callable[[int, str], None] = lambda objective, stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TileResult:
    """Solve a sub-problem.

    Threads anneal the order apart (:mod:`solvers.intracore.runs`) while the bounds are proven. In sub-problem 3 a share
    of the time goes into an order of little traffic, unless ``start`` has one; the time is annealed from there.

    Parameters
    ----------
    time_limit
        Seconds; the very first run of an installation compiles for some seconds more.
    workers
        Threads; 0: as many as there are CPUs.
    single_l0
        Whether L0A, L0B and L0C hold one buffer at a time in sub-problems 2 and 3 too.
    baseline_traffic, slack
        In sub-problem 3 the extra traffic is at most ``baseline_traffic * (1 + slack)``; without a baseline it is the
        least that was found before time was looked at.
    start
        An answer to begin with, of any sub-problem.
    on_better
        Called with each better objective and the stage that found it.
    should_stop
        Asked many times a second; where it says so, the best so far is the answer.

    Raises
    ------
    InfeasibleError
        Where the buffers of one operation do not fit their memory, or no answer within the limit on traffic was found.
    """
    begun = time.monotonic()
    deadline = begun + time_limit * (1 - RESERVE_SHARE) - RESERVE_S
    runs = Runs(task, seed, workers or available_workers(), single_l0, start, should_stop)
    most: int | None = None
    if problem == 3:
        most = None if baseline_traffic is None else int(baseline_traffic * (1 + slack) + 1e-9)
        share = TRAFFIC_SHARE if most is None else LIMIT_SHARE if start is None else 0.0
        first = runs.go(2, until=begun + share * time_limit, enough=most or 0, on_better=lambda units, stage: None)
        if most is None:
            most = int(first.value * (1 + slack) + 1e-9)
    seconds = max(min(BOUND_MOST_S, BOUND_SHARE * time_limit), BOUND_LONG_SHARE * time_limit)
    seconds = min(seconds, max(0.0, deadline - time.monotonic()))
    proof = _Proof(task, problem, most, seconds)
    best = runs.go(problem, until=deadline, enough=0, on_better=on_better, bound=proof.best, most_traffic=most)
    if not should_stop():
        proof.wait(deadline)
    bounds = dict(proof.bounds)
    answer, solver = best.answer, best.stage
    objective = best.value
    if len(task.operations) <= EXACT_OPERATIONS and objective > max(bounds.values()) and not should_stop():
        found = _exactly(task, problem, deadline, runs, answer, most)
        if found is not None:
            if found[1] is not None:
                bounds["joint model"] = found[1]
            if found[0] is not None and (exact := runs.measure(problem, found[0])).value < objective:
                best, answer, solver, objective = exact, found[0], "joint model", exact.value
                on_better(objective, solver)
    if problem == 3 and most is not None and best.traffic > most:
        raise InfeasibleError(
            f"{task.name}: the least extra traffic found is {best.traffic}, above the {most} that are allowed; "
            "give more time, slack, or an answer to start with"
        )
    return TileResult(
        problem=problem,
        answer=answer,
        objective=objective,
        residency=best.residency,
        traffic=best.traffic,
        makespan=best.makespan,
        bounds={name: min(value, objective) for name, value in bounds.items()},
        solver=solver,
        runtime_s=time.monotonic() - begun,
        covers=COVERS[problem],
    )


class _Proof:
    """Bounds, proven in a thread of their own; those that take no time are there at once.

    An interrupted search does not wait for the rest.
    """

    def __init__(self, task: TileTask, problem: Problem, most_traffic: int | None, seconds: float) -> None:
        self.bounds = _quick_bounds(task, problem, most_traffic)
        self._thread = threading.Thread(target=self._prove, args=(task, problem, most_traffic, seconds), daemon=True)
        self._thread.start()

    def best(self) -> int:
        """The best bound so far."""
        return max(self.bounds.values())

    def wait(self, until: float) -> None:
        """Wait for the rest, at most until a moment and a little more."""
        self._thread.join(max(0.0, until - time.monotonic()) + SLICE_S)

    def _prove(self, task: TileTask, problem: Problem, most_traffic: int | None, seconds: float) -> None:
        if problem == 1:
            found = residency_bounds(task, seconds)
        else:
            found = traffic_bounds(task, seconds)
            if problem == 3:
                found = time_bounds(task, most_traffic, max(found.values()))
        self.bounds = self.bounds | found  # another dictionary: somebody may be reading the old one


def _quick_bounds(task: TileTask, problem: Problem, most_traffic: int | None) -> dict[str, int]:
    if problem == 1:
        size = {one.id: one.size if one.place in COUNTED else 0 for one in task.buffers}
        return {"operation": max(sum(size[buffer] for buffer in set(op.buffers)) for op in task.operations)}
    return {"deficit": 0} if problem == 2 else time_bounds(task, most_traffic)


def _exactly(
    task: TileTask, problem: Problem, deadline: float, runs: Runs, answer: TileAnswer, most: int | None
) -> tuple[TileAnswer | None, int | None] | None:
    left = deadline - time.monotonic()
    if left <= 0 or any(span != frozenset(task.users[buffer]) for buffer, span in task.spans.items()):
        return None  # the model has no room for operations that a buffer waits for and that do not use it
    found = solve_exact(
        task,
        problem,
        EXACT_SHARE * left if left > 2 else left,
        runs.workers,
        runs.seed,
        answer,
        most,
        single_l0=runs.single,
        should_stop=runs.should_stop,
    )
    return found.answer, found.bound
