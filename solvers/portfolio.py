"""The default: heuristics first, then the exact model with what time is left; the best of all, with all bounds."""

from __future__ import annotations

from instances.instance import Instance
from solvers.anneal import LUKEWARM, WARM
from solvers.annealing import anneal, blocks_of
from solvers.autofuse import autofuse_decisions
from solvers.condensed import search_condensed
from solvers.dynamic import plan_dynamically
from solvers.incumbent import Incumbent, Relaxing
from solvers.interface import Options, Result
from solvers.joint_search import search_jointly, worth_modelling
from solvers.lns import search_neighbourhoods
from solvers.segment_bounds import SegmentBound
from solvers.sequential import begin
from solvers.stack import stack_decisions

ANNEAL_SHARE, ANNEAL_S_PER_OPERATOR = 0.15, 0.05
"""Most of annealing: share of the remaining time, and seconds per operator; the condensed model goes on from there."""

FIRST_SHARE, MODEL_SHARES, POLISH_SHARE, WHOLE_SHARE = 0.12, (0.4, 0.6), 0.2, 0.7
"""On a large model: share of the remaining time for each stage; the model of the blocks is asked twice."""

MOST_MODELLED = 200
"""Operators up to which the whole is modelled where nothing repeats."""


def solve_portfolio(instance: Instance, options: Options) -> Result:
    """Never worse than any solver that it runs.

    Kernels in line first: greedy, what a stack launches, what AutoFuse would. Then the bounds of one argument, dynamic
    programming, and what the size of the graph allows.
    """
    incumbent = begin(instance, options)
    facts = incumbent.facts
    if not incumbent.over:
        incumbent.offer_decisions(stack_decisions(facts), "stack")
        incumbent.offer_decisions(autofuse_decisions(facts), "autofuse")
    incumbent.prove_quickly()
    if incumbent.periodic is None:  # blocks begin with their own
        plan_dynamically(incumbent)
    if not incumbent.over:
        in_parts = incumbent.periodic is not None or len(facts.order) > MOST_MODELLED
        (_search_large if in_parts else _search_small)(incumbent)
    return incumbent.finish("portfolio")


def _search_small(incumbent: Incumbent) -> None:
    """Annealing, the static relaxation beside it; the condensed model; what that leaves open to the joint model."""
    seconds = annealing_s(incumbent)
    Relaxing(incumbent, None, seconds + 1.0)
    anneal(incumbent, seconds)
    if worth_modelling(incumbent):
        search_condensed(incumbent)
    if worth_modelling(incumbent):
        search_jointly(incumbent)


def annealing_s(incumbent: Incumbent) -> float:
    """Seconds of annealing on a model that is not large."""
    return min(ANNEAL_S_PER_OPERATOR * len(incumbent.facts.order), ANNEAL_SHARE * incumbent.spare_s)


def _search_large(incumbent: Incumbent) -> None:
    """The blocks by annealing, by their joint model and by annealing again; the whole; neighbourhoods of the blocks.

    Beside it, bounds of the segments.
    """
    SegmentBound(incumbent)
    blocks = blocks_of(incumbent)
    if blocks is not None:
        blocks.anneal(FIRST_SHARE * incumbent.spare_s)
        for share in MODEL_SHARES:
            blocks.model(share * incumbent.spare_s)
            blocks.anneal(POLISH_SHARE * incumbent.spare_s, LUKEWARM)
    anneal(incumbent, WHOLE_SHARE * incumbent.spare_s, WARM if blocks is None else LUKEWARM)
    search_neighbourhoods(incumbent, blocks)
