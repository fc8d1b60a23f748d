"""What is packed, and which of it lives at one time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from instances.packing import Buffer

Span = tuple[int, int, int, int]
"""Over ``[start, end)`` the bytes ``[low, high)`` of a block, counted from where it lies."""


@dataclass(frozen=True)
class Block:
    """``size_bytes`` held over ``[start_ns, end_ns)``, at a multiple of ``alignment``, or at ``offset_bytes``.

    ``spans`` says what is held when, where that is not everything all the time; they lie apart in time. ``hint_bytes``
    is where it might lie well.
    """

    start_ns: int
    end_ns: int
    size_bytes: int
    alignment: int = 1
    offset_bytes: int | None = None
    hint_bytes: int | None = None
    spans: tuple[Span, ...] | None = None

    def held(self) -> tuple[Span, ...]:
        """What is held, and when."""
        return ((self.start_ns, self.end_ns, 0, self.size_bytes),) if self.spans is None else self.spans

    @property
    def length_ns(self) -> int:
        """How long it lives."""
        return self.end_ns - self.start_ns

    @property
    def plain(self) -> bool:
        """Whether it may lie anywhere, and is held whole all the time."""
        return self.offset_bytes is None and self.spans is None


def blocks_of(buffers: Iterable[Buffer]) -> list[Block]:
    """Buffers as blocks."""
    return [
        Block(b.lower, b.upper, b.size, b.alignment, b.offset, b.hint, tuple(b.spans()) if b.gaps else None)
        for b in buffers
    ]


@dataclass(frozen=True)
class Piece:
    """Bytes ``[low, high)`` of block number ``block``, held over ``[start, end)``."""

    block: int
    start: int
    end: int
    low: int
    high: int

    @property
    def height(self) -> int:
        """Bytes held."""
        return self.high - self.low


def pieces(blocks: Sequence[Block]) -> list[Piece]:
    """All that is held."""
    return [Piece(i, *span) for i, block in enumerate(blocks) for span in block.held()]


def aligned(blocks: Sequence[Block], alignment: int) -> list[Block]:
    """The blocks with the alignment in each: whole multiples of it, at multiples of it."""
    if alignment == 1:
        return list(blocks)

    def up(value: int) -> int:
        return -(-value // alignment) * alignment

    return [
        replace(
            block,
            size_bytes=up(block.size_bytes),
            alignment=math.lcm(block.alignment, alignment),
            spans=None
            if block.spans is None
            else tuple((start, end, low // alignment * alignment, up(high)) for start, end, low, high in block.spans),
        )
        for block in blocks
    ]


def scaled(blocks: Sequence[Block]) -> tuple[list[Block], int]:
    """The blocks in the largest unit that all their sizes and places are whole multiples of, and that unit in bytes.

    Places at multiples of it are as good as any, since whatever lies lowest lies on a sum of sizes.
    """
    unit = math.gcd(
        *(value for piece in pieces(blocks) for value in (piece.low, piece.high)),
        *(block.size_bytes for block in blocks),
        *(block.alignment for block in blocks if block.alignment > 1),
        *(block.offset_bytes for block in blocks if block.offset_bytes is not None),
    )
    if unit <= 1:
        return list(blocks), 1
    return [
        replace(
            block,
            size_bytes=block.size_bytes // unit,
            alignment=max(1, block.alignment // unit),
            offset_bytes=None if block.offset_bytes is None else block.offset_bytes // unit,
            hint_bytes=None if block.hint_bytes is None else block.hint_bytes // unit,
            spans=None
            if block.spans is None
            else tuple((start, end, low // unit, high // unit) for start, end, low, high in block.spans),
        )
        for block in blocks
    ], unit


def cliques(held: Sequence[Piece]) -> list[list[int]]:
    """The maximal sets of pieces that are held together, in order of time."""
    found: list[list[int]] = []
    alive: set[int] = set()
    ends = sorted(range(len(held)), key=lambda i: held[i].end)
    gone = 0
    for i in sorted(range(len(held)), key=lambda i: held[i].start):
        leaving = []
        while held[ends[gone]].end <= held[i].start:
            leaving.append(ends[gone])
            gone += 1
        if leaving:  # the set that was alive is maximal: its last one came before any of it went
            found.append(sorted(alive))
        alive.difference_update(leaving)
        alive.add(i)
    return [*found, sorted(alive)] if alive else found


def stretches(blocks: Sequence[Block]) -> list[list[int]]:
    """The blocks by stretches of time between which none of them lives."""
    found: list[list[int]] = []
    until = None
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].start_ns):
        if until is None or blocks[i].start_ns >= until:
            found.append([])
            until = blocks[i].end_ns
        found[-1].append(i)
        until = max(until, blocks[i].end_ns)
    return found


def height(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    """End of the highest block."""
    return max((offset + block.size_bytes for block, offset in zip(blocks, offsets, strict=True)), default=0)
