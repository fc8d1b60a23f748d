"""Tile operations inside one core, as asked in the 2025 Huawei Cup, problem A: task and answer.

A task is a graph of operations on in-order pipes and of buffers in the memories of one core. Every buffer is claimed by
an ALLOC and released by a FREE; an operation names the buffers that it reads or writes. Sizes are in the contest's
units, times in cycles. An answer is an order of all nodes, an offset for every buffer, and the buffers that are moved
out to main memory and back (spills). Source: statement of problem A of the 22nd China graduate mathematical modelling
contest (2025, set by Huawei); where it leaves something open, :mod:`opt.replay.intracore` has an option.
"""

from __future__ import annotations

import heapq
from collections import Counter
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from instances.documents import Frozen, canonical_json, digest

Index = Annotated[int, Field(ge=0, le=2**31)]
Units = Annotated[int, Field(gt=0, le=2**31)]
Cycles = Annotated[int, Field(ge=0, le=2**40)]
Offset = Annotated[int, Field(ge=-(2**31), le=2**31)]

MOST_NODES = 200_000
"""Largest task; the contest's largest has about 36,000 nodes."""


class Pipe(StrEnum):
    """An in-order queue of operations; the queues run side by side."""

    MTE1 = "MTE1"
    MTE2 = "MTE2"
    MTE3 = "MTE3"
    FIXP = "FIXP"
    CUBE = "CUBE"
    VECTOR = "VECTOR"


class Place(StrEnum):
    """A memory of the core."""

    L1 = "L1"
    UB = "UB"
    L0A = "L0A"
    L0B = "L0B"
    L0C = "L0C"


CAPACITY = {Place.L1: 4096, Place.UB: 1024, Place.L0A: 256, Place.L0B: 256, Place.L0C: 512}
"""Units in each memory, by the statement."""

COUNTED = (Place.L1, Place.UB)
"""The memories whose sum is the residency of sub-problem 1."""

SINGLE = (Place.L0A, Place.L0B, Place.L0C)
"""The memories in which sub-problem 1 allows one live buffer at a time."""

SPILL_CYCLES_PER_UNIT, SPILL_SETUP_CYCLES = 2, 150
"""A spill moves ``size`` units in ``2 * size + 150`` cycles, by the statement."""


def spill_cycles(size: int) -> int:
    """Cycles of one move of a spill."""
    return SPILL_CYCLES_PER_UNIT * size + SPILL_SETUP_CYCLES


class TileBuffer(Frozen):
    """A buffer: where it lies, how large, and the nodes that claim and release it."""

    id: Index
    place: Place
    size: Units
    alloc: Index
    free: Index


class TileOperation(Frozen):
    """An operation: node number, name, pipe, cycles, and the buffers that it reads or writes."""

    id: Index
    name: str
    pipe: Pipe
    cycles: Cycles
    buffers: tuple[Index, ...]


