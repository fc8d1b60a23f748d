"""What a report says about a schedule, worked out once: what bounds each kernel, bytes, L2 over time.

Times in ns, sizes and addresses in bytes. An interval ``[start, end)`` does not hold its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from pydantic import BaseModel

from instances import costs
from instances.errors import InputError, TilewrightError
from instances.instance import Instance, Pricing
from instances.kernels import Buffer, Cost, KernelKind
from instances.machine import Figure, Machine, MemoryName, Path
from instances.pricing import price_in
from instances.schedule import Kernel, Move, Schedule, Source

UNPRICED = "unpriced"
"""What bounds a kernel that the cost model refuses."""

ENGINE_ORDER = ("cube", "vector", "mte1", "mte2", "mte3", "fixp", "l2", "hbm", "link", "launch")
"""The order in which engines are shown; others follow by name."""

T = TypeVar("T")


@dataclass(frozen=True)
class KernelFacts:
    """A kernel with what follows from it; ``number`` counts from 1 in order of start."""

    number: int
    kernel: Kernel
    cost: Cost | None
    bound_by: str
    hbm_read_bytes: int
    hbm_written_bytes: int

    @property
    def duration_ns(self) -> int:
        """From start to end."""
        return self.kernel.end_ns - self.kernel.start_ns

    @property
    def label(self) -> str:
        """Number and operators."""
        return f"{self.number} {self.kernel.label}"

    @property
    def l2_bytes(self) -> int:
        """Bytes between L2 and the cores; 0 where the kernel has no price."""
        return self.cost.l2_bytes if self.cost else 0

    @property
    def hbm_end_ns(self) -> int:
        """End of the phase on the HBM channel; the kernel's start where it has none."""
        begin = self.kernel.hbm_start_ns
        return self.kernel.start_ns if begin is None else begin + self.kernel.hbm_ns

    @property
    def aic_ids(self) -> tuple[int, ...]:
        """Cube cores held; the first ones where the schedule names none."""
        return self.kernel.aic_ids or tuple(range(self.kernel.tiling.aic))

    @property
    def aiv_ids(self) -> tuple[int, ...]:
        """Vector cores held; the first ones where the schedule names none."""
        return self.kernel.aiv_ids or tuple(range(self.kernel.tiling.aiv))


@dataclass(frozen=True)
class Block:
    """A rectangle of L2: ``kind`` is ``residency`` or ``workspace``."""

    name: str
    kind: str
    offset_bytes: int
    size_bytes: int
    start_ns: int
    end_ns: int

    @property
    def top_bytes(self) -> int:
        """First address above the rectangle."""
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True)
class Peak:
    """The most L2 in use, the first instant at which it is, and what is live then."""

    size_bytes: int
    at_ns: int
    live: tuple[Block, ...]


@dataclass(frozen=True)
class Use:
    """How much of the latency a resource is busy; ``share`` in [0, 1] weighs by cores where there are several."""

    resource: str
    busy_ns: int
    share: float


@dataclass(frozen=True)
class FigureRow:
    """One line of the machine table."""

    name: str
    value: str
    grade: str
    source: str


@dataclass(frozen=True)
class Layout:
    """In-core buffers that one or more kernels share, with the memories' use."""

    numbers: tuple[int, ...]
    buffers: tuple[Buffer, ...]
    used_bytes: dict[MemoryName, int]


