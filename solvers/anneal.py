"""Simulated annealing over covers, tilings, prefetches and the order of the channel.

A state is decoded by a serial schedule generator: activities (kernels and explicit moves) are taken by priority as
they become ready and placed as early as possible; the HBM channel serves them strictly in that order, so that the
priorities decide what is prefetched before what. Every tensor a kernel makes for others stays in L2; sources are
streamed or moved. These restrictions cost little and make a state a few hundred microseconds to judge; CP-SAT, which
starts from the result, has none of them.

CP-SAT alone gets stuck several per cent above this where one weight must be moved before a long phase to fill the gap
behind it: many starts must shift together, which neighbourhoods of variables do not do and one priority does.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from formulations.facts import Facts
from formulations.plan import Decisions, KernelChoice, MoveChoice, ResidencyChoice
from instances.errors import NoScheduleError
from instances.schedule import MoveKind, Schedule, Source
from solvers.bounds import proven_schedule
from solvers.interface import Options

FOREVER = 1 << 60
WARM, LUKEWARM, COLD = 0.01, 0.003, 0.0002
"""Temperature at first, at first where a good state is polished, and at last; relative to the latency."""

Activity = tuple[str, int | str]
"""``("kernel", candidate index)``, ``("prefetch", tensor)`` or ``("spill", tensor)``."""


@dataclass
class State:
    """What annealing changes."""

    groups: frozenset[int]
    way: dict[int, int]  # candidate -> implementation
    moved: frozenset[str]  # sources brought by a prefetch
    spilled: frozenset[str]  # outputs written by a move instead of their producer's phase
    priority: dict[Activity, float]


@dataclass
class Run:
    """A kernel as placed (ns)."""

    start: int
    end: int
    hbm_start: int | None


@dataclass
class Outcome:
    """A decoded state."""

    latency: int
    runs: dict[int, Run]
    moves: dict[Activity, int] = field(default_factory=dict)


class Annealer:
    """Annealing on one instance.

    Parameters
    ----------
    facts
        The instance.
    seed
        Of the random moves.
    """

    def __init__(self, facts: Facts, seed: int) -> None:
        self.facts = facts
        self.spare_bytes = 0
        self.random = random.Random(seed)
        self.graph = facts.graph
        self.candidates = facts.instance.candidates
        self.costs = [
            [(way.cost, way.tiling) for way in facts.instance.implementations(candidate)]
            for candidate in self.candidates
        ]
        self.sources = [tuple(t for t in c.reads if t not in self.graph.producer) for c in self.candidates]
        self.made_reads = [tuple(t for t in c.reads if t in self.graph.producer) for c in self.candidates]
        self.read_ns = [{t: facts.read_ns(c, t) for t in c.reads} for c in self.candidates]
        self.read_bytes = [{t: facts.read_bytes(c, t) for t in c.reads} for c in self.candidates]
        self.move_ns = {t.name: facts.move_ns(t.name) for t in self.graph.tensors}

    @cached_property
    def movable(self) -> tuple[str, ...]:
        """Sources that may be prefetched, sorted."""
        return tuple(sorted(self.facts.prefetchable))

    # ------------------------------------------------------------------ decoding

    def decode(self, state: State, limit: float = math.inf) -> Outcome | None:
        """Place everything; ``None`` where the state deadlocks, L2 overflows or the latency exceeds ``limit``."""
        return _Decoder(self, state, limit).run()

    def decisions(self, state: State, outcome: Outcome) -> Decisions:
        """A decoded state as decisions."""
        kernels = []
        kept: set[str] = set()
        for g, run in outcome.runs.items():
            candidate = self.candidates[g]
            writes = {}
            for t in candidate.writes:
                stays = bool(self.graph.consumers[t]) or t in state.spilled
                writes[t] = (stays, self.facts.is_output(t) and t not in state.spilled)
                if stays:
                    kept.add(t)
            far = frozenset(t for t in self.sources[g] if t in state.moved)
            reads = {t: Source.L2 if t in far or t in self.graph.producer else Source.HBM for t in candidate.reads}
            kernels.append(KernelChoice(g, state.way[g], run.start, run.hbm_start, reads, writes, far))
        kinds = {"prefetch": MoveKind.PREFETCH, "spill": MoveKind.SPILL}
        moves = tuple(MoveChoice(str(t), kinds[kind], start) for (kind, t), start in outcome.moves.items())
        residencies = [ResidencyChoice(t, None, brought=True) for t in sorted(state.moved)]
        residencies += [ResidencyChoice(t, None, brought=False) for t in sorted(kept)]
        return Decisions(tuple(kernels), moves, tuple(residencies))

    def schedule(self, state: State, outcome: Outcome, bounds: dict[str, int]) -> Schedule | None:
        """A decoded state as a schedule, or ``None`` if its tensors cannot be packed into L2."""
        try:
            return proven_schedule(self.facts, self.decisions(state, outcome), "anneal", bounds)
        except NoScheduleError:
            return None

    def scheduled(self, state: State, bounds: dict[str, int], limit: float = math.inf) -> Schedule | None:
        """:meth:`decode` and :meth:`schedule` in one."""
        outcome = self.decode(state, limit)
        return None if outcome is None else self.schedule(state, outcome, bounds)

    # ------------------------------------------------------------------ states

    def first_state(self, groups: frozenset[int]) -> State:
        """Fastest implementations, nothing moved, operators in topological order."""
        way = {g: min(range(len(self.costs[g])), key=lambda i: self.costs[g][i][0].least_ns) for g in groups}
        state = State(groups, way, frozenset(), frozenset(), {})
        for g in groups:
            state.priority["kernel", g] = float(self._position(g))
        return state

    def state_of(self, schedule: Schedule, rate: float | None = None) -> State | None:
        """The state that does as a schedule does, in the order of the channel; ``None`` where its kernels are others.

        What a state cannot say is dropped: made tensors that go through HBM, fills, idle time. Priorities are times;
        ``rate`` is what a nanosecond counts for, by default so that the kernels are one apart on average.
        """
        number = {candidate.operators: g for g, candidate in enumerate(self.candidates)}
        chosen: dict[int, tuple[int, int]] = {}
        for kernel in schedule.kernels:
            g = number.get(kernel.operators)
            ways = [] if g is None else [i for i, (_, tiling) in enumerate(self.costs[g]) if tiling == kernel.tiling]
            if g is None or not ways:
                return None
            chosen[g] = (ways[0], kernel.start_ns if kernel.hbm_start_ns is None else kernel.hbm_start_ns)
        return self._state(chosen, [(move.tensor, move.kind, move.start_ns) for move in schedule.moves], rate)

    def state_of_decisions(self, decisions: Decisions, rate: float | None = None) -> State:
        """The same for decisions."""
        chosen = {
            k.candidate: (k.implementation, k.start_ns if k.hbm_start_ns is None else k.hbm_start_ns)
            for k in decisions.kernels
        }
        return self._state(chosen, [(move.tensor, move.kind, move.start_ns) for move in decisions.moves], rate)

    def _state(
        self, chosen: dict[int, tuple[int, int]], moves: list[tuple[str, MoveKind, int]], rate: float | None
    ) -> State:
        """Kernels with implementation and time, and moves, as a state that takes them in the order of their times."""
        begun: dict[Activity, int] = {("kernel", g): when for g, (_, when) in chosen.items()}
        moved, spilled = set(), set()
        for t, kind, start in moves:
            if kind is MoveKind.PREFETCH and t in self.facts.prefetchable:
                moved.add(t)
                begun["prefetch", t] = start
            elif kind is MoveKind.SPILL and self.facts.is_output(t):
                spilled.add(t)
                begun["spill", t] = start
        if rate is None:
            rate = len(chosen) / max(1, *begun.values())
        way = {g: i for g, (i, _) in chosen.items()}
        priority = {activity: rate * when for activity, when in begun.items()}
        return State(frozenset(way), way, frozenset(moved), frozenset(spilled), priority)

    def _position(self, g: int) -> int:
        return max(self.facts.order[name] for name in self.candidates[g].operators)

    def neighbour(self, state: State) -> State:
        """A state that differs in one decision."""
        new = State(state.groups, dict(state.way), state.moved, state.spilled, dict(state.priority))
        roll = self.random.random()
        if roll < 0.35:
            self._reprioritise(new)
        elif roll < 0.65 and self.movable:
            self._toggle_move(new)
        elif roll < 0.8:
            g = self.random.choice(sorted(new.groups))
            new.way[g] = self.random.randrange(len(self.costs[g]))
        elif roll < 0.84:
            self._toggle_spill(new)
        else:
            self._recover(new)
        return new

    def _reprioritise(self, state: State) -> None:
        chosen, other = self.random.choice(list(state.priority)), self.random.choice(list(state.priority))
        state.priority[chosen] = state.priority[other] + self.random.uniform(-0.6, 0.6)

    def _toggle_move(self, state: State) -> None:
        """Stream a source instead of moving it, or move it some way ahead of its reader."""
        t = self.random.choice(self.movable)
        activity: Activity = ("prefetch", t)
        if t in state.moved:
            state.moved -= {t}
            del state.priority[activity]
            return
        readers = [g for g in state.groups if t in self.sources[g]]
        state.moved |= {t}
        latest = min(state.priority["kernel", g] for g in readers)
        state.priority[activity] = latest - self.random.random() ** 2 * len(state.groups)

    def _toggle_spill(self, state: State) -> None:
        outputs = [t for g in state.groups for t in self.candidates[g].writes if self.facts.is_output(t)]
        t = self.random.choice(sorted(outputs)) if outputs else None
        if t is None or not self.facts.can_stay(t):
            return
        if t in state.spilled:
            state.spilled -= {t}
            del state.priority["spill", t]
        else:
            state.spilled |= {t}
            maker = next(g for g in state.groups if t in self.candidates[g].writes)
            state.priority["spill", t] = state.priority["kernel", maker] + self.random.random() * 4

    def _recover(self, state: State) -> None:
        """Bring in a random group; what it breaks up is covered by the largest groups that still fit."""
        name = self.random.choice(list(self.facts.order))
        g = self.random.choice(self.facts.instance.candidates_of[name])
        if g in state.groups:
            return
        wanted = set(self.candidates[g].operators)
        hit = [other for other in state.groups if not wanted.isdisjoint(self.candidates[other].operators)]
        fresh = [g]
        for other in hit:
            loose = set(self.candidates[other].operators) - wanted
            while loose:
                options = [
                    c
                    for c in self.facts.instance.candidates_of[min(loose, key=self.facts.order.__getitem__)]
                    if loose.issuperset(self.candidates[c].operators)
                ]
                best = max(options, key=lambda c: (len(self.candidates[c].operators), c))
                fresh.append(best)
                loose -= set(self.candidates[best].operators)
        keys = [state.priority.pop(("kernel", other)) for other in hit]
        for other in hit:
            del state.way[other]
        state.groups = state.groups - set(hit) | set(fresh)
        for new in fresh:
            state.way[new] = self.random.randrange(len(self.costs[new]))
            state.priority["kernel", new] = self.random.choice(keys) if len(keys) > 1 else keys[0]

    # ------------------------------------------------------------------ search

    def improve(
        self,
        first: State,
        seconds: float,
        options: Options,
        stopped: Callable[[], bool] = lambda: False,
        warm: float = WARM,
    ) -> tuple[State, Outcome] | None:
        """Anneal for some seconds; the best state that decodes and whose tensors can be packed into L2.

        Ends early where ``stopped`` says so. Under a deterministic limit the number of steps counts instead of the
        clock. ``warm`` is the first temperature.
        """
        current, outcome = first, self.decode(first)
        if outcome is None:
            return None
        best: tuple[State, Outcome] | None = None
        if self.schedule(current, outcome, {"none": 0}) is not None:
            best = (current, outcome)
        began = options.elapsed_s
        steps = math.ceil(options.deterministic_limit * 200) if options.deterministic_limit else None
        taken, progress = 0, 0.0
        while progress < 1.0 and (steps is not None or seconds > 0):
            if steps is not None:
                progress = taken / steps
            elif taken % 16 == 0:
                progress = (options.elapsed_s - began) / seconds
            if taken % 16 == 0 and stopped():
                break
            taken += 1
            warmth = warm * (COLD / warm) ** min(1.0, progress) * outcome.latency
            allowed = outcome.latency - warmth * math.log(max(1e-12, self.random.random()))
            trial = self.neighbour(current)
            found = self.decode(trial, allowed)
            if found is None:
                continue
            current, outcome = trial, found
            better = best is None or found.latency < best[1].latency
            if better and self.schedule(trial, found, {"none": 0}) is not None:
                best = (trial, found)
        return best


class _Decoder:
    """One pass of the schedule generator."""

    def __init__(self, annealer: Annealer, state: State, limit: float) -> None:
        self.a = annealer
        self.state = state
        self.limit = limit
        self.machine = annealer.facts.machine
        self.maker = {t: g for g in state.groups for t in annealer.candidates[g].writes}
        self.runs: dict[int, Run] = {}
        self.moves: dict[Activity, int] = {}
        self.channel = 0
        self.link = 0
        self.waiting: dict[str, int] = {}  # tensor in L2 -> readers still to come
        self.windows: list[list[int]] = []  # start, end (FOREVER while readers are to come), bytes
        self.window_of: dict[str, list[int]] = {}
        self._resources: list[tuple[int, int, int, int, int]] = []  # start, end, aic, aiv, L2 share

    def run(self) -> Outcome | None:
        """Place all activities by priority as they become ready."""
        needs, feeds = self._dependencies()
        ready = [
            (self.state.priority[activity], str(activity), activity) for activity, count in needs.items() if not count
        ]
        heapq.heapify(ready)
        placed = 0
        without_room: list[tuple[float, str, Activity]] = []
        while ready:
            entry = heapq.heappop(ready)
            activity = entry[2]
            fetching = activity[0] == "prefetch"
            end = None if fetching and without_room else self._place(activity)
            if end is None and fetching:
                without_room.append(entry)
                continue
            if end is None or end > self.limit:
                return None
            placed += 1
            if without_room and activity[0] == "kernel":  # its last reads may have made room
                for waiting in without_room:
                    heapq.heappush(ready, waiting)
                without_room.clear()
            for other in feeds.get(activity, ()):
                needs[other] -= 1
                if not needs[other]:
                    heapq.heappush(ready, (self.state.priority[other], str(other), other))
        if placed < len(needs):
            return None
        latency = max(
            [run.end for run in self.runs.values()]
            + [start + self.a.move_ns[str(t)] for (_, t), start in self.moves.items()]
        )
        return Outcome(latency, self.runs, self.moves)

    def _dependencies(self) -> tuple[dict[Activity, int], dict[Activity, list[Activity]]]:
        state, a = self.state, self.a
        before: dict[Activity, set[Activity]] = {}
        for t in state.moved:
            before["prefetch", t] = set()
        for t in state.spilled:
            before["spill", t] = {("kernel", self.maker[t])}
        for g in state.groups:
            needed: set[Activity] = {("kernel", self.maker[t]) for t in a.made_reads[g]}
            needed |= {("prefetch", t) for t in a.sources[g] if t in state.moved}
            before["kernel", g] = needed
            for t in a.candidates[g].reads:
                self.waiting[t] = self.waiting.get(t, 0) + 1
        for t in state.spilled:
            self.waiting[t] = self.waiting.get(t, 0) + 1
        feeds: dict[Activity, list[Activity]] = {}
        for activity in sorted(before, key=str):
            for other in before[activity]:
                feeds.setdefault(other, []).append(activity)
        return {activity: len(others) for activity, others in before.items()}, feeds

    def _place(self, activity: Activity) -> int | None:
        kind, what = activity
        if kind == "kernel":
            return self._place_kernel(int(what))
        t = str(what)
        length = self.a.move_ns[t]
        start = self.channel
        if kind == "spill":
            start = max(start, self.runs[self.maker[t]].end)
        else:
            room = self._room_from(start, self.a.facts.l2_size[t] + self.a.spare_bytes)
            if room is None:
                return None
            start = room
            self._open(t, start)
        self.moves[activity] = start
        self.channel = start + length
        if kind == "spill":
            self._use(t, start + length)
        return start + length

    def _place_kernel(self, g: int) -> int | None:
        a, state = self.a, self.state
        cost, tiling = a.costs[g][state.way[g]]
        streamed = [t for t in a.sources[g] if t not in state.moved]
        phase = sum(a.read_ns[g][t] for t in streamed)
        phase += sum(
            a.facts.write_ns(t) for t in a.candidates[g].writes if a.facts.is_output(t) and t not in state.spilled
        )
        drawn = 0
        if cost.miss_ns_per_mib:
            drawn = sum(a.facts.miss_ns(cost, a.read_bytes[g][t]) for t in streamed)
        busy = max(cost.busy_ns, drawn)
        start = max((self.runs[self.maker[t]].end for t in a.made_reads[g]), default=0)
        for t in a.sources[g]:
            if t in state.moved:
                start = max(start, self.moves["prefetch", t] + a.move_ns[t])
        if not tiling.aic and not tiling.aiv:
            start = max(start, self.link)
        kept = [t for t in a.candidates[g].writes if self.waiting.get(t)]
        held = sum(a.facts.l2_size[t] for t in kept) + cost.workspace_bytes
        while True:
            if held:
                room = self._room_from(start, held)
                if room is None:
                    return None
                start = room
            hbm_start = max(start + cost.head_ns, self.channel) if phase else None
            end = max(start + cost.head_ns + busy, (hbm_start or 0) + phase) + cost.tail_ns
            # a kernel that waits for the channel may as well start later and hold its cores for less
            begin = end - cost.tail_ns - busy - cost.head_ns
            if hbm_start is not None:
                begin = min(begin, hbm_start - cost.head_ns)
            begin = max(begin, start)
            clash = self._clash(begin, end, tiling.aic, tiling.aiv, tiling.l2_permille)
            if clash is None:
                break
            start = clash
        self.runs[g] = Run(begin, end, hbm_start)
        self._resources.append((begin, end, tiling.aic, tiling.aiv, tiling.l2_permille))
        if not tiling.aic and not tiling.aiv:
            self.link = end
        if hbm_start is not None:
            self.channel = hbm_start + phase
        if cost.workspace_bytes:
            self.windows.append([begin, end, cost.workspace_bytes])
        for t in kept:
            self._open(t, begin)
        for t in a.candidates[g].reads:
            self._use(t, end)
        return end

    def _clash(self, begin: int, end: int, aic: int, aiv: int, rate: int) -> int | None:
        """When to try again, if cores or L2 rate run out somewhere in an interval."""
        over = [r for r in self._resources if r[0] < end and begin < r[1]]
        if not over:
            return None
        for instant in [begin, *(r[0] for r in over if r[0] > begin)]:
            alive = [r for r in over if r[0] <= instant < r[1]]
            if (
                sum(r[2] for r in alive) + aic > self.machine.aic_count
                or sum(r[3] for r in alive) + aiv > self.machine.aiv_count
                or sum(r[4] for r in alive) + rate > 1000
            ):
                return min(r[1] for r in alive)
        return None

    def _room_from(self, start: int, size: int) -> int | None:
        """First instant from which ``size`` bytes are free in L2 for good, as far as is known."""
        capacity = self.a.facts.l2_capacity
        ends = sorted({w[1] for w in self.windows if w[1] > start})
        for instant in [start, *ends]:
            if instant >= FOREVER:
                return None
            alive = [w for w in self.windows if w[1] > instant]
            points = [instant, *(w[0] for w in alive if w[0] > instant)]
            if all(sum(w[2] for w in alive if w[0] <= p < w[1]) + size <= capacity for p in points):
                return instant
        return None

    def _open(self, t: str, start: int) -> None:
        window = [start, FOREVER, self.a.facts.l2_size[t]]
        self.windows.append(window)
        self.window_of[t] = window

    def _use(self, t: str, end: int) -> None:
        """Count a use of a tensor; after the last one its place is free from the latest use on."""
        window = self.window_of.get(t)
        self.waiting[t] -= 1
        if window is None:
            return
        window.append(end)
        if not self.waiting[t]:
            window[1] = max(window[3:])
