"""First orders for tasks that fall into independent threads, such as the sums of a product's tiles.

A *thread* is a set of anchors that wait for one another and for no others. Threads share buffers that main memory
fills, so it matters which of them run side by side: a *bundle* of threads takes turns, the one that is behind first,
and a thread goes on as long as it needs nothing new. Bundles are chosen one after the other by what they have to load
per operation, where what the last ones used counts as being there (as much of it as some share of the memory: more
than all of it makes bundles alike that differ by what fits). How many threads a bundle has and which share is best
depends on the memories, so all are tried and the caller prices them.

A product of 16 x 16 x 16 tiles begins so with 241,920 units of traffic, where the order of its file comes to 460,800.
Choosing thread by thread instead of whole bundles left 432,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from networkx.utils import UnionFind

from solvers.intracore.compiling import compiled
from solvers.intracore.tables import Flags, Ints, Lists, Tables

WIDTHS = (1, 2, 3, 4, 6, 8)
"""Threads of a bundle."""

SHARES = (0.5, 1.0, 1.5, 2.0)
"""What counts as being there, over the largest memory."""

LEADERS = 12
"""Threads that are tried as the first of a bundle: those with least to load."""


class Threads(NamedTuple):
    """Threads of a task.

    Parameters
    ----------
    members
        Anchors of each thread, in topological order.
    near
        Of each operation that is an anchor: buffers that it or a feeder of it touches and another thread does, too.
    needs
        Of each thread: the same of all its anchors, each buffer once.
    """

    members: Lists
    near: Lists
    needs: Lists


def threads_of(tables: Tables) -> Threads | None:
    """The threads; ``None`` where there are not at least two of two anchors on average."""
    graph, touched = tables.graph, tables.stores.touched
    joined = UnionFind(tables.anchors.tolist())
    for anchor in tables.anchors.tolist():
        joined.union(anchor, *graph.waits.items[graph.waits.first[anchor] : graph.waits.first[anchor + 1]].tolist())
    members: dict[int, list[int]] = {}
    for anchor in tables.anchors.tolist():
        members.setdefault(joined[anchor], []).append(anchor)
    if len(members) < 2 or len(tables.anchors) < 2 * len(members):
        return None
    near: list[list[int]] = [[] for _ in range(tables.count)]
    thread_of: dict[int, set[int]] = {}
    for number, anchors in enumerate(members.values()):
        for anchor in anchors:
            feeders = graph.feeders.items[graph.feeders.first[anchor] : graph.feeders.first[anchor + 1]].tolist()
            for op in (*feeders, anchor):
                near[anchor] += touched.items[touched.first[op] : touched.first[op + 1]].tolist()
            for buffer in near[anchor]:
                thread_of.setdefault(buffer, set()).add(number)
    shared = [list(dict.fromkeys(b for b in listed if len(thread_of[b]) > 1)) for listed in near]
    needs = [list(dict.fromkeys(b for anchor in anchors for b in shared[anchor])) for anchors in members.values()]
    return Threads(Lists.of(list(members.values())), Lists.of(shared), Lists.of(needs))


def bundles_of(tables: Tables, threads: Threads, anchors: Ints) -> Ints:
    """Number of the bundle of each operation in any order: one ends where every thread that has begun is over."""
    thread = np.zeros(tables.count, np.int64)
    thread[threads.members.items] = np.repeat(np.arange(len(threads.members.first) - 1), np.diff(threads.members.first))
    left = np.diff(threads.members.first)
    bundle = np.arange(tables.count)
    number, begun = tables.count, set[int]()
    for anchor in anchors.tolist():
        bundle[anchor] = number
        one = int(thread[anchor])
        left[one] -= 1
        begun.add(one)
        if left[one] == 0:
            begun.remove(one)
            number += not begun
    return bundle


def bundled(tables: Tables, threads: Threads, random: np.random.Generator) -> Iterator[Ints]:
    """Orders of the anchors."""
    count = len(threads.members.first) - 1
    largest = int(tables.stores.capacity.max())
    for width in WIDTHS:
        for share in SHARES:
            if width > count:
                continue
            order = np.zeros(len(tables.anchors), np.int64)
            sizes, chance = tables.stores.size, random.random(count)
            _bundle(*threads, sizes, int(share * largest), width, chance, order)
            yield order


@compiled
def _bundle(
    members: Lists,
    near: Lists,
    needs: Lists,
    size: Ints,
    room: int,
    width: int,
    chance: np.ndarray,
    order: Ints,
) -> None:
    """One order; ``chance`` decides between threads that are as good as one another."""
    threads = len(chance)
    done = np.zeros(threads, np.bool_)
    touched = np.zeros(len(size), np.int64)  # when last
    there = np.zeros(len(size), np.bool_)
    fresh = np.zeros(len(size), np.bool_)
    load = np.zeros(threads)
    chosen = np.zeros(width, np.int64)
    best = np.zeros(width, np.int64)
    at = np.zeros(width, np.int64)
    count = clock = 0
    while count < len(order):
        _recent(touched, size, room, there)
        for thread in range(threads):
            load[thread] = np.inf if done[thread] else _missing(thread, needs, size, there) + chance[thread] / 2
        least, many = np.inf, 0
        for leader in np.argsort(load)[:LEADERS]:
            if load[leader] == np.inf:
                break
            cost, picked = _company(leader, needs, size, there, done, chance, members, chosen)
            if cost < least:
                least, many = cost, picked
                best[:] = chosen
        # they take turns
        fresh[:] = True
        for i in range(many):
            at[i] = members.first[best[i]]
            done[best[i]] = True
        last = 0
        while True:
            turn = -1
            for i in range(many):
                j = (last + i) % many
                if at[j] < members.first[best[j] + 1] and _known(members.items[at[j]], near, fresh):
                    turn = j
                    break
            if turn < 0:
                behind = 1 << 60
                for j in range(many):
                    if at[j] < members.first[best[j] + 1] and at[j] - members.first[best[j]] < behind:
                        turn, behind = j, at[j] - members.first[best[j]]
            if turn < 0:
                break
            anchor = members.items[at[turn]]
            for k in range(near.first[anchor], near.first[anchor + 1]):
                clock += 1
                touched[near.items[k]] = clock
                fresh[near.items[k]] = False
            order[count] = anchor
            count += 1
            at[turn] += 1
            last = turn


@compiled
def _recent(touched: Ints, size: Ints, room: int, there: Flags) -> None:
    """What was touched last, as much of it as there is room for."""
    there[:] = False
    for buffer in np.argsort(-touched):
        room -= size[buffer]
        if touched[buffer] == 0 or room < 0:
            break
        there[buffer] = True


@compiled
def _missing(thread: int, needs: Lists, size: Ints, there: Flags) -> int:
    units = 0
    for k in range(needs.first[thread], needs.first[thread + 1]):
        if not there[needs.items[k]]:
            units += size[needs.items[k]]
    return int(units)


@compiled
def _known(anchor: int, near: Lists, fresh: Flags) -> bool:
    unknown = False
    for k in range(near.first[anchor], near.first[anchor + 1]):
        unknown |= fresh[near.items[k]]
    return not unknown


@compiled
def _company(
    leader: int,
    needs: Lists,
    size: Ints,
    there: Flags,
    done: Flags,
    chance: np.ndarray,
    members: Lists,
    chosen: Ints,
) -> tuple[float, int]:
    """A leader with those that have least to load beside it: units per anchor, and how many they are."""
    held = there.copy()
    chosen[0] = leader
    many = 1
    units = float(_missing(leader, needs, size, held))
    anchors = members.first[leader + 1] - members.first[leader]
    while many < len(chosen):
        for k in range(needs.first[chosen[many - 1]], needs.first[chosen[many - 1] + 1]):
            held[needs.items[k]] = True
        best, least = -1, np.inf
        for thread in range(len(done)):
            taken = done[thread]
            for i in range(many):
                taken |= chosen[i] == thread
            if not taken:
                load = _missing(thread, needs, size, held) + chance[thread] / 2
                if load < least:
                    best, least = thread, load
        if best < 0:
            break
        chosen[many] = best
        units += least
        anchors += members.first[best + 1] - members.first[best]
        many += 1
    return units / anchors, many
