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

from formulations.packing import Block, find_packing, pack, stretches
from formulations.packing_search import ORDERS, Box, build, cliques, search

SHARED = Path(__file__).parents[3] / "shared" / "data" / "minimalloc" / "challenging"

boxes = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(1, 6)).map(lambda b: Box(b[0], b[0] + b[1], b[2])),
    min_size=1,
    max_size=8,
)


def meet(one: Box, other: Box) -> bool:
    return one.start < other.end and other.start < one.end


def packed(found: list[int] | None, given_boxes: list[Box], room: int) -> bool:
    return (
        found is not None
        and all(place >= 0 and place + box.height <= room for place, box in zip(found, given_boxes, strict=True))
        and not any(
            meet(a, b) and p < q + b.height and q < p + a.height
            for (p, a), (q, b) in combinations(list(zip(found, given_boxes, strict=True)), 2)
        )
    )


@given(boxes)
def test_cliques_are_the_maximal_sets_alive_together(found: list[Box]) -> None:
    """Against all sets alive at the start of some box, the larger of nested ones kept."""
    alive = {frozenset(i for i, box in enumerate(found) if box.start <= at.start < box.end) for at in found}
    largest = {members for members in alive if not any(members < other for other in alive)}
    assert sorted(sorted(members) for members in largest) == sorted(cliques(found))


@settings(max_examples=40, deadline=None)
@given(boxes, st.integers(1, 14))
def test_the_search_decides_small_cases(found: list[Box], room: int) -> None:
    """As a plain model does: two-dimensional no-overlap, no order, no symmetry."""
    model = cp_model.CpModel()
    if any(box.height > room for box in found):
        possible = False
    else:
        places = [model.new_int_var(0, room - box.height, "") for box in found]
        model.add_no_overlap_2d(
            [model.new_fixed_size_interval_var(box.start, box.end - box.start, "") for box in found],
            [model.new_fixed_size_interval_var(p, box.height, "") for p, box in zip(places, found, strict=True)],
        )
        possible = cp_model.CpSolver().solve(model) == cp_model.OPTIMAL
    answer = search(found, room, time.monotonic() + 30)
    assert answer.proven
    assert packed(answer.places, found, room) == possible == (answer.places is not None)


def test_too_much_at_one_instant_is_proven_at_once() -> None:
    """Three units of four alive together in eleven; no model is needed, so that not even time is."""
    answer = search([Box(0, 3, 4), Box(1, 4, 4), Box(2, 5, 4)], 11, deadline=0.0)
    assert answer.places is None
    assert answer.proven


def test_no_time_proves_nothing() -> None:
    answer = search([Box(0, 3, 4), Box(1, 4, 4)], 11, deadline=0.0)
    assert answer.places is None
    assert not answer.proven


def test_every_order_is_a_model_of_its_own() -> None:
    """The same constraints; equal boxes lie in the order in which they are given."""
    same = [Box(0, 3, 2), Box(0, 3, 2), Box(2, 5, 3)]
    for order in ORDERS:
        model, places = build(same, 7, order)
        solver = cp_model.CpSolver()
        assert solver.solve(model) == cp_model.OPTIMAL
        assert solver.value(places[0]) + 2 <= solver.value(places[1])


def test_stretches_are_packed_apart() -> None:
    """Nothing lives across 10 and across 30; within [10, 30) everything hangs together."""
    blocks = [Block(20, 30, 8), Block(0, 10, 8), Block(10, 21, 8), Block(30, 31, 8)]
    assert stretches(blocks) == [[1], [2, 0], [3]]
    offsets = pack(blocks, 16, 8)
    assert offsets is not None
    assert {offsets[1], offsets[3]} == {0}
    assert {offsets[0], offsets[2]} == {0, 8}


@pytest.mark.parametrize("name", ["C", "F", "G"])
def test_published_instances(name: str) -> None:
    """200 to 300 buffers that fill the capacity nearly to the last byte (MiniMalloc's challenging set)."""
    path = SHARED / f"{name}.1048576.csv"
    if not path.is_file():
        pytest.skip("the published instances are not here")
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    blocks = [Block(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in rows]
    offsets = find_packing(blocks, 1_048_576, 1, time.monotonic() + 60, workers=2).offsets
    assert packed(offsets, [Box(b.start_ns, b.end_ns, b.size_bytes) for b in blocks], 1_048_576)
