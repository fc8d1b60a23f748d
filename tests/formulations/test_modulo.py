"""Modulo scheduling: the least interval of small loops is what trying everything finds, and bounds stay below it."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.cycle_ratio import ArcList
from formulations.modulo_facts import even_slots, least_interval, objection
from instances.pipelines.loop import LoopKernel
from solvers.pipelining.search import schedule_loop
from tests.pipelining import least_by_trying, loop_of, small_loops

ARCS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-3, 9), st.integers(1, 3)), min_size=1, max_size=8
)


def ratio_by_trying(arcs: list[tuple[int, int, int, int]]) -> int:
    """The largest ratio of latency to distance over all simple cycles, rounded up; 1 at least."""
    best = 1
    for length in range(1, 5):
        for nodes in permutations(range(4), length):
            ends = list(zip(nodes, (*nodes[1:], nodes[0]), strict=True))
            ways: list[tuple[int, int]] = [(0, 0)]
            for source, target in ends:
                ways = [
                    (total + latency, turns + distance)
                    for total, turns in ways
                    for s, t, latency, distance in arcs
                    if (s, t) == (source, target)
                ]
            best = max([best, *(-(-total // turns) for total, turns in ways)])
    return best


@given(ARCS)
def test_the_least_interval_of_fixed_orders_is_the_largest_cycle_ratio(arcs: list[tuple[int, int, int, int]]) -> None:
    found = ArcList(4, arcs).least(1)
    assert found is not None
    assert found.ii_ps == ratio_by_trying(arcs)
    assert all(
        found.start_ps[t] + found.ii_ps * distance >= found.start_ps[s] + latency for s, t, latency, distance in arcs
    )


def test_a_cycle_within_an_iteration_allows_no_interval() -> None:
    assert ArcList(2, [(0, 1, 1, 0), (1, 0, 0, 0)]).least(1) is None


@settings(max_examples=150, deadline=None)
@given(small_loops())
def test_least_interval(loop: LoopKernel) -> None:
    """The schedule is legal, its interval is the least of all, and it is proven so."""
    least = least_by_trying(loop)
    schedule = schedule_loop(loop, 1.0)
    assert (schedule is None) == (least is None)
    if schedule is None:
        return
    bound = least_interval(loop)
    assert bound is not None and bound.ps <= least  # type: ignore[operator]
    assert objection(loop, schedule) == ""
    assert schedule.ii_ps == schedule.bound_ps == least


def test_slots_buy_overlap() -> None:
    """With one slot a load waits until the last tile was computed on; with two, pipes run side by side."""
    ops, waits, ring = [("in", 4), ("work", 5)], [(0, 1, 4, 0)], [(0, 1, 3)]
    tight, roomy = schedule_loop(loop_of(ops, waits, ring, room=3)), schedule_loop(loop_of(ops, waits, ring, room=6))
    assert tight is not None and roomy is not None
    assert (tight.ii_ps, roomy.ii_ps) == (9, 5)
    assert "cycle of" in tight.bound_by and roomy.bound_by == "work is busy all the time"
    assert roomy.slots == {"ring0@ub": 2}


def test_a_loop_gone_through_once_is_as_short_as_can_be() -> None:
    """No iteration follows: what counts is its length, and waits around the loop are none."""
    loop = loop_of([("in", 2), ("in", 3), ("work", 4)], [(0, 2, 2, 0)], cyclic=False)
    schedule = schedule_loop(loop)
    assert schedule is not None
    assert schedule.span_ps(loop) == schedule.bound_ps == 6
    assert schedule.stages(loop) == 1 and schedule.prologue_ps(loop) == 0


def test_slots_are_shared_out_evenly() -> None:
    ops = [("in", 1), ("work", 1)]
    loop = loop_of(ops, [(0, 1, 1, 0)], [(0, 1, 1), (0, 1, 2)], room=6)
    assert even_slots(loop) == {"ring0@ub": 2, "ring1@ub": 2}


def test_objections_name_what_is_wrong() -> None:
    ops, waits, ring = [("in", 4), ("work", 5)], [(0, 1, 4, 0)], [(0, 1, 3)]
    loop = loop_of(ops, waits, ring)
    schedule = schedule_loop(loop)
    assert schedule is not None
    changes = {
        "does not wait": {"start_ps": (0, 1)},
        "slots exceed ub": {"slots": {"ring0@ub": 3}},
        "other rings": {"slots": {}},
        "another loop": {"loop": "0" * 64},
        "held twice": {"ii_ps": 4, "start_ps": (0, 4)},
    }
    loop_without = loop_of(ops, waits)
    alone = schedule_loop(loop_without)
    assert alone is not None
    assert "held twice" in objection(loop_without, alone.model_copy(update=changes.pop("held twice")))
    for words, change in changes.items():
        assert words in objection(loop, schedule.model_copy(update=change))
