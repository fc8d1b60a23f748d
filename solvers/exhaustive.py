"""An oracle for tiny instances: every schedule that could be best is looked at, without a solver.

The decision space is that of the joint model, built a second time from the problem statement and by other means, so
that the two can be held against each other. The search has three levels.

1. *Kernels*: all exact covers by candidates, times all implementations.
2. *Routes*: for every tensor, where each reader gets it from and what its producer does with it (:class:`Route`).
3. *Orders*: which of two activities that want the same resource comes first.

Why it is complete. Once kernels and routes are fixed, every rule of time has the form ``v[j] >= v[i] + c`` over
events (start, phase and end of a kernel, start of a move, end of a stay in L2), with no upper limits: the earliest
solution is a longest path, and it is least in every component, hence in the latency. If it breaks a capacity at some
instant, a *conflict set* of activities is alive there that do not fit together. In a best schedule they are not all
alive at one time; intervals that overlap pairwise share an instant, so some ordered pair of them stands apart there:
one ends before the other starts. The search tries every ordered pair of the set, each as one more constraint of the
same form; one of them holds in the best schedule, whose times are therefore never before the earliest ones of that
branch. A branch is finite, for every new constraint separates a pair that no earlier one did. Blocks of L2 that fit
by bytes but not by addresses, and kernels whose core counts fit but not their core numbers, are resolved likewise: had
all pairs that overlap in the earliest solution overlapped in the best schedule too, its addresses or core numbers
would have served here. Activities have to last at least 1 ns for this, which :func:`optimum` checks.

What is skipped is dominated for certain: writing a tensor out that nobody reads from HBM, keeping one that nobody
reads from L2, moving one that nobody reads from where it lands; and, where all tensors and workspaces fit into L2
together, anything but reading a made tensor where its producer left it (the kernels may keep their starts, end no
later, and no block is ever in the way of another).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from itertools import permutations, product

from formulations.cores import assign_cores
from formulations.facts import Facts
from formulations.plan import (
    Decisions,
    KernelChoice,
    MoveChoice,
    ResidencyChoice,
    build_schedule,
    time_decisions,
)
from instances.errors import InputError, NoScheduleError
from instances.instance import Instance
from instances.kernels import Candidate, Cost, KernelKind, Tiling
from instances.schedule import MoveKind, Source
from solvers.bounds import prove, quick_bounds
from solvers.interface import Event, Options, Result
from solvers.sequential import unfused_decisions

MAX_OPERATORS = 6
"""Most operators of a graph that the search takes on."""

ARGUMENT = "exhaustive search"
"""Name of the bound: nothing in the decision space is faster."""

Arc = tuple[int, int, int]
"""``(i, j, c)``: event ``j`` comes at least ``c`` ns after event ``i``."""


class Way(StrEnum):
    """Where a kernel gets a tensor from."""

    STREAM = "stream"  # HBM, in its phase
    NEAR = "near"  # L2, where the producer left it
    FAR = "far"  # L2, where a prefetch or fill brought it


@dataclass(frozen=True, eq=False)
class Job:
    """A chosen kernel: candidate and implementation (by index too), and the numbers of its three events."""

    number: int
    candidate_index: int
    implementation: int
    candidate: Candidate
    kind: KernelKind
    tiling: Tiling
    cost: Cost

    @property
    def start(self) -> int:
        """Event: start of the kernel."""
        return 3 * self.number

    @property
    def phase(self) -> int:
        """Event: start of its HBM phase; without meaning where it has none."""
        return 3 * self.number + 1

    @property
    def end(self) -> int:
        """Event: end of the kernel."""
        return 3 * self.number + 2


@dataclass(frozen=True)
class Activity:
    """What holds a resource from event ``start`` until ``lag_ns`` after event ``end``, for ``least_ns`` or more."""

    start: int
    end: int
    lag_ns: int
    least_ns: int

    def meets(self, other: Activity, times: Sequence[int]) -> bool:
        """Whether the two are alive at one time."""
        return (
            times[self.start] < times[other.end] + other.lag_ns and times[other.start] < times[self.end] + self.lag_ns
        )


@dataclass(frozen=True)
class Resource:
    """A capacity, and who asks how much of it."""

    capacity: int
    users: tuple[tuple[Activity, int], ...]

    def conflict(self, times: Sequence[int]) -> list[Activity]:
        """A smallest set of users alive at one instant that together ask too much; empty where there is none.

        The largest users are taken first, until they exceed the capacity: without any one of them the rest fits.
        """
        for instant in sorted({times[user.start] for user, _ in self.users}):
            alive = [
                (user, amount)
                for user, amount in self.users
                if times[user.start] <= instant < times[user.end] + user.lag_ns
            ]
            if sum(amount for _, amount in alive) <= self.capacity:
                continue
            chosen: list[Activity] = []
            wanted = 0
            for user, amount in sorted(alive, key=lambda item: -item[1]):
                chosen.append(user)
                wanted += amount
                if wanted > self.capacity:
                    return chosen
        return []


@dataclass(frozen=True)
class Block:
    """Bytes of L2 held by a tensor (``near`` or ``far``) or, with no tensor, by a kernel's workspace."""

    activity: Activity
    size_bytes: int
    way: Way | None
    owner: str | int


