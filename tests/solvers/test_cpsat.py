"""The joint solver as a whole: hints, bounds, events, limits, repeatability."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ortools.sat.python import cp_model

from formulations.facts import Facts
from formulations.joint import FAMILIES, REDUNDANT, JointModel
from formulations.joint_answers import hint, read_back
from formulations.plan import build_schedule
from instances.build import build_instance
from instances.catalogue import load_model
from instances.generate import build_graph
from instances.instance import Instance
from instances.machine import load_machine
from opt.replay import replay
from solvers.anneal import Annealer
from solvers.bounds import prove, quick_bounds, relaxation_bound
from solvers.cpsat import solve_cpsat
from solvers.interface import Event, Options, Solver
from solvers.portfolio import solve_portfolio
from solvers.registry import find_solver
from solvers.sequential import choose_by_bytes_saved, greedy_schedule, solve_greedy, solve_unfused


def layer(model: str, machine: str, phase: str = "decode", tp: int = 1, batch: int = 16) -> Instance:
    """One layer: decode with a context of 4096, or prefill of 2048 tokens."""
    tokens, context = (1, 4096) if phase == "decode" else (2048, None)
    graph = build_graph(load_model(model), phase, batch, tokens, context, 1, tp, "bfloat16", None)  # type: ignore[arg-type]
    return build_instance(graph, load_machine(machine))


@pytest.fixture(scope="module")
def llama() -> Instance:
    """A decode layer of Llama-3-8B on 910B2."""
    return layer("llama-3-8b", "ascend910b2")


def test_hint_is_complete_and_feasible(llama: Instance) -> None:
    """Every variable has a value in the hint, and fixing all of them is a solution with the same latency."""
    facts = Facts(llama)
    schedule = greedy_schedule(facts, {"none": 0})
    joint = JointModel(llama, schedule.latency_ns)
    hint(joint, schedule)
    assert len(joint.model.proto.solution_hint.vars) == len(joint.model.proto.variables)
    solver = cp_model.CpSolver()
    solver.parameters.fix_variables_to_their_hinted_value = True
    solver.parameters.num_workers = 1
    assert solver.solve(joint.model) == cp_model.OPTIMAL
    assert solver.value(joint.latency) == schedule.latency_ns


def test_hint_of_an_annealed_schedule_and_back(llama: Instance) -> None:
    """A schedule with prefetches survives the way into the model and back, to the ns."""
    facts = Facts(llama)
    annealer = Annealer(facts, seed=1)
    options = Options(deterministic_limit=2.0)
    found = annealer.improve(annealer.first_state(frozenset(choose_by_bytes_saved(facts))), 1.0, options)
    assert found is not None
    schedule = annealer.schedule(*found, {"none": 0})
    assert schedule is not None
    assert schedule.moves
    joint = JointModel(llama, schedule.latency_ns)
    hint(joint, schedule)
    solver = cp_model.CpSolver()
    solver.parameters.fix_variables_to_their_hinted_value = True
    solver.parameters.num_workers = 1
    assert solver.solve(joint.model) == cp_model.OPTIMAL
    again = build_schedule(
        facts, read_back(joint, solver.value), prove(facts, "cpsat", schedule.latency_ns, quick_bounds(facts))
    )
    assert again.latency_ns == schedule.latency_ns
    assert not replay(llama, again).violations


def test_order_of_the_solvers(llama: Instance) -> None:
    """Latency: joint below greedy below unfused; each bound is below each latency; all pass the replay."""
    results = [solve(llama, Options(time_limit_s=12)) for solve in (solve_cpsat, solve_greedy, solve_unfused)]
    latencies = [result.objective_ns for result in results]
    assert latencies[0] < latencies[1] < latencies[2]
    for result in results:
        checked = replay(llama, result.schedule)
        assert not checked.violations
        assert checked.latency_ns == result.objective_ns
        assert 0 < result.bound_ns <= min(latencies)
        assert result.bounds_ns[result.bound_by] == result.bound_ns == max(result.bounds_ns.values())
    assert results[0].gap < 0.03


@pytest.mark.parametrize(
    ("model", "machine", "phase", "tp"),
    [
        ("qwen3-32b", "ascend910b2", "decode", 8),
        ("llama-3-8b", "ascend950pr", "prefill", 1),
        ("qwen3-30b-a3b", "ascend910c_die", "decode", 1),
        ("deepseek-v2-lite", "ascend910b3", "decode", 1),
    ],
)
def test_other_layers_are_valid(model: str, machine: str, phase: str, tp: int) -> None:
    """Collectives, prefill, experts and latent attention: short runs give valid schedules with bounds."""
    instance = layer(model, machine, phase, tp, batch=16 if phase == "decode" else 1)
    result = solve_cpsat(instance, Options(time_limit_s=4))
    checked = replay(instance, result.schedule)
    assert not checked.violations
    assert checked.latency_ns == result.objective_ns
    assert 0 < result.bound_ns <= result.objective_ns


def test_direct_path_changes_the_kernels() -> None:
    """On 910B a prefill keeps vector work out of its cube kernels, on 950 it goes into them.

    A tile of the cube reaches the vector cores of 910B2 through L2, twice over the bottleneck of a prefill; on 950PR
    it does not touch L2. So the fused gate-up-activation kernel is chosen on 950PR and not on 910B2.
    """
    mixed = {}
    for machine in ("ascend910b2", "ascend950pr"):
        instance = layer("llama-3-8b", machine, "prefill", batch=1)
        start = find_solver("dp").load()(instance, Options(time_limit_s=20)).schedule
        result = solve_cpsat(instance, Options(time_limit_s=6, warm_start=start))
        assert result.objective_ns <= start.latency_ns
        mixed[machine] = {k.operators for k in result.schedule.kernels if k.kind == "mix"}
    fused = ("l0.gate_proj", "l0.up_proj", "l0.act")
    assert fused in mixed["ascend950pr"]
    assert fused not in mixed["ascend910b2"]


def test_collectives_hide_prefetches() -> None:
    """While a collective runs and no core is busy, the channel brings weights for what follows."""
    instance = layer("qwen3-32b", "ascend910b2", tp=8)
    schedule = solve_cpsat(instance, Options(time_limit_s=10)).schedule
    collectives = [k for k in schedule.kernels if k.kind == "link"]
    assert len(collectives) == 2
    assert any(
        move.start_ns < kernel.end_ns and kernel.start_ns < move.end_ns
        for kernel in collectives
        for move in schedule.moves
        if move.kind == "prefetch"
    )


def test_events_are_monotone(llama: Instance) -> None:
    """Objective only falls, bound only rises, time only grows."""
    events: list[Event] = []
    solve_cpsat(llama, Options(time_limit_s=5, on_event=events.append))
    assert len(events) > 2
    for earlier, later in pairwise(events):
        assert later.time_s >= earlier.time_s
        assert later.bound_ns >= earlier.bound_ns
        if earlier.objective_ns is not None:
            assert later.objective_ns is not None
            assert later.objective_ns <= earlier.objective_ns


@pytest.mark.parametrize("limit", [0.01, 0.2, 1.0])
def test_any_limit_gives_a_schedule(llama: Instance, limit: float) -> None:
    """However short the limit, there is a valid schedule with a bound above zero."""
    result = solve_cpsat(llama, Options(time_limit_s=limit))
    assert not replay(llama, result.schedule).violations
    assert result.bound_ns > 0


@pytest.mark.parametrize("solve", [solve_cpsat, solve_portfolio])
def test_one_worker_repeats(solve: Solver) -> None:
    """One worker, a deterministic limit and a seed give the same schedule twice."""
    instance = _gpt2()
    first, second = (
        solve(instance, Options(time_limit_s=60, workers=1, seed=7, deterministic_limit=0.5)) for _ in range(2)
    )
    assert first.schedule.kernels == second.schedule.kernels
    assert first.schedule.moves == second.schedule.moves
    assert first.schedule.residencies == second.schedule.residencies


def _gpt2() -> Instance:
    graph = build_graph(load_model("gpt2"), "decode", 4, 1, 512, 1, 1, "float16", None)
    return build_instance(graph, load_machine("ascend910b4"))


def test_warm_start_is_never_made_worse(llama: Instance) -> None:
    """A warm start is at least kept."""
    first = solve_cpsat(llama, Options(time_limit_s=6)).schedule
    second = solve_cpsat(llama, Options(time_limit_s=1, warm_start=first, seed=3))
    assert second.objective_ns <= first.latency_ns


@pytest.mark.parametrize("family", FAMILIES)
def test_families_can_be_left_out(family: str) -> None:
    """Without a family the model stands, and a schedule of the full model still satisfies it."""
    instance = _gpt2()
    schedule = greedy_schedule(Facts(instance), {"none": 0})
    joint = JointModel(instance, schedule.latency_ns, [family])
    hint(joint, schedule)
    solver = cp_model.CpSolver()
    solver.parameters.fix_variables_to_their_hinted_value = True
    solver.parameters.num_workers = 1
    assert solver.solve(joint.model) == cp_model.OPTIMAL
    assert solver.value(joint.latency) == schedule.latency_ns
    assert set(FAMILIES) >= REDUNDANT


def test_unknown_family_is_named(llama: Instance) -> None:
    """A misspelt family is an error that lists the names."""
    with pytest.raises(ValueError, match="hbm_chanel"):
        JointModel(llama, 10**6, ["hbm_chanel"])


def test_relaxation_with_a_horizon_is_tighter_and_still_below(llama: Instance) -> None:
    """The horizon's constraints only raise the bound, never above the latency that gave the horizon."""
    facts = Facts(llama)
    latency = greedy_schedule(facts, {"none": 0}).latency_ns
    plain = relaxation_bound(facts, None, 10)
    tight = relaxation_bound(facts, latency, 10)
    assert max(quick_bounds(facts).values()) <= plain <= latency
    assert tight <= latency
