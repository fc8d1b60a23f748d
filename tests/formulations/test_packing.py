"""Addresses for known lifetimes."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.packing import Block, pack


def overlapping(blocks: list[Block], offsets: list[int]) -> bool:
    """Whether two blocks share an address at one time."""
    placed = list(zip(blocks, offsets, strict=True))
    return any(
        a.start_ns < b.end_ns and b.start_ns < a.end_ns and x < y + b.size_bytes and y < x + a.size_bytes
        for (a, x), (b, y) in combinations(placed, 2)
    )


def test_blocks_one_after_another_share_an_address() -> None:
    """Two blocks of 512 bytes fit into 512 bytes if the second starts when the first has ended."""
    assert pack([Block(0, 10, 512), Block(10, 20, 512)], 512, 512) == [0, 0]


def test_too_much_at_once() -> None:
    """Two blocks alive together need their sum."""
    assert pack([Block(0, 10, 512), Block(9, 20, 512)], 1023, 512, time_limit_s=1) is None


def test_exact_where_greedy_orders_fail() -> None:
    """Five blocks that fill 5 units at every instant of [0, 4); found whichever way it takes.

    Loads: [0,1): 2+3, [1,2): 2+1+2, [2,3): 1+2+2, [3,4): 3+2, where the block of 1 lives over [1,3).
    """
    unit = 512
    blocks = [
        Block(0, 2, 2 * unit),
        Block(0, 1, 3 * unit),
        Block(1, 3, 1 * unit),
        Block(1, 3, 2 * unit),
        Block(2, 4, 2 * unit),
        Block(3, 4, 3 * unit),
    ]
    offsets = pack(blocks, 5 * unit, unit)
    assert offsets is not None
    assert not overlapping(blocks, offsets)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 10), st.integers(1, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_packings_are_sound(shapes: list[tuple[int, int, int]]) -> None:
    """What is returned is aligned, within capacity and free of overlaps; with room for all there is an answer."""
    blocks = [Block(start, start + length, 512 * size) for start, length, size in shapes]
    total = sum(block.size_bytes for block in blocks)
    offsets = pack(blocks, total, 512)
    assert offsets is not None
    assert all(offset % 512 == 0 and offset + b.size_bytes <= total for offset, b in zip(offsets, blocks, strict=True))
    assert not overlapping(blocks, offsets)
