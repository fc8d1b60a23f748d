"""Price of vector kernels: rows over the vector cores, a pipeline of load, compute, store.

Rows are the loop dimensions common to all operators of the group; the rest of a row stays whole in UB, unless
no operator needs it whole, in which case everything is rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from instances.costs.terms import Draft, Misfit, Stage, fits, line_share, move_ns, total_work, vector_ns
from instances.fusion import Fusion, common_rows
from instances.graph import Access, DType, Operator
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine, MemoryName

WORK_COPIES = 2
"""Rows of 32-bit intermediates that live in UB beside what is loaded and stored."""


@lru_cache(maxsize=4096)
def row_loops(fusion: Fusion) -> tuple[str, ...]:
    """The loop dimensions that are cut, in the order of the first result's axes."""
    rows = common_rows(fusion.operators)
    ordered = [loop for axis in fusion.operators[-1].writes[0].axes for loop in axis if loop in rows]
    return tuple(ordered)


def key(fusion: Fusion) -> str:
    """Name under which a tiling gives the rows of a tile."""
    return "*".join(row_loops(fusion)) or "1"


def row_count(fusion: Fusion) -> int:
    """Rows of the whole kernel."""
    dims = fusion.operators[-1].dims
    return math.prod(dims[loop] for loop in row_loops(fusion))


def converted_elements(fusion: Fusion, accesses: tuple[Access, ...]) -> int:
    """Elements that pass between storage narrower than 32 bits and the vector unit."""
    tensors = (fusion.graph.tensor[access.tensor] for access in accesses)
    return sum(
        fusion.graph.touched_bytes(access) // tensor.dtype.size_bytes
        for access, tensor in zip(accesses, tensors, strict=True)
        if tensor.dtype.size_bytes < DType.FLOAT32.size_bytes
    )


MOST_REPEATS = 4
"""Instructions of one class that a step counts for at most; beyond, a loop reissues the same ones."""


def vector_steps(operators: Iterable[Operator]) -> int:
    """Vector instructions that a program issues for a tile: each class as often as it is applied to a result."""
    steps = 0
    for operator in operators:
        results = math.prod(operator.dims[loop] for loop in operator.writes[0].loops) * operator.density
        steps += sum(min(MOST_REPEATS, max(1, round(count / results))) for count in operator.vector.values())
    return steps


def whole_loops(fusion: Fusion) -> tuple[str, ...]:
    """The loop dimensions of a row, where a row may be cut into segments at all; else empty.

    It may where rows and the dimensions that operators need whole are all there is.
    """
    whole = {loop for operator in fusion.operators for loop in operator.whole}
    rows = set(row_loops(fusion))
    if any(set(operator.dims) - rows - whole for operator in fusion.operators):
        return ()
    return tuple(sorted(whole))


