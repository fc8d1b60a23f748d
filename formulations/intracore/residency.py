"""Least residency of a task of tile operations: proven lower bounds on the peak of L1 and UB in sub-problem 1.

Whatever the order, a buffer is live from its first user to its last. Let S be the operations before some moment. An
order of sub-problem 1 has one live buffer in each of L0A, L0B and L0C, so while an operation that uses an L0 buffer
runs, any other buffer of that memory has all its users in S, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from networkx.utils import UnionFind
from ortools.graph.python import max_flow

from instances.intracore import COUNTED, SINGLE, Place, TileTask

Mask = int
"""Buffers as bits."""

_ALWAYS, _PLAIN, _WATCHED, _SINGLE = range(4)
"""Kinds of arcs: whatever is asked; of buffers that are not watched; of those that are; from here on, by memory."""

NEVER = 2**62
"""Units where something cannot be."""

MOST_CLASSES = 200
"""Classes of buffers that are watched at most where ends are compared two by two."""


class Lives:
    """Users of buffers with the operations before and after them; ``places`` are the memories that are summed up.

    ``single``: memories that hold one live buffer at a time. ``backwards``: time runs backwards.
    """

    def __init__(
        self,
        task: TileTask,
        places: Iterable[Place] = COUNTED,
        single: Iterable[Place] = SINGLE,
        backwards: bool = False,
    ) -> None:
        self.task = task
        self.counted = [one.id for one in task.buffers if one.place in tuple(places) and task.users[one.id]]
        self.single = tuple(single)
        self.bit = {buffer: place for place, buffer in enumerate(self.counted)}
        self.size = {buffer: task.buffer[buffer].size for buffer in self.counted}
        self.named = {op.id: tuple(dict.fromkeys(op.buffers)) for op in task.operations}
        self.place = {one.id: one.place for one in task.buffers}
        self.order = task.order[::-1] if backwards else task.order
        before: dict[int, list[int]] = {node: list(task.waits[node]) for node in task.order}
        after: dict[int, list[int]] = {node: [] for node in task.order}
        for node, waits in task.waits.items():
            for other in waits:
                after[other].append(node)
        self.before, self.after = (after, before) if backwards else (before, after)

    def own(self, node: int) -> int:
        """Units that an operation itself needs in the memories that are summed up."""
        return sum(self.size.get(buffer, 0) for buffer in self.named[node])

    def _gather(self, order: Sequence[int], near: Mapping[int, Iterable[int]]) -> dict[int, Mask]:
        found: dict[int, Mask] = {}
        for node in order:
            mask = 0
            for buffer in self.named[node]:
                if buffer in self.bit:
                    mask |= 1 << self.bit[buffer]
            for other in near[node]:
                mask |= found[other]
            found[node] = mask
        return found

    @cached_property
    def touched(self) -> dict[int, Mask]:
        """Buffers that an operation or one that it waits for uses."""
        return self._gather(self.order, self.before)

    @cached_property
    def needed(self) -> dict[int, Mask]:
        """Buffers that an operation or one that waits for it uses."""
        return self._gather(self.order[::-1], self.after)

    def places_of(self, node: int) -> frozenset[Place]:
        """Memories with one live buffer of which an operation uses one."""
        return frozenset(self.place[b] for b in self.named[node]) & frozenset(self.single)


def cut_bound(lives: Lives, deadline: float, most: int = 400) -> int:
    """The largest, over operations v, of the least that is live while v runs; by minimum cuts.

    While v runs, S holds what v waits for, neither v nor what waits for it, and with each operation all that this one
    waits for. Live are v's buffers, and each other buffer with a user in S and a user outside. Where v uses a buffer of
    L0A (L0B, L0C) and these hold one live buffer at a time, the users of any other buffer of that memory are all in S
    or all outside. The cheapest such S is a minimum cut: nodes for operations and, for each buffer, one that is on S's
    side when a user is (open) and one that may be there only when all users are (done), and an arc from open to done
    with the buffer's size. Every order runs every v, so the largest of these values bounds its peak from below.

    At most ``most`` operations are tried, those first whose S grown from what v waits for costs most.
    """
    best = max((lives.own(node) for node in lives.order), default=0)
    ranked = []
    for node in lives.order:
        if time.monotonic() > deadline:
            break
        if (easy := _grown(lives, node)) > best:
            ranked.append((easy, node))
    ranked.sort(reverse=True)
    cuts = _Cuts(lives)
    for easy, node in ranked[:most]:
        if easy <= best or time.monotonic() > deadline:
            break
        best = max(best, cuts.least(node) or 0)
    return best


def watched_bound(lives: Lives, known: int, deadline: float, most: int = NEVER) -> int:
    """The least that is live when the first of some watched buffers ends; by minimum cuts; at least ``known``.

    ``most``: what some order needs, where that is known; the search for a better bound ends there.

    Watch a set Q of buffers. One of them, b, is the first to end, when its last user v runs. Then S has all other users
    of b, and no other buffer of Q has ended: it is live if it has a user in S. For the others, and for what S may be,
    see :func:`cut_bound`; the cut has, for a buffer of Q, an arc from open to the end instead of one to done. The bound
    is the least over b in Q and v among its users.

    The more is watched, the larger are these values, but the more there are. So a buffer whose value is no larger
    than the bound so far must not be watched; all of them are let go, until none is left or a better bound is found.
    """
    cuts = _Cuts(lives)

    def value(buffer: int, watched: set[int], enough: int) -> int:
        return _end_value(lives, cuts, buffer, watched, enough, deadline)

    return _let_go({b for b in lives.counted if len(lives.task.users[b]) > 1}, value, known, deadline, most)


Value = Callable[[int, set[int], int], int]
"""Buffer, watched buffers, bound: the least that is live when the buffer is the first to end, or something no larger
than the bound."""


def _let_go(watched: set[int], value: Value, known: int, deadline: float, most: int) -> int:
    """The largest value, of those tried, for which a set of watched buffers is left; at least ``known``."""
    if known >= most:
        return known
    found = _left(watched, value, known, deadline)
    if found is None:
        return known
    best, step = found[0], max(1, found[0] // 8)
    watched = found[1]
    while time.monotonic() < deadline and most - best > best // 100:
        aim = min(best + step, (best + most) // 2 if most < NEVER else NEVER)
        found = _left(watched, value, aim, deadline)
        if found is None:
            most = aim
        else:
            best, watched = found
            step *= 2
    return best


def _left(watched: set[int], value: Value, aim: int, deadline: float) -> tuple[int, set[int]] | None:
    """The buffers that are left when those whose value is no larger than ``aim`` are let go, and the least value."""
    watched = set(watched)
    values: dict[int, int] = {}
    while watched:
        gone = False
        for buffer in sorted(watched, key=lambda b: (values.get(b, 0), b)):
            values[buffer] = value(buffer, watched, aim)
            if time.monotonic() > deadline:
                return None
            if values[buffer] <= aim:
                watched.discard(buffer)
                gone = True
        if not gone:
            return min(values[b] for b in watched), watched
    return None


def _end_value(lives: Lives, cuts: _Cuts, buffer: int, watched: set[int], enough: int, deadline: float) -> int:
    """Least that is live when a buffer is the first of those watched to end; or something up to ``enough``."""
    users = lives.task.users[buffer]
    least = NEVER
    for node in users:
        others = [user for user in users if user != node]
        easy = _grown(lives, node, others, watched)
        if easy <= enough:
            return easy
        if time.monotonic() > deadline:
            break
        value = cuts.least(node, others, watched)
        if value is not None:
            least = min(least, value)
            if least <= enough:
                break
    return least


def _grown(lives: Lives, node: int, forced: Sequence[int] = (), watched: Collection[int] = ()) -> int:
    """What is live while an operation runs where S is as small as it can be: at least its minimum cut."""
    task = lives.task
    tied = lives.places_of(node)
    mine = lives.named[node]
    inside: set[int] = set()
    stack = [*lives.before[node], *forced]
    opened: dict[int, int] = {}
    while stack:
        one = stack.pop()
        if one in inside:
            continue
        inside.add(one)
        stack += [other for other in lives.before[one] if other not in inside]
        for buffer in lives.named[one]:
            if buffer in lives.size:
                opened[buffer] = opened.get(buffer, 0) + 1
            elif lives.place[buffer] in tied and buffer not in mine:
                stack += task.users[buffer]
    if node in inside:
        return NEVER
    live = {buffer for buffer, count in opened.items() if count < len(task.users[buffer]) or buffer in watched}
    return lives.own(node) + sum(lives.size[buffer] for buffer in live if buffer not in mine)


class _Cuts:
    """Arcs of the minimum cuts, apart from those that depend on the operation."""

    def __init__(self, lives: Lives) -> None:
        self.lives = lives
        task = lives.task
        self.node = {node: place for place, node in enumerate(lives.order)}
        count = len(self.node)
        self.source, self.sink = count, count + 1
        count += 2
        self.never = 2 * sum(lives.size.values()) + 1
        arcs: list[tuple[int, int, int, int, int]] = []  # tail, head, capacity, buffer, kind
        for node, before in lives.before.items():
            arcs += [(self.node[node], self.node[other], self.never, -1, _ALWAYS) for other in before]
        for buffer, users in task.users.items():
            place = lives.place[buffer]
            ends = [self.node[user] for user in users]
            if buffer in lives.size and len(users) > 1:
                opened, done = count, count + 1
                count += 2
                arcs.append((opened, done, lives.size[buffer], buffer, _PLAIN))
                arcs.append((opened, self.sink, lives.size[buffer], buffer, _WATCHED))
                arcs += [(end, opened, self.never, buffer, _ALWAYS) for end in ends]
                arcs += [(done, end, self.never, buffer, _PLAIN) for end in ends]
            elif place in lives.single and len(users) > 1:
                ring = zip(ends, [*ends[1:], ends[0]], strict=True)
                kind = _SINGLE + lives.single.index(place)
                arcs += [(tail, head, self.never, buffer, kind) for tail, head in ring]
        self.arcs = np.array(arcs, dtype=np.int64).reshape(-1, 5)

    def least(
        self, node: int, forced: Sequence[int] = (), watched: Collection[int] = (), outside: Sequence[int] = ()
    ) -> int | None:
        """Least that is live while an operation runs, with others in S or outside; ``None`` where that cannot be."""
        lives = self.lives
        places = lives.places_of(node)
        kinds = [_ALWAYS, *(_SINGLE + number for number, place in enumerate(lives.single) if place in places)]
        buffers, kind = self.arcs[:, 3], self.arcs[:, 4]
        of_watched = np.isin(buffers, list(watched))
        keep = np.isin(kind, kinds) | ((kind == _PLAIN) & ~of_watched) | ((kind == _WATCHED) & of_watched)
        chosen = self.arcs[keep & ~np.isin(buffers, lives.named[node])]
        flow = max_flow.SimpleMaxFlow()
        flow.add_arcs_with_capacity(chosen[:, 0], chosen[:, 1], chosen[:, 2])
        for before in (*lives.before[node], *forced):
            flow.add_arc_with_capacity(self.source, self.node[before], self.never)
        for after in (node, *lives.after[node], *outside):
            flow.add_arc_with_capacity(self.node[after], self.sink, self.never)
        flow.add_arc_with_capacity(self.source, self.sink, 0)
        if flow.solve(self.source, self.sink) != flow.OPTIMAL:
            return None
        value = int(flow.optimal_flow())
        return None if value >= self.never else value + lives.own(node)


def first_end_bound(lives: Lives, deadline: float) -> int:
    """Least residency by the buffers that end first, or, in an order read backwards, that begin last.

    Operations that share an L0 buffer make a group. A pivot uses a buffer of every L0 memory that the task has. While a
    pivot of group M runs, every other group is in S or outside of it as a whole; so groups with pivots come one
    after another, M_1, M_2, ... Look at the last pivot of M_t. A buffer is live there if In has it for a group up to
    M_t and Out has it for a later one, where In(M) has what the pivots of M and all that they wait for use, and Out(M)
    what M and all that waits for it use. That is all the proof of :func:`two_ends` needs. Backwards in time, the same
    holds with first pivots, what waits for them, and what M waits for.
    """
    groups = _groups(lives)
    if len(groups) < 2:
        return 0
    best = 0
    for first, second in ((lives.touched, lives.needed), (lives.needed, lives.touched)):
        ins, outs = [], []
        for members, pivots in groups:
            mask = 0
            for node in pivots:
                mask |= first[node]
            ins.append(mask)
            mask = 0
            for node in members:
                mask |= second[node]
            outs.append(mask)
        best = max(best, two_ends(ins, outs, [lives.size[b] for b in lives.counted], deadline))
    return best


def watched_groups_bound(lives: Lives, known: int, deadline: float, most: int = NEVER) -> int:
    """The least that is live when the first of some watched buffers ends, by groups and cuts; ``known`` or more.

    With groups M_1, M_2, ... and Out as in :func:`first_end_bound`, let b be the first of the watched buffers to end,
    at t: it is the last t with b in Out(M_t). M_t is one of the groups with b in their Out, and all others of these are
    in S as a whole while a pivot of M_t runs. No other watched buffer ends before t; one that is not in Out(M_t) has
    a user after M_t, so it is live if it has a user in S. That holds at the last pivot of M_t, with its others in S,
    and at the first, with the others outside. The larger of the two cuts bounds what is live with this M_t, the least
    over b and M_t the peak. Buffers are let go as in :func:`watched_bound`.
    """
    groups = _groups(lives)
    outs: list[Mask] = []
    for members, _ in groups:
        mask = 0
        for node in members:
            mask |= lives.needed[node]
        outs.append(mask)
    ends = {b: [k for k, mask in enumerate(outs) if mask >> lives.bit[b] & 1] for b in lives.counted}
    cuts = _Cuts(lives)

    def value(buffer: int, watched: set[int], enough: int) -> int:
        least = NEVER
        for last in ends[buffer]:
            others = [node for k in ends[buffer] if k != last for node in groups[k][0]]
            still = {b for b in watched if not outs[last] >> lives.bit[b] & 1}
            least = min(least, _pivot_value(lives, cuts, groups[last][1], others, still, enough))
            if least <= enough or time.monotonic() > deadline:
                break
        return least

    return _let_go({b for b in lives.counted if len(lives.task.users[b]) > 1 and ends[b]}, value, known, deadline, most)


def _pivot_value(
    lives: Lives, cuts: _Cuts, pivots: Sequence[int], others: Sequence[int], watched: set[int], enough: int
) -> int:
    """The larger of what is live at the last pivot of a group and at the first; or something up to ``enough``."""
    last = first = NEVER
    for node in pivots:
        rest = [other for other in pivots if other != node]
        for late in (True, False):
            known = last if late else first
            if known <= enough:
                continue
            inside = [*others, *rest] if late else list(others)
            easy = _grown(lives, node, inside, watched)
            if easy > enough:
                found = cuts.least(node, inside, watched, () if late else rest)
                easy = NEVER if found is None else found
            if late:
                last = min(last, easy)
            else:
                first = min(first, easy)
    return max(last, first)


def _groups(lives: Lives) -> list[tuple[list[int], list[int]]]:
    """Groups of operations that share buffers of the L0 memories, with their pivots; those that have a pivot."""
    task = lives.task
    joined = UnionFind(task.order)
    there = {lives.place[b] for b, users in task.users.items() if users} & set(lives.single)
    for buffer, users in task.users.items():
        if lives.place[buffer] in there:
            joined.union(*users)
    members: dict[int, list[int]] = {}
    pivots: dict[int, list[int]] = {}
    for node in task.order:
        members.setdefault(joined[node], []).append(node)
        if there and lives.places_of(node) == there:
            pivots.setdefault(joined[node], []).append(node)
    return [(members[one], found) for one, found in pivots.items()]


def two_ends(ins: Sequence[Mask], outs: Sequence[Mask], sizes: Sequence[int], deadline: float) -> int:
    """Least peak of any order M_1, M_2, ... of groups, by the two buffers of a watched set that end first.

    A buffer b is live at t if In(M_s) has it for some s <= t and Out(M_s) for some s > t; it ends at the last t with b
    in Out(M_t). Watch a set of buffers. Let D be those that end first, at t, b one of D, and O(b) the groups whose Out
    has b: all of O(b) is in M_1..M_t, M_t is one of O(b), and D lies in Out(M_t).

    * Nothing watched ended before t: at t - 1, all that In of O(b) without M_t has is live; for every b in D.
    * At t, all that In of O(b) has is live, for every b in D, but for D itself.
    * Nothing ends from t until the next end, at u, of some c: so at u - 1, D apart, all that In of O(b) has is live,
      and with it all that In of O(c) without M_u has.

    Buffers that are in In and in Out of the same groups end together and make a class. If D is one class, the third
    line holds for it with some c of another; otherwise the first and the second hold for two classes of D, of which one
    M_t is in both O. The least of all these values is the bound, for any watched set; sets are tried that are left
    when the class with the least size of all that In of O(b) has is no longer watched, again and again.
    """
    signature: dict[tuple[int, int], list[int]] = {}
    for place in range(len(sizes)):
        key = (
            sum((m >> place & 1) << k for k, m in enumerate(ins)),
            sum((m >> place & 1) << k for k, m in enumerate(outs)),
        )
        if key[0] and key[1]:
            signature.setdefault(key, []).append(place)
    classes = list(signature)
    if len(classes) < 2:
        return 0
    weight = np.array([sum(sizes[place] for place in signature[key]) for key in classes], dtype=np.int64)
    count = len(ins)
    has_in = np.array([[key[0] >> k & 1 for key in classes] for k in range(count)], dtype=bool)
    has_out = np.array([[key[1] >> k & 1 for key in classes] for k in range(count)], dtype=bool)
    times = has_out.T.astype(np.int64) @ has_in.astype(np.int64)  # class b, class x: groups of O(b) with x in In
    watched = np.argsort((times > 0) @ weight, kind="stable")[-MOST_CLASSES:]
    best, step = 0, max(1, len(watched) // 40)
    while len(watched) >= 2 and time.monotonic() < deadline:
        part = np.ix_(watched, watched)
        heavy = (times[part] > 0) @ weight[watched]
        if int(weight[watched].sum()) <= best:
            break
        best = max(best, _two_ends(has_in[:, watched], has_out[:, watched], times[part], weight[watched]))
        watched = np.delete(watched, np.argsort(heavy, kind="stable")[:step])
    return best


def _two_ends(has_in: np.ndarray, has_out: np.ndarray, times: np.ndarray, weight: np.ndarray) -> int:
    """The bound of :func:`two_ends` for one watched set; rows are groups, columns classes."""
    count = len(weight)
    every = times > 0
    rest = ~every  # first class, class: not in In of O(first)
    np.fill_diagonal(rest, True)
    base = every.copy()
    np.fill_diagonal(base, False)
    held = base @ weight
    free = rest.astype(np.int64) * weight
    free[np.arange(count), np.arange(count)] = 0  # what ended does not count
    least = np.iinfo(np.int64).max
    for second in range(count):  # D is one class, the next end is that of `second`
        groups = np.flatnonzero(has_out[:, second])
        more = free @ every[second].astype(np.int64)
        once = (times[second] == 1) & has_in[groups]  # group, class: only this group has it
        lost = (once.astype(np.int64) @ free.T).max(axis=0)
        values = held + more - lost
        values[second] = least
        least = min(least, int(values.min()))
        if least <= 0:
            return 0
    for group in range(len(has_in)):  # D has two classes, and this group is the last of both
        there = np.flatnonzero(has_out[group])
        if len(there) < 2:
            continue
        before = (times[there] - has_in[group]) > 0
        after = every[there] & ~has_out[group]
        value = np.maximum(_unions(before, weight), _unions(after, weight))
        np.fill_diagonal(value, least)
        least = min(least, int(value.min()))
    return max(least, 0)


def _unions(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weight of the union of each two rows."""
    heavy = rows.astype(np.int64) * weight
    alone = heavy.sum(axis=1)
    both = heavy @ rows.astype(np.int64).T
    return np.asarray(alone[:, None] + alone[None, :] - both)