@dataclass(frozen=True, eq=False)
class Route:
    """What becomes of one tensor: the way of each reader, and whether it is written in the phase or by a move.

    ``event`` is the first of its four events: start of the spill, start of the fill or prefetch, end of its stay
    where the producer left it, end of its stay where the move brought it. ``phase_ns`` and ``drawn_ns`` are channel
    time and port time that it adds to kernels, by number.
    """

    tensor: str
    event: int
    maker: Job | None
    ways: tuple[tuple[Job, Way], ...]
    back: bool
    spill: bool
    move_ns: int
    phase_ns: Mapping[int, int]
    drawn_ns: Mapping[int, int]

    @property
    def keep(self) -> bool:
        """Whether the producer leaves it in L2: somebody reads it there, or the spill does."""
        return self.spill or any(way is Way.NEAR for _, way in self.ways)

    @property
    def fill(self) -> bool:
        """Whether a move brings it into L2."""
        return any(way is Way.FAR for _, way in self.ways)

    @property
    def channel_ns(self) -> int:
        """Time that it costs on the HBM channel."""
        return sum(self.phase_ns.values()) + (self.spill + self.fill) * self.move_ns

    def arcs(self) -> Iterator[Arc]:
        """Constraints of its moves and stays."""
        spill, fill, near_end, far_end = range(self.event, self.event + 4)
        if self.maker is not None and self.keep:
            yield self.maker.end, near_end, 0
        if self.maker is not None and self.spill:
            yield self.maker.end, spill, 0
            yield spill, near_end, self.move_ns
        if self.maker is not None and self.fill:
            yield self.maker.end, fill, 0
        if self.fill and self.spill:
            yield spill, fill, self.move_ns
        for job, way in self.ways:
            if way is Way.FAR:
                yield fill, job.start, self.move_ns
                yield job.end, far_end, 0
            elif way is Way.NEAR:
                yield job.end, near_end, 0
            elif self.spill:
                yield spill, job.start, self.move_ns

    def moves(self) -> list[Activity]:
        """Its explicit moves, on the HBM channel."""
        wanted = ((self.spill, self.event), (self.fill, self.event + 1))
        return [Activity(event, event, self.move_ns, self.move_ns) for there, event in wanted if there]

    def blocks(self, size_bytes: int) -> list[Block]:
        """Its stays in L2; the room is taken when the producer, or the move, starts."""
        found = []
        if self.maker is not None and self.keep:
            found.append(Block(Activity(self.maker.start, self.event + 2, 0, 1), size_bytes, Way.NEAR, self.tensor))
        if self.fill:
            found.append(Block(Activity(self.event + 1, self.event + 3, 0, 1), size_bytes, Way.FAR, self.tensor))
        return found


