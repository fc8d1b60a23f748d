"""From a fusion group under a tiling to the loop of its busiest core."""

from __future__ import annotations

from instances.costs import draft
from instances.costs.terms import Draft
from instances.fusion import Fusion
from instances.kernels import KernelKind, Rule, Tiling
from instances.machine import Machine
from instances.pipelines.attention_loop import attention_loop
from instances.pipelines.cube_loop import cube_loop
from instances.pipelines.loop import KernelLoop
from instances.pipelines.vector_loop import vector_loop

MOST_OPS = 600
"""Operations of a body up to which a loop is written down."""


def derive(fusion: Fusion, machine: Machine, tiling: Tiling, drafted: Draft | None = None) -> KernelLoop | None:
    """The loop of a kernel; ``None`` where it has none that this package knows, and keeps its estimate.

    These are collectives, vector kernels whose rows are cut into segments, attention whose steps do not go through L1
    (:func:`attention_loop`), first-generation chips' mixed kernels (one core does both sides), and bodies of more than
    :data:`MOST_OPS` operations. :class:`Misfit` where the tiling does not fit.
    """
    price = draft(fusion, machine, tiling) if drafted is None else drafted
    found: KernelLoop | None
    if fusion.kind is KernelKind.LINK or (machine.coupled and fusion.kind is KernelKind.MIX):
        return None
    if fusion.kind is KernelKind.VECTOR:
        found = vector_loop(fusion, machine, tiling, price)
    elif fusion.rule is Rule.ATTENTION:
        found = attention_loop(fusion, machine, tiling, price)
    else:
        found = cube_loop(fusion, machine, tiling, price)
    return found if found is None or len(found.body.ops) <= MOST_OPS else None
