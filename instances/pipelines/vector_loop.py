"""The loop of a vector kernel: load, compute and store a tile of rows."""

from __future__ import annotations

from instances.costs import vector
from instances.costs.terms import Draft
from instances.fusion import Fusion
from instances.kernels import Tiling
from instances.machine import Machine, MemoryName
from instances.pipelines.loop import KernelLoop
from instances.pipelines.writing import ISSUE, LoopWriter


def vector_loop(fusion: Fusion, machine: Machine, tiling: Tiling, draft: Draft) -> KernelLoop | None:
    """One tile an iteration; ``None`` where rows are cut into segments: two loops of their own, no one steady state."""
    if set(tiling.tile) != {vector.key(fusion)}:
        return None
    load, compute, store = draft.stages
    pieces = max(stage.total_ns / stage.piece_ns for stage in draft.stages if stage.piece_ns > 0)
    held = {ISSUE: machine.exposed.vector.value}
    rows = vector.row_tile(fusion, machine, tiling.tile[vector.key(fusion)], 1.0)
    writer = LoopWriter(machine, draft)
    # all cores do the same in step, so that a load of all of them at once has L2's rate to share
    rate = machine.l2.rate_gb_s.value * max(1, tiling.l2_permille) / 1000 / tiling.aiv
    load_ns = max(load.piece_ns, rows.fetched_bytes / rate)
    store_ns = max(store.piece_ns, rows.stored_bytes / rate)
    first = writer.op("load", "mte2", load_ns, work_ns=load.piece_ns, holds=held, l2_bytes=rows.fetched_bytes)
    work = writer.op("compute", "vector", compute.piece_ns, after=[first], holds=held)
    last = writer.op(
        "store", "mte3", store_ns, work_ns=store.piece_ns, after=[work], holds=held, l2_bytes=rows.stored_bytes
    )
    writer.rings("read", MemoryName.UB, [(first, [work])])
    writer.rings("write", MemoryName.UB, [(work, [last])])
    return KernelLoop(body=writer.loop(pieces > 1), iterations=max(1.0, pieces))
