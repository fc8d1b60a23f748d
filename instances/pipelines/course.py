"""The course of a whole loop under its modulo schedule: prologue, steady state, and an epilogue that is not held up.

In the steady state an operation may wait for one of a later iteration: a vector core for the turn that the products of
the next tile have. The last iterations have nobody after them, and start each operation as soon as what it waits for
allows, in the order of the schedule. Where the loop is short, that is so of all of its iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from instances.costs.terms import Misfit
from instances.pipelines.loop import KernelLoop, LoopKernel, PipelineSchedule

MOST_LAST = 8
"""Iterations at the end that are run out of step; with more in flight than that, the others keep the schedule."""

MOST_STARTS = 4000
"""Operations of these, over all iterations."""

MOST_STAGES = 32
"""Iterations in flight beyond which a schedule is none: loops of this package have up to ten."""


class Uncertified(Misfit):
    """A kernel whose loop has no schedule in the instance, or one that does not go with it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"pipeline schedule ({why})", 0)


@dataclass(frozen=True)
class Course:
    """A whole run, in ps from its start: the end of all, and per pipe its first start and its last end.

    ``last`` are the iterations that run out of step, at the end.
    """

    end_ps: int
    first_ps: dict[str, int]
    last_ps: dict[str, int]
    last: int

    def fill_ps(self, pipe: str) -> int:
        """From the start to the first operation of a pipe."""
        return self.first_ps[pipe]

    def drain_ps(self, pipe: str) -> int:
        """From the last end of a pipe to the end of all."""
        return self.end_ps - self.last_ps[pipe]


def course(loop: KernelLoop, schedule: PipelineSchedule) -> Course:
    """The run of all iterations: ``entry``, then ``n - m`` of them an interval apart, then the last ``m``.

    :class:`Uncertified` where the schedule's own times do not keep what its operations wait for.
    """
    body, ii = loop.body, schedule.ii_ps
    if schedule.stages(body) > MOST_STAGES:
        raise Uncertified(f"{schedule.stages(body)} iterations in flight")
    count = len(body.ops)
    last = min(math.floor(loop.iterations), schedule.stages(body) + 1, MOST_LAST, max(1, MOST_STARTS // count))
    before = math.ceil((loop.iterations - last) * ii)
    starts = run_out(body, schedule, last, steady=before > 0)
    first: dict[str, int] = {}
    ends: dict[str, int] = {}
    for number, op in enumerate(body.ops):
        begin = schedule.start_ps[number] if before else starts[number]
        end = before + max(starts[k * count + number] for k in range(last)) + op.busy_ps
        first[op.pipe] = min(first.get(op.pipe, begin), begin)
        ends[op.pipe] = max(ends.get(op.pipe, end), end)
    if loop.entry_ps:  # MTE2 is at work from the start, all others wait for what it brings
        first = {pipe: begin + (0 if pipe == "mte2" else loop.entry_ps) for pipe, begin in first.items()}
        ends = {pipe: end + loop.entry_ps for pipe, end in ends.items()}
    return Course(max(ends.values()), first, ends, last)


def run_out(body: LoopKernel, schedule: PipelineSchedule, last: int, steady: bool) -> list[int]:
    """Earliest starts (ps) of the last iterations, by iteration and operation, from where the first of them begins.

    ``steady``: iterations without end went before, at their times in the schedule. Longest paths, one sweep in the
    order of the schedule after the other; its own times satisfy all that is asked, so that none grows for ever.
    """
    count, ii, begins = len(body.ops), schedule.ii_ps, schedule.start_ps
    behind: list[list[tuple[int, int]]] = [[] for _ in range(last * count)]  # node -> (node that waits, latency)
    starts = [0] * (last * count)
    first = -schedule.stages(body) - 1 if steady else 0
    for (turn, source), (later, target), latency in waits(body, schedule, first, last):
        if later < 0:
            continue
        if turn >= 0:
            behind[turn * count + source].append((later * count + target, latency))
        else:
            at = turn * ii + begins[source] + latency
            starts[later * count + target] = max(at, starts[later * count + target])
    order = sorted(range(last * count), key=lambda node: begins[node % count] + node // count * ii)
    changed = True
    while changed:
        changed = False
        for node in order:
            for target, latency in behind[node]:
                if starts[node] + latency > starts[target]:
                    starts[target], changed = starts[node] + latency, True
                    if starts[target] > begins[target % count] + target // count * ii:
                        raise Uncertified(f"{body.ops[target % count].name} starts too early")
    return starts


Node = tuple[int, int]
"""Iteration and operation."""


def waits(
    body: LoopKernel, schedule: PipelineSchedule, first: int, end: int, pipes: bool = True
) -> Iterator[tuple[Node, Node, int]]:
    """What waits for what in iterations ``first`` to ``end``, with its latency (ps).

    Dependences, slots of rings, and on each resource the order that the schedule gives, of the iterations that are
    there. Without ``pipes``, the order on other resources alone.
    """
    given = [(d.source, d.target, d.latency_ps, d.distance) for d in body.dependences]
    for ring in body.rings:
        given += body.ring_arcs(ring, schedule.slots[ring.key], schedule.lead)
    for source, target, latency, distance in given:
        for turn in range(first, end):
            if first <= turn + distance < end:
                yield (turn, source), (turn + distance, target), latency
    own = {op.pipe for op in body.ops}
    for resource, users in body.resources.items():
        if resource in own and not pipes:
            continue
        queue = sorted(
            (turn * schedule.ii_ps + schedule.start_ps[op], turn, op, length)
            for turn in range(first, end)
            for op, length in users
        )
        for (_, turn, op, length), (_, later, other, _) in pairwise(queue):
            yield (turn, op), (later, other), length
