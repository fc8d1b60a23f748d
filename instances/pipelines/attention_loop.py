"""The loop of fused attention: a step over the context, from keys to the rescaled running result.

A step is cut as its buffers are: keys, values and probabilities come into L1 in slices, slices go through L0 in pieces
and the vector cores work on chunks of rows. Through the workspace in L2 sums leave L0C column by column; straight to UB
they leave it by rows, for softmax wants whole ones. The query and the finished result, once for each block of query
rows, count in every step with their share: the loop runs on from one block to the next.
"""

from __future__ import annotations

from instances.costs import attention, cube
from instances.costs.terms import Draft, balanced, mmad_ns, move_ns, mte1_ns, round_up, vector_ns, waves
from instances.fusion import Fusion
from instances.graph import VectorClass
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine, MemoryName
from instances.pipelines.loop import KernelLoop
from instances.pipelines.writing import ISSUE, TURN, LoopWriter, ps

RESCALE_CALLS = 2
"""Of the vector steps that online softmax adds, those on the running result: scale and add."""


MOST_LEAD = 2
"""Steps by which scores may run ahead of values: one hides the softmax, a second the way there and back."""

MOST_SLICES = 2
"""Slices of a step in L1 that can be there at once: the cost model sizes them so that two fit."""


def attention_loop(fusion: Fusion, machine: Machine, tiling: Tiling, draft: Draft) -> KernelLoop | None:
    """One step over the context an iteration; ``None`` where no order of its pieces goes through the buffers.

    That is so where more slices are read again for each group of rows or columns than L1 has slots.
    """
    shape = attention.attention_shape(fusion)
    m0, n0 = tiling.tile[shape.m_key], tiling.tile[shape.n_key]
    parts = tiling.parts.get(shape.n_key, 1)
    m = balanced(shape.m, m0, 16)
    rows = shape.m / -(-shape.m // m0)
    items = shape.batch * -(-shape.m // m0) * parts
    steps = max(1.0, shape.n * shape.density / parts / n0)
    element, pairs, sync = shape.dtype.size_bytes, machine.aiv_per_aic, machine.sync_ns.value
    scratch = Draft(KernelKind.MIX, [], 0.0, tiling.aic)
    d, dv = round_up(shape.d, 16), round_up(shape.dv, 16)
    slices = attention.cube_buffers(machine, scratch, m0, n0, d, dv, element)
    chunks = attention.vector_chunks(machine, scratch, m0, n0, shape.dv, pairs)
    size = {(name, memory): bytes_ for name, memory, bytes_, _ in scratch.demands}
    left, right = size["left", MemoryName.L0A], size["right", MemoryName.L0B]
    columns = size["sums", MemoryName.L0C] // (m0 * cube.ACCUMULATOR_BYTES)
    width = -(-n0 // slices)
    score_pieces = slices * max(-(-width * d * element // right), -(-m0 * d * element // left), -(-width // columns))
    groups = -(-dv // columns)
    value_pieces = slices * max(-(-width * (dv // groups) * element // right), -(-m0 * width * element // left))
    direct, back = machine.direct, machine.direct_back
    if slices > MOST_SLICES and (direct or groups > 2):
        return None
    into_l1 = machine.path(MemoryName.L2, MemoryName.L1)
    into_ub = machine.path(MemoryName.L2, MemoryName.UB)
    out_path = machine.path(MemoryName.L0C, MemoryName.UB) or machine.path(MemoryName.L0C, MemoryName.L2)
    back_path = machine.path(MemoryName.UB, MemoryName.L1) or machine.path(MemoryName.UB, MemoryName.L2)
    key_bytes, value_bytes = n0 * shape.d * element, n0 * shape.dv * element
    score_bytes, result_bytes = rows * n0 * cube.ACCUMULATOR_BYTES, rows * shape.dv * cube.ACCUMULATOR_BYTES
    sent_bytes = rows * n0 * attention.PROBABILITY_BYTES
    query_bytes, final_bytes = m * shape.d * element, rows * shape.dv * element
    whole = attention.softmax_step_ns(fusion, machine, shape, rows, n0, pairs, chunks)
    each = rows * shape.dv / pairs
    rescale = vector_ns(machine, {VectorClass.TWO_SOURCE: each, VectorClass.ONE_SOURCE: each}, RESCALE_CALLS * chunks)
    turn = {TURN: machine.exposed.mix.value}
    side = {ISSUE: machine.exposed.vector.value}
    w = LoopWriter(machine, draft)

    def covered(chunk: int, pieces: int) -> range:
        """Which of so many pieces of the rows a chunk of them lies in."""
        return range(chunk * pieces // chunks, -(-(chunk + 1) * pieces // chunks))

    # scores: keys in, products, out to the vector cores
    w.op("query", "mte2", move_ns(machine, into_l1, query_bytes, 1, 1) / steps, l2_bytes=query_bytes / steps)
    load_ns = move_ns(machine, into_l1, key_bytes / slices, 1, 1)
    keys = [w.op(f"keys{s}", "mte2", load_ns, l2_bytes=key_bytes / slices) for s in range(slices)]
    fill_ns = mte1_ns(machine, left=(m * shape.d * element, 1), right=(key_bytes, 1)) / score_pieces
    product_ns = mmad_ns(machine, shape.dtype, m, n0, shape.d, 1) / score_pieces
    outs_of = chunks if direct else score_pieces
    out_ns = move_ns(machine, out_path, score_bytes, 1) / outs_of
    s_fills, scores = [], []
    for j in range(score_pieces):
        brought = keys if direct else [keys[j * slices // score_pieces]]
        s_fills.append(w.op(f"score_slices{j}", "mte1", fill_ns, after=brought))
        scores.append(w.op(f"scores{j}", "cube", product_ns, after=s_fills[-1:], holds=turn))
    s_outs = []
    for j in range(outs_of):
        made = [scores[n] for n in covered(j, score_pieces)] if direct else [scores[j]]
        moved = 0.0 if direct else score_bytes / outs_of
        s_outs.append(w.op(f"scores_out{j}", "fixp", out_ns, after=made, l2_bytes=moved))
    flags = [w.op(f"flag{j}", "sync", sync / outs_of, after=[s_outs[j]]) for j in range(outs_of)]

    # softmax: chunks of rows
    s_ins, softmaxes, sends = [], [], []
    in_ns = move_ns(machine, into_ub, score_bytes / pairs, 1) / chunks if not direct else 0.0
    send_ns = move_ns(machine, back_path, sent_bytes / pairs, 1) / chunks
    both = {**side, **turn}
    for c in range(chunks):
        if not direct:
            s_ins.append(w.op(f"scores_in{c}", "vector_mte2", in_ns, holds=side, l2_bytes=score_bytes / chunks))
            w.wait(flags[-1], s_ins[-1], ps(sync))
        softmaxes.append(
            w.op(
                f"softmax{c}", "vector", (whole - rescale) / chunks, after=s_ins[-1:] if not direct else (), holds=both
            )
        )
        if direct:
            w.wait(flags[c], softmaxes[-1], ps(sync))
        moved = 0.0 if back else sent_bytes / chunks
        sends.append(w.op(f"send{c}", "mte3", send_ns, after=softmaxes[-1:], holds=side, l2_bytes=moved))

    # values: probabilities and values in, products, out to the running result
    values, p_loads = [], []
    p_ns = 0.0 if back else move_ns(machine, into_l1, sent_bytes / slices, 1)
    load_ns = move_ns(machine, into_l1, value_bytes / slices, 1, 1)
    for s in range(slices):
        if not back:
            p_loads.append(w.op(f"probabilities{s}", "mte2", p_ns, after=sends[-1:], l2_bytes=sent_bytes / slices))
        values.append(w.op(f"values{s}", "mte2", load_ns, l2_bytes=value_bytes / slices))
    count = groups * value_pieces
    fill_ns = mte1_ns(machine, left=(m * n0 * element, 1), right=(value_bytes, 1)) / count
    product_ns = mmad_ns(machine, shape.dtype, m, dv, n0, 1) / count
    v_fills, v_products = [], []
    firsts, lasts = [-1] * groups, [-1] * groups
    turns = [(g, j) for g in range(groups) for j in range(value_pieces)]
    if slices > MOST_SLICES:  # each slice for all groups of columns while it is there
        turns.sort(key=lambda turn: (turn[1], turn[0]))
    for g, j in turns:
        s = j * slices // value_pieces
        brought = [values[s], *(sends[-1:] if back else [p_loads[s]])]
        v_fills.append(w.op(f"value_slices{g}_{j}", "mte1", fill_ns, after=brought))
        v_products.append(w.op(f"products{g}_{j}", "cube", product_ns, after=v_fills[-1:], holds=turn))
        firsts[g], lasts[g] = (firsts[g] if j else v_products[-1]), v_products[-1]
    v_outs = []
    outs_of = chunks if direct else groups
    out_ns = move_ns(machine, out_path, result_bytes, 1) / outs_of
    for j in range(outs_of):
        made = [lasts[n] for n in covered(j, groups)] if direct else [lasts[j]]
        moved = 0.0 if direct else result_bytes / outs_of
        v_outs.append(w.op(f"result_out{j}", "fixp", out_ns, after=made, l2_bytes=moved))
    v_ins, rescales = [], []
    in_ns = move_ns(machine, into_ub, result_bytes / pairs, 1) / chunks if not direct else 0.0
    for c in range(chunks):
        if not direct:
            moved = result_bytes / chunks
            v_ins.append(w.op(f"result_in{c}", "vector_mte2", in_ns, after=v_outs[-1:], holds=side, l2_bytes=moved))
        ready = [v_outs[c]] if direct else v_ins[-1:]
        rescales.append(w.op(f"rescale{c}", "vector", rescale / chunks, after=ready, holds=both))
    final_ns = move_ns(machine, machine.path(MemoryName.UB, MemoryName.L2), final_bytes / pairs, 1) / steps
    w.op("result", "mte3", final_ns, after=rescales[-1:], holds=side, l2_bytes=final_bytes / steps)

    for ops in (keys, values, p_loads, s_fills, scores, s_outs, flags, s_ins, softmaxes, sends):
        w.in_turn(ops)
    for ops in (v_fills, v_products, v_outs, v_ins, rescales):
        w.in_turn(ops)

    value_slice = [j * slices // value_pieces for _, j in turns]
    score_slice = [j * slices // score_pieces for j in range(score_pieces)]

    def by_slice(fills: list[int], readers: list[int], of: list[int]) -> list[tuple[int, list[int]]]:
        """Each slice with those that read it."""
        return [(fill, [r for r, at in zip(readers, of, strict=True) if at == s]) for s, fill in enumerate(fills)]

    def by_rows(fills: list[int], outs: list[int]) -> list[tuple[int, list[int]]]:
        """Each piece of the rows with the chunks that it goes to."""
        return [
            (fill, [out for c, out in enumerate(outs) if n in covered(c, len(fills))]) for n, fill in enumerate(fills)
        ]

    w.ring("keys", MemoryName.L1, [(k, s_fills) for k in keys] if direct else by_slice(keys, s_fills, score_slice))
    w.ring("values", MemoryName.L1, by_slice(values, v_fills, value_slice))
    sent = [(sends[0], v_fills)] * slices if back else by_slice(p_loads, v_fills, value_slice)
    w.ring("probabilities", MemoryName.L1, sent)
    pieces = [*zip(s_fills, scores, strict=True), *zip(v_fills, v_products, strict=True)]
    for name, memory in (("left", MemoryName.L0A), ("right", MemoryName.L0B)):
        w.ring(name, memory, [(fill, [product]) for fill, product in pieces], leading=score_pieces)
    if direct:
        w.ring("sums", MemoryName.L0C, [*by_rows(scores, s_outs), *by_rows(firsts, v_outs)], leading=score_pieces)
    else:
        both_sums = [*zip(scores, s_outs, strict=True), *zip(firsts, v_outs, strict=True)]
        w.ring("sums", MemoryName.L0C, [(fill, [out]) for fill, out in both_sums], leading=score_pieces)
    w.ring("scores_in", MemoryName.UB, list(zip(s_outs if direct else s_ins, ([s] for s in softmaxes), strict=True)))
    w.ring("probabilities_out", MemoryName.UB, list(zip(softmaxes, ([s] for s in sends), strict=True)))
    w.ring("result_in", MemoryName.UB, list(zip(v_outs if direct else v_ins, ([r] for r in rescales), strict=True)))
    room = {}
    if not (direct and back):
        tile = m0 * n0 * (cube.ACCUMULATOR_BYTES + attention.PROBABILITY_BYTES) + m0 * shape.dv * cube.ACCUMULATOR_BYTES
        room[MemoryName.L2] = cube.WORKSPACE_STAGES * tile
    if not direct:
        w.ring("workspace_scores", MemoryName.L2, [(s_outs[0], s_ins)], m0 * n0 * cube.ACCUMULATOR_BYTES)
        w.ring("workspace_result", MemoryName.L2, [(v_outs[0], v_ins)], m0 * shape.dv * cube.ACCUMULATOR_BYTES)
    if not back:
        w.ring("workspace_back", MemoryName.L2, [(sends[0], p_loads)], m0 * n0 * attention.PROBABILITY_BYTES)
    iterations = waves(items, tiling.aic) * steps
    return KernelLoop(body=w.loop(iterations > 1, room, MOST_LEAD), iterations=iterations)
