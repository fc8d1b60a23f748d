"""An oracle for tiny instances: every schedule that could be best is looked at, without a solver.

The decision space is that of the joint model, built a second time and by other means, so that the two can be held
against each other. Three levels are searched: all exact covers by candidates with all their implementations; for
every tensor all routes (:class:`Route`); and the order of activities that want the same resource.

Why that is complete. Once kernels and routes are fixed, every rule of time has the form ``v[j] >= v[i] + c`` over
events (start, phase and end of a kernel, start of a move, end of a stay in L2), without upper limits. The earliest
solution is a longest path and least in every component, hence in the latency. If it breaks a capacity at some instant,
a *conflict set* is alive there that does not fit together. In a best schedule its activities are not all alive at one
time; intervals that overlap pairwise share an instant, so for some ordered pair one ends before the other starts. The
search tries every ordered pair, each as one more constraint of the same form; one of them holds in the best schedule,
whose times are never before the earliest ones of that branch. Branches are finite: each constraint parts a pair that
no earlier one did. Blocks that fit into L2 by bytes but not by addresses, and kernels whose core counts fit but for
which ``formulations.cores`` finds no core numbers, are parted likewise: had all pairs that overlap in the earliest
solution overlapped in the best schedule as well, its addresses or core numbers would have served here. (The joint
model only counts cores.) All this takes activities of at least 1 ns, which :func:`optimum` checks.

What is skipped is dominated for certain: writing out a tensor that nobody reads from HBM, keeping or moving one that
nobody reads there; and, where all tensors and workspaces fit into L2 together, reading a made tensor anywhere but
where its producer left it (with all starts as they were, kernels end no later and no block is in another's way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations, product

from formulations.cores import assign_cores
from formulations.facts import Facts
from formulations.plan import Decisions, KernelChoice, MoveChoice, ResidencyChoice, time_decisions
from instances.errors import InputError, NoScheduleError
from instances.instance import Instance
from instances.kernels import Candidate, Cost, KernelKind, Tiling
from instances.schedule import MoveKind, Source
from solvers.conflicts import Activity, Arc, Demand, Network, Resource, place
from solvers.incumbent import RELAXATION_S, Incumbent, Relaxing
from solvers.interface import Options, Result
from solvers.sequential import unfused_decisions

MAX_OPERATORS = 6
"""Most operators of a graph that the search takes on."""

MAX_NODES = 2_000_000
"""Most nodes that the oracle looks at."""

SEARCH_SHARE = 0.9
"""Share of the remaining time that the search gets; the rest is for bounds, in case it must be cut short."""

ARGUMENT = "exhaustive search"
"""Name of the bound: nothing in the decision space is faster."""


class Way(StrEnum):
    """Where a kernel gets a tensor from."""

    STREAM = "stream"  # HBM, in its phase
    NEAR = "near"  # L2, where the producer left it
    FAR = "far"  # L2, where a prefetch or fill brought it


@dataclass(frozen=True, eq=False)
class Job:
    """A chosen kernel (``numbers``: candidate and implementation) and its events: start, start of its phase, end."""

    numbers: tuple[int, int]
    candidate: Candidate
    kind: KernelKind
    tiling: Tiling
    cost: Cost
    start: int
    phase: int
    end: int


@dataclass(frozen=True, eq=False)
class Route:
    """What becomes of one tensor.

    ``ways`` has the way of each reader, by position. Its producer leaves it in L2 (``keep``), writes it in its phase
    (``back``), or has it written by a move (``spill``); a move brings it (``fill``, also for a prefetch). ``events``:
    start of the spill, start of the fill, end of the stay that the producer began, and of the one that the fill
    began. ``phase_ns`` and ``drawn_ns`` are channel and port time that it adds to kernels, by position.
    """

    tensor: str
    events: range
    maker: Job | None
    ways: Mapping[int, Way]
    keep: bool
    back: bool
    spill: bool
    fill: bool
    move_ns: int
    phase_ns: Mapping[int, int]
    drawn_ns: Mapping[int, int]

    @property
    def channel_ns(self) -> int:
        """Time that it costs on the HBM channel."""
        return sum(self.phase_ns.values()) + (self.spill + self.fill) * self.move_ns

    def arcs(self, jobs: Sequence[Job]) -> Iterator[Arc]:
        """Constraints of its moves and stays."""
        spill, fill, near_end, far_end = self.events
        if self.maker is not None:
            wanted = ((self.keep, near_end), (self.spill, spill), (self.fill, fill))
            yield from ((self.maker.end, event, 0) for there, event in wanted if there)
        if self.spill:
            yield spill, near_end, self.move_ns
        if self.spill and self.fill:
            yield spill, fill, self.move_ns
        for position, way in self.ways.items():
            if way is Way.NEAR:
                yield jobs[position].end, near_end, 0
            elif way is Way.FAR:
                yield fill, jobs[position].start, self.move_ns
                yield jobs[position].end, far_end, 0
            elif self.spill:
                yield spill, jobs[position].start, self.move_ns


class Case:
    """One choice of kernels: its constraints, and the routes open to each tensor, costliest tensor first."""

    def __init__(self, facts: Facts, numbers: Iterable[tuple[int, int]]) -> None:
        self.facts = facts
        self.jobs: list[Job] = []
        for n, (g, i) in enumerate(numbers):
            candidate = facts.instance.candidates[g]
            way, events = facts.instance.implementations(candidate)[i], range(3 * n, 3 * n + 3)
            self.jobs.append(Job((g, i), candidate, facts.kind(candidate), way.tiling, way.cost, *events))
        self._maker = {t: job for job in self.jobs for t in job.candidate.writes}
        tensors = sorted({t for job in self.jobs for t in (*job.candidate.reads, *job.candidate.writes)})
        self.events = 3 * len(self.jobs) + 4 * len(tensors)
        needed = sum(facts.l2_size[t] for t in tensors) + sum(job.cost.workspace_bytes for job in self.jobs)
        self._roomy = needed <= facts.l2_capacity
        firsts = range(3 * len(self.jobs), self.events, 4)
        self.options = [list(self._routes(t, range(n, n + 4))) for t, n in zip(tensors, firsts, strict=True)]
        self.options.sort(key=lambda routes: -max(route.channel_ns for route in routes))
        self.least_ns = [min(route.channel_ns for route in routes) for routes in self.options]
        self.network = Network(self.events)
        self.network.require(arc for job in self.jobs for arc in self._arcs(job))

    def _arcs(self, job: Job) -> Iterator[Arc]:
        """Least duration, and producers before the kernel."""
        yield job.start, job.end, job.cost.least_ns
        yield job.start, job.phase, job.cost.head_ns
        yield from ((self._maker[t].end, job.start, 0) for t in job.candidate.reads if t in self._maker)

    def _routes(self, tensor: str, events: range) -> Iterator[Route]:
        """Every way to deal with a tensor that is not pointless."""
        facts, maker, stays = self.facts, self._maker.get(tensor), self.facts.can_stay(tensor)
        ways = [Way.STREAM]
        if maker is not None:
            ways = [Way.NEAR] if self._roomy else [Way.NEAR, Way.STREAM, Way.FAR] if stays else ways
        elif tensor in facts.prefetchable:
            ways = [Way.STREAM, Way.FAR]
        readers = [n for n, job in enumerate(self.jobs) if tensor in job.candidate.reads]
        for choice in product(ways, repeat=len(readers)):
            out = maker is not None and (facts.is_output(tensor) or any(way is not Way.NEAR for way in choice))
            for spill in (False, True) if out and stays else (False,):
                phase, drawn = {}, {}
                for n, way in zip(readers, choice, strict=True):
                    if way is Way.STREAM:
                        phase[n] = facts.read_ns(self.jobs[n].candidate, tensor)
                        moved = facts.read_bytes(self.jobs[n].candidate, tensor)
                        drawn[n] = facts.miss_ns(self.jobs[n].cost, moved)
                if maker is not None and out and not spill:
                    phase[self.jobs.index(maker)] = facts.write_ns(tensor)
                yield Route(
                    tensor=tensor,
                    events=events,
                    maker=maker,
                    ways=dict(zip(readers, choice, strict=True)),
                    keep=spill or Way.NEAR in choice,
                    back=out and not spill,
                    spill=spill,
                    fill=Way.FAR in choice,
                    move_ns=facts.move_ns(tensor),
                    phase_ns=phase,
                    drawn_ns=drawn,
                )

    def phase_ns(self, n: int, routes: Sequence[Route]) -> int:
        """Channel time of a kernel's phase."""
        return sum(route.phase_ns.get(n, 0) for route in routes)

    def duration_ns(self, n: int, routes: Sequence[Route]) -> int:
        """Least duration of a kernel: head, then the longest of engines, phase and ports, then tail."""
        cost, drawn = self.jobs[n].cost, sum(route.drawn_ns.get(n, 0) for route in routes)
        return cost.head_ns + max(cost.busy_ns, drawn, self.phase_ns(n, routes)) + cost.tail_ns

    def arcs_of(self, routes: Sequence[Route]) -> Iterator[Arc]:
        """What the last of some routes adds: its moves and stays, and longer phases and kernels."""
        yield from routes[-1].arcs(self.jobs)
        for n in routes[-1].phase_ns:
            job = self.jobs[n]
            yield job.phase, job.end, self.phase_ns(n, routes) + job.cost.tail_ns
            yield job.start, job.end, self.duration_ns(n, routes)


