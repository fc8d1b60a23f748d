"""Packing into a capacity, or as low as can be: heuristics first, which nearly always do, then the exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from formulations.packing.blocks import Block, aligned, height, scaled, stretches
from formulations.packing.heuristics import first_fits, learn, lowest_fit
from formulations.packing.search import search

LEARN_ROUNDS = 12
"""Skylines before the exact search is asked; later ones seldom help where these did not."""

ONE_TRIAL_S = 0.3
"""Seconds for whether a conflict remains without some of its blocks."""

MOST_SEARCHED = 2_000
"""Blocks up to which CP-SAT is asked: above, one model takes longer than is to be expected of it."""


@dataclass(frozen=True)
class Packing:
    """Offsets of blocks, or ``None``; ``proven`` where it is certain that there are none.

    ``conflict`` are then blocks that do not fit even among themselves, as few as was seen on the way.
    """

    offsets: list[int] | None
    proven: bool
    conflict: list[int] | None = None


def pack(blocks: Sequence[Block], capacity: int, alignment: int, time_limit_s: float = 5.0) -> list[int] | None:
    """Offsets (bytes) for blocks, or ``None`` where none were found within ``time_limit_s``."""
    return find_packing(blocks, capacity, alignment, time.monotonic() + time_limit_s).offsets


def find_packing(
    blocks: Sequence[Block], capacity: int, alignment: int, deadline: float, workers: int = 1, seed: int = 0
) -> Packing:
    """Pack blocks into ``capacity`` bytes, each at a multiple of ``alignment``, until ``deadline``.

    Stretches of time that no block crosses are packed one by one. ``deadline`` is one of ``time.monotonic``.
    """
    whole = aligned(blocks, alignment)
    offsets = [0] * len(blocks)
    for group in stretches(whole):
        members = [whole[i] for i in group]
        found = _pack_stretch(members, capacity, deadline, workers, seed)
        if found.offsets is None:
            conflict = None if found.conflict is None else [group[i] for i in found.conflict]
            return Packing(None, found.proven, conflict)
        for i, offset in zip(group, found.offsets, strict=True):
            offsets[i] = offset
    return Packing(offsets, proven=True)


def _pack_stretch(blocks: Sequence[Block], capacity: int, deadline: float, workers: int, seed: int) -> Packing:
    offsets = next(first_fits(blocks, capacity), None)
    if offsets is None:
        offsets = learn(blocks, capacity, LEARN_ROUNDS, deadline)
    if offsets is not None and height(blocks, offsets) <= capacity:
        return Packing(offsets, proven=True)
    if len(blocks) > MOST_SEARCHED:
        return Packing(None, proven=False)
    found = search(blocks, capacity, deadline, workers, seed)
    return Packing(found.places, found.proven, found.conflict)


def fewer_in_conflict(
    blocks: Sequence[Block], capacity: int, alignment: int, conflict: list[int], deadline: float
) -> list[int]:
    """Fewer of the blocks of a conflict that do not fit either: parts are left out, ever smaller ones."""
    part = len(conflict) // 2
    while part and time.monotonic() < deadline:
        for at in range(len(conflict) - part, -1, -part):
            fewer = conflict[:at] + conflict[at + part :]
            until = min(deadline, time.monotonic() + ONE_TRIAL_S)
            found = find_packing([blocks[i] for i in fewer], capacity, alignment, until)
            if found.offsets is None and found.proven:
                conflict = fewer
        part //= 2
    return conflict


@dataclass(frozen=True)
class Lowest:
    """The lowest packing found, and a bound: no packing is lower than ``bound`` bytes (equal: proven lowest)."""

    offsets: list[int]
    height: int
    bound: int


def find_lowest(
    blocks: Sequence[Block], alignment: int, load: int, deadline: float, workers: int = 1, seed: int = 0
) -> Lowest:
    """Pack blocks as low as can be found until ``deadline``; ``ValueError`` where given places contradict each other.

    ``load`` is the most that lives at one instant (sizes in whole multiples of ``alignment``), a bound to start from.
    It is asked for first, with half of the time, since hard packings mostly reach it; then heights between what is
    excluded and what is found, by halves. Thousands of blocks are left to the heuristics.
    """
    whole = aligned(blocks, alignment)
    _, unit = scaled(whole)
    bound = max(load, _least_height(whole))
    large = len(blocks) > MOST_SEARCHED
    offsets = learn(whole, bound, None if large else LEARN_ROUNDS, deadline)
    if offsets is None or (not large and height(whole, offsets) > bound):
        fits = lowest_fit(whole)
        if fits is None:
            raise ValueError("given places contradict each other")
        offsets = min((each for each in (fits, offsets) if each), key=lambda each: height(whole, each), default=fits)
    best = height(whole, offsets)
    aim, tried = bound, bound - 1  # no more is asked for up to ``tried`` for now
    while bound < best and not large and (left := deadline - time.monotonic()) > 0:
        found = find_packing(whole, aim, 1, time.monotonic() + left / 2, workers, seed)
        if found.offsets is not None:
            best, offsets = height(whole, found.offsets), found.offsets
        elif found.proven:
            bound = (aim // unit + 1) * unit
        else:
            tried = aim
        tried = max(tried, bound - 1)
        if best - tried <= unit:
            tried = bound - 1  # all that is left is to ask again for longer
        aim = max(bound, (tried + best) // 2 // unit * unit)
    return Lowest(offsets, best, min(bound, best))


def _least_height(blocks: Sequence[Block]) -> int:
    """What the highest given place, and the largest block, need."""
    return max(((block.offset_bytes or 0) + block.size_bytes for block in blocks), default=0)
