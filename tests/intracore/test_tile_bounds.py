"""Bounds of tile tasks: never above what trying everything finds, and what they come to on known tasks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from formulations.intracore import fixed_order
from formulations.intracore.bounds import residency_bounds, time_bounds, traffic_bounds
from formulations.intracore.parts import parts_bound
from formulations.intracore.residency import Lives, cut_bound, first_end_bound, watched_bound, watched_groups_bound
from formulations.intracore.traffic import least_cover, windows
from formulations.intracore.volume import _Cases, _chosen_credits, _lawful, _Products, _products, _Uses, volume
from instances.intracore import COUNTED, Place, TileTask
from instances.intracore_files import read_tile_task
from instances.intracore_samples import flash_attention, matmul, random_task
from opt.replay.intracore import Rules, judge_tiles
from tests.intracore.brute import least_residency, least_time, least_traffic
from tests.intracore.handmade import CHAIN
from tests.intracore.tangled import grid, sums, tangled

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "huaweicup2025a"

MEMORIES = ("L1 UB", "L1 L0C", "L1 UB L0A L0C", "L1 L0A L0B", "UB L0C")


def drawn(seed: int, most: int) -> list[TileTask]:
    """Tasks of up to so many operations."""
    rng = random.Random(seed)
    return [
        tangled(seed, rng.randint(3, most), rng.randint(2, most - 1), MEMORIES[seed % len(MEMORIES)]),
        grid(seed, most),
        grid(seed, most, moved=True),
        random_task(seed, operations=rng.randint(3, most), places=tuple(Place), largest=2, capacity=rng.randint(3, 4)),
    ]


@pytest.mark.parametrize("block", range(8))
def test_residency_is_never_below(block: int) -> None:
    above_operation = 0
    for seed in range(25 * block, 25 * block + 25):
        for task in drawn(seed, 8):
            least = least_residency(task)
            if least is not None:
                found = residency_bounds(task, 2.0)
                assert max(found.values()) <= least, (seed, found)
                above_operation += max(found.values()) > max(found["operation"], found["buffer"])
    assert above_operation  # the arguments that look at more than one operation are at work


@pytest.mark.parametrize("block", range(5))
def test_traffic_is_never_below(block: int) -> None:
    proven = 0
    for seed in range(8 * block, 8 * block + 8):
        for task in (*drawn(seed, 6), grid(seed, 9, tight=True)):
            least = least_traffic(task)
            if least is not None:
                found = traffic_bounds(task)
                assert max(found.values()) <= least, (seed, found)
                proven += max(found.values()) > 0
    assert proven


@pytest.mark.parametrize("block", range(3))
def test_volume_is_never_above(block: int) -> None:
    proven = 0
    for seed in range(40 * block, 40 * block + 40):
        for task in (sums(seed, 9), sums(seed, 5, moved=True)):
            least = least_traffic(task)
            if least is not None:
                found = volume(task)
                assert found <= least, seed
                proven += found > 0
    assert proven


@pytest.mark.parametrize(
    ("shape", "value"),
    [((8, 8, 8), 1_280), ((12, 12, 12), 43_264), ((16, 16, 16), 176_896), ((32, 8, 16), 159_744), ((8, 8, 1), 0)],
)
def test_volume_of_products(shape: tuple[int, int, int], value: int) -> None:
    """Below what is reached: 11,520 for 8, 8, 8 and some 245,000 for 16, 16, 16."""
    assert volume(matmul(*shape)) == value


def test_volume_that_is_met() -> None:
    """One tile in L1: products that share a tile with the next, by the left and the right side in turn."""
    whole = matmul(2, 3, 1)
    capacity = {Place.L1: 128, Place.UB: 1, Place.L0A: 128, Place.L0B: 128, Place.L0C: 256}
    narrow = whole.model_copy(update={"capacity": capacity})
    products = [op for op in whole.operations if op.name == "MATMUL"]
    order: list[int] = []
    shared = whole.operation[whole.users[products[0].buffers[2]][0]].buffers[1]
    for number in (0, 3, 4, 1, 2, 5):  # 3 * row + column
        result, right, left = products[number].buffers
        moves = [whole.users[copy][0] for copy in (left, right)]
        for move in moves if shared == whole.operation[moves[0]].buffers[1] else moves[::-1]:
            shared = whole.operation[move].buffers[1]
            order += [node for node in (whole.users[shared][0], move) if node not in order]
        order += [products[number].id, whole.users[result][1]]
    found = fixed_order.least_traffic(narrow, order)
    verdict = judge_tiles(narrow, found.answer, Rules(problem=2))
    assert verdict.valid and verdict.traffic == volume(narrow) == 256


def test_volume_needs_two_tiles_a_product_and_two_sides() -> None:
    assert volume(flash_attention(4, 4)) == 0
    assert volume(CHAIN) == 0


def test_tiles_that_products_use() -> None:
    """What any products of a window use is at least what the lengths of the pieces say, whatever their slices."""
    rng = random.Random(0)
    for _ in range(300):
        rows, columns, depth = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 5)
        found = _products(matmul(rows, columns, depth), Place.L1, Place.L0C)
        assert found is not None and found.side == min(rows, columns) and found.lengths == {depth: rows * columns}
        uses = _Uses(found, 100)
        tiles, lengths = set(), []
        for row in range(rows):
            for column in range(columns):
                slices = rng.sample(range(depth), rng.randint(0, depth))
                lengths.append(len(slices))
                tiles |= {(place, k) for k in slices for place in (("row", row), ("column", column))}
        least = sum(float(uses.tiles(sum(one > k for one in lengths))) for k in range(depth))
        assert len(tiles) >= least - 1e-9


@pytest.mark.parametrize("others", range(4))
def test_credits_hold_in_every_window(others: int) -> None:
    """Windows drawn at random, with runs of all lengths and tails and heads that differ: none beats the vertices."""
    rng = random.Random(others)
    credited = 0
    for _ in range(12):
        depth, number = rng.choice((1, 2, 3, 5, 8)), rng.choice((32, 144))
        found = _Products(
            lengths={depth: number, rng.randint(1, depth): number},
            price=rng.choice((32, 256, 5000)),
            others=others,
            room=128 * rng.choice((1, 2, 4, 8)),
            tile=128,
            first=128 * 3 * number,
            same=rng.choice((1, 1, 2)),
            side=rng.choice((1, 4, 8)),
        )
        uses = _Uses(found, (2 * number + 2) * depth * depth)
        threshold = rng.randint(others + 1, number) * depth * depth
        cases = _Cases(found, uses, threshold, heads=True)
        if cases.loads.min() < 0:
            continue
        credits = _lawful(cases, _chosen_credits(found, cases))
        credited += credits.max() > 0
        for _ in range(100):
            broken = [rng.randint(2, depth) for _ in range(rng.randint(0, others))] if depth > 1 else []
            tails = [(length, rng.randint(1, length - 1)) for length in broken]
            heads = [rng.randint(0, depth - 1) for _ in range(rng.randint(0, others))]
            squares = threshold + rng.randint(0, depth * depth - 1) - sum(length**2 for length in broken)
            shares = [rng.random() ** 4 for _ in range(depth)]
            runs = [(length, share / sum(shares) * squares / length**2) for length, share in enumerate(shares, start=1)]
            pieces = [*runs, *((tail, 1.0) for _, tail in tails), *((head, 1.0) for head in heads)]
            tiles = sum(
                float(uses.tiles(sum(count for length, count in pieces if length >= k))) for k in range(1, depth + 1)
            )
            given = sum(count * credits[length] for length, count in runs)
            given += sum(tail * credits[length] / length for length, tail in tails)
            given += sum(heads) * credits[depth] / depth
            assert given <= 128 * tiles - found.room
    assert credited


@pytest.mark.parametrize("block", range(5))
def test_time_is_never_below(block: int) -> None:
    met = 0
    for seed in range(20 * block, 20 * block + 20):
        rng = random.Random(seed)
        places = MEMORIES[seed % len(MEMORIES)]
        for task in (
            tangled(seed, rng.randint(3, 5), rng.randint(2, 4), places, cycles=100),
            grid(seed, 3),
            random_task(seed, operations=4, largest=2, capacity=2 + seed % 2, cycles=200),
        ):
            traffic = least_traffic(task)
            if traffic is not None:
                limit = traffic if seed % 2 else None
                least = least_time(task, limit)
                found = time_bounds(task, limit, traffic)
                assert least is not None and max(found.values()) <= least, (seed, found)
                met += max(found.values()) == least
    assert met


@pytest.mark.parametrize(("shape", "residency"), [((8, 8, 8), 9_216), ((4, 4, 2), 5 * 2 * 128), ((3, 6, 1), 4 * 128)])
def test_products_of_tiles(shape: tuple[int, int, int], residency: int) -> None:
    """All of the shorter side and one of the longer: the first row that ends leaves every column begun."""
    assert first_end_bound(Lives(matmul(*shape)), time.monotonic() + 5) == residency


def test_values_of_larger_tasks() -> None:
    assert windows(matmul(8, 8, 8)) == 4_608
    assert first_end_bound(Lives(flash_attention(4, 4)), time.monotonic() + 5) >= 2_304
    assert max(time_bounds(flash_attention(4, 4)).values()) >= 28_284


@pytest.mark.parametrize("block", range(3))
def test_parts_are_never_above(block: int) -> None:
    """Parts smaller than the task, so that sums over parts are at work, and buffers that two parts share."""
    proven = several = 0
    for seed in range(8 * block, 8 * block + 8):
        for task in (tangled(seed, 7, 4, ("L1", "L1 UB")[seed % 2]), grid(seed, 7, tight=True)):
            least = least_traffic(task)
            if least is not None:
                for sizes in ((3, 5), (8,)):
                    found = sum(parts_bound(task, place, time.monotonic() + 5, sizes) for place in COUNTED)
                    assert found <= least, (seed, sizes)
                    proven += found > 0
                    several += found > 0 and sizes == (3, 5)
    assert proven > several > 0


def published(name: str) -> TileTask:
    path = DATA / f"{name}.json"
    if not path.exists():
        pytest.skip("the published tasks are not part of the repository")
    return read_tile_task(path)


def test_published_convolutions() -> None:
    """There is an order of 6,912 units, which ends the search."""
    task = published("Conv_Case0")
    lives = Lives(task)
    assert cut_bound(lives, time.monotonic() + 20) == 5_376
    assert watched_bound(Lives(task, backwards=True), 6_500, time.monotonic() + 60, 6_912) == 6_912


def test_published_attention() -> None:
    task = published("FlashAttention_Case0")
    assert watched_groups_bound(Lives(task, backwards=True), 3_400, time.monotonic() + 60) == 3_456


def test_a_deadline_leaves_a_bound() -> None:
    lives = Lives(flash_attention(2, 2))
    assert cut_bound(lives, 0.0) == 384
    assert first_end_bound(lives, 0.0) == 0
    assert watched_bound(lives, 384, 0.0) == 384
    assert watched_groups_bound(lives, 384, 0.0) == 384
    assert parts_bound(flash_attention(2, 2), Place.L1, 0.0) == 0


def test_deficit() -> None:
    """Buffers of 3,000 and 2,000 units in L1 are live together; the cheaper one is moved, and has a copy outside."""
    assert traffic_bounds(CHAIN)["deficit"] == 2_000


def test_a_memory_without_buffers_needs_no_capacity() -> None:
    whole = grid(0, 9, tight=True)
    without = whole.model_copy(update={"capacity": {one: whole.capacity[one] for one in (Place.L1, Place.L0C)}})
    found = traffic_bounds(without)
    assert found == traffic_bounds(whole) and found["windows"]


def test_cover() -> None:
    assert least_cover(0, {(3, 5)}) == 0
    assert least_cover(7, {(3, 5), (4, 9)}) == 14
    assert least_cover(9, {(6, 4), (2, 2)}) == 8
