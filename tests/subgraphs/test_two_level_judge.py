"""The judge: the statement's worked examples to the digit, and every rule named where it is broken."""

from __future__ import annotations

import pytest

from instances.subgraphs import SubgraphProblem, SubgraphSolution
from opt.replay.subgraphs import Rules, judge_solution
from tests.subgraphs.contest import CHAINED, DIAMOND, FULL, PRODUCT, TWO, TWO_LARGE, Row, problem, steps

EXAMPLES: dict[str, tuple[SubgraphProblem, SubgraphSolution, float]] = {
    "1A": (TWO, steps(((0,), FULL, (), None), ((1,), FULL, (), None)), 6553.6),
    "1B": (TWO, steps(((0, 1), FULL, (), None)), 3276.8),
    "1C": (TWO, steps(((0, 1), (64, 64, 1), (), None)), 4400),
    "2A": (TWO_LARGE, steps(((0,), FULL, (), None), ((1,), FULL, (), None)), 26214.4),
    "2B": (TWO_LARGE, steps(((0, 1), FULL, (), None)), 13107.2),
    "3A": (DIAMOND, steps(((0,), FULL, (), None), ((1,), FULL, (), None), ((2,), FULL, (), None)), 11468.8),
    "3B": (DIAMOND, steps(((0, 1), FULL, (2,), None), ((0, 2), FULL, (), None)), 6276.8),
    "3C": (DIAMOND, steps(((0,), FULL, (1,), None), ((1, 2), FULL, (), None)), 4638.4),
    "4A": (PRODUCT, steps(((0,), (64, 64, 128), (), None)), 7096),
    "4B": (PRODUCT, steps(((0,), (64, 64, 128), (), (0, 1, 3, 2))), 6548),
    "5B": (CHAINED, steps(((0, 1), (128, 128, 32), (), None)), 6915.2),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name: str) -> None:
    asked, solution, latency = EXAMPLES[name]
    verdict = judge_solution(asked, solution)
    assert verdict.faults == ()
    assert verdict.latency == pytest.approx(latency, abs=1e-6)


def test_working_set_of_example_5() -> None:
    assert judge_solution(CHAINED, EXAMPLES["5B"][1]).steps[0].working_set == 40960
    whole = judge_solution(CHAINED, steps(((0, 1), (128, 128, 128), (), None)))
    assert whole.faults == ("step 0: R8: needs 65536 elements of fast memory, 20536 too many",)