class Leaf:
    """Kernels and routes, with the resources that are left to share out; some tensors may still have no route.

    ``stays`` are the blocks of tensors in L2, by tensor and whether a move brought it; ``workspaces`` those of kernels,
    by position. The room for a stay is taken when its producer, or the move, starts.
    """

    def __init__(self, case: Case, routes: Sequence[Route]) -> None:
        self.case, self.routes, self.facts = case, routes, case.facts
        self.spans = [Activity(job.start, job.end, 0, case.duration_ns(n, routes)) for n, job in enumerate(case.jobs)]
        needed = [job.cost.workspace_bytes for job in case.jobs]
        self.workspaces = {n: (self.spans[n], size) for n, size in enumerate(needed) if size}
        self.stays: dict[tuple[str, bool], Demand] = {}
        for route in routes:
            size, (_, fill, near_end, far_end) = self.facts.l2_size[route.tensor], route.events
            if route.maker is not None and route.keep:
                self.stays[route.tensor, False] = (Activity(route.maker.start, near_end), size)
            if route.fill:
                self.stays[route.tensor, True] = (Activity(fill, far_end), size)
        self.resources = self._resources()

    def _resources(self) -> list[Resource]:
        """All that is shared: channel, link, cores, L2 rate, L2 bytes."""
        machine, jobs = self.facts.machine, self.case.jobs
        lengths = [self.case.phase_ns(n, self.routes) for n in range(len(jobs))]
        channel = [Activity(job.phase, job.phase, ns, ns) for job, ns in zip(jobs, lengths, strict=True) if ns]
        for route in self.routes:
            starts = [event for event, there in zip(route.events, (route.spill, route.fill), strict=False) if there]
            channel += [Activity(start, start, route.move_ns, route.move_ns) for start in starts]
        held = list(zip(self.spans, jobs, strict=True))
        return [
            Resource(1, [(activity, 1) for activity in channel]),
            Resource(1, [(span, 1) for span, job in held if job.kind is KernelKind.LINK]),
            Resource(machine.aic_count, [(span, job.tiling.aic) for span, job in held if job.tiling.aic]),
            Resource(machine.aiv_count, [(span, job.tiling.aiv) for span, job in held if job.tiling.aiv]),
            Resource(1000, [(span, job.tiling.l2_permille) for span, job in held if job.tiling.l2_permille]),
            Resource(self.facts.l2_capacity, self.blocks),
        ]

    @property
    def blocks(self) -> list[Demand]:
        """All that lies in L2, workspaces first."""
        return [*self.workspaces.values(), *self.stays.values()]

    def latency(self, times: Sequence[int]) -> int:
        """End of the last kernel or spill."""
        spills = [times[route.events[0]] + route.move_ns for route in self.routes if route.spill]
        return max([*(times[job.end] for job in self.case.jobs), *spills])

    def bound(self, times: Sequence[int]) -> int:
        """No branch from here ends earlier."""
        return max(self.latency(times), *(resource.bound(times) for resource in self.resources))

    def clashes(self, times: Sequence[int]) -> list[list[Activity]]:
        """A conflict set of each resource that is asked for too much; else of blocks, else of kernels, that clash."""
        found = [conflict for resource in self.resources if (conflict := resource.conflict(times))]
        if not found and place(self.blocks, times, self.facts.l2_capacity) is None:
            found = [self._unplaced(times)]
        if not found and not self._has_cores(times):
            found = [list(self.spans)]
        return found

    def _unplaced(self, times: Sequence[int]) -> list[Activity]:
        """Blocks that cannot all be placed, as few as dropping them one by one leaves."""
        left = self.blocks
        for block in self.blocks:
            fewer = [other for other in left if other[0] is not block[0]]
            if place(fewer, times, self.facts.l2_capacity) is None:
                left = fewer
        return [activity for activity, _ in left]

    def _has_cores(self, times: Sequence[int]) -> bool:
        """Whether core numbers exist: a mixed kernel needs cube cores together with their own vector cores."""
        runs = [(times[job.start], times[job.end], job.kind, job.tiling) for job in self.case.jobs]
        try:
            assign_cores(self.facts.machine, sorted(runs, key=lambda run: run[:2]))
        except NoScheduleError:
            return False
        return True

    def decisions(self, times: Sequence[int]) -> Decisions:
        """The schedule with these times, as solvers hand it over."""
        places = place(self.blocks, times, self.facts.l2_capacity) or []
        offsets = dict(zip([*self.workspaces, *self.stays], places, strict=True))
        routes = {route.tensor: route for route in self.routes}
        kernels, moves = [], []
        for n, job in enumerate(self.case.jobs):
            ways = {t: routes[t].ways[n] for t in job.candidate.reads}
            choice = KernelChoice(
                candidate=job.numbers[0],
                implementation=job.numbers[1],
                start_ns=times[job.start],
                hbm_start_ns=times[job.phase] if self.case.phase_ns(n, self.routes) else None,
                reads={t: Source.HBM if way is Way.STREAM else Source.L2 for t, way in ways.items()},
                writes={t: (routes[t].keep, routes[t].back) for t in job.candidate.writes},
                far=frozenset(t for t, way in ways.items() if way is Way.FAR),
                workspace_offset_bytes=offsets.get(n),
            )
            kernels.append(choice)
        for route in self.routes:
            if route.spill:
                moves.append(MoveChoice(route.tensor, MoveKind.SPILL, times[route.events[0]]))
            if route.fill:
                kind = MoveKind.FILL if route.maker else MoveKind.PREFETCH
                moves.append(MoveChoice(route.tensor, kind, times[route.events[1]]))
        stays = (ResidencyChoice(t, offsets[t, brought], brought) for t, brought in self.stays)
        return Decisions(tuple(kernels), tuple(moves), tuple(stays))


