"""The plan that a compiler consumes: a schedule with everything that follows from it spelled out.

Times in integer ns from the start, sizes and addresses in bytes. Kernels are called ``k0``, ``k1``, ... in order of
start, explicit moves ``m0``, ``m1``, ...; both are activities, and every name below refers to one of these.
"""

from __future__ import annotations

from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from instances.documents import SCHEMA_VERSION, Frozen
from instances.graph import Count, Extent, Name, Tensor
from instances.kernels import KernelKind, Ns, Rule
from instances.machine import MemoryName
from instances.pipes import CROSS_CORE_FLAGS, EVENT_IDS, Core, HardwarePipe
from instances.schedule import MoveKind, Source, Status

Id = Annotated[str, Field(pattern=r"^[km](0|[1-9][0-9]*)$")]


class Feature(StrEnum):
    """What a reader must be able to do; a plan lists what it uses, and a reader refuses what it does not know."""

    STREAMS = "streams"  # kernels on more than one stream, ordered by events
    MOVES = "explicit-moves"  # prefetches, spills or fills
    RESIDENCY = "l2-residency"  # tensors that kernels find in L2
    WORKSPACE = "l2-workspace"  # hand-overs between cube and vector cores through L2
    PARTS = "split-parts"  # partial results that are added up
    HANDOVERS = "pipe-events"  # flags between the pipes of a core
    FLAGS = "cross-core-flags"  # flags between a cube core and its vector cores
    COLLECTIVES = "collectives"


class FusionKind(StrEnum):
    """Kernel classes of AscendNPU-IR's HFusion dialect (``hfusion.fusion_kind``) that a plan uses."""

    PURE_ELEMWISE = "PURE_ELEMWISE"
    ANY_PB = "ANY_PB"
    LAST_AXIS_PBR = "LAST_AXIS_PBR"
    ANY_PBR = "ANY_PBR"
    SINGLE_CUBE = "SINGLE_CUBE"
    SHALLOW_CV = "SHALLOW_CV"
    MIX_CV = "MIX_CV"
    MIX_C2 = "MIX_C2"


class Made(Frozen):
    """Something that the plan was made for, by name and SHA-256."""

    name: Name
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Verdict(Frozen):
    """What is known of the plan's latency: the proven bound, by which argument, and over which decisions it holds."""

    status: Status
    solver: Name
    latency_ns: Ns
    bound_ns: Ns
    bound_by: Name
    gap: float
    covers: str


class Tile(Frozen):
    """How one axis of a kernel is cut.

    ``role`` is the axis' part in the computation (``m``, ``n``, ``k``, ``rows``, ``row``), ``tile`` the tiling's own
    size in elements, ``levels`` how much of the axis a buffer of each memory holds at a time.
    """

    axis: Name
    role: Name
    extent: Extent
    tile: Extent
    levels: dict[MemoryName, Extent] = Field(default_factory=dict)


class Loop(Frozen):
    """One loop of a kernel: ``count`` turns of ``step`` elements along an axis.

    ``over`` says what the turns are: dealt out to cores, one after the other within a core.
    """

    axis: Name
    role: Name
    count: Extent
    step: Extent
    over: Literal["cores", "core"]


class PlannedBuffer(Frozen):
    """An in-core buffer, the same on every core of the kernel: slot ``i`` at ``offset_bytes + i * size_bytes``.

    ``first_step`` and ``last_step`` are the first and the last operation that touches it, by their numbers in the
    program of the kernel's busiest core (of ``steps`` operations).
    """

    name: Name
    memory: MemoryName
    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]
    alignment_bytes: Annotated[int, Field(gt=0)]
    slots: Annotated[int, Field(ge=1)]
    first_step: Count
    last_step: Count


class Cores(Frozen):
    """Which cores a kernel holds and how its work is dealt out to them.

    ``items`` tiles (of all loops that run over cores) go to the cores ``in_runs`` of consecutive ones or ``in_turn``;
    the busiest has ``most_items``. ``parts`` are summed axes that are split, with the number of partial results.
    """

    aic_ids: tuple[Count, ...] = ()
    aiv_ids: tuple[Count, ...] = ()
    l2_permille: Annotated[int, Field(ge=0, le=1000)] = 0
    split: tuple[Name, ...] = ()
    items: Count = 0
    most_items: Count = 0
    dealt: Literal["in_runs", "in_turn"] = "in_runs"
    parts: dict[str, Extent] = Field(default_factory=dict)


