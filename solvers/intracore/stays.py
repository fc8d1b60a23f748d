"""Stays of buffers in their memories, in positions of an order of operations, and addresses for them.

A stay is named by its first touch. It lasts from the position of that touch to the one after which the buffer leaves
or is released. In a memory of one size only the number of stays at a time matters, and cells are chosen later, by
time. In a memory of several sizes stays get their addresses here: large sizes first, and stays of one size as they
begin. Of 20 pairs of an order of stays and a rule (lowest, smallest gap, large low and small high) on contest tasks
with full memories this one left least without room: 192 units of 150,000; taking cells in order of time, by the
smallest gap, left 8,000 to 19,000.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from instances.intracore import Pipe
from solvers.intracore.compiling import compiled
from solvers.intracore.evictions import NEVER
from solvers.intracore.tables import PIPES, Flags, Ints, Stores, Tables

MTE2 = PIPES.index(Pipe.MTE2)

BUCKET = 32
"""Positions in one list of stays that have an address."""


class Stays(NamedTuple):
    """Result and scratch of :func:`stay`, :func:`pack` and :func:`extend`.

    Parameters
    ----------
    first
        First touches, as their stays begin.
    begin, end, offset
        By first touch: positions, inclusive, and the lowest unit (-1: no room).
    filled
        Units that stays fill in each memory at each position.
    mixed
        Whether a memory has several sizes.
    """

    first: Ints
    begin: Ints
    end: Ints
    offset: Ints
    filled: Ints
    mixed: Flags
    current: Ints
    now: Ints
    head: Ints
    used: Ints
    early: Ints
    link: Ints
    held: Ints
    low: Ints
    high: Ints
    past: Ints


def stays_of(tables: Tables) -> Stays:
    """Scratch for a task."""
    stores = tables.stores
    touches, memories = len(stores.touched.items), len(stores.capacity)
    buckets = tables.count // BUCKET + 2
    nodes = 4 * touches + 128 * buckets
    mixed = [
        len({int(size) for size in stores.kind_size[a:b]}) > 1
        for a, b in zip(stores.kinds, stores.kinds[1:], strict=False)
    ]

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Stays(
        first=zeros(touches),
        begin=zeros(touches),
        end=zeros(touches),
        offset=zeros(touches),
        filled=zeros(memories, tables.count),
        mixed=np.array(mixed, np.bool_),
        current=zeros(len(stores.size)),
        now=zeros(memories),
        head=zeros(memories, buckets),
        used=zeros(1),
        early=zeros(touches),
        link=zeros(nodes),
        held=zeros(nodes),
        low=zeros(touches),
        high=zeros(touches),
        past=zeros(touches),
    )


@compiled
def stay(order: Ints, out: Flags, then: Ints, stores: Stores, stays: Stays) -> int:
    """Find all stays; how many there are."""
    touched, items = stores.touched
    place, size = stores.place, stores.size
    first, begin, end = stays.first, stays.begin, stays.end
    current, filled, now, offset = stays.current, stays.filled, stays.now, stays.offset
    memories = len(now)
    current[:] = -1
    now[:] = 0
    count = 0
    for t in range(len(order)):
        op = order[t]
        for k in range(touched[op], touched[op + 1]):
            buffer = items[k]
            offset[k] = -1
            if current[buffer] < 0:
                current[buffer] = k
                begin[k] = t
                first[count] = k
                count += 1
                now[place[buffer]] += size[buffer]
        for memory in range(memories):
            filled[memory, t] = now[memory]
        for k in range(touched[op], touched[op + 1]):
            if out[k] or then[k] == NEVER:
                buffer = items[k]
                end[current[buffer]] = t
                current[buffer] = -1
                now[place[buffer]] -= size[buffer]
    return count


@compiled
def pack(stores: Stores, stays: Stays, count: int, tries: int, turned: Flags) -> int:
    """Offsets of stays in memories of several sizes; units that found no room.

    Stays that find none come first when it is tried again. ``turned``: see
    :class:`~solvers.intracore.choices.Choices`.
    """
    misfit = 0
    stays.head[:] = -1
    stays.used[0] = 0
    stays.early[:] = 0
    for memory in range(len(stores.capacity)):
        if stays.mixed[memory]:
            before = stays.used[0]
            missing = _pack_one(stores, stays, count, memory, turned)
            for _ in range(tries):
                if missing == 0:
                    break
                stays.head[memory] = -1
                stays.used[0] = before
                missing = _pack_one(stores, stays, count, memory, turned)
            misfit += missing
    return misfit


@compiled
def _pack_one(stores: Stores, stays: Stays, count: int, memory: int, turned: Flags) -> int:
    items = stores.touched.items
    place, size_of, kind_size, kinds = stores.place, stores.size, stores.kind_size, stores.kinds
    first, begin, end, offset = stays.first, stays.begin, stays.end, stays.offset
    head, link, held, low, high = stays.head[memory], stays.link, stays.held, stays.low, stays.high
    capacity = stores.capacity[memory]
    nodes = stays.used[0]
    misfit = 0
    early = stays.early
    first_kind, kinds_here = kinds[memory], kinds[memory + 1] - kinds[memory]
    done = NEVER
    for turn in range(2 * kinds_here):
        size = kind_size[first_kind + turn % kinds_here]
        if turn == kinds_here:
            done = NEVER
        if size == done:
            continue
        done = size
        small = turn < kinds_here and 4 * size < kind_size[first_kind]
        for i in range(count):
            k = first[i]
            if size_of[items[k]] != size or place[items[k]] != memory or (early[k] == 1) != (turn < kinds_here):
                continue
            # what has an address beside this stay, from low to high
            around = 0
            for bucket in range(begin[k] // BUCKET, end[k] // BUCKET + 1):
                node = head[bucket]
                while node >= 0:
                    other = held[node]
                    node = link[node]
                    if begin[other] > end[k] or end[other] < begin[k]:
                        continue
                    if max(begin[other], begin[k]) // BUCKET != bucket:
                        continue  # from the list of another bucket
                    at = offset[other]
                    j = around
                    while j > 0 and low[j - 1] > at:
                        low[j], high[j] = low[j - 1], high[j - 1]
                        j -= 1
                    low[j], high[j] = at, at + size_of[items[other]]
                    around += 1
            best = -1
            below = 0
            for j in range(around + 1):
                top = low[j] if j < around else capacity
                if top - below >= size:
                    best = top - size if small != turned[k] else below
                    if small == turned[k]:
                        break
                if j < around:
                    below = max(below, high[j])
            offset[k] = best
            if best < 0:
                misfit += size
                early[k] = 2
                continue
            for bucket in range(begin[k] // BUCKET, end[k] // BUCKET + 1):
                if nodes == len(link):
                    return int(misfit + capacity)
                link[nodes] = head[bucket]
                held[nodes] = k
                head[bucket] = nodes
                nodes += 1
    stays.used[0] = nodes
    for i in range(count):
        if early[first[i]] == 2:
            early[first[i]] = 1
    return misfit


@compiled
def extend(k: int, earliest: int, stores: Stores, stays: Stays, again: bool) -> int:
    """Let the stay of a load begin as early as its memory allows, at ``earliest`` or later; the position.

    In a memory of several sizes another address is taken where that lets it begin earlier (``again``).
    """
    items = stores.touched.items
    size_of = stores.size
    buffer = items[k]
    memory, size = stores.place[buffer], size_of[buffer]
    begin, end, offset, filled = stays.begin, stays.end, stays.offset, stays.filled[memory]
    capacity = stores.capacity[memory]
    at = begin[k]
    if not stays.mixed[memory]:
        while at > earliest and filled[at - 1] + size <= capacity:
            at -= 1
            filled[at] += size
        begin[k] = at
        return int(at)
    if offset[k] < 0 or earliest >= at:
        return int(at)
    head, link, held = stays.head[memory], stays.link, stays.held
    low, high, past = stays.low, stays.high, stays.past
    around = 0
    own = earliest
    for bucket in range(earliest // BUCKET, end[k] // BUCKET + 1):
        node = head[bucket]
        while node >= 0:
            other = held[node]
            node = link[node]
            if other == k or begin[other] > end[k] or end[other] < earliest:
                continue
            if max(begin[other], earliest) // BUCKET != bucket:
                continue  # from the list of another bucket
            low[around], high[around] = offset[other], offset[other] + size_of[items[other]]
            past[around] = end[other] + 1 if end[other] < at else NEVER
            if past[around] < NEVER and low[around] < offset[k] + size and offset[k] < high[around]:
                own = max(own, past[around])
            around += 1
    best, soonest = offset[k], own
    if again and own > earliest:
        for candidate in range(2 * around):
            i = candidate // 2
            place = high[i] if candidate % 2 else low[i] - size
            if place < 0 or place + size > capacity:
                continue
            when = earliest
            for j in range(around):
                if low[j] < place + size and place < high[j] and past[j] > when:
                    when = past[j]
                    if when >= soonest:
                        break
            if when < soonest:
                best, soonest = place, when
                if when == earliest:
                    break
    offset[k] = best
    if soonest < at:
        nodes = stays.used[0]
        if nodes + at // BUCKET - soonest // BUCKET > len(link):
            return int(at)
        for bucket in range(soonest // BUCKET, at // BUCKET):
            link[nodes] = head[bucket]
            held[nodes] = k
            head[bucket] = nodes
            nodes += 1
        stays.used[0] = nodes
        begin[k] = soonest
    return int(begin[k])
