"""The terms of the cost model: one small function per physical effect, in floating-point ns.

They are added up in ``cube``, ``vector`` and ``attention`` and rounded up to whole ns once, in
:func:`assemble`. Sources of the figures stand in the machine files; the forms are

* a move costs a start-up per transfer plus bytes over the port's rate (mskpp's measured tables are fitted by
  such a line to a few per cent);
* pipes overlap, the moves of one pipe add up (Ascend C: one in-order queue per pipe);
* a vector instruction costs cycles per 256-byte repeat by its class, plus a fixed cost per call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from instances.graph import DType, Operator, VectorClass
from instances.kernels import Buffer, Cost, KernelKind
from instances.machine import Machine, MemoryName, Path

MIB = 2**20


class Misfit(Exception):  # noqa: N818 - it is an answer, not a mishap
    """A tiling whose buffers exceed a memory, or that the chip has no path for."""

    def __init__(self, memory: str, over_bytes: int, needed_bytes: int = 0) -> None:
        super().__init__(f"{memory}: {over_bytes} bytes over")
        self.memory = memory
        self.over_bytes = over_bytes
        self.needed_bytes = needed_bytes
        self.tile: dict[str, int] = {}  # set by who tried it


def round_up(value: int, unit: int) -> int:
    """The least multiple of ``unit`` that is at least ``value``."""
    return -(-value // unit) * unit


def balanced(extent: int, tile: int, unit: int = 1) -> int:
    """Size of the tiles when ``extent`` is cut evenly into as many as ``tile`` needs, padded to ``unit``."""
    count = -(-extent // tile)
    return round_up(-(-extent // count), unit)


def move_ns(machine: Machine, path: Path | None, moved_bytes: float, transfers: float, formatted: float = 0.0) -> float:
    """Time of ``transfers`` moves of ``moved_bytes`` altogether through one core's port.

    ``formatted`` of them turn rows into fractals on the way (ND->NZ), which costs cycles of its own each.
    """
    if path is None or path.rate_bytes_per_cycle is None or path.startup_cycles is None:
        raise Misfit("path between two memories", 0)
    cycles = transfers * path.startup_cycles.value + moved_bytes / path.rate_bytes_per_cycle.value
    if path.format_cycles is not None:
        cycles += formatted * path.format_cycles.value
    return cycles * machine.ns_per_cycle


SECTOR_BYTES = 128
"""Smallest piece of global memory that is fetched on its own (Ascend C: accesses split into 128, 256 or 512 bytes)."""


def line_share(run_bytes: float, stride_bytes: float) -> float:
    """Bytes fetched per byte wanted, where runs of ``run_bytes`` start every ``stride_bytes`` in global memory.

    Runs that start on sectors fetch whole sectors; others reach into one sector more.
    """
    fetched = math.ceil(run_bytes / SECTOR_BYTES) * SECTOR_BYTES
    if stride_bytes % SECTOR_BYTES:
        fetched += SECTOR_BYTES
    return fetched / run_bytes


def mte1_ns(machine: Machine, left: tuple[float, float], right: tuple[float, float]) -> float:
    """Time of MTE1 for operands of the matrix unit, each as (bytes, moves): one pipe, L0A and then L0B."""
    into_a = move_ns(machine, machine.path(MemoryName.L1, MemoryName.L0A), *left)
    into_b = move_ns(machine, machine.path(MemoryName.L1, MemoryName.L0B), *right)
    return into_a + into_b


def waves(items: int, cores: int) -> int:
    """Items of the busiest core: the last wave takes as long as a full one."""
    return -(-items // cores)


def mmad_ns(machine: Machine, dtype: DType, m: int, n: int, k: int, instructions: float) -> float:
    """Time of the matrix unit for an m x n x k block: start-up per instruction plus macs over rate.

    ``m`` and ``n`` are padded to the fractal (16) by the caller, ``k`` here.
    """
    rate = machine.cube.macs_per_cycle.get(dtype)
    if rate is None:
        raise Misfit(f"matrix unit for {dtype.value}", 0)
    depth = round_up(k, 32 // dtype.size_bytes)
    cycles = instructions * machine.cube.startup_cycles.value + m * n * depth / rate.value
    return cycles * machine.ns_per_cycle


def vector_ns(machine: Machine, work: Mapping[VectorClass, float], calls: float) -> float:
    """Time of one vector unit: elements on 32-bit lanes by class, plus ``calls`` fixed costs."""
    lanes = machine.vector.repeat_bytes.value / DType.FLOAT32.size_bytes
    cycles = sum(elements / lanes * machine.vector.cycles_per_repeat[klass].value for klass, elements in work.items())
    return (cycles + calls * machine.vector.call_cycles.value) * machine.ns_per_cycle


def total_work(operators: Iterable[Operator], converted_elements: int) -> dict[VectorClass, float]:
    """Vector work of several operators, with the conversions from and to narrow storage added."""
    work: dict[VectorClass, float] = {}
    for operator in operators:
        for klass, elements in operator.vector.items():
            work[klass] = work.get(klass, 0.0) + elements
    if converted_elements:
        work[VectorClass.CONVERT] = work.get(VectorClass.CONVERT, 0.0) + converted_elements
    return work


def launch_ns(machine: Machine, kind: KernelKind, steps: int) -> float:
    """Fixed time from a kernel's start to its first move: by kind, and per vector step of its program."""
    launch = machine.launch
    by_kind = {
        KernelKind.VECTOR: launch.vector_ns,
        KernelKind.CUBE: launch.cube_ns,
        KernelKind.MIX: launch.mix_ns,
        KernelKind.LINK: launch.collective_ns,
    }[kind]
    return by_kind.value + steps * launch.step_ns.value


