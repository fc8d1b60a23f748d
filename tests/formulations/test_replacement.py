"""Tensor replacement: three formulations and all plans of small problems come to one optimum; bounds hold."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_examples

from formulations.replacement.ahead import Ahead
from formulations.replacement.facts import Facts, members
from formulations.replacement.orders import greedy_order, least_peak
from formulations.replacement.plan import lyings, placed, traffic
from formulations.replacement.sets import Sets
from formulations.replacement.states import States
from formulations.replacement.time_indexed import TimeIndexed
from instances.networks import load_network
from instances.replacement import Part, Problem, Use, Whole
from opt.replacement import solve_replacement
from opt.replay.replacement import plan_faults
from solvers.replacement import POLICIES, run_policy
from solvers.replacement.cpsat import plan_by_intervals
from solvers.replacement.milp import solve_programme


def random_problem(seed: int, operators: int = 6, unit: int = 1) -> Problem:
    """A few operators that read a few of what is there, in a scratchpad with a little more than the least."""
    draw = random.Random(seed)
    tensors = [Whole(name="x", size_bytes=draw.randint(1, 9), part=Part.INPUT)]
    uses = []
    for i in range(operators):
        there = [t.name for t in tensors if t.part is not Part.WEIGHT]
        reads = draw.sample(there, min(len(there), draw.randint(1, 2)))
        if draw.random() < 0.4:
            tensors.append(Whole(name=f"w{i}", size_bytes=draw.randint(1, 5), part=Part.WEIGHT))
            reads.append(f"w{i}")
        part = Part.OUTPUT if i == operators - 1 or draw.random() < 0.15 else Part.INNER
        tensors.append(Whole(name=f"t{i}", size_bytes=draw.randint(1, 9), part=part))
        uses.append(Use(name=f"o{i}", reads=tuple(reads), writes=(f"t{i}",)))
    total = sum(t.size_bytes + unit for t in tensors)
    whole = Problem(name="random", capacity_bytes=total, unit_bytes=unit, tensors=tuple(tensors), operators=tuple(uses))
    return whole.within(whole.least_bytes + unit * draw.randint(0, 4))


def exhaustive(facts: Facts) -> int:
    """Least extra traffic of all orders and all choices of which gaps between uses a tensor stays for, by capacity."""
    best = None
    for order in itertools.permutations(range(facts.count)):
        step = {i: s for s, i in enumerate(order)}
        if any(step[j] > step[i] for i in range(facts.count) for j in members(facts.before[i])):
            continue
        gaps = []
        for t in members(facts.shared):
            users = set(members(facts.readers[t])) | ({facts.maker[t]} if facts.maker[t] >= 0 else set())
            steps = sorted(step[i] for i in users)
            gaps += [(t, a, b) for a, b in itertools.pairwise(steps)]
        for stays in itertools.product((True, False), repeat=len(gaps)):
            held = [facts.need[i] for i in order]
            for (t, a, b), kept in zip(gaps, stays, strict=True):
                for s in range(a + 1, b) if kept else ():
                    held[s] += facts.room[t]
            if max(held) > facts.problem.capacity_bytes:
                continue
            gone = [0] * facts.count
            for (t, _, b), kept in zip(gaps, stays, strict=True):
                gone[b] |= 0 if kept else 1 << t
            extra = traffic(facts, lyings(facts, order, gone))[0]
            best = extra if best is None else min(best, extra)
    assert best is not None
    return best


def searched(facts: Facts) -> int:
    """What the search of states proves, part by part."""
    total = 0
    for start, goal in facts.segments:
        found = States(Sets(facts, start, goal), facts.problem.capacity_bytes).search(10**6)
        assert found.exact
        assert found.walk is not None
        assert found.walk.extra_bytes == found.bound_bytes
        total += found.bound_bytes
    return total


@random_examples
@given(st.integers(0, 10**6), st.sampled_from((1, 4)))
def test_states_are_exact(seed: int, unit: int) -> None:
    facts = Facts(random_problem(seed, 5, unit))
    assert searched(facts) == exhaustive(facts)


@pytest.mark.parametrize("seed", range(12))
def test_formulations_agree(seed: int) -> None:
    """Equal optima wherever programme, intervals and states are proven; all replayed."""
    problem = random_problem(seed, 7)
    facts = Facts(problem)
    exact = solve_replacement(problem, time_limit=30, workers=1)
    intervals = plan_by_intervals(facts, 30, workers=1)
    programme = solve_programme(facts, 30)
    assert searched(facts) <= exact.extra_bytes
    for plan in (exact, intervals, programme):
        assert plan_faults(problem, plan) == []
        assert plan.extra_bytes == plan.bound_bytes == exact.extra_bytes, plan.solver


def test_the_programme_places_too() -> None:
    """With addresses the programme comes to the same, and CBC to the same as HiGHS."""
    problem = random_problem(3, 5)
    for addresses in (False, True):
        model = TimeIndexed(Facts(problem), addresses=addresses)
        assert bool(model.addresses) is addresses
    assert solve_programme(Facts(problem), 30, "CBC").extra_bytes == solve_programme(Facts(problem), 30).extra_bytes


@random_examples
@given(st.integers(0, 10**6))
def test_what_is_ahead_is_a_bound(seed: int) -> None:
    """Never above the optimum, nor is the root's; less memory never costs less."""
    facts = Facts(random_problem(seed, 6))
    optimum = searched(facts)
    total = sum(
        States(Sets(facts, start, goal), facts.problem.capacity_bytes).root_bound_bytes
        for start, goal in facts.segments
    )
    assert total <= optimum
    more = Facts(facts.problem.within(facts.problem.capacity_bytes + 3))
    assert searched(more) <= optimum


