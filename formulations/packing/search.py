"""Exact packing by CP-SAT: orders and forms of the model in growing slices of time, and windows of time for proofs.

Variables: ``place[i]``, the lowest address of block i, in the largest unit that all sizes share. Blocks that live at
one time do not overlap. That has two forms here: one no-overlap constraint for each maximal set alive together, which
on some instances branches up to ten times faster, and rectangles (address x time), which on others is two to four times
faster at the same number of branches, as long as presolve does not turn it into the first. Equal blocks lie in the
order in which they are given.

The search branches on the block whose lowest free address is least, and puts it there; ties go by the order. That rule
is the packing heuristic that hand-written solvers use, and it decides: with the first block of the order chosen
instead, the same orders solve 2 of MiniMalloc's 11 hard instances in 6 s each; so, the portfolio solves all 11 in under
3 s each on two threads, though no single order does. CP-SAT's own search solves 5 of them in 6 s, but it learns more,
so that it proves sooner that there is no packing; from the second round on it gets a slice, on the whole and on
windows: what lives around a few instants that are nearly full. A window that cannot be packed is a proof, and a set of
blocks to show for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Literal

from ortools.sat.python import cp_model

from formulations.packing.blocks import Block, Piece, cliques, pieces, scaled

Form = Literal["cliques", "rectangles", "free"]

ORDERS = ("WAT", "OTA", "TAW", "TWA", "THA", "AWT")
"""What blocks are ordered by, most important first: start (T)ime, (A)rea, (W)idth in time, (H)eight in bytes, number of
blocks that they (O)verlap in time; largest first, but for the start time."""

SLICES: dict[Form, float] = {"cliques": 0.005, "rectangles": 0.25, "free": 0.06}
"""CP-SAT's deterministic time for each form at first, 0.1 to 0.7 s; the forms count differently."""

GROWTH = 2.0
"""How the slices grow from round to round."""

WINDOW, WINDOWS, NEARLY_FULL = 6, 8, 0.95
"""Sets alive together in a window at first, windows in each round, and how full they are on average."""


@dataclass(frozen=True)
class Found:
    """Places of the blocks, or ``None``; ``proven`` where nothing else was possible (that there is none, too).

    ``conflict`` are blocks that cannot be packed even among themselves, where there are no places and that is proven.
    """

    places: list[int] | None
    proven: bool
    conflict: list[int] | None = None


@dataclass(frozen=True)
class _Attempt:
    """One run of CP-SAT: on these pieces, or on all blocks where there are none."""

    form: Form
    order: str
    limit: float
    window: tuple[Piece, ...] = ()


def search(blocks: Sequence[Block], room: int, deadline: float, workers: int = 1, seed: int = 0) -> Found:
    """Places for blocks within ``room`` bytes, until ``deadline`` (of ``time.monotonic``).

    The load at an instant bounds the room from below. With one worker the answer is the same every time; with more, it
    is that of the attempt that is done first.
    """
    small, unit = scaled(blocks)
    fits = room // unit
    held = pieces(small)
    alive = cliques(held)
    for members in alive:
        if sum(held[p].height for p in members) > fits:
            return Found(None, proven=True, conflict=sorted(held[p].block for p in members))
    for i, block in enumerate(small):
        if (block.offset_bytes or 0) + block.size_bytes > fits or (block.offset_bytes or 0) % block.alignment:
            return Found(None, proven=True, conflict=[i])
    solvers: list[cp_model.CpSolver] = []

    def run(attempt: _Attempt) -> Found:
        left = deadline - time.monotonic()
        if left <= 0:
            return Found(None, proven=False)
        model, places = build(small, attempt.window or held, fits, attempt.order, attempt.form)
        solver = cp_model.CpSolver()
        solver.parameters.catch_sigint_signal = False  # whose process it is decides what Ctrl-C means
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed
        solver.parameters.linearization_level = 0
        if attempt.form != "free":
            solver.parameters.search_branching = cp_model.FIXED_SEARCH
            solver.parameters.cp_model_presolve = False
        solver.parameters.max_deterministic_time = attempt.limit
        solver.parameters.max_time_in_seconds = left
        solvers.append(solver)
        status = solver.solve(model)
        if status == cp_model.INFEASIBLE:
            return Found(None, proven=True, conflict=sorted(places))
        if attempt.window or status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Found(None, proven=False)
        return Found([solver.value(places[i]) * unit for i in range(len(small))], proven=True)

    scale = 1.0
    width = WINDOW
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        while time.monotonic() < deadline:
            attempts = [
                _Attempt(form, order, SLICES[form] * scale) for order in ORDERS for form in ("cliques", "rectangles")
            ]
            if scale > 1.0:  # what the first round leaves is hard, if it is possible at all
                proofs = (*_windows(held, alive, width, fits), ())
                attempts[:0] = [_Attempt("free", ORDERS[0], SLICES["free"] * scale, window) for window in proofs]
                width *= 2
            running = [pool.submit(run, attempt) for attempt in attempts]
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
            scale *= GROWTH
    return Found(None, proven=False)


