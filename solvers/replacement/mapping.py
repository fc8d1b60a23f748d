"""Memory maps: the greedy one, by time saved per byte and step, and CP-SAT from there."""

from __future__ import annotations

import math

from ortools.sat.python import cp_model

from formulations.replacement.mapping import MappingModel
from instances.memory_time import Timing
from instances.replacement import MemoryMap, Placed, Problem
from solvers.interface import Options
from solvers.joint_search import new_solver


def map_greedily(problem: Problem) -> MemoryMap:
    """Tensors by what they save per byte and step of their life, each at the lowest address that is free for it."""
    timing = Timing(problem)

    def worth(name: str) -> float:
        first, last = timing.life(name)
        return timing.gain_ns(name) / (problem.room(name) * (last - first + 1))

    placed: list[tuple[int, int, int, int, str]] = []
    for name in sorted((t.name for t in problem.tensors if timing.gain_ns(t.name) > 0), key=lambda n: (-worth(n), n)):
        first, last = timing.life(name)
        room, at = problem.room(name), 0
        for low, high in sorted((o[2], o[3]) for o in placed if o[0] <= last and first <= o[1]):
            if low - at >= room:
                break
            at = max(at, high)
        if at + room <= problem.capacity_bytes:
            placed.append((first, last, at, at + room, name))
    fast = tuple(Placed(tensor=one[4], offset_bytes=one[2]) for one in placed)
    least = timing.total_ns({t.name for t in problem.tensors})
    time_ns = timing.total_ns({one.tensor for one in fast})
    return MemoryMap(
        problem=problem.fingerprint,
        solver="greedy",
        fast=fast,
        time_ns=time_ns,
        bound_ns=least,
        bound_by="all that gains in fast memory",
    )


def map_exactly(problem: Problem, time_limit_s: float, workers: int = 1, seed: int = 0) -> MemoryMap:
    """The map of least time that CP-SAT finds, with its bound."""
    greedy = map_greedily(problem)
    if greedy.time_ns == greedy.bound_ns:
        return greedy
    model = MappingModel(problem)
    model.hint(greedy)
    solver = new_solver(Options(workers=workers, seed=seed), time_limit_s)
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return greedy
    fast = model.read_back(solver)
    time_ns = Timing(problem).total_ns({one.tensor for one in fast})
    bound = max(greedy.bound_ns, math.ceil(solver.best_objective_bound - 1e-6))
    best = min((time_ns, fast), (greedy.time_ns, greedy.fast), key=lambda one: one[0])
    return MemoryMap(
        problem=problem.fingerprint,
        solver="cpsat",
        fast=best[1],
        time_ns=best[0],
        bound_ns=min(bound, best[0]),
        bound_by="intervals",
    )