@random_examples
@given(st.integers(0, 10**6), st.sampled_from(POLICIES))
def test_policies_are_valid(seed: int, policy: str) -> None:
    problem = random_problem(seed, 9, 2)
    plan = run_policy(Facts(problem), policy)
    assert plan_faults(problem, plan) == []
    assert plan.extra_bytes >= 0


def test_a_cut_search_still_bounds() -> None:
    """One state per level: some walk, and a bound that the wide search confirms."""
    facts = Facts(load_network("randwire-2").within(345_000))
    start, goal = max(facts.segments, key=lambda part: (part[1] & ~part[0]).bit_count())
    states = States(Sets(facts, start, goal), facts.problem.capacity_bytes)
    narrow, wide = states.search(1), states.search(300)
    assert narrow.walk is not None
    assert wide.walk is not None
    assert narrow.bound_bytes <= wide.bound_bytes <= wide.walk.extra_bytes <= narrow.walk.extra_bytes
    assert states.root_bound_bytes > 0


def test_peaks() -> None:
    """The least scratchpad without extra traffic is that, and no order does with less."""
    for seed in range(20):
        facts = Facts(random_problem(seed, 5))
        found = least_peak(facts)
        assert found is not None
        peak, order = found
        assert sorted(order) == sorted(greedy_order(facts)) == list(range(5))
        room = max(peak, facts.problem.least_bytes)
        assert exhaustive(Facts(facts.problem.within(room))) == 0
        if peak > facts.problem.least_bytes:
            assert exhaustive(Facts(facts.problem.within(peak - 1))) > 0


def test_units_of_unlike_tensors() -> None:
    """Where sizes have no common measure, tensors are counted instead, and the bound still holds."""
    facts = Facts(load_network("inception-modules"))
    (start, goal), *_ = facts.segments
    assert Ahead(Sets(facts, start, goal), facts.problem.capacity_bytes).unit > 0
    assert searched(facts) > 0


def test_addresses_are_found() -> None:
    facts = Facts(load_network("resnet-50"))
    plan = solve_replacement(facts.problem, time_limit=20, workers=1)
    assert plan.extra_bytes == plan.bound_bytes == searched(facts)
    order = list(range(facts.count))
    assert placed(facts, lyings(facts, order, [0] * len(order)), 10**9, 0.0) is not None
