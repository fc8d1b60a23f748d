"""Compiled loops on orders: all operations from those that are searched, residency, and random moves."""

from __future__ import annotations

import numpy as np

from solvers.intracore.compiling import compiled
from solvers.intracore.tables import Flags, Graph, Ints, Stores

LONGEST = 33.0
"""Longest block of anchors that moves."""

MOST_UNITS = 17.0
"""Most units in a block of whole ones."""


@compiled
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


@compiled
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


@compiled
def undo(anchors: Ints, where: Ints, low: int, high: int, spare: Ints) -> None:
    """Take back the last move."""
    for i in range(low, high):
        anchors[i] = spare[i]
        where[anchors[i]] = i


@compiled
def move(
    anchors: Ints, where: Ints, unit: Ints, graph: Graph, spare: Ints, marked: Flags, by_unit: float, by_need: float
) -> tuple[int, int]:
    """A random legal move; it changed positions ``low:high``, whose old content is in ``spare``. low = high: none.

    A block changes places with its neighbours; in a share ``by_unit`` it begins and ends where ``unit`` changes, or
    units are put in the reverse order. In a share ``by_need`` an anchor goes forward with all that it waits for on the
    way, or back with all that waits for it: a step of a loop moves as a whole. Lengths and ways are short more often
    than long.
    """
    kind = np.random.random()
    way = 1 + int(np.exp(np.random.random() * np.log(float(len(anchors)))))
    if kind < by_need:
        return _with_needs(anchors, where, graph, spare, marked, way)
    if kind < by_need + by_unit / 2:
        return _turn(anchors, where, unit, graph, spare)
    return _block(anchors, where, unit, graph, spare, way, kind < by_need + by_unit)


@compiled
def _with_needs(anchors: Ints, where: Ints, graph: Graph, spare: Ints, marked: Flags, way: int) -> tuple[int, int]:
    count = len(anchors)
    chosen = np.random.randint(0, count)
    forward = np.random.random() < 0.5
    if forward:
        low, high = max(0, chosen - way), chosen + 1
        first, items = graph.waits
    else:
        low, high = chosen, min(count, chosen + way + 1)
        first, items = graph.frees
    size = high - low
    if size < 2:
        return low, low
    for i in range(low, high):
        spare[i] = anchors[i]
        marked[anchors[i]] = False
    marked[anchors[chosen]] = True
    together = 0
    for i in range(size):
        anchor = anchors[high - 1 - i] if forward else anchors[low + i]
        if marked[anchor]:
            together += 1
            for k in range(first[anchor], first[anchor + 1]):
                if low <= where[items[k]] < high:
                    marked[items[k]] = True
    if together == size:
        return low, low
    ahead = low
    behind = low + together if forward else low + size - together
    for i in range(low, high):
        anchor = spare[i]
        if marked[anchor] == forward:
            anchors[ahead] = anchor
            where[anchor] = ahead
            ahead += 1
        else:
            anchors[behind] = anchor
            where[anchor] = behind
            behind += 1
    return low, high


@compiled
def _turn(anchors: Ints, where: Ints, unit: Ints, graph: Graph, spare: Ints) -> tuple[int, int]:
    count = len(anchors)
    low = np.random.randint(0, count)
    while low > 0 and unit[anchors[low]] == unit[anchors[low - 1]]:
        low -= 1
    high = low
    units = 2 + int(np.exp(np.random.random() * np.log(2.0 * MOST_UNITS)))
    while units > 0 and high < count:
        high += 1
        while high < count and unit[anchors[high]] == unit[anchors[high - 1]]:
            high += 1
        units -= 1
    for i in range(low, high):
        spare[i] = anchors[i]
    at, end = low, high
    while end > low:
        begin = end - 1
        while begin > low and unit[spare[begin - 1]] == unit[spare[begin]]:
            begin -= 1
        for i in range(begin, end):
            anchors[at] = spare[i]
            where[spare[i]] = at
            at += 1
        end = begin
    first, items = graph.waits
    for i in range(low, high):
        for k in range(first[anchors[i]], first[anchors[i] + 1]):
            if where[items[k]] > i:
                undo(anchors, where, low, high, spare)
                return low, low
    return low, high


@compiled
def _block(
    anchors: Ints, where: Ints, unit: Ints, graph: Graph, spare: Ints, way: int, by_unit: bool
) -> tuple[int, int]:
    count = len(anchors)
    low = np.random.randint(0, count)
    right = np.random.random() < 0.5
    if by_unit:
        while low > 0 and unit[anchors[low]] == unit[anchors[low - 1]]:
            low -= 1
        middle = low
        units = int(np.exp(np.random.random() * np.log(MOST_UNITS)))
        while units > 0 and middle < count:
            middle += 1
            while middle < count and unit[anchors[middle]] == unit[anchors[middle - 1]]:
                middle += 1
            units -= 1
    else:
        middle = min(count, low + int(np.exp(np.random.random() * np.log(LONGEST))))
    moved = _reach(anchors, where, graph, low, middle, right, way)
    if by_unit:
        while moved > 0:
            edge = middle + moved if right else low - moved
            if edge <= 0 or edge >= count or unit[anchors[edge]] != unit[anchors[edge - 1]]:
                break
            moved -= 1
    if moved == 0:
        return low, low
    high = middle + moved if right else middle
    if not right:
        low, middle = low - moved, low
    for i in range(low, high):
        spare[i] = anchors[i]
    at = low
    for i in range(middle, high):
        anchors[at] = spare[i]
        at += 1
    for i in range(low, middle):
        anchors[at] = spare[i]
        at += 1
    for i in range(low, high):
        where[anchors[i]] = i
    return low, high


@compiled
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
