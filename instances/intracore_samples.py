"""Tasks of tile operations of any size, with the structure of the 2025 Huawei Cup's public ones.

``matmul(8, 8, 8)`` and ``flash_attention(4, 4)`` equal the contest's smallest product and attention up to the
numbering of nodes; sizes and cycles of tiles are taken from there. ``convolutions`` resembles its third family.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from instances.errors import InputError
from instances.intracore import CAPACITY, Pipe, Place, TileBuffer, TileOperation, TileTask

LOAD_CYCLES = {1: 80, 16: 106, 32: 136, 64: 198, 128: 325, 144: 357, 192: 453, 256: 581, 768: 1605}
"""Cycles of a COPY_IN by units, as in the contest's files."""


class _Builder:
    """Nodes in the order in which they are written down; a buffer is claimed right before its first use."""

    def __init__(self) -> None:
        self.nodes = 0
        self.operations: list[TileOperation] = []
        self.claims: list[tuple[Place, int, int]] = []
        self.writer: dict[int, int] = {}
        self.users: dict[int, list[int]] = {}
        self.before: dict[int, int] = {}  # operation -> bits of its ancestors
        self.edges: list[tuple[int, int]] = []

    def _node(self) -> int:
        self.nodes += 1
        return self.nodes - 1

    def buffer(self, place: Place, size: int) -> int:
        """A buffer, claimed here."""
        self.claims.append((place, size, self._node()))
        return len(self.claims) - 1

    def run(self, name: str, pipe: Pipe, cycles: int, buffers: Sequence[int], updates: Iterable[int] = ()) -> None:
        """An operation; who names a buffer first writes it, and whoever ``updates`` it writes it again."""
        node = self._node()
        bit = len(self.operations)
        ancestors = 0
        for buffer in buffers:
            writer = self.writer.get(buffer)
            if writer is None:
                self.edges.append((self.claims[buffer][2], node))
            else:
                self.edges.append((self.operations[writer].id, node))
                ancestors |= self.before[writer] | 1 << writer
            if writer is None or buffer in updates:
                self.writer[buffer] = bit
            self.users.setdefault(buffer, []).append(bit)
        self.before[bit] = ancestors
        self.operations.append(TileOperation(id=node, name=name, pipe=pipe, cycles=cycles, buffers=tuple(buffers)))

    def load(self, size: int) -> int:
        """A buffer of L1 that main memory fills."""
        buffer = self.buffer(Place.L1, size)
        self.run("COPY_IN", Pipe.MTE2, LOAD_CYCLES.get(size, 2 * size + 70), (buffer,))
        return buffer

    def move(self, source: int, place: Place, size: int, cycles: int) -> int:
        """A copy of a buffer of L1 in L0A or L0B."""
        target = self.buffer(place, size)
        self.run("MOVE", Pipe.MTE1, cycles, (target, source))
        return target

    def step(self, name: str, cycles: int, size: int, *reads: int, scratch: int = 0) -> int:
        """An operation of the vector unit with its result, and units of scratch that it alone uses."""
        result = self.buffer(Place.UB, size)
        extra = (self.buffer(Place.UB, scratch),) if scratch else ()
        self.run(name, Pipe.VECTOR, cycles, (result, *reads, *extra))
        return result

    def task(self, name: str) -> TileTask:
        """The task; a FREE waits for the users that no other user waits for."""
        buffers = []
        for buffer, (place, size, alloc) in enumerate(self.claims):
            free = self._node()
            buffers.append(TileBuffer(id=buffer, place=place, size=size, alloc=alloc, free=free))
            self.edges.append((alloc, free))
            users = self.users[buffer]
            for one in users:
                if not any(self.before[other] >> one & 1 for other in users):
                    self.edges.append((self.operations[one].id, free))
        return TileTask(
            name=name,
            operations=tuple(self.operations),
            buffers=tuple(buffers),
            edges=tuple(sorted(set(self.edges))),
        )


