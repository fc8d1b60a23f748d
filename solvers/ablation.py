"""What each family of constraints is worth: the joint model with all of them, and without one at a time.

CP-SAT alone decides here, on a horizon and hint that are the same in every run, without the bounds that other arguments
prove: so that a difference is that family's. Without a family that decides (``cores``, ``addresses``, ...) the model is
a relaxation, and its objective no schedule's latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ortools.sat.python import cp_model

from formulations.joint import JointModel
from formulations.joint_answers import hint
from formulations.joint_core import DECIDING
from instances.instance import Instance
from instances.schedule import Schedule
from solvers.annealing import anneal
from solvers.interface import Options
from solvers.joint_search import new_solver
from solvers.portfolio import annealing_s
from solvers.sequential import begin


@dataclass(frozen=True)
class Ablation:
    """CP-SAT without one family (``""``: with all): objective and bound in ns, and seconds of the run.

    ``decides`` where the family is no redundant one.
    """

    family: str
    objective_ns: int
    bound_ns: int
    runtime_s: float
    decides: bool


def ablate(
    instance: Instance,
    families: Iterable[str],
    options: Options,
    on_run: Callable[[Ablation], None] | None = None,
) -> list[Ablation]:
    """The model with all families first, then without each of ``families``; ``time_limit_s`` is one run's.

    Raises :class:`ValueError` for a family that there is none of.
    """
    incumbent = begin(instance, replace(options, started=time.monotonic()))
    anneal(incumbent, annealing_s(incumbent))
    start = incumbent.best
    found = []
    for family in ("", *families):
        found.append(_run(instance, start, family, options))
        if on_run:
            on_run(found[-1])
    return found


def _run(instance: Instance, start: Schedule, family: str, options: Options) -> Ablation:
    began = time.monotonic()
    model = JointModel(instance, start.latency_ns, {family} if family else ())
    hint(model, start)
    solver = new_solver(options, options.time_limit_s - (time.monotonic() - began))
    status = solver.solve(model.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    objective = round(solver.objective_value) if found else start.latency_ns
    bound = max(0, round(solver.best_objective_bound))
    return Ablation(family, objective, bound, time.monotonic() - began, family in DECIDING)