VECTOR_SIDE = frozenset({"vector_mte2", "vector", "mte3", "sync"})
"""Stages of a mixed kernel that its vector cores work on; the others are the cube core's."""


def exposed_ns(pipes_ns: Iterable[float], share: float) -> float:
    """Time of pipes that run side by side: the slowest, and the share of the others that it does not hide."""
    times = sorted(pipes_ns)
    return times[-1] + share * sum(times[:-1]) if times else 0.0


def body_ns(machine: Machine, draft: Draft) -> float:
    """Time of a kernel's pipes on its busiest core, L2 and HBM apart.

    With single buffers pieces are loaded, computed and stored in turn. In a mixed kernel the cube core and its vector
    cores each take their own time, and the slower side does not hide all of the other.
    """
    share = machine.exposed
    if draft.serial:
        return sum(stage.total_ns for stage in draft.stages)
    if draft.kind is KernelKind.MIX:
        cube = [stage.total_ns for stage in draft.stages if stage.engine not in VECTOR_SIDE]
        vector = [stage.total_ns for stage in draft.stages if stage.engine in VECTOR_SIDE]
        sides = exposed_ns(cube, share.cube.value), exposed_ns(vector, share.vector.value)
        return exposed_ns(sides, share.mix.value)
    alone = share.vector if draft.kind is KernelKind.VECTOR else share.cube
    return exposed_ns((stage.total_ns for stage in draft.stages), alone.value)


def link_ns(machine: Machine, message_bytes: int) -> float:
    """Time of a collective: the cheapest of the published straight lines."""
    return min(segment.startup_ns.value + message_bytes / segment.rate_gb_s.value for segment in machine.link.segments)


def l2_ns(machine: Machine, moved_bytes: float, permille: int) -> float:
    """Time of traffic between L2 and the cores at a share of the chip's rate."""
    if moved_bytes == 0:
        return 0.0
    if permille == 0:
        raise Misfit("l2 rate", 0)
    return moved_bytes / (machine.l2.rate_gb_s.value * permille / 1000)


def miss_ns_per_mib(machine: Machine, cores: int) -> float:
    """Time per MiB from HBM through the ports of ``cores`` cores; 0 where the chip's HBM rate is slower."""
    rate = cores * machine.hbm.miss_bytes_per_cycle.value / machine.ns_per_cycle
    return 0.0 if cores == 0 or rate >= machine.hbm.rate_gb_s.value else MIB / rate


