"""Times of a kernel as the problem statement defines them, from its traffic and its price."""

from __future__ import annotations

import math
from dataclasses import dataclass

from instances.costs import explicit_move_ns, hbm_ns
from instances.graph import Role
from instances.instance import Instance
from instances.kernels import Cost
from instances.schedule import Kernel, Schedule, Source

_MIB = 2**20


@dataclass(frozen=True)
class KernelTimes:
    """Length of the channel phase and end of the kernel (ns)."""

    phase_ns: int
    end_ns: int


class Traffic:
    """Bytes and channel times on one instance."""

    def __init__(self, instance: Instance) -> None:
        self.graph = instance.graph
        self.machine = instance.machine

    def move_ns(self, tensor: str) -> int:
        """Duration of an explicit move."""
        return explicit_move_ns(self.machine, self.graph.tensor[tensor].size_bytes)

    def read_bytes(self, operators: tuple[str, ...], tensor: str) -> int:
        """Bytes of an outside tensor that a kernel reads: the most that one of its operators touches."""
        return max(
            (
                self.graph.touched_bytes(access)
                for name in operators
                for access in self.graph.operator[name].reads
                if access.tensor == tensor
            ),
            default=0,
        )

    def streamed_bytes(self, kernel: Kernel) -> dict[str, int]:
        """Tensor -> bytes that the kernel reads from HBM."""
        return {
            read.tensor: self.read_bytes(kernel.operators, read.tensor)
            for read in kernel.reads
            if read.source is Source.HBM and read.tensor in self.graph.tensor
        }

    def written_bytes(self, kernel: Kernel) -> dict[str, int]:
        """Tensor -> bytes that the kernel writes to HBM."""
        return {
            write.tensor: self.graph.tensor[write.tensor].size_bytes
            for write in kernel.writes
            if write.hbm and write.tensor in self.graph.tensor
        }

    def total(self, schedule: Schedule) -> int:
        """All bytes over the HBM channel."""
        kernels = sum(
            sum(self.streamed_bytes(kernel).values()) + sum(self.written_bytes(kernel).values())
            for kernel in schedule.kernels
            if all(name in self.graph.operator for name in kernel.operators)
        )
        moves = sum(
            self.graph.tensor[move.tensor].size_bytes for move in schedule.moves if move.tensor in self.graph.tensor
        )
        return kernels + moves

    def compulsory_ns(self) -> int:
        """Channel time of each source read once (its largest reader's part) and each output written once."""
        total = 0
        for tensor in self.graph.tensors:
            if tensor.role.starts_in_hbm:
                total += max(
                    hbm_ns(self.machine, self.read_bytes((reader,), tensor.name))
                    for reader in self.graph.consumers[tensor.name]
                )
            elif tensor.role is Role.OUTPUT:
                total += hbm_ns(self.machine, tensor.size_bytes)
        return total


def kernel_times(traffic: Traffic, kernel: Kernel, cost: Cost) -> KernelTimes:
    """When a kernel that starts as the schedule says must end.

    ``end = max(body + busy, body + port time of streamed bytes, end of the channel phase) + tail`` with
    ``body = start + head``; the phase lasts as long as each streamed and written tensor holds the channel.
    """
    streamed = traffic.streamed_bytes(kernel)
    phase = sum(hbm_ns(traffic.machine, amount) for amount in streamed.values())
    phase += sum(hbm_ns(traffic.machine, amount) for amount in traffic.written_bytes(kernel).values())
    body = kernel.start_ns + cost.head_ns
    drawn = sum(math.ceil(cost.miss_ns_per_mib * amount / _MIB) for amount in streamed.values())
    done = body + max(cost.busy_ns, drawn)
    if kernel.hbm_start_ns is not None:
        done = max(done, kernel.hbm_start_ns + phase)
    return KernelTimes(phase, done + cost.tail_ns)
