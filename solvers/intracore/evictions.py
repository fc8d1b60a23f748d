"""Which buffers leave their memory and come back, for a fixed order of operations: least extra traffic.

At each operation whose buffers do not fit beside what is resident, some resident buffers have to leave. Of buffers of
one kind (memory, size, cost) the one needed last goes first: exchanging it for another of its kind never costs more.
So the only question is how many of each kind leave, and a walk through the order keeps the sets of residents that may
be best (a beam). A set is dropped where the cheapest one, after paying for whatever it holds more, costs no more: a
buffer that is out needs no further payment to come back. Where all buffers of a memory are of one kind, one set is
left and the walk is exact; elsewhere it is exact as long as the beam is not full.

Records are taken apart into arrays before the loops: compiled code counts references to every array of a record that it
hands on, which took ten times as long as the walk itself.

Tried before: one rule for all kinds (distance to the next use, times what leaving makes room for, by cost) takes half
the time but misses orders in which a large buffer leaves once in place of a small one often.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.intracore.compiling import compiled
from solvers.intracore.tables import Flags, Ints, Stores, Tables

NEVER = 1 << 40
"""Position of a use that does not come; cost of an order that does not fit."""


MOST_TAKEN = 4
"""Buffers of one kind that leave at one operation, unless that is not enough."""


class Beam(NamedTuple):
    """Scratch of :func:`evict`: two generations of sets of residents, and how each came to be.

    ``residents``, ``held``, ``units``, ``cost`` and ``key`` of set ``s`` of generation ``g`` are at ``[g, s]``;
    ``parent[e, s]`` and ``taken[e, s, kind]`` say from which set of the event before, and how many of each kind left;
    ``doubt``, whether a buffer left some set since its last touch.
    """

    residents: Ints
    held: Ints
    units: Ints
    cost: Ints
    key: Ints
    parent: Ints
    taken: Ints
    then: Ints
    next: Ints
    last: Ints
    ranked: Ints
    many: Ints
    take: Ints
    rest: Ints
    paid: Ints
    needed: Ints
    chain: Ints
    doubt: Ints
    live: Ints
    peak: Ints


def beam_of(tables: Tables, width: int) -> Beam:
    """Scratch for a task and a number of sets."""
    stores = tables.stores
    buffers, touches = len(stores.size), len(stores.touched.items)
    kinds = int(np.diff(stores.kinds).max())
    most = max(int((stores.place == place).sum()) for place in range(len(stores.capacity)))
    widest = int(np.diff(stores.touched.first).max())
    # a set never holds more than fill the memory with the smallest buffers, and one operation more
    smallest = min(int(stores.size.min()), int(stores.capacity.max()))
    most = min(most, int(stores.capacity.max()) // max(1, smallest)) + widest + 1
    events = tables.count + 1

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Beam(
        residents=zeros(2, width, most),
        held=zeros(2, width),
        units=zeros(2, width),
        cost=zeros(2, width),
        key=zeros(2, width),
        parent=zeros(events, width),
        taken=zeros(events, width, kinds),
        then=zeros(touches),
        next=zeros(buffers),
        last=zeros(buffers),
        ranked=zeros(kinds, most),
        many=zeros(kinds),
        take=zeros(kinds),
        rest=zeros(kinds + 1),
        paid=zeros(kinds + 1),
        needed=zeros(widest + 1),
        chain=zeros(events),
        doubt=zeros(buffers),
        live=zeros(len(stores.capacity)),
        peak=zeros(len(stores.capacity)),
    )


@compiled
def evict(order: Ints, stores: Stores, beam: Beam, out: Flags, sparing: Flags) -> int:
    """Least extra traffic of an order (units), and ``out``: per touch, whether the buffer leaves right after it.

    ``sparing``: operations during which the memories leave room for another load (``Stores.reserve``).
    A touch is an index into ``stores.touched.items``. :data:`NEVER` where the buffers of one operation do not fit.
    """
    first, items = stores.touched
    place, size, then, following, peak = stores.place, stores.size, beam.then, beam.next, beam.peak
    following[:] = NEVER
    for t in range(len(order) - 1, -1, -1):
        op = order[t]
        for k in range(first[op], first[op + 1]):
            then[k] = following[items[k]]
            following[items[k]] = t
    # a memory in which all live buffers fit at any time needs no walk
    out[:] = False
    peak[:] = 0
    live = beam.live
    live[:] = 0
    for t in range(len(order)):
        op = order[t]
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            if following[buffer] == t:
                live[place[buffer]] += size[buffer]
        for memory in range(len(live)):
            peak[memory] = max(peak[memory], live[memory])
        for k in range(first[op], first[op + 1]):
            if then[k] == NEVER:
                live[place[items[k]]] -= size[items[k]]
    total = 0
    for memory in range(len(live)):
        if peak[memory] > stores.room[memory] - stores.reserve[memory]:
            total += _evict_one(order, stores, beam, memory, out, sparing)
            if total >= NEVER:
                return NEVER
    return total


@compiled
def _evict_one(order: Ints, stores: Stores, beam: Beam, memory: int, out: Flags, sparing: Flags) -> int:
    first, items = stores.touched
    place, size, key, kind_of = stores.place, stores.size, stores.key, stores.kind
    following, then, needed = beam.next, beam.then, beam.needed
    residents, count, units, cost, keys = beam.residents, beam.held, beam.units, beam.cost, beam.key
    parent, taken, take, many, rest, paid = beam.parent, beam.taken, beam.take, beam.many, beam.rest, beam.paid
    ranked, doubt = beam.ranked, beam.doubt
    doubt[:] = 2  # not there before its first touch
    low = stores.kinds[memory]
    kinds = stores.kinds[memory + 1] - low
    kind_size, kind_cost = stores.kind_size[low : low + kinds], stores.kind_cost[low : low + kinds]
    capacity, room, reserve = stores.capacity[memory], stores.room[memory], stores.reserve[memory]
    now = 0
    sets = 1
    count[0, 0] = units[0, 0] = cost[0, 0] = keys[0, 0] = 0
    events = 0
    for t in range(len(order)):
        op = order[t]
        wanted = 0
        own = 0
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            if place[buffer] == memory:
                needed[wanted] = buffer
                wanted += 1
                own += size[buffer]
                following[buffer] = then[k]
        if wanted == 0:
            continue
        if own > capacity:
            return NEVER
        limit = max(room - reserve if sparing[op] else room, own)
        over = False
        for s in range(sets):
            for i in range(wanted):
                buffer = needed[i]
                there = doubt[buffer] == 0
                if doubt[buffer] == 1:
                    there = _find(residents[now, s], count[now, s], buffer) >= 0
                if not there:
                    residents[now, s, count[now, s]] = buffer
                    count[now, s] += 1
                    units[now, s] += size[buffer]
                    keys[now, s] ^= key[buffer]
            over |= units[now, s] > limit
        for i in range(wanted):
            doubt[needed[i]] = 0
        if over:
            new = 1 - now
            grown = 0
            most = MOST_TAKEN
            while grown == 0 and most <= ranked.shape[1]:
                for s in range(sets):
                    take[:] = 0
                    _rank(residents[now, s], count[now, s], needed, wanted, kind_of, low, following, ranked, many, most)
                    # all ways of taking so many of each kind that none of the last is taken in vain (none, if all fit)
                    level = 0
                    take[0] = -1
                    rest[0] = max(0, units[now, s] - limit)
                    paid[0] = 0
                    while level >= 0:
                        take[level] += 1
                        unit = kind_size[level]
                        if take[level] > min(many[level], most, (rest[level] + unit - 1) // unit):
                            take[level] = 0
                            level -= 1
                            continue
                        rest[level + 1] = rest[level] - take[level] * unit
                        paid[level + 1] = paid[level] + take[level] * kind_cost[level]
                        if rest[level + 1] <= 0:
                            here = (count[now, s], cost[now, s] + paid[level + 1], keys[now, s])
                            grown = _keep(
                                here,
                                residents[now, s],
                                s,
                                take,
                                kinds,
                                ranked,
                                kind_of,
                                low,
                                size,
                                key,
                                residents[new],
                                count[new],
                                units[new],
                                cost[new],
                                keys[new],
                                grown,
                                parent[events],
                                taken[events],
                                doubt,
                            )
                        elif level + 1 < kinds:
                            level += 1
                            take[level] = -1
                if grown == 0:
                    most = ranked.shape[1] if most < ranked.shape[1] else most + 1
            if grown == 0:
                return NEVER
            now = new
            sets = _prune(
                residents[now],
                count[now],
                units[now],
                cost[now],
                keys[now],
                grown,
                parent[events],
                taken[events],
                stores.cost,
            )
            events += 1
        for i in range(wanted):
            buffer = needed[i]
            if following[buffer] == NEVER:
                for s in range(sets):
                    at = _find(residents[now, s], count[now, s], buffer)
                    if at >= 0:
                        count[now, s] -= 1
                        residents[now, s, at] = residents[now, s, count[now, s]]
                        units[now, s] -= size[buffer]
                        keys[now, s] ^= key[buffer]
    best = 0
    for s in range(1, sets):
        if cost[now, s] < cost[now, best]:
            best = s
    total = cost[now, best]
    if total:
        for e in range(events - 1, -1, -1):
            beam.chain[e] = best
            best = parent[e, best]
        _mark(order, stores, beam, memory, out, sparing)
    return int(total)


@compiled
def _find(listed: Ints, count: int, buffer: int) -> int:
    """Where a buffer is among the first ``count``; -1: nowhere."""
    for place in range(count):
        if listed[place] == buffer:
            return place
    return -1


@compiled
def _rank(
    there: Ints,
    count: int,
    needed: Ints,
    wanted: int,
    kind_of: Ints,
    low: int,
    following: Ints,
    ranked: Ints,
    many: Ints,
    most: int,
) -> None:
    """Residents that may leave, by kind, the one needed last first."""
    many[:] = 0
    for j in range(count):
        buffer = there[j]
        if _find(needed, wanted, buffer) >= 0:
            continue
        kind = kind_of[buffer] - low
        if many[kind] == most and following[ranked[kind, most - 1]] >= following[buffer]:
            continue
        place = min(many[kind], most - 1)
        while place > 0 and following[ranked[kind, place - 1]] < following[buffer]:
            ranked[kind, place] = ranked[kind, place - 1]
            place -= 1
        ranked[kind, place] = buffer
        many[kind] = min(most, many[kind] + 1)


@compiled
def _keep(
    here: tuple[int, int, int],
    there: Ints,
    s: int,
    take: Ints,
    kinds: int,
    ranked: Ints,
    kind_of: Ints,
    low: int,
    size: Ints,
    key: Ints,
    residents: Ints,
    count: Ints,
    units: Ints,
    cost: Ints,
    keys: Ints,
    grown: int,
    parent: Ints,
    taken: Ints,
    doubt: Ints,
) -> int:
    """Put a set without what is taken into the new generation, if it is among the best; how many there are then."""
    held, price, its_key = here
    for kind in range(kinds):
        for i in range(take[kind]):
            its_key ^= key[ranked[kind, i]]
    at = -1
    for other in range(grown):
        if keys[other] == its_key:
            if cost[other] <= price:
                return grown
            at = other
            break
    if at < 0:
        if grown < len(count):
            at = grown
            grown += 1
        else:
            at = 0
            for other in range(1, grown):
                if cost[other] > cost[at]:
                    at = other
            if cost[at] <= price:
                return grown
    left = 0
    filled = 0
    for j in range(held):
        buffer = there[j]
        kind = kind_of[buffer] - low
        gone = False
        for i in range(take[kind]):
            if ranked[kind, i] == buffer:
                gone = True
                doubt[buffer] = 1
        if not gone:
            residents[at, left] = buffer
            filled += size[buffer]
            left += 1
    count[at] = left
    units[at] = filled
    cost[at] = price
    keys[at] = its_key
    parent[at] = s
    for kind in range(kinds):
        taken[at, kind] = take[kind]
    return grown


@compiled
def _prune(
    residents: Ints, count: Ints, units: Ints, cost: Ints, keys: Ints, sets: int, parent: Ints, taken: Ints, price: Ints
) -> int:
    """Drop the sets that the cheapest one is as good as; how many are left."""
    best = 0
    for s in range(1, sets):
        if cost[s] < cost[best]:
            best = s
    left = 0
    for s in range(sets):
        gap = cost[s] - cost[best]
        keep = s == best or gap == 0
        if not keep:
            paid = 0
            for j in range(count[best]):
                if _find(residents[s], count[s], residents[best, j]) < 0:
                    paid += price[residents[best, j]]
                    if paid > gap:
                        keep = True
                        break
        if keep:
            if left != s:
                for j in range(count[s]):
                    residents[left, j] = residents[s, j]
                count[left] = count[s]
                units[left] = units[s]
                cost[left] = cost[s]
                keys[left] = keys[s]
                parent[left] = parent[s]
                for kind in range(taken.shape[1]):
                    taken[left, kind] = taken[s, kind]
                if best == s:
                    best = left
            left += 1
    return left


@compiled
def _mark(order: Ints, stores: Stores, beam: Beam, memory: int, out: Flags, sparing: Flags) -> None:
    """Walk once more with what the best set took, and mark the touches after which buffers leave."""
    first, items = stores.touched
    place, size, kind_of = stores.place, stores.size, stores.kind
    following, then, needed, last = beam.next, beam.then, beam.needed, beam.last
    there, ranked, many, chain, taken = beam.residents[0, 0], beam.ranked, beam.many, beam.chain, beam.taken
    low = stores.kinds[memory]
    kinds = stores.kinds[memory + 1] - low
    room, reserve = stores.room[memory], stores.reserve[memory]
    count = filled = event = 0
    for t in range(len(order)):
        op = order[t]
        wanted = 0
        own = 0
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            if place[buffer] == memory:
                needed[wanted] = buffer
                wanted += 1
                own += size[buffer]
                following[buffer] = then[k]
                last[buffer] = k
        if wanted == 0:
            continue
        for i in range(wanted):
            buffer = needed[i]
            if _find(there, count, buffer) < 0:
                there[count] = buffer
                count += 1
                filled += size[buffer]
        if filled > max(room - reserve if sparing[op] else room, own):
            # events at which other sets overflowed and this one did not took nothing from it
            some = 0
            while some == 0:
                for kind in range(kinds):
                    some += taken[event, chain[event], kind]
                event += 1
            _rank(there, count, needed, wanted, kind_of, low, following, ranked, many, max(1, some))
            for kind in range(kinds):
                for i in range(taken[event - 1, chain[event - 1], kind]):
                    buffer = ranked[kind, i]
                    out[last[buffer]] = True
                    filled -= size[buffer]
                    there[_find(there, count, buffer)] = there[count - 1]
                    count -= 1
        for i in range(wanted):
            buffer = needed[i]
            if following[buffer] == NEVER:
                filled -= size[buffer]
                there[_find(there, count, buffer)] = there[count - 1]
                count -= 1
