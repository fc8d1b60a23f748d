"""How an estimate is put together, and the terms behind it: expected values come from the machine's own figures."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.costs import draft, tilings
from instances.costs.terms import (
    Draft,
    Misfit,
    Stage,
    assemble,
    body_ns,
    exposed_ns,
    fits,
    launch_ns,
    line_share,
    move_ns,
    mte1_ns,
    place_buffers,
    waves,
)
from instances.estimate import Estimate, Part, estimate
from instances.fusion import Fuser, Fusion
from instances.kernels import KernelKind, Tiling
from instances.library import DTYPES, Request, Shape, Unmodelled, build_call, parse_attributes
from instances.machine import Machine, MemoryName, load_machine

B2, PR = load_machine("ascend910b2"), load_machine("ascend950pr")
BOTH = pytest.mark.parametrize("machine", [B2, PR], ids=["910b2", "950pr"])


def ask(op: str, dtype: str, *shapes: Shape, attributes: str = "", network: bool = False) -> Request:
    return Request(op, DTYPES[dtype], shapes, parse_attributes(attributes), network)


def changed(machine: Machine, figures: dict[str, float]) -> Machine:
    """A machine with other figures, by dotted place."""
    data: dict[str, Any] = machine.model_dump(mode="json")
    for place, value in figures.items():
        *keys, last = place.split(".")
        found = data
        for key in keys:
            found = found[key]
        found[last] = found[last] | {"value": value}
    return Machine.model_validate(data)


def only(found: Estimate) -> Part:
    (part,) = found.parts
    return part


def spent(found: Estimate) -> list[int]:
    return [part.fill_ns + part.body_ns + part.cost.tail_ns for part in found.parts]


# ------------------------------------------------------------------------------- lines and moves


@pytest.mark.parametrize(
    ("run", "stride", "wanted"),
    [
        (128, 512, 1.0),
        (512, 512, 1.0),
        (100, 128, 128 / 100),  # what is left of the sector is fetched as well
        (130, 256, 256 / 130),
        (256, 300, (256 + 128) / 256),  # runs that start anywhere reach into one more
        (96, 96, (128 + 128) / 96),
        (1, 2, 256.0),
    ],
)
def test_share_of_lines(run: float, stride: float, wanted: float) -> None:
    assert line_share(run, stride) == pytest.approx(wanted)


@given(run=st.integers(1, 10_000), stride=st.integers(1, 10_000))
def test_no_line_is_fetched_for_nothing(run: int, stride: int) -> None:
    assert run <= round(line_share(run, stride) * run) < run + 2 * 128


@BOTH
def test_moves_that_turn_rows_into_fractals(machine: Machine) -> None:
    """5 transfers of 64000 bytes altogether, 3 of them ND->NZ."""
    path = machine.path(MemoryName.L2, MemoryName.L1)
    assert path is not None and path.startup_cycles is not None and path.rate_bytes_per_cycle is not None
    assert path.format_cycles is not None and path.format_cycles.value > 0
    cycles = 5 * path.startup_cycles.value + 64_000 / path.rate_bytes_per_cycle.value
    assert move_ns(machine, path, 64_000, 5) == pytest.approx(cycles * machine.ns_per_cycle)
    cycles += 3 * path.format_cycles.value
    assert move_ns(machine, path, 64_000, 5, 3) == pytest.approx(cycles * machine.ns_per_cycle)


def test_paths_without_fractals_do_not_charge_for_them() -> None:
    path = B2.path(MemoryName.UB, MemoryName.L2)
    assert move_ns(B2, path, 6400, 1, 7) == move_ns(B2, path, 6400, 1)


@BOTH
def test_both_operands_pass_through_one_pipe(machine: Machine) -> None:
    left = move_ns(machine, machine.path(MemoryName.L1, MemoryName.L0A), 4096, 2)
    right = move_ns(machine, machine.path(MemoryName.L1, MemoryName.L0B), 8192, 3)
    assert mte1_ns(machine, left=(4096, 2), right=(8192, 3)) == pytest.approx(left + right)


@pytest.mark.parametrize(("items", "cores", "wanted"), [(1, 24, 1), (24, 24, 1), (25, 24, 2), (48, 24, 2), (7, 2, 4)])
def test_waves(items: int, cores: int, wanted: int) -> None:
    assert waves(items, cores) == wanted


# ------------------------------------------------------------------------------- pipes beside each other


def test_exposed_share() -> None:
    """Of 10, 4 and 6 the slowest counts, and the given share of the other 10."""
    assert exposed_ns([4, 10, 6], 0.0) == 10
    assert exposed_ns([4, 10, 6], 0.25) == 12.5
    assert exposed_ns([4, 10, 6], 1.0) == 20
    assert exposed_ns([7], 0.5) == 7
    assert exposed_ns([], 0.5) == 0


SHARES = {"exposed.cube": 0.1, "exposed.vector": 0.2, "exposed.mix": 0.5}
STAGES = (("mte2", 100), ("cube", 40), ("fixp", 60), ("sync", 10), ("vector_mte2", 20), ("vector", 80), ("mte3", 30))


@pytest.mark.parametrize(
    ("kind", "serial", "wanted"),
    [
        (KernelKind.CUBE, False, 100 + 0.1 * 240),
        (KernelKind.VECTOR, False, 100 + 0.2 * 240),
        # the cube's side 100 + 0.1 (40 + 60) = 110; the vector cores' 80 + 0.2 (10 + 20 + 30) = 92
        (KernelKind.MIX, False, 110 + 0.5 * 92),
        (KernelKind.VECTOR, True, 340),
    ],
)
def test_body_of_a_kernel(kind: KernelKind, serial: bool, wanted: float) -> None:
    stages = [Stage(engine, 1.0, float(total)) for engine, total in STAGES]
    found = Draft(kind, stages, 0.0, 1, serial=serial)
    assert body_ns(changed(B2, SHARES), found) == pytest.approx(wanted)


def test_a_body_is_no_shorter_than_its_l2_traffic() -> None:
    """1 MB at half of L2's rate is longer than 100 ns of the pipes; its fill is nothing, its drain every pipe's."""
    found = Draft(KernelKind.VECTOR, [Stage("mte2", 5.0, 100.0), Stage("mte3", 7.0, 50.0)], 1e6, 1, steps=2)
    cost = assemble(B2, found, 500)
    assert cost.busy_ns == cost.engines_ns["l2"] == math.ceil(1e6 / (B2.l2.rate_gb_s.value / 2))
    assert cost.tail_ns == 12
    assert cost.head_ns == math.ceil(launch_ns(B2, KernelKind.VECTOR, 2))
    assert cost.bound_by == "l2"


@pytest.mark.parametrize(
    ("kind", "figure"),
    [(KernelKind.VECTOR, "vector_ns"), (KernelKind.CUBE, "cube_ns"), (KernelKind.MIX, "mix_ns")],
)
def test_launch_counts_the_steps_of_the_program(kind: KernelKind, figure: str) -> None:
    machine = changed(B2, {f"launch.{figure}": 1234, "launch.step_ns": 50, "launch.cold_step_ns": 999})
    assert launch_ns(machine, kind, 0) == 1234
    assert launch_ns(machine, kind, 7) == 1234 + 7 * 50
    assert launch_ns(machine, KernelKind.LINK, 0) == machine.launch.collective_ns.value


# ------------------------------------------------------------------------------- buffers


@BOTH
@pytest.mark.parametrize("memory", [MemoryName.UB, MemoryName.L1, MemoryName.L0A, MemoryName.L0C])
def test_buffers_fill_a_memory_to_the_last_block_and_no_further(machine: Machine, memory: MemoryName) -> None:
    unit, room = machine.alignment(memory), machine.capacity(memory)
    first = ("first", memory, unit + 1, 2)  # two slots of two blocks each
    rest = room - 4 * unit
    placed = place_buffers(machine, [first, ("rest", memory, rest, 1)])
    assert [(b.offset_bytes, b.size_bytes, b.slots) for b in placed] == [(0, 2 * unit, 2), (4 * unit, rest, 1)]
    assert fits(machine, [first, ("rest", memory, rest, 1)])
    over = [first, ("rest", memory, rest + 1, 1)]
    assert not fits(machine, over)
    with pytest.raises(Misfit) as caught:
        place_buffers(machine, over)
    assert (caught.value.memory, caught.value.over_bytes) == (memory.value, unit)
    assert caught.value.needed_bytes == room + unit


def test_memories_are_filled_on_their_own() -> None:
    demands = [(memory.value, memory, B2.capacity(memory), 1) for memory in (MemoryName.UB, MemoryName.L1)]
    assert [buffer.offset_bytes for buffer in place_buffers(B2, demands)] == [0, 0]
    assert fits(B2, [])


def fused(request: Request, machine: Machine) -> Fusion:
    call = build_call(request, machine)
    found = Fuser(call.graph).judge(call.parts[0])
    assert found is not None
    return found


def drafted(request: Request, machine: Machine) -> list[tuple[Tiling, Draft]]:
    """Every tiling whose buffers fit, with its draft."""
    fusion = fused(request, machine)
    found = ((tiling, draft(fusion, machine, tiling)) for tiling in tilings(fusion, machine))
    return [(tiling, each) for tiling, each in found if fits(machine, each.demands)]


def buffered(features: int, machine: Machine) -> tuple[set[bool], set[bool]]:
    """Of the fitting ways to copy and scale rows in float32: whether each is serial, for whole rows and segments."""
    found = drafted(ask("softmax", "float32", (4 * machine.aiv_count, features)), machine)
    whole = {each.serial for tiling, each in found if len(tiling.tile) == 1}
    cut = {each.serial for tiling, each in found if len(tiling.tile) == 2}
    return whole, cut


@BOTH
def test_rows_fall_back_to_single_buffers_and_then_to_segments(machine: Machine) -> None:
    """A row of softmax takes 4 bytes per element of its operand and of its result, in two slots each where they are
    double, and two copies of 4 bytes to work on: 24 bytes per element double, 16 single."""
    room = machine.capacity(MemoryName.UB)
    double, single, longer = room // 24 // 8 * 8, room // 16 // 8 * 8, room // 4
    assert buffered(room // 32 // 8 * 8, machine)[0] == {False, True}  # one row at a time double, two of them single
    assert buffered(double, machine)[0] == {False}
    assert buffered(double + 16, machine)[0] == {True}
    assert buffered(single, machine)[0] == {True}
    whole, cut = buffered(single + 16, machine)
    assert whole == set()
    assert False in cut
    part = only(estimate(ask("softmax", "float32", (64, longer)), machine))
    assert set(part.tiling.tile) == {"outer", "row"}
    assert part.tiling.tile["row"] < longer


@BOTH
def test_single_buffers_take_turns(machine: Machine) -> None:
    """Load, compute and store are added up, whatever share is exposed otherwise."""
    features = machine.capacity(MemoryName.UB) // 16 // 8 * 8
    for tiling, each in drafted(ask("softmax", "float32", (64, features)), machine):
        if len(tiling.tile) == 1:
            assert each.serial
            cost = assemble(machine, each, 1000)
            total = sum(stage.total_ns for stage in each.stages)
            assert cost.busy_ns == max(math.ceil(total), cost.engines_ns["l2"])


@BOTH
def test_segments_read_a_row_twice_and_write_it_once(machine: Machine) -> None:
    features = machine.capacity(MemoryName.UB)  # bytes of UB as elements of 4: no row fits
    size = 8 * features * 4
    ways = drafted(ask("softmax", "float32", (8, features)), machine)
    assert ways
    for _, each in ways:
        assert each.l2_bytes == pytest.approx(2 * size + size, rel=1e-6)


# ------------------------------------------------------------------------------- how parts add up

SINGLE = [
    ask("matmul", "float16", (256, 512), (512, 1024)),
    ask("quant_matmul", "int8", (64, 512), (512, 1024), (1024,), (64,)),
    ask("gqa", "bfloat16", (2, 64, 8, 128), (2, 512, 2, 128), (2, 512, 2, 128)),
    ask("add_rms_norm_dynamic_quant", "float16", (512, 1024), (512, 1024), (1024,)),
]


@BOTH
@pytest.mark.parametrize("request_", SINGLE, ids=lambda each: each.op)
def test_one_part_is_launch_fill_body_and_drain(request_: Request, machine: Machine) -> None:
    found = estimate(request_, machine)
    part = only(found)
    assert found.launch_ns == math.ceil(launch_ns(machine, found.kind, part.steps))
    assert found.cold_ns == math.ceil(part.steps * machine.launch.cold_step_ns.value)
    assert found.total_ns == found.cold_ns + found.launch_ns + sum(spent(found))
    assert part.fill_ns >= 0
    assert part.body_ns == max(part.cost.busy_ns, part.phase_ns)
    assert part.tiling.l2_permille == 1000


@BOTH
def test_parts_in_turn_wait_for_each_other(machine: Machine) -> None:
    found = estimate(ask("mla_prolog", "bfloat16", (1, 8, 512), (512, 256), (256, 768)), machine)
    assert found.kind is KernelKind.MIX
    steps = sum(part.steps for part in found.parts)
    assert found.launch_ns == math.ceil(launch_ns(machine, KernelKind.MIX, steps))
    waits = math.ceil(machine.sync_ns.value) * 5
    assert found.total_ns == found.cold_ns + found.launch_ns + sum(spent(found)) + waits
    assert found.cold_ns == math.ceil(steps * machine.launch.cold_step_ns.value)


@BOTH
@pytest.mark.parametrize(
    "request_",
    [
        ask("weight_quant_batch_matmul", "float16", (64, 2048), (2048, 4096)),
        ask("grouped_matmul_swiglu_quant", "int8", (512, 1024), (4, 1024, 1024)),
    ],
    ids=lambda each: each.op,
)
def test_parts_together_share_one_channel(request_: Request, machine: Machine) -> None:
    """No faster than either alone, than both on the HBM channel, or than all reads and results through it; the two
    overlap, so that they need less than one after the other."""
    found = estimate(request_, machine)
    assert len(found.parts) == 2
    inside = found.total_ns - found.launch_ns - found.cold_ns
    for part in found.parts:
        assert inside >= max(ns for engine, ns in part.cost.engines_ns.items() if engine not in ("l2", "mte2"))
    assert inside >= sum(part.phase_ns for part in found.parts)
    moved = sum(part.traffic.total_bytes for part in found.parts)
    assert inside >= moved / machine.hbm.rate_gb_s.value
    assert inside < sum(spent(found)) + math.ceil(machine.sync_ns.value)


@BOTH
def test_what_parts_hand_over_never_goes_to_hbm(machine: Machine) -> None:
    found = estimate(ask("weight_quant_batch_matmul", "float16", (64, 256), (256, 512)), machine)
    read = {name for part in found.parts for name in part.traffic.read}
    assert read == {"left", "weight", "column_scale"}
    assert all(not part.traffic.written for part in found.parts)


# ------------------------------------------------------------------------------- what lies in L2


@BOTH
@pytest.mark.parametrize(("eighths", "spilt"), [(3, 0), (4, 0), (5, 2), (6, 4), (8, 8), (9, 9)])
def test_results_that_do_not_fit_beside_what_was_read_are_written(machine: Machine, eighths: int, spilt: int) -> None:
    """Copies of so many eighths of L2: what they read and write, less L2 itself, and never more than they write."""
    size = machine.capacity(MemoryName.L2) * eighths // 8
    moved = only(estimate(ask("copy", "float16", (size // 2,)), machine)).traffic
    wanted = machine.capacity(MemoryName.L2) * spilt // 8
    assert moved.read == {"x": size}
    assert sum(moved.written.values()) == pytest.approx(wanted, abs=1)
    assert moved.total_bytes == sum(moved.read.values()) + sum(moved.written.values())


def test_a_network_streams_weights_and_caches_and_finds_activations() -> None:
    keys = ask("gqa", "bfloat16", (2, 1, 8, 128), (2, 512, 2, 128), (2, 512, 2, 128), network=True)
    assert set(only(estimate(keys, B2)).traffic.read) == {"k", "v"}
    norm = ask("add_rms_norm", "bfloat16", (64, 1024), (64, 1024), (1024,), network=True)
    assert list(only(estimate(norm, B2)).traffic.read.values()) == [1024 * 2]
    assert only(estimate(ask("swi_glu", "bfloat16", (64, 1024), network=True), B2)).traffic.total_bytes == 0


@BOTH
def test_activations_beyond_l2_are_streamed_in_a_network_too(machine: Machine) -> None:
    rows = machine.capacity(MemoryName.L2) // 2 // 4096  # operand and result fill L2 to the last byte
    fitting, larger = (ask("copy", "int8", (4096 * each,), network=True) for each in (rows, rows + 1))
    assert only(estimate(fitting, machine)).traffic.total_bytes == 0
    assert only(estimate(larger, machine)).traffic.read == {"x": 4096 * (rows + 1)}


# ------------------------------------------------------------------------------- physics of any kernel


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Products, attention and rows of any size."""
    op = draw(st.sampled_from(["matmul", "quant_matmul", "grouped_matmul", "gqa", "rms_norm", "softmax", "copy"]))
    size = st.integers(1, 3000)
    if op in ("matmul", "quant_matmul"):
        m, k, n = draw(size), draw(size), draw(size)
        return ask(op, "int8" if op == "quant_matmul" else "float16", (m, k), (k, n))
    if op == "grouped_matmul":
        k = draw(size)
        return ask(op, "bfloat16", (draw(size), k), (draw(st.integers(1, 16)), k, draw(st.integers(1, 500))))
    if op == "gqa":
        batch, heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 8))
        context = draw(size)
        queries = draw(st.sampled_from([1, context]))
        keys = (batch, context, heads, 128)
        causal = "is_causal: True" if draw(st.booleans()) else ""
        return ask(op, "bfloat16", (batch, queries, heads * group, 128), keys, keys, attributes=causal)
    return ask(op, draw(st.sampled_from(["float16", "float32"])), (draw(size), draw(st.integers(1, 20_000))))


