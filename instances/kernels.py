"""Kernels: what a fusion group can be run as, and what each way costs.

A :class:`Tiling` is a decision, a :class:`Cost` its price; both are produced and checked by
``instances.costs``, which solvers and the replay validator share as the one definition of cost.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from instances.documents import Frozen
from instances.graph import Count, Extent, Name
from instances.machine import MemoryName

Ns = Annotated[int, Field(ge=0, le=2**50)]


class KernelKind(StrEnum):
    """Which engines a kernel runs on."""

    VECTOR = "vector"
    CUBE = "cube"
    MIX = "mix"
    LINK = "link"


class Rule(StrEnum):
    """The fusion rule by which a group may run as one kernel (see ``instances.fusion``)."""

    SINGLE = "single"
    VECTOR_CHAIN = "vector_chain"
    SHARED_INPUT = "shared_input_matmuls"
    EPILOGUE = "cube_with_vector_epilogue"
    GATED = "gated_matmuls"
    ATTENTION = "attention"


class Tiling(Frozen):
    """One way to run a kernel.

    Parameters
    ----------
    tile
        Size of a tile along each loop dimension that is cut, or along a product of them (``"batch*seq"``).
    parts
        Loop dimensions that are summed over and spread over cores all the same, with the number of parts
        (split-K, split context); the partial results are added up through L2.
    aic, aiv
        Cores the kernel holds.
    l2_permille
        Share of the chip's L2 rate that the kernel may draw, in thousandths.
    """

    tile: dict[str, Extent]
    aic: Annotated[int, Field(ge=0)]
    aiv: Annotated[int, Field(ge=0)]
    parts: dict[str, Extent] = Field(default_factory=dict)
    l2_permille: Annotated[int, Field(ge=0, le=1000)] = 0


class Buffer(Frozen):
    """An in-core buffer, the same on every core of the kernel.

    ``size_bytes`` of one slot; slot ``i`` lies at ``offset_bytes + i * size_bytes``.
    """

    name: Name
    memory: MemoryName
    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]
    slots: Annotated[int, Field(ge=1)]


class Cost(Frozen):
    """Price of a kernel under a tiling, without its HBM phase.

    A kernel that starts at ``s`` has its body from ``s + head_ns`` on; the body lasts at least ``busy_ns`` and
    until the HBM phase has ended; ``tail_ns`` follows.

    Parameters
    ----------
    head_ns
        Launch, and fill of the first tiles.
    busy_ns
        The largest of ``engines_ns``, and the share of the other pipes' time that it does not hide.
    tail_ns
        Drain of the last tiles.
    engines_ns
        Time of each engine and pipe on its busiest core, and of the L2 traffic at the tiling's share.
    l2_bytes
        Bytes between L2 and the cores.
    workspace_bytes
        L2 held while the kernel runs, for what cube and vector cores hand over.
    miss_ns_per_mib
        Least time of the body per MiB that is not in L2, by the ports of the cores in use; 0 where the chip's
        HBM rate is the tighter limit.
    buffers
        In-core buffers with their addresses.
    """

    head_ns: Ns
    busy_ns: Ns
    tail_ns: Ns
    engines_ns: dict[str, Ns]
    l2_bytes: Count
    workspace_bytes: Count = 0
    miss_ns_per_mib: Ns = 0
    buffers: tuple[Buffer, ...] = ()

    @property
    def least_ns(self) -> int:
        """Duration with everything in L2."""
        return self.head_ns + self.busy_ns + self.tail_ns

    @property
    def bound_by(self) -> str:
        """The engine that is busy longest."""
        return max(self.engines_ns, key=lambda engine: self.engines_ns[engine], default="launch")


class Implementation(Frozen):
    """A tiling with its cost."""

    tiling: Tiling
    cost: Cost


class Template(Frozen):
    """What structurally equal fusion groups share: kind, rule and implementations, priced once."""

    kind: KernelKind
    rule: Rule
    implementations: tuple[Implementation, ...] = Field(min_length=1)


class Candidate(Frozen):
    """A fusion group that may become a kernel.

    ``reads`` and ``writes`` are the tensors that cross its border: a tensor written by the group is listed
    unless all its readers are inside.
    """

    operators: tuple[Name, ...] = Field(min_length=1)
    template: Annotated[int, Field(ge=0)]
    reads: tuple[Name, ...]
    writes: tuple[Name, ...]