class Network:
    """Difference constraints that come and go, and their earliest solution."""

    def __init__(self, events: int) -> None:
        self.events = events
        self._after: list[list[tuple[int, int]]] = [[] for _ in range(events)]
        self._added: list[Arc] = []

    def require(self, arcs: Iterator[Arc] | Sequence[Arc]) -> int:
        """Add constraints; returns a mark for :meth:`earliest` and :meth:`withdraw`."""
        mark = len(self._added)
        for i, j, lag in arcs:
            self._after[i].append((j, lag))
            self._added.append((i, j, lag))
        return mark

    def withdraw(self, mark: int) -> None:
        """Take back all constraints added since a mark."""
        while len(self._added) > mark:
            self._after[self._added.pop()[0]].pop()

    def earliest(self, times: Sequence[int], mark: int, limit_ns: int) -> list[int] | None:
        """Least times that are no less than ``times`` and satisfy all; ``times`` satisfies those before ``mark``.

        ``None`` where an event would come at ``limit_ns`` or later, as it does on a cycle: no event comes after the
        end of the schedule.
        """
        found = list(times)
        moved = [i for i, _, _ in self._added[mark:]]
        while moved:
            i = moved.pop()
            for j, lag in self._after[i]:
                if found[i] + lag > found[j]:
                    found[j] = found[i] + lag
                    if found[j] >= limit_ns:
                        return None
                    moved.append(j)
        return found

    def after(self, times: Sequence[int], final: Mapping[int, int]) -> list[int]:
        """Per event: the longest way from it to the end, where event ``i`` of ``final`` is ``final[i]`` away."""
        found = [final.get(i, 0) for i in range(self.events)]
        order = sorted(range(self.events), key=lambda i: -times[i])
        changed = True
        while changed:  # once, and once more to see that it was enough, unless events coincide
            changed = False
            for i in order:
                for j, lag in self._after[i]:
                    if found[j] + lag > found[i]:
                        found[i] = found[j] + lag
                        changed = True
        return found


def preemptive(jobs: Sequence[tuple[int, int, int]]) -> int:
    """Least end on one machine if jobs could be interrupted; a job is (earliest start, length, what follows it).

    Jackson's rule: at any time work on the job, of those that may start, with the most to follow.
    """
    waiting = sorted(jobs, reverse=True)
    ready: list[tuple[int, int]] = []  # (less what follows, left to do)
    now = end = 0
    while waiting or ready:
        if not ready:
            now = max(now, waiting[-1][0])
        while waiting and waiting[-1][0] <= now:
            _, length, follows = waiting.pop()
            heappush(ready, (-follows, length))
        follows, left = heappop(ready)
        done = min(left, waiting[-1][0] - now) if waiting else left
        now += done
        if done < left:
            heappush(ready, (follows, left - done))
        else:
            end = max(end, now - follows)
    return end


def place(blocks: Sequence[Block], times: Sequence[int], capacity: int) -> list[int] | None:
    """Addresses for blocks of L2, by exact backtracking; ``None`` where there are none.

    Put blocks down in the order of their addresses in some solution, each on top of all those it meets: none comes
    to lie higher than there. So it is enough to try all orders.
    """
    size = len(blocks)
    meets = [[blocks[i].activity.meets(blocks[j].activity, times) for j in range(size)] for i in range(size)]
    offsets = [-1] * size

    def put(left: list[int]) -> bool:
        for i in left:
            tops = (offsets[j] + blocks[j].size_bytes for j in range(size) if offsets[j] >= 0 and meets[i][j])
            offsets[i] = max(tops, default=0)
            if offsets[i] + blocks[i].size_bytes <= capacity and put([j for j in left if j != i]):
                return True
            offsets[i] = -1
        return not left

    return offsets if put(sorted(range(size), key=lambda i: -blocks[i].size_bytes)) else None