class _CutShortError(Exception):
    """The search is told to stop."""


class Search:
    """Branch and bound over routes and orders; keeps the best schedule of all cases.

    Starts from one kernel per operator, one after the other, with everything through HBM. ``stop`` is told the number
    of nodes so far and says whether to end; it is asked at every choice of kernels and every node.
    """

    def __init__(self, facts: Facts, stop: Callable[[int], bool]) -> None:
        self.best = unfused_decisions(facts)
        self.best_ns = time_decisions(facts, self.best).latency_ns
        self.nodes = 0
        self._facts = facts
        self._stop = stop

    def run(self) -> bool:
        """Look at all schedules that may beat the best; whether that came to its end, so that none does."""
        try:
            for least, numbers in sorted(self._cases()):
                if least < self.best_ns:
                    self._look_at(Case(self._facts, numbers))
        except _CutShortError:
            return False
        return True

    def _cases(self) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
        """As :func:`cases`; a product over kernels, so that listing them can take longer than there is time."""
        for case in cases(self._facts):
            self._check()
            yield case

    def _check(self) -> None:
        if self._stop(self.nodes):
            raise _CutShortError

    def _look_at(self, case: Case) -> None:
        """Look at all schedules with the kernels of a case that may beat the best."""
        times = self._child(case.network, [0] * case.events, 0)
        if times is not None:
            self._route(case, times, [])

    def _child(self, network: Network, times: Sequence[int], mark: int) -> list[int] | None:
        self.nodes += 1
        self._check()
        return network.earliest(times, mark, self.best_ns)

    def _route(self, case: Case, times: Sequence[int], routes: list[Route]) -> None:
        """Decide on one more tensor; those still open delay nobody, but cost the channel their least."""
        leaf = Leaf(case, routes)
        channel = sum(route.channel_ns for route in routes) + sum(case.least_ns[len(routes) :])
        if max(channel, leaf.bound(times)) >= self.best_ns:
            return
        if len(routes) == len(case.options):
            self._order(leaf, times)
            return
        for route in case.options[len(routes)]:
            chosen = [*routes, route]
            mark = case.network.require(case.arcs_of(chosen))
            later = self._child(case.network, times, mark)
            if later is not None:
                self._route(case, later, chosen)
            case.network.withdraw(mark)

    def _order(self, leaf: Leaf, times: Sequence[int]) -> None:
        """Record the earliest times if they make a schedule, else part a conflict set in all ways, best first.

        Of several conflict sets, the one that leaves the fewest and the longest branches.
        """
        clashes = leaf.clashes(times)
        if not clashes:
            self.best_ns, self.best = leaf.latency(times), leaf.decisions(times)
            return
        branches = [self._part(leaf, times, activities) for activities in clashes]
        network = leaf.case.network
        for bound, later, arc in min(branches, key=lambda found: (len(found), -sum(bound for bound, _, _ in found))):
            if bound < self.best_ns:
                mark = network.require([arc])
                self._order(leaf, later)
                network.withdraw(mark)

    def _part(self, leaf: Leaf, times: Sequence[int], apart: Sequence[Activity]) -> list[tuple[int, list[int], Arc]]:
        """All ways to let one of some activities end before another starts: bound, times and constraint of each."""
        network = leaf.case.network
        found = []
        for one, two in permutations(apart, 2):
            if one.meets(two, times):
                arc = (one.end, two.start, one.lag_ns)
                mark = network.require([arc])
                later = self._child(network, times, mark)
                network.withdraw(mark)
                if later is not None and (bound := leaf.bound(later)) < self.best_ns:
                    found.append((bound, later, arc))
        return sorted(found)


