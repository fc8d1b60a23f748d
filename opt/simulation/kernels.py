"""Kernels as programs: the loops that a tiling stands for, written out operation by operation.

Sizes and the times of single operations are those of the cost model (``instances.costs``); how operations overlap is
not: that comes out of the simulation. Cores with as many tiles as each other run the same program.

A vector core issues its operations one after the other, and is held for the share ``exposed.vector`` of each: what
measured kernels show, whose pipes hardly overlap. The two sides of a mixed kernel hold one another up by
``exposed.mix`` in the same way: the next tile is not begun before that share of the vector work on this one is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from instances.fusion import Fusion
from instances.kernels import Buffer, KernelKind, Rule, Tiling
from instances.machine import Machine
from opt.simulation.attention_kernel import attention_programs
from opt.simulation.cube_kernel import cube_programs
from opt.simulation.program import Program
from opt.simulation.vector_kernel import vector_programs


def programs(
    fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...], from_hbm: Mapping[str, int]
) -> list[Program]:
    """What the cores of a kernel run; ``from_hbm`` is tensor -> bytes that it streams from HBM or writes there."""
    return list(_written(fusion, machine, tiling, buffers, from_hbm))


def busiest_program(fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...]) -> Program:
    """What the core with most tiles runs."""
    return next(_written(fusion, machine, tiling, buffers, {}))


def _written(
    fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...], from_hbm: Mapping[str, int]
) -> Iterator[Program]:
    """One program after the other, that of the busiest cores first."""
    if fusion.kind is KernelKind.VECTOR:
        return vector_programs(fusion, machine, tiling, buffers, from_hbm)
    if fusion.rule is Rule.ATTENTION:
        return attention_programs(fusion, machine, tiling, buffers, from_hbm)
    return cube_programs(fusion, machine, tiling, buffers, from_hbm)
