"""The search on the repeated blocks of a large model: a few of them decide for all, which are judged as one schedule.

Three stages work on the short instance of ``solvers.periodic``, in states that are the same in every block: annealing;
the condensed joint model in which what one block does, the next must do; annealing again from its answer. Tied, the
model has the choices of one block and the times of all, so CP-SAT improves what annealing finds by 5 to 8 % within
20 s (decode of Llama-3-70B, 32 sequences, 910B2: 1076 to 1019 us for three blocks and what lies around them, where
traffic alone takes 945). Not tied, its answers differ from block to block, and most of the gain is lost by making
them alike.
"""

from __future__ import annotations

from dataclasses import replace

from ortools.sat.python import cp_model

from formulations.joint import JointModel
from formulations.joint_answers import hint, read_back
from instances.schedule import Schedule
from solvers.anneal import WARM, Annealer, State
from solvers.condensed import SCHEDULING, condensed_model
from solvers.dynamic import best_state
from solvers.incumbent import Incumbent
from solvers.joint_search import new_solver
from solvers.periodic import Periodic

PHASES = (0.15, 0.3, 0.55)
"""Shares of the time of one annealing after the other, each from the result of the one before."""

LEAST_GAIN = 0.0005
"""Relative gain in the short instance from which on an answer of the model is unrolled, which takes up to 0.3 s."""

SPARE_SHARES = (0.0, 0.04, 0.1)
"""Shares of L2 that prefetches leave free, tried in turn where the tensors that then lie there cannot be packed."""


class Blocks:
    """States of a few blocks, the same in each, offered as schedules of the whole.

    ``state`` is the best of them; ``groups`` is a cover of the whole to start from.
    """

    def __init__(self, incumbent: Incumbent, periodic: Periodic, groups: frozenset[int]) -> None:
        self.periodic = periodic
        self.state: State | None = None
        self.short = _LevelAnnealer(periodic, incumbent.options.seed)
        self._incumbent = incumbent
        self._whole = Annealer(incumbent.facts, incumbent.options.seed)
        self._latency: int | None = None
        self._begin(groups)

    def _begin(self, groups: frozenset[int]) -> None:
        """Start from a cover of the whole and from what dynamic programming finds for the blocks."""
        self.offer(self.short.first_state(self._short_cover(groups)), "greedy")
        state = best_state(self.periodic.short)
        if state is not None:
            self.offer(state, "dynamic programming")

    def offer(self, state: State, source: str) -> bool:
        """Make a state of the short instance alike in every block, unroll it and offer it; whether it is the best."""
        try:
            level = self.periodic.level(state)
            unrolled = self.periodic.unroll(level)
        except KeyError:  # a group without its like at some border
            return False
        capacity = self._incumbent.facts.l2_capacity
        for share in SPARE_SHARES:
            self._whole.spare_bytes = int(share * capacity)
            outcome = self._whole.decode(unrolled)
            if outcome is None or (self._latency is not None and outcome.latency >= self._latency):
                return False
            schedule = self._whole.schedule(unrolled, outcome, self._incumbent.bounds)
            if schedule is not None:
                self.state, self._latency = level, outcome.latency
                self._incumbent.offer(schedule, source)
                return True
        return False

    def offer_schedule(self, schedule: Schedule) -> None:
        """The same for a schedule of the short instance."""
        number = {candidate.operators: g for g, candidate in enumerate(self.periodic.short.instance.candidates)}
        begun = {number[kernel.operators]: kernel.start_ns for kernel in schedule.kernels if kernel.operators in number}
        for rate in self.periodic.rates(begun):
            state = self.short.state_of(schedule, rate)
            if state is not None:
                self.offer(state, "neighbourhoods of blocks")

    def anneal(self, seconds: float, warm: float = WARM) -> None:
        """Anneal the blocks together from the best state on."""
        state, options = self.state, self._incumbent.options
        for share in PHASES:
            if state is None or self._incumbent.over:
                return
            found = self.short.improve(state, share * seconds, options, lambda: self._incumbent.over, warm)
            if found is None:
                return
            state = found[0]
            self.offer(state, "annealing of blocks")

    def model(self, seconds: float) -> None:
        """Improve the blocks by the condensed joint model with its decisions tied from block to block."""
        incumbent, periodic = self._incumbent, self.periodic
        start = None if self.state is None else self.short.scheduled(self.state, {"none": 0})
        if start is None or incumbent.over:
            return
        joint = condensed_model(periodic.short, SCHEDULING, start.latency_ns, incumbent.options.leave_out)
        hint(joint, start)
        _tie(joint, periodic)
        solver = new_solver(replace(incumbent.options, gap=0.0), seconds)
        solver.parameters.use_lns_only = True
        with incumbent.watching(solver.stop_search):
            solver.solve(joint.model, _Unrolling(self, joint, start.latency_ns))

    def _short_cover(self, groups: frozenset[int]) -> frozenset[int]:
        """The groups of a cover of the whole that the short instance has, and single operators for the rest."""
        short = self.periodic.short.instance
        number = {candidate.operators: g for g, candidate in enumerate(short.candidates)}
        wanted = {self.periodic.facts.instance.candidates[g].operators for g in groups}
        cover = {number[operators] for operators in wanted if operators in number}
        covered = {name for g in cover for name in short.candidates[g].operators}
        cover |= {number[(name,)] for name in self.periodic.short.order if name not in covered}
        return frozenset(cover)


