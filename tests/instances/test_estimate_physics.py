"""Estimates of single kernels: physics that must hold whatever the fitted constants are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.estimate import Estimate, estimate
from instances.graph import DType, Role
from instances.library import DTYPES, Request
from instances.library.request import Shape
from instances.machine import Machine, MemoryName, load_machine

B2, PR = load_machine("ascend910b2"), load_machine("ascend950pr")

CALLS: list[tuple[str, str, tuple[Shape, ...]]] = [
    ("matmul", "float16", ((512, 1024), (1024, 768))),
    ("matmul", "bfloat16", ((1, 4096), (4096, 4096))),
    ("quant_matmul", "int8", ((256, 1024), (1024, 1024), (1024,), (256,))),
    ("weight_quant_batch_matmul", "float16", ((8, 2048), (2048, 1024), (1024,))),
    ("grouped_matmul", "float16", ((256, 512), (8, 512, 256))),
    ("mha", "float16", ((2, 128, 8, 128),) * 3),
    ("gqa", "bfloat16", ((8, 1, 32, 128), (8, 1024, 8, 128), (8, 1024, 8, 128))),
    ("rms_norm", "bfloat16", ((512, 4096), (4096,))),
    ("softmax", "float32", ((128, 8192),)),
    ("swi_glu", "bfloat16", ((512, 8192),)),
    ("maximum", "int32", ((1024, 1024), (1024, 1024))),
]


def ask(op: str, dtype: str, shapes: tuple[Shape, ...], network: bool = False) -> Request:
    return Request(op, DTYPES[dtype], shapes, {}, network)


def changed(machine: Machine, **figures: float) -> Machine:
    """A machine with other figures; ``hbm__rate_gb_s`` is a path of keys."""
    data: dict[str, Any] = machine.model_dump(mode="json")
    for path, value in figures.items():
        *keys, last = path.split("__")
        place = data
        for key in keys:
            place = place[key]
        place[last]["value"] = value
    return Machine.model_validate(data)


def checked(found: Estimate, machine: Machine) -> None:
    """What holds for every estimate."""
    assert found.total_ns >= found.launch_ns + max(part.body_ns for part in found.parts)
    for part in found.parts:
        moved = part.traffic.total_bytes
        assert part.phase_ns >= moved / machine.hbm.rate_gb_s.value
        assert part.body_ns >= part.cost.busy_ns >= max(part.cost.engines_ns.values())
        peak = [
            operator.macs
            / machine.cube.macs_per_cycle[part.fusion.graph.tensor[operator.reads[0].tensor].dtype].value
            * machine.ns_per_cycle
            / machine.aic_count
            for operator in part.fusion.cubes
        ]
        assert part.cost.engines_ns.get("cube", 0) >= sum(peak) * 0.999
        for memory in MemoryName:
            used = sum(b.slots * b.size_bytes for b in part.cost.buffers if b.memory is memory)
            assert used <= machine.capacity(memory)


@pytest.mark.parametrize("machine", [B2, PR], ids=["910b2", "950pr"])
@pytest.mark.parametrize(("op", "dtype", "shapes"), CALLS)
def test_no_faster_than_its_parts(op: str, dtype: str, shapes: tuple[Shape, ...], machine: Machine) -> None:
    alone, warm = (estimate(ask(op, dtype, shapes, network), machine) for network in (False, True))
    checked(alone, machine)
    checked(warm, machine)
    assert warm.total_ns <= alone.total_ns
    assert warm.cold_ns == 0 < alone.cold_ns


@pytest.mark.parametrize(
    "better",
    [
        {"hbm__rate_gb_s": 2380.0},
        {"l2__rate_gb_s": 7200.0},
        {"clock_mhz": 2400.0},
        {"launch__cube_ns": 0.0, "launch__vector_ns": 0.0, "launch__mix_ns": 0.0},
        {"exposed__vector": 0.0, "exposed__mix": 0.0},
        {"aic": 32.0, "aiv": 64.0},
        {"memories__ub__capacity_bytes": 376832.0},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize(("op", "dtype", "shapes"), CALLS)
def test_a_better_machine_is_no_slower(
    op: str, dtype: str, shapes: tuple[Shape, ...], better: dict[str, float]
) -> None:
    """Up to a twentieth: tiles come from a menu, and a count of cores that divides the work less well can be in the
    way of one that is larger."""
    before = estimate(ask(op, dtype, shapes), B2).total_ns
    after = estimate(ask(op, dtype, shapes), changed(B2, **better)).total_ns
    assert after <= 1.05 * before


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 2048),
    k=st.integers(16, 4096),
    n=st.integers(16, 4096),
    dtype=st.sampled_from([DType.FLOAT16, DType.BFLOAT16]),
    network=st.booleans(),
)
def test_any_product(m: int, k: int, n: int, dtype: DType, network: bool) -> None:
    found = estimate(Request("matmul", dtype, ((m, k), (k, n)), {}, network), B2)
    checked(found, B2)
    twice = estimate(Request("matmul", dtype, ((m, 2 * k), (2 * k, n)), {}, network), B2)
    assert twice.total_ns >= 0.99 * found.total_ns


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5000), features=st.integers(1, 70_000), op=st.sampled_from(["rms_norm", "softmax", "add"]))
def test_any_rows(rows: int, features: int, op: str) -> None:
    """Whatever the length of a row: double buffers, single ones, or segments."""
    found = estimate(Request(op, DType.BFLOAT16, ((rows, features), (features,)), {}), B2)
    checked(found, B2)


def test_what_is_read_from_hbm() -> None:
    """Alone everything, once; in a network the weight, while activations that fit stay in L2."""
    asked = ("matmul", "float16", ((64, 1024), (1024, 2048)))
    alone = estimate(ask(*asked), B2).parts[0].traffic
    assert alone.read == {"left": 2 * 64 * 1024, "right": 2 * 1024 * 2048}
    assert alone.written == {}
    warm = estimate(ask(*asked, network=True), B2)
    assert warm.parts[0].traffic.read == {"right": 2 * 1024 * 2048}
    assert warm.call.graph.tensor["right"].role is Role.WEIGHT


def test_what_does_not_fit_is_streamed() -> None:
    """Two operands of 128 MiB and a result of as much are 192 MiB more than L2 holds: nothing is warm, and none of the
    result stays."""
    found = estimate(ask("maximum", "float32", ((2**25,), (2**25,)), network=True), B2).parts[0].traffic
    assert sum(found.read.values()) == 2 * 2**27
    assert sum(found.written.values()) == 2**27


def test_weights_in_fractals_load_faster() -> None:
    """In a network weights lie in NZ ahead of time: less start-up per move than for the same operand alone."""
    asked = ("matmul", "float16", ((2048, 4096), (4096, 2048)))
    alone, warm = (estimate(ask(*asked, network=network), B2).parts[0].cost.engines_ns for network in (False, True))
    assert warm["mte2"] < alone["mte2"]


def test_direct_paths_spare_l2_the_hand_over() -> None:
    """Widened weights pass through L2 on 910B2 and stay in the core on 950PR, where the stream from HBM then binds."""
    asked = ask("weight_quant_batch_matmul", "bfloat16", ((32, 8192), (8192, 8192), (8192,)))
    b2, pr = estimate(asked, B2), estimate(asked, PR)
    stream = {name: 8192 * 8192 / machine.hbm.rate_gb_s.value for name, machine in (("b2", B2), ("pr", PR))}
    assert b2.total_ns / stream["b2"] > 1.3
    assert pr.total_ns / stream["pr"] < 1.3


def test_bound_by() -> None:
    assert estimate(ask("matmul", "float16", ((1, 4096), (4096, 16384))), B2).bound_by == "hbm"
    assert estimate(ask("rms_norm", "bfloat16", ((1, 64), (64,))), B2).bound_by == "launch"
    assert estimate(ask("quant_matmul", "int8", ((4096, 4096), (4096, 4096), (4096,))), PR).bound_by == "cube"
