"""Addresses for blocks whose lifetimes are known: no overlap in address x time, within a capacity.

Greedy orders first, which nearly always fit; an exact search with CP-SAT when they do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from formulations.packing_search import Box, search


@dataclass(frozen=True)
class Block:
    """``size_bytes`` held over ``[start_ns, end_ns)``."""

    start_ns: int
    end_ns: int
    size_bytes: int

    def meets(self, other: Block) -> bool:
        """Whether the two live at one time."""
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


def pack(
    blocks: Sequence[Block], capacity: int, alignment: int, time_limit_s: float = 5.0, workers: int = 1
) -> list[int] | None:
    """Offsets (bytes) for blocks, or ``None`` where none were found within ``time_limit_s`` by ``workers`` threads.

    Stretches of time that no block crosses are packed one by one.
    """
    deadline = time.monotonic() + time_limit_s
    offsets = [0] * len(blocks)
    for group in stretches(blocks):
        found = _pack_stretch([blocks[i] for i in group], capacity, alignment, deadline, workers)
        if found is None:
            return None
        for i, offset in zip(group, found, strict=True):
            offsets[i] = offset
    return offsets


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


def _pack_stretch(
    blocks: Sequence[Block], capacity: int, alignment: int, deadline: float, workers: int
) -> list[int] | None:
    orders = (
        lambda i: (-blocks[i].size_bytes, blocks[i].start_ns),
        lambda i: (-(blocks[i].end_ns - blocks[i].start_ns) * blocks[i].size_bytes, i),
        lambda i: (-(blocks[i].end_ns - blocks[i].start_ns), i),
        lambda i: (blocks[i].start_ns, i),
    )
    for order in orders:
        offsets = _first_fit(blocks, sorted(range(len(blocks)), key=order), capacity, alignment)
        if offsets is not None:
            return offsets
    boxes = [Box(block.start_ns, block.end_ns, -(-block.size_bytes // alignment)) for block in blocks]
    places = search(boxes, capacity // alignment, deadline, workers).places
    return None if places is None else [place * alignment for place in places]


def _first_fit(blocks: Sequence[Block], order: Sequence[int], capacity: int, alignment: int) -> list[int] | None:
    """Lowest free address for each block in turn."""
    offsets = [-1] * len(blocks)
    placed: list[int] = []
    for i in order:
        taken = sorted((offsets[j], offsets[j] + blocks[j].size_bytes) for j in placed if blocks[i].meets(blocks[j]))
        place = 0
        for low, high in taken:
            if place + blocks[i].size_bytes <= low:
                break
            place = max(place, -(-high // alignment) * alignment)
        if place + blocks[i].size_bytes > capacity:
            return None
        offsets[i] = place
        placed.append(i)
    return offsets