class Case:
    """One choice of kernels: its events, its constraints, and the routes open to each tensor."""

    def __init__(self, facts: Facts, jobs: Sequence[Job]) -> None:
        self.facts = facts
        self.jobs = jobs
        self.maker = {t: job for job in jobs for t in job.candidate.writes}
        tensors = sorted({t for job in jobs for t in (*job.candidate.reads, *job.candidate.writes)})
        self.network = Network(3 * len(jobs) + 4 * len(tensors))
        room = sum(facts.l2_size[t] for t in tensors) + sum(job.cost.workspace_bytes for job in jobs)
        self._roomy = room <= facts.l2_capacity
        self.options = [list(self._routes(t, 3 * len(jobs) + 4 * n)) for n, t in enumerate(tensors)]
        self.options.sort(key=lambda routes: -max(route.channel_ns for route in routes))
        self.channel_ns = [min(route.channel_ns for route in routes) for routes in self.options]
        mark = self.network.require(list(self._arcs()))
        self.times = self.network.earliest([0] * self.network.events, mark, 1 << 60)

    def _arcs(self) -> Iterator[Arc]:
        """Least durations, and producers before consumers."""
        for job in self.jobs:
            yield job.start, job.end, job.cost.least_ns
            yield job.start, job.phase, job.cost.head_ns
            for t in job.candidate.reads:
                if t in self.maker:
                    yield self.maker[t].end, job.start, 0

    def _routes(self, tensor: str, event: int) -> Iterator[Route]:
        """Every way to deal with a tensor that is not pointless, those through L2 first."""
        facts = self.facts
        maker = self.maker.get(tensor)
        readers = [job for job in self.jobs if tensor in job.candidate.reads]
        stays = facts.can_stay(tensor)
        if maker is None:
            open_ways = (Way.STREAM, Way.FAR) if tensor in facts.prefetchable else (Way.STREAM,)
        elif self._roomy:
            open_ways = (Way.NEAR,)
        else:
            open_ways = (Way.NEAR, Way.STREAM, Way.FAR) if stays else (Way.STREAM,)
        for ways in product(open_ways, repeat=len(readers)):
            in_hbm = maker is not None and (facts.is_output(tensor) or any(way is not Way.NEAR for way in ways))
            for spill in (False, True) if in_hbm and stays else (False,):
                back = in_hbm and not spill
                streams = [job for job, way in zip(readers, ways, strict=True) if way is Way.STREAM]
                phase = {job.number: facts.read_ns(job.candidate, tensor) for job in streams}
                if maker is not None and back:
                    phase[maker.number] = facts.write_ns(tensor)
                drawn = {j.number: facts.miss_ns(j.cost, facts.read_bytes(j.candidate, tensor)) for j in streams}
                choice = tuple(zip(readers, ways, strict=True))
                yield Route(tensor, event, maker, choice, back, spill, facts.move_ns(tensor), phase, drawn)

    def phase_ns(self, job: Job, routes: Sequence[Route]) -> int:
        """Channel time of a kernel's phase."""
        return sum(route.phase_ns.get(job.number, 0) for route in routes)

    def duration_ns(self, job: Job, routes: Sequence[Route]) -> int:
        """Least duration of a kernel: head, then the longest of engines, phase and ports, then tail."""
        drawn = sum(route.drawn_ns.get(job.number, 0) for route in routes)
        return job.cost.head_ns + max(job.cost.busy_ns, drawn, self.phase_ns(job, routes)) + job.cost.tail_ns

    def arcs_of(self, routes: Sequence[Route]) -> Iterator[Arc]:
        """What the last of some routes adds: its moves and stays, and longer phases and kernels."""
        last = routes[-1]
        yield from last.arcs()
        for job in self.jobs:
            if job.number in last.phase_ns:
                yield job.phase, job.end, self.phase_ns(job, routes) + job.cost.tail_ns
                yield job.start, job.end, self.duration_ns(job, routes)

    def latency(self, times: Sequence[int], routes: Sequence[Route]) -> int:
        """End of the last kernel or spill."""
        spills = [times[route.event] + route.move_ns for route in routes if route.spill]
        return max([*(times[job.end] for job in self.jobs), *spills])

    def decisions(
        self, times: Sequence[int], routes: Sequence[Route], blocks: Sequence[Block], offsets: Sequence[int]
    ) -> Decisions:
        """The leaf of a search, as solvers hand it over."""
        address = {(b.way, b.owner): offset for b, offset in zip(blocks, offsets, strict=True)}
        way = {(route.tensor, job.number): way for route in routes for job, way in route.ways}
        by_name = {route.tensor: route for route in routes}
        kernels = tuple(
            KernelChoice(
                candidate=job.candidate_index,
                implementation=job.implementation,
                start_ns=times[job.start],
                hbm_start_ns=times[job.phase] if self.phase_ns(job, routes) else None,
                reads={t: Source.HBM if way[t, job.number] is Way.STREAM else Source.L2 for t in job.candidate.reads},
                writes={t: (by_name[t].keep, by_name[t].back) for t in job.candidate.writes},
                far=frozenset(t for t in job.candidate.reads if way[t, job.number] is Way.FAR),
                workspace_offset_bytes=address.get((None, job.number)),
            )
            for job in self.jobs
        )
        moves = [MoveChoice(r.tensor, MoveKind.SPILL, times[r.event]) for r in routes if r.spill]
        for r in routes:
            if r.fill:
                kind = MoveKind.PREFETCH if r.maker is None else MoveKind.FILL
                moves.append(MoveChoice(r.tensor, kind, times[r.event + 1]))
        stays = tuple(
            ResidencyChoice(str(b.owner), address[b.way, b.owner], brought=b.way is Way.FAR)
            for b in blocks
            if b.way is not None
        )
        return Decisions(kernels, tuple(moves), stays)


