"""Static relaxation of the joint model, as a mixed-integer programme through PuLP and HiGHS.

Times are left out; what remains is the choice of kernels and where each tensor comes from, bounded by what every
schedule must spend:

* ``cube_work``: least core-time of the kernels on cube cores, over all cube cores;
* ``vector_work``, ``l2_work``: the same for vector cores and for the L2 rate;
* ``critical_path``: least durations of the kernels along every path;
* ``relaxation``: all of these and the HBM channel at once, so that streaming (which lengthens kernels) and
  prefetching (which occupies the channel) are weighed against each other, before and after every operator, with
  the work on each shared resource between any two operators.

The choices are binary. With choices left continuous the bound is weaker (on one decode layer of Llama-3-8B 599 us
against 603 us, both in well under a second): half a kernel streaming half a weight avoids gaps that no schedule can.
With a ``horizon_ns`` (the latency of a known schedule) the order of branches enters by constraints with that constant:
who is last on the channel before a join, which of two kernels on different branches goes first, which prefetches
cannot share L2. These close most of what is left; the bound then holds for all schedules no longer than the horizon,
and so for the best.

What counts is the solver's dual bound, so that a programme cut short by its time limit still proves something. A
margin of one part in a million and one ns is taken off for floating-point tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import highspy
import pulp

from formulations.facts import Facts

INTERRUPTS = (
    highspy.cb.HighsCallbackType.kCallbackMipInterrupt,
    highspy.cb.HighsCallbackType.kCallbackSimplexInterrupt,
)

SINGLE_ARGUMENTS = ("cube_work", "vector_work", "l2_work", "critical_path")
ARGUMENTS = (*SINGLE_ARGUMENTS, "relaxation")

SHARED = {"cube_work": "aic", "vector_work": "aiv", "l2_work": "l2_permille"}
"""Arguments about a shared resource, and the field of the tiling that says how much of it a kernel holds."""


def _interrupting(stopped: Callable[[], bool]) -> Callable[..., None]:
    """A callback of HiGHS that ends its search where ``stopped`` says so."""

    def ask(kind: object, message: object, out: object, into: Any, mine: object) -> None:
        if into is not None and stopped():
            into.user_interrupt = True

    return ask


@dataclass(frozen=True)
class Relaxed:
    """What a programme proves and would choose.

    ``bound_ns`` is ``None`` where nothing was proven in time; ``chosen`` maps candidates to implementations and is
    empty where no solution was found; ``start_ns`` is each operator's.
    """

    bound_ns: int | None
    chosen: dict[int, int] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    start_ns: dict[str, float] = field(default_factory=dict)


class Relaxation:
    """The programmes of one instance."""

    def __init__(self, facts: Facts, horizon_ns: int | None = None) -> None:
        self.facts = facts
        self.horizon_ns = horizon_ns
        self.instance = facts.instance

    def bound(self, argument: str, time_limit_s: float = 20.0) -> int | None:
        """Lower bound of the latency (ns) by one of :data:`ARGUMENTS`; ``None`` where nothing was proven in time."""
        return self.solve(argument, time_limit_s).bound_ns

    def solve(self, argument: str, time_limit_s: float, stopped: Callable[[], bool] | None = None) -> Relaxed:
        """The bound by one of :data:`ARGUMENTS`, and what the programme would choose; HiGHS ends where ``stopped``."""
        problem = pulp.LpProblem("relaxation", pulp.LpMinimize)
        latency = problem.add_variable("C", lowBound=0)
        problem += latency
        x = self._cover(problem)
        moved: dict[str, pulp.LpVariable] = {}
        start: dict[str, pulp.LpVariable] = {}
        if argument in SHARED:
            work = self._work(x, SHARED[argument])
            problem += pulp.lpSum(work) <= latency
        if argument == "critical_path":
            start, _ = self._precedence(problem, latency, self._least(x))
        if argument == "relaxation":
            start, moved = self._channel(problem, latency, x)
        # presolve stays off: that of HiGHS 1.14.0 cuts off optima (its issues 3043, 3073, 3094); here it saves nothing
        solver = pulp.HiGHS(
            msg=False,
            timeLimit=max(0.1, time_limit_s),
            threads=1,
            gapRel=0.0,
            presolve="off",
            callbackTuple=None if stopped is None else (_interrupting(stopped), None),
            callbacksToActivate=None if stopped is None else list(INTERRUPTS),
        )
        problem.solve(solver)
        proven = float(problem.solverModel.getInfo().mip_dual_bound)
        bound = max(0, math.ceil(proven * (1 - 1e-6) - 1)) if math.isfinite(proven) else None
        if any(variable.value() is None for variable in x.values()):
            return Relaxed(bound)
        return Relaxed(
            bound,
            {g: i for (g, i), variable in x.items() if variable.value() > 0.5},
            frozenset(t for t, variable in moved.items() if variable.value() > 0.5),
            {name: variable.value() for name, variable in start.items()},
        )

    def _cover(self, problem: pulp.LpProblem) -> dict[tuple[int, int], pulp.LpVariable]:
        """x[g,i] binary, with every operator covered once."""
        x = {
            (g, i): problem.add_variable(f"x_{g}_{i}", cat=pulp.LpBinary)
            for g, candidate in enumerate(self.instance.candidates)
            for i in range(len(self.instance.implementations(candidate)))
        }
        for holders in self.instance.candidates_of.values():
            held = [
                x[g, i] for g in holders for i in range(len(self.instance.implementations(self.instance.candidates[g])))
            ]
            problem += pulp.lpSum(held) == 1
        return x

    def _work(self, x: dict[tuple[int, int], pulp.LpVariable], label: str) -> list[pulp.LpAffineExpression]:
        """Per candidate: least duration times the share of the resource it holds."""
        capacity = self._capacity(label)
        return [
            pulp.lpSum(
                x[g, i] * (getattr(way.tiling, label) * way.cost.least_ns / capacity)
                for i, way in enumerate(self.instance.implementations(candidate))
            )
            for g, candidate in enumerate(self.instance.candidates)
        ]

    def _held(self, by_way: Sequence[Sequence[pulp.LpVariable]], label: str) -> list[pulp.LpAffineExpression]:
        """Per candidate: actual duration times the share of the resource it holds."""
        capacity = self._capacity(label)
        return [
            pulp.lpSum(
                duration * (getattr(way.tiling, label) / capacity)
                for duration, way in zip(parts, self.instance.implementations(candidate), strict=True)
            )
            for parts, candidate in zip(by_way, self.instance.candidates, strict=True)
        ]

    def _capacity(self, label: str) -> int:
        machine = self.instance.machine
        return {"aic": machine.aic_count, "aiv": machine.aiv_count, "l2_permille": 1000}[label]

    def _least(self, x: dict[tuple[int, int], pulp.LpVariable]) -> list[pulp.LpAffineExpression]:
        """Least duration of each candidate, everything in L2."""
        return [
            pulp.lpSum(x[g, i] * way.cost.least_ns for i, way in enumerate(self.instance.implementations(candidate)))
            for g, candidate in enumerate(self.instance.candidates)
        ]

    def _precedence(
        self,
        problem: pulp.LpProblem,
        latency: pulp.LpVariable,
        durations: Sequence[pulp.LpVariable | pulp.LpAffineExpression],
    ) -> tuple[dict[str, pulp.LpVariable], dict[str, pulp.LpAffineExpression]]:
        """S[c] >= S[p] + sum of d[g] over g that hold p and not c; E[o] = S[o] + sum of d[g] over g that hold o."""
        facts = self.facts
        start = {name: problem.add_variable(f"S_{n}", lowBound=0) for name, n in facts.order.items()}
        holders = {name: set(groups) for name, groups in self.instance.candidates_of.items()}
        for p, c in dict.fromkeys((edge.producer, edge.consumer) for edge in facts.edges):
            leaving = pulp.lpSum(durations[g] for g in sorted(holders[p] - holders[c]))
            problem += start[c] >= start[p] + leaving
        end = {name: start[name] + pulp.lpSum(durations[g] for g in sorted(holders[name])) for name in facts.order}
        for expression in end.values():
            problem += expression <= latency
        return start, end

    def _channel(
        self, problem: pulp.LpProblem, latency: pulp.LpVariable, x: dict[tuple[int, int], pulp.LpVariable]
    ) -> tuple[dict[str, pulp.LpVariable], dict[str, pulp.LpVariable]]:
        """Streams lengthen kernels, moves precede their readers, and all share the channel; starts, and what is moved.

        Each source is streamed by the kernel of each of its readers or moved; outputs are written in a phase or
        moved. Before and after each operator the channel must have time for what belongs there.
        """
        facts = self.facts
        streams: dict[tuple[int, str], pulp.LpVariable] = {}
        far: dict[tuple[int, str], pulp.LpVariable] = {}
        moved = {
            t: problem.add_variable(f"moved_{n}", cat=pulp.LpBinary) for n, t in enumerate(sorted(facts.prefetchable))
        }
        phases: list[pulp.LpAffineExpression] = []
        durations: list[pulp.LpAffineExpression] = []
        by_way: list[list[pulp.LpVariable]] = []
        for g, candidate in enumerate(self.instance.candidates):
            ways = self.instance.implementations(candidate)
            y = pulp.lpSum(x[g, i] for i in range(len(ways)))
            phase = []
            for n, t in enumerate(candidate.reads):
                if t in facts.graph.producer:
                    continue
                if t not in moved:
                    phase.append(y * facts.read_ns(candidate, t))
                    continue
                streamed = streams[g, t] = problem.add_variable(f"stream_{g}_{n}", cat=pulp.LpBinary)
                brought = far[g, t] = problem.add_variable(f"far_{g}_{n}", cat=pulp.LpBinary)
                problem += streamed + brought == y
                phase.append(streamed * facts.read_ns(candidate, t))
            phases.append(pulp.lpSum(phase))
            around = pulp.lpSum(x[g, i] * (way.cost.head_ns + way.cost.tail_ns) for i, way in enumerate(ways))
            parts = [problem.add_variable(f"d_{g}_{i}", lowBound=0) for i in range(len(ways))]
            for i, way in enumerate(ways):
                problem += parts[i] >= x[g, i] * way.cost.least_ns
                problem += parts[i] <= x[g, i] * (self.horizon_ns or facts.serial_ns)
            by_way.append(parts)
            duration = pulp.lpSum(parts)
            problem += duration >= around + phases[g]
            self._port_limit(problem, x, streams, g, duration)
            durations.append(duration)
        for t, variable in moved.items():
            for reader in facts.graph.consumers[t]:
                readers = [far[g, t] for g in self.instance.candidates_of[reader] if (g, t) in far]
                problem += pulp.lpSum(readers) <= variable
        written = sum(facts.write_ns(t) for t in facts.made if facts.is_output(t))
        moves = pulp.lpSum(variable * facts.move_ns(t) for t, variable in moved.items())
        problem += pulp.lpSum(phases) + moves + written <= latency
        start, end = self._precedence(problem, latency, durations)
        for name, (before, after) in facts.cuts.items():
            brought_before = pulp.lpSum(
                far[g, t] * facts.move_ns(t) for t, groups in facts.moves_before(name, before).items() for g in groups
            )
            problem += pulp.lpSum(phases[g] for g in before) + brought_before <= start[name]
            if after:
                problem += end[name] + pulp.lpSum(phases[g] for g in after) <= latency
        if self.horizon_ns is not None:
            for one, reader, other, second in facts.crowded:
                slack = self.horizon_ns * (2 - moved[one] - moved[other])
                problem += start[second] >= end[reader] + facts.move_ns(other) - slack
            self._no_overlap(problem, x, start, end)
            self._last_on_channel(problem, x, streams, far, phases, start, end)
        held = [self._held(by_way, label) for label in SHARED.values()]
        for work in (phases, *held):
            for u, v, between in facts.spans:
                until = latency if v is None else start[v]
                since = 0 if u is None else start[u]
                holders = facts.instance.candidates_of
                of_u = [] if u is None else [durations[g] for g in holders[u] if v is None or g not in holders[v]]
                problem += pulp.lpSum(work[g] for g in between) + pulp.lpSum(of_u) + since <= until
        return start, moved

    def _no_overlap(
        self,
        problem: pulp.LpProblem,
        x: dict[tuple[int, int], pulp.LpVariable],
        start: dict[str, pulp.LpVariable],
        end: dict[str, pulp.LpAffineExpression],
    ) -> None:
        """Of two operators on different branches, one kernel ends before the other starts, or both fit side by side.

        Demands on each shared resource add up to at most its capacity, unless an order is chosen or one kernel holds
        both.
        """
        horizon = self.horizon_ns
        assert horizon is not None
        holders = self.facts.instance.candidates_of
        for n, (one, other) in enumerate(self.facts.parallel):
            first = problem.add_variable(f"first_{n}", cat=pulp.LpBinary)
            second = problem.add_variable(f"second_{n}", cat=pulp.LpBinary)
            both = [
                x[g, i]
                for g in set(holders[one]) & set(holders[other])
                for i in range(len(self.instance.implementations(self.instance.candidates[g])))
            ]
            problem += start[other] >= end[one] - horizon * (1 - first)
            problem += start[one] >= end[other] - horizon * (1 - second)
            for label in SHARED.values():
                capacity = self._capacity(label)
                demand = [
                    x[g, i] * (getattr(way.tiling, label) / capacity)
                    for name in (one, other)
                    for g in holders[name]
                    for i, way in enumerate(self.instance.implementations(self.instance.candidates[g]))
                ]
                problem += pulp.lpSum(demand) <= 1 + first + second + pulp.lpSum(both)

    def _port_limit(
        self,
        problem: pulp.LpProblem,
        x: dict[tuple[int, int], pulp.LpVariable],
        streams: dict[tuple[int, str], pulp.LpVariable],
        g: int,
        duration: pulp.LpAffineExpression,
    ) -> None:
        """On few cores a stream takes as long as their ports need; counts for the implementation that is chosen."""
        candidate = self.instance.candidates[g]
        for i, way in enumerate(self.instance.implementations(candidate)):
            if not way.cost.miss_ns_per_mib:
                continue
            drawn = {
                t: self.facts.miss_ns(way.cost, self.facts.read_bytes(candidate, t))
                for t in candidate.reads
                if (g, t) in streams
            }
            fixed = way.cost.head_ns + way.cost.tail_ns
            slack = (fixed + sum(drawn.values())) * (1 - x[g, i])
            problem += duration >= fixed + pulp.lpSum(streams[g, t] * ns for t, ns in drawn.items()) - slack

    def _last_on_channel(
        self,
        problem: pulp.LpProblem,
        x: dict[tuple[int, int], pulp.LpVariable],
        streams: dict[tuple[int, str], pulp.LpVariable],
        far: dict[tuple[int, str], pulp.LpVariable],
        phases: Sequence[pulp.LpAffineExpression],
        start: dict[str, pulp.LpVariable],
        end: dict[str, pulp.LpAffineExpression],
    ) -> None:
        """Something is last on the channel before an operator v that joins branches, and its kernel ends after that.

        Let T be the channel time that must pass before v's kernel starts. The last item belongs to the kernel of
        some ancestor o, which then ends no earlier than T, and starts no earlier than T unless the item is its own
        phase; or it is a move for v itself. Without this, two branches that each wait for their own weights would
        seem to wait at the same time.
        """
        facts, horizon = self.facts, self.horizon_ns
        assert horizon is not None
        reads = self._source_reads
        chosen = [
            pulp.lpSum(x[g, i] for i in range(len(self.instance.implementations(candidate))))
            for g, candidate in enumerate(self.instance.candidates)
        ]
        streaming = [
            pulp.lpSum(streams[g, t] if (g, t) in streams else chosen[g] for t in reads[g]) for g in range(len(chosen))
        ]
        for n, v in enumerate(facts.joins):
            before, _ = facts.cuts[v]
            total = pulp.lpSum(phases[g] for g in before) + pulp.lpSum(
                far[g, t] * facts.move_ns(t) for t, groups in facts.moves_before(v, before).items() for g in groups
            )
            nothing = problem.add_variable(f"nothing_{n}", cat=pulp.LpBinary)
            problem += total <= horizon * (1 - nothing)
            choices = [nothing]
            for o in facts.ancestors(v):
                holders = [g for g in facts.instance.candidates_of[o] if g in set(before) and reads[g]]
                if not holders:
                    continue
                last = problem.add_variable(f"last_{n}_{facts.order[o]}", cat=pulp.LpBinary)
                choices.append(last)
                slack = horizon * (1 - last)
                problem += last <= pulp.lpSum(chosen[g] for g in holders)
                problem += end[o] >= total - slack
                problem += start[o] >= total - slack - horizon * pulp.lpSum(streaming[g] for g in holders)
            choices += [far[g, t] for g in facts.instance.candidates_of[v] for t in reads[g] if (g, t) in far]
            problem += pulp.lpSum(choices) >= 1

    @cached_property
    def _source_reads(self) -> list[tuple[str, ...]]:
        """Per candidate: the tensors it reads that start in HBM."""
        return [
            tuple(t for t in candidate.reads if t not in self.facts.graph.producer)
            for candidate in self.instance.candidates
        ]
