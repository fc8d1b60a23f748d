"""Static relaxation of the joint model, as a linear programme through PuLP and HiGHS.

Times are left out; what remains is the choice of kernels and where each tensor comes from, bounded by what every
schedule must spend:

* ``cube_work``: least core-time of the kernels on cube cores, over all cube cores;
* ``vector_work``: the same for vector cores;
* ``critical_path``: least durations of the kernels along every path;
* ``relaxation``: all of these and the HBM channel at once, so that streaming (which lengthens kernels) and
  prefetching (which occupies the channel) are weighed against each other, before and after every operator.

Each is solved as a linear programme, whose optimum is a proven lower bound; integrality is not needed for that. A
margin of one part in a million and one ns is taken off for the solver's floating-point tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pulp

from formulations.facts import Facts

ARGUMENTS = ("cube_work", "vector_work", "critical_path", "relaxation")


class Relaxation:
    """The linear programme of one instance."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.instance = facts.instance

    def bounds(self, time_limit_s: float = 20.0) -> dict[str, int]:
        """Lower bounds (ns) by argument; an argument whose programme was not solved in time is left out."""
        found = {}
        for argument in ARGUMENTS:
            value = self._solve(argument, time_limit_s / len(ARGUMENTS))
            if value is not None:
                found[argument] = max(0, math.ceil(value * (1 - 1e-6) - 1))
        return found

    def _solve(self, argument: str, time_limit_s: float) -> float | None:
        problem = pulp.LpProblem("relaxation", pulp.LpMinimize)
        latency = pulp.LpVariable("C", lowBound=0)
        problem += latency
        x = self._cover(problem)
        if argument in ("cube_work", "relaxation"):
            self._work(problem, latency, x, "aic", self.instance.machine.aic_count)
        if argument in ("vector_work", "relaxation"):
            self._work(problem, latency, x, "aiv", self.instance.machine.aiv_count)
        if argument == "critical_path":
            self._precedence(problem, latency, self._least(x))
        if argument == "relaxation":
            self._channel(problem, latency, x)
        status = problem.solve(pulp.HiGHS(msg=False, timeLimit=max(0.1, time_limit_s)))
        if pulp.LpStatus[status] != "Optimal":
            return None
        return float(latency.value())

    def _cover(self, problem: pulp.LpProblem) -> dict[tuple[int, int], pulp.LpVariable]:
        """x[g,i] >= 0 with every operator covered once."""
        x = {
            (g, i): pulp.LpVariable(f"x_{g}_{i}", lowBound=0)
            for g, candidate in enumerate(self.instance.candidates)
            for i in range(len(self.instance.implementations(candidate)))
        }
        for holders in self.instance.candidates_of.values():
            held = [
                x[g, i]
                for g in holders
                for i in range(len(self.instance.implementations(self.instance.candidates[g])))
            ]
            problem += pulp.lpSum(held) == 1
        return x

    def _work(
        self,
        problem: pulp.LpProblem,
        latency: pulp.LpVariable,
        x: dict[tuple[int, int], pulp.LpVariable],
        label: str,
        capacity: int,
    ) -> None:
        """capacity x C >= sum of least durations times cores."""
        terms = []
        for g, candidate in enumerate(self.instance.candidates):
            for i, way in enumerate(self.instance.implementations(candidate)):
                amount = getattr(way.tiling, label)
                if amount:
                    terms.append(x[g, i] * (amount * way.cost.least_ns / capacity))
        if terms:
            problem += pulp.lpSum(terms) <= latency

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
        start = {name: pulp.LpVariable(f"S_{n}", lowBound=0) for name, n in facts.order.items()}
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
    ) -> None:
        """Streams lengthen kernels, moves precede their readers, and all share the channel.

        Each source is streamed by the kernel of each of its readers or moved; outputs are written in a phase or
        moved. Before and after each operator the channel must have time for what belongs there.
        """
        facts = self.facts
        streams: dict[tuple[int, str], pulp.LpVariable] = {}
        far: dict[tuple[int, str], pulp.LpVariable] = {}
        moved = {t: pulp.LpVariable(f"moved_{n}", lowBound=0) for n, t in enumerate(sorted(facts.prefetchable))}
        phases: list[pulp.LpAffineExpression] = []
        durations: list[pulp.LpVariable] = []
        least = self._least(x)
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
                streamed = streams[g, t] = pulp.LpVariable(f"stream_{g}_{n}", lowBound=0)
                brought = far[g, t] = pulp.LpVariable(f"far_{g}_{n}", lowBound=0)
                problem += streamed + brought == y
                phase.append(streamed * facts.read_ns(candidate, t))
            phases.append(pulp.lpSum(phase))
            around = pulp.lpSum(x[g, i] * (way.cost.head_ns + way.cost.tail_ns) for i, way in enumerate(ways))
            duration = pulp.LpVariable(f"d_{g}", lowBound=0)
            problem += duration >= least[g]
            problem += duration >= around + phases[g]
            durations.append(duration)
        for t, variable in moved.items():
            for reader in facts.graph.consumers[t]:
                readers = [far[g, t] for g in self.instance.candidates_of[reader] if (g, t) in far]
                problem += pulp.lpSum(readers) <= variable
        written = sum(facts.write_ns(t) for t in facts.made if facts.is_output(t))
        moves = pulp.lpSum(variable * facts.move_ns(t) for t, variable in moved.items())
        problem += pulp.lpSum(phases) + moves + written <= latency
        start, end = self._precedence(problem, latency, durations)
        for v, (before, after) in facts.cuts.items():
            brought_before = pulp.lpSum(
                far[g, t] * facts.move_ns(t) for t, groups in facts.moves_before(v, before).items() for g in groups
            )
            problem += pulp.lpSum(phases[g] for g in before) + brought_before <= start[v]
            if after:
                problem += end[v] + pulp.lpSum(phases[g] for g in after) <= latency