def hbm_ns(machine: Machine, moved_bytes: int) -> int:
    """Whole ns that one tensor's bytes hold the HBM channel."""
    return math.ceil(moved_bytes / machine.hbm.rate_gb_s.value)


def explicit_move_ns(machine: Machine, moved_bytes: int) -> int:
    """Whole ns of a prefetch, spill or fill: start-up plus the channel time."""
    return math.ceil(machine.hbm.move_startup_ns.value) + hbm_ns(machine, moved_bytes)


@dataclass
class Stage:
    """One pipe of a kernel: time of its first piece, and of all its pieces on the busiest core (ns)."""

    engine: str
    piece_ns: float
    total_ns: float


@dataclass
class Draft:
    """A kernel's price before rounding."""

    kind: KernelKind
    stages: list[Stage]
    l2_bytes: float
    cores: int
    steps: int = 0  # steps of the program: vector instructions per tile, matrix products
    serial: bool = False  # whether pieces are loaded, computed and stored in turn
    extra_head_ns: float = 0.0
    extra_tail_ns: float = 0.0
    workspace_bytes: int = 0
    demands: list[tuple[str, MemoryName, int, int]] = field(default_factory=list)  # name, memory, bytes, slots

    def need(self, name: str, memory: MemoryName, size_bytes: int, slots: int = 1) -> None:
        """Ask for an in-core buffer of ``slots`` times ``size_bytes``."""
        self.demands.append((name, memory, size_bytes, slots))


def assemble(machine: Machine, draft: Draft, permille: int) -> Cost:
    """Round a draft up to whole ns and place its buffers.

    With one piece in flight per stage, a pipeline lasts as long as its slowest stage (and what that does not hide of
    the others), preceded by one piece of each stage before it (fill) and followed by one of each after it (drain).
    Raises :class:`Misfit` where the buffers do not fit.
    """
    buffers = place_buffers(machine, draft.demands)
    l2 = l2_ns(machine, draft.l2_bytes, permille)
    stages = [Stage("l2", 0.0, l2), *draft.stages]
    slowest = max(range(len(stages)), key=lambda index: stages[index].total_ns)
    fill = sum(stage.piece_ns for stage in stages[:slowest])
    drain = sum(stage.piece_ns for stage in stages[slowest + 1 :])
    engines = {stage.engine: math.ceil(stage.total_ns) for stage in stages if stage.total_ns > 0}
    body = body_ns(machine, draft)
    return Cost(
        head_ns=math.ceil(launch_ns(machine, draft.kind, draft.steps) + fill + draft.extra_head_ns),
        busy_ns=max(math.ceil(body), *engines.values()) if engines else 0,
        tail_ns=math.ceil(drain + draft.extra_tail_ns),
        engines_ns=engines,
        l2_bytes=math.ceil(draft.l2_bytes),
        workspace_bytes=round_up(draft.workspace_bytes, machine.alignment(MemoryName.L2)),
        miss_ns_per_mib=math.ceil(miss_ns_per_mib(machine, draft.cores)),
        buffers=buffers,
    )


def fits(machine: Machine, demands: Iterable[tuple[str, MemoryName, int, int]]) -> bool:
    """Whether buffers fit beside each other."""
    try:
        place_buffers(machine, demands)
    except Misfit:
        return False
    return True


def place_buffers(machine: Machine, demands: Iterable[tuple[str, MemoryName, int, int]]) -> tuple[Buffer, ...]:
    """Addresses for in-core buffers, which all live as long as the kernel: one after the other, aligned."""
    top: dict[MemoryName, int] = {}
    placed = []
    for name, memory, size_bytes, slots in demands:
        unit = machine.alignment(memory)
        size = round_up(size_bytes, unit)
        offset = top.get(memory, 0)
        top[memory] = offset + size * slots
        placed.append(Buffer(name=name, memory=memory, offset_bytes=offset, size_bytes=size, slots=slots))
    for memory, used in top.items():
        if used > machine.capacity(memory):
            raise Misfit(memory.value, used - machine.capacity(memory), used)
    return tuple(placed)
