"""Two-level graph scheduling, from problem to steps with a bound, inside a time limit.

Small graphs are enumerated, chains walked. Everything else starts from the cheapest cuts of several orders (beside
products of one input in a step of their own), is annealed, and, where time is left, goes through the model over the
pool of steps that were seen, which recombines what different sequences found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from formulations.subgraphs.bounds import bounds
from formulations.subgraphs.sequence import Chosen, Sequences
from instances.errors import NoScheduleError
from instances.subgraphs import SubgraphProblem, SubgraphSolution
from solvers.subgraphs.exact import MOST_OPERATORS, is_chain, solve_chain, solve_exactly
from solvers.subgraphs.search import Annealer, siblings_joined, starts
from solvers.subgraphs.steps import as_solution

LIMITS = ((5, 2.0), (20, 5.0), (32, 15.0), (63, 30.0), (103, 60.0))
"""Operators up to which, and the seconds that are given, as in the contest; beyond, 120."""

SHARES = {"starts": 0.35, "annealing": 0.85}
"""Shares of the time at which a stage ends."""

POOL = 90
"""Columns of the model over the pool."""

ELITE = 12
"""Sequences whose steps are the pool."""


@dataclass(frozen=True)
class SubgraphResult:
    """Steps, their latency, and the best bound with its argument.

    ``covers`` says over which solutions the bound holds, and ``optimal`` whether it is met.
    """

    solution: SubgraphSolution
    latency: float
    bounds: dict[str, float]
    solver: str
    runtime_s: float
    priced: int
    covers: str

    @property
    def bound_by(self) -> str:
        """The argument of the best bound."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def bound(self) -> float:
        """The best bound."""
        return self.bounds[self.bound_by]

    @property
    def gap(self) -> float:
        """Distance of the latency from the bound, relative to the latency."""
        return max(0.0, (self.latency - self.bound) / self.latency) if self.latency else 0.0

    @property
    def optimal(self) -> bool:
        """Whether the bound is met, but for rounding."""
        return self.gap < 1e-9


ALL = "all solutions under the rules"
EVEN = "all sequences of groups with retention and repetition, tiles cut evenly and walked in snakes"


def default_limit(problem: SubgraphProblem) -> float:
    """The contest's seconds for a problem of this size."""
    return next((seconds for operators, seconds in LIMITS if problem.count <= operators), 120.0)


def solve(
    problem: SubgraphProblem,
    time_limit: float | None = None,
    seed: int = 0,
    workers: int = 0,
    on_better: Callable[[float, str], None] = lambda latency, stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SubgraphResult:
    """The best steps found in time, or until ``should_stop`` says so.

    Raises
    ------
    NoScheduleError
        Where an operator fits fast memory in no tile, or nothing was found in time.
    """
    started = time.monotonic()
    limit = default_limit(problem) if time_limit is None else time_limit
    sequences = Sequences(problem)
    proven = bounds(problem)

    def spent() -> float:
        return 1.0 if should_stop() else (time.monotonic() - started) / limit

    def finished(chosen: Chosen, solver: str, covers: str) -> SubgraphResult:
        solution = as_solution(sequences, chosen)
        runtime = time.monotonic() - started
        return SubgraphResult(solution, chosen.latency, proven, solver, runtime, sequences.pricer.priced, covers)

    if is_chain(problem) or problem.count <= MOST_OPERATORS:
        exact = solve_chain(sequences) if is_chain(problem) else solve_exactly(sequences, lambda: spent() > 0.6)
        if exact is not None:
            proven["enumeration"] = exact.latency
            return finished(exact, "exact", EVEN)
    elite: list[Chosen] = []

    def better(chosen: Chosen) -> None:
        elite.append(chosen)
        del elite[:-ELITE]
        on_better(chosen.latency, "annealing")

    found = starts(sequences, seed, lambda: spent() > SHARES["starts"])
    if not found:
        raise NoScheduleError(
            f"no step fits {problem.fast_memory_capacity} elements of fast memory for some operator; raise the capacity"
        )
    joined = [siblings_joined(sequences, chosen) for chosen in found[:4]]
    best = min([*found, *joined], key=lambda item: item.latency)
    on_better(best.latency, "cuts")
    if best.latency > max(proven.values()) * (1 + 1e-9):
        opened = spent()
        share = SHARES["annealing"] - opened
        annealer = Annealer(sequences, seed, lambda: 1 - (spent() - opened) / share if share > 0 else 0.0)
        best = annealer.run(best, better)
        best = _recombined(sequences, [best, *elite, *joined], best, limit * (1 - spent()) - 0.3, seed, workers)
    return finished(best, "annealing", ALL)


def _recombined(
    sequences: Sequences, pool: list[Chosen], best: Chosen, seconds: float, seed: int, workers: int
) -> Chosen:
    """The best sequence over the steps of several, by CP-SAT; the best of them where there is no time."""
    if seconds < 0.5:
        return best
    from ortools.sat.python import cp_model

    from formulations.subgraphs.master import Master, columns_of

    master = Master(sequences, columns_of(sequences, pool, POOL))
    master.hint(best)
    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = workers
    if solver.solve(master.model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return best
    found = sequences.evaluate(master.read(solver), best.latency)
    return found if found is not None else best