class TileTask(Frozen):
    """Operations and buffers of one core with the order that must hold between their nodes.

    Parameters
    ----------
    name
        Of the task; names the files of an answer.
    operations, buffers
        Nodes are numbered 0 to ``count - 1``: operations, and the ALLOC and FREE of each buffer.
    edges
        Pairs of nodes, the first before the second.
    capacity
        Units in each memory.
    """

    name: str
    operations: tuple[TileOperation, ...] = Field(min_length=1)
    buffers: tuple[TileBuffer, ...]
    edges: tuple[tuple[Index, Index], ...]
    capacity: dict[Place, Units] = Field(default_factory=lambda: dict(CAPACITY))

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = self.count
        if count > MOST_NODES:
            raise ValueError(f"{count} nodes are more than the {MOST_NODES} that are read; split the task")
        seen = [op.id for op in self.operations] + [node for b in self.buffers for node in (b.alloc, b.free)]
        odd = [node for node, times in Counter(seen).items() if node >= count or times > 1]
        if odd:
            node = min(odd)
            what = f"node {node} is there twice" if node < count else f"there is a node {node}"
            raise ValueError(f"{what}, but {count} nodes are numbered 0 to {count - 1}, each once; number them so")
        if len(self.buffer) != len(self.buffers):
            twice = next(b for b, times in Counter(one.id for one in self.buffers).items() if times > 1)
            raise ValueError(f"buffer {twice} is allocated twice; give it one ALLOC")
        for op in self.operations:
            for buffer in op.buffers:
                if buffer not in self.buffer:
                    raise ValueError(f"node {op.id} uses buffer {buffer}, which nothing allocates; give it an ALLOC")
        for one in self.buffers:
            room = self.room(one.place)
            if one.size > room:
                raise ValueError(f"buffer {one.id} has {one.size} units, {one.place} only {room}; cut it into parts")
        allocs = {one.alloc for one in self.buffers}
        frees = {one.free for one in self.buffers}
        for before, after in self.edges:
            if max(before, after) >= count:
                raise ValueError(f"edge {before} -> {after} names a node beyond {count - 1}; mend or remove it")
            if after in allocs or before in frees:
                raise ValueError(f"edge {before} -> {after} leads into an ALLOC or out of a FREE; remove it")
        if len(self.order) != len(self.operations):
            raise ValueError(f"the edges {self._cycle()} make a cycle; remove one of them")
        return self

    def _cycle(self) -> str:
        """A cycle in words, of a graph that has one."""
        left = set(self.operation) - set(self.order)
        node = min(left)
        path: dict[int, None] = {}
        while node not in path:  # whoever is left waits for somebody who is left
            path[node] = None
            node = min(self.waits[node] & left)
        round_trip = list(path)
        found = [*round_trip[round_trip.index(node) :], node][::-1]
        names = [str(node) for node in found]
        if len(names) > 8:
            names = [*names[:4], "...", *names[-3:]]
        return " -> ".join(names)

    @cached_property
    def count(self) -> int:
        """Number of nodes."""
        return len(self.operations) + 2 * len(self.buffers)

    @cached_property
    def operation(self) -> dict[int, TileOperation]:
        """Operations by node."""
        return {op.id: op for op in self.operations}

    @cached_property
    def buffer(self) -> dict[int, TileBuffer]:
        """Buffers by number."""
        return {one.id: one for one in self.buffers}

    @cached_property
    def users(self) -> dict[int, tuple[int, ...]]:
        """Nodes of the operations that name each buffer."""
        found: dict[int, list[int]] = {one.id: [] for one in self.buffers}
        for op in self.operations:
            for buffer in dict.fromkeys(op.buffers):
                found[buffer].append(op.id)
        return {buffer: tuple(nodes) for buffer, nodes in found.items()}

    @cached_property
    def backed(self) -> frozenset[int]:
        """Buffers that a COPY_IN fills: main memory has their content, so moving them out costs nothing."""
        return frozenset(b for op in self.operations if op.name == "COPY_IN" for b in op.buffers)

    @cached_property
    def waits(self) -> dict[int, frozenset[int]]:
        """Operations right before each operation, by the edges."""
        found: dict[int, set[int]] = {op.id: set() for op in self.operations}
        for before, after in self.edges:
            if before in found and after in found:
                found[after].add(before)
        return {node: frozenset(before) for node, before in found.items()}

    @cached_property
    def spans(self) -> dict[int, frozenset[int]]:
        """Operations between ALLOC and FREE of each buffer, by use or by an edge."""
        found = {buffer: set(nodes) for buffer, nodes in self.users.items()}
        of_node = {node: one.id for one in self.buffers for node in (one.alloc, one.free)}
        known = self.operation
        for before, after in self.edges:
            if before in of_node and after in known:
                found[of_node[before]].add(after)
            elif after in of_node and before in known:
                found[of_node[after]].add(before)
        return {buffer: frozenset(nodes) for buffer, nodes in found.items()}

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Operations in a topological order, by number where there is a choice; too few where there is a cycle."""
        after: dict[int, list[int]] = {op.id: [] for op in self.operations}
        missing = {}
        for node, before in self.waits.items():
            missing[node] = len(before)
            for other in before:
                after[other].append(node)
        ready = [node for node, left in missing.items() if not left]
        heapq.heapify(ready)
        done = []
        while ready:
            node = heapq.heappop(ready)
            done.append(node)
            for other in after[node]:
                missing[other] -= 1
                if not missing[other]:
                    heapq.heappush(ready, other)
        return tuple(done)

    def room(self, place: Place) -> int:
        """Units in a memory; 0 where the task leaves it out, as it may if no buffer lies there."""
        return self.capacity.get(place, 0)

    def traffic_of_spill(self, buffer: int) -> int:
        """Extra traffic of moving a buffer out and back."""
        return self.buffer[buffer].size * (1 if buffer in self.backed else 2)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the task."""
        return digest(canonical_json(self))


class Spill(Frozen):
    """A buffer that is moved out and comes back at an offset."""

    buffer: Index
    offset: Offset


class TileAnswer(Frozen):
    """An order of all nodes, offsets, and spills.

    Spill ``k`` (from 0) adds node ``count + 2 * k`` (out, on MTE3) and ``count + 2 * k + 1`` (back, on MTE2). An answer
    to sub-problem 1 is an order alone. Offsets may be negative here: that they must not is a rule, for the judge.
    """

    order: tuple[Index, ...]
    offsets: dict[Index, Offset] = Field(default_factory=dict)
    spills: tuple[Spill, ...] = ()
