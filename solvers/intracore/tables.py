"""A task of tile operations as arrays, for the compiled loops of the search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from instances.intracore import COUNTED, SINGLE, Pipe, Place, TileTask, spill_cycles

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

PIPES = tuple(Pipe)
PLACES = tuple(Place)
MOVERS = (Pipe.MTE1, Pipe.MTE2)


class Lists(NamedTuple):
    """Several lists of whole numbers, one after the other: list ``i`` is ``items[first[i]:first[i + 1]]``."""

    first: Ints
    items: Ints

    @staticmethod
    def of(lists: list[list[int]]) -> Lists:
        """From lists."""
        first = np.zeros(len(lists) + 1, np.int64)
        first[1:] = np.cumsum([len(one) for one in lists])
        return Lists(first, np.array([item for one in lists for item in one], np.int64))


class Graph(NamedTuple):
    """Operations by number from 0 in the order of the task's list, and how their order is searched.

    Parameters
    ----------
    pipe, cycles
        Of each operation; the pipe is a number in :data:`PIPES`.
    before
        Operations right before each operation.
    feeders
        Of each anchor: operations that are put right before it unless they stand already, in their order.
    drains
        Of each operation: those that are put right after the last of what they wait for.
    waits, frees
        Among anchors (by number of the operation): those that must stand before and after each.
    """

    pipe: Ints
    cycles: Ints
    before: Lists
    feeders: Lists
    drains: Lists
    waits: Lists
    frees: Lists


class Stores(NamedTuple):
    """Buffers by number from 0 in the order of the task's list, and their memories.

    Parameters
    ----------
    touched
        Buffers that each operation holds: it uses them, or lies between their ALLOC and FREE by an edge.
    holds
        Number of operations that hold each buffer.
    place, size, cost, moving
        Of each buffer: number in :data:`PLACES`, units, extra traffic of a spill (units), cycles of one way of it.
    backed
        Whether main memory has the content already, so that the way out takes no time.
    capacity, room, reserve, counted, single
        Of each memory: units, units that are filled before buffers leave, units of a load of middling size (0: it has
        none from main memory), whether residency counts it, whether sub-problem 1 allows one live buffer at a time.
    kind
        Of each buffer: number of its kind, which is its memory, size and cost.
    kinds, kind_size, kind_cost
        First kind of each memory, and what is the same in a kind; large sizes first.
    key
        Of each buffer: a random number, for keys of sets.
    """

    touched: Lists
    holds: Ints
    place: Ints
    size: Ints
    cost: Ints
    moving: Ints
    backed: Flags
    capacity: Ints
    room: Ints
    reserve: Ints
    counted: Flags
    single: Flags
    kind: Ints
    kinds: Ints
    kind_size: Ints
    kind_cost: Ints
    key: Ints


@dataclass(frozen=True)
class Tables:
    """All arrays of a task, and the anchors: operations whose order is searched, in one topological order."""

    task: TileTask
    graph: Graph
    stores: Stores
    anchors: Ints

    @property
    def count(self) -> int:
        """Number of operations."""
        return len(self.graph.pipe)

    @cached_property
    def places(self) -> list[int]:
        """Numbers of the memories that have buffers."""
        return sorted({int(place) for place in self.stores.place})


def tables_of(task: TileTask, fine: bool = True, single: bool = False, room: float = 1.0) -> Tables:
    """The arrays of a task.

    ``fine``: see :func:`anchored`. ``single``: L0A, L0B and L0C hold one buffer at a time, as if each filled them.
    ``room``: share of each memory that is filled before buffers leave.
    """
    number = {op.id: index for index, op in enumerate(task.operations)}
    before = [sorted(number[node] for node in task.waits[op.id]) for op in task.operations]
    after: list[list[int]] = [[] for _ in before]
    for op, others in enumerate(before):
        for other in others:
            after[other].append(op)
    touched: list[list[int]] = [[] for _ in before]
    for buffer, one in enumerate(task.buffers):
        for node in task.spans[one.id]:
            touched[number[node]].append(buffer)
    pipes = [PIPES.index(op.pipe) for op in task.operations]
    anchors, feeders, drains, waits = anchored(pipes, before, after, [number[node] for node in task.order], fine)
    frees: list[list[int]] = [[] for _ in before]
    for op, others in enumerate(waits):
        for other in others:
            frees[other].append(op)
    graph = Graph(
        pipe=np.array(pipes, np.int64),
        cycles=np.array([op.cycles for op in task.operations], np.int64),
        before=Lists.of(before),
        feeders=Lists.of(feeders),
        drains=Lists.of(drains),
        waits=Lists.of(waits),
        frees=Lists.of(frees),
    )
    return Tables(task, graph, _stores(task, touched, single, room), np.array(anchors, np.int64))


def _stores(task: TileTask, touched: list[list[int]], single: bool, room: float) -> Stores:
    place = [PLACES.index(one.place) for one in task.buffers]
    size = [task.capacity[one.place] if single and one.place in SINGLE else one.size for one in task.buffers]
    cost = [task.traffic_of_spill(one.id) for one in task.buffers]
    alike = sorted({(p, -s, -c) for p, s, c in zip(place, size, cost, strict=True)})
    number = {kind: index for index, kind in enumerate(alike)}
    loads: list[list[int]] = [
        [size[b] for b, one in enumerate(task.buffers) if one.place is memory and one.id in task.backed]
        for memory in PLACES
    ]
    return Stores(
        touched=Lists.of(touched),
        holds=np.array([len(task.spans[one.id]) for one in task.buffers], np.int64),
        place=np.array(place, np.int64),
        size=np.array(size, np.int64),
        cost=np.array(cost, np.int64),
        moving=np.array([spill_cycles(one.size) for one in task.buffers], np.int64),
        backed=np.array([one.id in task.backed for one in task.buffers], np.bool_),
        capacity=np.array([task.room(memory) for memory in PLACES], np.int64),
        room=np.array([int(room * task.room(memory)) for memory in PLACES], np.int64),
        reserve=np.array([int(np.median(sizes)) if sizes else 0 for sizes in loads], np.int64),
        counted=np.array([memory in COUNTED for memory in PLACES], np.bool_),
        single=np.array([memory in SINGLE for memory in PLACES], np.bool_),
        kind=np.array([number[p, -s, -c] for p, s, c in zip(place, size, cost, strict=True)], np.int64),
        kinds=np.array([sum(kind[0] < p for kind in alike) for p in range(len(PLACES) + 1)], np.int64),
        kind_size=np.array([-kind[1] for kind in alike], np.int64),
        kind_cost=np.array([-kind[2] for kind in alike], np.int64),
        key=np.random.default_rng(0).integers(1, 2**62, len(task.buffers)),
    )


def anchored(
    pipes: list[int], before: list[list[int]], after: list[list[int]], order: list[int], fine: bool
) -> tuple[list[int], list[list[int]], list[list[int]], list[list[int]]]:
    """Anchors in topological order, the feeders of each, drains of each operation, and who waits for whom of anchors.

    A feeder moves data towards the core and has nothing but feeders before it: it is best as late as possible, right
    before the first of its readers. A drain has no reader and is best as early as possible. Unless ``fine``, a move
    with one reader that waits for one operation only is a feeder, too: then it may be better earlier, but there is less
    to search.
    """
    moving = {PIPES.index(pipe) for pipe in MOVERS}
    feeder = [False] * len(before)
    for op in order:
        if pipes[op] in moving and after[op]:
            feeder[op] = all(feeder[other] for other in before[op])
            if not fine and len(after[op]) == len(before[op]) == 1:
                feeder[op] = True
    drain = [
        not after[op] and bool(before[op]) and not any(feeder[other] for other in before[op])
        for op in range(len(before))
    ]
    drains: list[list[int]] = [[] for _ in before]
    for op in order:
        if drain[op]:
            for other in before[op]:
                drains[other].append(op)
    anchors = [op for op in order if not feeder[op] and not drain[op]]
    feeders: list[list[int]] = [[] for _ in before]
    waits: list[list[int]] = [[] for _ in before]
    for op in anchors:
        stack, seen = [(other, False) for other in reversed(before[op])], set()
        while stack:
            other, done = stack.pop()
            if done:
                feeders[op].append(other)
            elif other not in seen:
                seen.add(other)
                if feeder[other]:
                    stack.append((other, True))
                    stack.extend((earlier, False) for earlier in reversed(before[other]))
                else:
                    waits[op].append(other)
        waits[op].sort()
    return anchors, feeders, drains, waits
