"""What practice does: an order, best-fit addresses, and a rule for who has to go.

``belady`` evicts what is used furthest ahead, ``lru`` what was not used for longest; both run the program's order.
``greedy`` runs the operators in a greedy order by memory, ``order-first`` in one of least peak; both evict as
``belady``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from formulations.replacement.facts import Facts, members
from formulations.replacement.orders import greedy_order, least_peak
from formulations.replacement.plan import Lying, written_plan
from instances.replacement import Plan


@dataclass
class _Here:
    """A tensor in the scratchpad: where, since when, used last when, and whether it was fetched."""

    offset: int
    first: int
    last: int
    fetched: bool


class _Scratchpad:
    """One run of a policy."""

    def __init__(self, facts: Facts, order: Sequence[int], rank: Callable[[int, int], int]) -> None:
        self._facts, self._order, self._rank = facts, order, rank
        self._here: dict[int, _Here] = {}
        self._found: list[tuple[Lying, int]] = []

    def run(self, solver: str) -> Plan:
        """All operators; what is dead leaves at once."""
        f = self._facts
        done = 0
        for step, i in enumerate(self._order):
            self._bring(step, i)
            done |= 1 << i
            for t in list(self._here):
                if not f.readers[t] & ~done:
                    self._leave(t, step + 1)
        found = sorted(self._found, key=lambda item: (item[0].first, item[0].tensor))
        return written_plan(f, self._order, [one for one, _ in found], [at for _, at in found], solver)

    def _bring(self, step: int, i: int) -> None:
        f = self._facts
        wanted = sorted(members(f.touched[i]), key=lambda t: (not f.shared >> t & 1, -f.room[t]))
        while True:
            missing = [t for t in wanted if t not in self._here]
            blocked = next((t for t in missing if not self._place(t, step, i)), None)
            if blocked is None:
                break
            victims = [t for t in self._here if not f.touched[i] >> t & 1]
            if victims:
                self._leave(max(victims, key=lambda t: (self._rank(t, step), f.room[t], t)), step)
                continue
            for t in list(self._here):  # nothing but operands, and they lie badly: all out, and in again side by side
                self._leave(t, step)
        for t in wanted:
            self._here[t].last = step

    def _place(self, t: int, step: int, i: int) -> bool:
        """Put a tensor into the smallest hole that holds it; false where there is none.

        What lives for one step lies at the upper end of its hole, so that it does not cut the rest in two.
        """
        f = self._facts
        holes, at = [], 0
        for offset, room in sorted((one.offset, f.room[other]) for other, one in self._here.items()):
            holes.append((offset - at, at))
            at = offset + room
        holes.append((f.problem.capacity_bytes - at, at))
        fitting = [hole for hole in holes if hole[0] >= f.room[t]]
        if not fitting:
            return False
        made_now = bool(f.writes[i] >> t & 1)
        hole, low = min(fitting)
        offset = low if f.shared >> t & 1 else low + hole - f.room[t]
        self._here[t] = _Here(offset // f.problem.unit_bytes * f.problem.unit_bytes, step, step, not made_now)
        return True

    def _leave(self, t: int, step: int) -> None:
        one = self._here.pop(t)
        if one.first < step:  # what was brought in for this very step has not been used yet
            self._found.append((Lying(t, one.first, one.last, one.fetched), one.offset))


def _steps(order: Sequence[int], sets: Sequence[int]) -> dict[int, list[int]]:
    """The steps at which each tensor is in the set of the operator that runs."""
    found: dict[int, list[int]] = {}
    for step, i in enumerate(order):
        for t in members(sets[i]):
            found.setdefault(t, []).append(step)
    return found


def _furthest(facts: Facts, order: Sequence[int]) -> Callable[[int, int], int]:
    """Rank by the next step that reads a tensor."""
    steps = _steps(order, facts.reads)
    return lambda t, now: next((step for step in steps.get(t, ()) if step >= now), len(order))


def _longest_unused(facts: Facts, order: Sequence[int]) -> Callable[[int, int], int]:
    """Rank by the time since a tensor was touched."""
    steps = _steps(order, facts.touched)
    return lambda t, now: now - max((step for step in steps[t] if step < now), default=-1)


def _by_memory(facts: Facts) -> list[int]:
    found = least_peak(facts)
    return greedy_order(facts) if found is None else found[1]


def roomy_traffic(facts: Facts) -> int:
    """Extra traffic (bytes) of the program's order and Belady's rule where a tensor may lie in pieces: no plan."""
    order = range(facts.count)
    rank = _furthest(facts, order)
    here = away = total = done = 0
    for step in order:
        touched = facts.touched[step]
        total += sum(facts.size[t] for t in members(facts.reads[step] & ~here))
        others = here & ~touched
        while facts.need[step] + facts.bytes_of(others) > facts.problem.capacity_bytes:
            victim = max(members(others), key=lambda t: (rank(t, step), facts.room[t]))
            others &= ~(1 << victim)
            if not (away | facts.outside | facts.outputs) >> victim & 1:
                total += facts.size[victim]
            away |= 1 << victim
        done |= 1 << step
        here = sum(1 << t for t in members(others | touched) if facts.readers[t] & ~done)
    return total - facts.bytes_moved_in


POLICIES = ("belady", "lru", "greedy", "order-first")


def run_policy(facts: Facts, name: str) -> Plan:
    """The plan of a policy, one of :data:`POLICIES`, without a bound."""
    order = list(range(facts.count))
    if name == "greedy":
        order = greedy_order(facts)
    elif name == "order-first":
        order = _by_memory(facts)
    rank = _longest_unused(facts, order) if name == "lru" else _furthest(facts, order)
    return _Scratchpad(facts, order, rank).run(name)
