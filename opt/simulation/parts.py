"""What the programs of all kernels are made of: slots of buffers, ports, how tiles are dealt out to cores."""

from __future__ import annotations

from collections.abc import Iterator

from instances.costs.terms import waves
from instances.kernels import Buffer
from instances.machine import Machine, MemoryName, Path
from opt.simulation.program import Slot


class Slots:
    """The slots of a kernel's buffers, taken in turn."""

    def __init__(self, buffers: tuple[Buffer, ...]) -> None:
        self._count = {(b.name, b.memory): b.slots for b in buffers}

    def at(self, name: str, memory: MemoryName, turn: int) -> tuple[Slot, ...]:
        """The slot for the ``turn``-th use of a buffer; none where the kernel has no such buffer."""
        count = self._count.get((name, memory))
        return () if count is None else ((name, memory, turn % count),)

    def named(self, start: str, memory: MemoryName, turn: int) -> tuple[Slot, ...]:
        """The same for all buffers whose name is ``start`` and a number."""
        return tuple(
            (name, where, turn % count)
            for (name, where), count in self._count.items()
            if where is memory and name.startswith(start) and name[len(start) :].isdigit()
        )

    def count(self, name: str, memory: MemoryName) -> int:
        """Slots of a buffer."""
        return self._count.get((name, memory), 1)


def dealt(items: int, cores: int) -> Iterator[tuple[int, int]]:
    """(items, cores that have so many), when items are dealt out in turn."""
    most = waves(items, cores)
    busiest = items - (most - 1) * cores
    yield most, busiest
    if most > 1 and busiest < cores:
        yield most - 1, cores - busiest


def port(machine: Machine, path: Path | None) -> tuple[float, float]:
    """Start-up (ns) and rate (bytes per ns) of a path."""
    if path is None or path.startup_cycles is None or path.rate_bytes_per_cycle is None:
        raise ValueError("no such path")
    return path.startup_cycles.value * machine.ns_per_cycle, path.rate_bytes_per_cycle.value / machine.ns_per_cycle


def format_ns(machine: Machine, path: Path | None) -> float:
    return 0.0 if path is None or path.format_cycles is None else path.format_cycles.value * machine.ns_per_cycle


def hbm_share_of(streamed: float, loaded: float) -> float:
    """Share of what is loaded that comes from HBM: each byte once, however often it is loaded."""
    return min(1.0, streamed / loaded) if loaded else 0.0