@dataclass(frozen=True)
class Facts:
    """Everything that tables, figures and trace draw from."""

    instance: Instance
    schedule: Schedule
    kernels: tuple[KernelFacts, ...]
    blocks: tuple[Block, ...]
    peak: Peak
    span_ns: int

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that have a time in some kernel, in the order shown."""
        found = {engine for row in self.kernels if row.cost for engine in row.cost.engines_ns}
        return tuple(sorted(found, key=_engine_rank))

    @property
    def bound_counts(self) -> tuple[tuple[str, int, int], ...]:
        """What bounds kernels: name, how many, their durations together (ns), longest first."""
        number: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for row in self.kernels:
            number[row.bound_by] += 1
            total[row.bound_by] += row.duration_ns
        return tuple((name, number[name], ns) for name, ns in total.most_common())


def gather(instance: Instance, schedule: Schedule) -> Facts:
    """Work out the facts of a schedule.

    Raises
    ------
    InputError
        Where the schedule names an operator or a tensor that the instance does not have.
    """
    _check_names(instance, schedule)
    ordered = sorted(schedule.kernels, key=lambda kernel: (kernel.start_ns, kernel.end_ns))
    prices = Prices(instance)
    kernels = tuple(_kernel_facts(prices, number, kernel) for number, kernel in enumerate(ordered, start=1))
    blocks = tuple(_blocks(schedule, kernels))
    ends = [
        *(kernel.end_ns for kernel in schedule.kernels),
        *(move.end_ns for move in schedule.moves),
        *(block.end_ns for block in blocks),
    ]
    return Facts(instance, schedule, kernels, blocks, peak_of(blocks), max(1, schedule.latency_ns, *ends))


class Prices:
    """Costs of an instance's kernels by the one cost model, each structure and tiling priced once."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.estimates = instance.price is Pricing.ESTIMATE
        self._template = {candidate.operators: candidate.template for candidate in instance.candidates}
        self._known: dict[tuple[int, str], Cost | None] = {}

    def of(self, kernel: Kernel) -> Cost | None:
        """The cost of a kernel; ``None`` where the cost model refuses it."""
        template = self._template.get(kernel.operators)
        if template is None:
            return self._price(kernel)
        key = (template, kernel.tiling.model_dump_json())
        if key not in self._known:
            self._known[key] = self._price(kernel)
        return self._known[key]

    def _price(self, kernel: Kernel) -> Cost | None:
        graph, machine = self.instance.graph, self.instance.machine
        try:
            priced = costs.price_group(graph, machine, kernel.operators, kernel.tiling)
            return priced.cost if self.estimates else price_in(self.instance, priced.fusion, kernel.tiling)
        except (costs.Misfit, TilewrightError, ValueError, KeyError):
            return None


def bound_of(kernel: Kernel, cost: Cost | None) -> str:
    """What bounds a kernel's duration.

    ``launch`` where head and tail are more than half of it; ``hbm`` where it ended later than head, busiest engine
    and tail allow; the busiest engine otherwise.
    """
    if cost is None:
        return UNPRICED
    duration_ns = kernel.end_ns - kernel.start_ns
    if 2 * (cost.head_ns + cost.tail_ns) > duration_ns:
        return "launch"
    return "hbm" if duration_ns > cost.least_ns else cost.bound_by


def engine_label(engine: str) -> str:
    """An engine's name as people write it."""
    return engine.upper() if engine in ("l2", "hbm") else engine


def move_bytes(instance: Instance, move: Move) -> int:
    """Bytes an explicit move carries: the whole tensor."""
    return instance.graph.tensor[move.tensor].size_bytes


