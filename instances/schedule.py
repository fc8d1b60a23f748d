"""The answer: a schedule, with the proof that came with it.

Times in integer ns from the start, addresses and sizes in bytes. Every field is checked by ``opt.replay``.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest
from instances.graph import Count, Name
from instances.kernels import Buffer, KernelKind, Ns, Rule, Tiling
from instances.notebook import html_table

MOST_SEARCH_POINTS = 1000
"""Most points of a search that a schedule is read with; what we write has fewer."""


class Source(StrEnum):
    """Where a kernel gets a tensor from."""

    L2 = "l2"
    HBM = "hbm"


class MoveKind(StrEnum):
    """Explicit moves between HBM and L2."""

    PREFETCH = "prefetch"  # a tensor that starts in HBM, before its readers
    SPILL = "spill"  # a made tensor, L2 to HBM
    FILL = "fill"  # a made tensor, back from HBM to L2


class Read(Frozen):
    """One tensor a kernel reads, and from where."""

    tensor: Name
    source: Source


class Write(Frozen):
    """One tensor a kernel makes: left in L2, written out in its HBM phase, or both."""

    tensor: Name
    l2: bool
    hbm: bool


class Kernel(Frozen):
    """One kernel as it runs.

    ``hbm_start_ns`` and ``hbm_ns`` delimit its phase on the HBM channel (``None`` and 0 where it has none).
    ``workspace_offset_bytes`` is the address in L2 of what its cube and vector cores hand over.
    """

    operators: tuple[Name, ...] = Field(min_length=1)
    kind: KernelKind
    rule: Rule
    tiling: Tiling
    start_ns: Ns
    end_ns: Ns
    hbm_start_ns: Ns | None = None
    hbm_ns: Ns = 0
    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    aic_ids: tuple[Count, ...] = ()
    aiv_ids: tuple[Count, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    workspace_offset_bytes: Count | None = None

    @property
    def label(self) -> str:
        """Short name for people."""
        return "+".join(self.operators)


class Move(Frozen):
    """An explicit move on the HBM channel, by the memory system, holding no core."""

    tensor: Name
    kind: MoveKind
    start_ns: Ns
    end_ns: Ns


class Residency(Frozen):
    """A tensor in L2: ``size_bytes`` at ``offset_bytes`` from ``start_ns`` to ``end_ns``."""

    tensor: Name
    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]
    start_ns: Ns
    end_ns: Ns


class Status(StrEnum):
    """What is known of a schedule's latency."""

    OPTIMAL = "optimal"  # bound and latency are the same integer
    FEASIBLE = "feasible"


class Proof(Frozen):
    """The proven lower bound that stands beside a schedule.

    ``bounds_ns`` has one entry per argument, by name; ``bound_ns`` is the largest and ``bound_by`` its name.
    """

    solver: Name
    status: Status
    bound_ns: Ns
    bound_by: Name
    bounds_ns: dict[str, Ns] = Field(min_length=1)
    covers: str


class SearchPoint(Frozen):
    """The best latency (``None`` before the first schedule) and bound after ``time_s`` seconds, and who found it."""

    time_s: Annotated[float, Field(ge=0)]
    objective_ns: Ns | None
    bound_ns: Ns
    source: Name


class Schedule(Frozen):
    """Kernels, moves and residencies of one pass through the graph.

    ``search`` tells how the answer came about. It is no part of the answer: two runs that find the same take different
    times, so neither the seal nor ``==`` looks at it.
    """

    schema_version: int = SCHEMA_VERSION
    instance: str  # fingerprint of graph and machine
    latency_ns: Ns
    kernels: tuple[Kernel, ...]
    moves: tuple[Move, ...] = ()
    residencies: tuple[Residency, ...] = ()
    proof: Proof
    seal: str = ""
    search: tuple[SearchPoint, ...] = Field(default=(), max_length=MOST_SEARCH_POINTS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kernels:
            raise ValueError("a schedule without kernels covers no operator")
        return self

    def __eq__(self, other: object) -> bool:
        """Whether two schedules say the same, however they were found."""
        if not isinstance(other, Schedule):
            return NotImplemented
        fields = set(type(self).model_fields) - {"search"}
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    __hash__ = None  # type: ignore[assignment]  # it holds tables, and never had one

    @property
    def content_digest(self) -> str:
        """SHA-256 over everything but the seal itself and the course of the search."""
        return digest(canonical_json(self, exclude={"seal", "search"}))

    def sealed(self) -> Schedule:
        """This schedule with the seal that lets a reader notice a changed byte."""
        return self.model_copy(update={"seal": self.content_digest})

    def rows(self) -> list[tuple[str, str]]:
        """What the schedule is in a few names and values, for people."""
        proof = self.proof
        moves = Counter(move.kind.value for move in self.moves)
        explicit = ", ".join(f"{count} {kind}" for kind, count in sorted(moves.items())) or "none"
        return [
            ("latency", f"{self.latency_ns / 1000:,.3f} µs"),
            ("bound", f"{proof.bound_ns / 1000:,.3f} µs by {proof.bound_by}, gap {100 * self.gap:.2f} %"),
            ("status", f"{proof.status.value}, by {proof.solver}"),
            ("kernels", f"{len(self.kernels)}, of {sum(len(kernel.operators) for kernel in self.kernels)} operators"),
            ("explicit moves", explicit),
            ("kept in L2", f"{len(self.residencies)} tensors"),
        ]

    def _repr_html_(self) -> str:
        return html_table("Schedule", self.rows())

    @property
    def gap(self) -> float:
        """Relative distance of the latency from its proven bound."""
        return (self.latency_ns - self.proof.bound_ns) / max(1, self.latency_ns)
