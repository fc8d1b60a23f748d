"""Spills and offsets for a fixed order: as little traffic as trying everything finds, and the judge agrees."""

from __future__ import annotations

import random

import pytest

from formulations.intracore import fixed_order
from formulations.intracore.fixed_order import least_traffic
from instances.errors import InfeasibleError
from instances.intracore import TileTask
from instances.intracore_samples import convolutions, flash_attention, matmul, random_task
from opt.replay.intracore import Rules, judge_tiles
from tests.intracore import brute
from tests.intracore.handmade import TWICE, task
from tests.intracore.tangled import grid, tangled, with_capacity

MEMORIES = ("L1 UB", "L1 L0C", "L1 UB L0A L0C", "L1 L0A L0B", "UB L0C")


def drawn(seed: int) -> list[TileTask]:
    rng = random.Random(seed)
    return [
        tangled(seed, rng.randint(5, 8), rng.randint(4, 6), MEMORIES[seed % len(MEMORIES)]),
        grid(seed, 8),
        random_task(seed, operations=7, largest=3, capacity=4),
    ]


def in_a_row(one: TileTask) -> TileTask:
    """The task with edges that leave its own order alone."""
    edges = set(one.edges) | set(zip(one.order, one.order[1:], strict=False))
    return TileTask(
        name=one.name,
        operations=one.operations,
        buffers=one.buffers,
        edges=tuple(sorted(edges)),
        capacity=one.capacity,
    )


@pytest.mark.parametrize("block", range(4))
def test_as_little_as_trying_everything(block: int) -> None:
    spilled = 0
    for seed in range(20 * block, 20 * block + 20):
        for one in drawn(seed):
            least = brute.least_traffic(in_a_row(one))
            if least is None:
                with pytest.raises(InfeasibleError):
                    least_traffic(one, one.order)
                continue
            found = least_traffic(one, one.order)
            assert found.optimal and found.traffic == least, seed
            verdict = judge_tiles(one, found.answer, Rules(problem=2))
            assert verdict.valid and verdict.traffic == least
            assert [node for node in found.answer.order if node in one.operation] == list(one.order)
            spilled += least > 0
    assert spilled


@pytest.mark.parametrize(
    "one", [matmul(4, 4, 4), flash_attention(3, 3), convolutions(2, 2), with_capacity(matmul(3, 3, 3), L1=256)]
)
def test_larger_tasks(one: TileTask) -> None:
    capacity = {place: max(units, 512) for place, units in one.capacity.items()}
    one = one.model_copy(update={"capacity": capacity})
    found = least_traffic(one, one.order, time_limit_s=5)
    verdict = judge_tiles(one, found.answer, Rules(problem=2))
    assert verdict.valid, verdict.faults[:3]
    assert verdict.traffic == found.traffic >= found.bound


def test_without_time_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search for addresses ends with nothing, buffers whose use is farthest away are moved out."""
    monkeypatch.setattr(fixed_order, "_pack", lambda *_: (None, 0))
    greedy = fixed_order._greedy
    monkeypatch.setattr(fixed_order, "_greedy", lambda *given: greedy(*given) if given[2] else None)
    for seed in range(60):
        for one in (tangled(seed, 8, 6), random_task(seed, operations=7, largest=3, capacity=4)):
            try:
                found = least_traffic(one, one.order)
            except InfeasibleError:
                continue
            verdict = judge_tiles(one, found.answer, Rules(problem=2))
            assert verdict.valid and verdict.traffic == found.traffic >= found.bound


def test_one_live_buffer_at_a_time() -> None:
    rows = [("ADD", "VECTOR", 1, [0]), ("ADD", "VECTOR", 1, [1]), ("ADD", "VECTOR", 1, [0])]
    both = task([("L0A", 1), ("L0A", 1)], rows)
    assert least_traffic(both, (0, 2, 1), single_l0=True).traffic == 0
    with pytest.raises(InfeasibleError, match="buffers 0 and 1 of L0A are live together; change the order"):
        least_traffic(both, (0, 1, 2), single_l0=True)
    assert least_traffic(both, (0, 1, 2)).traffic == 0


def test_what_is_no_order() -> None:
    with pytest.raises(ValueError, match="does not hold every operation once"):
        least_traffic(TWICE, (0, 1, 2, 3))
    with pytest.raises(ValueError, match="node 2 stands before node 0, which it waits for"):
        least_traffic(TWICE, (2, 0, 1, 3, 4))
