"""The cost model: the one definition of what a kernel costs, shared by instance builder and replay validator.

``price_group`` prices a set of operators under a tiling; ``search`` finds the tilings worth keeping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from instances.costs import attention, cube, vector
from instances.costs.terms import (
    Draft,
    Misfit,
    Stage,
    assemble,
    explicit_move_ns,
    hbm_ns,
    l2_ns,
    link_ns,
)
from instances.fusion import Fuser, Fusion
from instances.graph import Graph
from instances.kernels import Cost, KernelKind, Rule, Tiling
from instances.machine import Machine

__all__ = ["Misfit", "Priced", "draft", "explicit_move_ns", "hbm_ns", "l2_ns", "price", "price_group", "tilings"]


@dataclass(frozen=True)
class Priced:
    """A group with the price of one tiling, and what crosses its border."""

    fusion: Fusion
    cost: Cost

    @property
    def kind(self) -> KernelKind:
        """Engines the kernel runs on."""
        return self.fusion.kind

    @property
    def rule(self) -> Rule:
        """Rule that allows the group."""
        return self.fusion.rule


def draft(fusion: Fusion, machine: Machine, tiling: Tiling) -> Draft:
    """Unrounded price of a group under a tiling; :class:`Misfit` where it cannot run that way."""
    if fusion.kind is KernelKind.LINK:
        if tiling.tile or tiling.parts or tiling.aic or tiling.aiv:
            raise Misfit("cores of a collective", 0)
        message = sum(operator.link_bytes for operator in fusion.operators)
        local = sum(fusion.graph.touched_bytes(access) for access in (*fusion.reads, *fusion.writes))
        link = link_ns(machine, message)
        return Draft(KernelKind.LINK, [Stage("link", link, link)], float(local), 0)
    if fusion.kind is KernelKind.VECTOR:
        return vector.draft(fusion, machine, tiling)
    if fusion.rule is Rule.ATTENTION:
        return attention.draft(fusion, machine, tiling)
    return cube.draft(fusion, machine, tiling)


def price(fusion: Fusion, machine: Machine, tiling: Tiling) -> Cost:
    """Price of a group under a tiling in whole ns; :class:`Misfit` where it cannot run that way."""
    return assemble(machine, draft(fusion, machine, tiling), tiling.l2_permille)


def price_group(graph: Graph, machine: Machine, operators: Sequence[str], tiling: Tiling) -> Priced:
    """Price operators named by a schedule.

    Raises
    ------
    ValueError
        If the operators may not run as one kernel.
    Misfit
        If they may, but not with this tiling on this machine.
    """
    fusion = Fuser(graph).judge(operators)
    if fusion is None:
        raise ValueError(f"{'+'.join(operators)} may not run as one kernel")
    return Priced(fusion, price(fusion, machine, tiling))


def tilings(fusion: Fusion, machine: Machine) -> Iterator[Tiling]:
    """All tilings that the search prices for a group, still without their share of the L2 rate."""
    if fusion.kind is KernelKind.LINK:
        yield Tiling(tile={}, aic=0, aiv=0)
    elif fusion.kind is KernelKind.VECTOR:
        yield from vector.choices(fusion, machine)
    elif fusion.rule is Rule.ATTENTION:
        yield from attention.choices(fusion, machine)
    else:
        yield from cube.choices(fusion, machine)
