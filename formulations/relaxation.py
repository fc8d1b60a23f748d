"""Static relaxation of the joint model, as a linear programme through PuLP and HiGHS.

Times are left out; what remains is the choice of kernels and where each tensor comes from, bounded by what every
schedule must spend:

* ``cube_work``: least core-time of the kernels on cube cores, over all cube cores;
* ``vector_work``: the same for vector cores;
* ``critical_path``: least durations of the kernels that a path meets, for paths through every operator;
* ``relaxation``: all of these and the HBM channel at once, so that streaming (which lengthens kernels) and
  prefetching (which occupies the channel) are weighed against each other.

Each is solved as a linear programme, whose optimum is a proven lower bound; integrality is not needed for that. A
margin of one part in a million and one ns is taken off for the solver's floating-point tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pulp

from formulations.facts import Facts
from formulations.paths import longest_paths

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
        if argument in ("critical_path", "relaxation"):
            durations = self._durations(problem, latency, x, channel=argument == "relaxation")
            for path in longest_paths(self.facts):
                on_path = set(path)
                met = [g for g, c in enumerate(self.instance.candidates) if not on_path.isdisjoint(c.operators)]
                problem += pulp.lpSum(durations[g] for g in met) <= latency
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

    def _durations(
        self,
        problem: pulp.LpProblem,
        latency: pulp.LpVariable,
        x: dict[tuple[int, int], pulp.LpVariable],
        channel: bool,
    ) -> list[pulp.LpVariable | pulp.LpAffineExpression]:
        """d[g] at its least, or, with the channel, at least head + phase + tail as well."""
        least: list[pulp.LpVariable | pulp.LpAffineExpression] = []
        around = []
        for g, candidate in enumerate(self.instance.candidates):
            ways = self.instance.implementations(candidate)
            least.append(pulp.lpSum(x[g, i] * way.cost.least_ns for i, way in enumerate(ways)))
            around.append(
                pulp.lpSum(x[g, i] * (way.cost.head_ns + way.cost.tail_ns) for i, way in enumerate(ways))
            )
        return self._with_channel(problem, latency, x, least, around) if channel else least

    def _with_channel(
        self,
        problem: pulp.LpProblem,
        latency: pulp.LpVariable,
        x: dict[tuple[int, int], pulp.LpVariable],
        least: Sequence[pulp.LpAffineExpression],
        around: Sequence[pulp.LpAffineExpression],
    ) -> list[pulp.LpVariable]:
        """Each source is streamed by each of its readers or moved once; outputs are written in a phase or moved."""
        facts = self.facts
        channel = []
        durations = []
        moved = {t: pulp.LpVariable(f"moved_{n}", lowBound=0) for n, t in enumerate(sorted(facts.prefetchable))}
        channel += [variable * facts.move_ns(t) for t, variable in moved.items()]
        for g, candidate in enumerate(self.instance.candidates):
            y = pulp.lpSum(x[g, i] for i in range(len(self.instance.implementations(candidate))))
            phase = []
            for n, t in enumerate(candidate.reads):
                if t in facts.graph.producer:
                    continue
                if t not in moved:
                    phase.append(y * facts.read_ns(candidate, t))
                    continue
                streamed = pulp.LpVariable(f"stream_{g}_{n}", lowBound=0)
                problem += streamed + moved[t] >= y
                phase.append(streamed * facts.read_ns(candidate, t))
            duration = pulp.LpVariable(f"d_{g}", lowBound=0)
            problem += duration >= least[g]
            problem += duration >= around[g] + pulp.lpSum(phase)
            durations.append(duration)
            channel += phase
        written = sum(facts.write_ns(t) for t in facts.made if facts.is_output(t))
        problem += pulp.lpSum(channel) + written <= latency
        return durations
