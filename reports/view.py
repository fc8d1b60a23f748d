"""A schedule with its instance as explanations ask of them: who makes, who reads, where it lies, what a kernel takes.

Times in ns, sizes in bytes. Durations are worked out here from price and traffic as the problem statement defines them;
the tests hold them against the replay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from instances import costs
from instances.errors import InputError
from instances.fusion import Fuser
from instances.graph import Role
from instances.instance import Instance
from instances.kernels import Cost
from instances.machine import Machine, MemoryName
from instances.schedule import Kernel, Move, MoveKind, Residency, Schedule, Source
from reports.facts import Block, Facts, KernelFacts, gather

MIB = 2**20


@dataclass(frozen=True)
class Terms:
    """What the duration of a kernel is made of.

    Parameters
    ----------
    head_ns, busy_ns, tail_ns
        As in the kernel's price.
    drawn_ns
        Time of the streamed bytes through the ports of its cores; 0 where the channel is slower.
    phase_ns
        Length of its phase on the HBM channel; 0 where it has none.
    """

    head_ns: int
    busy_ns: int
    tail_ns: int
    drawn_ns: int
    phase_ns: int

    @property
    def own_ns(self) -> int:
        """From start to end where the phase does not hold it up."""
        return self.head_ns + max(self.busy_ns, self.drawn_ns) + self.tail_ns

    @property
    def alone_ns(self) -> int:
        """From start to end with the channel to itself: the phase starts with the body."""
        return self.head_ns + max(self.busy_ns, self.drawn_ns, self.phase_ns) + self.tail_ns

    def duration_ns(self, wait_ns: int | None) -> int:
        """From start to end where the phase starts so long after the kernel (``None``: no phase)."""
        late = 0 if wait_ns is None else wait_ns + self.phase_ns + self.tail_ns
        return max(self.own_ns, late)


def terms(machine: Machine, cost: Cost, streamed: Iterable[int], written: Iterable[int]) -> Terms:
    """The terms of a kernel with this price that reads and writes so many bytes of HBM, tensor by tensor."""
    read = list(streamed)
    return Terms(
        cost.head_ns,
        cost.busy_ns,
        cost.tail_ns,
        sum(math.ceil(cost.miss_ns_per_mib * amount / MIB) for amount in read),
        sum(costs.hbm_ns(machine, amount) for amount in (*read, *written)),
    )


@dataclass(frozen=True)
class Stay:
    """A tensor in L2: its residency, when it is whole there, what brought it and who uses it."""

    residency: Residency
    arrival_ns: int
    move: Move | None  # what brought it; None where its maker left it
    readers: tuple[KernelFacts, ...]
    spills: tuple[Move, ...]


class View:
    """An instance and one of its schedules.

    Raises
    ------
    InputError
        Where the schedule names what the instance does not have, or runs a kernel that has no price.
    """

    def __init__(self, instance: Instance, schedule: Schedule) -> None:
        self.instance = instance
        self.schedule = schedule
        self.graph = instance.graph
        self.machine = instance.machine
        self.facts: Facts = gather(instance, schedule)
        self.rows = self.facts.kernels
        for row in self.rows:
            if row.cost is None:
                raise InputError(f"kernel {row.label} has no price on {self.machine.name}; validate the schedule first")
        self.kernel_of = {name: row for row in self.rows for name in row.kernel.operators}
        self.readers: dict[str, list[KernelFacts]] = {}
        for row in self.rows:
            for read in row.kernel.reads:
                self.readers.setdefault(read.tensor, []).append(row)

    @cached_property
    def fuser(self) -> Fuser:
        """Who judges groups of operators."""
        return Fuser(self.graph)

    @cached_property
    def candidate(self) -> dict[frozenset[str], int]:
        """Candidates of the instance by their operators."""
        return {frozenset(candidate.operators): index for index, candidate in enumerate(self.instance.candidates)}

    @cached_property
    def stays(self) -> dict[str, list[Stay]]:
        """Stays in L2 by tensor, in order of time."""
        found: dict[str, list[Stay]] = {}
        for residency in sorted(self.schedule.residencies, key=lambda one: one.start_ns):
            found.setdefault(residency.tensor, []).append(self._stay(residency))
        return found

    def _stay(self, residency: Residency) -> Stay:
        tensor = residency.tensor
        bringers = (m for m in self.schedule.moves if m.tensor == tensor and m.kind is not MoveKind.SPILL)
        move = next((m for m in bringers if m.start_ns == residency.start_ns), None)
        maker = self.maker(tensor)
        arrival = move.end_ns if move else maker.kernel.end_ns if maker else residency.start_ns

        def within(start_ns: int, end_ns: int) -> bool:
            return arrival <= start_ns and end_ns <= residency.end_ns

        readers = tuple(
            row
            for row in self.readers.get(tensor, ())
            if within(row.kernel.start_ns, row.kernel.end_ns) and source_of(row.kernel, tensor) is Source.L2
        )
        spills = tuple(
            m
            for m in self.schedule.moves
            if m.tensor == tensor and m.kind is MoveKind.SPILL and within(m.start_ns, m.end_ns)
        )
        return Stay(residency, arrival, move, readers, spills)

    def maker(self, tensor: str) -> KernelFacts | None:
        """The kernel that makes a tensor."""
        name = self.graph.producer.get(tensor)
        return None if name is None else self.kernel_of.get(name)

    def cost(self, row: KernelFacts) -> Cost:
        """Price of a kernel; all have one, or there would be no view."""
        assert row.cost is not None
        return row.cost

    def read_bytes(self, operators: Iterable[str], tensor: str) -> int:
        """Bytes of an outside tensor that a kernel over these operators reads: the most that one of them touches."""
        touched = (
            self.graph.touched_bytes(access)
            for name in operators
            for access in self.graph.operator[name].reads
            if access.tensor == tensor
        )
        return max(touched, default=0)

    def streamed(self, row: KernelFacts) -> dict[str, int]:
        """Tensor -> bytes that a kernel reads from HBM."""
        kernel = row.kernel
        return {
            read.tensor: self.read_bytes(kernel.operators, read.tensor)
            for read in kernel.reads
            if read.source is Source.HBM
        }

    def written(self, row: KernelFacts) -> dict[str, int]:
        """Tensor -> bytes that a kernel writes to HBM."""
        return {w.tensor: self.graph.tensor[w.tensor].size_bytes for w in row.kernel.writes if w.hbm}

    def terms(self, row: KernelFacts) -> Terms:
        """What the duration of a kernel of the schedule is made of."""
        return terms(self.machine, self.cost(row), self.streamed(row).values(), self.written(row).values())

    def wait_ns(self, row: KernelFacts) -> int | None:
        """From a kernel's start to its phase on the channel; ``None`` where it has none."""
        begin = row.kernel.hbm_start_ns
        return None if begin is None else begin - row.kernel.start_ns

    def in_hbm_ns(self, tensor: str) -> int | None:
        """From when on a tensor is in HBM; ``None``: never."""
        if self.graph.tensor[tensor].role.starts_in_hbm:
            return 0
        times = [m.end_ns for m in self.schedule.moves if m.tensor == tensor and m.kind is MoveKind.SPILL]
        maker = self.maker(tensor)
        if maker is not None and any(w.tensor == tensor and w.hbm for w in maker.kernel.writes):
            times.append(maker.kernel.end_ns)
        return min(times, default=None)

    def is_output(self, tensor: str) -> bool:
        """Whether a tensor must reach HBM."""
        return self.graph.tensor[tensor].role is Role.OUTPUT

    @cached_property
    def l2_bytes(self) -> int:
        """Capacity of L2."""
        return self.machine.capacity(MemoryName.L2)

    def room_bytes(self, tensor: str) -> int:
        """Bytes a tensor takes in L2: its size, aligned."""
        unit = self.machine.alignment(MemoryName.L2)
        return -(-self.graph.tensor[tensor].size_bytes // unit) * unit

    def blocks_at(self, time_ns: int) -> tuple[Block, ...]:
        """What lies in L2 at an instant, largest first."""
        live = [block for block in self.facts.blocks if block.start_ns <= time_ns < block.end_ns]
        return tuple(sorted(live, key=lambda block: (-block.size_bytes, block.name)))

    @cached_property
    def channel(self) -> tuple[tuple[int, int, str], ...]:
        """What the HBM channel carries, in order: start, end, words."""
        found = [
            (row.kernel.hbm_start_ns, row.hbm_end_ns, f"the phase of kernel {row.number}")
            for row in self.rows
            if row.kernel.hbm_start_ns is not None
        ]
        found += [(m.start_ns, m.end_ns, f"the {m.kind.value} of {m.tensor}") for m in self.schedule.moves]
        return tuple(sorted(found))


def source_of(kernel: Kernel, tensor: str) -> Source | None:
    """Where a kernel reads a tensor from."""
    return next((read.source for read in kernel.reads if read.tensor == tensor), None)