def build(
    blocks: Sequence[Block], held: Sequence[Piece], room: int, order: str, form: Form
) -> tuple[cp_model.CpModel, dict[int, cp_model.IntVar]]:
    """The model of some pieces, with one order's search, and the places of the blocks that have one."""
    model = cp_model.CpModel()
    members = sorted({piece.block for piece in held})
    places = {i: model.new_int_var(0, room - blocks[i].size_bytes, f"place[{i}]") for i in members}
    spans = [
        model.new_fixed_size_interval_var(places[piece.block] + piece.low, piece.height, f"span[{p}]")
        for p, piece in enumerate(held)
    ]
    if form == "rectangles":
        lives = [
            model.new_fixed_size_interval_var(piece.start, piece.end - piece.start, f"life[{p}]")
            for p, piece in enumerate(held)
        ]
        model.add_no_overlap_2d(lives, spans)
    else:
        for alive in cliques(held):
            model.add_no_overlap([spans[p] for p in alive])
    for i, place in places.items():
        given, step = blocks[i].offset_bytes, blocks[i].alignment
        if given is not None:
            model.add(place == given)
        elif step > 1:
            model.add_modulo_equality(0, place, step)
    mine: dict[int, list[tuple[int, int, int, int]]] = {i: [] for i in members}
    for piece in held:
        mine[piece.block].append((piece.start, piece.end, piece.low, piece.high))
    last: dict[tuple[object, ...], int] = {}
    for i in members:
        kind = (tuple(mine[i]), blocks[i].size_bytes, blocks[i].alignment, blocks[i].offset_bytes)
        if kind in last:
            model.add(places[last[kind]] <= places[i])
        last[kind] = i
    if form != "free":
        ranked = sorted(members, key=lambda i: _rank(blocks, order, i))
        model.add_decision_strategy([places[i] for i in ranked], cp_model.CHOOSE_LOWEST_MIN, cp_model.SELECT_MIN_VALUE)
    return model, places


def _windows(
    held: Sequence[Piece], alive: Sequence[Sequence[int]], width: int, room: int
) -> Iterator[tuple[Piece, ...]]:
    """The fullest windows of ``width`` sets alive together, with what is held in them and while it is."""
    if width >= len(alive):
        return
    fills = [sum(held[p].height for p in members) / room for members in alive]
    starts = range(0, len(alive) - width + 1, max(1, width // 2))
    full = {at: sum(fills[at : at + width]) / width for at in starts}
    for at in sorted((at for at in starts if full[at] >= NEARLY_FULL), key=lambda at: -full[at])[:WINDOWS]:
        seen: dict[int, list[int]] = {}
        for instant in range(at, at + width):
            for p in alive[instant]:
                seen.setdefault(p, []).append(instant)
        yield tuple(
            Piece(held[p].block, instants[0], instants[-1] + 1, held[p].low, held[p].high)
            for p, instants in sorted(seen.items())
        )


def _rank(blocks: Sequence[Block], order: str, i: int) -> tuple[int, ...]:
    block = blocks[i]
    values = {
        "T": lambda: block.start_ns,
        "A": lambda: -block.length_ns * block.size_bytes,
        "W": lambda: -block.length_ns,
        "H": lambda: -block.size_bytes,
        "O": lambda: -sum(other.start_ns < block.end_ns and block.start_ns < other.end_ns for other in blocks),
    }
    return tuple(values[letter]() for letter in order)
