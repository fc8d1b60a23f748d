"""Every solver under the one interface: valid answers, bounds below all of them, stop rules, who beats whom."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from tiny import joint_optimum, random_examples, tiny_instances

import opt
from formulations.facts import Facts
from instances.errors import InputError
from instances.instance import Instance
from instances.kernels import KernelKind
from opt.replay import replay
from solvers.autofuse import autofuse_groups
from solvers.interface import Event, Options
from solvers.registry import REGISTRY
from solvers.sequential import bytes_saved

SEARCHING = ("portfolio", "cpsat", "anneal", "lns", "milp", "dp")


@pytest.fixture(scope="module")
def layer() -> Instance:
    """A decode layer with experts on the chip with the direct path."""
    return opt.generate("qwen3-30b-a3b", phase="decode", batch=4, context=1024, layers=1, machine="ascend950pr")


@settings(random_examples, max_examples=12)
@given(tiny_instances(most=3))
def test_every_solver_is_valid_and_no_bound_above_the_optimum(instance: Instance) -> None:
    best, _ = joint_optimum(instance)
    for name, entry in REGISTRY.items():
        result = entry.load()(instance, Options(time_limit_s=2, workers=1))
        assert replay(instance, result.schedule).latency_ns == result.objective_ns, name
        assert result.bound_ns <= best <= result.objective_ns, name


def test_portfolio_is_no_worse_than_what_it_runs(layer: Instance) -> None:
    latencies = {
        name: opt.solve(layer, 6, name).objective_ns for name in ("portfolio", "dp", "greedy", "stack", "autofuse")
    }
    assert latencies["portfolio"] == min(latencies.values())
    assert latencies["dp"] < latencies["greedy"]


@pytest.mark.parametrize("solver", SEARCHING)
def test_events_improve_and_end_with_the_answer(layer: Instance, solver: str) -> None:
    seen: list[Event] = []
    result = opt.solve(layer, 4, solver, on_event=seen.append)
    for earlier, later in pairwise(seen):
        assert later.bound_ns >= earlier.bound_ns
        assert earlier.objective_ns is None or (later.objective_ns or 0) <= earlier.objective_ns
    assert seen[-1].bound_ns == result.bound_ns


@pytest.mark.parametrize("solver", SEARCHING)
def test_first_feasible_ends_at_the_first_schedule(layer: Instance, solver: str) -> None:
    result = opt.solve(layer, 600, solver, first_feasible=True)
    assert {event.objective_ns for event in result.events} - {None} == {result.objective_ns}
    assert result.runtime_s < 60


@pytest.mark.parametrize("solver", SEARCHING)
def test_a_listener_stops_the_search(layer: Instance, solver: str) -> None:
    result = opt.solve(layer, 600, solver, on_event=lambda event: event.objective_ns is not None)
    assert not replay(layer, result.schedule).violations
    assert result.runtime_s < 60


def test_a_question_stops_the_search_from_outside(layer: Instance) -> None:
    asked = threading.Event()
    threading.Timer(2.0, asked.set).start()
    began = time.monotonic()
    result = opt.solve(layer, 600, should_stop=asked.is_set)
    assert time.monotonic() - began < 60
    assert result.objective_ns < opt.solve(layer, 5, "greedy").objective_ns


def test_rules_compose_and_patience_runs_out() -> None:
    """A gap that is never reached and an hour to go: half a second without a better schedule ends it."""
    instance = opt.generate("gpt2", phase="decode", batch=4, context=512, layers=1, machine="ascend910b4")
    assert opt.solve(instance, 3600, patience=0.5, gap=0.0001).runtime_s < 120
    with pytest.raises(InputError, match="patience"):
        opt.solve(instance, patience=0.0)


def test_autofuse_leaves_cubes_alone_and_saves_bytes(layer: Instance) -> None:
    facts = Facts(layer)
    groups = [layer.candidates[g] for g in autofuse_groups(facts)]
    assert sorted(name for group in groups for name in group.operators) == sorted(facts.order)
    fused = [group for group in groups if len(group.operators) > 1]
    assert fused
    for group in fused:
        assert facts.kind(group) is KernelKind.VECTOR
        assert bytes_saved(facts, group) > 0


def test_neighbourhoods_improve_on_their_start(layer: Instance) -> None:
    start = opt.solve(layer, 5, "dp")
    found = opt.solve(layer, 15, "lns")
    assert found.objective_ns < start.objective_ns
    assert any(event.source == "neighbourhoods" for event in found.events)


def test_neighbourhoods_of_blocks_unroll() -> None:
    """On a whole model the search runs on a few blocks; what it finds is a schedule of all of them."""
    model = opt.generate("qwen3-30b-a3b", phase="decode", batch=1, context=512, layers=9, machine="ascend910b2")
    assert Facts(model).large
    result = opt.solve(model, 14, "lns")
    assert not replay(model, result.schedule).violations
    assert result.objective_ns <= opt.solve(model, 5, "dp").objective_ns


def test_milp_proves_what_the_relaxation_proves(layer: Instance) -> None:
    result = opt.solve(layer, 20, "milp")
    assert result.bound_by == "milp"
    assert result.bound_ns >= result.bounds_ns["hbm_traffic"]