BROKEN: dict[str, tuple[SubgraphProblem, list[Row], str]] = {
    "not available": (DIAMOND, [((0, 1), FULL, (), None), ((2,), FULL, (), None)], "R2: tensor 1 is neither"),
    "not all run": (TWO, [((0,), FULL, (), None)], "R1: operator 1 is executed in no step"),
    "twice in a step": (TWO, [((0, 0, 1), FULL, (), None)], "R1: an operator occurs twice"),
    "no operators": (TWO, [((), FULL, (), None)], "R1: a step without operators"),
    "unknown operator": (TWO, [((7,), FULL, (), None)], "R1: operator 7 does not exist"),
    "wrong order": (TWO, [((1, 0), FULL, (), None)], "R2: operator 1 is listed before"),
    "super-native": (TWO, [((0, 1), (256, 128, 1), (), None)], "R5: tile 256 x 128 exceeds"),
    "deeper than the product": (PRODUCT, [((0,), (64, 64, 129), (), None)], "R5: depth 129 exceeds"),
    "below one": (TWO, [((0, 1), (0, 128, 1), (), None)], "R5: granularity"),
    "retains an input": (TWO, [((0, 1), FULL, (0,), None)], "R9: tensor 0 is retained, but not made"),
    "result retained at the end": (TWO, [((0, 1), FULL, (2,), None)], "R9: tensor 2 is a result"),
    "no permutation": (PRODUCT, [((0,), (64, 64, 128), (), (0, 1, 2, 2))], "R4: the traversal"),
    "kept for two steps": (
        DIAMOND,
        [((0,), FULL, (1,), None), ((1,), FULL, (), None), ((2,), FULL, (), None)],
        "R2: tensor 1 is neither",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_named(name: str) -> None:
    asked, rows, words = BROKEN[name]
    faults = judge_solution(asked, steps(*rows)).faults
    assert any(words in fault for fault in faults), faults


def test_operators_must_hang_together() -> None:
    apart = problem([(128, 128)] * 4, [[0], [1]], [2, 3], [1, 1], "PP", 10**6)
    assert "R3" in judge_solution(apart, steps(((0, 1), FULL, (), None))).faults[0]
    sharing = problem([(128, 128)] * 3, [[0], [0]], [1, 2], [1, 1], "PP", 10**6)
    assert judge_solution(sharing, steps(((0, 1), FULL, (), None))).valid
    strict = judge_solution(sharing, steps(((0, 1), FULL, (), None)), Rules(shared_input=False))
    assert "R3" in strict.faults[0]


def test_results_of_a_step_have_one_shape() -> None:
    uneven = problem([(128, 128), (64, 128), (128, 128), (64, 128)], [[0], [0, 1]], [2, 3], [1, 1], "PM", 10**6)
    assert "R4" in judge_solution(uneven, steps(((0, 1), (64, 64, 64), (), None))).faults[0]


def test_prologue_of_a_split_product() -> None:
    """Elementwise before a split product needs tiles as wide as the depth."""
    fed = problem([(128, 128), (128, 128), (128, 128), (128, 128)], [[0], [1, 2]], [1, 3], [10, 10], "PM", 10**6)
    assert judge_solution(fed, steps(((0, 1), (128, 128, 64), (), None))).valid
    assert "R6" in judge_solution(fed, steps(((0, 1), (64, 128, 64), (), None))).faults[0]


def test_open_rules_change_the_verdict() -> None:
    deep = problem([(256, 128), (128, 256), (128, 128)], [[0, 1]], [2], [10], "M", 10**6)
    row: Row = ((0,), (128, 128, 256), (), None)
    assert "R5" in judge_solution(deep, steps(row)).faults[0]
    assert judge_solution(deep, steps(row), Rules(k_cap="none")).valid
    tight = problem([(256, 128), (128, 256), (128, 128), (128, 128)], [[0, 1], [2]], [2, 3], [10, 10], "MP", 65000)
    epilogue: Row = ((0, 1), (128, 128, 128), (), None)
    assert "R8" in judge_solution(tight, steps(epilogue)).faults[0]
    assert judge_solution(tight, steps(epilogue), Rules(acc="overlap")).valid


def test_who_pays_for_an_inner_operator() -> None:
    """A wide product before a narrow one: one tile of the grid, or four of its own."""
    wide = problem(
        [(128, 128), (512, 128), (128, 512), (512, 128), (128, 128)], [[0, 1], [3, 2]], [3, 4], [1e6, 1], "MM", 10**6
    )
    row: Row = ((0, 1), (128, 128, 128), (), None)
    grid = judge_solution(wide, steps(row)).latency
    own = judge_solution(wide, steps(row), Rules(inner="own")).latency
    assert own == pytest.approx(4 * grid, rel=1e-3)


def test_when_an_epilogue_is_charged() -> None:
    tail = problem([(256, 128), (128, 256), (128, 128), (128, 128)], [[0, 1], [2]], [2, 3], [10, 9000], "MP", 10**6)
    row: Row = ((0, 1), (128, 128, 128), (), None)
    last = judge_solution(tail, steps(row)).latency
    first = judge_solution(tail, steps(row), Rules(pw="first")).latency
    spread = judge_solution(tail, steps(row), Rules(pw="spread")).latency
    # 3276.8 of loads in each of two steps, 1638.4 of results in the last: 9005 hides one of them
    assert last == pytest.approx(3276.8 + 9005)
    assert first == pytest.approx(9005 + 3276.8 + 1638.4)
    assert spread == pytest.approx(4505 + 3276.8 + 1638.4)


def test_carrying_a_tensor_on() -> None:
    rows: list[Row] = [((0,), FULL, (1,), None), ((1,), FULL, (1, 2), None), ((2,), FULL, (), None)]
    assert any("R9" in fault for fault in judge_solution(DIAMOND, steps(*rows)).faults)
    assert judge_solution(DIAMOND, steps(*rows), Rules(carry=True)).valid
