"""Large-neighbourhood search on the joint model: part of the decisions is freed, CP-SAT decides it anew.

A neighbourhood is a window of operators in topological order: which kernels hold them, in which implementation, and
where these read and write are free; so are all times and addresses; everything else stays as in the incumbent. Where a
large model repeats, the search runs on a few blocks (``solvers.periodic``), windows across their borders included, and
each better answer there is made the same in every block, unrolled over the whole and judged there.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.joint_answers import hint, read_back
from instances.errors import NoScheduleError
from instances.instance import Instance
from instances.schedule import Schedule
from solvers.annealing import blocks_of
from solvers.blocks import Blocks
from solvers.bounds import proven_schedule
from solvers.dynamic import plan_dynamically
from solvers.incumbent import Incumbent
from solvers.interface import Options, Result
from solvers.joint_search import new_solver
from solvers.sequential import begin

RADIUS = (2, 6)
"""Fewest and most operators on either side of the middle of a window."""

ROUND_S = 3.0
"""Most seconds of one neighbourhood."""

MOST_FAILURES = 40
"""Neighbourhoods in a row without improvement after which the search ends."""


def solve_lns(instance: Instance, options: Options) -> Result:
    """Large-neighbourhood search from the best of the greedy schedule and dynamic programming."""
    incumbent = begin(instance, options)
    if incumbent.periodic is None:  # blocks begin with their own
        plan_dynamically(incumbent)
    incumbent.prove_quickly()
    search_neighbourhoods(incumbent, blocks_of(incumbent))
    return incumbent.finish("lns")


def search_neighbourhoods(incumbent: Incumbent, blocks: Blocks | None = None) -> None:
    """Search until the time is up or nothing improves any more; on the blocks of a large model, or the whole."""
    if incumbent.over:
        return
    if blocks is None or blocks.state is None:
        search = _Neighbourhoods(incumbent.facts, incumbent.best, incumbent)
        search.run(lambda found: incumbent.offer(found, "neighbourhoods"))
        return
    start = blocks.short.scheduled(blocks.state, {"none": 0})
    if start is not None:
        _Neighbourhoods(blocks.periodic.short, start, incumbent).run(blocks.offer_schedule)


class _Neighbourhoods:
    """The search on one instance, from a schedule of it."""

    def __init__(self, facts: Facts, start: Schedule, incumbent: Incumbent) -> None:
        self._facts = facts
        self._best = start
        self._incumbent = incumbent
        self._random = random.Random(incumbent.options.seed)
        self._model = JointModel(facts.instance, start.latency_ns, incumbent.options.leave_out)
        self._values: dict[int, int] = {}

    def run(self, improved: Callable[[Schedule], object]) -> None:
        """Go through neighbourhoods; ``improved`` is called with each better schedule."""
        if not self._hinted():
            return
        failures = 0
        while failures < MOST_FAILURES and not self._incumbent.over:
            found = self._round()
            failures = 0 if found else failures + 1
            if found:
                improved(self._best)
                self._hinted()

    def _hinted(self) -> bool:
        """Make the best schedule the hint; one from outside the candidates, as given to start from, cannot be."""
        try:
            hint(self._model, self._best)
        except ValueError:
            return False
        known = self._model.model.proto.solution_hint
        self._values = dict(zip(known.vars, known.values, strict=True))
        return True

    def _round(self) -> bool:
        """One neighbourhood; whether it had a better schedule."""
        joint, options = self._model, self._incumbent.options
        model = joint.model.clone()
        model.add(joint.latency <= self._best.latency_ns - 1)
        for variable in self._fixed():
            model.add(variable == self._values[variable.index])
        solver = new_solver(options, min(ROUND_S, self._incumbent.spare_s))
        solver.parameters.random_seed = self._random.randrange(2**31)
        with self._incumbent.watching(solver.stop_search):
            status = solver.solve(model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return False
        try:
            self._best = proven_schedule(self._facts, read_back(joint, solver.value), "lns", {"none": 0})
        except NoScheduleError:  # counts of cores fit, but no assignment pairs every cube core with its vector cores
            return False
        return True

    def _fixed(self) -> list[cp_model.IntVar]:
        """The decisions outside of a random window."""
        joint, facts = self._model, self._facts
        names = list(facts.order)
        middle, radius = self._random.randrange(len(names)), self._random.randint(*RADIUS)
        window = names[max(0, middle - radius) : middle + radius + 1]
        free = {g for name in window for g in facts.instance.candidates_of[name]}
        touched = {t for g in free for t in (*facts.instance.candidates[g].reads, *facts.instance.candidates[g].writes)}
        fixed = [y for g, y in enumerate(joint.y) if g not in free]
        fixed += [x for (g, _), x in joint.x.items() if g not in free]
        for routes in (joint.stream, joint.near, joint.far, joint.back):
            fixed += [flag for (g, t), flag in routes.items() if g not in free and t not in touched]
        for flags in (joint.keep, joint.spill, joint.fill):
            fixed += [flag for t, flag in flags.items() if t not in touched]
        return fixed
