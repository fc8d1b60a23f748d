"""Compiled loops on orders: all operations from those that are searched, residency, and exchanges of blocks.

``work`` holds scratch arrays, so that nothing is allocated in the loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from solvers.intracore.tables import Flags, Graph, Ints, Stores


@njit(cache=True)
def spread(anchors: Ints, graph: Graph, order: Ints, done: Flags, left: Ints) -> int:
    """All operations in the order of their anchors: feeders right before, drains right after. Returns how many."""
    first = graph.before.first
    count = 0
    done[:] = False
    for op in range(len(left)):
        left[op] = first[op + 1] - first[op]
    for anchor in anchors:
        for k in range(graph.feeders.first[anchor], graph.feeders.first[anchor + 1]):
            op = graph.feeders.items[k]
            if not done[op]:
                done[op] = True
                order[count] = op
                count += 1
        done[anchor] = True
        order[count] = anchor
        count += 1
        for k in range(graph.drains.first[anchor], graph.drains.first[anchor + 1]):
            op = graph.drains.items[k]
            left[op] -= 1
            if left[op] == 0:
                order[count] = op
                count += 1
    return count


@njit(cache=True)
def residency(order: Ints, stores: Stores, above: int, left: Ints, live: Ints) -> tuple[int, int, int]:
    """Peak of the counted memories, units above ``above`` summed over operations, and times L0 holds two buffers."""
    first, items = stores.touched
    left[:] = stores.holds
    live[:] = 0
    now = peak = area = broken = 0
    for op in order:
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            if left[buffer] == stores.holds[buffer]:
                memory = stores.place[buffer]
                if stores.counted[memory]:
                    now += stores.size[buffer]
                else:
                    broken += live[memory]
                    live[memory] += 1
        peak = max(peak, now)
        if now > above:
            area += now - above
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            left[buffer] -= 1
            if left[buffer] == 0:
                memory = stores.place[buffer]
                if stores.counted[memory]:
                    now -= stores.size[buffer]
                else:
                    live[memory] -= 1
    return peak, area, broken


@njit(cache=True)
def exchange(anchors: Ints, where: Ints, low: int, middle: int, high: int, spare: Ints) -> None:
    """Let the neighbouring blocks ``low:middle`` and ``middle:high`` change places."""
    count = middle - low
    for i in range(count):
        spare[i] = anchors[low + i]
    for i in range(high - middle):
        anchors[low + i] = anchors[middle + i]
    for i in range(count):
        anchors[high - count + i] = spare[i]
    for i in range(low, high):
        where[anchors[i]] = i


@njit(cache=True)
def _reach(anchors: Ints, where: Ints, graph: Graph, low: int, middle: int, right: bool, most: int) -> int:
    """How far the block ``low:middle`` may move past its neighbours, at most ``most`` positions."""
    moved = 0
    while moved < most:
        if right:
            i = middle + moved
            if i >= len(anchors):
                break
            first, items = graph.waits
        else:
            i = low - 1 - moved
            if i < 0:
                break
            first, items = graph.frees
        anchor = anchors[i]
        for k in range(first[anchor], first[anchor + 1]):
            if low <= where[items[k]] < middle:
                return moved
        moved += 1
    return moved


@njit(cache=True)
def draw(anchors: Ints, where: Ints, unit: Ints, graph: Graph, longest: int, by_unit: bool) -> tuple[int, int, int]:
    """A random legal exchange of two neighbouring blocks, as (low, middle, high); low = high where none was found.

    Lengths and ways are short more often than long. ``by_unit``: blocks begin and end where ``unit`` changes.
    """
    count = len(anchors)
    low = np.random.randint(0, count)
    right = np.random.random() < 0.5
    most = 1 + int(np.exp(np.random.random() * np.log(float(count))))
    if by_unit:
        while low > 0 and unit[anchors[low]] == unit[anchors[low - 1]]:
            low -= 1
        middle = low
        units = int(np.exp(np.random.random() * np.log(17.0)))
        while units > 0 and middle < count:
            middle += 1
            while middle < count and unit[anchors[middle]] == unit[anchors[middle - 1]]:
                middle += 1
            units -= 1
    else:
        middle = min(count, low + int(np.exp(np.random.random() * np.log(longest + 1.0))))
    moved = _reach(anchors, where, graph, low, middle, right, most)
    if by_unit:
        while moved > 0:
            edge = middle + moved if right else low - moved
            if edge <= 0 or edge >= count or unit[anchors[edge]] != unit[anchors[edge - 1]]:
                break
            moved -= 1
    if moved == 0:
        return low, low, low
    if right:
        return low, middle, middle + moved
    return low - moved, low, middle
