"""Lower bounds that need no search, and the proof that a schedule carries."""

from __future__ import annotations

import math
from collections.abc import Callable

from formulations.facts import Facts
from formulations.plan import Decisions, build_schedule, time_decisions
from formulations.relaxation import SINGLE_ARGUMENTS, Relaxation
from instances.schedule import Proof, Schedule, Status


def instant_bounds(facts: Facts) -> dict[str, int]:
    """Proven lower bounds of the latency (ns) that take no solver, by argument.

    ``hbm_traffic``: every source is read and every output written at least once over the one HBM channel.
    ``critical_path``: the coarse one.
    """
    return {"hbm_traffic": facts.compulsory_ns, "critical_path": coarse_path_ns(facts)}


def quick_bounds(facts: Facts, time_limit_s: float = 5.0) -> dict[str, int]:
    """:func:`instant_bounds`, and those of the relaxation by one argument at a time, which take milliseconds."""
    bounds = instant_bounds(facts)
    relaxation = Relaxation(facts)
    for argument in SINGLE_ARGUMENTS:
        value = relaxation.bound(argument, time_limit_s / len(SINGLE_ARGUMENTS))
        bounds[argument] = max(value or 0, bounds.get(argument, 0))
    return bounds


def relaxation_bound(
    facts: Facts, horizon_ns: int | None, time_limit_s: float, stopped: Callable[[], bool] | None = None
) -> int:
    """Proven lower bound (ns) by all arguments at once; 0 where nothing was proven in time, or before being stopped."""
    return Relaxation(facts, horizon_ns).solve("relaxation", time_limit_s, stopped).bound_ns or 0


def coarse_path_ns(facts: Facts) -> int:
    """Longest path when each operator weighs its share in the shortest kernel that could hold it.

    A kernel of n operators meets a path in at most n of them, so the shares never exceed its duration.
    """
    reach: dict[str, float] = {}
    for name in facts.order:
        weight = min(
            facts.least_ns[g] / len(facts.instance.candidates[g].operators) for g in facts.instance.candidates_of[name]
        )
        before = max(
            (
                reach[facts.graph.producer[access.tensor]]
                for access in facts.graph.operator[name].reads
                if access.tensor in facts.graph.producer
            ),
            default=0.0,
        )
        reach[name] = before + weight
    return math.floor(max(reach.values()))


def proven_schedule(facts: Facts, decisions: Decisions, solver: str, bounds_ns: dict[str, int]) -> Schedule:
    """The schedule of some decisions beside bounds; :class:`NoScheduleError` where L2 or the cores have no room."""
    latency = time_decisions(facts, decisions).latency_ns
    return build_schedule(facts, decisions, prove(facts, solver, latency, bounds_ns))


def prove(facts: Facts, solver: str, latency_ns: int, bounds_ns: dict[str, int]) -> Proof:
    """The proof that goes with a latency: best argument first, never above the latency it bounds."""
    best = max(bounds_ns, key=lambda argument: bounds_ns[argument])
    census = facts.instance.census
    return Proof(
        solver=solver,
        status=Status.OPTIMAL if bounds_ns[best] == latency_ns else Status.FEASIBLE,
        bound_ns=bounds_ns[best],
        bound_by=best,
        bounds_ns=bounds_ns,
        covers=(
            f"all schedules over the instance's {census.groups} candidate kernels (groups of up to "
            f"{census.max_group} operators) and {census.kept_tilings} kept tilings: fusion, tiling, cores, start "
            "times, L2 residency and addresses, whole-tensor spills, fills and prefetches, on the modelled machine"
        ),
    )
