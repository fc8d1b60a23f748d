"""The joint model without what rarely matters: made tensors stay in L2, L2 counts for prefetched sources alone.

Most of the joint model's variables say where made tensors lie and whether they are spilled, filled and streamed again,
and at which address. In a decode layer nothing of that is ever worth doing, but each proof must rule it out: CP-SAT
leaves gaps of 1 to 4 % there after 20 s. Condensed, the same model is solved in seconds, at several levels. Each
optimum is a lower bound of the joint model's, and each solution of a level with cores and small tensors a schedule
wherever L2 has room for what the model does not count. The static relaxation, without an order of the channel, is up to
3 % weaker in decode.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import le

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import REDUNDANT, JointModel
from formulations.joint_answers import hint, read_back
from formulations.plan import Decisions
from solvers.anneal import Annealer
from solvers.incumbent import Incumbent
from solvers.interface import Options
from solvers.joint_search import new_solver


@dataclass(frozen=True)
class Level:
    """A condensed model: what it leaves out, and its share of the time that is left.

    ``least_share`` is the share of the latency from which on a tensor's time on the channel counts.
    """

    least_share: float
    left_out: frozenset[str]
    portion: float

    @property
    def whole(self) -> bool:
        """Whether solutions are schedules, but for the room that made tensors take in L2."""
        return self.least_share == 0.0 and "cores" not in self.left_out


CHANNEL_LEVELS = (
    Level(0.0, frozenset({"addresses", "energy"}), 0.6),
    Level(0.003, frozenset({"addresses", "cores", "l2_rate", "energy"}), 0.4),
    Level(0.003, frozenset({"addresses", "energy"}), 0.9),
)
"""Where the HBM channel is busy most of the time: first the level that says most, whose optimum mostly ends the
search; where it stays open, the quickest, in which only the order of the channel counts, then what cores do as well.
Over ten decode layers the other order, from the quickest on, took 139 s to the proof and this one 120. ``energy`` is
left out: its long sums slow down each step of the search."""

CORE_LEVELS = (Level(0.003, frozenset({"addresses"}), 0.25), Level(0.0, frozenset({"addresses"}), 0.5))
"""Where it is not."""

SCHEDULING = Level(0.0, REDUNDANT | {"addresses"}, 0.15)
"""Where schedules are wanted and no bounds: without what only helps to bound, and with all workers on neighbourhoods,
CP-SAT has a first answer for the blocks of a large model in 0.6 s instead of 2 to 14, and in 10 s what it else finds in
25."""

SCHEDULING_S_PER_OPERATOR, LEAST_PATIENCE_S = 0.2, 1.5
"""Most seconds of that per operator; it ends after a third of them, and no less than so many, without an answer."""

CHANNEL_SHARE = 0.6
"""Share of the latency in which the channel must be busy for the former levels."""

SUBSOLVERS = ("pseudo_costs", "no_lp")
"""CP-SAT's workers for a proof. With both at it, no neighbourhoods beside, no linear programmes and no probing, and the
optimum as horizon, the last level of three decode layers is closed in 2.4 to 3.1 s; with ``pseudo_costs`` alone beside
neighbourhoods in 4.8 to 18, with ``default_lp`` instead of ``no_lp`` in 3.5 to 5.5, ``objective_lb_search`` 4.6 to 9.
Of seven that one minute left open before, six are closed in 3 to 19 s."""


def search_condensed(incumbent: Incumbent) -> None:
    """Improve the incumbent on the condensed model, then solve that level by level.

    Bounds, and what solutions decode to, go to the incumbent.
    """
    _improve(incumbent)
    busy = incumbent.facts.compulsory_ns >= CHANNEL_SHARE * incumbent.best.latency_ns
    for level in CHANNEL_LEVELS if busy else CORE_LEVELS:
        if incumbent.over:
            return
        _solve(incumbent, level)


def _improve(incumbent: Incumbent) -> None:
    """Neighbourhoods of the incumbent for some seconds, with all workers."""
    options = incumbent.options
    if incumbent.over:
        return
    seconds = min(SCHEDULING.portion * incumbent.spare_s, SCHEDULING_S_PER_OPERATOR * len(incumbent.facts.order))
    model = condensed_model(incumbent.facts, SCHEDULING, incumbent.best.latency_ns, options.leave_out)
    try:
        hint(model, incumbent.best)
    except ValueError:  # a warm start from outside the candidates has no neighbourhood
        return
    patience = max(LEAST_PATIENCE_S, seconds / 3)
    if options.deterministic_limit is not None:  # the clock must not decide
        seconds, patience = incumbent.spare_s, math.inf
    solver = new_solver(replace(options, gap=0.0), seconds)
    solver.parameters.use_lns_only = True
    watcher = _Decoding(incumbent, model, whole=SCHEDULING.whole)
    with incumbent.watching(solver.stop_search, lambda: watcher.idle_s > patience):
        solver.solve(model.model, watcher)


def _solve(incumbent: Incumbent, level: Level) -> None:
    options, progress, facts = incumbent.options, incumbent.progress, incumbent.facts
    model = condensed_model(facts, level, incumbent.best.latency_ns, options.leave_out)
    if "cores" not in level.left_out:
        with suppress(ValueError):  # a warm start from outside the candidates still stands, as a horizon
            hint(model, incumbent.best)
    model.model.add(model.latency >= incumbent.usable_bound_ns)
    # its own gap says nothing of the incumbent's
    solver = proving_solver(replace(options, gap=0.0), level.portion * incumbent.spare_s)
    solver.best_bound_callback = lambda bound: progress.bound(round(bound), "condensed")
    with incumbent.watching(solver.stop_search):
        status = solver.solve(model.model, _Decoding(incumbent, model, whole=level.whole))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        incumbent.prove({"condensed": max(0, round(solver.best_objective_bound))})


def proving_solver(options: Options, seconds: float) -> cp_model.CpSolver:
    """CP-SAT as it proves condensed models best, see :data:`SUBSOLVERS`."""
    solver = new_solver(options, seconds)
    parameters = solver.parameters
    parameters.subsolvers.extend(SUBSOLVERS)
    parameters.num_full_subsolvers = options.worker_count
    parameters.linearization_level = 0
    parameters.cp_model_probing_level = 0
    parameters.use_lns = False
    parameters.use_feasibility_jump = False
    parameters.num_violation_ls = 0
    return solver


def condensed_model(facts: Facts, level: Level, horizon_ns: int, leave_out: frozenset[str] = frozenset()) -> JointModel:
    """The model of a level; ``horizon_ns`` is the latency of a schedule, ``leave_out`` are further families."""
    routed = facts.held_for(int(level.least_share * horizon_ns))
    model = JointModel(facts.instance, horizon_ns, level.left_out | leave_out, routed)
    if "cores" in level.left_out:
        for key in _dominated(facts):
            model.model.add(model.x[key] == 0)
    return model


def _dominated(facts: Facts) -> list[tuple[int, int]]:
    """Candidates' implementations that another of the same is no slower than in any part, cores aside."""
    found = []
    for g, candidate in enumerate(facts.instance.candidates):
        costs = [way.cost for way in facts.instance.implementations(candidate)]
        parts = [(cost.head_ns, cost.busy_ns, cost.tail_ns, cost.miss_ns_per_mib) for cost in costs]
        for i, mine in enumerate(parts):
            others = [(other, j) for j, other in enumerate(parts) if j != i]
            if any(all(map(le, other, mine)) and (other != mine or j < i) for other, j in others):
                found.append((g, i))
    return found


class _Decoding(cp_model.CpSolverSolutionCallback):
    """Makes a schedule of each solution and offers it."""

    def __init__(self, incumbent: Incumbent, model: JointModel, *, whole: bool) -> None:
        super().__init__()
        self._incumbent = incumbent
        self._model = model
        self._whole = whole and all(map(incumbent.facts.can_stay, incumbent.facts.made))
        self._annealer = Annealer(incumbent.facts, incumbent.options.seed)
        self._last = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last solution."""
        return time.monotonic() - self._last

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        self._last = time.monotonic()
        decisions = read_back(self._model, self.value)
        if not (self._whole and self._incumbent.offer_decisions(decisions, "condensed")):
            self._decode(decisions)

    def _decode(self, decisions: Decisions) -> None:
        state = self._annealer.state_of_decisions(decisions)
        incumbent = self._incumbent
        incumbent.offer(self._annealer.scheduled(state, incumbent.bounds, incumbent.best.latency_ns), "condensed")
