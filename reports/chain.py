"""What waits for what in a schedule: the chain that makes its latency, and how much each activity could be late.

Every instant of a schedule - the start and the end of a kernel, the start of its phase on the HBM channel, the start
and the end of a move - is an event, and every reason why one may not come before another is an arc with a length: the
kernel's own duration, its data, and the order in which cores, channel, link, addresses of L2 and shares of its rate
pass from one activity to the next. The latency is the length of a longest way through these arcs, plus what the
schedule idles on that way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from graphlib import TopologicalSorter
from itertools import pairwise

from instances.costs import explicit_move_ns
from instances.kernels import KernelKind
from instances.schedule import Move, MoveKind, Schedule, Source
from reports.facts import KernelFacts
from reports.view import View


class Cause(StrEnum):
    """Why one event may not come before another; of several that bind alike, the first here is named."""

    OWN = "own"  # the same kernel or move: it takes its time
    DATA = "data"
    MOVED = "moved"  # data that a move brings
    COPY = "copy"  # data that must be in HBM first
    CHANNEL = "channel"
    CORES = "cores"
    LINK = "link"
    SPACE = "space"  # addresses in L2
    RATE = "rate"  # share of the L2 rate
    START = "start"  # time 0
    NOTHING = "nothing"  # it could have begun earlier


class Part(StrEnum):
    """Which part of an activity a step of the chain is."""

    KERNEL = "kernel"  # all of it
    HEAD = "head"  # from its start to its phase on the channel
    PHASE = "phase"  # its phase on the channel, after which another uses it
    REST = "phase to end"  # its phase on the channel, and its tail
    MOVE = "move"
    IDLE = "idle"  # nothing on the chain


@dataclass(frozen=True)
class Step:
    """A stretch of the chain.

    ``number`` is the kernel's, ``None`` for moves and idle time; ``cause`` says why it begins then, and ``through`` by
    which tensor, cores or channel.
    """

    part: Part
    label: str
    number: int | None
    operators: tuple[str, ...]
    start_ns: int
    end_ns: int
    cause: Cause
    through: str

    @property
    def length_ns(self) -> int:
        """How much of the latency it is."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class _Arc:
    source: int
    target: int
    length_ns: int
    cause: Cause
    through: str = ""


@dataclass
class _Lane:
    """A part of the L2 rate that kernels hold one after the other."""

    share: int
    free_ns: int = 0
    by: int | None = None


_START, _PHASE, _END = range(3)