class Operand(Frozen):
    """A tensor that a kernel reads, where from, and how many bytes of it.

    ``hbm_offset_bytes`` is its place in the pool of the plan; ``None`` where it was in HBM before.
    """

    tensor: Name
    source: Source
    touched_bytes: Count
    l2_offset_bytes: Count | None = None
    hbm_offset_bytes: Count | None = None


class Result(Frozen):
    """A tensor that one of a kernel's operators makes; places are there where it is left in L2, or written to HBM."""

    tensor: Name
    operator: Name
    size_bytes: Count
    l2_offset_bytes: Count | None = None
    hbm_offset_bytes: Count | None = None


class Times(Frozen):
    """When a kernel runs as planned (ns): its body begins after launch and fill, its phase on the HBM channel within.

    ``engines_ns`` is the time of each engine and pipe on its busiest core.
    """

    start_ns: Ns
    body_ns: Ns
    end_ns: Ns
    hbm_start_ns: Ns | None = None
    hbm_ns: Ns = 0
    engines_ns: dict[str, Ns] = Field(default_factory=dict)


class Handover(Frozen):
    """What one pipe hands to another, or gives back to it.

    ``scope``: two pipes of one core (``set_flag``, ``wait_flag``; one event id per slot), a cube core and its vector
    cores (``group``; one counting flag id, ``depth`` tiles in flight), or ``all`` vector cores of the kernel.
    ``means``: the content is ``ready``, the place is ``free`` again (which it is at the start), or all cores ``join``.
    """

    scope: Literal["core", "group", "all"]
    means: Literal["ready", "free", "join"]
    set_core: Core
    set_pipe: HardwarePipe
    wait_core: Core
    wait_pipe: HardwarePipe
    buffers: tuple[Name, ...] = ()
    ids: tuple[Annotated[int, Field(ge=0, lt=max(EVENT_IDS, CROSS_CORE_FLAGS))], ...]
    depth: Annotated[int, Field(ge=1)] = 1


class Workspace(Frozen):
    """L2 that a kernel holds while it runs, for what its cube and vector cores hand over."""

    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]


class PlannedKernel(Frozen):
    """One kernel with all that is decided about it.

    ``joined`` matmuls share each item; ``held`` are operands that L1 holds whole while others stream past them.
    """

    id: Id
    operators: tuple[Name, ...] = Field(min_length=1)
    kind: KernelKind
    rule: Rule
    fusion_kind: FusionKind | None = None
    stream: Count
    tiles: tuple[Tile, ...] = ()
    loops: tuple[Loop, ...] = ()
    joined: Annotated[int, Field(ge=1)] = 1
    held: tuple[Name, ...] = ()
    steps: Count = 0
    buffers: tuple[PlannedBuffer, ...] = ()
    cores: Cores
    inputs: tuple[Operand, ...]
    outputs: tuple[Result, ...]
    workspace: Workspace | None = None
    times: Times
    handovers: tuple[Handover, ...] = ()


class Stay(Frozen):
    """A tensor in L2: brought or left there by ``made_by``, whole from ``arrival_ns`` on, used by ``used_by``.

    ``first_kernel`` and ``last_kernel`` are its life in kernel order: the first and the last, by start, that run while
    it is there.
    """

    tensor: Name
    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]
    start_ns: Ns
    arrival_ns: Ns
    end_ns: Ns
    made_by: Id
    used_by: tuple[Id, ...] = ()
    first_kernel: Id | None = None
    last_kernel: Id | None = None


class Anchor(Frozen):
    """The point at which to issue a move: ``delay_ns`` after the planned ``edge`` of a kernel."""

    kernel: Id
    edge: Literal["start", "end"]
    edge_ns: Ns
    delay_ns: Ns


