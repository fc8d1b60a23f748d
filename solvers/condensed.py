"""The joint model without what rarely matters: made tensors stay in L2, L2 counts for prefetched sources alone.

Most of the joint model's variables say where made tensors lie and whether they are spilled, filled and streamed again,
and at which address. In a decode layer nothing of that is ever worth doing, but each proof must rule it out: CP-SAT
leaves gaps of 1 to 4 % there after 20 s. Condensed, the same model is solved in seconds, level by level. Each
optimum is a lower bound of the joint model's, and each solution of the last level a schedule wherever L2 has room for
what was left out. The static relaxation, without an order of the channel, is up to 3 % weaker in decode.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from operator import le

from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.joint_answers import hint, read_back
from formulations.plan import Decisions
from solvers.anneal import Annealer
from solvers.incumbent import Incumbent
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
    Level(0.003, frozenset({"addresses", "cores", "l2_rate", "energy"}), 0.5),
    Level(0.003, frozenset({"addresses", "energy"}), 0.5),
    Level(0.0, frozenset({"addresses", "energy"}), 0.8),
)
"""Where the HBM channel is busy most of the time; from the quickest to the one that says most: what cores do is added
to the order of the channel, then what is small. ``energy`` is left out: its long sums slow down each step of the
search."""

CORE_LEVELS = (Level(0.003, frozenset({"addresses"}), 0.6),)
"""Where it is not."""

CHANNEL_SHARE = 0.6
"""Share of the latency in which the channel must be busy for the former."""

SUBSOLVERS = ("pseudo_costs",)
"""CP-SAT's full worker beside the one that improves solutions: on three decode layers it closes the models of the first
two levels in 0.5 to 0.8 of the default's time; ``core``, ``quick_restart``, ``reduced_costs`` and
``objective_lb_search`` do not close them in 30 s."""


def search_condensed(incumbent: Incumbent) -> None:
    """Solve the condensed model level by level; bounds and what its solutions decode to go to the incumbent."""
    busy = incumbent.facts.compulsory_ns >= CHANNEL_SHARE * incumbent.best.latency_ns
    for level in CHANNEL_LEVELS if busy else CORE_LEVELS:
        if incumbent.over:
            return
        _solve(incumbent, level)


def _solve(incumbent: Incumbent, level: Level) -> None:
    options, progress, facts = incumbent.options, incumbent.progress, incumbent.facts
    model = condensed_model(facts, level, incumbent.best.latency_ns, options.leave_out)
    if "cores" not in level.left_out:
        with suppress(ValueError):  # a warm start from outside the candidates still stands, as a horizon
            hint(model, incumbent.best)
    model.model.add(model.latency >= incumbent.usable_bound_ns)
    # its own gap says nothing of the incumbent's
    solver = new_solver(replace(options, gap=0.0), level.portion * incumbent.spare_s)
    solver.parameters.subsolvers.extend(SUBSOLVERS)
    solver.best_bound_callback = lambda bound: progress.bound(round(bound), "condensed")
    with incumbent.watching(solver.stop_search):
        status = solver.solve(model.model, _Decoding(incumbent, model, whole=level.whole))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        incumbent.prove({"condensed": max(0, round(solver.best_objective_bound))})


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

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        decisions = read_back(self._model, self.value)
        if not (self._whole and self._incumbent.offer_decisions(decisions, "condensed")):
            self._decode(decisions)

    def _decode(self, decisions: Decisions) -> None:
        state = self._annealer.state_of_decisions(decisions)
        incumbent = self._incumbent
        incumbent.offer(self._annealer.scheduled(state, incumbent.bounds, incumbent.best.latency_ns), "condensed")
