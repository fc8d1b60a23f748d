"""Addresses for blocks whose lifetimes are known: no overlap in address x time, within a capacity.

Greedy orders first, which nearly always fit; an exact search with CP-SAT when they do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from formulations.packing_search import Box, search


@dataclass(frozen=True)
class Block:
    """``size_bytes`` held over ``[start_ns, end_ns)``, at a multiple of ``alignment``, or at ``offset_bytes``."""

    start_ns: int
    end_ns: int
    size_bytes: int
    alignment: int = 1
    offset_bytes: int | None = None

    def meets(self, other: Block) -> bool:
        """Whether the two live at one time."""
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


@dataclass(frozen=True)
class Packing:
    """Offsets of blocks, or ``None``; ``proven`` where it is certain that there are none."""

    offsets: list[int] | None
    proven: bool


def pack(blocks: Sequence[Block], capacity: int, alignment: int, time_limit_s: float = 5.0) -> list[int] | None:
    """Offsets (bytes) for blocks, or ``None`` where none were found within ``time_limit_s``."""
    return find_packing(blocks, capacity, alignment, time.monotonic() + time_limit_s).offsets


def find_packing(
    blocks: Sequence[Block], capacity: int, alignment: int, deadline: float, workers: int = 1, seed: int = 0
) -> Packing:
    """Pack blocks into ``capacity`` bytes, each at a multiple of ``alignment``, until ``deadline``.

    Stretches of time that no block crosses are packed one by one. ``deadline`` is one of ``time.monotonic``.
    """
    offsets = [0] * len(blocks)
    for group in stretches(blocks):
        found = _pack_stretch([blocks[i] for i in group], capacity, alignment, deadline, workers, seed)
        if found.offsets is None:
            return found
        for i, offset in zip(group, found.offsets, strict=True):
            offsets[i] = offset
    return Packing(offsets, proven=True)


@dataclass(frozen=True)
class Lowest:
    """The lowest packing found, and a bound: no packing is lower than ``bound`` bytes (equal: proven lowest)."""

    offsets: list[int]
    height: int
    bound: int


def find_lowest(
    blocks: Sequence[Block], alignment: int, load: int, deadline: float, workers: int = 1, seed: int = 0
) -> Lowest:
    """Pack blocks as low as can be found until ``deadline``.

    ``load`` is the most that lives at one instant (sizes in whole multiples of ``alignment``), a bound to start from.
    It is asked for first, with half of the time, since hard packings mostly reach it; then heights between what is
    excluded and what is found, by halves.
    """
    offsets = _lowest_first_fit(blocks, alignment)
    best, bound = _height(blocks, offsets, alignment), load
    unit = math.gcd(alignment if alignment > 1 else 0, *(block.size_bytes for block in blocks))
    unit = math.gcd(unit, *(block.alignment for block in blocks if block.alignment > 1))
    unit = math.gcd(unit, *(block.offset_bytes for block in blocks if block.offset_bytes is not None)) or 1
    aim, tried = load, load - 1  # no more is asked for up to ``tried`` for now
    while bound < best and (left := deadline - time.monotonic()) > 0:
        found = find_packing(blocks, aim, alignment, time.monotonic() + left / 2, workers, seed)
        if found.offsets is not None:
            best, offsets = _height(blocks, found.offsets, alignment), found.offsets
        elif found.proven:
            bound = (aim // unit + 1) * unit
        else:
            tried = aim
        tried = max(tried, bound - 1)
        if best - tried <= unit:
            tried = bound - 1  # all that is left is to ask again for longer
        aim = max(bound, (tried + best) // 2 // unit * unit)
    return Lowest(offsets, best, min(bound, best))


def _lowest_first_fit(blocks: Sequence[Block], alignment: int) -> list[int]:
    """For each stretch the lowest of what the orders give; ``ValueError`` where given places contradict each other."""
    offsets = [0] * len(blocks)
    for group in stretches(blocks):
        members = [blocks[i] for i in group]
        found = list(_first_fits(members, None, alignment))
        if not found:
            raise ValueError("given places contradict each other")
        for i, offset in zip(group, min(found, key=lambda each: _height(members, each, alignment)), strict=True):
            offsets[i] = offset
    return offsets


def _height(blocks: Sequence[Block], offsets: Iterable[int], alignment: int) -> int:
    """End of the highest block, in whole multiples of the alignment."""
    ends = (offset + block.size_bytes for block, offset in zip(blocks, offsets, strict=True))
    return -(-max(ends, default=0) // alignment) * alignment


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
    blocks: Sequence[Block], capacity: int, alignment: int, deadline: float, workers: int, seed: int
) -> Packing:
    offsets = next(_first_fits(blocks, capacity, alignment), None)
    if offsets is not None:
        return Packing(offsets, proven=True)
    if any(block.offset_bytes is not None and block.offset_bytes % alignment for block in blocks):
        return Packing(None, proven=True)
    boxes = [
        Box(
            block.start_ns,
            block.end_ns,
            -(-block.size_bytes // alignment),
            math.lcm(block.alignment, alignment) // alignment,
            None if block.offset_bytes is None else block.offset_bytes // alignment,
        )
        for block in blocks
    ]
    found = search(boxes, capacity // alignment, deadline, workers, seed)
    return Packing(None if found.places is None else [place * alignment for place in found.places], found.proven)


def _first_fits(blocks: Sequence[Block], capacity: int | None, alignment: int) -> Iterator[list[int]]:
    """What first fit gives by each of several orders, where that fits."""
    orders = (
        lambda i: (-blocks[i].size_bytes, blocks[i].start_ns),
        lambda i: (-(blocks[i].end_ns - blocks[i].start_ns) * blocks[i].size_bytes, i),
        lambda i: (-(blocks[i].end_ns - blocks[i].start_ns), i),
        lambda i: (blocks[i].start_ns, i),
    )
    for order in orders:
        ranked = sorted(range(len(blocks)), key=order)
        ranked.sort(key=lambda i: blocks[i].offset_bytes is None)  # given places are taken first
        offsets = _first_fit(blocks, ranked, capacity, alignment)
        if offsets is not None:
            yield offsets


def _first_fit(blocks: Sequence[Block], order: Sequence[int], capacity: int | None, alignment: int) -> list[int] | None:
    """Lowest free address for each block in turn."""
    offsets = [-1] * len(blocks)
    placed: list[int] = []
    for i in order:
        taken = sorted((offsets[j], offsets[j] + blocks[j].size_bytes) for j in placed if blocks[i].meets(blocks[j]))
        step = math.lcm(blocks[i].alignment, alignment)
        place, given = 0, blocks[i].offset_bytes
        for low, high in taken:
            if place + blocks[i].size_bytes <= low:
                break
            place = max(place, -(-high // step) * step)
        if given is not None:
            if given % step or any(low < given + blocks[i].size_bytes and given < high for low, high in taken):
                return None
            place = given
        if capacity is not None and place + blocks[i].size_bytes > capacity:
            return None
        offsets[i] = place
        placed.append(i)
    return offsets
