"""Orders of operators by memory alone: the greedy one, and one whose peak is least."""

from __future__ import annotations

from functools import lru_cache

from formulations.replacement.facts import Facts, members
from formulations.replacement.sets import Sets, TooWideError


def greedy_order(facts: Facts) -> list[int]:
    """Of the operators that are ready, always the one after which least is live; the first of equals."""
    order, done, live = [], 0, 0
    for _ in range(facts.count):
        options = []
        for i in range(facts.count):
            if done >> i & 1 or facts.before[i] & ~done:
                continue
            after = done | 1 << i
            kept = sum(1 << t for t in members(live | facts.touched_shared[i]) if facts.readers[t] & ~after)
            options.append((facts.bytes_of(kept), i, kept))
        _, i, live = min(options)
        order.append(i)
        done |= 1 << i
    return order


@lru_cache(maxsize=1)  # asked more than once for one problem, and the sets of operators may be many
def least_peak(facts: Facts) -> tuple[int, list[int]] | None:
    """The least scratchpad that needs no extra traffic, addresses aside, and an order that makes do with it.

    ``None`` where there are too many sets of operators to look at.
    """
    try:
        parts = [_least_peak(Sets(facts, start, goal), facts) for start, goal in facts.segments]
    except TooWideError:
        return None
    return max(peak for peak, _ in parts), [i for _, order in parts for i in order]


def _least_peak(sets: Sets, facts: Facts) -> tuple[int, list[int]]:
    best: list[list[tuple[int, int, int]]] = [[(0, -1, -1)]]  # peak, parent, operator for each set of the level
    for level, after in zip(sets.levels, sets.levels[1:], strict=False):
        row = [(-1, -1, -1)] * len(after.sets)
        for d, (done, live, steps) in enumerate(zip(level.sets, level.live, level.steps, strict=True)):
            # what no one has read yet can wait outside
            here = sum(1 << t for t in members(live) if not facts.outside >> t & 1 or facts.readers[t] & done)
            for i, further in steps:
                peak = max(best[-1][d][0], facts.need[i] + facts.bytes_of(here & ~facts.touched[i]))
                if row[further][0] < 0 or peak < row[further][0]:
                    row[further] = (peak, d, i)
        best.append(row)
    order, d = [], 0
    for row in reversed(best[1:]):
        _, parent, i = row[d]
        order.append(i)
        d = parent
    return best[-1][0][0], order[::-1]
