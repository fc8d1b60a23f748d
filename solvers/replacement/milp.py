"""The time-indexed programme through PuLP, by HiGHS, by CBC as it comes with PuLP, or by any other solver it knows."""

from __future__ import annotations

import math
import time

import pulp

from formulations.replacement.facts import Facts
from formulations.replacement.plan import bounded, lyings, placed, written_plan
from formulations.replacement.sets import Sets, TooWideError
from formulations.replacement.states import States
from formulations.replacement.time_indexed import TimeIndexed
from instances.errors import InputError
from instances.replacement import Plan
from solvers.replacement.policies import run_policy


def solve_programme(facts: Facts, time_limit_s: float, solver: str = "HiGHS", workers: int = 1) -> Plan:
    """The plan of the programme, or the policy's where that has none, with the programme's bound.

    Addresses enter in a second round, where the first answer cannot be packed. :class:`InputError` where PuLP does not
    know the solver or it is not installed.
    """
    deadline = time.monotonic() + time_limit_s
    best = run_policy(facts, "belady")
    bound = min(_from_load(facts), best.extra_bytes)
    for addresses in (False, True):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        model = TimeIndexed(facts, bound, addresses)
        engine = _engine(solver, left, workers)
        model.programme.solve(engine)
        solved = model.programme.sol_status == pulp.LpSolutionOptimal
        if model.programme.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            break
        value = round(pulp.value(model.programme.objective)) - model.offset
        proven = value if solved else _dual_bound(model)
        bound = max(bound, min(proven, best.extra_bytes))
        order, evicted = model.order(), model.evicted()
        lying = lyings(facts, order, evicted)
        offsets = placed(facts, lying, facts.problem.capacity_bytes, deadline, workers)
        if offsets is not None:
            plan = written_plan(facts, order, lying, offsets, "milp")
            best = min(best, plan, key=lambda one: one.extra_bytes)
        if best.extra_bytes <= bound or not solved:
            break
    return bounded(best, "milp", {"milp": min(bound, best.extra_bytes)})


def _from_load(facts: Facts) -> int:
    """What must leave because too much is live at a time (bytes): a cut that the relaxation does not see."""
    try:
        parts = [States(Sets(facts, *part), facts.problem.capacity_bytes) for part in facts.segments]
    except TooWideError:
        return 0
    return sum(part.root_bound_bytes for part in parts)


def _dual_bound(model: TimeIndexed) -> int:
    """What HiGHS has proven when time ends; 0 where a solver does not tell."""
    inner = getattr(model.programme, "solverModel", None)
    if inner is None or not hasattr(inner, "getInfo"):
        return 0
    dual = inner.getInfo().mip_dual_bound
    return max(0, math.ceil(dual - 1e-6) - model.offset) if math.isfinite(dual) else 0


def _engine(name: str, time_limit_s: float, workers: int) -> pulp.LpSolver:
    names = {solver.lower(): solver for solver in pulp.listSolvers(onlyAvailable=True)}
    known = {"highs": "HiGHS", "cbc": "PULP_CBC_CMD"} | names
    if name.lower() not in known:
        raise InputError(f"PuLP has no solver {name!r} here; choose from {', '.join(sorted(names.values()))}")
    return pulp.getSolver(known[name.lower()], msg=False, timeLimit=time_limit_s, threads=workers)
