"""Modulo scheduling of a kernel's loop: order on every pipe, slots of every ring and initiation interval, together.

Sets: operations ``i`` with pipes and other resources ``r`` that they hold for ``h[i, r]``; dependences ``(i, j)`` with
latency ``l`` and distance ``w`` (iterations); rings ``b`` with slots of ``size[b]`` bytes in memory ``m(b)``. Times
in picoseconds.

Variables: the interval ``II``; ``s[i]``, start of operation ``i`` in iteration 0, which settles its stage
``s[i] div II``; ``q[i, j, k]``, for two operations on one resource, that ``j`` follows ``i`` with ``k`` whole intervals
between, around the interval; ``x[b, n]``, that ring ``b`` has ``n`` slots.

Two forms of this model were tried on the loops of llama-3-8b (one layer, both phases, both generations) that list
scheduling left above the bound. The other one fixes II, takes ``s[i] = II k[i] + t[i]`` and puts each operation twice,
an interval apart, into one no-overlap constraint per resource; the least II is then bisected, which is sound because a
schedule at II can be stretched to every longer one. It lost: in 3 s a loop and on one worker it closed 6 of 12 loops,
this form 8, and with the linear relaxation of the conditional constraints (``linearization_level = 2``) 12 of 12, loops
of three operations in 0.01 s. Bounds that are propagated around a cycle of the loop grow by its slack at each turn, one
of millions of picoseconds at a time; the relaxation sees the whole cycle at once, and sees it only where II is a
variable.

Redundant: ``II >= MII`` (``formulations.modulo_facts.least_interval``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from ortools.sat.python import cp_model

from formulations.modulo_facts import Bound, ring_bytes, span_ps
from instances.pipelines.loop import LoopKernel

MOST_STAGES = 6
"""Iterations in flight that the model allows; the bound covers schedules with no more."""


@dataclass(frozen=True)
class Modulo:
    """A modulo schedule: interval, starts (ps), slots of each ring, and lead."""

    ii_ps: int
    start_ps: tuple[int, ...]
    slots: dict[str, int]
    lead: int = 0

    def rank(self, loop: LoopKernel) -> tuple[int, int, int]:
        """What is to be small, in this order: interval, span, bytes of rings."""
        ii = self.ii_ps if loop.cyclic else 0
        return ii, span_ps(loop, self.start_ps), ring_bytes(loop, self.slots)


class ModuloModel:
    """The model at one lead, with the interval as a variable.

    Parameters
    ----------
    loop
        The loop; of one that is not cyclic, the interval is the serial length and the span is what counts.
    at_least
        Proven lower bound of the interval.
    known
        A schedule to be beaten; it bounds the interval and the horizon, and is the hint.
    """

    def __init__(self, loop: LoopKernel, at_least: Bound, known: Modulo) -> None:
        self.loop, self.lead = loop, known.lead
        self.model = cp_model.CpModel()
        longest = known.ii_ps
        stages = min(MOST_STAGES, max(2, -(-span_ps(loop, known.start_ps) // longest) + 1)) if loop.cyclic else 1
        self.horizon = stages * longest
        self._stages = stages
        self.ii = self.model.new_int_var(at_least.ps if loop.cyclic else longest, longest, "II")
        self.start = [self.model.new_int_var(0, self.horizon, f"s{i}") for i in range(len(loop.ops))]
        self.span = self.model.new_int_var(0, 2 * self.horizon, "span")
        self.has: dict[tuple[str, int], cp_model.IntVar] = {
            (ring.key, n): self.model.new_bool_var(f"x[{ring.key},{n}]")
            for ring in loop.rings
            for n in range(1, ring.most + 1)
        }
        self._orders: list[tuple[int, int, int, cp_model.IntVar]] = []
        self._add_dependences()
        self._add_rings()
        self._add_capacities()
        self._add_resources()
        self._add_span()
        self._hint(known)

    def _add_dependences(self) -> None:
        r"""``s[j] + w II >= s[i] + l`` for each dependence."""
        for d in self.loop.dependences:
            if self.loop.cyclic or not d.distance:
                self.model.add(self.start[d.target] + d.distance * self.ii >= self.start[d.source] + d.latency_ps)

    def _add_rings(self) -> None:
        r"""``x[b, n] => s[fill] + w II >= s[reader] + d[reader]`` for uses and the fill ``n`` after each; one ``n``.

        This is the lifetime counted modulo the interval: with ``n`` slots a content lives for ``n II`` at most.
        """
        for ring in self.loop.rings:
            self.model.add_exactly_one(self.has[ring.key, n] for n in range(1, ring.most + 1))
            for n in range(1, ring.most + 1):
                for reader, fill, latency, distance in self.loop.ring_arcs(ring, n, self.lead):
                    if self.loop.cyclic or not distance:
                        self.model.add(
                            self.start[fill] + distance * self.ii >= self.start[reader] + latency
                        ).only_enforce_if(self.has[ring.key, n])

    def _add_capacities(self) -> None:
        r"""``sum over rings b in m of size[b] n x[b, n] <= room[m]`` less what is held."""
        for memory, room in self.loop.room_bytes.items():
            held = self.loop.used_bytes(memory, {ring.key: 0 for ring in self.loop.rings})
            taken = [
                ring.size_bytes * n * self.has[ring.key, n]
                for ring in self.loop.rings
                if ring.memory is memory
                for n in range(1, ring.most + 1)
            ]
            if taken:
                self.model.add(sum(taken) <= room - held)

    def _add_resources(self) -> None:
        r"""For ``i, j`` on ``r``, one ``k`` with ``h[i, r] + k II <= s[j] - s[i] <= (k + 1) II - h[j, r]``.

        Pairs that dependences already keep in turn, around the interval, need none.
        """
        ordered = _Turns(self.loop)
        shared: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for users in self.loop.resources.values():
            for (i, mine), (j, theirs) in combinations(users, 2):
                shared.setdefault((i, j), []).append((mine, theirs))
        for (i, j), held in shared.items():
            # where they share several resources, one order and one distance holds for all: each is within an interval
            before, after = ordered.around(i, j), ordered.around(j, i)
            if before or after:
                continue
            choices = []
            for k in range(-self._stages if self.loop.cyclic else -1, self._stages if self.loop.cyclic else 1):
                if (k < 0 and ordered.within(i, j)) or (k >= 0 and ordered.within(j, i)):
                    continue
                choice = self.model.new_bool_var(f"q[{i},{j},{k}]")
                gap = self.start[j] - self.start[i]
                mine, theirs = max(one for one, _ in held), max(other for _, other in held)
                if self.loop.cyclic:
                    self.model.add(gap >= mine + k * self.ii).only_enforce_if(choice)
                    self.model.add(gap <= (k + 1) * self.ii - theirs).only_enforce_if(choice)
                elif k == 0:
                    self.model.add(gap >= mine).only_enforce_if(choice)
                else:
                    self.model.add(gap <= -theirs).only_enforce_if(choice)
                choices.append(choice)
                self._orders.append((i, j, k, choice))
            self.model.add_exactly_one(choices)

    def _add_span(self) -> None:
        r"""``span >= s[i] + d[i]``."""
        for start, op in zip(self.start, self.loop.ops, strict=True):
            self.model.add(self.span >= start + op.busy_ps)

    def _hint(self, known: Modulo) -> None:
        """The known schedule, all variables of it."""
        self.model.add_hint(self.ii, known.ii_ps)
        self.model.add_hint(self.span, span_ps(self.loop, known.start_ps))
        for variable, value in zip(self.start, known.start_ps, strict=True):
            self.model.add_hint(variable, value)
        for (key, n), chosen in self.has.items():
            self.model.add_hint(chosen, known.slots[key] == n)
        for i, j, k, choice in self._orders:
            gap = known.start_ps[j] - known.start_ps[i]
            self.model.add_hint(choice, (gap // known.ii_ps if self.loop.cyclic else (0 if gap >= 0 else -1)) == k)

    def least_interval(self) -> None:
        """Ask for the least interval (of one iteration: the least span)."""
        self.model.minimize(self.ii if self.loop.cyclic else self.span)

    def shortest_span(self, ii_ps: int) -> None:
        """Ask for the shortest span at an interval."""
        self.model.add(self.ii <= ii_ps)
        self.model.minimize(self.span)

    def fewest_bytes(self, ii_ps: int, span: int) -> None:
        """Ask for the fewest bytes of rings at an interval and a span."""
        self.model.add(self.ii <= ii_ps)
        self.model.add(self.span <= span)
        self.model.minimize(
            sum(r.size_bytes * n * self.has[r.key, n] for r in self.loop.rings for n in range(1, r.most + 1))
        )

    def read(self, solver: cp_model.CpSolver) -> Modulo:
        """The schedule of a solution."""
        first = min(solver.value(start) for start in self.start)
        return Modulo(
            ii_ps=solver.value(self.ii),
            start_ps=tuple(solver.value(start) - first for start in self.start),
            slots={key: n for (key, n), chosen in self.has.items() if solver.boolean_value(chosen)},
            lead=self.lead,
        )


class _Turns:
    """Which operations dependences keep in order: within an iteration, and around the interval."""

    def __init__(self, loop: LoopKernel) -> None:
        count = len(loop.ops)
        self._after = [1 << i for i in range(count)]
        strong = [d for d in loop.dependences if d.latency_ps >= loop.ops[d.source].busy_ps]
        out: list[list[int]] = [[] for _ in range(count)]
        for d in strong:
            if not d.distance:
                out[d.source].append(d.target)
        for _ in range(count):
            changed = False
            for i in reversed(range(count)):
                reached = self._after[i]
                for j in out[i]:
                    reached |= self._after[j]
                changed = changed or reached != self._after[i]
                self._after[i] = reached
            if not changed:
                break
        self._next = [0] * count  # reached in the following iteration
        self._cyclic = loop.cyclic
        for d in strong:
            if d.distance == 1:
                for i in range(count):
                    if self._after[i] >> d.source & 1:
                        self._next[i] |= self._after[d.target]

    def within(self, i: int, j: int) -> bool:
        """Whether ``j`` comes after the end of ``i`` in one iteration."""
        return bool(self._after[i] >> j & 1)

    def around(self, i: int, j: int) -> bool:
        """Whether besides the next ``i`` comes after the end of ``j``."""
        return self.within(i, j) and (not self._cyclic or bool(self._next[j] >> i & 1))


def pairs_to_order(loop: LoopKernel) -> int:
    """Pairs of operations whose order the model has to decide: what its size depends on."""
    turns = _Turns(loop)
    found = {
        (i, j)
        for users in loop.resources.values()
        for (i, _), (j, _) in combinations(users, 2)
        if not turns.around(i, j) and not turns.around(j, i)
    }
    return len(found)
