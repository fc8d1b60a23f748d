"""What every method for modulo scheduling shares: bounds of the interval, slots to begin with, arcs of an order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from formulations.cycle_ratio import Arc, ArcList
from instances.machine import MemoryName
from instances.pipelines.loop import LoopKernel, PipelineSchedule


@dataclass(frozen=True)
class Bound:
    """A proven lower bound (ps) and its argument."""

    ps: int
    by: str


def given_arcs(loop: LoopKernel) -> list[Arc]:
    """The dependences of the loop itself."""
    return [(d.source, d.target, d.latency_ps, d.distance) for d in loop.dependences]


def ring_arcs(loop: LoopKernel, slots: Mapping[str, int], lead: int) -> list[Arc]:
    """What so many slots of each ring demand, with so long a lead."""
    return [
        arc for ring in loop.rings for arc in loop.ring_arcs(ring, slots[ring.key], lead) if loop.cyclic or not arc[3]
    ]


def order_arcs(loop: LoopKernel, start_ps: Sequence[int], ii_ps: int) -> Iterator[Arc]:
    """The order that a schedule gives the users of each resource, around the interval."""
    for users in loop.resources.values():
        around = sorted(users, key=lambda user: (start_ps[user[0]] % ii_ps, user[1], user[0]))
        if len(around) == 1 and loop.cyclic:
            yield around[0][0], around[0][0], around[0][1], 1
            continue
        for (one, length), (other, _) in pairwise(around):
            yield one, other, length, start_ps[one] // ii_ps - start_ps[other] // ii_ps
        if loop.cyclic and around:
            (one, length), (other, _) = around[-1], around[0]
            yield one, other, length, start_ps[one] // ii_ps - start_ps[other] // ii_ps + 1


def most_slots(loop: LoopKernel) -> dict[str, int]:
    """Slots that each ring could have if the others of its memory had one."""
    return {ring.key: ring.most for ring in loop.rings}


def even_slots(loop: LoopKernel) -> dict[str, int]:
    """Slots shared out evenly: a second for each ring while there is room, then a third, then a fourth."""
    slots = {ring.key: 1 for ring in loop.rings}
    for level in range(2, max((ring.most for ring in loop.rings), default=1) + 1):
        for ring in loop.rings:
            raised = {**slots, ring.key: level}
            if ring.most >= level and slots[ring.key] == level - 1 and fits(loop, ring.memory, raised):
                slots = raised
    return slots


def fits(loop: LoopKernel, memory: MemoryName, slots: dict[str, int]) -> bool:
    """Whether so many slots fit in a memory."""
    return loop.used_bytes(memory, slots) <= loop.room_bytes[memory]


def ring_bytes(loop: LoopKernel, slots: Mapping[str, int]) -> int:
    """Bytes of all rings."""
    return sum(ring.size_bytes * slots[ring.key] for ring in loop.rings)


def span_ps(loop: LoopKernel, start_ps: Sequence[int]) -> int:
    """From the first start to the last end of an iteration."""
    return max(start + op.busy_ps for start, op in zip(start_ps, loop.ops, strict=True))


def least_interval(loop: LoopKernel) -> Bound | None:
    """``max(resource bound, recurrence bound)`` (Rau); ``None`` where no slots let the loop run at all.

    Resource bound: no resource is held for longer than the interval. Recurrence bound: the longest cycle of
    dependences, with every ring at the most slots that it could have, at the best lead.
    """
    if not loop.cyclic:
        return shortest_iteration(loop)
    found = [bound for lead in range(loop.most_lead + 1) if (bound := interval_bound(loop, lead)) is not None]
    return min(found, key=lambda bound: bound.ps, default=None)


def interval_bound(loop: LoopKernel, lead: int) -> Bound | None:
    """:func:`least_interval` at one lead."""
    holder = max(loop.resources, key=lambda resource: sum(ps for _, ps in loop.resources[resource]))
    resource = Bound(max(1, sum(ps for _, ps in loop.resources[holder])), f"{holder} is busy all the time")
    arcs = ArcList(len(loop.ops), [*given_arcs(loop), *ring_arcs(loop, most_slots(loop), lead)])
    periodic = arcs.least(resource.ps)
    if periodic is None:
        return None
    if periodic.ii_ps == resource.ps:
        return resource
    return Bound(periodic.ii_ps, f"cycle of {described(loop, periodic.cycle)}")


def shortest_iteration(loop: LoopKernel) -> Bound | None:
    """Lower bound of the length of a single iteration: its longest path, or what comes before and after a pipe."""
    arcs = ArcList(len(loop.ops), [*given_arcs(loop), *ring_arcs(loop, most_slots(loop), 0)])
    heads = arcs.starts(loop.serial_ps)
    if heads is None:
        return None
    tails = arcs.tails(loop.serial_ps, [op.busy_ps for op in loop.ops])
    best = Bound(max(head + tail for head, tail in zip(heads, tails, strict=True)), "longest path")
    for resource, users in loop.resources.items():
        first = min(heads[op] for op, _ in users)
        rest = min(tails[op] - length for op, length in users)
        through = first + sum(length for _, length in users) + rest
        if through > best.ps:
            best = Bound(through, f"{resource}, with what comes before and after it")
    return best


def objection(loop: LoopKernel, schedule: PipelineSchedule) -> str:
    """What is wrong with a schedule of a loop, by the conditions of the formulation; empty where nothing is."""
    if schedule.loop != loop.fingerprint or len(schedule.start_ps) != len(loop.ops):
        return "made for another loop"
    if set(schedule.slots) != {ring.key for ring in loop.rings} or schedule.lead > loop.most_lead:
        return "other rings or a longer lead"
    ii, starts = schedule.ii_ps, schedule.start_ps
    for source, target, latency, distance in (*given_arcs(loop), *ring_arcs(loop, schedule.slots, schedule.lead)):
        if starts[target] + ii * distance < starts[source] + latency:
            return f"{loop.ops[target].name} does not wait for {loop.ops[source].name}"
    for memory in loop.room_bytes:
        if not fits(loop, memory, schedule.slots):
            return f"slots exceed {memory.value}"
    for resource, users in loop.resources.items():
        around = sorted((starts[op] % ii if loop.cyclic else starts[op], length) for op, length in users)
        ends = [begin + length for begin, length in around]
        if any(end > begin for end, (begin, _) in zip(ends, around[1:], strict=False)):
            return f"{resource} is held twice"
        if loop.cyclic and ends[-1] - ii > around[0][0]:
            return f"{resource} is held twice"
    return ""


def described(loop: LoopKernel, cycle: Sequence[int]) -> str:
    """The operations of a cycle, the middle of a long one left out."""
    names = list(dict.fromkeys(loop.ops[op].name for op in cycle))
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])
