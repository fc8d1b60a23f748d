"""Addresses for blocks whose lifetimes are known: no overlap in address x time, within a capacity.

Greedy orders first, which nearly always fit; an exact CP-SAT model when they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model


@dataclass(frozen=True)
class Block:
    """``size_bytes`` held over ``[start_ns, end_ns)``."""

    start_ns: int
    end_ns: int
    size_bytes: int

    def meets(self, other: Block) -> bool:
        """Whether the two live at one time."""
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


def pack(blocks: Sequence[Block], capacity: int, alignment: int, time_limit_s: float = 5.0) -> list[int] | None:
    """Offsets (bytes) for blocks, or ``None`` where none were found within ``time_limit_s``."""
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
    return _exact(blocks, capacity, alignment, time_limit_s)


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


def _exact(blocks: Sequence[Block], capacity: int, alignment: int, time_limit_s: float) -> list[int] | None:
    model = cp_model.CpModel()
    room = capacity // alignment
    places, across, along = [], [], []
    for i, block in enumerate(blocks):
        size = -(-block.size_bytes // alignment)
        if size > room:
            return None
        place = model.new_int_var(0, room - size, f"place[{i}]")
        places.append(place)
        along.append(model.new_fixed_size_interval_var(place, size, f"span[{i}]"))
        across.append(model.new_fixed_size_interval_var(block.start_ns, block.end_ns - block.start_ns, f"life[{i}]"))
    model.add_no_overlap_2d(across, along)
    model.add_cumulative(across, [-(-block.size_bytes // alignment) for block in blocks], room)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = 1
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [solver.value(place) * alignment for place in places]
