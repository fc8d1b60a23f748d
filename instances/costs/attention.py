"""Price of fused attention: scores, online softmax and values in one kernel, tile by tile over the context.

An item is one (batch x kv head, block of query rows, part of the context). It walks over the context in steps of
``n0`` keys: the cube makes a tile of scores, the vector cores turn it into probabilities and rescale the running
result, the cube multiplies by the values. Without direct paths between cube and vector cores (910B, 910C) the
scores, the probabilities and each partial result pass through an L2 workspace; with them (950) they stay in the
core. Splitting the context over cores (``parts``) adds a pass that joins the partial results.

Source of the form: FlashAttentionScore and FusedInferAttentionScore of CANN, and the CATLASS fused-kernel guide
(workspace between L0C and UB, two to four stages).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from instances.costs.cube import ACCUMULATOR_BYTES, WORKSPACE_STAGES, matmul_shape
from instances.costs.terms import (
    Draft,
    Misfit,
    Stage,
    balanced,
    mmad_ns,
    move_ns,
    mte1_ns,
    round_up,
    total_work,
    vector_ns,
    waves,
)
from instances.costs.vector import vector_steps
from instances.fusion import Fusion
from instances.graph import DType, VectorClass
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine, MemoryName

PROBABILITY_BYTES = 2

RESCALE_STEPS = 3
"""Vector steps that online softmax adds: convert the probabilities, scale the running result, add."""


@dataclass(frozen=True)
class AttentionShape:
    """``batch`` independent products of ``m`` query rows by ``n`` keys; ``d`` and ``dv`` are head sizes."""

    batch: int
    m: int
    n: int
    d: int
    dv: int
    density: float
    m_key: str
    n_key: str
    dtype: DType


def attention_shape(fusion: Fusion) -> AttentionShape:
    """Read the sizes off the two matmuls of the group."""
    scores, _, values = fusion.operators
    first = matmul_shape(fusion.graph, scores)
    second = matmul_shape(fusion.graph, values)
    return AttentionShape(
        batch=first.batch,
        m=first.m,
        n=first.n,
        d=first.k,
        dv=second.n,
        density=scores.density,
        m_key=first.m_key,
        n_key=first.n_key,
        dtype=first.left,
    )


def draft(fusion: Fusion, machine: Machine, tiling: Tiling) -> Draft:
    """Price fused attention under a tiling; :class:`Misfit` where a tile exceeds a memory."""
    shape = attention_shape(fusion)
    if set(tiling.tile) != {shape.m_key, shape.n_key} or not set(tiling.parts) <= {shape.n_key}:
        raise Misfit(f"tile along {shape.m_key}, {shape.n_key}", 0)
    m0, n0 = tiling.tile[shape.m_key], tiling.tile[shape.n_key]
    parts = tiling.parts.get(shape.n_key, 1)
    if m0 % 16 or n0 % 16 or m0 > round_up(shape.m, 16) or n0 > round_up(shape.n, 16):
        raise Misfit("tile (multiples of 16 within the matrix)", 0)
    pairs = machine.aiv_per_aic
    items = shape.batch * -(-shape.m // m0) * parts
    if tiling.aic < 1 or tiling.aic > items or parts > -(-shape.n // n0) or tiling.aiv != tiling.aic * pairs:
        raise Misfit("cores or parts", 0)
    mine = waves(items, tiling.aic)
    m = balanced(shape.m, m0, 16)
    rows = shape.m / -(-shape.m // m0)  # rows with work in them, unpadded
    steps = max(1.0, shape.n * shape.density / parts / n0)
    element = shape.dtype.size_bytes
    result = Draft(KernelKind.MIX, [], 0.0, tiling.aic, steps=len(fusion.cubes) + _softmax_steps(fusion))

    d_padded, dv_padded = round_up(shape.d, 16), round_up(shape.dv, 16)
    slices = cube_buffers(machine, result, m0, n0, d_padded, dv_padded, element)
    through_l2_out, through_l2_back = not machine.direct, not machine.direct_back

    # per step, on one cube core
    keys = n0 * (shape.d + shape.dv) * element
    back = rows * n0 * PROBABILITY_BYTES if through_l2_back else 0
    into_l1 = machine.path(MemoryName.L2, MemoryName.L1)
    load = move_ns(machine, into_l1, keys + back, (3 if back else 2) * slices, 2 * slices)
    query = move_ns(machine, into_l1, m * shape.d * element, 1, 1)
    into_l0 = mte1_ns(machine, left=(m * (n0 + shape.d) * element, 2), right=(keys, 2))
    cube = mmad_ns(machine, shape.dtype, m, n0, shape.d, 1) + mmad_ns(machine, shape.dtype, m, dv_padded, n0, 1)
    out_path = machine.path(MemoryName.L0C, MemoryName.UB) or machine.path(MemoryName.L0C, MemoryName.L2)
    handed = rows * (n0 + shape.dv) * ACCUMULATOR_BYTES
    drain = move_ns(machine, out_path, handed, 2)

    # per step, on one of the vector cores of the group
    vector_in = handed / pairs if through_l2_out else 0.0
    load_v = move_ns(machine, machine.path(MemoryName.L2, MemoryName.UB), vector_in, 2) if vector_in else 0.0
    probabilities = rows * n0 * PROBABILITY_BYTES / pairs
    back_path = machine.path(MemoryName.UB, MemoryName.L1) or machine.path(MemoryName.UB, MemoryName.L2)
    store_v = move_ns(machine, back_path, probabilities, 1)
    chunks = vector_chunks(machine, result, m0, n0, shape.dv, pairs)
    compute = softmax_step_ns(fusion, machine, shape, rows, n0, pairs, chunks)

    final = move_ns(machine, machine.path(MemoryName.UB, MemoryName.L2), rows * shape.dv * element / pairs, 1)
    sync = machine.sync_ns.value
    result.stages = [
        Stage("mte2", query + load, mine * (query + steps * load)),
        Stage("mte1", into_l0, mine * steps * into_l0),
        Stage("cube", cube, mine * steps * cube),
        Stage("fixp", drain, mine * steps * drain),
        Stage("sync", 2 * sync, mine * steps * sync),
        Stage("vector_mte2", load_v, mine * steps * load_v),
        Stage("vector", compute, mine * steps * compute),
        Stage("mte3", store_v + final, mine * (steps * store_v + final)),
    ]
    per_step = keys + back
    per_step += 2 * handed if through_l2_out else 0
    per_step += probabilities * pairs if through_l2_back else 0
    result.l2_bytes = items * (rows * shape.d * element + steps * per_step + rows * shape.dv * element)
    if through_l2_out or through_l2_back:
        tile_bytes = m0 * n0 * (ACCUMULATOR_BYTES + PROBABILITY_BYTES) + m0 * shape.dv * ACCUMULATOR_BYTES
        result.workspace_bytes = tiling.aic * WORKSPACE_STAGES * tile_bytes
    if parts > 1:
        _join_parts(machine, result, shape, tiling, parts)
    return result


def cube_buffers(machine: Machine, result: Draft, m0: int, n0: int, d: int, dv: int, element: int) -> int:
    """Place the cube's buffers; returns into how many slices of keys a step is cut for L1.

    Keys, values and probabilities pass through L1 in slices, as many keys at a time as fit beside the query; the sums
    leave L0C in slices of columns, so that neither a long step nor a wide value fills it.
    """
    query = m0 * d * element
    per_key = 2 * (d * element + dv * element + m0 * PROBABILITY_BYTES)
    room = (machine.capacity(MemoryName.L1) - query) // per_key // 16 * 16
    if room < 16:
        raise Misfit(MemoryName.L1.value, query + 16 * per_key - machine.capacity(MemoryName.L1), query + 16 * per_key)
    width = balanced(n0, min(room, n0), 16)
    result.need("query", MemoryName.L1, query, 1)
    result.need("keys", MemoryName.L1, width * d * element, 2)
    result.need("values", MemoryName.L1, width * dv * element, 2)
    result.need("probabilities", MemoryName.L1, m0 * width * PROBABILITY_BYTES, 2)
    # L0 works on slices of the depth, as large as double buffering leaves room for
    left = min(m0 * max(d, width) * element, machine.capacity(MemoryName.L0A) // 2)
    right = min(width * max(d, dv) * element, machine.capacity(MemoryName.L0B) // 2)
    if m0 * 32 > left:
        raise Misfit(MemoryName.L0A.value, m0 * 32 - left, m0 * 32)
    result.need("left", MemoryName.L0A, left, 2)
    result.need("right", MemoryName.L0B, right, 2)
    columns = min(max(width, dv), machine.capacity(MemoryName.L0C) // (2 * m0 * ACCUMULATOR_BYTES) // 16 * 16)
    if columns < 16:
        raise Misfit(MemoryName.L0C.value, 2 * m0 * 64 - machine.capacity(MemoryName.L0C), 2 * m0 * 64)
    result.need("sums", MemoryName.L0C, m0 * columns * ACCUMULATOR_BYTES, 2)
    return -(-n0 // width)


def vector_chunks(machine: Machine, result: Draft, m0: int, n0: int, dv: int, pairs: int) -> int:
    """Place the vector cores' buffers; returns into how many pieces a step's tile is cut for UB."""
    rows = max(1, m0 // pairs)
    row_bytes = n0 * (2 * ACCUMULATOR_BYTES + ACCUMULATOR_BYTES + PROBABILITY_BYTES)
    row_bytes += dv * 3 * ACCUMULATOR_BYTES + 4 * ACCUMULATOR_BYTES
    fit = (machine.capacity(MemoryName.UB) - 8 * machine.alignment(MemoryName.UB)) // row_bytes
    if fit < 1:
        raise Misfit(MemoryName.UB.value, row_bytes - machine.capacity(MemoryName.UB), row_bytes)
    held = min(rows, fit)
    result.need("scores_in", MemoryName.UB, held * n0 * ACCUMULATOR_BYTES, 2)
    result.need("work", MemoryName.UB, held * n0 * ACCUMULATOR_BYTES, 1)
    result.need("probabilities_out", MemoryName.UB, held * n0 * PROBABILITY_BYTES, 1)
    result.need("result_in", MemoryName.UB, held * dv * ACCUMULATOR_BYTES, 2)
    result.need("running", MemoryName.UB, held * dv * ACCUMULATOR_BYTES, 1)
    result.need("max_and_sum", MemoryName.UB, held * 4 * ACCUMULATOR_BYTES, 1)
    return -(-rows // held)


def softmax_step_ns(
    fusion: Fusion, machine: Machine, shape: AttentionShape, rows: float, n0: int, pairs: int, chunks: int
) -> float:
    """Softmax work on a tile, plus the rescaling of the running result that online softmax adds per step."""
    softmax = fusion.operators[1]
    whole_tile = shape.batch * shape.m * shape.n * shape.density
    share = rows * n0 / whole_tile / pairs
    work = {klass: elements * share for klass, elements in total_work([softmax], 0).items()}
    work[VectorClass.CONVERT] = work.get(VectorClass.CONVERT, 0.0) + rows * n0 / pairs
    rescale = rows * shape.dv / pairs
    work[VectorClass.TWO_SOURCE] = work.get(VectorClass.TWO_SOURCE, 0.0) + rescale
    work[VectorClass.ONE_SOURCE] = work.get(VectorClass.ONE_SOURCE, 0.0) + rescale
    calls = _softmax_steps(fusion) * chunks
    return vector_ns(machine, work, calls)


def _softmax_steps(fusion: Fusion) -> int:
    return vector_steps(fusion.vectors) + RESCALE_STEPS


def _join_parts(machine: Machine, result: Draft, shape: AttentionShape, tiling: Tiling, parts: int) -> None:
    """Write each part's result and sums in 32 bits, read them back, rescale and add."""
    elements = shape.batch * shape.m * shape.dv * parts
    result.l2_bytes += 2 * elements * ACCUMULATOR_BYTES
    per_core = elements / tiling.aiv
    load = move_ns(machine, machine.path(MemoryName.L2, MemoryName.UB), per_core * ACCUMULATOR_BYTES, parts)
    add = vector_ns(machine, {VectorClass.TWO_SOURCE: 2 * per_core}, 2 * parts)
    result.extra_tail_ns += machine.sync_ns.value + load + add
    result.workspace_bytes += elements * ACCUMULATOR_BYTES


def choices(fusion: Fusion, machine: Machine) -> Iterator[Tiling]:
    """Tilings worth pricing: query rows and keys per step by a menu, context split until the cores are busy."""
    shape = attention_shape(fusion)
    padded_m, padded_n = round_up(shape.m, 16), round_up(shape.n, 16)
    pairs = machine.aiv_per_aic
    for m0 in sorted({min(size, padded_m) for size in (16, 32, 64, 96, 128, 192, 256)}):
        for n0 in sorted({min(size, padded_n) for size in (64, 128, 256, 384, 512, 1024)}):
            base = shape.batch * -(-shape.m // m0)
            for parts in (1, 2, 3, 4, 6, 8, 12, 16):
                if parts > -(-shape.n // n0) or (parts > 1 and base * parts > 6 * machine.aic_count):
                    break
                for limit in {machine.aic_count, max(1, machine.aic_count // 2)}:
                    cores = min(limit, base * parts)
                    yield Tiling(
                        tile={shape.m_key: m0, shape.n_key: n0},
                        parts={shape.n_key: parts} if parts > 1 else {},
                        aic=cores,
                        aiv=cores * pairs,
                    )
