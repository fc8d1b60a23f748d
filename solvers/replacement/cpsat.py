"""CP-SAT on the interval model, from a plan at hand."""

from __future__ import annotations

import math

from ortools.sat.python import cp_model

from formulations.replacement.facts import Facts
from formulations.replacement.intervals import IntervalModel
from formulations.replacement.plan import bounded, written_plan
from instances.replacement import Plan
from solvers.interface import Options
from solvers.joint_search import new_solver
from solvers.replacement.policies import POLICIES, run_policy


def solve_intervals(
    facts: Facts,
    start: Plan | None,
    bound_bytes: int,
    time_limit_s: float,
    workers: int = 1,
    seed: int = 0,
    fixed_order: bool = False,
) -> tuple[Plan | None, int]:
    """The best plan (``None`` where there is no better one than ``start``), and a proven bound (bytes)."""
    model = IntervalModel(facts, bound_bytes, fixed_order)
    if start is not None:
        model.hint(start)
        model.model.add(model.extra <= start.extra_bytes)
    solver = new_solver(Options(workers=workers, seed=seed), time_limit_s)
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, bound_bytes
    proven = max(bound_bytes, math.ceil(solver.best_objective_bound - 1e-6))
    order, lying, offsets = model.read_back(solver.value)
    plan = written_plan(facts, order, lying, offsets, "intervals")
    if start is not None and plan.extra_bytes >= start.extra_bytes:
        return None, proven
    return plan, proven


def plan_by_intervals(facts: Facts, time_limit_s: float, workers: int = 1, seed: int = 0) -> Plan:
    """The interval model alone, from the best policy's plan, with its own bound."""
    start = min((run_policy(facts, name) for name in POLICIES), key=lambda plan: plan.extra_bytes)
    better, proven = solve_intervals(facts, start, 0, time_limit_s, workers, seed)
    best = start if better is None else better
    return bounded(best, "intervals", {"intervals": min(proven, best.extra_bytes)})
