"""Time of steps, as the replay counts it; in memories of one size the cells that are released first are taken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from formulations.intracore.decisions import OPERATION, OUT
from instances.intracore import Pipe
from solvers.intracore.compiling import compiled
from solvers.intracore.evictions import NEVER
from solvers.intracore.stays import MTE2, Stays
from solvers.intracore.steps import Steps
from solvers.intracore.tables import PIPES, Flags, Graph, Ints, Stores, Tables

MTE3 = PIPES.index(Pipe.MTE3)


class Clock(NamedTuple):
    """Scratch of :func:`run`. ``cells[memory, i]``: when unit ``i`` (or slot ``i`` of a memory of one size) is free."""

    since: Ints
    used: Ints
    end: Ints
    free_pipe: Ints
    cells: Ints
    grain: Ints
    at: Ints
    fresh: Flags


def clock_of(tables: Tables) -> Clock:
    """Scratch for a task."""
    stores = tables.stores
    # cells are counted in what all sizes of a memory are multiples of
    grain = [
        int(np.gcd.reduce(stores.kind_size[low:high])) if high > low else 1
        for low, high in zip(stores.kinds, stores.kinds[1:], strict=False)
    ]
    cells = max(int(capacity) // one for capacity, one in zip(stores.capacity, grain, strict=True))

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Clock(
        since=zeros(len(stores.size)),
        used=zeros(len(stores.size)),
        end=zeros(tables.count),
        free_pipe=zeros(len(PIPES)),
        cells=zeros(len(stores.capacity), cells + 1),
        grain=np.array(grain, np.int64),
        at=zeros(len(stores.size)),
        fresh=np.ones(len(stores.size), np.bool_),
    )


@compiled
def run(
    count: int, out: Flags, then: Ints, graph: Graph, stores: Stores, steps: Steps, stays: Stays, clock: Clock
) -> int:
    """Cycles until the last step ends; offsets in memories of one size are chosen on the way."""
    first, items = stores.touched
    place, size, backed, moving, capacity = stores.place, stores.size, stores.backed, stores.moving, stores.capacity
    before_first, before = graph.before
    pipe_of, cycles = graph.pipe, graph.cycles
    kind, what, touch, offset = steps.kind, steps.what, steps.touch, stays.offset
    mixed = stays.mixed
    since, used, end, free_pipe, cells, grain, at = (
        clock.since,
        clock.used,
        clock.end,
        clock.free_pipe,
        clock.cells,
        clock.grain,
        clock.at,
    )
    fresh = clock.fresh
    fresh[:] = True
    used[:] = 0
    since[:] = 0
    free_pipe[:] = 0
    cells[:] = 0
    span = 0
    for step in range(count):
        chosen = what[step]
        if kind[step] == OPERATION:
            pipe = pipe_of[chosen]
            ready = free_pipe[pipe]
            for k in range(before_first[chosen], before_first[chosen + 1]):
                ready = max(ready, end[before[k]])
            for k in range(first[chosen], first[chosen + 1]):
                buffer = items[k]
                if fresh[buffer]:
                    fresh[buffer] = False
                    since[buffer] = _claim(
                        cells[place[buffer]],
                        grain[place[buffer]],
                        capacity[place[buffer]],
                        size[buffer],
                        mixed[place[buffer]],
                        k,
                        offset,
                    )
                    at[buffer] = offset[k]
                ready = max(ready, since[buffer])
            done = ready + cycles[chosen]
            end[chosen] = done
            free_pipe[pipe] = done
            span = max(span, done)
            for k in range(first[chosen], first[chosen + 1]):
                buffer = items[k]
                used[buffer] = max(used[buffer], done)
                if then[k] == NEVER:
                    _release(cells[place[buffer]], grain[place[buffer]], at[buffer], size[buffer], used[buffer])
        elif kind[step] == OUT:
            done = max(used[chosen], since[chosen], free_pipe[MTE3])
            if not backed[chosen]:
                done += moving[chosen]
            free_pipe[MTE3] = done
            since[chosen] = done
            span = max(span, done)
            _release(cells[place[chosen]], grain[place[chosen]], at[chosen], size[chosen], done)
        else:
            k = touch[step]
            memory = place[chosen]
            ready = max(
                since[chosen],
                free_pipe[MTE2],
                _claim(cells[memory], grain[memory], capacity[memory], size[chosen], mixed[memory], k, offset),
            )
            at[chosen] = offset[k]
            done = ready + moving[chosen]
            free_pipe[MTE2] = done
            since[chosen] = done
    return span


@compiled
def _claim(cells: Ints, grain: int, capacity: int, size: int, mixed: int, k: int, offset: Ints) -> int:
    """When the cells of a stay are free; taken ones have a time beyond all others."""
    if not mixed:
        slot = 0
        for i in range(1, capacity // size):
            if cells[i] < cells[slot]:
                slot = i
        when = cells[slot]
        cells[slot] = NEVER
        offset[k] = slot * size
        return int(when)
    if offset[k] < 0:
        return 0
    when = 0
    for i in range(offset[k] // grain, (offset[k] + size) // grain):
        when = max(when, cells[i])
    return int(when)


@compiled
def _release(cells: Ints, grain: int, at: int, size: int, when: int) -> None:
    if at >= 0:
        for i in range(at // grain, (at + size) // grain):
            cells[i] = when
