"""Annealing as a stage and as a solver: block by block first where a large model repeats, then the whole."""

from __future__ import annotations

from instances.instance import Instance
from solvers.anneal import Annealer
from solvers.incumbent import Incumbent, Relaxing
from solvers.interface import Options, Result
from solvers.periodic import Unrolled, anneal_periodic
from solvers.sequential import begin, choose_by_bytes_saved

PERIODIC_SHARE = 0.7
"""Share of annealing's seconds in which the blocks of a large model are annealed together, before the whole is."""


def solve_anneal(instance: Instance, options: Options) -> Result:
    """Annealing for all the time there is, from the greedy cover; the relaxation beside it."""
    incumbent = begin(instance, options)
    incumbent.prove_quickly()
    relaxing = Relaxing(incumbent, None, incumbent.spare_s)
    anneal(incumbent, incumbent.spare_s)
    relaxing.wait(0.0 if incumbent.progress.stopped else incumbent.spare_s)
    return incumbent.finish("anneal")


def anneal(incumbent: Incumbent, seconds: float) -> Unrolled | None:
    """Anneal for so long, from the incumbent or the greedy cover.

    Large models with repeated blocks are annealed block by block first, all blocks alike; what that gave is returned.
    """
    if incumbent.over:
        return None
    facts, options, stopped = incumbent.facts, incumbent.options, lambda: incumbent.over
    began = options.elapsed_s
    annealer = Annealer(facts, options.seed)
    state = annealer.state_of(incumbent.best)
    if state is None or annealer.decode(state) is None:
        state = annealer.first_state(frozenset(choose_by_bytes_saved(facts)))
    unrolled = anneal_periodic(incumbent, state.groups, PERIODIC_SHARE * seconds) if facts.large else None
    if unrolled is not None:
        state = unrolled.whole
    improved = annealer.improve(state, seconds - (options.elapsed_s - began), options, stopped)
    if improved is not None:
        incumbent.offer(annealer.schedule(*improved, incumbent.bounds), "annealing")
    return unrolled
