"""How the loops of all kinds of kernels are written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from instances.costs.terms import Draft, round_up
from instances.machine import Machine, MemoryName
from instances.pipelines.loop import MOST_SLOTS, Dependence, Held, LoopKernel, Ring, TileOp, Use

ISSUE, TURN = "issue", "turn"
"""Resources beside the pipes: the issue of a vector core, and the turn of the two sides of a mixed kernel.

A vector core is held for the share ``exposed.vector`` of each of its operations before it issues the next, and the
cube and the vector unit of a mixed kernel keep one another waiting for ``exposed.mix`` of their work: on a tile under
an epilogue, on a product or a softmax in attention. These are the fitted shares of the cost model, told of single
operations; the event simulation tells them so, too.
"""

PS_PER_NS = 1000


def ps(ns: float) -> int:
    """Whole picoseconds."""
    return round(ns * PS_PER_NS)


class LoopWriter:
    """Collects operations, dependences and buffers of a loop."""

    def __init__(self, machine: Machine, draft: Draft) -> None:
        self._machine = machine
        self._demands = {(name, memory): (size, slots) for name, memory, size, slots in draft.demands}
        self.ops: list[TileOp] = []
        self._waits: dict[tuple[int, int, int], int] = {}  # source, target, distance -> latency
        self._rings: list[Ring] = []

    def op(
        self,
        name: str,
        pipe: str,
        ns: float,
        *,
        after: Iterable[int] = (),
        holds: Mapping[str, float] | None = None,
        l2_bytes: float = 0.0,
        work_ns: float | None = None,
    ) -> int:
        """Add an operation that starts when those in ``after`` have ended; returns its position.

        ``holds`` are shares of its work for which it holds other resources.
        """
        number = len(self.ops)
        work = ps(ns if work_ns is None else work_ns)
        held = {resource: round(share * work) for resource, share in (holds or {}).items() if share}
        self.ops.append(
            TileOp(name=name, pipe=pipe, busy_ps=ps(ns), work_ps=work, holds=held, l2_bytes=round(l2_bytes))
        )
        for source in after:
            self.wait(source, number)
        return number

    def hold(self, op: int, resource: str, ns: float) -> None:
        """Let an operation hold a resource for a time from its start, which may outlast it."""
        if ps(ns):
            found = self.ops[op]
            self.ops[op] = found.model_copy(update={"holds": {**found.holds, resource: ps(ns)}})

    def wait(self, source: int, target: int, latency_ps: int | None = None, distance: int = 0) -> None:
        """A dependence; by default on the end of ``source``."""
        latency = self.ops[source].busy_ps if latency_ps is None else latency_ps
        key = (source, target, distance)
        self._waits[key] = max(latency, self._waits.get(key, latency))

    def in_turn(self, ops: Sequence[int], *, around: bool = True) -> None:
        """Operations of one pipe that keep their order, ``around`` also from one iteration to the next."""
        for before, after in pairwise(ops):
            self.wait(before, after)
        if around and ops:
            self.wait(ops[-1], ops[0], distance=1)

    def ring(
        self,
        name: str,
        memory: MemoryName,
        uses: Sequence[tuple[int, Sequence[int]]],
        size_bytes: int = 0,
        leading: int = 0,
    ) -> None:
        """A buffer of the draft whose slots the schedule decides; with a size, one that the draft does not have.

        The first ``leading`` uses may take their turns some iterations ahead.
        """
        if not size_bytes:
            size_bytes = round_up(self._demands.pop((name, memory))[0], self._machine.alignment(memory))
        self._rings.append(
            Ring(
                name=name,
                memory=memory,
                size_bytes=size_bytes,
                uses=tuple(
                    Use(fill=fill, readers=tuple(readers), leads=number < leading)
                    for number, (fill, readers) in enumerate(uses)
                ),
            )
        )

    def rings(self, start: str, memory: MemoryName, uses: Sequence[tuple[int, Sequence[int]]]) -> None:
        """The same for all buffers of the draft whose name is ``start`` and a number."""
        for name, where in list(self._demands):
            if where is memory and name.startswith(start) and name[len(start) :].isdigit():
                self.ring(name, memory, uses)

    def loop(self, cyclic: bool, room_bytes: Mapping[MemoryName, int] | None = None, most_lead: int = 0) -> LoopKernel:
        """What was written; buffers of the draft that are no rings are held. ``room_bytes`` goes before capacity."""
        held = [
            Held(name=name, memory=memory, size_bytes=round_up(size, self._machine.alignment(memory)), slots=slots)
            for (name, memory), (size, slots) in self._demands.items()
        ]
        memories = sorted({ring.memory for ring in self._rings} | {buffer.memory for buffer in held})
        room = {memory: self._machine.capacity(memory) for memory in memories} | dict(room_bytes or {})
        rings = []
        for ring in self._rings:
            others = sum(b.size_bytes * b.slots for b in held if b.memory is ring.memory)
            others += sum(r.size_bytes for r in self._rings if r.memory is ring.memory and r is not ring)
            most = min(MOST_SLOTS, (room[ring.memory] - others) // ring.size_bytes)
            rings.append(ring.model_copy(update={"most": max(1, most)}))
        waits = [
            Dependence(source=source, target=target, latency_ps=latency, distance=distance)
            for (source, target, distance), latency in self._waits.items()
            if cyclic or not distance
        ]
        return LoopKernel(
            cyclic=cyclic,
            most_lead=most_lead if cyclic else 0,
            ops=tuple(self.ops),
            dependences=tuple(waits),
            rings=tuple(rings),
            held=tuple(held),
            room_bytes=room,
        )
