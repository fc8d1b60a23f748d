"""Two-level graph scheduling (MLSys 2026 contest): read, solve, judge, write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from instances.errors import InvalidScheduleError
from instances.subgraphs import (
    SubgraphProblem,
    SubgraphSolution,
    read_subgraph_problem,
    read_subgraph_solution,
    write_subgraph_solution,
)
from opt.replay.subgraphs import Rules, SolutionVerdict, judge_solution

if TYPE_CHECKING:
    from solvers.subgraphs.solve import SubgraphResult

__all__ = [
    "Rules",
    "default_limit",
    "judge_solution",
    "read_subgraph_problem",
    "read_subgraph_solution",
    "solve_subgraphs",
    "write_subgraph_solution",
]

TOLERANCE = 1e-6
"""Relative difference between the solver's sum of latencies and the judge's that is rounding."""


def default_limit(problem: SubgraphProblem) -> float:
    """The contest's seconds for a problem of this size."""
    from solvers.subgraphs.solve import default_limit as seconds

    return seconds(problem)


def solve_subgraphs(
    problem: SubgraphProblem | str | Path,
    *,
    time_limit: float | None = None,
    seed: int = 0,
    workers: int = 0,
    on_better: Callable[[float, str], None] = lambda latency, stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[SubgraphResult, SolutionVerdict]:
    """Steps for a graph on a two-level memory, with a bound; they have passed the judge.

    Parameters
    ----------
    problem
        The problem, or the path of its file.
    time_limit
        Seconds; ``None``: what the contest gives a problem of this size.
    seed, workers
        Of the search.
    on_better
        Called with each better latency and the stage that found it.
    should_stop
        Asked many times a second; where it says so, the best so far is the answer.

    Raises
    ------
    NoScheduleError
        Where some operator fits fast memory in no tile.
    InvalidScheduleError
        If the answer fails the judge.
    """
    from solvers.subgraphs.solve import solve

    asked = problem if isinstance(problem, SubgraphProblem) else read_subgraph_problem(problem)
    result = solve(asked, time_limit, seed, workers, on_better, should_stop)
    return result, judged(asked, result.solution, result.latency)


def judged(problem: SubgraphProblem, solution: SubgraphSolution, latency: float) -> SolutionVerdict:
    """The judge's verdict on a solver's steps; :class:`InvalidScheduleError` where the two disagree."""
    verdict = judge_solution(problem, solution)
    if verdict.faults:
        raise InvalidScheduleError(f"the solver's steps break a rule: {verdict.faults[0]}")
    if abs(verdict.latency - latency) > TOLERANCE * max(1.0, latency):
        raise InvalidScheduleError(f"the solver says {latency}, the judge {verdict.latency}")
    return verdict
