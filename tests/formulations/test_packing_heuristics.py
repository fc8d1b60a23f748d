"""First fit and the skyline: what they give is a packing, and a low one."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.packing.blocks import Block, aligned, height, pieces
from formulations.packing.heuristics import first_fits, learn, lowest_fit
from formulations.packing.pack import fewer_in_conflict, find_lowest
from tests.formulations.test_packing_search import packed, spans

anywhere = st.lists(spans(), min_size=1, max_size=12)
plain = st.lists(
    st.builds(
        lambda start, length, size, step: Block(start, start + length, size, step),
        st.integers(0, 20),
        st.integers(1, 9),
        st.integers(1, 9),
        st.sampled_from([1, 2, 8]),
    ),
    min_size=1,
    max_size=12,
)


def load(blocks: list[Block]) -> int:
    held = pieces(blocks)
    return max(sum(other.height for other in held if other.start <= each.start < other.end) for each in held)


@given(anywhere)
def test_first_fit_packs_whatever_is_held_when(found: list[Block]) -> None:
    for offsets in first_fits(found, None):
        assert packed(offsets, found, height(found, offsets))


def test_first_fit_uses_a_gap() -> None:
    """b lives while a is not held, and c beside the half of a that is."""
    a = Block(0, 9, 8, spans=((0, 3, 0, 8), (5, 7, 0, 4), (7, 9, 0, 8)))
    offsets = lowest_fit([a, Block(3, 5, 8), Block(5, 7, 4)])
    assert offsets == [0, 0, 4]


def test_hints_are_an_order() -> None:
    """Six blocks that fill 5 at every instant; where they lie in a packing is the first order that is tried."""
    shapes = [(0, 2, 2, 0), (0, 1, 3, 2), (1, 3, 1, 2), (1, 3, 2, 3), (2, 4, 2, 0), (3, 4, 3, 2)]
    blocks = [Block(start, end, size, hint_bytes=hint) for start, end, size, hint in shapes]
    assert next(first_fits(blocks, 5)) == [hint for *_, hint in shapes]


def test_given_places_are_built_around() -> None:
    kept = lowest_fit([Block(0, 4, 4, offset_bytes=4), Block(1, 3, 4), Block(1, 3, 4)])
    assert kept is not None
    assert (kept[0], sorted(kept[1:])) == (4, [0, 8])
    assert lowest_fit([Block(0, 4, 4, offset_bytes=4), Block(1, 3, 4, offset_bytes=6)]) is None


@settings(deadline=None)
@given(plain)
def test_the_skyline_packs(found: list[Block]) -> None:
    """Aligned, without overlap, no lower than the load."""
    offsets = learn(found, load(found), rounds=5, deadline=time.monotonic() + 60)
    assert offsets is not None
    assert packed(offsets, found, height(found, offsets))
    assert all(offset % block.alignment == 0 for offset, block in zip(offsets, found, strict=True))
    assert height(found, offsets) >= load(found)


def test_more_rounds_are_never_worse() -> None:
    found = random_blocks(300, 1)
    heights = [
        height(found, offsets)
        for rounds in (1, 3, 9)
        if (offsets := learn(found, 0, rounds, time.monotonic() + 60)) is not None
    ]
    assert len(heights) == 3
    assert heights == sorted(heights, reverse=True)


def test_the_skyline_is_for_plain_blocks() -> None:
    assert learn([Block(0, 2, 4, offset_bytes=0)], 4, 5, time.monotonic() + 60) is None
    assert learn([], 4, 5, time.monotonic() + 60) is None
    assert learn([Block(0, 2, 4)], 4, 5, deadline=0.0) is None


def random_blocks(count: int, seed: int) -> list[Block]:
    draw = np.random.default_rng(seed)
    start = draw.integers(0, count, count)
    end = start + draw.integers(1, max(2, count // 10), count)
    size = draw.integers(1, 1024, count)
    return [Block(int(a), int(b), int(c)) for a, b, c in zip(start, end, size, strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
def test_many_random_blocks_lie_low(seed: int) -> None:
    """3,000 blocks, some 150 alive at once: within 3 % of the load after a few rounds (first fit: 9 %)."""
    found = random_blocks(3_000, seed)
    least = load(found)
    offsets = learn(found, least, rounds=9, deadline=time.monotonic() + 120)
    assert offsets is not None
    assert packed_fast(found, offsets)
    assert height(found, offsets) <= 1.03 * least


def packed_fast(found: list[Block], offsets: list[int]) -> bool:
    """No overlap, by all pairs at once."""
    start, end = (np.array([getattr(b, name) for b in found]) for name in ("start_ns", "end_ns"))
    low = np.array(offsets)
    high = low + np.array([b.size_bytes for b in found])
    meet = (start[:, None] < end) & (start < end[:, None]) & (low[:, None] < high) & (low < high[:, None])
    return int(meet.sum()) == len(found)


def test_least_height_of_what_is_aligned() -> None:
    """Two of 5 bytes at multiples of 4 take 8 + 8, though only 10 live."""
    found = find_lowest([Block(0, 2, 5), Block(1, 3, 5)], 4, 16, time.monotonic() + 30)
    assert (found.height, found.bound) == (16, 16)
    assert [block.size_bytes for block in aligned([Block(0, 2, 5)], 4)] == [8]


def test_a_conflict_is_made_smaller() -> None:
    """Of nine blocks only the two that are given overlapping places exclude each other."""
    blocks = [Block(0, 9, 1) for _ in range(7)]
    blocks += [Block(2, 4, 4, offset_bytes=20), Block(3, 5, 4, offset_bytes=22)]
    fewer = fewer_in_conflict(blocks, 40, 1, list(range(9)), time.monotonic() + 60)
    assert fewer == [7, 8]
    assert not any(a == b for a, b in combinations(fewer, 2))
