"""What an operation waits for and what waits for it: ancestors as bits, least time before it and after it."""

from __future__ import annotations

from collections.abc import Callable

from instances.intracore import TileTask


def ancestors_of(task: TileTask) -> tuple[dict[int, int], dict[int, int]]:
    """Bit of each operation (its rank in ``task.order``), and the bits of all that it waits for."""
    bit = {node: place for place, node in enumerate(task.order)}
    above: dict[int, int] = {}
    for node in task.order:
        found = 0
        for before in task.waits[node]:
            found |= above[before] | 1 << bit[before]
        above[node] = found
    return bit, above


def descendants_of(task: TileTask) -> dict[int, int]:
    """Bits of all that waits for each operation."""
    bit = {node: place for place, node in enumerate(task.order)}
    below = dict.fromkeys(task.order, 0)
    for node in reversed(task.order):
        mine = below[node] | 1 << bit[node]
        for before in task.waits[node]:
            below[before] |= mine
    return below


def heads_and_tails(
    task: TileTask, length: Callable[[int], int], timed: bool = True
) -> tuple[dict[int, int], dict[int, int]]:
    """Least time before each operation starts, and least time after it ends.

    The larger of the longest path, and of the work of its ancestors (descendants) on each pipe with the least head
    before and the least way from there to it; in an order, where one operation runs at a time, their number.
    """
    bit, above = ancestors_of(task)
    below = descendants_of(task)
    back = {node: [] for node in task.order}  # type: dict[int, list[int]]
    for node, before in task.waits.items():
        for other in before:
            back[other].append(node)
    heads = _one_way(task, list(task.order), above, {n: list(w) for n, w in task.waits.items()}, bit, length, timed)
    tails = _one_way(task, list(reversed(task.order)), below, back, bit, length, timed)
    return heads, tails


def _one_way(
    task: TileTask,
    order: list[int],
    reach: dict[int, int],
    waits: dict[int, list[int]],
    bit: dict[int, int],
    length: Callable[[int], int],
    timed: bool,
) -> dict[int, int]:
    classes: dict[tuple[str, int], int] = {}
    for op in task.operations:
        key = (op.pipe.value if timed else "", length(op.id))
        classes[key] = classes.get(key, 0) | 1 << bit[op.id]
    heads: dict[int, int] = {}
    entry: dict[str, int] = {}  # least head of a pipe so far, in this direction
    for node in order:
        heads[node] = max((heads[other] + length(other) for other in waits[node]), default=0)
        work: dict[str, int] = {}
        for (pipe, each), mask in classes.items():
            if count := (reach[node] & mask).bit_count():
                work[pipe] = work.get(pipe, 0) + count * each
        for pipe, total in work.items():
            heads[node] = max(heads[node], total + entry.get(pipe, 0))
        pipe = task.operation[node].pipe.value if timed else ""
        entry[pipe] = min(entry.get(pipe, heads[node]), heads[node])
    return heads
