"""A kernel's steady state as data: operations on pipes, what they wait for, and the buffers between them.

Times are integer picoseconds: operations take tens of ns to some us, so that rounding them to whole ns would change the
work of a pipe by a per cent, and the totals would part from those of the cost model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from instances.documents import Frozen, canonical_json, digest
from instances.graph import Name
from instances.machine import MemoryName

Ps = Annotated[int, Field(ge=0, le=2**53)]

MOST_SLOTS = 4
"""Slots of a buffer at most: more than four tiles in flight helped in no loop; event ids are 8 per pair of pipes."""


class TileOp(Frozen):
    """An operation of the loop's body.

    Parameters
    ----------
    pipe
        In-order queue, by the name that the cost model gives the engine; ``instances.pipes`` says on which core. Both
        vector cores of a cube core run the same operations on their halves of a tile, in step, and share nothing but
        the flags: one stands for both.
    busy_ps
        Time for which it holds its pipe.
    work_ps
        Time of it that is work: less where an inner loop leaves the pipe idle in between.
    holds
        Other resources -> time from its start for which it holds them: the issue of its vector core, the turn of the
        two sides of a mixed kernel.
    l2_bytes
        Traffic with L2, of the cube core and its vector cores together.
    """

    name: Name
    pipe: Name
    busy_ps: Ps
    work_ps: Ps
    holds: dict[str, Ps] = Field(default_factory=dict)
    l2_bytes: Ps = 0


class Dependence(Frozen):
    """``start(target) + II * distance >= start(source) + latency_ps``, by position of the operations."""

    source: Annotated[int, Field(ge=0)]
    target: Annotated[int, Field(ge=0)]
    latency_ps: Annotated[int, Field(ge=-(2**53), le=2**53)]
    distance: Annotated[int, Field(ge=0, le=64)] = 0


class Use(Frozen):
    """One content of a slot: the operation that fills it, from its start on, and those that read it, to their ends.

    With ``leads`` it takes its turn as many iterations earlier as the schedule's lead says: the scores of a step to
    come before the values of this one.
    """

    fill: Annotated[int, Field(ge=0)]
    readers: tuple[Annotated[int, Field(ge=0)], ...]
    leads: bool = False


class Ring(Frozen):
    """A buffer whose slots are taken in turn; an iteration fills it once for each of its ``uses``, in that order."""

    name: Name
    memory: MemoryName
    size_bytes: Annotated[int, Field(gt=0)]  # of a slot, aligned
    uses: tuple[Use, ...] = Field(min_length=1)
    most: Annotated[int, Field(ge=1)] = MOST_SLOTS

    @property
    def key(self) -> str:
        """Name under which a schedule gives its slots."""
        return f"{self.name}@{self.memory.value}"


class Held(Frozen):
    """A buffer that no schedule moves: what stays for the whole kernel, or a scratch that one operation uses."""

    name: Name
    memory: MemoryName
    size_bytes: Annotated[int, Field(gt=0)]
    slots: Annotated[int, Field(ge=1)]


class LoopKernel(Frozen):
    """The body of a kernel's loop.

    ``cyclic`` is false where the busiest core goes through it once: nothing then waits for an iteration before.
    ``room_bytes`` is what each memory has for rings and held buffers together, ``most_lead`` the most iterations by
    which leading uses may go ahead.
    """

    cyclic: bool
    most_lead: Annotated[int, Field(ge=0, le=8)] = 0
    ops: tuple[TileOp, ...] = Field(min_length=1)
    dependences: tuple[Dependence, ...]
    rings: tuple[Ring, ...]
    held: tuple[Held, ...]
    room_bytes: dict[MemoryName, int]

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [d.source for d in self.dependences] + [d.target for d in self.dependences]
        for ring in self.rings:
            named += [op for use in ring.uses for op in (use.fill, *use.readers)]
        if named and max(named) >= len(self.ops):
            raise ValueError(f"operation {max(named)} is named, but there are {len(self.ops)}")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the loop: equal loops have equal schedules, whatever kernel they come from."""
        return digest(canonical_json(self))

    @cached_property
    def resources(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Resource -> (operation, time for which it holds it) of those that hold it for any time."""
        found: dict[str, list[tuple[int, int]]] = {}
        for number, op in enumerate(self.ops):
            for resource, ps in ((op.pipe, op.busy_ps), *op.holds.items()):
                if ps:
                    found.setdefault(resource, []).append((number, ps))
        return {resource: tuple(users) for resource, users in found.items()}

    @cached_property
    def serial_ps(self) -> int:
        """Time of an iteration with one operation after the other, flags included: no schedule needs longer."""
        return max(1, sum(op.busy_ps for op in self.ops) + sum(max(0, d.latency_ps) for d in self.dependences))

    def ring_arcs(self, ring: Ring, slots: int, lead: int) -> Iterator[tuple[int, int, int, int]]:
        """What ``slots`` slots of a ring demand: who fills one again waits for those who read what was there.

        Use ``u`` of iteration ``i`` is fill ``(i - lead) * f + u`` where it leads, else ``i * f + u``; fill ``+ slots``
        takes the same slot. As (source, target, latency in ps, distance); a distance below 0 is a fill of an iteration
        before the reader's.
        """
        count = len(ring.uses)
        for number, use in enumerate(ring.uses):
            later, distance = (number + slots) % count, (number + slots) // count
            other = ring.uses[later]
            distance += lead * (other.leads - use.leads)
            for reader in use.readers:
                yield reader, other.fill, self.ops[reader].busy_ps, distance

    def used_bytes(self, memory: MemoryName, slots: dict[str, int]) -> int:
        """Bytes of a memory that so many slots take, held buffers included."""
        held = sum(b.size_bytes * b.slots for b in self.held if b.memory is memory)
        return held + sum(r.size_bytes * slots[r.key] for r in self.rings if r.memory is memory)


class PipelineSchedule(Frozen):
    """A modulo schedule of a loop: iteration ``i`` starts operation ``o`` at ``i * ii_ps + start_ps[o]``.

    Parameters
    ----------
    loop
        Fingerprint of the loop.
    ii_ps
        Initiation interval.
    start_ps
        Start of each operation in iteration 0, the first at 0.
    slots
        Slots of each ring, by its key.
    lead
        Iterations by which leading uses take their turn earlier.
    bound_ps, bound_by
        Proven lower bound of the interval (of the length of the one iteration where there is but one), and its
        argument.
    """

    loop: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    ii_ps: Annotated[int, Field(gt=0, le=2**53)]
    start_ps: tuple[Ps, ...]
    slots: dict[str, Annotated[int, Field(ge=1, le=64)]]
    lead: Annotated[int, Field(ge=0, le=8)] = 0
    bound_ps: Ps
    bound_by: str

    def span_ps(self, loop: LoopKernel) -> int:
        """From the start of an iteration to its end."""
        return max(start + op.busy_ps for start, op in zip(self.start_ps, loop.ops, strict=True))

    def stages(self, loop: LoopKernel) -> int:
        """Iterations in flight: into how many intervals an iteration reaches."""
        return max(1, -(-self.span_ps(loop) // self.ii_ps))

    def prologue_ps(self, loop: LoopKernel) -> int:
        """From the start until as many iterations are in flight as ever will be."""
        return (self.stages(loop) - 1) * self.ii_ps

    def epilogue_ps(self, loop: LoopKernel) -> int:
        """From the end of the last interval in which an iteration begins to the end of all."""
        return max(0, self.span_ps(loop) - self.ii_ps)


class KernelLoop(Frozen):
    """The loop of a kernel's busiest core: its body, how often it runs, and what comes before it once.

    ``iterations`` need not be whole: a masked context ends within a step, the last tile may be part empty.
    ``entry_ps`` is the time of MTE2 for an operand that stays in L1, ``entry_bytes`` what it loads.
    """

    body: LoopKernel
    iterations: Annotated[float, Field(ge=1)]
    entry_ps: Ps = 0
    entry_bytes: Ps = 0

    def work_ps(self) -> dict[str, float]:
        """Work of each pipe in all iterations; of MTE2 with the entry."""
        total: dict[str, float] = {}
        for op in self.body.ops:
            total[op.pipe] = total.get(op.pipe, 0.0) + op.work_ps * self.iterations
        if self.entry_ps:
            total["mte2"] = total.get("mte2", 0.0) + self.entry_ps
        return total
