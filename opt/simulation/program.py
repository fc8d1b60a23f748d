"""Programs: what one core of a kernel does, tile by tile, as operations on in-order pipes with buffers between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from instances.kernels import Buffer
from instances.machine import MemoryName

Slot = tuple[str, MemoryName, int]
"""One copy of an in-core buffer: its name, its memory, which of its slots."""


@dataclass(frozen=True)
class Op:
    """One operation on a pipe.

    Parameters
    ----------
    pipe
        In-order queue.
    ns
        Time without traffic: start-up of a move, or all of a computation.
    moved_bytes, rate
        Traffic with L2, and the most bytes per ns that the core's port takes.
    hbm_share
        Share of these bytes that comes from HBM or goes there.
    waits
        Operations that must have ended: who fills what it reads, who still needs what it overwrites.
    after
        (operation, share): not before that share of the time of an earlier one has passed since that began.
    reads, writes
        Slots, each with the version that must be found there, or that is left there.
    """

    pipe: str
    ns: float
    moved_bytes: float = 0.0
    rate: float = 1.0
    hbm_share: float = 0.0
    waits: tuple[int, ...] = ()
    after: tuple[tuple[int, float], ...] = ()
    reads: tuple[tuple[Slot, int], ...] = ()
    writes: tuple[tuple[Slot, int], ...] = ()

    @property
    def nominal_ns(self) -> float:
        """Time where nobody else draws on L2 or HBM."""
        return self.ns + self.moved_bytes / self.rate


@dataclass(frozen=True)
class Program:
    """Operations in the order in which they are issued, and how many cores of the chip run just this."""

    ops: tuple[Op, ...]
    cores: int


@dataclass
class Writer:
    """Writes a program: each operation waits for the flags that its buffers need."""

    ops: list[Op] = field(default_factory=list)
    _filled: dict[Slot, int] = field(default_factory=dict)
    _used: dict[Slot, list[int]] = field(default_factory=dict)
    _version: dict[Slot, int] = field(default_factory=dict)

    def add(
        self,
        pipe: str,
        ns: float,
        reads: Iterable[Slot] = (),
        writes: Iterable[Slot] = (),
        moved_bytes: float = 0.0,
        rate: float = 1.0,
        hbm_share: float = 0.0,
        after: Sequence[tuple[int, float]] = (),
        waits: Iterable[int] = (),
        extends: Iterable[Slot] = (),
    ) -> int:
        """Append an operation; returns its number.

        ``extends`` are slots that get more of the content they have: who reads them from now on waits for this, and
        nobody who reads what was there before is in the way.
        """
        number = len(self.ops)
        needed = set(waits)
        found = []
        for slot in reads:
            if slot in self._filled:
                needed.add(self._filled[slot])
            found.append((slot, self._version.get(slot, 0)))
            self._used.setdefault(slot, []).append(number)
        left = []
        for slot in writes:
            needed.update(self._used.pop(slot, ()))
            if slot in self._filled:
                needed.add(self._filled[slot])
            self._filled[slot] = number
            self._version[slot] = self._version.get(slot, 0) + 1
            left.append((slot, self._version[slot]))
        for slot in extends:
            self._filled[slot] = number
        needed.discard(number)
        op = Op(pipe, ns, moved_bytes, rate, hbm_share, tuple(sorted(needed)), tuple(after), tuple(found), tuple(left))
        self.ops.append(op)
        return number

    def program(self, cores: int) -> Program:
        """What was written, for so many cores."""
        return Program(tuple(self.ops), cores)


def overlapping(buffers: Sequence[Buffer]) -> dict[Slot, tuple[Slot, ...]]:
    """Slots whose addresses in a core overlap, by slot; empty where every buffer has a place of its own."""
    spans = [
        ((b.name, b.memory, i), b.offset_bytes + i * b.size_bytes, b.offset_bytes + (i + 1) * b.size_bytes)
        for b in buffers
        for i in range(b.slots)
    ]
    found: dict[Slot, list[Slot]] = {}
    for slot, low, high in spans:
        for other, other_low, other_high in spans:
            if other != slot and other[1] is slot[1] and low < other_high and other_low < high:
                found.setdefault(slot, []).append(other)
    return {slot: tuple(others) for slot, others in found.items()}
