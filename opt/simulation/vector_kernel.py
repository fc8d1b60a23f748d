"""Vector kernels as programs: load, compute and store, tile by tile, the next tile's load ahead of the computation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from instances.costs import vector
from instances.costs.terms import total_work, vector_ns
from instances.fusion import Fusion
from instances.kernels import Buffer, Tiling
from instances.machine import Machine, MemoryName
from opt.simulation.parts import Slots, dealt, hbm_share_of, port
from opt.simulation.program import Program, Writer


def vector_programs(
    fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...], from_hbm: Mapping[str, int]
) -> Iterator[Program]:
    """Load, compute, store, tile by tile."""
    along, across = vector.key(fusion), "*".join(vector.whole_loops(fusion))
    rows, tile_rows = vector.row_count(fusion), tiling.tile[along]
    length = math.prod(vector.extent_of(fusion, loop) for loop in vector.whole_loops(fusion))
    segment = tiling.tile.get(across, length) if across else 1
    cut = segment < length
    segments, passes = (math.ceil(length / segment), 2) if cut else (1, 1)
    tile = vector.row_tile(fusion, machine, tile_rows, segment / length if cut else 1.0)
    in_start, in_rate = port(machine, machine.path(MemoryName.L2, MemoryName.UB))
    out_start, out_rate = port(machine, machine.path(MemoryName.UB, MemoryName.L2))
    calls = max(1, vector.vector_steps(fusion.vectors))
    share = tile_rows / rows * segment / length if cut else tile_rows / rows
    once = total_work(fusion.vectors, vector.converted_elements(fusion, fusion.writes))
    each_pass = total_work((), vector.converted_elements(fusion, fusion.reads))
    first = vector_ns(machine, {c: n * share for c, n in each_pass.items()}, calls)
    last = vector_ns(
        machine, {c: (once.get(c, 0.0) + each_pass.get(c, 0.0)) * share for c in {*once, *each_pass}}, calls
    )
    loaded = tile.fetched_bytes * rows / tile_rows * segments * passes
    stored = tile.stored_bytes * rows / tile_rows * segments
    read_share = hbm_share_of(sum(from_hbm.get(a.tensor, 0) for a in fusion.reads), loaded)
    write_share = hbm_share_of(sum(from_hbm.get(a.tensor, 0) for a in fusion.writes), stored)
    held = machine.exposed.vector.value
    loads_ns, stores_ns = len(fusion.reads) * in_start, len(fusion.writes) * out_start
    slots = Slots(buffers)

    def written(tiles: int, cores: int) -> Program:
        writer = Writer()
        full = min(float(tiles), rows / tile_rows)
        parts = [min(1.0, full - number) for number in range(tiles)]
        turns = [(part, which == passes - 1) for part in parts for which in range(passes) for _ in range(segments)]
        issued: list[tuple[int, float]] = []

        def load(turn: int) -> None:
            into = slots.named("read", MemoryName.UB, turn)
            amount = turns[turn][0] * tile.fetched_bytes
            number = writer.add("mte2", loads_ns, (), into, amount, in_rate, read_share, issued)
            issued[:] = [(number, held)]

        load(0)
        for turn, (part, final) in enumerate(turns):
            if turn + 1 < len(turns):
                load(turn + 1)
            into = slots.named("read", MemoryName.UB, turn)
            made = slots.named("write", MemoryName.UB, turn) if final else ()
            work = slots.at("work", MemoryName.UB, turn)
            number = writer.add("vector", part * (last if final else first), into, (*made, *work), after=issued)
            issued[:] = [(number, held)]
            if final:
                amount = part * tile.stored_bytes
                number = writer.add("mte3", stores_ns, made, (), amount, out_rate, write_share, issued)
                issued[:] = [(number, held)]
        return writer.program(cores)

    yield from (written(*share) for share in dealt(-(-rows // tile_rows), tiling.aiv))
