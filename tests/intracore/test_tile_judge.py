"""The judge of tile operations: figures worked out by hand, and every rule named where it is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.intracore import TileAnswer, TileTask
from opt.replay.intracore import MOST_FAULTS, Rules, judge_tiles
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, CHAIN_ORDER, TWICE, TWICE_ANSWER, answer, task

P1, P2 = Rules(problem=1), Rules(problem=2)


def test_figures_of_the_chain() -> None:
    """Buffer 0 is backed: its way out takes no time and its spill counts once.

    0: 0-100 (MTE2), 1: 100-150 (MTE1), 12 (out): 150-150 (MTE3), 10 waits for the cells 1000 to 3000: 150,
    2: 150-250 (MTE2), 3: 250-280 (VECTOR), 11 releases at 280, 13 (back, 2 * 3000 + 150 cycles) at 500 to 3500 shares
    cells with it: 280-6430 (MTE2), 4: 6430-6470 (VECTOR), 5: 6470-6540 (MTE3).
    """
    verdict = judge_tiles(CHAIN, CHAIN_ANSWER)
    assert verdict.faults == ()
    assert (verdict.residency, verdict.traffic, verdict.makespan) == (3000 + 600 + 2000, 3000, 6540)
    starts = {0: 0, 1: 100, 12: 150, 10: 150, 2: 150, 3: 250, 11: 280, 13: 280, 4: 6430, 5: 6470}
    assert {node: verdict.starts[node] for node in starts} == starts
    assert [verdict.objective(problem) for problem in (1, 2, 3)] == [5600, 3000, 6540]


def test_the_letter_of_the_statement_lets_buffers_overlap() -> None:
    """FREE before ALLOC alone: 2 starts at 100, behind node 0 on MTE2; 13 waits for its pipe and its way out, 200."""
    verdict = judge_tiles(CHAIN, CHAIN_ANSWER, Rules(reuse="literal"))
    assert verdict.valid
    assert (verdict.starts[10], verdict.starts[2], verdict.starts[3], verdict.starts[13]) == (0, 100, 200, 200)
    assert verdict.makespan == 200 + 6150 + 40 + 70


def test_figures_of_two_that_make_room_for_each_other() -> None:
    """Not backed: out and back take 2 * size + 150 each, and count twice.

    0: 0-10; 9 (0 out): 10-560 MTE3; 7 at 560; 1: 560-580; 11 (1 out): 580-2530 MTE3; 10 (0 back): 2530-3080 MTE2;
    2: 3080-3110; 13 (0 out): 3110-3660 MTE3; 12 (1 back at 100): 3660-5610 MTE2; 3: 5610-5650; 8 releases at 5650;
    14 (0 back at 824): 5650-6200 MTE2; 4: 6200-6250 MTE3.
    """
    verdict = judge_tiles(TWICE, TWICE_ANSWER)
    assert verdict.faults == ()
    assert (verdict.traffic, verdict.makespan) == (2 * (200 + 900 + 200), 6250)
    expected = {9: 10, 7: 560, 11: 580, 10: 2530, 13: 3110, 12: 3660, 14: 5650, 4: 6200}
    assert {node: verdict.starts[node] for node in expected} == expected


def test_time_by_free_and_alloc_is_alike_in_both_readings() -> None:
    """Two buffers after each other at one place; with places of their own the second does not wait."""
    two = task([("L0A", 200), ("L0A", 56)], [("MOVE", "MTE1", 10, [0]), ("MATMUL", "CUBE", 100, [0])] * 1, [(0, 1)])
    both = task(
        [("L0A", 100), ("L0A", 100)],
        [
            ("MOVE", "MTE1", 10, [0]),
            ("MATMUL", "CUBE", 100, [0]),
            ("MOVE", "MTE1", 10, [1]),
            ("MATMUL", "CUBE", 100, [1]),
        ],
        [(0, 1), (2, 3)],
    )
    order = (4, 0, 1, 5, 6, 2, 3, 7)
    for reuse in ("all", "literal"):
        rules = Rules(reuse=reuse)  # type: ignore[arg-type]
        assert judge_tiles(both, answer(order, {0: 0, 1: 0}), rules).makespan == 220
        assert judge_tiles(both, answer(order, {0: 0, 1: 99}), rules).makespan == 220  # one shared cell is enough
        assert judge_tiles(both, answer(order, {0: 0, 1: 100}), rules).makespan == 210
    apart = judge_tiles(two, answer((2, 0, 1, 3, 4, 5), {0: 0, 1: 200}))
    assert apart.valid and apart.makespan == 110


def test_pipes_run_in_the_order_given() -> None:
    """The longer operation first makes the other wait on its pipe."""
    free = task([], [("MUL", "VECTOR", 10, []), ("ADD", "VECTOR", 30, []), ("COPY_OUT", "MTE3", 25, [])], [(0, 2)])
    assert judge_tiles(free, answer((0, 1, 2))).makespan == 40
    assert judge_tiles(free, answer((1, 0, 2))).makespan == 65


def test_residency_adds_l1_and_ub_at_one_moment() -> None:
    """L0 is not counted, and an order alone has neither traffic nor time."""
    mixed = task(
        [("L1", 100), ("UB", 30), ("L0C", 500), ("L1", 60)],
        [("A", "CUBE", 1, [0, 2]), ("B", "CUBE", 1, [1, 2]), ("C", "CUBE", 1, [3])],
    )
    one_by_one = judge_tiles(mixed, answer((3, 7, 0, 4, 5, 1, 8, 6, 9, 2, 10)), P1)
    assert one_by_one.valid and (one_by_one.residency, one_by_one.makespan) == (100, 0)
    assert judge_tiles(mixed, answer((3, 7, 0, 5, 1, 8, 6, 9, 2, 10, 4)), P1).residency == 160
    assert judge_tiles(mixed, answer((3, 7, 0, 5, 1, 8, 9, 6, 2, 10, 4)), P1).residency == 190


def test_one_buffer_in_each_l0() -> None:
    """A rule of sub-problem 1; of 2 and 3 only where asked for."""
    two = task([("L0B", 10), ("L0B", 10)], [("MATMUL", "CUBE", 5, [0]), ("MATMUL", "CUBE", 5, [1])])
    beside = answer((2, 4, 0, 1, 3, 5), {0: 0, 1: 10})
    words = "node 4: L0B holds buffer 0, and 1 is claimed"
    assert judge_tiles(two, beside, P1).faults == (words,)
    assert judge_tiles(two, beside, P2).valid
    assert judge_tiles(two, beside, replace(P2, single_l0=True)).faults == (words,)
    assert judge_tiles(two, answer((2, 0, 3, 4, 1, 5)), P1).valid


def test_traffic_as_a_limit() -> None:
    """3000 units are allowed from a baseline of 2858 with 5 % on."""
    rules = Rules(problem=3, baseline_traffic=2858)
    assert judge_tiles(CHAIN, CHAIN_ANSWER, rules).valid
    less = judge_tiles(CHAIN, CHAIN_ANSWER, replace(rules, slack=0.0))
    assert less.faults == ("extra traffic is 3000, 142 above the 2858 that are allowed",)
    assert judge_tiles(CHAIN, CHAIN_ANSWER, replace(rules, problem=2, slack=0.0)).valid


def moved(order: tuple[int, ...], node: int, place: int) -> tuple[int, ...]:
    """The order with a node somewhere else."""
    left = [one for one in order if one != node]
    return (*left[:place], node, *left[place:])


def _with(order: tuple[int, ...] = CHAIN_ORDER, **change: object) -> TileAnswer:
    return CHAIN_ANSWER.model_copy(update={"order": order, **change})


SPILLS = CHAIN_ANSWER.spills

BROKEN: dict[str, tuple[TileTask, TileAnswer, str]] = {
    "dropped": (CHAIN, _with(CHAIN_ORDER[:-1]), "node 9 is not in the schedule"),
    "doubled": (CHAIN, _with((*CHAIN_ORDER, 5)), "node 5 is in the schedule 2 times"),
    "beyond the end": (CHAIN, _with((*CHAIN_ORDER, 14)), "node 14 is in the schedule, but nodes end at 13"),
    "backwards": (CHAIN, _with(moved(CHAIN_ORDER, 1, 1)), "node 1 stands before node 0, which an edge puts first"),
    "after FREE": (CHAIN, _with(moved(CHAIN_ORDER, 9, 12)), "node 5 uses buffer 1 outside its ALLOC and FREE"),
    "FREE before ALLOC": (CHAIN, _with(moved(CHAIN_ORDER, 9, 0)), "buffer 1 is released by node 9 before node 8"),
    "no offset": (CHAIN, _with(offsets={0: 0, 2: 1000}), "node 8: buffer 1 has no offset"),
    "negative": (CHAIN, _with(offsets={0: 0, 1: -3, 2: 1000}), "node 8: buffer 1 starts 3 units before UB"),
    "past the end": (CHAIN, _with(offsets={0: 0, 1: 500, 2: 1000}), "node 8: buffer 1 ends 76 units beyond UB"),
    "back past the end": (
        CHAIN,
        _with(spills=(SPILLS[0].model_copy(update={"offset": 1097}),)),
        "node 13: buffer 0 ends 1 units beyond L1",
    ),
    "overlap": (
        CHAIN,
        answer((6, 0, 8, 1, 10, 2, 3, 11, 4, 7, 5, 9), {0: 0, 1: 0, 2: 1000}),
        "node 10: buffers 0 and 2 share 2000 units of L1",
    ),
    "used while out": (
        CHAIN,
        _with(moved(CHAIN_ORDER, 13, 10)),
        "node 4 uses buffer 0, which is in main memory",
    ),
    "out twice": (
        CHAIN,
        _with((6, 0, 8, 1, 12, 14, 10, 2, 3, 11, 13, 15, 4, 7, 5, 9), spills=SPILLS * 2),
        "node 14 moves buffer 0 out, which is in main memory already",
    ),
    "FREE while out": (
        CHAIN,
        _with((6, 0, 8, 1, 10, 2, 3, 11, 4, 12, 7, 5, 13, 9)),
        "node 7 releases buffer 0, which is in main memory",
    ),
    "back after FREE": (
        CHAIN,
        _with((6, 0, 8, 1, 10, 2, 3, 11, 4, 12, 7, 13, 5, 9)),
        "node 13 moves buffer 0 outside its ALLOC and FREE",
    ),
    "out before ALLOC": (CHAIN, _with(moved(CHAIN_ORDER, 12, 0)), "node 12 moves buffer 0 outside its ALLOC"),
    "back before out": (CHAIN, _with(moved(CHAIN_ORDER, 13, 4)), "node 13 brings buffer 0 back, which is not in"),
    "back of another spill": (
        TWICE,
        answer(
            tuple({10: 14, 14: 10}.get(n, n) for n in TWICE_ANSWER.order), {0: 0, 1: 0}, [(0, 824), (1, 100), (0, 0)]
        ),
        "node 14 brings buffer 0 back, which node 9 of another spill moved out",
    ),
    "spill of nothing": (
        CHAIN,
        _with(spills=(SPILLS[0].model_copy(update={"buffer": 7}),)),
        "spill 0 names buffer 7, which the task does not have",
    ),
    "offset of nothing": (CHAIN, _with(offsets={9: 0}), "an offset is given for buffer 9, which the task does not"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_named(name: str) -> None:
    asked, given_answer, words = BROKEN[name]
    faults = judge_tiles(asked, given_answer).faults
    assert any(words in fault for fault in faults), faults


def test_an_order_alone_has_no_spills() -> None:
    assert "sub-problem 1 has no spills; leave them out" in judge_tiles(CHAIN, CHAIN_ANSWER, P1).faults


def test_faults_are_listed_up_to_a_number() -> None:
    many = task([], [("ADD", "VECTOR", 1, [])] * 300, [(n, n + 1) for n in range(299)])
    assert len(judge_tiles(many, answer(range(299, -1, -1))).faults) == MOST_FAULTS


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_given_is_judged(data: st.DataObject) -> None:
    """Any order of any nodes with any offsets gets a verdict; a valid one has a time for each node."""
    nodes = data.draw(st.permutations(range(TWICE.count + 6)))
    cut = data.draw(st.integers(0, 3))
    extra = data.draw(st.lists(st.integers(0, 40), max_size=2))
    offsets = data.draw(st.dictionaries(st.integers(0, 2), st.integers(-2, 1100), max_size=3))
    spills = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 1100)), min_size=3, max_size=3))
    verdict = judge_tiles(TWICE, answer([*nodes[: len(nodes) - cut], *extra], offsets, spills))
    assert verdict.faults == () or not verdict.valid
    if verdict.valid:
        assert len(verdict.starts) == TWICE.count + 6
