"""Fused attention as programs: scores a step ahead of the softmax, the product with the values a step behind it.

Both leads are needed: pipes are in order, so a product that waits for its own softmax would hold up the scores, and the
loads, of the steps after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from instances.costs import attention, cube
from instances.costs.terms import Draft, balanced, mmad_ns, mte1_ns, round_up, vector_ns
from instances.fusion import Fusion
from instances.graph import VectorClass
from instances.kernels import Buffer, KernelKind, Tiling
from instances.machine import Machine, MemoryName
from opt.simulation.parts import Slots, dealt, format_ns, hbm_share_of, port
from opt.simulation.program import Program, Writer


def attention_programs(
    fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...], from_hbm: Mapping[str, int]
) -> Iterator[Program]:
    """For each item: the query once; for each step keys and scores, softmax, values and the running result."""
    shape = attention.attention_shape(fusion)
    m0, n0 = tiling.tile[shape.m_key], tiling.tile[shape.n_key]
    parts = tiling.parts.get(shape.n_key, 1)
    m = balanced(shape.m, m0, 16)
    rows = shape.m / -(-shape.m // m0)
    items = shape.batch * -(-shape.m // m0) * parts
    exact = max(1.0, shape.n * shape.density / parts / n0)
    steps = math.ceil(exact)
    part = exact / steps
    element, pairs, sync = shape.dtype.size_bytes, machine.aiv_per_aic, machine.sync_ns.value
    scratch = Draft(KernelKind.MIX, [], 0.0, tiling.aic)
    d_padded, dv_padded = round_up(shape.d, 16), round_up(shape.dv, 16)
    slices = attention.cube_buffers(machine, scratch, m0, n0, d_padded, dv_padded, element)
    chunks = attention.vector_chunks(machine, scratch, m0, n0, shape.dv, pairs)
    start, rate = port(machine, machine.path(MemoryName.L2, MemoryName.L1))
    formatting = format_ns(machine, machine.path(MemoryName.L2, MemoryName.L1))
    to_ub, to_l1 = machine.path(MemoryName.L0C, MemoryName.UB), machine.path(MemoryName.UB, MemoryName.L1)
    out_start, out_rate = port(machine, to_ub or machine.path(MemoryName.L0C, MemoryName.L2))
    v_start, v_rate = port(machine, machine.path(MemoryName.L2, MemoryName.UB))
    back_start, back_rate = port(machine, to_l1 or machine.path(MemoryName.UB, MemoryName.L2))
    last_start, last_rate = port(machine, machine.path(MemoryName.UB, MemoryName.L2))
    compute = attention.softmax_step_ns(fusion, machine, shape, rows, n0, pairs, chunks)
    scores_ns = mmad_ns(machine, shape.dtype, m, n0, shape.d, 1)
    values_ns = mmad_ns(machine, shape.dtype, m, dv_padded, n0, 1)
    keys_bytes, value_bytes = n0 * shape.d * element, n0 * shape.dv * element
    reads = {a.tensor: from_hbm.get(a.tensor, 0) for a in fusion.reads}
    query_tensor = fusion.operators[0].reads[0].tensor
    loaded = items * exact * (keys_bytes + value_bytes)
    cache_share = hbm_share_of(sum(n for t, n in reads.items() if t != query_tensor), loaded)
    query_share = hbm_share_of(reads.get(query_tensor, 0), items * m * shape.d * element)
    out_share = hbm_share_of(sum(from_hbm.get(a.tensor, 0) for a in fusion.writes), items * rows * shape.dv * element)
    slots = Slots(buffers)
    mix = machine.exposed.mix.value
    ub, l1 = MemoryName.UB, MemoryName.L1

    def written(mine: int, cores: int) -> Program:
        w, l0 = Writer(), 0
        token: list[tuple[int, float]] = []
        returned: dict[int, int] = {}
        order = [(item, step) for item in range(mine) for step in range(steps)]

        def scores_of(turn: int) -> None:
            """Keys in, scores out to the vector cores; the query where an item begins."""
            nonlocal l0
            item, step = order[turn]
            query = slots.at("query", l1, item)
            if not step:
                w.add("mte2", start + formatting, (), query, m * shape.d * element, rate, query_share)
            keys = slots.at("keys", l1, turn)
            w.add("mte2", slices * (start + formatting), (), keys, part * keys_bytes, rate, cache_share)
            a, b = slots.at("left", MemoryName.L0A, l0), slots.at("right", MemoryName.L0B, l0)
            l0 += 1
            fill = mte1_ns(machine, left=(m * shape.d * element, 1), right=(part * keys_bytes, 1))
            w.add("mte1", fill, (*query, *keys), (*a, *b))
            scores = slots.at("sums", MemoryName.L0C, 2 * turn)
            token[:] = [(w.add("cube", part * scores_ns, (*a, *b), scores, after=token), mix)]
            handed = part * rows * n0 * cube.ACCUMULATOR_BYTES
            into = slots.at("scores_in", ub, turn)
            if to_ub is None:
                out = w.add("fixp", out_start, scores, (), handed, out_rate)
                flag = w.add("sync", sync, waits=(out,))
                w.add("vector_mte2", v_start, (), into, handed, pairs * v_rate, waits=(flag,))
            else:
                out = w.add("fixp", out_start + handed / out_rate, scores, into)
                w.add("sync", sync, waits=(out,))

        def softmax_of(turn: int) -> None:
            """Probabilities back to the cube."""
            item, _ = order[turn]
            ready = slots.at("probabilities_out", ub, turn)
            own = (*slots.at("work", ub, turn), *slots.at("max_and_sum", ub, item))
            softmax = w.add("vector", part * compute, slots.at("scores_in", ub, turn), (*ready, *own), after=token)
            token[:] = [(softmax, mix)]
            sent = part * rows * n0 * attention.PROBABILITY_BYTES
            place = slots.at("probabilities", l1, turn)
            if to_l1 is None:
                returned[turn] = w.add("mte3", back_start, ready, (), sent, pairs * back_rate)
            else:
                w.add("mte3", back_start + sent / pairs / back_rate, ready, place)

        def values_of(turn: int) -> None:
            """Values in, times the probabilities, onto the running result; out with it where an item ends."""
            nonlocal l0
            item, step = order[turn]
            place, running = slots.at("probabilities", l1, turn), slots.at("running", ub, item)
            if to_l1 is None:
                sent = part * rows * n0 * attention.PROBABILITY_BYTES
                w.add("mte2", slices * start, (), place, sent, rate, waits=(returned[turn],))
            values = slots.at("values", l1, turn)
            w.add("mte2", slices * (start + formatting), (), values, part * value_bytes, rate, cache_share)
            a, b = slots.at("left", MemoryName.L0A, l0), slots.at("right", MemoryName.L0B, l0)
            l0 += 1
            fill = mte1_ns(machine, left=(part * m * n0 * element, 1), right=(part * value_bytes, 1))
            w.add("mte1", fill, (*place, *values), (*a, *b))
            sums = slots.at("sums", MemoryName.L0C, 2 * turn + 1)
            token[:] = [(w.add("cube", part * values_ns, (*a, *b), sums, after=token), mix)]
            handed = rows * shape.dv * cube.ACCUMULATOR_BYTES
            partial = slots.at("result_in", ub, turn)
            if to_ub is None:
                out = w.add("fixp", out_start, sums, (), handed, out_rate)
                w.add("vector_mte2", v_start, (), partial, handed, pairs * v_rate, waits=(out,))
            else:
                w.add("fixp", out_start + handed / out_rate, sums, partial)
            w.add("vector", 0.0, (*partial, *(running if step else ())), running)
            if step == steps - 1:
                w.add("mte3", last_start, running, (), rows * shape.dv * element, pairs * last_rate, out_share)

        turns = len(order)
        for turn in range(-1, turns + 1):
            if turn + 1 < turns:
                scores_of(turn + 1)
            if 0 <= turn < turns:
                softmax_of(turn)
            if turn > 0:
                values_of(turn - 1)
        if parts > 1:
            _join(machine, shape, tiling, parts, w, pairs)
        return w.program(cores)

    yield from (written(*share) for share in dealt(items, tiling.aic))


def _join(
    machine: Machine, shape: attention.AttentionShape, tiling: Tiling, parts: int, writer: Writer, pairs: int
) -> None:
    """Read the partial results of all parts back, rescale and add them."""
    elements = shape.batch * shape.m * shape.dv * parts / tiling.aiv
    start, rate = port(machine, machine.path(MemoryName.L2, MemoryName.UB))
    flag = writer.add("sync", machine.sync_ns.value, waits=(len(writer.ops) - 1,))
    load = writer.add(
        "vector_mte2",
        parts * start,
        (),
        (),
        pairs * elements * cube.ACCUMULATOR_BYTES,
        pairs * rate,
        waits=(flag,),
    )
    add = vector_ns(machine, {VectorClass.TWO_SOURCE: 2 * elements}, 2 * parts)
    writer.add("vector", add, waits=(load,))
