"""Dynamic programming over the operators in topological order: which kernels, in which way, what to prefetch.

A state is the set of operators already done; a label of it is (end of the last kernel, time at which the channel is
free), with the kernels so far. Kernels run one after the other; each may stream its sources in its phase or have them
moved before it starts, while the kernels before it still run. Of two labels of a state the one that is later in both
times is dropped, so that within these rules (one kernel at a time, moves in the order of the kernels) and up to
:data:`BEAM` the result is nearly the best there is: nearly, as a move waits until what was moved before leaves room for
it in L2. The decoder of the annealing then turns it into a schedule, with L2 and overlap as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from formulations.facts import Facts
from instances.instance import Instance
from instances.kernels import Candidate
from solvers.anneal import Annealer, State
from solvers.incumbent import Incumbent
from solvers.interface import Options, Result
from solvers.sequential import begin

BEAM = 256
"""Labels that are kept for each number of operators done."""

REACH = 12
"""How far behind the first operator not done kernels are looked for."""


def solve_dp(instance: Instance, options: Options) -> Result:
    """The schedule that follows from dynamic programming, or the greedy one where L2 does not hold it."""
    incumbent = begin(instance, options)
    plan_dynamically(incumbent)
    incumbent.prove_quickly()
    incumbent.prove_statically()
    return incumbent.finish("dp")


def plan_dynamically(incumbent: Incumbent) -> None:
    """Offer the schedule that dynamic programming finds, if L2 holds it.

    Where a large model repeats, the programme runs on a few blocks and is unrolled.
    """
    facts = incumbent.facts
    if incumbent.over:
        return
    periodic = incumbent.periodic
    state = best_state(facts if periodic is None else periodic.short)
    if state is None:
        return
    if periodic is not None:
        state = periodic.unroll(periodic.level(state))
    annealer = Annealer(facts, incumbent.options.seed)
    incumbent.offer(annealer.scheduled(state, incumbent.bounds), "dynamic programming")


@dataclass(frozen=True)
class _Step:
    """A kernel as the programme runs it, and the steps before."""

    end: int
    channel: int
    group: int = -1
    way: int = -1
    moved: tuple[str, ...] = ()
    moved_bytes: int = 0
    before: _Step | None = None

    def room_from(self, size: int, room: int) -> int:
        """When the next move can start: the channel is free, and what earlier kernels had moved leaves room (bytes)."""
        start, step, held = self.channel, self, []
        while step.before is not None and step.end > start:
            held.append((step.end, step.moved_bytes))
            step = step.before
        taken = sum(amount for _, amount in held)
        while taken + size > room and held:
            start, freed = held.pop()
            taken -= freed
        return start


def best_state(facts: Facts, chosen: Mapping[int, int] | None = None) -> State | None:
    """The state in which the programme's best label ends, if there is one.

    With ``chosen``, kernels are those alone, each in the implementation it maps to.
    """
    step = _Programme(facts, chosen).run()
    if step is None:
        return None
    state = State(frozenset(), {}, frozenset(), frozenset(), {})
    steps: list[_Step] = []
    while step is not None and step.group >= 0:
        steps.append(step)
        step = step.before
    rank = 0
    for one in reversed(steps):
        for t in one.moved:
            state.priority["prefetch", t] = float(rank := rank + 1)
        state.moved |= set(one.moved)
        state.way[one.group] = one.way
        state.priority["kernel", one.group] = float(rank := rank + 1)
    state.groups = frozenset(state.way)
    return state


class _Programme:
    """Labels by state, from no operator done to all."""

    def __init__(self, facts: Facts, chosen: Mapping[int, int] | None) -> None:
        self._facts = facts
        self._ways = [
            [(i, way.cost) for i, way in enumerate(facts.instance.implementations(candidate))]
            if chosen is None
            else [(chosen[g], facts.instance.implementations(candidate)[chosen[g]].cost)]
            if g in chosen
            else []
            for g, candidate in enumerate(facts.instance.candidates)
        ]
        candidates, order = facts.instance.candidates, facts.order
        self._members = [sum(1 << order[name] for name in candidate.operators) for candidate in candidates]
        above = dict.fromkeys(order, 0)
        for edge in facts.edges:
            above[edge.consumer] |= 1 << order[edge.producer]
        self._needs = [
            self._union(above[name] for name in candidate.operators) & ~members
            for candidate, members in zip(candidates, self._members, strict=True)
        ]
        made = facts.graph.producer
        self._sources = [tuple(t for t in candidate.reads if t not in made) for candidate in candidates]
        self._written = [
            sum(facts.write_ns(t) for t in candidate.writes if facts.is_output(t)) for candidate in candidates
        ]
        self._names = list(order)
        self._movable = [
            sorted(
                (
                    t
                    for t in sources
                    if t in facts.prefetchable and set(facts.graph.consumers[t]) <= set(candidate.operators)
                ),
                key=lambda t: -facts.l2_size[t],
            )
            for sources, candidate in zip(self._sources, candidates, strict=True)
        ]
        self._room = facts.l2_capacity - max(self._made_bytes(candidate) for candidate in candidates)

    @staticmethod
    def _union(masks: Iterator[int]) -> int:
        union = 0
        for mask in masks:
            union |= mask
        return union

    def _made_bytes(self, candidate: Candidate) -> int:
        """Bytes in L2 besides what is moved, while a kernel runs: made tensors and its largest workspace."""
        facts = self._facts
        made = [t for t in (*candidate.reads, *candidate.writes) if t in facts.graph.producer]
        ways = facts.instance.implementations(candidate)
        return sum(facts.l2_size[t] for t in made) + max(way.cost.workspace_bytes for way in ways)

    def run(self) -> _Step | None:
        """The label that ends first with all operators done; ``None`` where none gets there."""
        count = len(self._facts.order)
        levels: list[dict[int, list[_Step]]] = [{} for _ in range(count + 1)]
        levels[0][0] = [_Step(0, 0)]
        for done, level in enumerate(levels[:-1]):
            for state, labels in self._kept(level):
                for g in self._open(state):
                    size = self._members[g].bit_count()
                    target = levels[done + size].setdefault(state | self._members[g], [])
                    for label in labels:
                        for step in self._steps(label, g):
                            _insert(target, step)
        complete = levels[count].get((1 << count) - 1, [])
        return min(complete, key=lambda label: (max(label.end, label.channel), label.end), default=None)

    def _kept(self, level: dict[int, list[_Step]]) -> list[tuple[int, list[_Step]]]:
        """The states of one level with the labels that end first, at most :data:`BEAM` labels in all."""
        every = sorted((label.end, n, i) for n, labels in enumerate(level.values()) for i, label in enumerate(labels))
        states = list(level)
        kept: dict[int, list[_Step]] = {}
        for _, n, i in every[:BEAM]:
            kept.setdefault(states[n], []).append(level[states[n]][i])
        return list(kept.items())

    def _open(self, state: int) -> Iterator[int]:
        """Candidates that could run next: not begun, everything they need done, one of them around the first gap."""
        first = (~state & (state + 1)).bit_length() - 1
        names = self._names
        seen = set()
        for name in names[first : first + REACH]:
            for g in self._facts.instance.candidates_of[name]:
                if (
                    self._ways[g]
                    and g not in seen
                    and not self._members[g] & state
                    and self._needs[g] & state == self._needs[g]
                ):
                    seen.add(g)
                    yield g

    def _steps(self, label: _Step, g: int) -> Iterator[_Step]:
        """A kernel after a label, in each way; of the sources it alone reads none, the largest or all are moved."""
        facts = self._facts
        candidate = facts.instance.candidates[g]
        movable = self._movable[g]
        for moved in dict.fromkeys(tuple(movable[:n]) for n in (0, 1, len(movable))):
            arrived, size = label.channel, sum(facts.l2_size[t] for t in moved)
            if moved and size > self._room:
                continue
            if moved:
                arrived = label.room_from(size, self._room) + sum(facts.move_ns(t) for t in moved)
            streamed = [t for t in self._sources[g] if t not in moved]
            phase = sum(facts.read_ns(candidate, t) for t in streamed) + self._written[g]
            for i, cost in self._ways[g]:
                start = max(label.end, arrived) if moved else label.end
                drawn = sum(facts.miss_ns(cost, facts.read_bytes(candidate, t)) for t in streamed)
                body = start + cost.head_ns
                done, channel = body + max(cost.busy_ns, drawn), arrived
                if phase:
                    channel = max(body, arrived) + phase
                    done = max(done, channel)
                yield _Step(done + cost.tail_ns, channel, g, i, moved, size, label)


def _insert(labels: list[_Step], new: _Step) -> None:
    """Add a label unless another is as early in both times; drop those that it makes superfluous."""
    if any(old.end <= new.end and old.channel <= new.channel for old in labels):
        return
    labels[:] = [old for old in labels if old.end < new.end or old.channel < new.channel]
    labels.append(new)
