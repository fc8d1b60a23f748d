"""What a stack launches: the shipped fused kernels and nothing else, one after the other."""

from __future__ import annotations

from itertools import pairwise

import pytest

from formulations.facts import Facts
from instances.build import build_instance
from instances.catalogue import load_model
from instances.generate import build_graph
from instances.instance import Instance
from instances.machine import load_machine
from opt.replay import replay
from solvers.interface import Options
from solvers.sequential import solve_unfused
from solvers.stack import is_shipped, solve_stack, stack_groups


def layer(model: str, phase: str = "decode", **change: object) -> Instance:
    arguments = {"batch": 16, "tokens": 1, "context": 1024} if phase == "decode" else {"batch": 1, "tokens": 256}
    graph = build_graph(load_model(model), phase, layers=1, **(arguments | change))  # type: ignore[arg-type]
    return build_instance(graph, load_machine("ascend910b2"))


def launched(instance: Instance) -> set[str]:
    return {
        "+".join(name.removeprefix("l0.") for name in instance.candidates[g].operators)
        for g in stack_groups(Facts(instance))
    }


def test_kernels_of_a_dense_layer() -> None:
    """As in a trace of Qwen3: merged qkv, one kernel for norms and rotation of q and k, fused attention, AddRmsNorm,
    merged gate and up. The two cache writes share no tensor, so that no rule makes them one kernel."""
    assert launched(layer("qwen3-32b", tp=16)) == {
        "input_norm",
        "q_proj+k_proj+v_proj",
        "q_norm+k_norm+rope_q+rope_k",
        "cache_write_k",
        "cache_write_v",
        "attn_scores+softmax+attn_values",
        "o_proj",
        "attn_all_reduce",
        "attn_add+post_norm",
        "gate_proj+up_proj",
        "act",
        "down_proj",
        "mlp_all_reduce",
        "mlp_add",
    }


def test_experts_are_merged_and_the_router_is_not() -> None:
    found = launched(layer("mixtral-8x7b"))
    assert "expert_gate+expert_up" in found
    assert "router_proj" in found
    assert "router_softmax+router_topk" in found


def test_quantised_projections_scale_in_the_same_kernel() -> None:
    found = launched(layer("llama-3-8b", dtype="w8a8"))
    assert "o_proj+o_dequant" in found
    assert any(name.startswith("attn_add+post_norm+") and name.endswith("quant") for name in found)


@pytest.mark.parametrize(("model", "phase"), [("llama-3-8b", "decode"), ("llama-3-8b", "prefill"), ("gpt2", "decode")])
def test_schedule_is_valid_and_one_after_the_other(model: str, phase: str) -> None:
    instance = layer(model, phase)
    result = solve_stack(instance, Options(time_limit_s=5))
    judged = replay(instance, result.schedule)
    assert not judged.violations
    assert 0 < result.bound_ns <= judged.latency_ns == result.objective_ns
    assert judged.latency_ns < solve_unfused(instance, Options(time_limit_s=5)).objective_ns
    assert not result.schedule.moves
    kernels = sorted(result.schedule.kernels, key=lambda kernel: kernel.start_ns)
    assert all(before.end_ns <= after.start_ns for before, after in pairwise(kernels))


def test_every_operator_alone_is_shipped() -> None:
    facts = Facts(layer("llama-3-8b"))
    alone = [candidate for candidate in facts.instance.candidates if len(candidate.operators) == 1]
    assert len(alone) == len(facts.graph.operators)
    assert all(is_shipped(facts, candidate) for candidate in alone)
