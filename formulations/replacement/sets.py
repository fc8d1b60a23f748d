"""The sets of operators that can have run, level by level, with what is live after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formulations.replacement.facts import Facts, members

MOST_SETS = 150_000
"""Sets above which they are not enumerated."""

MOST_SLOTS = 63
"""Tensors that can be live at one level and still be one machine word."""


class TooWideError(Exception):
    """More sets of operators, or more live tensors at a time, than can be looked at."""


class Level:
    """Sets of one size. ``live[d]`` are the tensors live after set ``d``; ``steps[d]`` its (operator, next set)."""

    def __init__(self, sets: dict[int, int]) -> None:
        self.sets = list(sets)
        self.live = list(sets.values())
        self.steps: list[list[tuple[int, int]]] = []


class Sets:
    """All sets between two; raises :class:`TooWideError` where they are too many, or ``stop`` says so meanwhile.

    Parameters
    ----------
    start, goal
        Operators that have run at first and at last.
    order
        Where given, operators run in this order, and there is one set of each size.
    """

    def __init__(
        self,
        facts: Facts,
        start: int,
        goal: int,
        order: Sequence[int] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.facts = facts
        self.start, self.goal = start, goal
        following = None if order is None else dict(_prefixes(order))
        self.levels = [Level({start: facts.live_after(start)})]
        total = 1
        for _ in range(goal.bit_count() - start.bit_count()):
            level = self.levels[-1]
            reached: dict[int, int] = {}
            place: dict[int, int] = {}
            for done, live in zip(level.sets, level.live, strict=True):
                ready = [following[done]] if following is not None else self._ready(done)
                found = []
                for i in ready:
                    after = done | 1 << i
                    if after not in reached:
                        place[after] = len(reached)
                        reached[after] = self._still(live | facts.touched_shared[i], after)
                    found.append((i, place[after]))
                level.steps.append(found)
            total += len(reached)
            if total > MOST_SETS or stop():
                raise TooWideError
            self.levels.append(Level(reached))

    def _ready(self, done: int) -> list[int]:
        before = self.facts.before
        return [i for i in members(self.goal & ~done) if not before[i] & ~done]

    def _still(self, tensors: int, done: int) -> int:
        readers = self.facts.readers
        return sum(1 << t for t in members(tensors) if readers[t] & ~done)

    def slots(self) -> dict[int, int]:
        """A bit for each shared tensor, its own at every level at which it can be live or touched."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, level in enumerate(self.levels):
            seen = 0
            for live, steps in zip(level.live, level.steps or [[]] * len(level.live), strict=True):
                seen |= live
                for i, _ in steps:
                    seen |= self.facts.touched_shared[i]
            for t in members(seen):
                first.setdefault(t, number)
                last[t] = number
        free_from = [0] * MOST_SLOTS
        slot: dict[int, int] = {}
        for t in sorted(first, key=lambda tensor: first[tensor]):
            place = next((s for s in range(MOST_SLOTS) if free_from[s] <= first[t]), None)
            if place is None:
                raise TooWideError
            slot[t] = place
            free_from[place] = last[t] + 2  # what a step touches is gone after the next level
        return slot


def _prefixes(order: Sequence[int]) -> list[tuple[int, int]]:
    pairs, done = [], 0
    for i in order:
        pairs.append((done, i))
        done |= 1 << i
    return pairs