class PlannedMove(Frozen):
    """An explicit move between HBM and L2, in the background, and where to issue it."""

    id: Id
    kind: MoveKind
    tensor: Name
    size_bytes: Annotated[int, Field(gt=0)]
    l2_offset_bytes: Count
    hbm_offset_bytes: Count | None = None
    stream: Count
    start_ns: Ns
    end_ns: Ns
    anchor: Anchor | None
    first_reader: Id | None = None


class Stream(Frozen):
    """Activities that run one after the other."""

    id: Count
    kind: Literal["compute", "collective", "move"]
    activities: tuple[Id, ...] = Field(min_length=1)


class Event(Frozen):
    """An order between streams: recorded after one activity, waited for before another.

    ``id`` is that of the recording: several may wait for one. ``why`` says what is at stake.
    """

    id: Count
    record_after: Id
    wait_before: Id
    why: tuple[Literal["data", "l2_address", "hbm_address", "core", "issue"], ...]


class Place(Frozen):
    """A made tensor in the pool in HBM, over its life there."""

    tensor: Name
    offset_bytes: Count
    size_bytes: Annotated[int, Field(gt=0)]
    start_ns: Ns
    end_ns: Ns


class Pool(Frozen):
    """One allocation in HBM for all made tensors that go there.

    ``load_bytes`` is the most that lives at one time, which no packing is below; ``bound_bytes`` the best bound proven.
    """

    alignment_bytes: Annotated[int, Field(gt=0)]
    total_bytes: Count
    load_bytes: Count
    bound_bytes: Count
    places: tuple[Place, ...] = ()


class Blocks(Frozen):
    """Repeated blocks of the graph: ``count`` of ``period`` operators from ``first_operator`` on.

    ``like`` has one entry per block: operator -> the operator of the first block that it repeats.
    """

    first_operator: Name
    period: Extent
    count: Extent
    like: tuple[dict[str, str], ...]


class Plan(Frozen):
    """A schedule as a compiler consumes it.

    ``schedule`` is the seal of the schedule; ``repeat`` says of how many equal layers this is one.
    """

    schema_version: int = SCHEMA_VERSION
    required_features: tuple[Name, ...] = ()
    tool: str
    graph: Made
    machine: Made
    schedule: str
    verdict: Verdict
    repeat: Extent = 1
    blocks: Blocks | None = None
    tensors: tuple[Tensor, ...]
    kernels: tuple[PlannedKernel, ...] = Field(min_length=1)
    moves: tuple[PlannedMove, ...] = ()
    l2: tuple[Stay, ...] = ()
    pool: Pool
    streams: tuple[Stream, ...]
    events: tuple[Event, ...] = ()

    @field_validator("required_features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        known = {feature.value for feature in Feature}
        for feature in features:
            if feature not in known:
                raise ValueError(
                    f"feature {feature!r} is required and unknown; this release knows {', '.join(sorted(known))}"
                )
        return features

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [*(kernel.id for kernel in self.kernels), *(move.id for move in self.moves)]
        if len(set(names)) < len(names):
            raise ValueError("two activities have the same id; make the plan anew")
        if sorted(name for stream in self.streams for name in stream.activities) != sorted(names):
            raise ValueError("streams do not hold each kernel and each move once; make the plan anew")
        known = set(names)
        for event in self.events:
            for name in (event.record_after, event.wait_before):
                if name not in known:
                    raise ValueError(f"event {event.id} names {name!r}, which is no activity of the plan")
        self._check_order()
        tensors = {tensor.name for tensor in self.tensors}
        for kernel in self.kernels:
            for name in (*(one.tensor for one in kernel.inputs), *(one.tensor for one in kernel.outputs)):
                if name not in tensors:
                    raise ValueError(f"kernel {kernel.id} names tensor {name!r}, which is not in the plan")
        return self

    def _check_order(self) -> None:
        """That streams and events can be carried out: none waits, over others, for itself."""
        waits: dict[str, set[str]] = {}
        for stream in self.streams:
            for before, after in pairwise(stream.activities):
                waits.setdefault(after, set()).add(before)
        for event in self.events:
            waits.setdefault(event.wait_before, set()).add(event.record_after)
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            ring = " after ".join(error.args[1])
            raise ValueError(f"streams and events wait for each other without end: {ring}") from None
