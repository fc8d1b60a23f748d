"""The loop of a cube kernel, with or without a vector epilogue: a tile of the result, its depth in pieces through L1.

The innermost loop, a slice of the depth through L0 and the matrix unit, is scheduled by itself and then stands as one
pair of operations (hierarchical reduction: M. Lam, Software pipelining, PLDI 1988). With ``a`` ns of MTE1 and ``p`` ns
of the cube per slice its least interval is ``max(a, p)``, which two slots of L0A and L0B reach, as a slice lives for
``a + p <= 2 max(a, p)``; more slots gain nothing. So the two slots there follow, and need no search.
"""

from __future__ import annotations

import math

from instances.costs import cube
from instances.costs.terms import Draft, mmad_ns, move_ns, mte1_ns
from instances.fusion import Fusion
from instances.kernels import KernelKind, Tiling
from instances.machine import Machine, MemoryName
from instances.pipelines.loop import KernelLoop
from instances.pipelines.writing import ISSUE, TURN, LoopWriter, ps


def cube_loop(fusion: Fusion, machine: Machine, tiling: Tiling, draft: Draft) -> KernelLoop:
    """One item an iteration; an operand that stays in L1 is loaded before the loop."""
    blocks = cube.cut_blocks(fusion, tiling)
    shape = cube.matmul_shapes(fusion)[0]
    loads = cube.l1_loads(machine, shape, blocks)
    mixed = fusion.kind is KernelKind.MIX
    stages = {stage.engine: stage for stage in draft.stages}
    columns = blocks.n * blocks.joined
    depth = -(-blocks.depth // blocks.k0) * blocks.k0
    chunks = -(-depth // loads.step)
    bytes_of = {
        "left": blocks.m * shape.left.size_bytes * blocks.depth * shape.left_rows.share(blocks.m, loads.step),
        "right": columns * shape.right.size_bytes * blocks.depth,
    }
    if not shape.formatted:
        bytes_of["right"] *= shape.right_rows.share(blocks.n, loads.step)
    moves = {"left": (1, 1), "right": (blocks.joined, 0 if shape.formatted else blocks.joined)}
    into_l1 = machine.path(MemoryName.L2, MemoryName.L1)
    stays = next((name for name, _, slots in loads.buffers if slots == 1), None)
    runs = {"left": -(-blocks.mine // blocks.n_blocks), "right": -(-blocks.mine // blocks.m_blocks)}
    steps = -(-blocks.depth // blocks.k0)
    a = mte1_ns(
        machine,
        left=(blocks.m * blocks.depth * shape.left.size_bytes, steps),
        right=(columns * blocks.depth * shape.right.size_bytes, steps * blocks.joined),
    )
    a /= steps
    p = mmad_ns(machine, shape.left, blocks.m, round(columns), blocks.depth, steps * blocks.joined) / steps

    writer = LoopWriter(machine, draft)
    streamed = [side for side in ("left", "right") if side != stays]
    fills: dict[str, list[int]] = {side: [] for side in streamed}
    order: list[int] = []
    slices: list[int] = []
    products: list[int] = []
    counts: list[int] = []
    for chunk in range(chunks):
        part = min(loads.step, depth - chunk * loads.step)
        for side in streamed:
            ns = move_ns(machine, into_l1, bytes_of[side] * part / depth, *moves[side])
            fills[side].append(writer.op(f"{side}{chunk}", "mte2", ns, l2_bytes=bytes_of[side] * part / depth))
            order.append(fills[side][-1])
        count = part // blocks.k0
        into_l0, product = (count - 1) * max(a, p) + a, (count - 1) * max(a, p) + p
        brought = [fills[side][chunk] for side in streamed]
        slices.append(writer.op(f"slices{chunk}", "mte1", into_l0, after=brought, work_ns=count * a))
        products.append(writer.op(f"products{chunk}", "cube", product, work_ns=count * p))
        writer.wait(slices[-1], products[-1], ps(a))
        counts.append(count)
    for ops in (order, slices, products):
        writer.in_turn(ops)
    if mixed:
        writer.hold(products[0], TURN, machine.exposed.mix.value * steps * p)
    for chunk in range(chunks):  # two slots of L0: a slice waits for the product of the last but one
        following = (chunk + 1) % chunks
        around = int(chunk + 1 == chunks)
        latency = ps((counts[chunk] - 2) * max(a, p) + p)
        writer.wait(products[chunk], slices[following], latency, around)
        if counts[chunk] == 1:
            after, further = (chunk + 2) % chunks, (chunk + 2) // chunks
            writer.wait(products[chunk], slices[after], None, further)
    for side in streamed:
        writer.ring(side, MemoryName.L1, [(fills[side][chunk], [slices[chunk]]) for chunk in range(chunks)])

    if mixed:
        readers = _epilogue(fusion, machine, tiling, draft, blocks, writer, products)
    else:
        drain = stages["fixp"].piece_ns
        element = shape.out.size_bytes if blocks.parts == 1 else cube.ACCUMULATOR_BYTES
        tile = blocks.m * columns * element * (2 if blocks.parts > 1 else 1)
        through_ub = "mte3" in stages
        out = writer.op("drain", "fixp", drain, after=products[-1:], l2_bytes=0 if through_ub else tile)
        if through_ub:
            last = writer.op("store", "mte3", stages["mte3"].piece_ns, after=[out], l2_bytes=tile)
            writer.ring("out", MemoryName.UB, [(out, [last])])
        readers = [out]
    writer.ring("sum", MemoryName.L0C, [(products[0], readers)])
    entry, loaded = 0.0, 0.0
    if stays is not None:
        loaded, transfers = max(1, runs[stays]) * bytes_of[stays], [count * chunks for count in moves[stays]]
        entry = max(1, runs[stays]) * move_ns(machine, into_l1, bytes_of[stays], *transfers)
    room = {MemoryName.L2: cube.WORKSPACE_STAGES * _workspace_bytes(blocks)} if mixed and not machine.direct else {}
    body = writer.loop(blocks.mine > 1, room)
    return KernelLoop(body=body, iterations=blocks.mine, entry_ps=ps(entry), entry_bytes=round(loaded))


def _workspace_bytes(blocks: cube.Blocks) -> int:
    return blocks.joined * blocks.m0 * blocks.n0 * cube.ACCUMULATOR_BYTES


def _epilogue(
    fusion: Fusion,
    machine: Machine,
    tiling: Tiling,
    draft: Draft,
    blocks: cube.Blocks,
    writer: LoopWriter,
    products: list[int],
) -> list[int]:
    """The way of a finished tile through the vector cores; returns what reads it out of L0C.

    Through L2 (910B, 910C) it is written to the workspace whole, then a flag tells the vector cores, which read it in
    chunks; on the direct path (950) each chunk goes to UB by itself, with its flag. The cost model counts one flag a
    tile: the chunks share its time on the flags' pipe, while each takes the whole of it to arrive.
    """
    stages = {stage.engine: stage for stage in draft.stages}
    pairs = machine.aiv_per_aic
    tile = blocks.m * blocks.n * blocks.joined
    scratch = Draft(fusion.kind, [], 0.0, tiling.aic)
    chunks = math.ceil(tile / pairs / cube.epilogue_chunk(fusion, machine, blocks, scratch, pairs))
    handed = tile * cube.ACCUMULATOR_BYTES
    read_bytes = cube.vector_tile_bytes(fusion, blocks, reads=True)
    write_bytes = cube.vector_tile_bytes(fusion, blocks, reads=False)
    kept = sum(
        fusion.graph.tensor[c.writes[0].tensor].dtype.size_bytes
        for c in fusion.cubes
        if any(c.writes[0] == access for access in fusion.writes)
    )
    kept_bytes = blocks.m * blocks.n * kept
    share, sync = machine.exposed, machine.sync_ns.value
    side = {ISSUE: share.vector.value}
    direct = machine.direct
    drain = stages["fixp"].piece_ns
    outs, flags = [], []
    for chunk in range(chunks if direct else 1):
        parts = chunks if direct else 1
        out_bytes = (kept_bytes + (0 if direct else handed)) / parts
        outs.append(writer.op(f"hand{chunk}", "fixp", drain / parts, after=products[-1:], l2_bytes=out_bytes))
        flags.append(writer.op(f"flag{chunk}", "sync", sync / parts, after=outs[-1:]))
    loads, works, stores = [], [], []
    for chunk in range(chunks):
        load_bytes = (read_bytes + (0 if direct else handed)) / chunks
        load = writer.op(f"load{chunk}", "vector_mte2", stages["vector_mte2"].piece_ns, holds=side, l2_bytes=load_bytes)
        work = writer.op(f"vector{chunk}", "vector", stages["vector"].piece_ns, after=[load], holds=side)
        writer.wait(flags[chunk if direct else 0], work if direct else load, ps(sync))
        store = writer.op(
            f"store{chunk}", "mte3", stages["mte3"].piece_ns, after=[work], holds=side, l2_bytes=write_bytes / chunks
        )
        loads.append(load)
        works.append(work)
        stores.append(store)
    writer.hold(works[0], TURN, share.mix.value * stages["vector"].piece_ns * chunks)
    for ops in (outs, flags, loads, works, stores):
        writer.in_turn(ops)
    filled = [(fill, [work]) for fill, work in zip(outs if direct else loads, works, strict=True)]
    writer.ring("sum", MemoryName.UB, filled)
    reads = len(cube.vector_accesses(fusion, reads=True))
    for number in range(reads + len(cube.vector_accesses(fusion, reads=False))):
        fills, users = (loads, works) if number < reads else (works, stores)
        uses = [(fill, [user]) for fill, user in zip(fills, users, strict=True)]
        writer.ring(f"vector{number}", MemoryName.UB, uses)
    if not direct:
        writer.ring("workspace", MemoryName.L2, [(outs[0], loads)], _workspace_bytes(blocks))
    return outs
