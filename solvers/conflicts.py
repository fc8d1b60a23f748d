"""Events, what must lie between them, and what cannot run together: the ground that an exhaustive search stands on.

Events are numbered; a vector of times has one entry (ns) per event. A constraint is a least distance of two events, so
the earliest times are longest paths. An activity is a pair of events that holds some of a resource in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Arc = tuple[int, int, int]
"""``(i, j, c)``: event ``j`` comes at least ``c`` ns after event ``i``."""


@dataclass(frozen=True, eq=False)
class Activity:
    """What holds a resource from event ``start`` until ``lag_ns`` after event ``end``, at least ``least_ns`` long."""

    start: int
    end: int
    lag_ns: int = 0
    least_ns: int = 1

    def meets(self, other: Activity, times: Sequence[int]) -> bool:
        """Whether the two are alive at one time."""
        mine, theirs = times[self.end] + self.lag_ns, times[other.end] + other.lag_ns
        return times[self.start] < theirs and times[other.start] < mine


Demand = tuple[Activity, int]
"""An activity and how much of a resource it asks for."""


@dataclass(frozen=True)
class Resource:
    """A capacity, and who asks how much of it."""

    capacity: int
    demands: Sequence[Demand]

    def conflict(self, times: Sequence[int]) -> list[Activity]:
        """A smallest set of activities alive at one instant that ask too much; empty where there is none.

        The smallest are dropped as long as what is left still asks too much.
        """
        for now in sorted({times[user.start] for user, _ in self.demands}):
            alive = [d for d in self.demands if times[d[0].start] <= now < times[d[0].end] + d[0].lag_ns]
            over = sum(amount for _, amount in alive) - self.capacity
            if over > 0:
                alive.sort(key=lambda demand: demand[1])
                while alive[0][1] < over:  # the smallest can go
                    over -= alive.pop(0)[1]
                return [user for user, _ in alive]
        return []

    def bound(self, times: Sequence[int]) -> int:
        """End of all that ask for more than half: they take turns, from the earliest start of one of them on."""
        turns = [user for user, amount in self.demands if 2 * amount > self.capacity]
        return min((times[user.start] for user in turns), default=0) + sum(user.least_ns for user in turns)


class Network:
    """Difference constraints that come and go, and their earliest solution."""

    def __init__(self, events: int) -> None:
        self._after: list[list[tuple[int, int]]] = [[] for _ in range(events)]
        self._added: list[Arc] = []

    def require(self, arcs: Iterable[Arc]) -> int:
        """Add constraints; returns a mark for :meth:`earliest` and :meth:`withdraw`."""
        mark = len(self._added)
        for arc in arcs:
            self._after[arc[0]].append(arc[1:])
            self._added.append(arc)
        return mark

    def withdraw(self, mark: int) -> None:
        """Take back all constraints added since a mark."""
        while len(self._added) > mark:
            self._after[self._added.pop()[0]].pop()

    def earliest(self, times: Sequence[int], mark: int, limit_ns: int) -> list[int] | None:
        """Least times from ``times`` on that satisfy all, if ``times`` satisfies what was there before ``mark``.

        ``None`` where an event would come at ``limit_ns`` or later, as it does on a cycle; no event comes after the
        end of its schedule.
        """
        found = list(times)
        moved = [i for i, _, _ in self._added[mark:]]
        while moved:
            i = moved.pop()
            for j, lag in self._after[i]:
                if found[i] + lag > found[j]:
                    found[j] = found[i] + lag
                    if found[j] >= limit_ns:
                        return None
                    moved.append(j)
        return found


def place(blocks: Sequence[Demand], times: Sequence[int], capacity: int) -> list[int] | None:
    """Addresses for blocks of L2, by exact backtracking; ``None`` where there are none.

    Put blocks down in the order of their addresses in some solution, each on top of all those it meets: none comes
    to lie higher than there. So it is enough to try all orders.
    """
    offsets: dict[int, int] = {}

    def put(left: list[int]) -> bool:
        for i in left:
            below = [j for j in offsets if blocks[i][0].meets(blocks[j][0], times)]
            offsets[i] = max((offsets[j] + blocks[j][1] for j in below), default=0)
            if offsets[i] + blocks[i][1] <= capacity and put([j for j in left if j != i]):
                return True
            del offsets[i]
        return not left

    done = put(sorted(range(len(blocks)), key=lambda i: -blocks[i][1]))
    return [offsets[i] for i in range(len(blocks))] if done else None
