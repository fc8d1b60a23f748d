"""The event loop: cores with in-order pipes, traffic that shares L2 and HBM, activities that wait for one another."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from instances.errors import InvalidScheduleError
from instances.kernels import Buffer
from opt.simulation.program import Program, Slot, overlapping
from opt.simulation.sharing import Flow, share_out

SOON = 1e-6
"""Times (ns) closer than this are one instant."""


@dataclass(frozen=True)
class Corruption:
    """A buffer that did not hold what an operation expected: whose address was used too early, or where nothing was."""

    kernel: str
    buffer: str
    memory: str
    time_ns: int
    by: str


@dataclass(eq=False)
class Activity:
    """A kernel, a collective or a move: waits for others, then runs its programs, a fixed time or one flow."""

    name: str
    waits: int = 0
    feeds: list[Activity] = field(default_factory=list)
    head_ns: float = 0.0
    fixed_ns: float = 0.0
    flow: Flow | None = None
    programs: list[Program] = field(default_factory=list)
    buffers: tuple[Buffer, ...] = ()
    issues: list[tuple[float, Activity]] = field(default_factory=list)
    start_ns: float = -1.0
    end_ns: float = -1.0
    running: int = 0
    core_ns: float = 0.0  # of the core that takes longest, from its own first operation on
    stalls: dict[str, float] = field(default_factory=dict)

    def wait_since(self, other: Activity, ns: float) -> None:
        """Not to start before so much time has passed since another began."""
        other.issues.append((ns, self))
        self.waits += 1

    def wait_for(self, others: Iterable[Activity | None]) -> None:
        """Not to start before these have ended, each counted once; ``None`` is nobody."""
        for other in others:
            if other is not None and other is not self and self not in other.feeds:
                other.feeds.append(self)
                self.waits += 1


class _Core:
    """A program as it runs; stands for all cores that run the same."""

    def __init__(self, activity: Activity, program: Program, clobbers: dict[Slot, tuple[Slot, ...]]) -> None:
        self.activity = activity
        self.ops = program.ops
        self.cores = program.cores
        self.clobbers = clobbers
        self.queues: dict[str, deque[int]] = {}
        for number, op in enumerate(program.ops):
            self.queues.setdefault(op.pipe, deque()).append(number)
        self.started: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.free: dict[str, float] = dict.fromkeys(self.queues, 0.0)
        self.taken: set[str] = set()
        self.left = len(program.ops)
        self.begun = 0.0
        self.holds: dict[Slot, tuple[int, str]] = {}  # slot -> version and who filled it

    def ready_at(self, number: int) -> float | None:
        """When an operation may start; ``None`` while something it waits for has not ended or begun."""
        op, when = self.ops[number], 0.0
        for other in op.waits:
            end = self.ended.get(other)
            if end is None:
                return None
            when = max(when, end)
        for other, share in op.after:
            begun = self.started.get(other)
            if begun is None:
                return None
            when = max(when, begun + share * self.ops[other].nominal_ns)
        return when


GROUPS = 4
"""Groups of cores with the same program that are simulated apart. Cores of a chip are not in step: while some load
from L2, others draw on HBM. In one group, all leave HBM idle at the same moments; streamed weights take 30 % more."""


def _staggered(program: Program) -> list[tuple[int, float]]:
    """(cores, ns by which they start later) of each group; the groups spread over the first loads."""
    groups = min(GROUPS, program.cores)
    first = sum(op.nominal_ns for op in program.ops[:2] if op.moved_bytes)
    sizes = [program.cores // groups + (group < program.cores % groups) for group in range(groups)]
    return [(size, first * group / groups) for group, size in enumerate(sizes)]


class Engine:
    """Runs activities to the end; rates in bytes per ns."""

    def __init__(self, l2_rate: float, hbm_rate: float) -> None:
        self._l2_rate, self._hbm_rate = l2_rate, hbm_rate
        self.now = 0.0
        self.corruptions: list[Corruption] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._flows: dict[int, tuple[Flow, float, Callable[[float], None]]] = {}
        self._flow_time = 0.0
        self._flow_mark = 0

    def run(self, activities: list[Activity]) -> None:
        """Start what waits for nothing, and go on until nothing happens any more."""
        for activity in activities:
            if not activity.waits:
                self._begin(activity)
        while self._events:
            when, _, act = heapq.heappop(self._events)
            self.now = max(self.now, when)
            act()
        if stuck := [activity.name for activity in activities if activity.end_ns < 0]:
            waiting = ", ".join(stuck[:3])
            raise InvalidScheduleError(
                f"the plan stands still: {len(stuck)} activities wait for others, {waiting} first"
            )

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, act))

    # ---------------------------------------------------------------- activities

    def _begin(self, activity: Activity) -> None:
        activity.start_ns = self.now
        for ns, other in activity.issues:
            self._at(self.now + ns, lambda other=other: self._release([other]))  # type: ignore[misc]
        self._at(self.now + activity.head_ns, lambda: self._body(activity))

    def _body(self, activity: Activity) -> None:
        if activity.flow is not None:
            flow = activity.flow
            self._add_flow(flow, lambda _: self._finish(activity))
        elif activity.programs:
            clobbers = overlapping(activity.buffers)
            cores = [
                (_Core(activity, replace(program, cores=count), clobbers), late)
                for program in activity.programs
                for count, late in _staggered(program)
            ]
            activity.running = len(cores)
            for core, late in cores:
                self._at(self.now + late, lambda core=core: self._launch(core))  # type: ignore[misc]
        else:
            self._at(self.now + activity.fixed_ns, lambda: self._finish(activity))

    def _launch(self, core: _Core) -> None:
        core.free = dict.fromkeys(core.free, self.now)
        core.begun = self.now
        self._step(core, list(core.queues))

    def _finish(self, activity: Activity) -> None:
        activity.end_ns = self.now
        self._release(activity.feeds)

    def _release(self, waiting: list[Activity]) -> None:
        for other in waiting:
            other.waits -= 1
            if not other.waits:
                self._begin(other)

    # ---------------------------------------------------------------- operations

    def _step(self, core: _Core, pipes: Iterable[str]) -> None:
        """Start what can start on some pipes."""
        for pipe in pipes:
            queue = core.queues[pipe]
            if pipe in core.taken or not queue:
                continue
            when = core.ready_at(queue[0])
            if when is None:
                continue
            if when > self.now + SOON:
                core.taken.add(pipe)  # until then
                self._at(when, lambda pipe=pipe: self._wake(core, pipe))  # type: ignore[misc]
                continue
            self._start(core, pipe, queue.popleft())

    def _wake(self, core: _Core, pipe: str) -> None:
        core.taken.discard(pipe)
        self._step(core, (pipe,))

    def _start(self, core: _Core, pipe: str, number: int) -> None:
        op = core.ops[number]
        core.taken.add(pipe)
        core.started[number] = self.now
        self._blame(core, pipe, number)
        self._look(core, number)
        for slot, version in op.writes:
            core.holds[slot] = (version, f"{pipe} {number}")
            for other in core.clobbers.get(slot, ()):
                core.holds[other] = (-1, slot[0])
        if op.moved_bytes > 0:
            # start-ups count as a lower rate: cores that run the same are not in step, some move while others start up
            flow = Flow(op.moved_bytes, op.moved_bytes / op.nominal_ns, core.cores, op.hbm_share)
            self._add_flow(flow, lambda late: self._end(core, pipe, number, late, flow))
        else:
            self._at(self.now + op.ns, lambda: self._end(core, pipe, number, 0.0, None))
        heads = (core.ops[queue[0]] for queue in core.queues.values() if queue)
        if any(other == number for head in heads for other, _ in head.after):
            self._step(core, list(core.queues))

    def _blame(self, core: _Core, pipe: str, number: int) -> None:
        """Count the time for which the pipe stood still, by what it waited for."""
        idle = self.now - core.free[pipe]
        if idle <= SOON or not core.ops[number].waits:
            return
        last = max(core.ops[number].waits, key=lambda other: core.ended[other])
        reason = f"{pipe} waits for {core.ops[last].pipe}"
        stalls = core.activity.stalls
        stalls[reason] = stalls.get(reason, 0.0) + idle

    def _look(self, core: _Core, number: int, written: Collection[Slot] = ()) -> None:
        """That the slots an operation reads hold what it expects, those aside that it has ``written`` meanwhile."""
        for slot, version in core.ops[number].reads:
            if slot in written:
                continue
            held = core.holds.get(slot, (0, ""))
            if held[0] != version:
                self.corruptions.append(
                    Corruption(core.activity.name, slot[0], slot[1].value, round(self.now), held[1] or "nobody")
                )
                core.holds[slot] = (version, "")  # said once

    def _end(self, core: _Core, pipe: str, number: int, late_ns: float, flow: Flow | None) -> None:
        op, activity = core.ops[number], core.activity
        for slot, version in op.writes:
            held = core.holds.get(slot, (0, ""))
            if held[0] != version:
                self.corruptions.append(Corruption(activity.name, slot[0], slot[1].value, round(self.now), held[1]))
        self._look(core, number, [slot for slot, _ in op.writes])
        core.taken.discard(pipe)
        core.ended[number] = core.free[pipe] = self.now
        if late_ns > SOON and flow is not None and flow.held_by:
            reason = f"{pipe} shares {flow.held_by}"
            activity.stalls[reason] = activity.stalls.get(reason, 0.0) + late_ns
        core.left -= 1
        if core.left:
            self._step(core, list(core.queues))
            return
        activity.core_ns = max(activity.core_ns, self.now - core.begun)
        activity.running -= 1
        if not activity.running:
            self._finish(activity)

    # ---------------------------------------------------------------- traffic

    def _advance(self) -> None:
        """What the flows have moved since the rates were set."""
        passed = self.now - self._flow_time
        if passed > 0:
            for flow, _, _ in self._flows.values():
                flow.left -= passed * flow.now
        self._flow_time = self.now

    def _add_flow(self, flow: Flow, done: Callable[[float], None]) -> None:
        self._advance()
        self._count += 1
        self._flows[self._count] = (flow, self.now + flow.left / flow.rate, done)
        self._reshare()

    def _reshare(self) -> None:
        share_out([flow for flow, _, _ in self._flows.values()], self._l2_rate, self._hbm_rate)
        if not self._flows:
            return
        soonest = min(flow.left / flow.now for flow, _, _ in self._flows.values() if flow.now > 0)
        self._flow_mark += 1
        mark = self._flow_mark
        self._at(self.now + max(0.0, soonest), lambda: self._flows_due(mark))

    def _flows_due(self, mark: int) -> None:
        if mark != self._flow_mark:
            return
        self._advance()
        due = [key for key, (flow, _, _) in self._flows.items() if flow.left <= SOON * max(1.0, flow.now)]
        ended = [self._flows.pop(key) for key in due]
        self._reshare()
        for _, undisturbed, done in ended:
            done(self.now - undisturbed)