@dataclass(frozen=True)
class Leaf:
    """Kernels and routes, with the resources that are left to share out."""

    case: Case
    routes: tuple[Route, ...]
    resources: tuple[Resource, ...]
    spans: tuple[Activity, ...]
    blocks: tuple[Block, ...]

    @staticmethod
    def of(case: Case, routes: Sequence[Route]) -> Leaf:
        """Collect who asks for what."""
        facts, machine, jobs = case.facts, case.facts.machine, case.jobs
        channel = [move for route in routes for move in route.moves()]
        channel += [Activity(job.phase, job.phase, ns, ns) for job in jobs if (ns := case.phase_ns(job, routes))]
        spans = [(job, Activity(job.start, job.end, 0, case.duration_ns(job, routes))) for job in jobs]
        blocks = [Block(span, size, None, job.number) for job, span in spans if (size := job.cost.workspace_bytes)]
        blocks += [block for route in routes for block in route.blocks(facts.l2_size[route.tensor])]
        resources = (
            Resource(1, tuple((activity, 1) for activity in channel)),
            Resource(1, tuple((span, 1) for job, span in spans if job.kind is KernelKind.LINK)),
            Resource(machine.aic_count, tuple((span, job.tiling.aic) for job, span in spans if job.tiling.aic)),
            Resource(machine.aiv_count, tuple((span, job.tiling.aiv) for job, span in spans if job.tiling.aiv)),
            Resource(1000, tuple((span, job.tiling.l2_permille) for job, span in spans if job.tiling.l2_permille)),
            Resource(facts.l2_capacity, tuple((block.activity, block.size_bytes) for block in blocks)),
        )
        return Leaf(case, tuple(routes), resources, tuple(span for _, span in spans), tuple(blocks))

    def bound(self, times: Sequence[int]) -> int:
        """No branch from here ends earlier.

        Longest path; and of each resource the users that ask for more than half of it, with what must precede and
        follow them: they take turns.
        """
        final = {job.end: 0 for job in self.case.jobs}
        final.update({route.event: route.move_ns for route in self.routes if route.spill})
        after = self.case.network.after(times, final)
        best = self.case.latency(times, self.routes)
        for resource in self.resources:
            turns = [user for user, amount in resource.users if 2 * amount > resource.capacity]
            if len(turns) > 1:
                best = max(best, preemptive([(times[u.start], u.least_ns, after[u.end] - u.lag_ns) for u in turns]))
        return best

    def clashes(self, times: Sequence[int]) -> list[list[Activity]]:
        """A conflict set of each resource that is asked for too much."""
        return [conflict for resource in self.resources if (conflict := resource.conflict(times))]

    def unplaced(self, times: Sequence[int]) -> list[Activity]:
        """Blocks that cannot all be placed, as few as dropping them one by one leaves."""
        left = list(self.blocks)
        for block in self.blocks:
            fewer = [other for other in left if other is not block]
            if place(fewer, times, self.case.facts.l2_capacity) is None:
                left = fewer
        return [block.activity for block in left]

    def has_cores(self, times: Sequence[int]) -> bool:
        """Whether the kernels find core numbers: a mixed kernel needs cube cores with their own vector cores."""
        jobs = sorted(self.case.jobs, key=lambda job: (times[job.start], times[job.end]))
        try:
            assign_cores(
                self.case.facts.machine, [(times[job.start], times[job.end], job.kind, job.tiling) for job in jobs]
            )
        except NoScheduleError:
            return False
        return True


