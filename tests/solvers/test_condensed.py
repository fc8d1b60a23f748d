"""Condensed models and segments: never above the optimum, and on a decode layer at the optimum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from ortools.sat.python import cp_model
from tiny import joint_optimum, priced_instances, random_examples, tiny_instances

import opt
from formulations.facts import Facts
from formulations.segments import cut
from instances.instance import Instance
from opt.replay import replay
from solvers.bounds import relaxation_bound
from solvers.condensed import CHANNEL_LEVELS, CORE_LEVELS, Level, condensed_model, search_condensed
from solvers.incumbent import Incumbent
from solvers.interface import Options
from solvers.segment_bounds import SegmentBound, search_segment
from solvers.sequential import greedy_decisions

LEVELS = (*CHANNEL_LEVELS, *CORE_LEVELS)


def optimum_of(facts: Facts, level: Level, horizon_ns: int) -> int:
    """What the condensed model of a level proves."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    model = condensed_model(facts, level, horizon_ns)
    assert solver.solve(model.model) == cp_model.OPTIMAL
    return round(solver.objective_value)


@settings(random_examples, max_examples=60)
@given(tiny_instances(most=4))
def test_no_level_is_above_the_optimum(instance: Instance) -> None:
    latency, _ = joint_optimum(instance)
    facts = Facts(instance)
    for level in LEVELS:
        assert optimum_of(facts, level, latency) <= latency


@settings(random_examples, max_examples=40)
@given(priced_instances(most=4))
def test_no_level_is_above_the_optimum_at_any_price(instance: Instance) -> None:
    latency, _ = joint_optimum(instance)
    facts = Facts(instance)
    for level in LEVELS:
        assert optimum_of(facts, level, latency) <= latency


@settings(random_examples, max_examples=30)
@given(tiny_instances(most=4))
def test_segments_add_up_to_no_more_than_the_optimum(instance: Instance) -> None:
    """By the static relaxation, and by CP-SAT, however short the segments."""
    latency, _ = joint_optimum(instance)
    facts = Facts(instance)
    for least in (1, 2):
        segments = cut(facts, least)
        relaxed = [relaxation_bound(Facts(segment.instance), None, 10.0) for segment in segments]
        assert sum(bound * segment.count for bound, segment in zip(relaxed, segments, strict=True)) <= latency
        searched = [
            search_segment(segment, bound, Options(workers=1), 10.0)
            for segment, bound in zip(segments, relaxed, strict=True)
        ]
        assert sum(bound * segment.count for bound, segment in zip(searched, segments, strict=True)) <= latency


@pytest.fixture(scope="module")
def decode() -> Instance:
    return opt.generate("llama-3-70b", phase="decode", batch=1, context=4096, layers=1, tp=8, machine="ascend910b2")


def test_a_decode_layer_is_closed_to_one_per_cent(decode: Instance) -> None:
    """What the condensed model decodes to replays, and its bound is within 1 %: what no other argument gets to."""
    incumbent = Incumbent(decode, Options(time_limit_s=120, gap=0.01))
    incumbent.offer_decisions(greedy_decisions(incumbent.facts), "greedy")
    search_condensed(incumbent)
    result = incumbent.finish("test")
    assert result.bound_by == "condensed"
    assert replay(decode, result.schedule).latency_ns == result.objective_ns
    assert result.gap <= 0.01


def test_layers_that_repeat_are_one_segment() -> None:
    """Twelve layers of BERT: the middle ones are one form, and their sum is close to what a schedule takes."""
    model = opt.generate("bert-base", phase="prefill", batch=1, machine="ascend910b2")
    segments = cut(Facts(model), 10)
    assert max(segment.count for segment in segments) >= 10
    assert len(segments) <= 4
    incumbent = Incumbent(model, Options(time_limit_s=60))
    incumbent.offer_decisions(greedy_decisions(incumbent.facts), "greedy")
    SegmentBound(incumbent).wait(30)
    result = incumbent.finish("test")
    assert result.bounds_ns["critical_path"] <= result.bounds_ns["segments"] <= result.objective_ns
