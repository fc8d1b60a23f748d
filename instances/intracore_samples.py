"""Tasks of the contest's kind, made up: blocks of a matrix product, and of attention."""

from __future__ import annotations

from instances.intracore import Pipe, Place, TileBuffer, TileOperation, TileTask


class _Draft:
    """Operations as they are added; every buffer is claimed before its first user and released after its last."""

    def __init__(self) -> None:
        self.sizes: list[tuple[Place, int]] = []
        self.rows: list[tuple[str, Pipe, int, tuple[int, ...]]] = []

    def buffer(self, place: Place, size: int) -> int:
        self.sizes.append((place, size))
        return len(self.sizes) - 1

    def run(self, name: str, pipe: Pipe, cycles: int, *buffers: int) -> None:
        self.rows.append((name, pipe, cycles, buffers))

    def task(self, name: str) -> TileTask:
        count = len(self.rows)
        claim = {b: count + 2 * b for b in range(len(self.sizes))}
        edges: set[tuple[int, int]] = {(claim[b], claim[b] + 1) for b in claim}
        last: dict[int, int] = {}
        for node, (_, _, _, buffers) in enumerate(self.rows):
            for b in buffers:
                edges.add((last.get(b, claim[b]), node))
                last[b] = node
        edges |= {(node, claim[b] + 1) for b, node in last.items()}
        return TileTask(
            name=name,
            operations=tuple(
                TileOperation(id=node, name=kind, pipe=pipe, cycles=cycles, buffers=buffers)
                for node, (kind, pipe, cycles, buffers) in enumerate(self.rows)
            ),
            buffers=tuple(
                TileBuffer(id=b, place=place, size=size, alloc=claim[b], free=claim[b] + 1)
                for b, (place, size) in enumerate(self.sizes)
            ),
            edges=tuple(sorted(edges)),
        )


def matmul(m: int, n: int, k: int) -> TileTask:
    """A product in ``m`` x ``n`` blocks of the result, each summed over ``k`` blocks."""
    draft = _Draft()
    left: dict[tuple[int, int], int] = {}
    right: dict[tuple[int, int], int] = {}

    def load(found: dict[tuple[int, int], int], key: tuple[int, int]) -> int:
        if key not in found:
            found[key] = draft.buffer(Place.L1, 128)
            draft.run("COPY_IN", Pipe.MTE2, 400, found[key])
        return found[key]

    for row in range(m):
        for column in range(n):
            total = draft.buffer(Place.L0C, 256)
            for depth in range(k):
                a, b = draft.buffer(Place.L0A, 128), draft.buffer(Place.L0B, 128)
                draft.run("MOVE", Pipe.MTE1, 60, a, load(left, (row, depth)))
                draft.run("MOVE", Pipe.MTE1, 60, b, load(right, (depth, column)))
                draft.run("MATMUL", Pipe.CUBE, 128, total, a, b)
            draft.run("COPY_OUT", Pipe.FIXP, 600, total)
    return draft.task(f"matmul_{m}_{n}_{k}")


def flash_attention(query_blocks: int, key_blocks: int) -> TileTask:
    """Attention of blocks of queries over blocks of keys, softmax as the blocks come."""
    draft = _Draft()
    keys = [draft.buffer(Place.L1, 256) for _ in range(key_blocks)]
    for one in keys:
        draft.run("COPY_IN", Pipe.MTE2, 580, one)
    for _ in range(query_blocks):
        query, total = draft.buffer(Place.L1, 256), draft.buffer(Place.UB, 128)
        draft.run("COPY_IN", Pipe.MTE2, 580, query)
        for key in keys:
            a, b, c = draft.buffer(Place.L0A, 128), draft.buffer(Place.L0B, 128), draft.buffer(Place.L0C, 256)
            score = draft.buffer(Place.UB, 128)
            draft.run("MOVE", Pipe.MTE1, 31, a, query)
            draft.run("MOVE", Pipe.MTE1, 54, b, key)
            draft.run("MATMUL", Pipe.CUBE, 100, c, a, b)
            draft.run("COPY", Pipe.FIXP, 150, score, c)
            draft.run("EXP", Pipe.VECTOR, 80, score)
            draft.run("ADD", Pipe.VECTOR, 40, total, score)
        draft.run("COPY_OUT", Pipe.MTE3, 300, total)
    return draft.task(f"flash_attention_{query_blocks}_{key_blocks}")
