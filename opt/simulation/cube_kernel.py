"""Cube kernels as programs, with or without a vector epilogue: blocks into L1, slices into L0, products, and out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from instances.costs import cube, vector
from instances.costs.terms import Draft, mmad_ns, mte1_ns, total_work, vector_ns
from instances.fusion import Fusion
from instances.kernels import Buffer, KernelKind, Tiling
from instances.machine import Machine, MemoryName
from opt.simulation.parts import Slots, dealt, format_ns, hbm_share_of, port
from opt.simulation.program import Program, Slot, Writer


def cube_programs(
    fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...], from_hbm: Mapping[str, int]
) -> Iterator[Program]:
    """For each item: blocks of both operands into L1, slices into L0, products; then out, or on to the vector cores."""
    blocks = cube.cut_blocks(fusion, tiling)
    shapes = cube.matmul_shapes(fusion)
    shape = shapes[0]
    loads = cube.l1_loads(machine, shape, blocks)
    slots = Slots(buffers)
    held = {side for side, _, count in loads.buffers if count == 1}
    start, rate = port(machine, machine.path(MemoryName.L2, MemoryName.L1))
    formatting = format_ns(machine, machine.path(MemoryName.L2, MemoryName.L1))
    depth = -(-blocks.depth // blocks.k0) * blocks.k0
    chunks = -(-depth // loads.step)
    columns = blocks.n * blocks.joined
    sizes = {
        "left": blocks.m * shape.left.size_bytes * blocks.depth * shape.left_rows.share(blocks.m, loads.step),
        "right": columns
        * shape.right.size_bytes
        * blocks.depth
        * (1.0 if shape.formatted else shape.right_rows.share(blocks.n, loads.step)),
    }
    starts = {
        "left": start + formatting,
        "right": blocks.joined * (start + (0.0 if shape.formatted else formatting)),
    }
    runs = {"left": blocks.n_blocks, "right": blocks.m_blocks}
    times = {side: blocks.items / (runs[side] if side in held else 1) for side in sizes}
    operands = {
        "left": {c.reads[0].tensor for c in fusion.cubes},
        "right": {c.reads[1].tensor for c in fusion.cubes},
    }
    shares = {
        side: hbm_share_of(sum(from_hbm.get(t, 0) for t in operands[side]), sizes[side] * times[side]) for side in sizes
    }
    steps = -(-blocks.depth // blocks.k0)
    into_l0 = mte1_ns(
        machine,
        left=(blocks.m * blocks.k0 * shape.left.size_bytes, 1),
        right=(columns * blocks.k0 * shape.right.size_bytes, blocks.joined),
    ) * min(1.0, blocks.depth / (steps * blocks.k0))
    product = mmad_ns(machine, shape.left, blocks.m, round(columns), blocks.depth, steps * blocks.joined) / steps
    for items, cores in dealt(blocks.items, tiling.aic):
        writer = Writer()
        side_turn = {"left": 0, "right": 0}
        turn, gate, waiting = 0, -1, -1
        out = (
            _Epilogue(fusion, machine, tiling, blocks, slots, from_hbm, writer)
            if fusion.kind is KernelKind.MIX
            else None
        )
        current: dict[str, tuple[Slot, ...]] = {}
        for item in range(items):
            result = slots.at("sum", MemoryName.L0C, item)
            products: list[int] = []
            for chunk in range(chunks):
                part = min(loads.step, depth - chunk * loads.step) / depth
                for side in ("left", "right"):
                    if side in held and item % runs[side]:
                        continue
                    fresh = side not in held or not chunk
                    if fresh:
                        current[side] = slots.at(side, MemoryName.L1, side_turn[side])
                        side_turn[side] += 1
                    writer.add(
                        "mte2",
                        starts[side],
                        writes=current[side] if fresh else (),
                        extends=() if fresh else current[side],
                        moved_bytes=sizes[side] * part,
                        rate=rate,
                        hbm_share=shares[side],
                    )
                here = min(loads.step, depth - chunk * loads.step) // blocks.k0
                for step in range(here):
                    a, b = slots.at("left", MemoryName.L0A, turn), slots.at("right", MemoryName.L0B, turn)
                    turn += 1
                    writer.add("mte1", into_l0, (*current.get("left", ()), *current.get("right", ())), (*a, *b))
                    first = not chunk and not step
                    after = [(gate, machine.exposed.mix.value)] if gate >= 0 and first else []
                    products.append(
                        writer.add("cube", product, (*a, *b, *(() if first else result)), result, after=after)
                    )
            if out is None:
                _drain(fusion, machine, blocks, writer, result, slots, item, from_hbm)
                continue
            if waiting >= 0:
                gate = out.work(waiting, products[math.ceil(machine.exposed.mix.value * len(products)) - 1])
            waiting = out.hand_over(result)
        if out is not None:
            out.work(waiting, None)
        yield writer.program(cores)


def _drain(
    fusion: Fusion,
    machine: Machine,
    blocks: cube.Blocks,
    writer: Writer,
    result: tuple[Slot, ...],
    slots: Slots,
    item: int,
    from_hbm: Mapping[str, int],
) -> None:
    """Write a finished tile to L2, through UB on the first generation."""
    shape = cube.matmul_shapes(fusion)[0]
    out_bytes = shape.out.size_bytes if blocks.parts == 1 else cube.ACCUMULATOR_BYTES
    tile = blocks.m * blocks.n * blocks.joined * out_bytes
    share = hbm_share_of(sum(from_hbm.get(a.tensor, 0) for a in fusion.writes), tile * blocks.items)
    passes = 2 if blocks.parts > 1 else 1  # partial sums are read and added up in L2
    direct = machine.path(MemoryName.L0C, MemoryName.L2)
    if direct is not None:
        start, rate = port(machine, direct)
        writer.add("fixp", start, result, (), tile * passes, rate * passes, share)
        return
    start, rate = port(machine, machine.path(MemoryName.L0C, MemoryName.UB))
    into = slots.at("out", MemoryName.UB, item)
    writer.add("fixp", start + tile / rate, result, into)
    start, rate = port(machine, machine.path(MemoryName.UB, MemoryName.L2))
    writer.add("mte3", start, into, (), tile * passes, rate * passes, share)


class _Epilogue:
    """The vector side of a mixed kernel: one of the vector cores of a cube core, which share its tile."""

    def __init__(
        self,
        fusion: Fusion,
        machine: Machine,
        tiling: Tiling,
        blocks: cube.Blocks,
        slots: Slots,
        from_hbm: Mapping[str, int],
        writer: Writer,
    ) -> None:
        self._machine, self._slots, self._writer = machine, slots, writer
        self._pairs = machine.aiv_per_aic
        columns = blocks.n * blocks.joined
        tile = blocks.m * columns
        scratch = Draft(fusion.kind, [], 0.0, tiling.aic)
        chunk = cube.epilogue_chunk(fusion, machine, blocks, scratch, self._pairs)
        self._chunks = math.ceil(tile / self._pairs / chunk)
        handed = tile * cube.ACCUMULATOR_BYTES
        direct = machine.path(MemoryName.L0C, MemoryName.UB)
        self._through_l2 = direct is None
        start, rate = port(machine, direct or machine.path(MemoryName.L0C, MemoryName.L2))
        kept = sum(
            fusion.graph.tensor[c.writes[0].tensor].dtype.size_bytes
            for c in fusion.cubes
            if any(c.writes[0] == access for access in fusion.writes)
        )
        self._fixp = (start, handed, rate)
        self._kept = blocks.m * blocks.n * kept
        reads = cube.vector_tile_bytes(fusion, blocks, reads=True)
        writes = cube.vector_tile_bytes(fusion, blocks, reads=False)
        pieces = self._pairs * self._chunks
        inputs = sum(len(operator.reads) for operator in fusion.vectors)
        in_start, in_rate = port(machine, machine.path(MemoryName.L2, MemoryName.UB))
        out_start, out_rate = port(machine, machine.path(MemoryName.UB, MemoryName.L2))
        loads = reads + (handed if self._through_l2 else 0.0)
        vector_reads = [a.tensor for a in cube.vector_accesses(fusion, reads=True)]
        vector_writes = [a.tensor for a in cube.vector_accesses(fusion, reads=False)]
        self._load = (
            inputs * in_start,
            loads / pieces,
            in_rate,
            hbm_share_of(sum(from_hbm.get(t, 0) for t in vector_reads), loads * blocks.items),
        )
        self._store = (
            out_start,
            writes / pieces,
            out_rate,
            hbm_share_of(sum(from_hbm.get(t, 0) for t in vector_writes), writes * blocks.items),
        )
        outside = (*cube.vector_accesses(fusion, reads=True), *cube.vector_accesses(fusion, reads=False))
        work = total_work(fusion.vectors, vector.converted_elements(fusion, tuple(outside)))
        calls = vector.vector_steps(fusion.vectors)
        each = {c: n / (blocks.items * pieces) for c, n in work.items()}
        self._compute = vector_ns(machine, each, calls)
        self._read_count = len(vector_reads)
        self._turn = 0
        self._issued: list[tuple[int, float]] = []

    def hand_over(self, result: tuple[Slot, ...]) -> int:
        """Pass a finished tile to the vector cores; returns the flag that says so."""
        writer = self._writer
        start, handed, rate = self._fixp
        if self._through_l2:
            out = writer.add("fixp", start, result, (), handed, rate)
        else:
            out = writer.add("fixp", start + handed / rate, result, ())
        if self._kept:
            kept_start, kept_rate = port(self._machine, self._machine.path(MemoryName.L0C, MemoryName.L2))
            writer.add("fixp", kept_start, result, (), self._kept, kept_rate)
        return writer.add("sync", self._machine.sync_ns.value, waits=(out,))

    def work(self, flag: int, products: int | None) -> int:
        """Work on a tile that was handed over; returns the operation that holds up the products after the next.

        ``products`` is the operation of the cube that holds this up in turn.
        """
        writer, slots, held = self._writer, self._slots, self._machine.exposed.vector.value
        gate = flag
        self._fetch(flag)
        for chunk in range(self._chunks):
            turn = self._turn + chunk
            if chunk + 1 < self._chunks:
                self._fetch(flag, turn + 1)
            tensors = slots.named("vector", MemoryName.UB, turn)
            into = (*slots.at("sum", MemoryName.UB, turn), *tensors[: self._read_count])
            made = tensors[self._read_count :]
            after = [*self._issued, *([(products, 1.0)] if products is not None and not chunk else [])]
            gate = writer.add(
                "vector", self._compute, into, (*made, *slots.at("work", MemoryName.UB, turn)), after=after
            )
            self._issued = [(gate, held)]
            ns, amount, rate, share = self._store
            last = writer.add("mte3", ns, made, (), self._pairs * amount, self._pairs * rate, share, self._issued)
            self._issued = [(last, held)]
        self._turn += self._chunks
        return gate

    def _fetch(self, flag: int, turn: int | None = None) -> None:
        """Load a chunk of a tile, and what else the vector operators read, into UB."""
        where = self._turn if turn is None else turn
        tensors = self._slots.named("vector", MemoryName.UB, where)
        into = (*self._slots.at("sum", MemoryName.UB, where), *tensors[: self._read_count])
        ns, amount, rate, share = self._load
        number = self._writer.add(
            "vector_mte2", ns, (), into, self._pairs * amount, self._pairs * rate, share, self._issued, waits=(flag,)
        )
        self._issued = [(number, self._machine.exposed.vector.value)]
