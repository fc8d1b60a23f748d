"""A second opinion: fusion, tilings, residency and traffic by a mixed-integer programme, through PuLP and HiGHS.

The programme is the static relaxation (``formulations.relaxation``): its dual bound needs nothing of CP-SAT. Its
kernels and tilings are made a schedule by dynamic programming over the order and the prefetches (the programme's own
starts are those of a relaxation: taken as they are, they gave latencies above the greedy schedule's). It runs twice:
without a horizon, and with the latency that came out as its horizon.
"""

from __future__ import annotations

from formulations.relaxation import Relaxation, Relaxed
from instances.instance import Instance
from solvers.anneal import Annealer
from solvers.dynamic import best_state
from solvers.incumbent import Incumbent
from solvers.interface import Options, Result
from solvers.sequential import begin

FIRST_SHARE = 0.3
"""Share of the time for the programme without a horizon."""


def solve_milp(instance: Instance, options: Options) -> Result:
    """The schedule that follows from the programme's choices, or the greedy one, with the programme's bound."""
    incumbent = begin(instance, options)
    for share, horizon in ((FIRST_SHARE, False), (1.0, True)):
        if incumbent.over:
            break
        horizon_ns = incumbent.best.latency_ns if horizon else None
        relaxed = Relaxation(incumbent.facts, horizon_ns).solve("relaxation", share * incumbent.spare_s)
        bound = relaxed.bound_ns or 0
        incumbent.prove({"milp": bound if horizon_ns is None else min(bound, horizon_ns)})
        _offer(incumbent, relaxed)
    return incumbent.finish("milp")


def _offer(incumbent: Incumbent, relaxed: Relaxed) -> None:
    """Offer the schedule of the programme's kernels, if it has a solution that can be decoded."""
    if not relaxed.chosen:
        return
    state = best_state(incumbent.facts, relaxed.chosen)
    if state is not None:
        annealer = Annealer(incumbent.facts, incumbent.options.seed)
        incumbent.offer(annealer.scheduled(state, incumbent.bounds), "milp")
