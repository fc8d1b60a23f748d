"""Tasks small enough to be judged by hand, and answers to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from instances.intracore import Pipe, Place, Spill, TileAnswer, TileBuffer, TileOperation, TileTask

Row = tuple[str, str, int, Sequence[int]]


def task(
    buffers: Sequence[tuple[str, int]], rows: Sequence[Row], edges: Iterable[tuple[int, int]] = (), name: str = "tiny"
) -> TileTask:
    """Operations 0, 1, ...; buffer ``b`` is claimed by node ``n + 2b`` and released by ``n + 2b + 1``.

    Beside the given edges: ALLOC to every user, every user to FREE, ALLOC to FREE.
    """
    count = len(rows)
    ends = {b: (count + 2 * b, count + 2 * b + 1) for b in range(len(buffers))}
    found = [*edges, *ends.values()]
    for node, (_, _, _, used) in enumerate(rows):
        for b in used:
            found += [(ends[b][0], node), (node, ends[b][1])]
    return TileTask(
        name=name,
        operations=tuple(
            TileOperation(id=node, name=kind, pipe=Pipe(pipe), cycles=cycles, buffers=tuple(used))
            for node, (kind, pipe, cycles, used) in enumerate(rows)
        ),
        buffers=tuple(
            TileBuffer(id=b, place=Place(place), size=size, alloc=ends[b][0], free=ends[b][1])
            for b, (place, size) in enumerate(buffers)
        ),
        edges=tuple(sorted(found)),
    )


def answer(
    order: Sequence[int], offsets: Mapping[int, int] | None = None, spills: Sequence[tuple[int, int]] = ()
) -> TileAnswer:
    """An answer from its three lists."""
    moved = tuple(Spill(buffer=buffer, offset=offset) for buffer, offset in spills)
    return TileAnswer(order=tuple(order), offsets=dict(offsets or {}), spills=moved)


CHAIN = task(
    [("L1", 3000), ("UB", 600), ("L1", 2000)],
    [
        ("COPY_IN", "MTE2", 100, [0]),
        ("MOVE", "MTE1", 50, [0, 1]),
        ("COPY_IN", "MTE2", 100, [2]),
        ("ADD", "VECTOR", 30, [1, 2]),
        ("ADD", "VECTOR", 40, [0, 1]),
        ("COPY_OUT", "MTE3", 70, [1]),
    ],
    [(0, 1), (1, 3), (2, 3), (3, 4), (4, 5)],
)
"""Buffers 0 (L1, 3000, backed) and 2 (L1, 2000, backed) exceed L1 together; buffer 1 (UB, 600) is made on the core.

ALLOC and FREE: buffer 0: 6 and 7; buffer 1: 8 and 9; buffer 2: 10 and 11. Spill nodes from 12.
"""

CHAIN_ORDER = (6, 0, 8, 1, 12, 10, 2, 3, 11, 13, 4, 7, 5, 9)
"""Buffer 0 is moved out (12) while buffer 2 is there, and comes back (13)."""

CHAIN_ANSWER = answer(CHAIN_ORDER, {0: 0, 1: 0, 2: 1000}, [(0, 500)])

TWICE = task(
    [("UB", 200), ("UB", 900)],
    [
        ("MUL", "VECTOR", 10, [0]),
        ("EXP", "VECTOR", 20, [1]),
        ("ADD", "VECTOR", 30, [0]),
        ("SUB", "VECTOR", 40, [1]),
        ("COPY_OUT", "MTE3", 50, [0]),
    ],
    [(0, 2), (2, 4), (1, 3)],
)
"""Buffers 0 (UB, 200) and 1 (UB, 900) exceed UB together and are not backed.

ALLOC and FREE: buffer 0: 5 and 6; buffer 1: 7 and 8. Spill nodes from 9.
"""

TWICE_ANSWER = answer((5, 0, 9, 7, 1, 11, 10, 2, 13, 12, 3, 8, 14, 4, 6), {0: 0, 1: 0}, [(0, 0), (1, 100), (0, 824)])
"""Every buffer is out while the other is used: 0, then 1, then 0 again."""