class _LevelAnnealer(Annealer):
    """Annealing over states that are the same in every block."""

    TRIALS = 12
    """Steps that are tried for one that changes the middle block, or what lies around the blocks."""

    def __init__(self, periodic: Periodic, seed: int) -> None:
        super().__init__(periodic.short, seed)
        self._level = periodic.level

    def neighbour(self, state: State) -> State:
        for _ in range(self.TRIALS):
            try:
                new = self._level(super().neighbour(state))
            except (KeyError, ValueError):  # a group without its like at some border
                continue
            if new != state:
                return new
        return state


def _tie(joint: JointModel, periodic: Periodic) -> None:
    """What a candidate does, its like in the next block does: whether it runs, how, and which tensors it streams.

    Where the hint has it otherwise, at the borders of what repeats, nothing is tied.
    """
    candidates, implementations = joint.instance.candidates, joint.instance.implementations
    hinted = joint.model.proto.solution_hint
    values = dict(zip(hinted.vars, hinted.values, strict=True))
    pairs: list[tuple[cp_model.IntVar, cp_model.IntVar]] = []
    for g, h in periodic.twins.items():
        pairs.append((joint.y[g], joint.y[h]))
        if candidates[g].template == candidates[h].template:
            pairs += [(joint.x[g, i], joint.x[h, i]) for i in range(len(implementations(candidates[g])))]
        for one, other in zip(candidates[g].reads, candidates[h].reads, strict=False):
            if one != other and (g, one) in joint.stream and (h, other) in joint.stream:
                pairs.append((joint.stream[g, one], joint.stream[h, other]))
    for one_flag, other_flag in pairs:
        if values[one_flag.index] == values[other_flag.index]:
            joint.model.add(one_flag == other_flag)


class _Unrolling(cp_model.CpSolverSolutionCallback):
    """Makes a state of each solution, as far ahead in every block as it is in these, and offers it."""

    def __init__(self, blocks: Blocks, joint: JointModel, latency_ns: int) -> None:
        super().__init__()
        self._blocks, self._joint, self._latency = blocks, joint, latency_ns

    def on_solution_callback(self) -> None:
        """Called by CP-SAT with each improved solution."""
        blocks, decisions = self._blocks, read_back(self._joint, self.value)
        begun = {kernel.candidate: kernel.start_ns for kernel in decisions.kernels}
        for rate in blocks.periodic.rates(begun):
            state = blocks.short.state_of_decisions(decisions, rate)
            outcome = blocks.short.decode(blocks.periodic.level(state), (1 - LEAST_GAIN) * self._latency)
            if outcome is not None:
                self._latency = outcome.latency
                blocks.offer(state, "condensed blocks")
