"""Annealing as a stage and as a solver: block by block first where a large model repeats, then the whole."""

from __future__ import annotations

from instances.instance import Instance
from solvers.anneal import WARM, Annealer
from solvers.blocks import Blocks
from solvers.incumbent import Incumbent, Relaxing
from solvers.interface import Options, Result
from solvers.sequential import begin, choose_by_bytes_saved

PERIODIC_SHARE = 0.7
"""Share of annealing's seconds in which the blocks of a large model are annealed together, before the whole is."""


def solve_anneal(instance: Instance, options: Options) -> Result:
    """Annealing for all the time there is, from the greedy cover; the relaxation beside it."""
    incumbent = begin(instance, options)
    incumbent.prove_quickly()
    relaxing = Relaxing(incumbent, None, incumbent.spare_s)
    blocks = blocks_of(incumbent)
    if blocks is not None:
        blocks.anneal(PERIODIC_SHARE * incumbent.spare_s)
    anneal(incumbent, incumbent.spare_s)
    relaxing.wait(0.0 if incumbent.progress.stopped else incumbent.spare_s)
    return incumbent.finish("anneal")


def blocks_of(incumbent: Incumbent) -> Blocks | None:
    """The search on the blocks of a large model, from the greedy cover; ``None`` without blocks."""
    if incumbent.over or incumbent.periodic is None:
        return None
    return Blocks(incumbent, incumbent.periodic, frozenset(choose_by_bytes_saved(incumbent.facts)))


def anneal(incumbent: Incumbent, seconds: float, warm: float = WARM) -> None:
    """Anneal the whole for so long, from the incumbent or the greedy cover; ``warm`` is the first temperature."""
    if incumbent.over:
        return
    facts, options, stopped = incumbent.facts, incumbent.options, lambda: incumbent.over
    annealer = Annealer(facts, options.seed)
    state = annealer.state_of(incumbent.best)
    if state is None or annealer.decode(state) is None:
        state = annealer.first_state(frozenset(choose_by_bytes_saved(facts)))
    improved = annealer.improve(state, seconds, options, stopped, warm)
    if improved is not None:
        incumbent.offer(annealer.schedule(*improved, incumbent.bounds), "annealing")