def _counted(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1")


def matmul(m: int, n: int, k: int) -> TileTask:
    """A product of ``m x k`` by ``k x n`` tiles: 3 operations per product of tiles, one accumulator per result tile."""
    _counted(m=m, n=n, k=k)
    b = _Builder()
    left: dict[tuple[int, int], int] = {}
    right: dict[tuple[int, int], int] = {}
    for row in range(m):
        for column in range(n):
            result = b.buffer(Place.L0C, 256)
            for depth in range(k):
                if (row, depth) not in left:
                    left[row, depth] = b.load(128)
                if (depth, column) not in right:
                    right[depth, column] = b.load(128)
                one = b.move(left[row, depth], Place.L0A, 128, 31)
                other = b.move(right[depth, column], Place.L0B, 128, 31)
                b.run("MATMUL", Pipe.CUBE, 128, (result, other, one), updates=(result,))
            b.run("COPY_OUT", Pipe.FIXP, 263, (result,))
    return b.task(f"Matmul_{m}x{n}x{k}")


def flash_attention(query_blocks: int, key_blocks: int, halves: int = 2) -> TileTask:
    """Attention with a running maximum and sum: key blocks outside, query blocks inside, head size in ``halves``."""
    _counted(query_blocks=query_blocks, key_blocks=key_blocks, halves=halves)
    b = _Builder()
    queries: dict[tuple[int, int], int] = {}
    largest: dict[int, int] = {}
    total: dict[int, int] = {}
    output: dict[tuple[int, int], int] = {}
    for key in range(key_blocks):
        keys: dict[int, int] = {}
        values: dict[int, int] = {}
        for query in range(query_blocks):
            scores = b.buffer(Place.L0C, 256)
            for half in range(halves):
                if (query, half) not in queries:
                    queries[query, half] = b.load(256)
                if half not in keys:
                    keys[half] = b.load(256)
                one = b.move(queries[query, half], Place.L0A, 128, 31)
                other = b.move(keys[half], Place.L0B, 128, 54)
                b.run("MATMUL", Pipe.CUBE, 128, (scores, other, one), updates=(scores,))
            held = b.buffer(Place.UB, 128)
            b.run("COPY", Pipe.FIXP, 41, (held, scores))
            rows = b.step("ROWMAX", 310, 128, held)
            maximum = b.step("COMPACT", 113, 2, rows, scratch=16)
            weights = b.step("EXP", 218, 128, b.step("SUB", 151, 128, held, rows))
            amount = b.step("COMPACT", 113, 2, b.step("ROWSUM", 342, 128, weights), scratch=16)
            old = new = -1
            if key:
                above = b.step("MAX", 23, 2, largest[query], maximum)
                old = b.step("EXP", 31, 2, b.step("SUB", 24, 2, largest[query], above))
                new = b.step("EXP", 31, 2, b.step("SUB", 24, 2, maximum, above))
                added = b.step("MUL", 25, 2, new, amount)
                kept = b.step("MUL", 25, 2, old, total[query])
                maximum, amount = above, b.step("ADD", 24, 2, kept, added)
            largest[query], total[query] = maximum, amount
            staged = b.buffer(Place.L1, 256)
            b.run("COPY", Pipe.MTE3, 271, (staged, weights))
            for half in range(halves):
                product = b.buffer(Place.L0C, 256)
                if half not in values:
                    values[half] = b.load(256)
                one = b.move(staged, Place.L0A, 128, 31)
                other = b.move(values[half], Place.L0B, 128, 54)
                b.run("MATMUL", Pipe.CUBE, 128, (product, other, one))
                part = b.buffer(Place.UB, 128)
                b.run("COPY", Pipe.FIXP, 41, (part, product))
                if key:
                    scaled = b.step("MUL", 38, 128, part, new)
                    part = b.step("ADD", 37, 128, b.step("MUL", 38, 128, output[query, half], old), scaled)
                output[query, half] = part
            if key == key_blocks - 1:
                inverse = b.step("REC", 37, 2, total[query])
                for half in range(halves):
                    last = b.step("MUL", 38, 128, output[query, half], inverse)
                    b.run("COPY_OUT", Pipe.MTE3, 191, (last,))
                for row in (total[query], largest[query]):
                    b.run("COPY_OUT", Pipe.MTE3, 150, (row,))
    return b.task(f"FlashAttention_{query_blocks}x{key_blocks}")


def convolutions(channels: int = 2, levels: int = 3, units: int = 384, weight_units: int = 144) -> TileTask:
    """Convolutions down a pyramid and up again, with sums that are partial over input channels and with skips.

    ``channels`` tiles of ``units`` each at the top; a level down has tiles of a quarter. Every output tile sums over
    all input tiles in a buffer four times its size; weights come by COPY_IN and MOVE, one per
    pair of tiles. Skips join on the way up by CONV_ADD.
    """
    _counted(channels=channels, levels=levels, units=units, weight_units=weight_units)
    if 6 * units + weight_units > CAPACITY[Place.L1]:
        raise InputError(f"units is {units}; one convolution of such tiles does not fit L1")
    b = _Builder()

    def convolve(inputs: Sequence[int], size: int, joined: Sequence[int] | None = None) -> list[int]:
        results = []
        for output in range(channels):
            result = b.buffer(Place.L1, size)
            sums = b.buffer(Place.L1, 4 * size) if len(inputs) > 1 else -1
            for place, tile in enumerate(inputs):
                weights = b.move(b.load(weight_units), Place.L0B, max(1, weight_units // 2), 63)
                cycles = 30 + 4 * size * 29 // 25
                final = place == len(inputs) - 1
                parts = ((result,) if final else ()) + ((sums,) if len(inputs) > 1 else ())
                skip = (joined[output],) if joined is not None and final else ()
                name = "CONV_ADD" if skip else "CONV"
                b.run(name, Pipe.CUBE, cycles, (*parts, *skip, weights, tile), updates=(sums,))
            results.append(result)
        return results

    tiles = [b.load(units) for _ in range(channels)]
    sizes = [max(1, units // 4**level) for level in range(levels)]
    skips = []
    for size in sizes:
        tiles = convolve(tiles, size)
        skips.append(tiles)
    for size, joined in zip(reversed(sizes), reversed(skips), strict=True):
        tiles = convolve(convolve(tiles, size), size, joined)
    for tile in tiles:
        b.run("COPY_OUT", Pipe.MTE3, 2 * units + 242, (tile,))
    return b.task(f"Convolutions_{channels}x{levels}")


def random_task(
    seed: int,
    operations: int = 8,
    places: Sequence[Place] = (Place.L1, Place.UB),
    largest: int = 3,
    capacity: int = 6,
    cycles: int = 4,
) -> TileTask:
    """A small task for tests: each operation makes one buffer and reads up to two made before; some come by COPY_IN."""
    _counted(operations=operations, largest=largest, capacity=capacity)
    rng = random.Random(seed)
    b = _Builder()
    made: list[int] = []
    for _ in range(operations):
        reads = rng.sample(made, min(len(made), rng.randint(0, 2)))
        load = not reads and rng.random() < 0.7
        place = Place.L1 if load else rng.choice(list(places))
        room = capacity - sum(b.claims[one][1] for one in reads if b.claims[one][0] is place)
        pipe = Pipe.MTE2 if load else rng.choice((Pipe.VECTOR, Pipe.CUBE, Pipe.MTE3))
        time = rng.randint(0, cycles)
        if room < 1 or (reads and rng.random() < 0.2):
            b.run("COPY_OUT", pipe, time, reads)
            continue
        result = b.buffer(place, rng.randint(1, min(largest, room)))
        b.run("COPY_IN" if load else "ADD", pipe, time, (result, *reads))
        made.append(result)
    return b.task(f"Random_{seed}").model_copy(update={"capacity": dict.fromkeys(Place, capacity)})
