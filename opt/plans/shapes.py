"""How a kernel's axes are cut and looped over: the same blocks that its price was worked out from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from instances.costs import attention, cube, vector
from instances.costs.terms import Draft, round_up, waves
from instances.fusion import Fusion
from instances.graph import Operator, OpKind
from instances.kernels import Buffer, KernelKind, Rule, Tiling
from instances.machine import Machine, MemoryName
from instances.plan import FusionKind, Loop, Tile

ELEMENTWISE = frozenset({OpKind.ELEMENTWISE, OpKind.ACTIVATION, OpKind.QUANTIZE, OpKind.DEQUANTIZE})
REDUCING = frozenset({OpKind.NORM, OpKind.SOFTMAX})


@dataclass(frozen=True)
class Shape:
    """Tiles, loops from the outermost inwards, and how the items of the loops over cores are dealt out."""

    tiles: tuple[Tile, ...] = ()
    loops: tuple[Loop, ...] = ()
    most_items: int = 0
    dealt: Literal["in_runs", "in_turn"] = "in_runs"
    joined: int = 1
    held: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        """Items that are dealt out."""
        return math.prod(loop.count for loop in self.loops if loop.over == "cores") if self.loops else 0

    @property
    def split(self) -> tuple[str, ...]:
        """Axes along which the work is dealt out."""
        return tuple(loop.axis for loop in self.loops if loop.over == "cores" and loop.count > 1)


def shape_of(fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...]) -> Shape:
    """The shape of a kernel under a tiling that is known to fit; empty for a collective."""
    if fusion.kind is KernelKind.LINK:
        return Shape()
    if fusion.kind is KernelKind.VECTOR:
        return _vector(fusion, tiling)
    if fusion.rule is Rule.ATTENTION:
        return _attention(fusion, machine, tiling, buffers)
    return _cube(fusion, machine, tiling)


def _cube(fusion: Fusion, machine: Machine, tiling: Tiling) -> Shape:
    """Items by batch, row block, column block and part of the depth; the depth through L1, then through L0."""
    blocks, first = cube.cut_blocks(fusion, tiling), cube.matmul_shapes(fusion)[0]
    loads = cube.l1_loads(machine, first, blocks)
    depth = round_up(blocks.depth, blocks.k0)
    l1, l0a, l0b, l0c, ub = MemoryName.L1, MemoryName.L0A, MemoryName.L0B, MemoryName.L0C, MemoryName.UB
    columns = sum(s.n for s in cube.matmul_shapes(fusion)) if blocks.joined == 1 else first.n
    tiles = [
        Tile(
            axis=first.m_key, role="m", extent=first.m, tile=blocks.m0, levels=dict.fromkeys((l1, l0a, l0c), blocks.m0)
        ),
        Tile(
            axis=first.n_key, role="n", extent=columns, tile=blocks.n0, levels=dict.fromkeys((l1, l0b, l0c), blocks.n0)
        ),
        Tile(
            axis=first.k_key,
            role="k",
            extent=first.k,
            tile=blocks.k0,
            levels={l1: loads.step, l0a: blocks.k0, l0b: blocks.k0},
        ),
    ]
    if fusion.kind is KernelKind.MIX:
        pairs = machine.aiv_per_aic
        chunk = cube.epilogue_chunk(fusion, machine, blocks, Draft(fusion.kind, [], 0.0, tiling.aic), pairs)
        tile = blocks.m0 * blocks.n0 * blocks.joined
        axis = f"{first.m_key}*{first.n_key}"
        tiles.append(Tile(axis=axis, role="elements", extent=tile, tile=-(-tile // pairs), levels={ub: chunk}))
    loops = [
        Loop(axis="batch", role="batch", count=first.batch, step=1, over="cores"),
        Loop(axis=first.m_key, role="m", count=blocks.m_blocks, step=blocks.m0, over="cores"),
        Loop(axis=first.n_key, role="n", count=blocks.n_blocks, step=blocks.n0, over="cores"),
        Loop(axis=first.k_key, role="k", count=blocks.parts, step=blocks.depth, over="cores"),
        Loop(axis=first.k_key, role="k", count=-(-depth // loads.step), step=min(loads.step, depth), over="core"),
        Loop(axis=first.k_key, role="k", count=-(-min(loads.step, depth) // blocks.k0), step=blocks.k0, over="core"),
    ]
    kept = tuple(name for name, _, slots in loads.buffers if slots == 1)
    return Shape(tuple(tiles), _needed(loops), blocks.mine, "in_runs", blocks.joined, kept)


def _needed(loops: list[Loop]) -> tuple[Loop, ...]:
    """Loops without those of one turn that no tile stands for: a batch of one, a depth that is not split."""
    kept = [loop for loop in loops if loop.count > 1 or loop.over == "core" or loop.role in ("m", "n", "rows")]
    return tuple(kept)


def _attention(fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...]) -> Shape:
    """Items by head, block of query rows and part of the context; each walks over its keys, in slices through L1."""
    shape = attention.attention_shape(fusion)
    m0, n0 = tiling.tile[shape.m_key], tiling.tile[shape.n_key]
    parts = tiling.parts.get(shape.n_key, 1)
    scratch = Draft(KernelKind.MIX, [], 0.0, tiling.aic)
    d, dv, element = round_up(shape.d, 16), round_up(shape.dv, 16), shape.dtype.size_bytes
    slices = attention.cube_buffers(machine, scratch, m0, n0, d, dv, element)
    chunks = attention.vector_chunks(machine, scratch, m0, n0, shape.dv, machine.aiv_per_aic)
    width = next(b.size_bytes for b in buffers if b.memory is MemoryName.L1 and b.name == "keys") // (d * element)
    rows = max(1, m0 // machine.aiv_per_aic)
    steps = math.ceil(max(1.0, shape.n * shape.density / parts / n0))
    tiles = (
        Tile(
            axis=shape.m_key,
            role="m",
            extent=shape.m,
            tile=m0,
            levels={MemoryName.L1: m0, MemoryName.L0A: m0, MemoryName.L0C: m0, MemoryName.UB: -(-rows // chunks)},
        ),
        Tile(
            axis=shape.n_key,
            role="n",
            extent=shape.n,
            tile=n0,
            levels={MemoryName.L1: min(width, n0), MemoryName.UB: n0},
        ),
    )
    items = shape.batch * -(-shape.m // m0) * parts
    loops = [
        Loop(axis="batch", role="batch", count=shape.batch, step=1, over="cores"),
        Loop(axis=shape.m_key, role="m", count=-(-shape.m // m0), step=m0, over="cores"),
        Loop(axis=shape.n_key, role="part", count=parts, step=-(-shape.n // parts), over="cores"),
        Loop(axis=shape.n_key, role="n", count=steps, step=n0, over="core"),
        Loop(axis=shape.n_key, role="slice", count=slices, step=min(width, n0), over="core"),
    ]
    return Shape(tiles, _needed(loops), waves(items, tiling.aic), "in_runs")


def _vector(fusion: Fusion, tiling: Tiling) -> Shape:
    """Tiles of rows in turn; a long row in segments, twice over."""
    along, across = vector.key(fusion), "*".join(vector.whole_loops(fusion))
    rows, tile_rows = vector.row_count(fusion), tiling.tile[along]
    tiles = [Tile(axis=along, role="rows", extent=rows, tile=tile_rows, levels={MemoryName.UB: tile_rows})]
    count = -(-rows // tile_rows)
    loops = [Loop(axis=along, role="rows", count=count, step=tile_rows, over="cores")]
    segment = tiling.tile.get(across) if across else None
    if segment is not None:
        length = math.prod(vector.extent_of(fusion, loop) for loop in vector.whole_loops(fusion))
        tiles.append(Tile(axis=across, role="row", extent=length, tile=segment, levels={MemoryName.UB: segment}))
        loops.append(Loop(axis=across, role="pass", count=2, step=length, over="core"))
        loops.append(Loop(axis=across, role="row", count=-(-length // segment), step=segment, over="core"))
    return Shape(tuple(tiles), tuple(loops), waves(count, tiling.aiv), "in_turn")


def fusion_kind(fusion: Fusion) -> FusionKind | None:
    """The HFusion class of a kernel; ``None`` where none fits.

    ====================================================== =====================
    kernel                                                  class
    ====================================================== =====================
    one operator on the cube                                SINGLE_CUBE
    one matmul and the vector operators that follow         MIX_CV
    several matmuls and the vector operators that join them SHALLOW_CV
    scores, softmax and values                              MIX_C2
    vector operators, element by element                    PURE_ELEMWISE
    the same, some operand lacking axes of the result       ANY_PB
    with a reduction along the result's last axis alone     LAST_AXIS_PBR
    with other reductions                                   ANY_PBR
    others (gather, sort, permutation, several matmuls)     none
    ====================================================== =====================
    """
    if fusion.kind is KernelKind.LINK:
        return None
    if fusion.kind is KernelKind.CUBE:
        return FusionKind.SINGLE_CUBE if len(fusion.operators) == 1 else None
    if fusion.kind is KernelKind.MIX:
        by_rule = {
            Rule.EPILOGUE: FusionKind.MIX_CV,
            Rule.GATED: FusionKind.SHALLOW_CV,
            Rule.ATTENTION: FusionKind.MIX_C2,
        }
        return by_rule.get(fusion.rule)
    if any(operator.kind not in ELEMENTWISE | REDUCING for operator in fusion.operators):
        return None
    reducing = [operator for operator in fusion.operators if operator.whole]
    if reducing:
        return FusionKind.LAST_AXIS_PBR if all(map(_along_last_axis, reducing)) else FusionKind.ANY_PBR
    widened = any(access.loops < operator.writes[0].loops for operator in fusion.operators for access in operator.reads)
    return FusionKind.ANY_PB if widened else FusionKind.PURE_ELEMWISE


def _along_last_axis(operator: Operator) -> bool:
    """Whether an operator needs whole what the last axis of its result holds, and nothing else."""
    return set(operator.whole) == set(operator.writes[0].axes[-1])