def draft(fusion: Fusion, machine: Machine, tiling: Tiling) -> Draft:
    """Price a vector kernel under a tiling; :class:`Misfit` where a tile exceeds UB.

    Buffers are double where there is room; with single ones each tile is loaded, computed and stored in turn. A row
    that is longer still is cut into segments, which takes two passes: one for what the row as a whole must tell (its
    sum, its largest element), one to apply it. Loads, and their conversions, then count twice, the rest once.
    """
    along, across = key(fusion), "*".join(whole_loops(fusion))
    if not {along} <= set(tiling.tile) <= {along, across} or tiling.parts:
        raise Misfit(f"tile along {along}", 0)
    rows, tile_rows = row_count(fusion), tiling.tile[along]
    length = math.prod(extent_of(fusion, loop) for loop in whole_loops(fusion))
    segment = tiling.tile.get(across, length) if across else 1
    tiles = -(-rows // tile_rows)
    cut = segment < length
    if tile_rows > rows or segment > length or not 1 <= tiling.aiv <= tiles or (across in tiling.tile and not cut):
        raise Misfit(f"tile along {along}", 0)
    if tiling.aic != cube_cores_held(machine, tiling.aiv):
        raise Misfit("cube cores of a vector kernel", 0)
    segments, passes = length / segment, 2 if cut else 1
    result = Draft(KernelKind.VECTOR, [], 0.0, tiling.aiv, steps=vector_steps(fusion.vectors))
    tile = row_tile(fusion, machine, tile_rows, segment / length if cut else 1.0)
    for slots in (2, 1):  # double buffers where there is room
        result.demands = [(name, MemoryName.UB, size, slots) for name, size in tile.buffers]
        if tile.work_bytes:
            result.need("work", MemoryName.UB, tile.work_bytes, slots=WORK_COPIES)
        if fits(machine, result.demands):
            break
    result.serial = slots == 1
    load = move_ns(machine, machine.path(MemoryName.L2, MemoryName.UB), tile.fetched_bytes, len(fusion.reads))
    store = move_ns(machine, machine.path(MemoryName.UB, MemoryName.L2), tile.stored_bytes, len(fusion.writes))
    share = tile_rows / rows / segments
    calls = max(1, result.steps)
    once = total_work(fusion.vectors, converted_elements(fusion, fusion.writes))
    each_pass = total_work((), converted_elements(fusion, fusion.reads))
    work = {klass: count * share for klass, count in once.items()}
    for klass, count in each_pass.items():
        work[klass] = work.get(klass, 0.0) + count * share * passes
    compute = vector_ns(machine, work, calls * passes)
    pieces = _busiest_rows(rows, tile_rows, tiling.aiv) / tile_rows * segments  # in one pass
    result.stages = [
        Stage("mte2", load, load * pieces * passes),
        Stage("vector", compute / passes, compute * pieces),
        Stage("mte3", store, store * pieces),
    ]
    result.l2_bytes = (tile.fetched_bytes * passes + tile.stored_bytes) * rows / tile_rows * segments
    return result


@dataclass(frozen=True)
class Tile:
    """What a tile of rows takes: buffers in UB, and bytes through the ports in whole lines."""

    buffers: tuple[tuple[str, int], ...]  # name, bytes of a slot
    work_bytes: int  # of one copy of 32-bit intermediates; 0 where nothing is computed
    fetched_bytes: float
    stored_bytes: float


def row_tile(fusion: Fusion, machine: Machine, tile_rows: int, part: float) -> Tile:
    """A tile of ``tile_rows`` rows, or ``part`` of a row that is cut into segments."""
    whole = set(whole_loops(fusion))
    kept = {loop for operator in fusion.operators for loop in operator.whole}
    buffers, widest = [], 0.0
    through = {True: 0.0, False: 0.0}
    for accesses, is_read in ((fusion.reads, True), (fusion.writes, False)):
        for number, access in enumerate(accesses):
            element = fusion.graph.tensor[access.tensor].dtype.size_bytes
            per_tile, per_row = _tile_bytes(fusion, access, tile_rows)
            if part < 1 and access.loops & whole:
                per_tile, per_row = per_tile * part, per_row * part
            widest = max(widest, per_row / element)
            buffers.append((f"{'read' if is_read else 'write'}{number}", max(1, math.ceil(per_tile))))
            # rows that are no multiple of UB's alignment are moved one by one
            ragged = access.loops & kept and per_row % machine.alignment(MemoryName.UB) and per_tile > per_row
            through[is_read] += per_tile * (line_share(per_row, per_row) if ragged else 1.0)
    computes = any(operator.vector for operator in fusion.operators)
    work_bytes = math.ceil(widest * tile_rows) * DType.FLOAT32.size_bytes if computes else 0
    return Tile(tuple(buffers), max(1, work_bytes) if computes else 0, through[True], through[False])


def _busiest_rows(rows: int, tile_rows: int, cores: int) -> int:
    """Rows of the core with most to do when tiles are dealt out in turn and the last may be part empty."""
    tiles = -(-rows // tile_rows)
    rounds = -(-tiles // cores)
    alone_in_last_round = tiles == (rounds - 1) * cores + 1
    last = rows - (tiles - 1) * tile_rows
    return (rounds - 1) * tile_rows + last if alone_in_last_round else rounds * tile_rows


def extent_of(fusion: Fusion, loop: str) -> int:
    """Extent of a loop dimension of a group."""
    return next(operator.dims[loop] for operator in fusion.operators if loop in operator.dims)


def _tile_bytes(fusion: Fusion, access: Access, tile_rows: int) -> tuple[float, float]:
    """Bytes of a tensor that one tile touches, and one row.

    Rows follow each other with the last loop running fastest, so that rows which differ in trailing loops alone share
    what a tensor without these loops holds for them (a rotary table serves all heads of a position).
    """
    touched = fusion.graph.touched_bytes(access)
    order = row_loops(fusion)
    dims = fusion.operators[-1].dims
    spanned = [loop for loop in order if loop in access.loops]
    if not spanned:
        return float(touched), float(touched)
    per_row = touched / math.prod(dims[loop] for loop in spanned)
    trailing = order[order.index(spanned[-1]) + 1 :]
    shared = math.prod(dims[loop] for loop in trailing)
    return min(float(touched), per_row * -(-tile_rows // shared)), per_row


def cube_cores_held(machine: Machine, aiv: int) -> int:
    """Cube cores that a vector kernel on ``aiv`` vector cores holds: none, unless the two are one core."""
    if not machine.coupled:
        return 0
    return min(aiv, machine.aic_count)


def choices(fusion: Fusion, machine: Machine) -> Iterator[Tiling]:
    """Tilings worth pricing: rows per tile by powers of two, on all vector cores or half of them."""
    rows = row_count(fusion)
    name = key(fusion)
    sizes = {1, rows}
    size = 1
    while size < rows:
        sizes.add(size)
        sizes.add(max(1, size * 3 // 4))
        size *= 2
    for limit in (machine.aiv_count, machine.aiv_count // 2):
        if limit:
            sizes.add(-(-rows // limit))
    for tile_rows in sorted(sizes):
        tiles = -(-rows // tile_rows)
        for cores in {min(machine.aiv_count, tiles), min(max(1, machine.aiv_count // 2), tiles)}:
            yield Tiling(tile={name: tile_rows}, aic=cube_cores_held(machine, cores), aiv=cores)
    across = whole_loops(fusion)
    length = math.prod(extent_of(fusion, loop) for loop in across)
    for cores in {min(machine.aiv_count, rows), min(max(1, machine.aiv_count // 2), rows)}:
        for segment in (size for size in (2048, 4096, 8192, 16384) if across and size < length):
            yield Tiling(tile={name: 1, "*".join(across): segment}, aic=cube_cores_held(machine, cores), aiv=cores)
