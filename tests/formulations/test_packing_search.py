"""Exact packing: sets alive together, proofs either way, and published instances that are hard for plain models."""

from __future__ import annotations

import csv
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from formulations.packing import Block, find_lowest, find_packing, pack
from formulations.packing.blocks import cliques, pieces, stretches
from formulations.packing.search import ORDERS, Form, build, search

SHARED = Path(__file__).parents[3] / "shared" / "data" / "minimalloc" / "challenging"

FORMS: tuple[Form, ...] = ("cliques", "rectangles", "free")


@st.composite
def spans(draw: st.DrawFn) -> Block:
    """A block, at times one that is not held whole over the middle of its life, or not at all."""
    start, length, size = draw(st.integers(0, 12)), draw(st.integers(1, 8)), draw(st.integers(1, 6))
    end = start + length
    if length < 3 or draw(st.booleans()):
        return Block(start, end, size)
    low = draw(st.integers(0, size))
    high = draw(st.integers(low, size))
    middle = ((start + 1, end - 1, low, high),) if low < high else ()
    return Block(start, end, size, spans=((start, start + 1, 0, size), *middle, (end - 1, end, 0, size)))


blocks = st.lists(spans(), min_size=1, max_size=7)


def packed(places: list[int] | None, given_blocks: list[Block], room: int) -> bool:
    if places is None:
        return False
    if any(place < 0 or place + block.size_bytes > room for place, block in zip(places, given_blocks, strict=True)):
        return False
    return not any(
        a.block != b.block
        and a.start < b.end
        and b.start < a.end
        and places[a.block] + a.low < places[b.block] + b.high
        and places[b.block] + b.low < places[a.block] + a.high
        for a, b in combinations(pieces(given_blocks), 2)
    )


@given(blocks)
def test_cliques_are_the_maximal_sets_alive_together(found: list[Block]) -> None:
    """Against all sets alive at the start of some piece, the larger of nested ones kept."""
    held = pieces(found)
    alive = {frozenset(i for i, each in enumerate(held) if each.start <= at.start < each.end) for at in held}
    largest = {members for members in alive if not any(members < other for other in alive)}
    assert sorted(sorted(members) for members in largest) == sorted(cliques(held))


@settings(max_examples=40, deadline=None)
@given(blocks, st.integers(1, 14))
def test_the_search_decides_small_cases(found: list[Block], room: int) -> None:
    """As a plain model does: two-dimensional no-overlap, no order, no symmetry."""
    model = cp_model.CpModel()
    if any(block.size_bytes > room for block in found):
        possible = False
    else:
        places = [model.new_int_var(0, room - block.size_bytes, "") for block in found]
        model.add_no_overlap_2d(
            [model.new_fixed_size_interval_var(each.start, each.end - each.start, "") for each in pieces(found)],
            [
                model.new_fixed_size_interval_var(places[each.block] + each.low, each.height, "")
                for each in pieces(found)
            ],
        )
        possible = cp_model.CpSolver().solve(model) == cp_model.OPTIMAL
    answer = search(found, room, time.monotonic() + 30)
    assert answer.proven
    assert packed(answer.places, found, room) == possible == (answer.places is not None)
    if answer.conflict is not None:
        few = [found[i] for i in answer.conflict]
        assert search(few, room, time.monotonic() + 30).places is None


def test_too_much_at_one_instant_is_proven_at_once() -> None:
    """Three units of four alive together in eleven; no model is needed, so that not even time is."""
    answer = search([Block(0, 3, 4), Block(1, 4, 4), Block(2, 5, 4), Block(8, 9, 1)], 11, deadline=0.0)
    assert answer.places is None
    assert answer.proven
    assert answer.conflict == [0, 1, 2]


def test_no_time_proves_nothing() -> None:
    answer = search([Block(0, 3, 4), Block(1, 4, 4)], 11, deadline=0.0)
    assert answer.places is None
    assert not answer.proven


@pytest.mark.parametrize("form", FORMS)
def test_every_order_is_a_model_of_its_own(form: Form) -> None:
    """The same constraints; equal blocks lie in the order in which they are given."""
    same = [Block(0, 3, 2), Block(0, 3, 2), Block(2, 5, 3)]
    for order in ORDERS:
        model, places = build(same, pieces(same), 7, order, form)
        solver = cp_model.CpSolver()
        assert solver.solve(model) == cp_model.OPTIMAL
        assert solver.value(places[0]) + 2 <= solver.value(places[1])


def test_stretches_are_packed_apart() -> None:
    """Nothing lives across 10 and across 30; within [10, 30) everything hangs together."""
    apart = [Block(20, 30, 8), Block(0, 10, 8), Block(10, 21, 8), Block(30, 31, 8)]
    assert stretches(apart) == [[1], [2, 0], [3]]
    offsets = pack(apart, 16, 8)
    assert offsets is not None
    assert {offsets[1], offsets[3]} == {0}
    assert {offsets[0], offsets[2]} == {0, 8}


def nearly_full(columns: int, room: int) -> list[Block]:
    """Blocks that fill the room at every instant; 3 in 10 end at each, and others that sum up to the same begin.

    Which ones is drawn by a linear congruential generator, so that the case is the same everywhere.
    """
    state = 7

    def draw(below: int) -> int:
        nonlocal state
        state = (state * 1103515245 + 12345) % 2**31
        return state // 65536 % below

    living: list[tuple[int, int]] = []
    found: list[Block] = []
    free = room
    for instant in range(columns):
        while free:
            size = min(free, 2 + draw(room // 4))
            living.append((instant, size))
            free -= size
        ending = [each for each in living if draw(10) < 3 or instant + 1 == columns]
        for start, size in ending:
            living.remove((start, size))
            found.append(Block(start, instant + 1, size))
            free += size
    return found


def test_a_bound_above_the_load() -> None:
    """At no instant more than 100 live, and yet they do not fit into 100: proven, with a window to show for it."""
    full = nearly_full(30, 100)
    answer = search(full, 100, time.monotonic() + 60, workers=2)
    assert answer.proven
    assert answer.places is None
    assert answer.conflict is not None
    few = [full[i] for i in answer.conflict]
    plain = cp_model.CpModel()
    places = [plain.new_int_var(0, 100 - block.size_bytes, "") for block in few]
    for members in cliques(pieces(few)):
        plain.add_no_overlap([plain.new_fixed_size_interval_var(places[i], few[i].size_bytes, "") for i in members])
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = 60
    assert solver.solve(plain) == cp_model.INFEASIBLE
    lowest = find_lowest(full, 1, 100, time.monotonic() + 5, workers=2)
    assert 100 <= lowest.bound <= lowest.height
    assert packed(lowest.offsets, full, lowest.height)


@pytest.mark.parametrize("name", ["C", "F", "G"])
def test_published_instances(name: str) -> None:
    """200 to 300 buffers that fill the capacity nearly to the last byte (MiniMalloc's challenging set)."""
    path = SHARED / f"{name}.1048576.csv"
    if not path.is_file():
        pytest.skip("the published instances are not here")
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    asked = [Block(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in rows]
    offsets = find_packing(asked, 1_048_576, 1, time.monotonic() + 60, workers=2).offsets
    assert packed(offsets, asked, 1_048_576)