def steps(intervals: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The sum of weights over time, from ``(start, end, weight)``: ``(instant, value from then on)``, no repeats."""
    change: Counter[int] = Counter()
    for start, end, weight in intervals:
        if end > start:
            change[start] += weight
            change[end] -= weight
    levels: list[tuple[int, int]] = []
    level = 0
    for instant in sorted(change):
        if change[instant]:
            level += change[instant]
            levels.append((instant, level))
    return levels


def l2_steps(blocks: Iterable[Block]) -> list[tuple[int, int]]:
    """Bytes of L2 in use over time."""
    return steps((block.start_ns, block.end_ns, block.size_bytes) for block in blocks)


def peak_of(blocks: Sequence[Block]) -> Peak:
    """The most bytes in use at once, the first instant of it, and the blocks live then, largest first."""
    at_ns, size_bytes = max(l2_steps(blocks), key=lambda step: (step[1], -step[0]), default=(0, 0))
    live = [block for block in blocks if block.start_ns <= at_ns < block.end_ns]
    return Peak(size_bytes, at_ns, tuple(sorted(live, key=lambda block: (-block.size_bytes, block.name))))


def pack_lanes(items: Iterable[T], interval: Callable[[T], tuple[int, int]]) -> list[list[T]]:
    """Items on as few lanes as their overlaps in time allow, each on the first lane that is free at its start."""
    lanes: list[list[T]] = []
    free_at: list[int] = []
    for item in sorted(items, key=interval):
        start, end = interval(item)
        lane = next((index for index, free in enumerate(free_at) if free <= start), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            free_at.append(0)
        lanes[lane].append(item)
        free_at[lane] = end
    return lanes


def channel_intervals(facts: Facts) -> list[tuple[int, int]]:
    """All intervals on the HBM channel: kernel phases and explicit moves."""
    phases = [(row.kernel.hbm_start_ns, row.hbm_end_ns) for row in facts.kernels if row.kernel.hbm_start_ns is not None]
    return [*phases, *((move.start_ns, move.end_ns) for move in facts.schedule.moves)]


def uses(facts: Facts) -> tuple[Use, ...]:
    """Busy time and share of the latency of cube cores, vector cores, HBM channel and link."""
    machine, latency_ns = facts.instance.machine, max(1, facts.schedule.latency_ns)

    def busy(intervals: Iterable[tuple[int, int]]) -> int:
        levels = steps((start, end, 1) for start, end in intervals)
        return sum(after[0] - here[0] for here, after in pairwise(levels) if here[1] > 0)

    def cores(name: str, count: int, held: Callable[[KernelFacts], tuple[int, ...]]) -> Use:
        rows = [row for row in facts.kernels if held(row)]
        core_ns = sum(row.duration_ns * len(held(row)) for row in rows)
        return Use(
            name, busy((r.kernel.start_ns, r.kernel.end_ns) for r in rows), core_ns / (max(1, count) * latency_ns)
        )

    channel_ns = busy(channel_intervals(facts))
    link_ns = busy((r.kernel.start_ns, r.kernel.end_ns) for r in facts.kernels if r.kernel.kind is KernelKind.LINK)
    return (
        cores(f"{machine.aic_count} AIC", machine.aic_count, lambda row: row.aic_ids),
        cores(f"{machine.aiv_count} AIV", machine.aiv_count, lambda row: row.aiv_ids),
        Use("HBM channel", channel_ns, channel_ns / latency_ns),
        Use("link", link_ns, link_ns / latency_ns),
    )


def layouts(facts: Facts) -> tuple[Layout, ...]:
    """In-core buffers, kernels with the same ones together, in order of their first kernel."""
    groups: dict[tuple[Buffer, ...], list[int]] = {}
    for row in facts.kernels:
        if row.kernel.buffers:
            groups.setdefault(row.kernel.buffers, []).append(row.number)
    found = []
    for buffers, numbers in groups.items():
        used = used_bytes(buffers)
        ordered = sorted(buffers, key=lambda buffer: (list(MemoryName).index(buffer.memory), buffer.offset_bytes))
        found.append(Layout(tuple(numbers), tuple(ordered), used))
    return tuple(found)


def used_bytes(buffers: Iterable[Buffer]) -> dict[MemoryName, int]:
    """End of the highest in-core buffer in each memory that has one."""
    used: dict[MemoryName, int] = {}
    for buffer in buffers:
        end = buffer.offset_bytes + buffer.slots * buffer.size_bytes
        used[buffer.memory] = max(used.get(buffer.memory, 0), end)
    return used


def in_core_steps(facts: Facts, memory: MemoryName) -> list[tuple[int, int]]:
    """Bytes of an in-core memory in use over time, on the core that uses most of it."""
    change: dict[int, list[tuple[int, int]]] = {}  # instant -> kernels that begin (by their bytes) or end there
    for row in facts.kernels:
        size = used_bytes(row.kernel.buffers).get(memory, 0)
        if size and row.duration_ns > 0:
            change.setdefault(row.kernel.start_ns, []).append((size, 1))
            change.setdefault(row.kernel.end_ns, []).append((size, -1))
    running: Counter[int] = Counter()
    levels: list[tuple[int, int]] = []
    for instant in sorted(change):
        for size, sign in change[instant]:
            running[size] += sign
        level = max((size for size, count in running.items() if count > 0), default=0)
        if not levels or levels[-1][1] != level:
            levels.append((instant, level))
    return levels


def machine_rows(machine: Machine) -> tuple[FigureRow, ...]:
    """Every figure of a machine with grade and source, and every path that it has or lacks with the evidence."""
    return tuple(_figure_rows(machine, ""))


def _figure_rows(value: object, place: str) -> Iterator[FigureRow]:
    if isinstance(value, Figure):
        yield FigureRow(place, f"{value.value:,.12g}", value.grade.value, value.source)
    elif isinstance(value, BaseModel):
        if isinstance(value, Path):
            place = f"path {value.source.value} to {value.target.value}"
            yield FigureRow(place, "exists" if value.exists else "does not exist", "", value.evidence)
        for name in type(value).model_fields:
            yield from _figure_rows(getattr(value, name), f"{place}, {name}" if place else name)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _figure_rows(part, f"{place}, {name}")
    elif isinstance(value, tuple):
        for index, part in enumerate(value, start=1):
            yield from _figure_rows(part, f"{place}, {index}")


def _engine_rank(engine: str) -> tuple[int, str]:
    return (ENGINE_ORDER.index(engine) if engine in ENGINE_ORDER else len(ENGINE_ORDER), engine)


def _check_names(instance: Instance, schedule: Schedule) -> None:
    graph = instance.graph
    operators = [("kernel", name) for kernel in schedule.kernels for name in kernel.operators]
    tensors = [("kernel", read.tensor) for kernel in schedule.kernels for read in kernel.reads]
    tensors += [("kernel", write.tensor) for kernel in schedule.kernels for write in kernel.writes]
    tensors += [("move", move.tensor) for move in schedule.moves]
    tensors += [("residency", residency.tensor) for residency in schedule.residencies]
    for what, name in operators:
        if name not in graph.operator:
            raise InputError(
                f"schedule: a {what} runs operator {name!r}, which instance {instance.name!r} does not have; "
                "give the instance that the schedule was made for"
            )
    for what, name in tensors:
        if name not in graph.tensor:
            raise InputError(
                f"schedule: a {what} names tensor {name!r}, which instance {instance.name!r} does not have; "
                "give the instance that the schedule was made for"
            )


def _kernel_facts(prices: Prices, number: int, kernel: Kernel) -> KernelFacts:
    instance, cost = prices.instance, prices.of(kernel)
    read = sum(_read_bytes(instance, kernel, r.tensor) for r in kernel.reads if r.source is Source.HBM)
    written = sum(instance.graph.tensor[w.tensor].size_bytes for w in kernel.writes if w.hbm)
    return KernelFacts(number, kernel, cost, bound_of(kernel, cost), read, written)


def _read_bytes(instance: Instance, kernel: Kernel, tensor: str) -> int:
    """Bytes of a tensor that a kernel reads: the most that one of its accesses touches."""
    graph = instance.graph
    accesses = [access for name in kernel.operators for access in graph.operator[name].reads]
    return max((graph.touched_bytes(access) for access in accesses if access.tensor == tensor), default=0)


def _blocks(schedule: Schedule, kernels: Sequence[KernelFacts]) -> Iterator[Block]:
    for residency in schedule.residencies:
        yield Block(
            residency.tensor,
            "residency",
            residency.offset_bytes,
            residency.size_bytes,
            residency.start_ns,
            residency.end_ns,
        )
    for row in kernels:
        offset = row.kernel.workspace_offset_bytes
        if offset is not None and row.cost is not None and row.cost.workspace_bytes:
            name = f"workspace of {row.label}"
            kernel = row.kernel
            yield Block(name, "workspace", offset, row.cost.workspace_bytes, kernel.start_ns, kernel.end_ns)