def covers(instance: Instance, chosen: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All sets of candidates, from those chosen on, that hold every operator once."""
    covered = {name for g in chosen for name in instance.candidates[g].operators}
    missing = next((name for name in instance.candidates_of if name not in covered), None)
    if missing is None:
        yield chosen
        return
    for g in instance.candidates_of[missing]:
        if covered.isdisjoint(instance.candidates[g].operators):
            yield from covers(instance, (*chosen, g))


def cases(facts: Facts) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """All choices of candidates with implementations (numbers), and what they ask at least of the cores (ns)."""
    instance, machine = facts.instance, facts.machine
    for cover in covers(instance):
        ways = [instance.implementations(instance.candidates[g]) for g in cover]
        for numbers in product(*(range(len(way)) for way in ways)):
            chosen = [way[i] for way, i in zip(ways, numbers, strict=True)]
            cube = sum(way.tiling.aic * way.cost.least_ns for way in chosen)
            vector = sum(way.tiling.aiv * way.cost.least_ns for way in chosen)
            least = max(-(-cube // machine.aic_count), -(-vector // machine.aiv_count))
            yield least, tuple(zip(cover, numbers, strict=True))


def optimum(instance: Instance, limit_nodes: int = MAX_NODES) -> tuple[int, Decisions]:
    """Least latency (ns) of an instance, and decisions that reach it.

    Parameters
    ----------
    instance
        At most :data:`MAX_OPERATORS` operators.
    limit_nodes
        Most nodes of the search, over all choices of kernels.

    Raises
    ------
    InputError
        If the graph is too large, a kernel would take no time, or the node limit is hit.
    """
    search = Search(_searchable(instance), lambda nodes: nodes > limit_nodes)
    if not search.run():
        raise InputError(f"the exhaustive search hit its limit of {limit_nodes} nodes; give a smaller graph")
    return search.best_ns, search.best


def _searchable(instance: Instance) -> Facts:
    """Facts of an instance that the search can take on; :class:`InputError` where it cannot."""
    if (count := len(instance.graph.operators)) > MAX_OPERATORS:
        raise InputError(f"{count} operators are too many for an exhaustive search; give at most {MAX_OPERATORS}")
    facts = Facts(instance)
    if min(facts.least_ns) == 0:
        raise InputError(f"a kernel of {instance.name!r} takes 0 ns; the exhaustive search wants at least 1")
    return facts


def solve_exhaustive(instance: Instance, options: Options) -> Result:
    """The best schedule, proven by enumeration; where the time limit cuts that short, the best so far.

    The bound is then that of the relaxations, as the enumeration proves nothing before its end. The clock is looked
    at between nodes; workers, seed and gap play no part. Raises :class:`InputError` if the graph is too large or a
    kernel would take no time.
    """
    facts = _searchable(instance)
    incumbent = Incumbent(instance, options)
    reserve_s = (1 - SEARCH_SHARE) * options.remaining_s
    search = Search(facts, lambda _: options.remaining_s <= reserve_s or incumbent.progress.stopped)
    complete = search.run()
    incumbent.offer_decisions(search.best, ARGUMENT)
    if complete:
        incumbent.prove({ARGUMENT: search.best_ns})
    incumbent.prove_quickly()
    if not complete and not incumbent.progress.stopped:
        # with a horizon the relaxation speaks only of schedules up to there, so it proves no more than the latency
        Relaxing(incumbent, search.best_ns, min(RELAXATION_S, options.remaining_s)).wait(options.remaining_s)
    return incumbent.finish("exhaustive")
