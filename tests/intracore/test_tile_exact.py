"""The exact solver of small tile tasks against trying everything; each answer goes through the judge."""

from __future__ import annotations

import random

import pytest
from ortools.sat.python import cp_model

from formulations.intracore.decisions import decisions_of
from formulations.intracore.model import TileModel
from formulations.intracore.reading import hint, values_of
from instances.errors import InfeasibleError
from instances.intracore import Spill, TileAnswer, TileTask
from instances.intracore_samples import matmul, random_task
from opt.replay.intracore import Rules, judge_tiles
from solvers.intracore.exact import solve_exact, value_of
from tests.intracore.brute import least_residency, least_time, least_traffic
from tests.intracore.handmade import CHAIN, CHAIN_ORDER, TWICE, TWICE_ANSWER, answer, task
from tests.intracore.tangled import grid, tangled, with_capacity

MEMORIES = ("L1 UB", "L1 L0C", "L1 UB L0A L0C", "L1 L0A L0B", "UB L0C")


def drawn(seed: int) -> list[TileTask]:
    """Tasks of up to five operations."""
    rng = random.Random(seed)
    return [
        tangled(seed, rng.randint(3, 5), rng.randint(2, 4), MEMORIES[seed % len(MEMORIES)], cycles=100),
        grid(seed, 4),
        random_task(seed, operations=4, largest=2, capacity=2 + seed % 2, cycles=200),
    ]


def check(one: TileTask, problem: int, least: int | None, most_traffic: int | None = None, **forms: str) -> None:
    """The least value is found and proven, the judge agrees, and the answer is a complete hint of the model."""
    if least is None:
        with pytest.raises(InfeasibleError):
            solve_exact(one, problem, most_traffic=most_traffic, **forms)  # type: ignore[arg-type]
        return
    found = solve_exact(one, problem, most_traffic=most_traffic, **forms)  # type: ignore[arg-type]
    assert found.optimal and found.objective == least
    assert found.answer is not None
    verdict = judge_tiles(one, found.answer, Rules(problem=problem))  # type: ignore[arg-type]
    assert verdict.valid, verdict.faults
    assert verdict.objective(problem) == least == value_of(one, found.answer, problem)  # type: ignore[arg-type]
    model = TileModel(one, problem, most_traffic=most_traffic)  # type: ignore[arg-type]
    values = values_of(model, decisions_of(one, found.answer))
    assert values is not None and set(values) == set(range(len(model.model.proto.variables)))


@pytest.mark.parametrize("block", range(4))
def test_residency(block: int) -> None:
    for seed in range(12 * block, 12 * block + 12):
        for one in drawn(seed):
            check(one, 1, least_residency(one))


@pytest.mark.parametrize("block", range(4))
def test_traffic(block: int) -> None:
    for seed in range(12 * block, 12 * block + 12):
        for one in drawn(seed):
            check(one, 2, least_traffic(one))


@pytest.mark.parametrize("block", range(4))
def test_time(block: int) -> None:
    for seed in range(8 * block, 8 * block + 8):
        for one in drawn(seed):
            traffic = least_traffic(one)
            limit = traffic if seed % 2 else None
            check(one, 3, None if traffic is None else least_time(one, limit), limit)


@pytest.mark.parametrize("form", ["pairs", "slots", "different"])
def test_other_forms(form: str) -> None:
    which = "order_form" if form == "different" else "memory_form"
    for seed in range(100, 106):
        for one in drawn(seed):
            check(one, 2, least_traffic(one), **{which: form})


CHAIN_HINT = answer(CHAIN_ORDER, {0: 0, 1: 0, 2: 1000}, [(0, 1000)])
TWICE_HINT = TWICE_ANSWER.model_copy(update={"spills": (*TWICE_ANSWER.spills[:2], Spill(buffer=0, offset=800))})
"""With offsets that are multiples of what all sizes are multiples of, as the model's are."""


@pytest.mark.parametrize(("one", "given"), [(CHAIN, CHAIN_HINT), (TWICE, TWICE_HINT)])
@pytest.mark.parametrize("problem", [2, 3])
def test_a_hint_is_complete_and_feasible(one: TileTask, given: TileAnswer, problem: int) -> None:
    """With every variable fixed to its hint, the model has a solution."""
    model = TileModel(one, problem)  # type: ignore[arg-type]
    assert judge_tiles(one, given).valid
    assert hint(model, given)
    solver = cp_model.CpSolver()
    solver.parameters.fix_variables_to_their_hinted_value = True
    solver.parameters.num_workers = 1
    assert solver.solve(model.model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    better = solve_exact(one, problem, hint=given)  # type: ignore[arg-type]
    assert better.objective is not None and better.objective <= value_of(one, given, problem)  # type: ignore[arg-type]


def test_a_hint_that_does_not_fit_is_left_out() -> None:
    assert not hint(TileModel(TWICE, 2, most_traffic=100), TWICE_HINT)
    assert not hint(TileModel(TWICE, 2, most_spills=0), TWICE_HINT)
    assert not hint(TileModel(TWICE, 2), TWICE_ANSWER)  # an offset of 824 units where all sizes are hundreds


def test_no_answer() -> None:
    wide = with_capacity(task([("L1", 2), ("L1", 3)], [("ADD", "VECTOR", 1, [0, 1])]), L1=4)
    for problem in (2, 3):
        with pytest.raises(InfeasibleError, match="node 0 needs 5 units of L1, which has 4"):
            solve_exact(wide, problem)  # type: ignore[arg-type]
    double = task([("L0A", 1), ("L0A", 1)], [("ADD", "VECTOR", 1, [0, 1])])
    with pytest.raises(InfeasibleError):
        solve_exact(double, 1)
    with pytest.raises(InfeasibleError):
        solve_exact(CHAIN, 3, most_traffic=100)


def test_a_small_product() -> None:
    """Two by two tiles: of the four, two at a time are enough, and nothing is moved."""
    product = matmul(2, 2, 1)
    assert solve_exact(product, 1, time_limit_s=20).objective == 2 * 128
    assert solve_exact(product, 2, time_limit_s=20).objective == 0


def test_it_stops_when_told() -> None:
    found = solve_exact(matmul(3, 3, 2), 3, time_limit_s=60, should_stop=lambda: True)
    assert found.runtime_s < 10
