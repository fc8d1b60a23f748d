"""Repeated blocks: found by form, cut out, annealed together, unrolled into schedules that replay."""

from __future__ import annotations

import pytest

import opt
from formulations.facts import Facts
from instances.instance import Instance
from opt.replay import replay
from solvers.anneal import Annealer
from solvers.blocks import Blocks
from solvers.incumbent import Incumbent
from solvers.interface import Options
from solvers.periodic import KEPT, Periodic, find_periodic, find_repetition
from solvers.sequential import greedy_schedule

LAYERS = 6


@pytest.fixture(scope="module")
def model() -> Instance:
    return opt.generate("llama-3-8b", phase="decode", batch=4, context=512, layers=LAYERS, ends=True, max_group=3)


def groups_of(facts: Facts) -> frozenset[int]:
    number = {candidate.operators: g for g, candidate in enumerate(facts.instance.candidates)}
    schedule = greedy_schedule(facts, {"hbm_traffic": 1})
    return frozenset(number[kernel.operators] for kernel in schedule.kernels)


def test_blocks_are_found_by_form(model: Instance) -> None:
    """Six blocks of one length, whatever the operators are called; embedding before them, norm and head behind."""
    facts = Facts(model)
    found = find_repetition(facts)
    assert found is not None
    assert found.count == LAYERS
    assert len(facts.order) - found.count * found.period < found.period
    names = [operator.name for operator in model.graph.operators]
    first, second = (names[found.first + k * found.period] for k in (1, 2))
    assert first != second
    assert first.split(".")[1:] == second.split(".")[1:]


def test_too_few_blocks_are_none() -> None:
    two = opt.generate("llama-3-8b", phase="decode", batch=4, context=512, layers=2, max_group=1)
    assert find_repetition(Facts(two)) is None


def test_the_short_instance_is_one_of_the_model_with_fewer_layers(model: Instance) -> None:
    """The same operators, candidates and bytes as the model generated with three layers."""
    facts = Facts(model)
    repetition = find_repetition(facts)
    assert repetition is not None
    short = Periodic(facts, repetition).short.instance
    other = opt.generate("llama-3-8b", phase="decode", batch=4, context=512, layers=KEPT, ends=True, max_group=3)
    assert [operator.kind for operator in short.graph.operators] == [
        operator.kind for operator in other.graph.operators
    ]
    assert sum(t.size_bytes for t in short.graph.tensors) == sum(t.size_bytes for t in other.graph.tensors)

    def shapes(instance: Instance) -> set[tuple[int, ...]]:
        order = Facts(instance).order
        return {tuple(sorted(order[name] for name in c.operators)) for c in instance.candidates}

    assert shapes(short) == shapes(other)


def test_blocks_that_cannot_be_cut_out_are_left_alone(model: Instance) -> None:
    """Without a kernel of its own for one operator there is no unrolling, and no error."""
    lone = model.graph.operators[5].name
    fewer = model.model_copy(update={"candidates": tuple(c for c in model.candidates if c.operators != (lone,))})
    assert find_periodic(Facts(fewer)) is None


def test_what_is_unrolled_replays_and_is_better_than_greedy(model: Instance) -> None:
    found = []
    for _ in range(2):
        incumbent = Incumbent(model, Options(time_limit_s=1000, deterministic_limit=2.0, workers=1))
        facts = incumbent.facts
        periodic = find_periodic(facts)
        assert periodic is not None
        blocks = Blocks(incumbent, periodic, groups_of(facts))
        blocks.anneal(10.0)
        blocks.model(10.0)
        schedule = incumbent.best
        assert replay(model, schedule).latency_ns == schedule.latency_ns
        assert max(incumbent.bounds.values()) <= schedule.latency_ns
        assert schedule.latency_ns < greedy_schedule(facts, incumbent.bounds).latency_ns
        found.append(schedule.latency_ns)
    assert found[0] == found[1]


def test_level_states_are_the_same_in_every_block(model: Instance) -> None:
    """Leveled twice is leveled once, and every middle block of the whole does what its neighbour does."""
    facts = Facts(model)
    repetition = find_repetition(facts)
    assert repetition is not None
    periodic = Periodic(facts, repetition)
    short = periodic.short
    annealer = Annealer(short, 1)
    state = annealer.first_state(groups_of(short))
    for _ in range(200):
        state = annealer.neighbour(state)
    level = periodic.level(state)
    twice = periodic.level(level)
    assert (twice.groups, twice.way, twice.moved) == (level.groups, level.way, level.moved)
    assert twice.priority == pytest.approx(level.priority)
    whole = periodic.unroll(level)
    covered = sorted(name for g in whole.groups for name in model.candidates[g].operators)
    assert covered == sorted(facts.order)

    def block(k: int) -> set[tuple[int, ...]]:
        start = repetition.first + k * repetition.period
        spans = (
            tuple(sorted(facts.order[name] - start for name in model.candidates[g].operators)) for g in whole.groups
        )
        return {span for span in spans if 0 <= span[0] < repetition.period}

    assert block(2) == block(3)
