"""Least extra traffic of a task of tile operations: proven lower bounds for sub-problem 2.

Spills of different buffers are different traffic, so bounds that speak of different buffers add up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from fractions import Fraction

from formulations.intracore.residency import Lives, cut_bound, watched_bound
from instances.intracore import SINGLE, Place, TileTask

MOST_GROUPS = 1200
"""Groups up to which windows are looked at; their time grows with the square."""


def deficits(task: TileTask, deadline: float) -> dict[Place, int]:
    """For each memory, the traffic without which the buffers that are live at one moment do not fit.

    By :func:`~formulations.intracore.residency.cut_bound` and :func:`~formulations.intracore.residency.watched_bound`,
    for one memory and without the rule of one live buffer, every order has a moment at which buffers of P units
    together are between ALLOC and FREE. Those beyond the capacity are in main memory then, so each is spilled. The
    cheapest buffers of that memory, each taken as often as one likes, that make up the units beyond the capacity bound
    the traffic.
    """
    found = {}
    for number, place in enumerate(Place):
        members = [one for one in task.buffers if one.place is place and task.users[one.id]]
        left = (deadline - time.monotonic()) / (2 if number < 2 else len(Place) - number)
        if members and sum(one.size for one in members) > task.capacity[place]:
            lives = Lives(task, (place,), ())
            peak = cut_bound(lives, time.monotonic() + left / 2)
            for ahead in (lives, Lives(task, (place,), (), backwards=True)):
                peak = watched_bound(ahead, max(peak, task.capacity[place]), time.monotonic() + left / 4)
            beyond = peak - task.capacity[place]
            found[place] = least_cover(beyond, {(one.size, task.traffic_of_spill(one.id)) for one in members})
    return found


def least_cover(units: int, items: set[tuple[int, int]]) -> int:
    """Least price of items (size, price), as many of each as one likes, with at least so many units together."""
    if units <= 0:
        return 0
    common = math.gcd(*(size for size, _ in items))
    units = -(-units // common)
    best = [0] * (units + 1)
    for have in range(1, units + 1):
        best[have] = min(price + best[max(0, have - size // common)] for size, price in items)
    return best[units]


def windows(task: TileTask) -> int:
    """Traffic of the memory that feeds the L0 memories, by windows of groups of operations.

    Take one L0 memory, and for each of its buffers the *group* of the operations that use it. What a group works on are
    the buffers of L1 (UB) that its operations use, and those that an operation uses which shares a buffer of another L0
    memory with one of them: it was brought there from L1. Only such operations of a group count here. List the groups
    by the operation that they run last, and cut the list into stretches of w groups. A stretch's window is the time
    from the last operation of the stretch before to its own. When a window begins, while the last operation of a group
    runs with that group's buffer, other buffers of that memory lie in it or are spilled. There are at most q of the
    former, q + 1 being the number of smallest buffers that fit. So w - q groups or more run all their operations
    inside the window, s of them less where s buffers are spilled, which costs s times the least traffic of such a
    spill.

    What such groups work on was in L1 during the window, or was brought into another L0 memory before it. That memory
    has what the operation uses of it that runs when the window begins, and so little room for others; any more of
    them were spilled, each for one group alone, which costs at least as much as a way back of what they hold. So at
    least D(w - q - s) units were in L1 during the window or in L0 at its beginning, where D(n) is the least size of
    what n groups work on, and all of it but the capacity of L1 and what L0 holds for it came into L1 within the
    window. Over all windows, what came into L1 is what was put there first, each buffer once, and what spills brought
    back; each unit of the latter costs one unit of traffic or two. Before the first window nothing is there. The
    sizes w are chosen by dynamic programming.

    D(n): buffers that the same groups work on make a class. Where the classes fall into two sides such that a group
    works on one class of each side at most, and no more than p groups on the same ones, r classes of the one and c of
    the other are enough for p r c groups, and no more. Otherwise nothing is proven, and this is 0.
    """
    best = 0
    for place in (Place.L1, Place.UB):
        for core in SINGLE:
            best = max(best, _windows(task, place, core))
    return best


def _windows(task: TileTask, place: Place, core: Place) -> int:
    found = _groups(task, place, core)
    if found is None:
        return 0
    groups, spilled, carried = found
    if len(groups) > MOST_GROUPS:
        return 0
    sizes = {one.id: one.size for one in task.buffers if one.place is place and task.users[one.id]}
    least = _least_demand(groups, sizes)
    if least is None:
        return 0
    smallest = min(one.size for one in task.buffers if one.place is core and task.users[one.id])
    open_before = task.capacity[core] // smallest - 1
    room = task.capacity[place] + carried
    count = len(groups)

    def in_window(whole: int, held: int) -> int:
        """Least traffic and units that come in, where so many groups run or break and so much is there already."""
        found = max(0, least[whole] - held)
        for broken in range(1, whole + 1):
            if spilled * broken >= found:
                break
            found = min(found, spilled * broken + max(0, least[whole - broken] - held))
        return found

    later = [in_window(max(0, n - open_before), room) for n in range(count + 1)]
    worth = [0] * (count + 1)  # of the last n groups
    for n in range(1, count + 1):
        worth[n] = max(later[w] + worth[n - w] for w in range(1, n + 1))
    total = max(in_window(n, 0) + worth[count - n] for n in range(1, count + 1))
    return max(0, total - sum(sizes.values()))


def _groups(task: TileTask, place: Place, core: Place) -> tuple[list[frozenset[int]], int, int] | None:
    """What each group works on; least traffic of a spill in the core memory; units that other L0 memories hold."""
    named = {op.id: tuple(dict.fromkeys(op.buffers)) for op in task.operations}
    of = {one.id: one.place for one in task.buffers}
    size = {one.id: one.size for one in task.buffers}
    groups, carried = [], dict.fromkeys((other for other in SINGLE if other is not core), Fraction(0))
    taken = {other: task.room(other) for other in carried}  # by each operation that counts
    group_of: dict[int, int] = {}
    for buffer, users in task.users.items():
        if of[buffer] is not core or not users:
            continue
        demand: set[int] = set()
        for user in users:
            if any(of[near] is place or of[near] in carried for near in named[user]):
                for other in carried:
                    taken[other] = min(taken[other], sum(size[b] for b in named[user] if of[b] is other))
            for near in named[user]:
                if of[near] is place:
                    demand.add(near)
                elif of[near] in carried:
                    if group_of.setdefault(near, buffer) != buffer:
                        return None
                    far = {b for other in task.users[near] for b in named[other] if of[b] is place}
                    demand |= far
                    held = sum(size[b] for b in far)
                    if held > task.traffic_of_spill(near):
                        return None
                    carried[of[near]] = max(carried[of[near]], Fraction(held, size[near]))
        groups.append(frozenset(demand))
    if not groups or not any(groups):
        return None
    spilled = min(task.traffic_of_spill(b) for b, p in of.items() if p is core and task.users[b])
    held = sum(math.floor(ratio * (task.room(other) - taken[other])) for other, ratio in carried.items())
    return groups, spilled, held


def _least_demand(groups: Sequence[frozenset[int]], sizes: dict[int, int]) -> list[int] | None:
    """Least size of what n groups work on, for n = 0, 1, ...; ``None`` where the classes have no two sides."""
    works: dict[int, list[int]] = {}
    for number, demand in enumerate(groups):
        for buffer in demand:
            works.setdefault(buffer, []).append(number)
    classes: dict[tuple[int, ...], int] = {}
    for buffer, numbers in works.items():
        key = tuple(numbers)
        classes[key] = classes.get(key, 0) + sizes[buffer]
    inside: dict[int, list[int]] = {}
    for one, key in enumerate(classes):
        for number in key:
            inside.setdefault(number, []).append(one)
    if any(len(found) > 2 for found in inside.values()):
        return None
    near: dict[int, set[int]] = {one: set() for one in range(len(classes))}
    for found in inside.values():
        for one in found:
            near[one] |= set(found) - {one}
    side: dict[int, int] = {}
    for start in near:
        if start in side:
            continue
        side[start] = 0
        stack = [start]
        while stack:
            one = stack.pop()
            for other in near[one]:
                if other not in side:
                    side[other] = 1 - side[one]
                    stack.append(other)
                elif side[other] == side[one]:
                    return None
    same: dict[tuple[int, ...], int] = {}
    for number in range(len(groups)):
        key = tuple(sorted(inside.get(number, ())))
        if len(key) < 2:  # it works on too little to be counted
            return None
        same[key] = same.get(key, 0) + 1
    each = max(same.values())
    weight = list(classes.values())
    prefix = []
    for which in (0, 1):
        total, sums = 0, [0]
        for value in sorted(weight[one] for one in near if side[one] == which):
            total += value
            sums.append(total)
        prefix.append(sums)
    rows, columns = prefix
    least = [0]
    for n in range(1, len(groups) + 1):
        options = []
        for r in range(1, len(rows)):
            c = -(-n // (each * r))
            if c < len(columns):
                options.append(rows[r] + columns[c])
        if not options:
            return None
        least.append(min(options))
    return least
