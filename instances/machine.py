"""The modelled chip: cores, memories, paths, rates and fixed costs, every figure with its source and grade.

One JSON file per chip lies in ``instances/machines``; a user's own file of the same form is accepted wherever
a name is. Rates are bytes per nanosecond (= GB/s) for the chip and bytes per cycle for a core's port.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property, lru_cache
from importlib import resources
from typing import Annotated, Self

from pydantic import Field, model_validator

from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest, parse, read_document, read_json
from instances.errors import InputError
from instances.graph import DType, Name, VectorClass


class Grade(StrEnum):
    """How far a figure can be trusted."""

    OFFICIAL = "official"
    MEASURED = "measured"
    INFERRED = "inferred"
    FITTED = "fitted"


class Figure(Frozen):
    """One number of a machine, with where it comes from."""

    value: Annotated[float, Field(ge=0, le=1e15)]
    grade: Grade
    source: Annotated[str, Field(min_length=3)]


class Positive(Figure):
    """A figure that cannot be zero."""

    value: Annotated[float, Field(gt=0, le=1e15)]


class Scope(StrEnum):
    """Whether a memory exists once, per cube core or per vector core."""

    CHIP = "chip"
    AIC = "aic"
    AIV = "aiv"


class MemoryName(StrEnum):
    """The memories of the hierarchy."""

    HBM = "hbm"
    L2 = "l2"
    L1 = "l1"
    L0A = "l0a"
    L0B = "l0b"
    L0C = "l0c"
    UB = "ub"


class Memory(Frozen):
    """Capacity (bytes, usable) and alignment (bytes) of one memory."""

    scope: Scope
    capacity_bytes: Positive
    alignment_bytes: Positive


class Pipe(StrEnum):
    """In-order queues of a core; the moves of one pipe add up, different pipes overlap."""

    MTE1 = "mte1"
    MTE2 = "mte2"
    MTE3 = "mte3"
    FIXP = "fixp"


class Path(Frozen):
    """A way from one memory to another.

    ``exists`` false records a path that the chip lacks, with its source, so that nobody adds it by mistake.
    ``l2`` stands for global memory as a core's port sees it when the line is in L2.
    ``startup_cycles`` per move, plus ``format_cycles`` where the move turns rows into fractals (ND->NZ);
    ``rate_bytes_per_cycle`` of one core's port.
    """

    source: MemoryName
    target: MemoryName
    exists: bool
    evidence: Annotated[str, Field(min_length=3)]
    pipe: Pipe | None = None
    startup_cycles: Figure | None = None
    format_cycles: Figure | None = None
    rate_bytes_per_cycle: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.exists and (self.pipe is None or self.startup_cycles is None or self.rate_bytes_per_cycle is None):
            raise ValueError(f"path {self.source.value}->{self.target.value} exists but lacks pipe, start-up or rate")
        return self


class Hbm(Frozen):
    """The one channel to HBM."""

    rate_gb_s: Positive  # sustained, reads and writes together
    theory_gb_s: Positive
    miss_bytes_per_cycle: Positive  # what one core's port draws when nothing is in L2
    move_startup_ns: Figure  # of an explicit move between HBM and L2


class L2Rate(Frozen):
    """Sustained rate between L2 and all cores' ports together, reads and writes."""

    rate_gb_s: Positive
    theory_gb_s: Positive


class Cube(Frozen):
    """The matrix unit of one core."""

    macs_per_cycle: dict[DType, Positive]
    startup_cycles: Figure  # per MMAD instruction
    fractal: Positive  # edge to which M and N are padded, elements


class VectorUnit(Frozen):
    """The vector unit of one core."""

    repeat_bytes: Positive  # bytes one repeat processes
    cycles_per_repeat: dict[VectorClass, Positive]
    call_cycles: Figure  # per call on a tile


class Launch(Frozen):
    """Fixed time from a kernel's start to its first move, by kind (ns).

    ``step_ns`` is added for every step of the program - a vector instruction, a matrix product - for the scalar
    set-up of its queues and loops; ``cold_step_ns`` on top of it where the program itself has to come from HBM, as
    in a kernel that is timed alone with cold caches.
    """

    vector_ns: Figure
    cube_ns: Figure
    mix_ns: Figure
    collective_ns: Figure
    step_ns: Figure
    cold_step_ns: Figure


class Share(Figure):
    """A figure between 0 and 1."""

    value: Annotated[float, Field(ge=0, le=1)]


