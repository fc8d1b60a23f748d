"""Streams, and the events that order what streams alone do not.

An activity is a kernel or an explicit move. It depends on who makes what it needs, on who still uses the addresses
that it writes to (in L2 and in the pool), on who holds its cores before it, and a move on the kernel after which it is
issued. Every dependence leads from an activity that has ended to one that starts no earlier, as planned, so that the
order never contradicts the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from instances.instance import Instance
from instances.kernels import KernelKind
from instances.plan import Event, Pool, Stream
from instances.schedule import Kernel, Move, MoveKind, Residency, Schedule, Source

Why = Literal["data", "l2_address", "hbm_address", "core", "issue"]


@dataclass(frozen=True)
class Activity:
    """A kernel or a move under the name that it has in the plan."""

    id: str
    start_ns: int
    end_ns: int
    kernel: Kernel | None = None
    move: Move | None = None


@dataclass
class Held:
    """Addresses held for a while: who takes them first, and who uses them until they are free."""

    name: str
    low: int
    high: int
    start_ns: int
    maker: Activity
    users: list[Activity] = field(default_factory=list)


class Order:
    """Who depends on whom in a schedule, and why."""

    def __init__(self, instance: Instance, schedule: Schedule, workspaces: Sequence[int]) -> None:
        """``workspaces`` are the bytes of L2 that each kernel holds while it runs, in order of start."""
        self._graph = instance.graph
        self.kernels = [
            Activity(f"k{i}", kernel.start_ns, kernel.end_ns, kernel=kernel)
            for i, kernel in enumerate(sorted_kernels(schedule))
        ]
        moves = sorted(schedule.moves, key=lambda move: (move.start_ns, move.tensor))
        self.moves = [Activity(f"m{i}", move.start_ns, move.end_ns, move=move) for i, move in enumerate(moves)]
        self.activities = sorted((*self.kernels, *self.moves), key=lambda a: (a.start_ns, a.end_ns, a.id))
        self.needs: dict[str, dict[str, set[Why]]] = {activity.id: {} for activity in self.activities}
        self.maker = {
            access.tensor: activity
            for activity in self.kernels
            if activity.kernel is not None
            for name in activity.kernel.operators
            for access in self._graph.operator[name].writes
        }
        self.stays = [self._stay(residency) for residency in schedule.residencies]
        self.in_hbm: dict[str, list[tuple[Activity, bool]]] = {}  # tensor -> who writes (true) or reads it there
        self._follow_tensors(schedule)
        self._reuse_l2(workspaces)
        self._queue_on_cores()
        self._issue_moves()

    def _add(self, before: Activity, after: Activity, why: Why) -> None:
        if before.id != after.id:
            self.needs[after.id].setdefault(before.id, set()).add(why)

    def _stay(self, residency: Residency) -> tuple[Residency, Held, int]:
        """A residency with who holds its addresses, and the instant from which the tensor is whole."""
        high = residency.offset_bytes + residency.size_bytes
        for activity in self.moves:
            move = activity.move
            if move is None or move.kind is MoveKind.SPILL:
                continue
            if (move.tensor, move.start_ns) == (residency.tensor, residency.start_ns):
                held = Held(residency.tensor, residency.offset_bytes, high, residency.start_ns, activity)
                return residency, held, move.end_ns
        maker = self.maker[residency.tensor]
        return residency, Held(residency.tensor, residency.offset_bytes, high, residency.start_ns, maker), maker.end_ns

    def stay_at(self, tensor: str, start_ns: int, end_ns: int) -> tuple[Residency, Held, int] | None:
        """The residency in which a tensor is found, whole, over an interval."""
        for residency, held, arrival_ns in self.stays:
            if residency.tensor == tensor and arrival_ns <= start_ns and end_ns <= residency.end_ns:
                return residency, held, arrival_ns
        return None

    def _use_l2(self, activity: Activity, tensor: str) -> None:
        found = self.stay_at(tensor, activity.start_ns, activity.end_ns)
        if found is not None:
            self._add(found[1].maker, activity, "data")
            found[1].users.append(activity)

    def _use_hbm(self, activity: Activity, tensor: str) -> None:
        """What a made tensor is read from HBM after: the first that wrote it there."""
        writers = [
            writer for writer, writes in self.in_hbm.get(tensor, ()) if writes and writer.end_ns <= activity.start_ns
        ]
        if writers:
            self._add(min(writers, key=lambda writer: writer.end_ns), activity, "data")
            self.in_hbm[tensor].append((activity, False))

    def _follow_tensors(self, schedule: Schedule) -> None:
        for activity in self.kernels:
            for write in activity.kernel.writes if activity.kernel else ():
                if write.hbm:
                    self.in_hbm.setdefault(write.tensor, []).append((activity, True))
        for activity in self.moves:
            if activity.move is not None and activity.move.kind is MoveKind.SPILL:
                self.in_hbm.setdefault(activity.move.tensor, []).append((activity, True))
        for activity in self.activities:
            if activity.kernel is not None:
                for read in activity.kernel.reads:
                    if read.tensor in self.maker:
                        self._add(self.maker[read.tensor], activity, "data")
                    if read.source is Source.L2:
                        self._use_l2(activity, read.tensor)
                    else:
                        self._use_hbm(activity, read.tensor)
            elif activity.move is not None and activity.move.kind is MoveKind.SPILL:
                self._use_l2(activity, activity.move.tensor)
            elif activity.move is not None and activity.move.kind is MoveKind.FILL:
                self._use_hbm(activity, activity.move.tensor)

    def _reuse_l2(self, workspaces: Sequence[int]) -> None:
        held = [stay for _, stay, _ in self.stays]
        for activity, size in zip(self.kernels, workspaces, strict=True):
            offset = activity.kernel.workspace_offset_bytes if activity.kernel else None
            if offset is not None and size:
                held.append(Held(f"workspace of {activity.id}", offset, offset + size, activity.start_ns, activity))
        self._reuse(held, "l2_address")

    def reuse_pool(self, pool: Pool) -> None:
        """Who takes over addresses in the pool waits for those who used them."""
        held = []
        for place in pool.places:
            using = self.in_hbm[place.tensor]
            first = min((one for one, writes in using if writes), key=lambda one: one.start_ns)
            top = place.offset_bytes + place.size_bytes
            users = [one for one, _ in using]
            held.append(Held(place.tensor, place.offset_bytes, top, place.start_ns, first, users))
        self._reuse(held, "hbm_address")

    def _reuse(self, held: list[Held], why: Why) -> None:
        """Whoever takes addresses waits for the last that held them; earlier ones are waited for by these."""
        last: list[tuple[int, int, Held]] = []  # disjoint stretches of addresses, who held them last
        for taker in sorted(held, key=lambda one: one.start_ns):
            left: list[tuple[int, int, Held]] = []
            for low, high, holder in last:
                if high <= taker.low or taker.high <= low:
                    left.append((low, high, holder))
                    continue
                for user in (holder.maker, *holder.users):
                    self._add(user, taker.maker, why)
                if low < taker.low:
                    left.append((low, taker.low, holder))
                if taker.high < high:
                    left.append((taker.high, high, holder))
            last = [*left, (taker.low, taker.high, taker)]

    def _queue_on_cores(self) -> None:
        last: dict[tuple[str, int], Activity] = {}
        for activity in self.kernels:
            kernel = activity.kernel
            if kernel is None:
                continue
            for core in (*(("aic", i) for i in kernel.aic_ids), *(("aiv", i) for i in kernel.aiv_ids)):
                if core in last:
                    self._add(last[core], activity, "core")
                last[core] = activity

    def _issue_moves(self) -> None:
        for activity in self.moves:
            ended = [kernel for kernel in self.kernels if kernel.end_ns <= activity.start_ns]
            if ended:
                self._add(max(ended, key=lambda kernel: (kernel.end_ns, kernel.start_ns)), activity, "issue")

    def streams(self) -> tuple[Stream, ...]:
        """Kernels in chains, on as few streams as run at once; collectives on one stream, and moves on another.

        A kernel follows one that it depends on anyway, or one with which it shares most cores, or the first that ended.
        """
        chains: list[list[Activity]] = []
        for activity in self.kernels:
            if activity.kernel is None or activity.kernel.kind is KernelKind.LINK:
                continue
            free = [chain for chain in chains if chain[-1].end_ns <= activity.start_ns]
            if free:
                max(free, key=lambda chain: self._closeness(chain[-1], activity)).append(activity)
            else:
                chains.append([activity])
        links = [a for a in self.kernels if a.kernel is not None and a.kernel.kind is KernelKind.LINK]
        kinds: list[tuple[Literal["compute", "collective", "move"], list[Activity]]] = []
        kinds += [("compute", chain) for chain in chains]
        kinds += [("collective", links), ("move", self.moves)]
        found = [(kind, tuple(one.id for one in chain)) for kind, chain in kinds if chain]
        return tuple(Stream(id=number, kind=kind, activities=ids) for number, (kind, ids) in enumerate(found))

    def _closeness(self, last: Activity, following: Activity) -> tuple[bool, int]:
        """How little it costs to put one kernel behind another: whether it waits in any case, and cores they share."""
        return last.id in self.needs[following.id], _shared(last.kernel, following.kernel)

    def events(self, streams: Iterable[Stream]) -> tuple[Event, ...]:
        """The dependences that neither a stream nor other events imply."""
        before = {b: a for stream in streams for a, b in zip(stream.activities, stream.activities[1:], strict=False)}
        number = {activity.id: i for i, activity in enumerate(self.activities)}
        past: dict[str, int] = {}  # all that comes before an activity, as a bit set
        kept: list[tuple[str, str, set[Why]]] = []
        for activity in self.activities:
            previous = before.get(activity.id)
            covered = 0 if previous is None else past[previous] | 1 << number[previous]
            for name in sorted(self.needs[activity.id], key=lambda one: -number[one]):  # later ones imply earlier ones
                if not covered >> number[name] & 1:
                    kept.append((name, activity.id, self.needs[activity.id][name]))
                    covered |= past[name] | 1 << number[name]
            past[activity.id] = covered
        recorded = {
            name: i for i, name in enumerate(sorted({name for name, _, _ in kept}, key=lambda one: number[one]))
        }
        return tuple(
            Event(id=recorded[name], record_after=name, wait_before=waiter, why=tuple(sorted(why)))
            for name, waiter, why in kept
        )


def sorted_kernels(schedule: Schedule) -> list[Kernel]:
    """Kernels in order of start."""
    return sorted(schedule.kernels, key=lambda kernel: (kernel.start_ns, kernel.end_ns, kernel.operators))


def _shared(one: Kernel | None, other: Kernel | None) -> int:
    if one is None or other is None:
        return 0
    return len(set(one.aic_ids) & set(other.aic_ids)) + len(set(one.aiv_ids) & set(other.aiv_ids))
