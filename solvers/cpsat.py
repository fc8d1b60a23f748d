"""The exact model alone: the greedy schedule as a hint, then CP-SAT on the joint model beside the static relaxation."""

from __future__ import annotations

from instances.instance import Instance
from solvers.interface import Options, Result
from solvers.joint_search import search_jointly, worth_modelling
from solvers.sequential import begin


def solve_cpsat(instance: Instance, options: Options) -> Result:
    """The best schedule that CP-SAT finds in time, with the best of all bounds."""
    incumbent = begin(instance, options)
    incumbent.prove_quickly()
    if worth_modelling(incumbent):
        search_jointly(incumbent)
    return incumbent.finish("cpsat")