class Exposed(Frozen):
    """Share of the other pipes' time that the slowest does not hide.

    0 where double buffers overlap everything, 1 where each piece is loaded, computed and stored in turn. ``vector``
    and ``cube`` speak of the pipes of one core, ``mix`` of the two sides of a mixed kernel.
    """

    vector: Share
    cube: Share
    mix: Share


class LinkSegment(Frozen):
    """Time of a collective: start-up plus message bytes over rate; the cheapest segment counts."""

    startup_ns: Figure
    rate_gb_s: Positive


class Link(Frozen):
    """Connection to other chips."""

    segments: tuple[LinkSegment, ...] = Field(min_length=1)


class Machine(Frozen):
    """A chip as the optimizer sees it."""

    schema_version: int = SCHEMA_VERSION
    name: Name
    title: str
    architecture: Name  # chips of one architecture share the constants of their pipelines
    coupled: bool  # first generation: the cube core does the vector work, direct paths exist
    notes: str = ""
    aic: Positive
    aiv: Positive
    clock_mhz: Positive
    memories: dict[MemoryName, Memory]
    paths: tuple[Path, ...]
    hbm: Hbm
    l2: L2Rate
    cube: Cube
    vector: VectorUnit
    launch: Launch
    exposed: Exposed
    sync_ns: Figure  # one hand-over between a cube core and its vector cores
    link: Link

    @model_validator(mode="after")
    def _check(self) -> Self:
        for memory in MemoryName:
            if memory not in self.memories:
                raise ValueError(f"machine {self.name!r} lacks memory {memory.value!r}")
        for figure, place in ((self.aic, "aic"), (self.aiv, "aiv")):
            if figure.value != int(figure.value):
                raise ValueError(f"machine {self.name!r}: {place} is {figure.value}, not a whole number of cores")
        for name, memory_ in self.memories.items():
            for figure in (memory_.capacity_bytes, memory_.alignment_bytes):
                if figure.value != int(figure.value):
                    raise ValueError(f"machine {self.name!r}: memory {name.value!r} has a fraction of a byte")
        for klass in VectorClass:
            if klass not in self.vector.cycles_per_repeat:
                raise ValueError(f"machine {self.name!r}: vector class {klass.value!r} has no cycles")
        return self

    @cached_property
    def aic_count(self) -> int:
        """Cube cores."""
        return int(self.aic.value)

    @cached_property
    def aiv_count(self) -> int:
        """Vector cores."""
        return int(self.aiv.value)

    @cached_property
    def aiv_per_aic(self) -> int:
        """Vector cores that work with one cube core in a mixed kernel."""
        return max(1, self.aiv_count // self.aic_count)

    @cached_property
    def ns_per_cycle(self) -> float:
        """Nanoseconds per clock cycle."""
        return 1000.0 / self.clock_mhz.value

    def capacity(self, memory: MemoryName) -> int:
        """Usable bytes of a memory."""
        return int(self.memories[memory].capacity_bytes.value)

    def alignment(self, memory: MemoryName) -> int:
        """Alignment of addresses in a memory (bytes)."""
        return int(self.memories[memory].alignment_bytes.value)

    @cached_property
    def _paths(self) -> dict[tuple[MemoryName, MemoryName], Path]:
        return {(path.source, path.target): path for path in self.paths if path.exists}

    def path(self, source: MemoryName, target: MemoryName) -> Path | None:
        """The path from one memory to another, or ``None`` where the chip has none."""
        return self._paths.get((source, target))

    @cached_property
    def direct(self) -> bool:
        """True where the cube hands tiles to the vector cores without a round trip through L2."""
        return self.path(MemoryName.L0C, MemoryName.UB) is not None

    @cached_property
    def direct_back(self) -> bool:
        """True where the vector cores hand tiles to the cube without a round trip through L2."""
        return self.path(MemoryName.UB, MemoryName.L1) is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the machine's canonical JSON."""
        return digest(canonical_json(self))


def machine_names() -> list[str]:
    """Names of the machines that come with the package."""
    folder = resources.files("instances").joinpath("machines")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@lru_cache
def _shipped(name: str) -> Machine:
    entry = resources.files("instances").joinpath("machines").joinpath(f"{name}.json")
    with resources.as_file(entry) as path:
        return parse(Machine, read_json(path), f"machine {name}")


def load_machine(name_or_path: str) -> Machine:
    """A machine by name, or from a user's own JSON file; :class:`InputError` where there is neither."""
    if name_or_path in machine_names():
        return _shipped(name_or_path)
    if name_or_path.endswith(".json") or "/" in name_or_path:
        return read_document(Machine, name_or_path)
    raise InputError(
        f"unknown machine {name_or_path!r}: choose one of {', '.join(machine_names())} or give a JSON file"
    )