@dataclass
class Network:
    """Events and arcs of a schedule, with its own times or priced anew for another machine.

    Event ``3 i`` is the start of activity ``i``, ``3 i + 1`` the start of its phase on the channel, ``3 i + 2`` its
    end; activities are the kernels by number, then the moves.

    Parameters
    ----------
    view
        The schedule. The lengths of the arcs follow from the prices and rates of its instance.
    """

    view: View
    arcs: list[_Arc] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.view.rows
        self.moves = self.view.schedule.moves
        self.terms = [self.view.terms(row) for row in self.rows]
        for build in (self._own, self._data, self._channel, self._cores, self._addresses, self._rate):
            build()

    def _kernel(self, row: KernelFacts, at: int) -> int:
        return 3 * (row.number - 1) + at

    def _move(self, move: Move, at: int) -> int:
        return 3 * (len(self.rows) + self._place[move.tensor, move.kind, move.start_ns]) + at

    @cached_property
    def _place(self) -> dict[tuple[str, MoveKind, int], int]:
        return {(move.tensor, move.kind, move.start_ns): index for index, move in enumerate(self.moves)}

    @cached_property
    def times(self) -> dict[int, int]:
        """Event -> its instant in the schedule."""
        found = {}
        for row in self.rows:
            kernel = row.kernel
            found[self._kernel(row, _START)], found[self._kernel(row, _END)] = kernel.start_ns, kernel.end_ns
            if kernel.hbm_start_ns is not None:
                found[self._kernel(row, _PHASE)] = kernel.hbm_start_ns
        for move in self.moves:
            found[self._move(move, _START)], found[self._move(move, _END)] = move.start_ns, move.end_ns
        return found

    def _add(self, source: int, target: int, length_ns: int, cause: Cause, through: str = "") -> None:
        self.arcs.append(_Arc(source, target, length_ns, cause, through))

    def _own(self) -> None:
        for row, terms in zip(self.rows, self.terms, strict=True):
            start, end = self._kernel(row, _START), self._kernel(row, _END)
            self._add(start, end, terms.own_ns, Cause.OWN)
            if row.kernel.hbm_start_ns is not None:
                phase = self._kernel(row, _PHASE)
                self._add(start, phase, terms.head_ns, Cause.OWN)
                self._add(phase, end, terms.phase_ns + terms.tail_ns, Cause.OWN)
        for move in self.moves:
            self._add(self._move(move, _START), self._move(move, _END), self._move_ns(move), Cause.OWN)

    def _move_ns(self, move: Move) -> int:
        return explicit_move_ns(self.view.machine, self.view.graph.tensor[move.tensor].size_bytes)

    def _data(self) -> None:
        """Makers before readers, moves before readers, copies in HBM before those who read them there."""
        view = self.view
        for row in self.rows:
            start = self._kernel(row, _START)
            for read in row.kernel.reads:
                maker = view.maker(read.tensor)
                if maker is not None:
                    self._add(self._kernel(maker, _END), start, 0, Cause.DATA, read.tensor)
                if read.source is Source.HBM:
                    self._copy(read.tensor, start)
                    continue
                stay = next((s for s in view.stays.get(read.tensor, ()) if row in s.readers), None)
                if stay is not None and stay.move is not None:
                    self._add(self._move(stay.move, _END), start, 0, Cause.MOVED, read.tensor)
        for move in self.moves:
            start = self._move(move, _START)
            if move.kind is MoveKind.FILL:
                self._copy(move.tensor, start)
            maker = view.maker(move.tensor)
            if move.kind is MoveKind.SPILL and maker is not None:
                self._add(self._kernel(maker, _END), start, 0, Cause.DATA, move.tensor)

    def _copy(self, tensor: str, target: int) -> None:
        view = self.view
        there = view.in_hbm_ns(tensor)
        maker = view.maker(tensor)
        if there is None or maker is None:
            return
        spill = next(
            (m for m in self.moves if (m.tensor, m.kind, m.end_ns) == (tensor, MoveKind.SPILL, there)),
            None,
        )
        source = self._kernel(maker, _END) if spill is None else self._move(spill, _END)
        self._add(source, target, 0, Cause.COPY, tensor)

    def _channel(self) -> None:
        uses = [
            (row.kernel.hbm_start_ns, self._kernel(row, _PHASE), terms.phase_ns)
            for row, terms in zip(self.rows, self.terms, strict=True)
            if row.kernel.hbm_start_ns is not None
        ]
        uses += [(move.start_ns, self._move(move, _START), self._move_ns(move)) for move in self.moves]
        uses.sort()
        for (_, before, length), (_, after, _) in pairwise(uses):
            self._add(before, after, length, Cause.CHANNEL)

    def _cores(self) -> None:
        holders: dict[tuple[str, int], KernelFacts] = {}
        for row in self.rows:  # in order of start
            held = [("AIC", core) for core in row.kernel.aic_ids] + [("AIV", core) for core in row.kernel.aiv_ids]
            if row.kernel.kind is KernelKind.LINK:
                held.append(("link", 0))
            freed: dict[int, tuple[KernelFacts, list[str]]] = {}
            for core in held:
                if core in holders:
                    before = holders[core]
                    freed.setdefault(before.number, (before, []))[1].append(core[0])
                holders[core] = row
            for before, names in freed.values():
                what = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
                cause = Cause.LINK if names == ["link"] else Cause.CORES
                through = "the link" if cause is Cause.LINK else what
                self._add(self._kernel(before, _END), self._kernel(row, _START), 0, cause, through)

    def _addresses(self) -> None:
        """Who takes addresses of L2 waits for the last uses of what lay there."""
        view = self.view
        blocks: list[tuple[int, int, int, list[int], int, str]] = []  # start, low, high, last uses, taken by, name
        for stays in view.stays.values():
            for stay in stays:
                residency = stay.residency
                maker = view.maker(residency.tensor)
                uses = [self._kernel(row, _END) for row in stay.readers]
                uses += [self._move(move, _END) for move in stay.spills]
                if stay.move is not None:
                    taken = self._move(stay.move, _START)
                    uses.append(self._move(stay.move, _END))
                elif maker is not None:
                    taken = self._kernel(maker, _START)
                    uses.append(self._kernel(maker, _END))
                else:
                    continue
                low, high = residency.offset_bytes, residency.offset_bytes + residency.size_bytes
                blocks.append((residency.start_ns, low, high, uses, taken, residency.tensor))
        for row in self.rows:
            offset, size = row.kernel.workspace_offset_bytes, view.cost(row).workspace_bytes
            if offset is not None and size:
                start, end = self._kernel(row, _START), self._kernel(row, _END)
                name = f"the workspace of kernel {row.number}"
                blocks.append((row.kernel.start_ns, offset, offset + size, [end], start, name))
        held: list[tuple[int, int, list[int], str]] = []  # stretches of addresses, their last uses, what lay there
        for _, low, high, uses, taken, name in sorted(blocks, key=lambda block: block[0]):
            kept = []
            for bottom, top, before, what in held:
                if top <= low or high <= bottom:
                    kept.append((bottom, top, before, what))
                    continue
                for event in before:
                    if event // 3 != taken // 3:
                        self._add(event, taken, 0, Cause.SPACE, what)
                kept += [(a, b, before, what) for a, b in ((bottom, low), (high, top)) if a < b]
            held = [*kept, (low, high, uses, name)]

    def _rate(self) -> None:
        """Shares of the L2 rate: each kernel takes over the parts that were given up longest ago."""
        lanes = [_Lane(1000)]
        for index, row in enumerate(self.rows):
            wanted = row.kernel.tiling.l2_permille
            free = sorted((lane for lane in lanes if lane.free_ns <= row.kernel.start_ns), key=lambda one: one.free_ns)
            for lane in free:
                if wanted == 0:
                    break
                taken = min(wanted, lane.share)
                if taken < lane.share:
                    lanes.append(_Lane(lane.share - taken, lane.free_ns, lane.by))
                    lane.share = taken
                if lane.by is not None:
                    before = self._kernel(self.rows[lane.by], _END)
                    self._add(before, self._kernel(row, _START), 0, Cause.RATE, f"{taken} ‰ of the L2 rate")
                lane.free_ns, lane.by = row.kernel.end_ns, index
                wanted -= taken

    @cached_property
    def _order(self) -> list[int]:
        sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(self.times, ()))
        for arc in self.arcs:
            sorter.add(arc.target, arc.source)
        return list(sorter.static_order())

    @cached_property
    def _into(self) -> dict[int, list[_Arc]]:
        found: dict[int, list[_Arc]] = {event: [] for event in self.times}
        for arc in self.arcs:
            found[arc.target].append(arc)
        return found

    def earliest(self, not_before: dict[int, int] | None = None) -> dict[int, int]:
        """Each event as early as its arcs allow, in the order of the schedule; some not before given instants."""
        floor = not_before or {}
        found: dict[int, int] = {}
        for event in self._order:
            ready = max((found[arc.source] + arc.length_ns for arc in self._into[event]), default=0)
            found[event] = max(ready, floor.get(event, 0))
        return found

    @cached_property
    def slacks(self) -> tuple[int, ...]:
        """How much later each kernel could run, its phase with it, without a later end of the whole; by number.

        Every activity keeps its place in the order on cores, channel, link, addresses and shares of the L2 rate.
        """
        after: dict[int, int] = dict.fromkeys(self.times, 0)
        out: dict[int, list[_Arc]] = {event: [] for event in self.times}
        for arc in self.arcs:
            out[arc.source].append(arc)
        for event in reversed(self._order):
            after[event] = max((arc.length_ns + after[arc.target] for arc in out[event]), default=0)
        latency = max(self.times.values())
        return tuple(min(latency - self.times[e] - after[e] for e in self.events(row)) for row in self.rows)

    def events(self, row: KernelFacts) -> list[int]:
        """The events of a kernel: its start, its end, and the start of its phase where it has one."""
        return [e for e in (self._kernel(row, at) for at in (_START, _PHASE, _END)) if e in self.times]

    def chain(self) -> tuple[Step, ...]:
        """The steps that follow one another from time 0 to the end of the last activity, without a gap.

        Of several such chains one without idle time, where there is any: each of its events is as early as can be.
        """
        pinned = {event for event, early in self.earliest().items() if early == self.times[event]}
        event = max(self.times, key=lambda one: (self.times[one], one in pinned, one % 3 == _END, -one))
        steps: list[Step] = []
        pending: list[tuple[Part, int, int, int]] = []  # part, activity, from, to: its cause is still to come

        def settle(cause: Cause, through: str) -> None:
            for part, activity, begin, end in pending:
                steps.append(self._step(part, activity, begin, end, cause, through))
            pending.clear()

        while True:
            now = self.times[event]
            arcs = self._into[event]
            best = max(
                arcs,
                key=lambda arc: (
                    self.times[arc.source] + arc.length_ns,
                    arc.source in pinned,
                    -_RANK[arc.cause],
                    -arc.source,
                ),
                default=None,
            )
            # where a schedule breaks a rule an arc may say more than its times do: the steps still follow one another
            ready = 0 if best is None else min(now, self.times[best.source] + best.length_ns)
            if ready < now:
                settle(Cause.NOTHING, "")
                steps.append(Step(Part.IDLE, "nothing", None, (), ready, now, Cause.NOTHING, ""))
            if best is None:
                settle(Cause.START, "")
                break
            if best.length_ns == 0 and best.cause is not Cause.OWN:
                settle(best.cause, best.through)
            else:
                if pending:
                    settle(best.cause, best.through or self._label(best.source // 3))
                pending.append((self._part(best), best.source // 3, self.times[best.source], ready))
            event = best.source
        return tuple(step for step in _whole(reversed(steps)) if step.length_ns > 0)

    def _part(self, arc: _Arc) -> Part:
        activity = arc.source // 3
        if activity >= len(self.rows):
            return Part.MOVE
        if arc.cause is Cause.CHANNEL:
            return Part.PHASE
        if arc.target % 3 == _PHASE:
            return Part.HEAD
        return Part.KERNEL if arc.source % 3 == _START else Part.REST

    def _label(self, activity: int) -> str:
        if activity < len(self.rows):
            return f"kernel {self.rows[activity].label}"
        move = self.moves[activity - len(self.rows)]
        return f"{move.kind.value} of {move.tensor}"

    def _step(self, part: Part, activity: int, begin: int, end: int, cause: Cause, through: str) -> Step:
        row = self.rows[activity] if activity < len(self.rows) else None
        return Step(
            part,
            self._label(activity),
            None if row is None else row.number,
            () if row is None else row.kernel.operators,
            begin,
            end,
            cause,
            through,
        )

    def retimed(self, not_before: dict[int, int] | None = None) -> Schedule:
        """The schedule with the same decisions and order, each activity as early as it can be.

        It is one of the view's instance, whose prices and rates the arcs have, be it that of the schedule or one for
        another machine. The proof is left as it is, and the seal with it; who asks sees to them.
        """
        at = self.earliest(not_before)
        kernels = []
        for row in self.rows:
            update = {
                "start_ns": at[self._kernel(row, _START)],
                "end_ns": at[self._kernel(row, _END)],
                "buffers": self.view.cost(row).buffers,
            }
            if row.kernel.hbm_start_ns is not None:
                update["hbm_start_ns"] = at[self._kernel(row, _PHASE)]
                update["hbm_ns"] = self.terms[row.number - 1].phase_ns
            kernels.append(row.kernel.model_copy(update=update))
        moves = [
            move.model_copy(update={"start_ns": at[self._move(move, _START)], "end_ns": at[self._move(move, _END)]})
            for move in self.moves
        ]
        residencies = []
        for stays in self.view.stays.values():
            for stay in stays:
                maker = self.view.maker(stay.residency.tensor)
                uses = [at[self._kernel(row, _END)] for row in stay.readers]
                uses += [at[self._move(move, _END)] for move in stay.spills]
                if stay.move is not None:
                    start, arrival = at[self._move(stay.move, _START)], at[self._move(stay.move, _END)]
                elif maker is not None:
                    start, arrival = at[self._kernel(maker, _START)], at[self._kernel(maker, _END)]
                else:
                    continue
                times = {"start_ns": start, "end_ns": max(arrival, *uses) if uses else arrival}
                residencies.append(stay.residency.model_copy(update=times))
        update = {
            "instance": self.view.instance.fingerprint,
            "latency_ns": max(at.values()),
            "kernels": tuple(kernels),
            "moves": tuple(moves),
            "residencies": tuple(sorted(residencies, key=lambda one: (one.start_ns, one.end_ns, one.tensor))),
        }
        return self.view.schedule.model_copy(update=update)


_RANK = {cause: rank for rank, cause in enumerate(Cause)}


def because(step: Step) -> str:
    """Why a step of the chain begins when it does, in words."""
    return {
        Cause.OWN: "",
        Cause.DATA: f"it reads {step.through}, made just before",
        Cause.MOVED: f"it reads {step.through}, which the move before brings",
        Cause.COPY: f"it needs the copy of {step.through} in HBM",
        Cause.CHANNEL: f"the HBM channel carries {step.through} until then",
        Cause.CORES: f"it takes over {step.through} from the kernel before",
        Cause.LINK: "the link is busy until then",
        Cause.SPACE: f"its place in L2 is held by {step.through} until then",
        Cause.RATE: f"it takes over {step.through} from the kernel before",
        Cause.START: "it is first",
        Cause.NOTHING: "nothing makes it wait so long",
    }[step.cause]


def _whole(steps: Iterable[Step]) -> list[Step]:
    """Steps in which a kernel that goes from its head to its phase and on to its end is one."""
    found: list[Step] = []
    for step in steps:
        if found and (found[-1].part, step.part) == (Part.HEAD, Part.REST) and found[-1].number == step.number:
            found[-1] = replace(found[-1], part=Part.KERNEL, end_ns=step.end_ns)
        else:
            found.append(step)
    return found