class Search:
    """Branch and bound over routes and orders; keeps the best schedule of all cases.

    Starts from one kernel per operator, one after the other, with everything through HBM.
    """

    def __init__(self, facts: Facts, limit_nodes: int) -> None:
        self.best = unfused_decisions(facts)
        self.best_ns = max(time_decisions(facts, self.best).end)
        self._limit = limit_nodes
        self._nodes = 0

    def run(self, case: Case) -> None:
        """Look at all schedules with the kernels of a case."""
        if case.times is not None:
            self._route(case, case.times, [])

    def _child(self, case: Case, times: Sequence[int], mark: int) -> list[int] | None:
        self._nodes += 1
        if self._nodes > self._limit:
            raise InputError(
                f"the exhaustive search gave up after {self._limit} nodes; give a smaller graph or raise limit_nodes"
            )
        return case.network.earliest(times, mark, self.best_ns)

    def _route(self, case: Case, times: Sequence[int], routes: list[Route]) -> None:
        """Decide on one more tensor. Those still open cost the channel their least, and delay nobody."""
        channel = sum(route.channel_ns for route in routes) + sum(case.channel_ns[len(routes) :])
        leaf = Leaf.of(case, routes)
        if max(channel, leaf.bound(times)) >= self.best_ns:
            return
        if len(routes) == len(case.options):
            self._order(leaf, times)
            return
        for route in case.options[len(routes)]:
            chosen = [*routes, route]
            mark = case.network.require(case.arcs_of(chosen))
            later = self._child(case, times, mark)
            if later is not None:
                self._route(case, later, chosen)
            case.network.withdraw(mark)

    def _order(self, leaf: Leaf, times: Sequence[int]) -> None:
        """Record the earliest times if they make a schedule, else part a conflict set in all ways, best first."""
        if leaf.bound(times) >= self.best_ns:
            return
        case, network = leaf.case, leaf.case.network
        apart = leaf.clashes(times)
        if not apart:
            offsets = place(leaf.blocks, times, leaf.case.facts.l2_capacity)
            if offsets is None:
                apart = [leaf.unplaced(times)]
            elif not leaf.has_cores(times):
                apart = [list(leaf.spans)]
            else:
                self.best_ns = leaf.case.latency(times, leaf.routes)
                self.best = leaf.case.decisions(times, leaf.routes, leaf.blocks, offsets)
                return
        for _, later, arc in self._least(leaf, times, apart):
            mark = leaf.case.network.require([arc])
            self._order(leaf, later)
            leaf.case.network.withdraw(mark)

    def _least(
        self, leaf: Leaf, times: Sequence[int], apart: Sequence[Sequence[Activity]]
    ) -> list[tuple[int, list[int], Arc]]:
        """The ways to part one of several conflict sets: the one that leaves the fewest and the longest branches."""
        ways = [self._part(leaf, times, activities) for activities in apart]
        return min(ways, key=lambda found: (len(found), -sum(bound for bound, _, _ in found)))

    def _part(self, leaf: Leaf, times: Sequence[int], apart: Sequence[Activity]) -> list[tuple[int, list[int], Arc]]:
        """All ways to let one of some activities end before another starts: bound, times and constraint of each."""
        network = leaf.case.network
        found = []
        for one, two in permutations(apart, 2):
            if one.meets(two, times):
                arc = (one.end, two.start, one.lag_ns)
                mark = network.require([arc])
                later = self._child(leaf.case, times, mark)
                if later is not None and (bound := leaf.bound(later)) < self.best_ns:
                    found.append((bound, later, arc))
                network.withdraw(mark)
        return sorted(found)