def in_network(request: Request) -> Request:
    return Request(request.op, request.dtype, request.shapes, request.attributes, network=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(request=requests(), machine=st.sampled_from([B2, PR]))
def test_no_kernel_beats_the_chip(request: Request, machine: Machine) -> None:
    """The whole estimate takes at least its bytes over the HBM rate and its macs over the peak, and its buffers lie
    in their memories, aligned and apart. In a network it is no slower than alone."""
    found = estimate(request, machine)
    part = only(found)
    graph = found.call.graph
    assert found.total_ns >= part.traffic.total_bytes / machine.hbm.rate_gb_s.value
    macs = sum(operator.macs for operator in graph.operators)
    if macs:
        rate = machine.cube.macs_per_cycle[request.dtype].value * machine.aic_count / machine.ns_per_cycle
        assert found.total_ns >= macs / rate
    assert part.tiling.aic <= machine.aic_count
    assert part.tiling.aiv <= machine.aiv_count
    top: dict[MemoryName, int] = {}
    for buffer in part.cost.buffers:
        assert buffer.offset_bytes % machine.alignment(buffer.memory) == 0
        assert buffer.offset_bytes >= top.get(buffer.memory, 0)
        top[buffer.memory] = buffer.offset_bytes + buffer.slots * buffer.size_bytes
        assert top[buffer.memory] <= machine.capacity(buffer.memory)
    warm = estimate(in_network(request), machine)
    assert warm.total_ns <= found.total_ns
    assert warm.cold_ns == 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(request=requests(), machine=st.sampled_from([B2, PR]))
def test_a_faster_hbm_is_no_slower(request: Request, machine: Machine) -> None:
    """Up to the rounding of a port's time per MiB."""
    better = changed(machine, {"hbm.rate_gb_s": 2 * machine.hbm.rate_gb_s.value})
    assert estimate(request, better).total_ns <= 1.002 * estimate(request, machine).total_ns


@settings(max_examples=30, deadline=None, derandomize=True)
@given(request=requests(), machine=st.sampled_from([B2, PR]))
def test_twice_the_cores_are_no_slower(request: Request, machine: Machine) -> None:
    """Each chip's tilings are among those of a chip with twice its cores."""
    better = changed(machine, {"aic": 2 * machine.aic.value, "aiv": 2 * machine.aiv.value})
    assert estimate(request, better).total_ns <= 1.002 * estimate(request, machine).total_ns


def test_what_cannot_run_on_a_chip_says_why() -> None:
    with pytest.raises(Unmodelled, match="matrix unit for int32"):
        estimate(ask("matmul", "int32", (64, 64), (64, 64)), B2)
    with pytest.raises(Unmodelled, match=r"l1: \d+ bytes over"):  # 16 rows of such heads exceed it
        estimate(ask("mha", "float16", *((1, 16, 1, 40_000),) * 3), B2)
