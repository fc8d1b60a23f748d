"""Price of cube kernels and of cube kernels with a vector epilogue.

A kernel computes, for every (batch, m-block, n-block, k-part) item, one L0C tile (one per matmul where several
matmuls are joined), streaming k through L1 and L0. Items are dealt out to the cores; the busiest core counts
(wave quantisation). With an epilogue the tile goes on to the vector cores: over a workspace in L2 where the chip
has no path from L0C to UB (910B, 910C), directly where it has (950, first generation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from instances.costs.terms import (
    Draft,
    Misfit,
    Stage,
    balanced,
    line_share,
    mmad_ns,
    move_ns,
    mte1_ns,
    round_up,
    total_work,
    vector_ns,
    waves,
)
from instances.costs.vector import converted_elements, extent_of, vector_steps
from instances.fusion import Fusion
from instances.graph import Access, DType, Graph, Operator, Role
from instances.kernels import KernelKind, Rule, Tiling
from instances.machine import Machine, MemoryName

WORKSPACE_STAGES = 2
"""Tiles in flight between cube and vector cores (CATLASS uses 2 to 4)."""

ACCUMULATOR_BYTES = 4


@dataclass(frozen=True)
class Rows:
    """How a matrix lies in global memory: bytes of a row, and whether rows run along the depth."""

    size_bytes: int
    element_bytes: int
    along_depth: bool

    def share(self, width: float, depth: float) -> float:
        """Bytes fetched per byte wanted when a block of ``width`` by ``depth`` elements is loaded."""
        run = (depth if self.along_depth else width) * self.element_bytes
        return line_share(min(run, self.size_bytes), self.size_bytes)


@dataclass(frozen=True)
class MatmulShape:
    """A cube operator as ``batch`` products of m x k by k x n, with the names of its tile keys."""

    batch: int
    m: int
    n: int
    k: int
    m_key: str
    n_key: str
    k_key: str
    left: DType
    right: DType
    out: DType
    left_rows: Rows
    right_rows: Rows
    formatted: bool  # whether the right operand is laid out in fractals ahead of time, as stacks do with weights


def matmul_shape(graph: Graph, operator: Operator) -> MatmulShape:
    """Read m, n, k off the way the operands are indexed.

    Loops of the result that the right operand lacks are rows, those that the left lacks are columns, those of all
    three are batch; loops of the right operand alone select one of several weights (grouped matmul of experts):
    the rows are spread evenly over those that are touched.
    """
    left, right, out = operator.reads[0], operator.reads[1], operator.writes[0]
    ordered = [loop for axis in out.axes for loop in axis]
    m_loops = [loop for loop in ordered if loop not in right.loops]
    n_loops = [loop for loop in ordered if loop not in left.loops]
    batch_loops = [loop for loop in ordered if loop in left.loops and loop in right.loops]
    select = right.loops - left.loops - out.loops
    k_loops = [loop for axis in left.axes for loop in axis if loop in right.loops and loop not in out.loops]

    def extent(loops: list[str]) -> int:
        return math.prod(operator.dims[loop] for loop in loops)

    m, n, batch = extent(m_loops), extent(n_loops), extent(batch_loops)
    k = max(1, round(operator.macs / (batch * m * n * operator.density)))
    if select:
        share = graph.touched_bytes(right) / graph.tensor[right.tensor].size_bytes
        active = min(m, max(1, round(math.prod(operator.dims[loop] for loop in select) * share)))
        batch, m = batch * active, -(-m // active)
    return MatmulShape(
        batch=batch,
        m=m,
        n=n,
        k=k,
        m_key="*".join(m_loops) or "rows",
        n_key="*".join(n_loops) or "columns",
        k_key="*".join(k_loops) or "depth",
        left=graph.tensor[left.tensor].dtype,
        right=graph.tensor[right.tensor].dtype,
        out=graph.tensor[out.tensor].dtype,
        left_rows=_rows(graph, left, k_loops),
        right_rows=_rows(graph, right, k_loops),
        formatted=graph.tensor[right.tensor].role is Role.WEIGHT,
    )


def _rows(graph: Graph, access: Access, k_loops: list[str]) -> Rows:
    tensor = graph.tensor[access.tensor]
    return Rows(
        size_bytes=tensor.shape[-1] * tensor.dtype.size_bytes,
        element_bytes=tensor.dtype.size_bytes,
        along_depth=bool(set(access.axes[-1]) & set(k_loops)),
    )


@lru_cache(maxsize=4096)
def matmul_shapes(fusion: Fusion) -> tuple[MatmulShape, ...]:
    """Shapes of a group's products, in order."""
    return tuple(matmul_shape(fusion.graph, cube) for cube in fusion.cubes)


