"""Tensor replacement as library functions; every plan has passed its replay."""

from __future__ import annotations

import time
from pathlib import Path

from instances.documents import read_document, write_document
from instances.errors import InputError, TilewrightError
from instances.networks import load_network
from instances.replacement import MemoryMap, Plan, Problem
from opt.replay.replacement import map_faults, plan_faults
from solvers.interface import available_workers

DEFAULT, PROGRAMME = "exact", "milp"

SOLVERS = (DEFAULT, "packing-only", "intervals", PROGRAMME, "belady", "lru", "greedy", "order-first")
"""Who plans; ``milp:NAME`` is the programme by another solver of PuLP."""


def network(name: str, batch: int = 1, capacity_bytes: int | None = None) -> Problem:
    """A network as a replacement problem; without a capacity, for the smallest scratchpad that runs it."""
    whole = load_network(name, batch)
    return whole if capacity_bytes is None else within(whole, capacity_bytes)


def within(problem: Problem, capacity_bytes: int) -> Problem:
    """The problem for another scratchpad; :class:`InputError` where that is too small for an operator."""
    if capacity_bytes < problem.least_bytes:
        raise InputError(f"capacity {capacity_bytes} is too little: one operator touches {problem.least_bytes} bytes")
    return problem.within(capacity_bytes)


def load_problem(path: str | Path, capacity_bytes: int | None = None) -> Problem:
    """Read a problem, for another scratchpad where one is given."""
    problem = read_document(Problem, path)
    return problem if capacity_bytes is None else within(problem, capacity_bytes)


def load_plan(path: str | Path) -> Plan:
    """Read a plan."""
    return read_document(Plan, path)


def save_document(document: Problem | Plan | MemoryMap, path: str | Path) -> None:
    """Write a problem, a plan or a map, whole or not at all."""
    write_document(document, path)


def solve_replacement(
    problem: Problem, solver: str = DEFAULT, *, time_limit: float = 60.0, workers: int = 0, seed: int = 0
) -> Plan:
    """A plan of little traffic, replayed, with its bound.

    Parameters
    ----------
    solver
        One of :data:`SOLVERS`, or ``milp:NAME`` for a solver of PuLP.
    time_limit
        Seconds.
    workers
        Threads; 0 takes all CPUs.

    Raises
    ------
    InputError
        Where the solver is unknown.
    """
    name, _, engine = solver.partition(":")
    if name not in SOLVERS or (engine and name != PROGRAMME):
        raise InputError(f"replacement solver {solver!r} is unknown; choose from {', '.join(SOLVERS)} or milp:NAME")
    from formulations.replacement.facts import Facts
    from solvers.replacement import run_policy, solve_exactly
    from solvers.replacement.cpsat import plan_by_intervals
    from solvers.replacement.milp import solve_programme

    facts, threads = Facts(problem), workers or available_workers()
    if name in (DEFAULT, "packing-only"):
        plan = solve_exactly(facts, time_limit, threads, seed, fixed_order=name == "packing-only")
    elif name == "intervals":
        plan = plan_by_intervals(facts, time_limit, threads, seed)
    elif name == PROGRAMME:
        plan = solve_programme(facts, time_limit, engine or "HiGHS", threads)
    else:
        plan = run_policy(facts, name)
    if wrong := plan_faults(problem, plan):
        raise TilewrightError(f"the plan of {solver!r} is wrong, which is our mistake: {wrong[0]}")
    return plan


def load_map(path: str | Path) -> MemoryMap:
    """Read a memory map."""
    return read_document(MemoryMap, path)


def solve_mapping(
    problem: Problem, solver: str = DEFAULT, *, time_limit: float = 60.0, workers: int = 0, seed: int = 0
) -> MemoryMap:
    """Which tensors lie in fast memory for least time in the program's order, replayed, with a bound.

    ``solver`` is ``exact`` or ``greedy``; :class:`InputError` for another.
    """
    if solver not in (DEFAULT, "greedy"):
        raise InputError(f"solver {solver!r} makes no memory map; choose {DEFAULT} or greedy")
    from solvers.replacement.mapping import map_exactly, map_greedily

    threads = workers or available_workers()
    found = map_greedily(problem) if solver == "greedy" else map_exactly(problem, time_limit, threads, seed)
    if wrong := map_faults(problem, found):
        raise TilewrightError(f"the memory map of {solver!r} is wrong, which is our mistake: {wrong[0]}")
    return found


def timed(problem: Problem, solver: str, time_limit: float, workers: int, seed: int) -> tuple[Plan, float]:
    """A plan and the seconds it took."""
    started = time.monotonic()
    plan = solve_replacement(problem, solver, time_limit=time_limit, workers=workers, seed=seed)
    return plan, time.monotonic() - started
