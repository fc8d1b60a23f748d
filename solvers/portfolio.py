"""The default: heuristics first, then the exact model with what time is left; the best of all, with all bounds."""

from __future__ import annotations

from instances.instance import Instance
from solvers.annealing import anneal
from solvers.autofuse import autofuse_decisions
from solvers.condensed import search_condensed
from solvers.dynamic import plan_dynamically
from solvers.incumbent import Incumbent, Relaxing
from solvers.interface import Options, Result
from solvers.joint_search import search_jointly, worth_modelling
from solvers.segment_bounds import SegmentBound
from solvers.sequential import greedy_decisions
from solvers.stack import stack_decisions

ANNEAL_SHARE, ANNEAL_MOST_S = 0.1, 4.0
"""Share of the remaining time that annealing gets, and its most; large models get :data:`LARGE_SHARE` instead."""

LARGE_SHARE = 0.7

RELAX_PATIENCE = 0.1
"""Share of the remaining time that is spent waiting for the quick relaxation after annealing."""


def solve_portfolio(instance: Instance, options: Options) -> Result:
    """Never worse than any solver that it runs.

    Kernels in line first: greedy, and what a stack launches. Then the bounds of one argument; dynamic programming;
    annealing, beside which the relaxation without a horizon runs in a thread of its own (for a large model that of each
    segment); then the condensed model; then
    the joint model.
    """
    incumbent = Incumbent(instance, options)
    facts = incumbent.facts
    incumbent.offer_decisions(greedy_decisions(facts), "greedy")
    incumbent.offer_warm_start()
    if not incumbent.over:
        incumbent.offer_decisions(stack_decisions(facts), "stack")
        incumbent.offer_decisions(autofuse_decisions(facts), "autofuse")
    incumbent.prove_quickly()
    if not incumbent.over:
        share = LARGE_SHARE if facts.large else ANNEAL_SHARE
        seconds = share * incumbent.spare_s if facts.large else min(ANNEAL_MOST_S, share * incumbent.spare_s)
        bounding = SegmentBound(incumbent) if facts.large else Relaxing(incumbent, None, seconds + 1.0)
        first = plan_dynamically(incumbent)
        anneal(incumbent, seconds, first)
        bounding.wait(0.0 if incumbent.over else RELAX_PATIENCE * incumbent.spare_s)
    if not incumbent.over and not facts.large and options.deterministic_limit is None:
        Relaxing(incumbent, incumbent.best.latency_ns, 0.5 * incumbent.spare_s).wait(RELAX_PATIENCE * incumbent.spare_s)
    if worth_modelling(incumbent) and not facts.large:
        search_condensed(incumbent)
    if worth_modelling(incumbent):
        search_jointly(incumbent)
    return incumbent.finish("portfolio")
