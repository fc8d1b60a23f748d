"""From the steps of a plan to the answer that is judged."""

from __future__ import annotations

from formulations.intracore.decisions import BACK, OPERATION
from instances.intracore import Spill, TileAnswer
from solvers.intracore.stays import Stays
from solvers.intracore.steps import Steps
from solvers.intracore.tables import Tables


def order_only(tables: Tables, order: list[int]) -> TileAnswer:
    """Sub-problem 1: ALLOC right before the first operation that holds a buffer, FREE right after the last."""
    return TileAnswer(order=tuple(_nodes(tables, [(OPERATION, op, 0) for op in order])[0]))


def planned(tables: Tables, steps: Steps, count: int, stays: Stays) -> TileAnswer:
    """The answer of a plan that :func:`solvers.intracore.steps.arrange` and what follows it made."""
    found = [(int(steps.kind[i]), int(steps.what[i]), int(steps.touch[i])) for i in range(count)]
    order, offsets, spills = _nodes(tables, found, stays)
    return TileAnswer(order=tuple(order), offsets=offsets, spills=tuple(spills))


def _nodes(
    tables: Tables, steps: list[tuple[int, int, int]], stays: Stays | None = None
) -> tuple[list[int], dict[int, int], list[Spill]]:
    task, (first, items) = tables.task, tables.stores.touched
    left = [int(count) for count in tables.stores.holds]
    nodes: list[int] = []
    offsets: dict[int, int] = {}
    spills: list[Spill] = []
    away: dict[int, int] = {}
    for buffer, one in enumerate(task.buffers):
        if not left[buffer]:
            nodes += [one.alloc, one.free]
            offsets[one.id] = 0
    for kind, what, touch in steps:
        if kind == OPERATION:
            touched = range(first[what], first[what + 1])
            for k in touched:
                one = task.buffers[items[k]]
                if one.id not in offsets:
                    offsets[one.id] = 0 if stays is None else int(stays.offset[k])
                    nodes.append(one.alloc)
            nodes.append(task.operations[what].id)
            for k in touched:
                left[items[k]] -= 1
                if not left[items[k]]:
                    nodes.append(task.buffers[items[k]].free)
        elif kind == BACK:
            number = away.pop(what)
            assert stays is not None
            spills[number] = Spill(buffer=task.buffers[what].id, offset=int(stays.offset[touch]))
            nodes.append(task.count + 2 * number + 1)
        else:
            away[what] = len(spills)
            nodes.append(task.count + 2 * len(spills))
            spills.append(Spill(buffer=task.buffers[what].id, offset=0))
    return nodes, offsets, spills