@dataclass(frozen=True)
class Blocks:
    """How the products are cut: sizes of a tile, number of items, items of the busiest core."""

    m0: int
    n0: int
    k0: int
    parts: int
    joined: int  # matmuls whose tiles one item computes together
    m: int  # rows of an average item, padded
    n: float  # columns of an average item, padded
    depth: int  # k of an item
    m_blocks: int
    n_blocks: int
    items: int
    mine: int


def cut_blocks(fusion: Fusion, tiling: Tiling) -> Blocks:
    """How a tiling cuts a group's products; :class:`Misfit` where it does not go with their sizes."""
    shapes = matmul_shapes(fusion)
    first = shapes[0]
    keys = {first.m_key, first.n_key, first.k_key}
    if set(tiling.tile) != keys or not set(tiling.parts) <= {first.k_key}:
        raise Misfit(f"tile along {', '.join(sorted(keys))}", 0)
    m0, n0, k0 = (tiling.tile[name] for name in (first.m_key, first.n_key, first.k_key))
    parts = tiling.parts.get(first.k_key, 1)
    step = 32 // first.left.size_bytes
    if m0 % 16 or n0 % 16 or k0 % step or tiling.aic < 1:
        raise Misfit("tile (multiples of the 16 x 16 x 32-byte fractal)", 0)
    if m0 > round_up(first.m, 16) or n0 > round_up(max(s.n for s in shapes), 16) or k0 > round_up(first.k, step):
        raise Misfit("tile larger than the matrix", 0)
    joined = len(shapes) if fusion.rule is Rule.GATED else 1
    columns = shapes[:1] if joined > 1 else shapes
    n_blocks = sum(-(-shape.n // n0) for shape in columns)
    padded = sum(-(-shape.n // n0) * balanced(shape.n, n0, 16) for shape in columns)
    m_blocks = -(-first.m // m0)
    items = first.batch * m_blocks * n_blocks * parts
    if tiling.aic > items or parts > -(-first.k // k0):
        raise Misfit("more cores or parts than tiles", 0)
    return Blocks(
        m0=m0,
        n0=n0,
        k0=k0,
        parts=parts,
        joined=joined,
        m=balanced(first.m, m0, 16),
        n=padded / n_blocks,
        depth=-(-first.k // parts),
        m_blocks=m_blocks,
        n_blocks=n_blocks,
        items=items,
        mine=waves(items, tiling.aic),
    )


@dataclass(frozen=True)
class Loads:
    """How operands pass through L1: bytes and transfers on the busiest core, and the buffers."""

    total_bytes: float  # as fetched, whole lines
    transfers: float
    formatted: float  # transfers that turn rows into fractals
    step: int  # depth of k loaded at a time
    buffers: tuple[tuple[str, int, int], ...]  # name, bytes, slots


def l1_loads(machine: Machine, shape: MatmulShape, blocks: Blocks) -> Loads:
    """The cheapest way through L1: stream both operands, double buffered, or hold one of them whole.

    An operand is held where one tile covers all its rows (or columns), and loaded once for each run of items that
    share it on one core, as in the full-load templates of CANN's MatMulV3 (hicann/ops-nn). A panel of a larger
    operand is not kept from item to item: that would save traffic, but no shipped kernel does it, and measured
    products agree with streaming.
    """
    capacity = machine.capacity(MemoryName.L1)
    left_row = blocks.m0 * shape.left.size_bytes  # bytes per unit of k
    right_row = blocks.n0 * blocks.joined * shape.right.size_bytes
    depth = round_up(blocks.depth, blocks.k0)
    left_runs = max(1, -(-blocks.mine // blocks.n_blocks))
    right_runs = max(1, -(-blocks.mine // blocks.m_blocks))
    ways: list[tuple[float, float, float, int, tuple[tuple[str, int, int], ...]]] = []
    whole = {"left": blocks.m_blocks == 1, "right": blocks.n_blocks == 1}
    for keep in ("none", "left", "right"):
        if keep != "none" and (not whole[keep] or blocks.parts > 1):
            continue
        held = {"none": 0, "left": left_row, "right": right_row}[keep] * depth
        streamed = {"none": left_row + right_row, "left": right_row, "right": left_row}[keep]
        room = (capacity - held) // (2 * streamed)
        step = _l1_step(machine, shape, blocks, min(depth, room))
        if step < blocks.k0:
            continue
        left_items = left_runs if keep == "left" else blocks.mine
        right_items = right_runs if keep == "right" else blocks.mine
        actual_left = blocks.m * shape.left.size_bytes * blocks.depth * shape.left_rows.share(blocks.m, step)
        actual_right = blocks.n * blocks.joined * shape.right.size_bytes * blocks.depth
        if not shape.formatted:
            actual_right *= shape.right_rows.share(blocks.n, step)
        total = left_items * actual_left + right_items * actual_right
        chunks = -(-depth // step)
        transfers = chunks * (left_items + right_items * blocks.joined)
        formatted = chunks * (left_items + (0 if shape.formatted else right_items * blocks.joined))
        left_buffer = ("left", left_row * (depth if keep == "left" else step), 1 if keep == "left" else 2)
        right_buffer = ("right", right_row * (depth if keep == "right" else step), 1 if keep == "right" else 2)
        ways.append((total, transfers, formatted, step, (left_buffer, right_buffer)))
    if not ways:
        needed = 2 * (left_row + right_row) * blocks.k0
        raise Misfit(MemoryName.L1.value, needed - capacity, needed)
    return Loads(*min(ways))


def _l1_step(machine: Machine, shape: MatmulShape, blocks: Blocks, room: int) -> int:
    """The deepest load that fits, in whole L0 steps and, where that is no less than half of it, in whole lines."""
    line = math.lcm(blocks.k0, machine.alignment(MemoryName.HBM) // shape.left.size_bytes)
    step, whole = room // blocks.k0 * blocks.k0, room // line * line
    return whole if 2 * whole >= step else step


def draft(fusion: Fusion, machine: Machine, tiling: Tiling) -> Draft:
    """Price matmuls, with or without a vector epilogue; :class:`Misfit` where a tile exceeds a memory."""
    blocks = cut_blocks(fusion, tiling)
    shape = matmul_shapes(fusion)[0]
    loads = l1_loads(machine, shape, blocks)
    result = Draft(fusion.kind, [], 0.0, tiling.aic, steps=len(fusion.cubes))
    for name, size, slots in loads.buffers:
        result.need(name, MemoryName.L1, size, slots)
    result.need("left", MemoryName.L0A, blocks.m0 * blocks.k0 * shape.left.size_bytes, 2)
    result.need("right", MemoryName.L0B, blocks.n0 * blocks.k0 * shape.right.size_bytes, 2)
    tile_bytes = blocks.joined * blocks.m0 * blocks.n0 * ACCUMULATOR_BYTES
    double = 2 * tile_bytes <= machine.capacity(MemoryName.L0C)
    result.need("sum", MemoryName.L0C, tile_bytes, 2 if double else 1)

    columns = blocks.n * blocks.joined
    chunk = loads.step / blocks.depth  # share of an item's depth that one L1 load brings
    into_l1 = machine.path(MemoryName.L2, MemoryName.L1)
    load = move_ns(machine, into_l1, loads.total_bytes, loads.transfers, loads.formatted)
    steps = -(-blocks.depth // blocks.k0)
    into_l0 = mte1_ns(
        machine,
        left=(blocks.m * blocks.depth * shape.left.size_bytes, steps),
        right=(columns * blocks.depth * shape.right.size_bytes, steps * blocks.joined),
    )
    cube = mmad_ns(machine, shape.left, blocks.m, round(columns), blocks.depth, steps * blocks.joined)
    result.stages = [
        Stage("mte2", load / max(1.0, blocks.mine) * min(1.0, chunk), load),
        Stage("mte1", into_l0 * min(1.0, blocks.k0 / blocks.depth), into_l0 * blocks.mine),
        Stage("cube", cube * min(1.0, chunk), cube * blocks.mine),
    ]
    result.l2_bytes = loads.total_bytes * blocks.items / blocks.mine
    if fusion.kind is KernelKind.MIX:
        drained = _epilogue(fusion, machine, tiling, blocks, result)
    else:
        if tiling.aiv != (tiling.aic if machine.coupled else 0):
            raise Misfit("vector cores of a cube kernel", 0)
        out_bytes = shape.out.size_bytes if blocks.parts == 1 else ACCUMULATOR_BYTES
        drained = _drain(machine, result, blocks, blocks.m * columns * out_bytes)
    if not double:  # the cube waits while its only accumulator drains
        waiting = result.stages[2]
        result.stages[2] = Stage("cube", waiting.piece_ns, waiting.total_ns + drained * blocks.mine)
    return result


def _drain(machine: Machine, result: Draft, blocks: Blocks, tile_bytes: float) -> float:
    """Write a finished tile to L2: by FIXP, or through UB on the first generation. Returns FIXP's ns per tile."""
    passes = 2 if blocks.parts > 1 else 1  # partial sums are read and added up in L2
    out = machine.path(MemoryName.L0C, MemoryName.L2)
    if out is not None:
        drain = move_ns(machine, out, tile_bytes, 1)
        result.stages.append(Stage("fixp", drain, drain * blocks.mine))
    else:
        drain = move_ns(machine, machine.path(MemoryName.L0C, MemoryName.UB), tile_bytes, 1)
        store = move_ns(machine, machine.path(MemoryName.UB, MemoryName.L2), tile_bytes, 1)
        result.stages.append(Stage("fixp", drain, drain * blocks.mine))
        result.stages.append(Stage("mte3", store, store * blocks.mine))
        result.need("out", MemoryName.UB, min(math.ceil(tile_bytes), machine.capacity(MemoryName.UB) // 2), 1)
    result.l2_bytes += passes * tile_bytes * blocks.items
    return drain


def _epilogue(fusion: Fusion, machine: Machine, tiling: Tiling, blocks: Blocks, result: Draft) -> float:
    """Add the vector side of a mixed kernel. Returns FIXP's ns per tile.

    Each cube core hands its tile to the vector cores of its group, which share its rows; on a chip without a path
    from L0C to UB the tile passes through an L2 workspace in 32-bit form and is read back.
    """
    if blocks.parts > 1:
        raise Misfit("split depth under an epilogue", 0)
    pairs = _vector_cores_per_cube(machine, tiling)
    columns = blocks.n * blocks.joined
    tile = blocks.m * columns
    chunk = epilogue_chunk(fusion, machine, blocks, result, pairs)
    path_out = machine.path(MemoryName.L0C, MemoryName.UB)
    kept = sum(
        fusion.graph.tensor[cube.writes[0].tensor].dtype.size_bytes
        for cube in fusion.cubes
        if any(cube.writes[0] == access for access in fusion.writes)
    )
    handed = tile * ACCUMULATOR_BYTES
    through_l2 = path_out is None
    drain = move_ns(machine, path_out or machine.path(MemoryName.L0C, MemoryName.L2), handed, 1)
    if kept:
        drain += move_ns(machine, machine.path(MemoryName.L0C, MemoryName.L2), blocks.m * blocks.n * kept, 1)
    read_bytes = vector_tile_bytes(fusion, blocks, reads=True)
    write_bytes = vector_tile_bytes(fusion, blocks, reads=False)
    loads = read_bytes + (handed if through_l2 else 0)
    chunks = math.ceil(tile / pairs / chunk)
    inputs = sum(len(operator.reads) for operator in fusion.vectors)
    load = move_ns(machine, machine.path(MemoryName.L2, MemoryName.UB), loads / pairs, chunks * inputs)
    store = move_ns(machine, machine.path(MemoryName.UB, MemoryName.L2), write_bytes / pairs, chunks)
    calls = vector_steps(fusion.vectors)
    result.steps += calls
    outside = vector_accesses(fusion, reads=True) + vector_accesses(fusion, reads=False)
    work = total_work(fusion.vectors, converted_elements(fusion, tuple(outside)))
    share = 1 / (blocks.items * pairs)
    compute = vector_ns(machine, {c: e * share for c, e in work.items()}, calls * chunks)
    sync = machine.sync_ns.value
    result.stages += [
        Stage("fixp", drain, drain * blocks.mine),
        Stage("sync", sync, sync * blocks.mine),
        Stage("vector_mte2", load / chunks, load * blocks.mine),
        Stage("vector", compute / chunks, compute * blocks.mine),
        Stage("mte3", store / chunks, store * blocks.mine),
    ]
    result.l2_bytes += (read_bytes + write_bytes + blocks.m * blocks.n * kept) * blocks.items
    if through_l2:
        result.l2_bytes += 2 * handed * blocks.items
        result.workspace_bytes = math.ceil(
            tiling.aic * WORKSPACE_STAGES * blocks.joined * blocks.m0 * blocks.n0 * ACCUMULATOR_BYTES
        )
    return drain


def _vector_cores_per_cube(machine: Machine, tiling: Tiling) -> int:
    pairs = machine.aiv_per_aic
    if tiling.aiv != tiling.aic * pairs:
        raise Misfit("vector cores of a mixed kernel", 0)
    return pairs


def vector_accesses(fusion: Fusion, reads: bool) -> list[Access]:
    """Accesses of the vector operators that cross the group's border."""
    if reads:
        made = fusion.made
        seen = {a.tensor: a for o in fusion.vectors for a in o.reads if a.tensor not in made}
        return list(seen.values())
    crossing = {access.tensor for access in fusion.writes}
    return [a for o in fusion.vectors for a in o.writes if a.tensor in crossing]


def vector_tile_bytes(fusion: Fusion, blocks: Blocks, reads: bool) -> float:
    """Bytes of the vector operators' outside tensors that one item touches."""
    cube = fusion.cubes[0]
    rows = cube.writes[0].loops - cube.reads[1].loops
    total = 0.0
    for access in vector_accesses(fusion, reads):
        width = 1
        for loop in access.loops - rows:
            width *= extent_of(fusion, loop)
        height = blocks.m if access.loops & rows else 1
        total += height * min(width, blocks.n) * fusion.graph.tensor[access.tensor].dtype.size_bytes
    return total


def epilogue_chunk(fusion: Fusion, machine: Machine, blocks: Blocks, result: Draft, pairs: int) -> int:
    """Elements of a tile that a vector core works on at a time, and its UB buffers."""
    cube = fusion.cubes[0]
    columns = cube.writes[0].loops - cube.reads[0].loops
    whole = {loop for operator in fusion.vectors for loop in operator.whole}
    row = math.prod(extent_of(fusion, loop) for loop in whole & columns)
    if whole - columns or blocks.n0 % row:
        raise Misfit(f"tile along {'*'.join(sorted(whole))}, which must stay whole", 0)
    outside = [
        (f"vector{number}", fusion.graph.tensor[access.tensor].dtype.size_bytes)
        for number, access in enumerate((*vector_accesses(fusion, reads=True), *vector_accesses(fusion, reads=False)))
    ]
    widths = [("sum", ACCUMULATOR_BYTES * blocks.joined, 2), ("work", ACCUMULATOR_BYTES, 2)]
    widths += [(name, size, 2) for name, size in outside]
    per_element = sum(size * slots for _, size, slots in widths)
    unit = machine.alignment(MemoryName.UB)
    room = (machine.capacity(MemoryName.UB) - sum(unit * slots for _, _, slots in widths)) // per_element
    tile = math.ceil(blocks.m0 * blocks.n0 / pairs)
    chunk = min(tile, room // row * row)
    if chunk < row or chunk < 1:
        raise Misfit(MemoryName.UB.value, row * per_element - machine.capacity(MemoryName.UB), row * per_element)
    for name, size, slots in widths:
        result.need(name, MemoryName.UB, chunk * size, slots)
    return chunk * blocks.joined


def choices(fusion: Fusion, machine: Machine) -> Iterator[Tiling]:
    """Tilings worth pricing: tile rows and columns by a menu, depth as deep as L0 allows, all cores or half."""
    shapes = matmul_shapes(fusion)
    first = shapes[0]
    widest = max(shape.n for shape in shapes)
    step = 32 // first.left.size_bytes
    menu = (16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512)
    for m0 in _fitting(menu, first.m):
        for n0 in _fitting(menu, widest):
            room = min(
                machine.capacity(MemoryName.L0A) // (2 * m0 * first.left.size_bytes),
                machine.capacity(MemoryName.L0B) // (2 * n0 * first.right.size_bytes),
                round_up(first.k, step),
            )
            k0 = _l0_depth(room, step)
            if not k0 or m0 * n0 * ACCUMULATOR_BYTES > machine.capacity(MemoryName.L0C):
                continue
            joined = fusion.rule is Rule.GATED
            columns = shapes[:1] if joined else shapes
            items = first.batch * -(-first.m // m0) * sum(-(-shape.n // n0) for shape in columns)
            for parts in (1, 2, 4, 8, 16):
                if parts > 1 and (
                    fusion.kind is KernelKind.MIX or items * parts > 2 * machine.aic_count or parts > first.k // k0
                ):
                    break
                for limit in {machine.aic_count, max(1, machine.aic_count // 2)}:
                    cores = min(limit, items * parts)
                    yield Tiling(
                        tile={first.m_key: m0, first.n_key: n0, first.k_key: k0},
                        parts={first.k_key: parts} if parts > 1 else {},
                        aic=cores,
                        aiv=cores * machine.aiv_per_aic
                        if fusion.kind is KernelKind.MIX
                        else (cores if machine.coupled else 0),
                    )


def _l0_depth(room: int, step: int) -> int:
    """As deep as L0 allows, in a power of two of ``step`` elements (32 bytes), so that loads can be whole lines."""
    if room < step:
        return 0
    return step << (room // step).bit_length() - 1


def _fitting(menu: tuple[int, ...], extent: int) -> list[int]:
    """Entries of a menu up to the padded extent; at least the smallest."""
    padded = round_up(extent, 16)
    sizes = [size for size in menu if size <= padded]
    if padded < menu[-1] and padded not in sizes:
        sizes.append(padded)
    return sizes
