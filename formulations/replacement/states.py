"""Tensor replacement as a shortest path: states are sets of operators that have run, and what then lies in the
scratchpad.

A state is the set of operators that have run, the set of live tensors in the scratchpad, and the set of live tensors
that are off-chip. A step runs one ready operator: what it touches comes in, and where there is too little room, other
tensors go. Three observations keep the number of states small:

- Keeping a tensor costs nothing, so tensors leave only when room is short, and only as many as make enough of it.
- A live tensor that leaves is needed again, so its way back is paid when it leaves. A state is then as good as
  another with the same operators if it would be no dearer after evicting what it holds and the other does not. States
  that differ in one tensor are compared so.
- A state whose traffic so far, with the least that is ahead of it (:mod:`formulations.replacement.ahead`), is no less
  than that of a plan at hand leads nowhere.

Levels are worked through by the number of operators that have run, each level as arrays with a bit per tensor. A
level wider than ``width`` is cut to the states that look best; the least that a state which was cut off could have
come to bounds the optimum, beside what was found. With no cut the answer is exact. Addresses are left out: a plan has
them only if what lives at one time can be packed.

Two ways to ask: a narrow search for a better plan, and a wide one below the bound's next value, to which few states
lead; where it finds nothing, the bound rises.

The losers: a time-indexed model (:mod:`formulations.replacement.time_indexed`) repeats every decision for every step,
intervals (:mod:`formulations.replacement.intervals`) prove no bound where orders are many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.replacement.ahead import Ahead
from formulations.replacement.facts import members
from formulations.replacement.sets import Sets

HASH = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
"""Odd multipliers that spread sets over 64 bits."""

Masks = NDArray[np.uint64]
Ints = NDArray[np.int64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Walk:
    """An order (operators by number), what is evicted before each step (sets of tensors), and its traffic (bytes)."""

    order: tuple[int, ...]
    evicted: tuple[int, ...]
    extra_bytes: int


@dataclass(frozen=True)
class Found:
    """What a search came to: a walk, if there is one below the limit, and a proven bound (bytes).

    ``exact`` says that no state was cut off: then the bound is the optimum, or the limit where no walk is below it.
    """

    walk: Walk | None
    bound_bytes: int
    exact: bool
    widest: int


@dataclass
class _Wave:
    """States of one level, one per row; ``parent`` and ``operator`` say how each was reached."""

    at: Ints
    here: Masks
    away: Masks
    paid: Ints
    parent: Ints
    operator: Ints

    def take(self, rows: Rows) -> _Wave:
        """Some of the states."""
        return _Wave(
            self.at[rows], self.here[rows], self.away[rows], self.paid[rows], self.parent[rows], self.operator[rows]
        )

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True)
class _Trace:
    """What of a level the way back needs, in as little memory as that takes."""

    at: NDArray[np.int32]
    here: Masks
    parent: NDArray[np.int32]
    operator: NDArray[np.int32]

    @staticmethod
    def of(wave: _Wave) -> _Trace:
        """That of some states."""
        at, parent, operator = (column.astype(np.int32) for column in (wave.at, wave.parent, wave.operator))
        return _Trace(at, wave.here, parent, operator)


@dataclass
class _Waiting:
    """States before a step: the row each is from, bytes that are missing, and bytes of what may still be evicted."""

    rows: Rows
    here: Masks
    away: Masks
    paid: Ints
    excess: Ints
    left: Ints

    def take(self, rows: Rows) -> _Waiting:
        """Copies of some."""
        return _Waiting(
            self.rows[rows], self.here[rows], self.away[rows], self.paid[rows], self.excess[rows], self.left[rows]
        )

    @staticmethod
    def joined(parts: Sequence[_Waiting]) -> _Waiting:
        """All of them."""
        return _Waiting(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.here for part in parts]),
            np.concatenate([part.away for part in parts]),
            np.concatenate([part.paid for part in parts]),
            np.concatenate([part.excess for part in parts]),
            np.concatenate([part.left for part in parts]),
        )


def _tables(weights: Mapping[int, int]) -> list[tuple[int, Ints]]:
    """Sums of weights for all values of each 16 bits, with how far these are shifted."""
    found = []
    for shift in range(0, 64, 16):
        table = np.zeros(1 << 16, np.int64)
        values = np.arange(1 << 16)
        for bit, weight in weights.items():
            if shift <= bit < shift + 16:
                table += weight * (values >> (bit - shift) & 1)
        if table.any():
            found.append((shift, table))
    return found


def _looked_up(tables: Sequence[tuple[int, Ints]], masks: Masks) -> Ints:
    """Sum of weights of each set."""
    total = np.zeros(len(masks), np.int64)
    for shift, table in tables:
        total += table[((masks >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.intp)]
    return total


def _hashes(at: Ints, here: Masks, away: Masks) -> Masks:
    """A number for each state; different ones seldom have the same."""
    return np.asarray((at.astype(np.uint64) * HASH[0]) ^ (here * HASH[1]) ^ (away * HASH[2]))


def _best_of_each(wave: _Wave) -> _Wave:
    """Each state once, at its least (twice where others with the same hash stand between, which does no harm)."""
    order = np.lexsort((wave.paid, _hashes(wave.at, wave.here, wave.away)))
    wave = wave.take(order)
    fresh = np.ones(len(wave), bool)
    fresh[1:] = (wave.at[1:] != wave.at[:-1]) | (wave.here[1:] != wave.here[:-1]) | (wave.away[1:] != wave.away[:-1])
    return wave.take(np.flatnonzero(fresh))


class States:
    """The search over given sets of operators; what is live at the first of them lies in the scratchpad.

    Raises :class:`formulations.replacement.sets.TooWideError` where too many tensors are live at a time.
    """

    def __init__(self, sets: Sets, capacity_bytes: int) -> None:
        self.sets, self.facts, self.capacity = sets, sets.facts, capacity_bytes
        self._slot = sets.slots()
        self._ahead = Ahead(sets, capacity_bytes)
        self._tables: dict[int, list[tuple[int, Ints]]] = {}

    @property
    def root_bound_bytes(self) -> int:
        """What is ahead of the first state."""
        return int(self._least(0, self._root())[0])

    @property
    def grain_bytes(self) -> int:
        """What every traffic is a multiple of."""
        return self._ahead.grain

    def search(self, width: int, below: int | None = None, stop: Callable[[], bool] = lambda: False) -> Found:
        """Work through the levels, at most ``width`` states each, looking for a walk below so many bytes."""
        limit = np.iinfo(np.int64).max if below is None else below
        wave = self._root()
        traces = [_Trace.of(wave)]
        lost: int | None = None
        widest = 1
        for number in range(len(self.sets.levels) - 1):
            spread = self._spread(number, wave, limit, stop)
            if spread is None:
                return Found(None, 0, False, widest)
            wave = spread.take(np.flatnonzero(self._least(number + 1, spread) < limit))
            wave = self._undominated(number + 1, _best_of_each(wave))
            if len(wave) > width:
                least = self._least(number + 1, wave)
                ranked = np.lexsort((self._bytes(number + 1, wave.here), least))
                cut = int(least[ranked[width:]].min())
                lost = cut if lost is None else min(lost, cut)
                wave = wave.take(ranked[:width])
            widest = max(widest, len(wave))
            traces.append(_Trace.of(wave))
        best = int(np.argmin(wave.paid)) if len(wave) else None
        reached = below if best is None else int(wave.paid[best])
        bounds = [value for value in (reached, lost) if value is not None]
        walk = None if best is None or reached is None else self._walk(traces, best, reached)
        return Found(walk, min(bounds, default=0), lost is None, widest)

    # ---------------------------------------------------------------- one level

    def _root(self) -> _Wave:
        live = self.sets.levels[0].live[0]
        there = live & (self.facts.outside | self.facts.outputs)
        here = live & ~self.facts.outside if self.sets.start else 0
        zero = np.zeros(1, np.int64)
        first, second = (np.array([self._mask(tensors)], np.uint64) for tensors in (here, there))
        return _Wave(zero, first, second, zero, zero - 1, zero - 1)

    def _mask(self, tensors: int) -> np.uint64:
        return np.uint64(sum(1 << self._slot[t] for t in members(tensors)))

    def _rooms(self, number: int) -> dict[int, int]:
        """Room of what stands at each bit at a level and in the step after it."""
        level, found = self.sets.levels[number], {}
        seen = 0
        for live in level.live:
            seen |= live
        for steps in level.steps:
            for i, _ in steps:
                seen |= self.facts.touched_shared[i]
        for t in members(seen):
            found[self._slot[t]] = t
        return found

    def _bytes(self, number: int, masks: Masks) -> Ints:
        """Room of sets of tensors of a level."""
        if number not in self._tables:
            weights = {bit: self.facts.room[tensor] for bit, tensor in self._rooms(number).items()}
            self._tables = {number: _tables(weights)}
        return _looked_up(self._tables[number], masks)

    def _spread(self, number: int, wave: _Wave, limit: int, stop: Callable[[], bool]) -> _Wave | None:
        """All states one step on; ``None`` where it is to stop."""
        level, after = self.sets.levels[number], self.sets.levels[number + 1]
        still = np.array([self._mask(live) for live in after.live], np.uint64)
        following: dict[int, Ints] = {}
        for d, steps in enumerate(level.steps):
            for i, further in steps:
                following.setdefault(i, np.full(len(level.sets), -1, np.int64))[d] = further
        tensor_at = self._rooms(number)
        held = self._bytes(number, wave.here)
        parts = []
        for i, to in following.items():
            if stop():
                return None
            parts.append(self._run(wave, held, i, to, still, tensor_at, limit))
        return _Wave(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("at", "here", "away", "paid", "parent", "operator")
            )
        )

    def _run(
        self, wave: _Wave, held: Ints, i: int, to: Ints, still: Masks, tensor_at: dict[int, int], limit: int
    ) -> _Wave:
        """Run an operator in every state in which it is ready, evicting what must go in every way."""
        f = self.facts
        rows: Rows = np.flatnonzero(to[wave.at] >= 0)
        touched = self._mask(f.touched_shared[i])
        room = held[rows]
        for t in members(f.touched_shared[i]):
            bit = np.uint64(self._slot[t])
            room = room - ((wave.here[rows] >> bit) & np.uint64(1)).astype(np.int64) * f.room[t]
        excess = f.need[i] + room - self.capacity
        waiting = _Waiting(rows, wave.here[rows] & ~touched, wave.away[rows], wave.paid[rows], excess, room)
        done = self._evict(waiting, tensor_at, limit)
        at = to[wave.at[done.rows]]
        alive = still[at]
        made = self._mask(f.writes[i] & f.outputs & f.shared)
        return _Wave(
            at,
            (done.here | touched) & alive,
            (done.away | made) & alive,
            done.paid,
            done.rows.astype(np.int64),
            np.full(len(at), i, np.int64),
        )

    def _evict(self, waiting: _Waiting, tensor_at: dict[int, int], limit: int) -> _Waiting:
        """Every way to make the room that is missing, larger tensors first, so that the last one taken is needed."""
        done = []
        for bit, tensor in sorted(tensor_at.items(), key=lambda item: -self.facts.room[item[1]]):
            enough = waiting.excess <= 0
            done.append(waiting.take(np.flatnonzero(enough)))
            waiting = waiting.take(np.flatnonzero(~enough & (waiting.left >= waiting.excess)))
            flag, room, size = np.uint64(1 << bit), self.facts.room[tensor], self.facts.size[tensor]
            has = np.flatnonzero(waiting.here & flag)
            if not len(has):
                continue
            waiting.left[has] -= room
            gone = waiting.take(has)
            gone.paid += size * (1 + ((gone.away & flag) == 0).astype(np.int64))
            gone.here &= ~flag
            gone.away |= flag
            gone.excess -= room
            waiting = _Waiting.joined([waiting, gone.take(np.flatnonzero(gone.paid < limit))])
        done.append(waiting.take(np.flatnonzero(waiting.excess <= 0)))
        return _Waiting.joined(done)

    def _undominated(self, number: int, wave: _Wave) -> _Wave:
        """Without states that one which differs in a single tensor is as good as.

        The two are neighbours once the tensor is forgotten. States are sorted by a hash; where that is the same for
        different ones, a comparison is missed and nothing is lost.
        """
        for bit, tensor in self._rooms(number).items():
            flag, size = np.uint64(1 << bit), self.facts.size[tensor]
            here, away = wave.here & ~flag, wave.away & ~flag
            order = np.argsort(_hashes(wave.at, here, away), kind="stable")
            here, away, at, paid = here[order], away[order], wave.at[order], wave.paid[order]
            is_here, is_away = (wave.here[order] & flag) > 0, (wave.away[order] & flag) > 0
            out = np.zeros(len(order), bool)
            for apart in (1, 2):
                same = (at[apart:] == at[:-apart]) & (here[apart:] == here[:-apart]) & (away[apart:] == away[:-apart])
                pairs = np.flatnonzero(same)
                for one, other in ((pairs, pairs + apart), (pairs + apart, pairs)):
                    # what the first pays to be as poor as the second: evict the tensor, or write it back
                    evict = np.where(is_here[one] & ~is_here[other], np.where(is_away[one], size, 2 * size), 0)
                    write = np.where(is_here[one] & is_here[other] & is_away[other] & ~is_away[one], size, 0)
                    better = paid[one] + evict + write <= paid[other]
                    out[other[better & ~out[one]]] = True
            wave = wave.take(np.sort(order[~out]))
        return wave

    def _least(self, number: int, wave: _Wave) -> Ints:
        """Traffic so far with the least that is ahead (bytes)."""
        if not len(wave):
            return np.zeros(0, np.int64)
        f, ahead, level = self.facts, self._ahead, self.sets.levels[number]
        live = np.array([self._mask(tensors) for tensors in level.live], np.uint64)[wave.at]
        outputs = f.shared & f.outputs
        late = np.array([ahead.units_of(f, outputs & ~tensors) for tensors in level.live], np.int64)[wave.at]
        k = self._units(number, live & ~wave.here)
        fetches = ahead.fetches[number]
        units = fetches[wave.at, np.minimum(k, fetches.shape[1] - 1)]
        written = self._units(number, live & wave.away) + late
        units = units + np.maximum(0, ahead.peak[number][wave.at] - written)
        return wave.paid + ahead.least_bytes(units)

    def _units(self, number: int, masks: Masks) -> Ints:
        if self._ahead.coarse:
            return _looked_up(_tables(dict.fromkeys(self._rooms(number), 1)), masks)
        return self._bytes(number, masks) // self._ahead.unit

    # ---------------------------------------------------------------- the way back

    def _walk(self, traces: Sequence[_Trace], row: int, paid: int) -> Walk:
        order, evicted = [], []
        for number in range(len(traces) - 1, 0, -1):
            now, before = traces[number], traces[number - 1]
            parent, i = int(now.parent[row]), int(now.operator[row])
            live = self.sets.levels[number].live[int(now.at[row])]
            gone = 0
            for t in members(live & ~self.facts.touched_shared[i]):
                flag = 1 << self._slot[t]
                if int(before.here[parent]) & flag and not int(now.here[row]) & flag:
                    gone |= 1 << t
            order.append(i)
            evicted.append(gone)
            row = parent
        return Walk(tuple(reversed(order)), tuple(reversed(evicted)), paid)
