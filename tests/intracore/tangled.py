"""Very small tile tasks drawn at random, with more sharing of buffers than the sample generators have."""

from __future__ import annotations

import random
from itertools import product

from instances.intracore import Place, TileTask
from tests.intracore.handmade import Row, task

PIPES = ("MTE1", "MTE2", "MTE3", "CUBE", "VECTOR")


def with_capacity(one: TileTask, **units: int) -> TileTask:
    """The task with other capacities (units by memory)."""
    return one.model_copy(update={"capacity": {place: units.get(place.value, 4) for place in Place}})


def tangled(seed: int, operations: int = 6, buffers: int = 5, places: str = "L1 UB", cycles: int = 3) -> TileTask:
    """Operations that name one to three of a few buffers, with edges at random; some buffers come by COPY_IN."""
    rng = random.Random(seed)
    held = [(rng.choice(places.split()), rng.randint(1, 2)) for _ in range(buffers)]
    rows: list[Row] = []
    first: dict[int, int] = {}
    edges = []
    for node in range(operations):
        used = rng.sample(range(buffers), rng.randint(1, min(3, buffers)))
        name, pipe = "ADD", rng.choice(PIPES)
        new = [b for b in used if b not in first]
        if new and rng.random() < 0.5:
            name, pipe, used = "COPY_IN", "MTE2", new[:1]
        for b in used:
            if b in first and rng.random() < 0.7:
                edges.append((first[b], node))
            first.setdefault(b, node)
        rows.append((name, pipe, rng.randint(0, cycles), used))
    return with_capacity(task(held, rows, edges), L1=rng.randint(3, 5), UB=rng.randint(3, 5))


def grid(seed: int, most: int = 7, moved: bool = False, tight: bool = False) -> TileTask:
    """Groups of one or two operations, each on an L0C buffer of its own and on a row and a column buffer of L1.

    ``moved``: the row comes to a group by way of L0A. ``tight``: L1 holds one row and one column, L0C one group.
    """
    rng = random.Random(seed)
    rows, columns = rng.randint(2 if tight else 1, 3), rng.randint(2, 3)
    held = [("L1", 1 if tight else rng.randint(1, 2)) for _ in range(rows + columns)]
    cells = rng.sample(list(product(range(rows), range(columns))), min(most, rows * columns))
    listed: list[Row] = []
    edges = []
    for row, column in cells:
        if len(listed) >= most:
            break
        held.append(("L0C", 2))
        result = len(held) - 1
        source = row
        if moved:
            held.append(("L0A", 1))
            source = len(held) - 1
            listed.append(("MOVE", "MTE1", rng.randint(0, 2), [row, source]))
        listed.append(("MATMUL", "CUBE", rng.randint(0, 2), [result, source, rows + column]))
        if moved:
            edges.append((len(listed) - 2, len(listed) - 1))
        if not tight and rng.random() < 0.3:
            edges.append((len(listed) - 1, len(listed)))
            listed.append(("COPY_OUT", "FIXP", rng.randint(0, 2), [result]))
    if tight:
        return with_capacity(task(held, listed, edges), L1=2, L0A=1, L0C=2)
    return with_capacity(task(held, listed, edges), L1=rng.randint(3, 4), L0A=rng.randint(1, 2), L0C=rng.choice((2, 4)))


def sums(seed: int, most: int = 8, moved: bool = False) -> TileTask:
    """Products of tiles that are added up, of small matrices, some left out; L1 holds two or three tiles.

    ``moved``: the left tile comes to its product by way of L0A.
    """
    rng = random.Random(seed)
    rows, columns, depth = rng.choice([(2, 2, 2), (2, 2, 2), (2, 1, 3), (1, 2, 3), (3, 3, 1), (2, 4, 1)])
    cells = list(product(range(rows), range(columns), range(depth)))
    if rng.random() < 0.3:
        cells = sorted(rng.sample(cells, len(cells) - 1))
    units = rng.randint(1, 2)
    held: list[tuple[str, int]] = []
    known: dict[tuple[object, ...], int] = {}

    def buffer(place: str, size: int, *key: object) -> int:
        if key not in known:
            known[key] = len(held)
            held.append((place, size))
        return known[key]

    listed: list[Row] = []
    edges = []
    before: dict[int, int] = {}
    for row, column, k in cells[:most]:
        left, right = buffer("L1", 1, "left", row, k), buffer("L1", 1, "right", k, column)
        result = buffer("L0C", units, "sum", row, column)
        if moved:
            copy = buffer("L0A", 1, "copy", row, column, k)
            edges.append((len(listed), len(listed) + 1))
            listed.append(("MOVE", "MTE1", 1, [left, copy]))
            left = copy
        if result in before and rng.random() < 0.8:
            edges.append((before[result], len(listed)))
        before[result] = len(listed)
        listed.append(("MATMUL", "CUBE", 1, [result, left, right]))
    l1 = 2 if rng.random() < 0.8 else 3
    return with_capacity(task(held, listed, edges), L1=l1, L0A=1, L0C=units * rng.choice((1, 1, 2)))
