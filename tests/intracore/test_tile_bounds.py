"""Bounds of tile tasks: never above what trying everything finds, and what they come to on known tasks."""

from __future__ import annotations

import random

import pytest

from formulations.intracore.bounds import residency_bounds, time_bounds, traffic_bounds
from formulations.intracore.residency import Lives, cut_bound, first_end_bound
from formulations.intracore.traffic import least_cover
from instances.intracore import Place, TileTask
from instances.intracore_samples import flash_attention, matmul, random_task
from tests.intracore.brute import least_residency, least_time, least_traffic
from tests.intracore.handmade import CHAIN
from tests.intracore.tangled import grid, tangled

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
    for seed in range(40 * block, 40 * block + 40):
        for task in drawn(seed, 8):
            least = least_residency(task)
            if least is not None:
                found = residency_bounds(task)
                assert max(found.values()) <= least, (seed, found)
                above_operation += max(found["cut"], found["ends"]) > found["operation"]
    assert above_operation  # the arguments that look at more than one operation are at work


@pytest.mark.parametrize("block", range(5))
def test_traffic_is_never_below(block: int) -> None:
    proven = 0
    for seed in range(30 * block, 30 * block + 30):
        for task in (*drawn(seed, 6), grid(seed, 9, tight=True)):
            least = least_traffic(task)
            if least is not None:
                found = traffic_bounds(task)
                assert max(found.values()) <= least, (seed, found)
                proven += max(found.values()) > 0
    assert proven


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
    assert residency_bounds(matmul(*shape))["ends"] == residency


def test_values_of_larger_tasks() -> None:
    assert traffic_bounds(matmul(8, 8, 8))["windows"] >= 4_096
    assert residency_bounds(flash_attention(4, 4))["ends"] >= 2_304
    assert max(time_bounds(flash_attention(4, 4)).values()) >= 28_284


def test_a_deadline_leaves_a_bound() -> None:
    lives = Lives(flash_attention(2, 2))
    assert cut_bound(lives, 0.0) == 384
    assert first_end_bound(lives, 0.0) == 0


def test_deficit() -> None:
    """Buffers of 3,000 and 2,000 units in L1 are live together; the cheaper one is moved, and has a copy outside."""
    assert traffic_bounds(CHAIN)["deficit"] == 2_000 == least_traffic_of_chain()


def least_traffic_of_chain() -> int:
    return min(3_000, 2_000)


def test_cover() -> None:
    assert least_cover(0, {(3, 5)}) == 0
    assert least_cover(7, {(3, 5), (4, 9)}) == 14
    assert least_cover(9, {(6, 4), (2, 2)}) == 8