def covers(instance: Instance) -> Iterator[tuple[int, ...]]:
    """All sets of candidates that hold every operator once."""

    def extend(chosen: tuple[int, ...], covered: frozenset[str]) -> Iterator[tuple[int, ...]]:
        missing = next((name for name in instance.candidates_of if name not in covered), None)
        if missing is None:
            yield chosen
            return
        for g in instance.candidates_of[missing]:
            members = instance.candidates[g].operators
            if covered.isdisjoint(members):
                yield from extend((*chosen, g), covered.union(members))

    return extend((), frozenset())


def cases(facts: Facts, limit_ns: int) -> Iterator[tuple[int, list[Job]]]:
    """All choices of kernels and implementations that may end before ``limit_ns``, with a lower bound each."""
    instance, machine = facts.instance, facts.machine
    for chosen in covers(instance):
        ways = [instance.implementations(instance.candidates[g]) for g in chosen]
        for indices in product(*(range(len(way)) for way in ways)):
            jobs = []
            for number, (g, i) in enumerate(zip(chosen, indices, strict=True)):
                candidate, way = instance.candidates[g], ways[number][i]
                jobs.append(Job(number, g, i, candidate, facts.kind(candidate), way.tiling, way.cost))
            cube = sum(job.tiling.aic * job.cost.least_ns for job in jobs)
            vector = sum(job.tiling.aiv * job.cost.least_ns for job in jobs)
            work = max(-(-cube // machine.aic_count), -(-vector // machine.aiv_count))
            if work < limit_ns:
                yield work, jobs


def optimum(instance: Instance, limit_nodes: int = 2_000_000) -> tuple[int, Decisions]:
    """Least latency (ns) of an instance, and decisions that reach it.

    Parameters
    ----------
    instance
        At most :data:`MAX_OPERATORS` operators.
    limit_nodes
        Nodes of the search, over all choices of kernels.

    Raises
    ------
    InputError
        If the graph is too large, some kernel would take no time, or the node limit is hit.
    """
    if len(instance.graph.operators) > MAX_OPERATORS:
        raise InputError(
            f"the exhaustive search takes at most {MAX_OPERATORS} operators, {instance.graph.name!r} has "
            f"{len(instance.graph.operators)}; choose another solver"
        )
    facts = Facts(instance)
    if min(facts.least_ns) == 0:
        raise InputError(f"a kernel of {instance.name!r} takes 0 ns; the exhaustive search wants at least 1")
    search = Search(facts, limit_nodes)
    for work_ns, jobs in sorted(cases(facts, search.best_ns), key=lambda item: item[0]):
        if work_ns < search.best_ns:
            search.run(Case(facts, jobs))
    return search.best_ns, search.best


def solve_exhaustive(instance: Instance, options: Options) -> Result:
    """The best schedule, proven by enumeration. Takes as long as it takes: the node limit alone ends it early.

    Raises
    ------
    InputError
        If the graph has more than :data:`MAX_OPERATORS` operators, or the node limit is hit.
    """
    facts = Facts(instance)
    latency, decisions = optimum(instance)
    bounds = {ARGUMENT: latency, **quick_bounds(facts)}
    schedule = build_schedule(facts, decisions, prove(facts, "exhaustive", latency, bounds))
    event = Event(options.elapsed_s, latency, schedule.proof.bound_ns, ARGUMENT)
    if options.on_event:
        options.on_event(event)
    return Result(schedule, options.elapsed_s, 1, options.seed, (event,))
