"""Exact packing by CP-SAT: a few orders of the blocks in turn, in growing slices of time.

Variables: ``place[i]``, the lowest address of block i, in units of the alignment. Blocks that live at one time do not
overlap: one no-overlap constraint for each maximal set of blocks alive together (``2 n`` intervals and no rectangle
reasoning). Equal blocks lie in the order in which they are given.

The search branches on the block whose lowest free address is least, and puts it there; ties go by the order. That rule
is the packing heuristic that hand-written solvers use, and it decides: with the first block of
the order chosen instead, the same five orders solve 2 of MiniMalloc's 11 hard instances in 6 s each; so, seven orders
solve all 11 in at most 4 s each, though no single one does. CP-SAT's own search solves 5 of them in 6 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from ortools.sat.python import cp_model

ORDERS = ("OTA", "TAW", "WAT", "AHT", "TWA", "THA", "AWT")
"""What blocks are ordered by, most important first: start (T)ime, (A)rea, (W)idth in time, (H)eight in bytes, number of
blocks that they (O)verlap in time; largest first, but for the start time."""

FIRST_SLICE, GROWTH = 0.05, 3.0
"""CP-SAT's deterministic time for an order in the first round, and how it grows from round to round."""


@dataclass(frozen=True)
class Box:
    """A block in whole units: ``height`` held over ``[start, end)``, at a multiple of ``step``, or at ``fixed``."""

    start: int
    end: int
    height: int
    step: int = 1
    fixed: int | None = None


@dataclass(frozen=True)
class Found:
    """Places of the boxes, or ``None``; ``proven`` where nothing else was possible (that there is none, too)."""

    places: list[int] | None
    proven: bool


def search(boxes: Sequence[Box], room: int, deadline: float, workers: int = 1, seed: int = 0) -> Found:
    """Places for boxes within ``room`` units, until ``deadline`` (of ``time.monotonic``).

    The load at an instant bounds the room from below. With heights and steps that have a common divisor, whole
    multiples of it are as good as any place, so that they are divided by it first. With one worker the answer is the
    same every time; with more, it is that of the order that is done first.
    """
    given = [box.fixed for box in boxes if box.fixed is not None]
    steps = [box.step for box in boxes if box.step > 1]
    unit = math.gcd(*(box.height for box in boxes), *given, *steps) if boxes else 1
    small = [
        Box(
            box.start,
            box.end,
            box.height // unit,
            max(1, box.step // unit),
            None if box.fixed is None else box.fixed // unit,
        )
        for box in boxes
    ]
    fits = room // unit
    if any(sum(small[i].height for i in alive) > fits for alive in cliques(small)) or any(
        box.fixed is not None and box.fixed + box.height > fits for box in small
    ):
        return Found(None, proven=True)
    solvers: list[cp_model.CpSolver] = []

    def attempt(order: str, limit: float) -> Found:
        left = deadline - time.monotonic()
        if left <= 0:
            return Found(None, proven=False)
        model, places = build(small, fits, order)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed
        solver.parameters.search_branching = cp_model.FIXED_SEARCH
        solver.parameters.linearization_level = 0
        solver.parameters.max_deterministic_time = limit
        solver.parameters.max_time_in_seconds = left
        solvers.append(solver)
        status = solver.solve(model)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Found([solver.value(place) * unit for place in places], proven=True)
        return Found(None, proven=status == cp_model.INFEASIBLE)

    limit = FIRST_SLICE
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        while time.monotonic() < deadline:
            running = [pool.submit(attempt, order, limit) for order in ORDERS]
            for future in as_completed(running):
                if future.cancelled():
                    continue
                found = future.result()
                if found.proven:
                    for other in running:
                        other.cancel()
                    for solver in solvers:
                        solver.stop_search()
                    return found
            solvers.clear()
            limit *= GROWTH
    return Found(None, proven=False)


def build(boxes: Sequence[Box], room: int, order: str) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """The model with one order's search."""
    model = cp_model.CpModel()
    places = [model.new_int_var(0, room - box.height, f"place[{i}]") for i, box in enumerate(boxes)]
    spans = [
        model.new_fixed_size_interval_var(place, box.height, f"span[{i}]")
        for i, (place, box) in enumerate(zip(places, boxes, strict=True))
    ]
    for alive in cliques(boxes):
        model.add_no_overlap([spans[i] for i in alive])
    for place, box in zip(places, boxes, strict=True):
        if box.fixed is not None:
            model.add(place == box.fixed)
        elif box.step > 1:
            model.add_modulo_equality(0, place, box.step)
    last: dict[Box, int] = {}
    for i, box in enumerate(boxes):
        if box in last:
            model.add(places[last[box]] + box.height <= places[i])
        last[box] = i
    ranked = sorted(range(len(boxes)), key=lambda i: _rank(boxes, order, i))
    model.add_decision_strategy([places[i] for i in ranked], cp_model.CHOOSE_LOWEST_MIN, cp_model.SELECT_MIN_VALUE)
    return model, places


def cliques(boxes: Sequence[Box]) -> list[list[int]]:
    """The maximal sets of boxes that are alive together, in order of time."""
    found: list[list[int]] = []
    alive: set[int] = set()
    ends = sorted(range(len(boxes)), key=lambda i: boxes[i].end)
    gone, grown = 0, False
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i].start):
        leaving = []
        while boxes[ends[gone]].end <= boxes[i].start:
            leaving.append(ends[gone])
            gone += 1
        if leaving and grown:
            found.append(sorted(alive))
        grown = grown and not leaving
        alive.difference_update(leaving)
        alive.add(i)
        grown = True
    return [*found, sorted(alive)] if alive else found


def _rank(boxes: Sequence[Box], order: str, i: int) -> tuple[int, ...]:
    box = boxes[i]
    width = box.end - box.start
    values = {
        "T": lambda: box.start,
        "A": lambda: -width * box.height,
        "W": lambda: -width,
        "H": lambda: -box.height,
        "O": lambda: -sum(other.start < box.end and box.start < other.end for other in boxes),
    }
    return tuple(values[letter]() for letter in order)
