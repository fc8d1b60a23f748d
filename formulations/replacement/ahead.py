"""What a state has yet to pay: a shortest path over sets of operators alone, which forgets which tensors are away.

For a set D of operators that have run and an operator i that is ready, let e(D, i) be the room that is missing when
everything live stays while i runs. At least so much of what i does not touch must then be away. Let k be the room of
what is live and away. Forgetting names, k may stay as it is at every step, short of what is live and untouched; it
must grow to e(D, i) where it is less. Each growth is at least one eviction and so one way back:

    fetches(D, k) = min over i of  (e - k')+  +  fetches(D + i, max(k', e)),   k' = min(k, untouched live room)

At the step with the largest e on the best path, that much is away at once, and each of these was written back once:

    peak(D) = min over i of  max(e(D, i), peak(D + i))

Ways back and writes are different traffic, so both count. All in units of the largest number that divides every room.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from formulations.replacement.facts import Facts, members
from formulations.replacement.sets import Sets

MOST_UNITS = 512
"""Most values of k; where there would be more, a unit is as much as the largest tensor, which is weaker."""


class Ahead:
    """Bounds on what is ahead of every set: ``fetches[level][d, k]`` and ``peak[level][d]``, in units."""

    def __init__(self, sets: Sets, capacity_bytes: int) -> None:
        facts = sets.facts
        shared = list(members(facts.shared))
        unit = math.gcd(*(facts.room[t] for t in shared)) if shared else 1
        self.coarse = sum(facts.room[t] for t in shared) // unit > MOST_UNITS
        self.unit = max((facts.room[t] for t in shared), default=1) if self.coarse else unit
        if self.coarse:
            self.worth = Fraction(min(facts.size[t] for t in shared), 1)
        else:
            self.worth = min((Fraction(facts.size[t] * unit, facts.room[t]) for t in shared), default=Fraction(1))
        self.grain = math.gcd(*(facts.size[t] for t in shared)) if shared else 1
        self.fetches: list[NDArray[np.int64]] = []
        self.peak: list[NDArray[np.int64]] = []
        self._work(sets, capacity_bytes)

    def least_bytes(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Traffic (bytes) of so many units: what no sum of sizes is below."""
        above = -(-units * self.worth.numerator // self.worth.denominator)
        return np.asarray(-(-above // self.grain) * self.grain)

    def units_of(self, facts: Facts, tensors: int) -> int:
        """Room of tensors in units; tensors themselves where a unit is one."""
        return tensors.bit_count() if self.coarse else facts.bytes_of(tensors) // self.unit

    def _work(self, sets: Sets, capacity: int) -> None:
        f = sets.facts
        fetches, peak = [np.zeros((1, 1), np.int64)], [np.zeros(1, np.int64)]
        for level in reversed(sets.levels[:-1]):
            further, beyond = fetches[-1], peak[-1]
            rows, tops = [], []
            for live, steps in zip(level.live, level.steps, strict=True):
                held = np.arange(self.units_of(f, live) + 1)
                row = np.full(len(held), np.iinfo(np.int64).max)
                top = np.iinfo(np.int64).max
                for i, after in steps:
                    others = live & ~f.touched[i]
                    excess = max(0, -(-(f.need[i] + f.bytes_of(others) - capacity) // self.unit))
                    kept = np.minimum(held, self.units_of(f, others))
                    now = np.minimum(np.maximum(kept, excess), further.shape[1] - 1)
                    row = np.minimum(row, np.maximum(0, excess - kept) + further[after, now])
                    top = min(top, max(excess, int(beyond[after])))
                rows.append(row)
                tops.append(top)
            width = max(map(len, rows))
            table = np.zeros((len(rows), width), np.int64)
            for d, row in enumerate(rows):
                table[d, : len(row)] = row
                table[d, len(row) :] = row[-1]
            fetches.append(table)
            peak.append(np.array(tops, np.int64))
        self.fetches, self.peak = fetches[::-1], peak[::-1]
