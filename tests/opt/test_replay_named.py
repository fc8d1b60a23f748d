"""Named corruptions, each sealed anew so that nothing but the broken rule can give it away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from instances.build import build_instance
from instances.documents import parse
from instances.instance import Instance
from instances.kernels import KernelKind
from instances.machine import MemoryName, load_machine
from instances.schedule import Schedule
from opt.replay import Violation, replay
from solvers.interface import Options
from solvers.sequential import solve_unfused
from tests.conftest import llama_graph

Data = dict[str, Any]
"""A schedule as JSON."""

Corruption = Callable[[Data], None]

MOVE_NS = 638
"""Time of an explicit move of 16 rows of 5120 elements of 2 bytes: 500 + 163840 / 1190, rounded up."""

CORRUPTIONS: list[tuple[str, str, str, Corruption]] = []
"""Name, rule that must be named, words that must be in its place or detail, and what is done."""


def corruption(rule: str, words: str = "") -> Callable[[Corruption], Corruption]:
    """Register a corruption under its function's name."""

    def register(function: Corruption) -> Corruption:
        CORRUPTIONS.append((function.__name__, rule, words, function))
        return function

    return register


@pytest.mark.parametrize(("name", "rule", "words", "corrupt"), CORRUPTIONS, ids=[c[0] for c in CORRUPTIONS])
def test_corruption_is_named(
    qwen: Instance, scripted: Schedule, name: str, rule: str, words: str, corrupt: Corruption
) -> None:
    found = violations(qwen, scripted, corrupt)
    assert "seal" not in {v.rule for v in found}
    hits = [v for v in found if v.rule == rule and words in f"{v.place}: {v.detail}"]
    assert hits, f"{rule} ({words}) is not among {[str(v) for v in found]}"
    assert all(v.detail and v.place and str(v).startswith(f"[{v.rule}] {v.place}") for v in found)


def violations(instance: Instance, schedule: Schedule, corrupt: Corruption) -> tuple[Violation, ...]:
    """What the replay says to a corrupted schedule with a seal of its own."""
    data = schedule.model_dump(mode="json")
    corrupt(data)
    return replay(instance, parse(Schedule, data, "corrupted").sealed()).violations


# ------------------------------------------------------------------------------- places


def kernel(data: Data, operator: str) -> Data:
    """The kernel that holds an operator."""
    return next(k for k in data["kernels"] if operator in k["operators"])


def move(data: Data, kind: str, tensor: str) -> Data:
    return next(m for m in data["moves"] if (m["kind"], m["tensor"]) == (kind, tensor))


def stay(data: Data, tensor: str, number: int = 0) -> Data:
    """A residency of a tensor, by order of start."""
    return [r for r in data["residencies"] if r["tensor"] == tensor][number]


def buffer(data: Data, operator: str, name: str, memory: MemoryName) -> Data:
    found = kernel(data, operator)["buffers"]
    return next(b for b in found if (b["name"], b["memory"]) == (name, memory.value))


# ------------------------------------------------------------------------------- times


@corruption("precedence", "is complete 1 ns after the start")
def start_one_early(data: Data) -> None:
    kernel(data, "l0.gate_proj")["start_ns"] -= MOVE_NS + 1  # past the spill, into its producer


@corruption("duration", "says it ends")
def start_one_late(data: Data) -> None:
    kernel(data, "l0.input_norm")["start_ns"] += 1


@corruption("precedence")
def all_of_a_kernel_earlier(data: Data) -> None:
    head = kernel(data, "lm_head")
    for field in ("start_ns", "end_ns", "hbm_start_ns"):
        head[field] -= 10


@corruption("duration")
def end_one_early(data: Data) -> None:
    kernel(data, "l0.down_proj")["end_ns"] -= 1


@corruption("duration")
def end_one_late(data: Data) -> None:
    kernel(data, "l0.down_proj")["end_ns"] += 1


@corruption("duration")
def end_of_a_collective_one_early(data: Data) -> None:
    kernel(data, "l0.mlp_all_reduce")["end_ns"] -= 1


@corruption("duration")
def phase_one_late_where_it_sets_the_end(data: Data) -> None:
    kernel(data, "lm_head")["hbm_start_ns"] += 1


@corruption("hbm_phase", "phase starts 1 ns before the body does")
def phase_before_the_body(data: Data) -> None:
    kernel(data, "l0.gate_proj")["hbm_start_ns"] -= 1


@corruption("hbm_phase", "phase starts")
def phase_with_the_launch(data: Data) -> None:
    found = kernel(data, "l0.gate_proj")
    found["hbm_start_ns"] = found["start_ns"]


@corruption("hbm_phase", "holds the channel for")
def phase_one_short(data: Data) -> None:
    kernel(data, "l0.gate_proj")["hbm_ns"] -= 1


@corruption("hbm_phase", "holds the channel for")
def phase_one_long(data: Data) -> None:
    kernel(data, "l0.gate_proj")["hbm_ns"] += 1


@corruption("hbm_phase", "do not go together")
def phase_missing(data: Data) -> None:
    kernel(data, "l0.gate_proj").update(hbm_start_ns=None, hbm_ns=0)


@corruption("hbm_phase", "do not go together")
def phase_without_traffic(data: Data) -> None:
    found = kernel(data, "l0.mlp_all_reduce")
    found["hbm_start_ns"] = found["start_ns"]


@corruption("latency", "the replay ends at")
def latency_one_short(data: Data) -> None:
    data["latency_ns"] -= 1


@corruption("latency")
def latency_one_long(data: Data) -> None:
    data["latency_ns"] += 1


# ------------------------------------------------------------------------------- cores


@corruption("core_count", "aic")
def core_doubled(data: Data) -> None:
    ids = kernel(data, "l0.o_proj")["aic_ids"]
    ids[1] = ids[0]


@corruption("core_id", "aic 24 does not exist")
def core_beyond_count(data: Data) -> None:
    kernel(data, "l0.o_proj")["aic_ids"][-1] = 24


@corruption("core_id", "aiv 48 does not exist")
def vector_core_beyond_count(data: Data) -> None:
    kernel(data, "l0.post_norm")["aiv_ids"][-1] = 48


@corruption("core_count", "aic cores, its tiling takes")
def too_few_cores(data: Data) -> None:
    kernel(data, "l0.o_proj")["aic_ids"].pop()


@corruption("core_count", "aiv cores, its tiling takes")
def too_many_cores(data: Data) -> None:
    kernel(data, "l0.post_norm")["aiv_ids"].insert(0, 0)


@corruption("cores", "on aic 0")
def two_kernels_on_one_core(data: Data) -> None:
    """q and k, v run at once; now both on the first cube core of q and its two vector cores."""
    kernel(data, "l0.q_proj").update(aic_ids=[0, 1, 2, 3], aiv_ids=[0, 1, 2, 3, 4, 5, 6, 7])
    kernel(data, "l0.k_proj").update(aic_ids=[0], aiv_ids=[0, 1])


@corruption("partners", "vector cores [47] do not belong to its cube cores")
def another_cores_vector_core(data: Data) -> None:
    kernel(data, "l0.k_proj")["aiv_ids"][-1] = 47


# ------------------------------------------------------------------------------- in-core buffers


@corruption("overlap", "buffers overlap by 512 bytes")
def buffers_overlap_by_one_unit(data: Data) -> None:
    """L1 of the mixed attention holds query, keys, values and probabilities, one after the other."""
    buffer(data, "l0.softmax", "values", MemoryName.L1)["offset_bytes"] -= 512


@corruption("overlap", "buffers overlap by 32 bytes")
def buffers_overlap_by_32_bytes(data: Data) -> None:
    buffer(data, "l0.gate_proj", "right", MemoryName.L1)["offset_bytes"] -= 32


@corruption("alignment", "is 1 bytes past a multiple of 32")
def buffer_misaligned(data: Data) -> None:
    buffer(data, "l0.input_norm", "work", MemoryName.UB)["offset_bytes"] += 1


@corruption("alignment", "past a multiple of 512")
def buffer_aligned_to_half_a_fractal(data: Data) -> None:
    buffer(data, "l0.gate_proj", "left", MemoryName.L0A)["offset_bytes"] += 256


@corruption("capacity", "ends 32 bytes beyond ub")
def buffer_beyond_capacity(data: Data) -> None:
    """UB has 188416 bytes."""
    work = buffer(data, "l0.input_norm", "work", MemoryName.UB)
    work["offset_bytes"] = 188416 - work["slots"] * work["size_bytes"] + 32


@corruption("buffers", "work")
def buffer_too_small(data: Data) -> None:
    buffer(data, "l0.input_norm", "work", MemoryName.UB)["size_bytes"] -= 32


@corruption("buffers", "work")
def buffer_too_large(data: Data) -> None:
    buffer(data, "l0.input_norm", "work", MemoryName.UB)["size_bytes"] += 32


@corruption("buffers", "read0")
def buffer_with_one_slot(data: Data) -> None:
    buffer(data, "l0.input_norm", "read0", MemoryName.UB)["slots"] = 1


@corruption("buffers", "work")
def buffer_missing(data: Data) -> None:
    kernel(data, "l0.input_norm")["buffers"].pop()


@corruption("buffers", "one twice")
def buffer_twice(data: Data) -> None:
    found = kernel(data, "l0.input_norm")["buffers"]
    found.append({**found[-1], "offset_bytes": 131072})


@corruption("buffers")
def buffer_in_another_memory(data: Data) -> None:
    buffer(data, "l0.gate_proj", "left", MemoryName.L0A)["memory"] = "l0b"


# ------------------------------------------------------------------------------- L2


@corruption("overlap", "l0.o, l0.o_reduced in l2")
def residencies_overlap(data: Data) -> None:
    """The collective reads one and makes the other: both are alive; one L2 line (512 bytes) of overlap is enough."""
    stay(data, "l0.o_reduced")["offset_bytes"] -= 512


@corruption("alignment", "in l2")
def residency_misaligned(data: Data) -> None:
    stay(data, "logits")["offset_bytes"] += 256


@corruption("capacity", "ends 512 bytes beyond l2")
def residency_beyond_capacity(data: Data) -> None:
    found = stay(data, "logits")
    found["offset_bytes"] = 192 * 2**20 - found["size_bytes"] + 512


@corruption("l2_read", "l0.down")
def residency_ends_before_the_reader(data: Data) -> None:
    stay(data, "l0.down")["end_ns"] -= 1


@corruption("residency", "its last use at")
def residency_outlives_its_last_use(data: Data) -> None:
    stay(data, "l0.down")["end_ns"] += 1


@corruption("residency", "the tensor takes 163840")
def residency_too_small(data: Data) -> None:
    stay(data, "l0.down")["size_bytes"] -= 512


@corruption("residency", "the tensor takes 163840")
def residency_too_large(data: Data) -> None:
    stay(data, "l0.down")["size_bytes"] += 512


@corruption("residency", "no kernel that leaves the tensor in L2 and no move that brings it")
def residency_without_origin(data: Data) -> None:
    stay(data, "l0.down")["start_ns"] += 1


@corruption("residency", "no kernel that leaves the tensor in L2 and no move that brings it")
def residency_of_a_weight_that_nobody_brought(data: Data) -> None:
    data["residencies"].append(
        {"tensor": "l0.w_k", "offset_bytes": 2**26, "size_bytes": 1310720, "start_ns": 0, "end_ns": 62063}
    )
    for read in kernel(data, "l0.k_proj")["reads"]:
        if read["tensor"] == "l0.w_k":
            read["source"] = "l2"


@corruption("residency", "is listed twice")
def residency_twice(data: Data) -> None:
    data["residencies"].append({**stay(data, "l0.down"), "offset_bytes": 2**26})


@corruption("residency", "but no residency starts with the kernel")
def residency_missing(data: Data) -> None:
    data["residencies"].remove(stay(data, "l0.down"))


@corruption("residency", "but a residency starts with the kernel")
def residency_that_the_kernel_does_not_leave(data: Data) -> None:
    kernel(data, "l0.down_proj")["writes"][0].update(l2=False, hbm=True)


@corruption("l2_read", "l0.w_gate")
def reader_of_a_tensor_that_is_not_there(data: Data) -> None:
    for read in kernel(data, "l0.gate_proj")["reads"]:
        if read["tensor"] == "l0.w_gate":
            read["source"] = "l2"


@corruption("l2_read", "l0.h")
def reader_before_the_fill_ended(data: Data) -> None:
    """The fill of h moves behind the collective, into the kernel that reads h."""
    begin = kernel(data, "l0.mlp_add")["start_ns"] - MOVE_NS + 1
    move(data, "fill", "l0.h").update(start_ns=begin, end_ns=begin + MOVE_NS)
    stay(data, "l0.h", 1)["start_ns"] = begin


@corruption("l2_read", "l0.w_q")
def reader_before_the_prefetch_ended(data: Data) -> None:
    """The prefetch of w_q moves so far back that it ends 1 ns after its reader starts."""
    found = move(data, "prefetch", "l0.w_q")
    late = kernel(data, "l0.q_proj")["start_ns"] + 1 - found["end_ns"]
    stay(data, "l0.w_q")["start_ns"] += late
    found["start_ns"] += late
    found["end_ns"] += late


@corruption("l2_rate", "thousandths of the L2 rate")
def l2_rate_handed_out_twice(data: Data) -> None:
    """q takes all of the rate while k, v have a share; its duration does not depend on it."""
    kernel(data, "l0.q_proj")["tiling"]["l2_permille"] = 1000


@corruption("workspace", "bytes of workspace in L2, none is given")
def workspace_missing(data: Data) -> None:
    kernel(data, "l0.softmax")["workspace_offset_bytes"] = None


@corruption("workspace", "needs 0 bytes of workspace in L2, one is given")
def workspace_of_a_kernel_without(data: Data) -> None:
    kernel(data, "l0.o_proj")["workspace_offset_bytes"] = 0


@corruption("overlap", "workspace of l0.q_proj+l0.q_norm+l0.rope_q")
def workspaces_overlap(data: Data) -> None:
    kernel(data, "l0.q_proj")["workspace_offset_bytes"] = kernel(data, "l0.k_proj")["workspace_offset_bytes"]


@corruption("overlap", "l0.w_q, workspace of l0.q_proj")
def workspace_over_a_tensor(data: Data) -> None:
    weight = stay(data, "l0.w_q")
    kernel(data, "l0.q_proj")["workspace_offset_bytes"] = weight["offset_bytes"] + weight["size_bytes"] - 512


@corruption("alignment", "workspace of")
def workspace_misaligned(data: Data) -> None:
    kernel(data, "l0.softmax")["workspace_offset_bytes"] = 2**26 + 32


@corruption("capacity", "workspace of")
def workspace_beyond_capacity(data: Data) -> None:
    kernel(data, "l0.softmax")["workspace_offset_bytes"] = 192 * 2**20 - 512


# ------------------------------------------------------------------------------- HBM


@corruption("hbm_read", "l0.o_reduced: reaches HBM 1 ns too late")
def hbm_read_before_the_spill_ended(data: Data) -> None:
    found = move(data, "spill", "l0.o_reduced")
    found["start_ns"] += 1
    found["end_ns"] += 1
    stay(data, "l0.o_reduced")["end_ns"] += 1


@corruption("hbm_read", "is read from HBM but never written there")
def hbm_read_without_a_spill(data: Data) -> None:
    data["moves"].remove(move(data, "spill", "l0.o_reduced"))


@corruption("hbm_read", "fill of l0.h: is read from HBM but never written there")
def fill_without_a_spill(data: Data) -> None:
    data["moves"].remove(move(data, "spill", "l0.h"))


@corruption("hbm_read", "l0.gate: is read from HBM but never written there")
def made_tensor_read_from_hbm(data: Data) -> None:
    for read in kernel(data, "l0.act")["reads"]:
        if read["tensor"] == "l0.gate":
            read["source"] = "hbm"


@corruption("output", "l0.cache_k_rows: is never written to HBM")
def spill_of_an_output_missing(data: Data) -> None:
    data["moves"].remove(move(data, "spill", "l0.cache_k_rows"))


@corruption("output", "l0.cache_v_rows")
def output_not_written_out(data: Data) -> None:
    kernel(data, "l0.v_proj")["writes"][1]["hbm"] = False


@corruption("writes", "goes nowhere")
def result_goes_nowhere(data: Data) -> None:
    kernel(data, "l0.up_proj")["writes"][0].update(l2=False, hbm=False)


@corruption("spill", "the tensor is not in L2 while it is written out")
def spill_after_the_residency(data: Data) -> None:
    begin = data["latency_ns"] + 1
    move(data, "spill", "l0.h").update(start_ns=begin, end_ns=begin + MOVE_NS)


@corruption("spill", "the tensor is not in L2 while it is written out")
def spill_before_the_tensor_is_made(data: Data) -> None:
    found = move(data, "spill", "l0.h")
    found["start_ns"] -= 1
    found["end_ns"] -= 1


@corruption("move", "reads a part of it")
def prefetch_of_a_tensor_that_is_read_in_part(data: Data) -> None:
    """The embedding table, of which 16 of 18992 rows are read: 500 + 194478080 / 1190 = 163928 ns."""
    when = {"tensor": "w_embed", "start_ns": data["latency_ns"], "end_ns": data["latency_ns"] + 163928}
    data["moves"].append({**when, "kind": "prefetch"})
    data["residencies"].append({**when, "offset_bytes": 0, "size_bytes": 194478080})


@corruption("move", "is not a move for a tensor of role weight")
def fill_of_a_weight(data: Data) -> None:
    move(data, "prefetch", "l0.w_q")["kind"] = "fill"


@corruption("move", "is not a move for a tensor of role intermediate")
def prefetch_of_a_made_tensor(data: Data) -> None:
    move(data, "fill", "l0.h")["kind"] = "prefetch"


@corruption("move", "is not a move for a tensor of role weight")
def spill_of_a_weight(data: Data) -> None:
    move(data, "prefetch", "l0.w_q")["kind"] = "spill"


@corruption("move", "takes 9312 ns")
def move_one_short(data: Data) -> None:
    move(data, "prefetch", "l0.w_q")["end_ns"] -= 1


@corruption("move", "takes 9312 ns")
def move_one_long(data: Data) -> None:
    move(data, "prefetch", "l0.w_q")["end_ns"] += 1


@corruption("move", "tensor is not in the graph")
def move_of_an_unknown_tensor(data: Data) -> None:
    data["moves"].append({"tensor": "nobody", "kind": "spill", "start_ns": 0, "end_ns": 1})


@corruption("residency", "has no place in L2")
def prefetch_without_a_place(data: Data) -> None:
    data["residencies"].remove(stay(data, "l0.w_q"))


@corruption("channel", "l0.down_proj, fill of l0.h on channel")
def channel_used_twice_by_kernel_and_move(data: Data) -> None:
    begin = kernel(data, "l0.down_proj")["hbm_start_ns"] + 100
    stay(data, "l0.h", 1)["start_ns"] = begin
    move(data, "fill", "l0.h").update(start_ns=begin, end_ns=begin + MOVE_NS)


@corruption("channel", "l0.q_proj+l0.q_norm+l0.rope_q")
def channel_used_twice_by_two_kernels(data: Data) -> None:
    """The phase of k, v is moved to where it meets that of q for one ns."""
    first = kernel(data, "l0.q_proj")
    kernel(data, "l0.k_proj")["hbm_start_ns"] = first["hbm_start_ns"] + first["hbm_ns"] - 1


@corruption("channel", "both hold channel for 1 ns")
def channel_used_twice_by_two_moves(data: Data) -> None:
    end = move(data, "prefetch", "l0.w_q")["end_ns"]
    data["moves"].append({"tensor": "embedded", "kind": "spill", "start_ns": end - 1, "end_ns": end - 1 + MOVE_NS})


# ------------------------------------------------------------------------------- kernels


@corruption("cover", "operator is in 2 kernels")
def operator_covered_twice(data: Data) -> None:
    data["kernels"].append({**kernel(data, "l0.post_norm"), "start_ns": 10**6, "end_ns": 10**6 + 1, "reads": []})


@corruption("cover", "l0.gate_proj: operator is in 0 kernels")
def operator_not_covered(data: Data) -> None:
    data["kernels"].remove(kernel(data, "l0.gate_proj"))


@corruption("cover", "operator 'nobody' is not in the graph")
def unknown_operator(data: Data) -> None:
    kernel(data, "l0.gate_proj")["operators"] = ["nobody"]


@corruption("group", "these operators may not be one kernel")
def group_that_is_not_convex(data: Data) -> None:
    """attn_add makes h, post_norm and the rest of the feed-forward lie between it and mlp_add."""
    kernel(data, "l0.mlp_add")["operators"] = ["l0.attn_add", "l0.mlp_add"]


@corruption("group", "these operators may not be one kernel")
def group_with_a_collective(data: Data) -> None:
    kernel(data, "l0.o_proj")["operators"] = ["l0.o_proj", "l0.attn_all_reduce"]


@corruption("group", "operators are out of order")
def group_out_of_order(data: Data) -> None:
    kernel(data, "l0.attn_add")["operators"].reverse()


@corruption("kind", "says cube/single, is vector/single")
def kernel_kind_wrong(data: Data) -> None:
    kernel(data, "l0.input_norm")["kind"] = "cube"


@corruption("kind", "says mix/gated_matmuls, is mix/cube_with_vector_epilogue")
def kernel_rule_wrong(data: Data) -> None:
    kernel(data, "l0.up_proj")["rule"] = "gated_matmuls"


@corruption("reads", "must list")
def read_not_listed(data: Data) -> None:
    kernel(data, "l0.gate_proj")["reads"].pop()


@corruption("writes", "must list")
def write_not_listed(data: Data) -> None:
    kernel(data, "l0.post_norm")["writes"].pop()


@corruption("tiling", "l0b, 65536 bytes over")
def tile_too_large_for_l0b(data: Data) -> None:
    """Two slots of 256 columns x 128 of depth x 2 bytes are 131072 bytes; L0B has 65536."""
    kernel(data, "l0.gate_proj")["tiling"].update(tile={"batch*seq": 16, "ffn": 256, "hidden": 128}, aic=13)


@corruption("tiling", "ub")
def tile_too_large_for_ub(data: Data) -> None:
    """All 16 rows in one tile: two slots each of two operands and the result come to 500 KiB and more."""
    kernel(data, "l0.input_norm")["tiling"].update(tile={"batch*seq": 16}, aiv=1)


@corruption("tiling", "multiples of the 16 x 16")
def tile_that_is_no_fractal(data: Data) -> None:
    kernel(data, "l0.gate_proj")["tiling"]["tile"]["ffn"] = 65


@corruption("tiling", "does not fit")
def tile_along_another_dimension(data: Data) -> None:
    kernel(data, "l0.gate_proj")["tiling"]["tile"] = {"batch*seq": 16, "hidden": 64, "context": 256}


@corruption("tiling", "vector cores of a mixed kernel")
def mixed_kernel_without_vector_cores(data: Data) -> None:
    found = kernel(data, "l0.up_proj")
    found["tiling"]["aiv"] = 0
    found["aiv_ids"] = []


@corruption("tiling", "l2 rate")
def no_share_of_the_l2_rate(data: Data) -> None:
    kernel(data, "l0.gate_proj")["tiling"]["l2_permille"] = 0


@corruption("duration", "says it ends")
def share_of_the_l2_rate_too_small(data: Data) -> None:
    kernel(data, "l0.gate_proj")["tiling"]["l2_permille"] = 100


@corruption("link", "on link")
def link_used_twice(data: Data) -> None:
    """Two collectives at once."""
    first, second = kernel(data, "embed_all_reduce"), kernel(data, "l0.attn_all_reduce")
    second.update(start_ns=first["start_ns"] + 5, end_ns=first["end_ns"] + 5)


# ------------------------------------------------------------------------------- proof


@corruption("bound", "is not its best argument")
def bound_not_its_best_argument(data: Data) -> None:
    data["proof"]["bound_ns"] -= 1


@corruption("bound", "is not its best argument")
def bound_by_another_argument(data: Data) -> None:
    data["proof"]["bound_by"] = "shortest_kernel"


@corruption("bound", "1 ns above the latency it bounds")
def bound_above_the_latency(data: Data) -> None:
    above = data["latency_ns"] + 1
    data["proof"].update(bound_ns=above, bound_by="search", bounds_ns={"search": above})


@corruption("bound", "a bound of 0 proves nothing")
def bound_of_zero(data: Data) -> None:
    data["proof"].update(bound_ns=0, bound_by="none", bounds_ns={"none": 0})


@corruption("bound", "hbm_traffic: says")
def bound_by_traffic_misreported(data: Data) -> None:
    data["proof"]["bounds_ns"]["hbm_traffic"] += 1
    data["proof"]["bound_ns"] += 1


@corruption("status", "status optimal does not follow")
def optimal_without_equality(data: Data) -> None:
    data["proof"]["status"] = "optimal"


@corruption("status", "status feasible does not follow")
def feasible_with_equality(data: Data) -> None:
    latency = data["latency_ns"]
    data["proof"]["bounds_ns"]["search"] = latency
    data["proof"].update(bound_ns=latency, bound_by="search")


@corruption("instance", "was made for another graph or machine")
def schedule_of_another_instance(data: Data) -> None:
    data["instance"] = data["instance"][::-1]


# ------------------------------------------------------------------------------- whole schedules


def test_schedule_of_another_model_is_refused(llama: Instance, scripted: Schedule) -> None:
    """Nothing fits, and the replay says so without stumbling."""
    rules = {v.rule for v in replay(llama, scripted).violations}
    assert {"instance", "cover"} <= rules


def test_coupled_core_is_one_core() -> None:
    """On 310P3 cube core i and vector core i are one core: a cube kernel cannot hold the cube of one and the vector
    unit and UB of another."""
    instance = build_instance(llama_graph(dtype="float16"), load_machine("ascend310p3"))
    good = solve_unfused(instance, Options(time_limit_s=1)).schedule
    found = next(k for k in good.kernels if k.kind is KernelKind.CUBE)
    assert replay(instance, good).valid
    assert set(found.aiv_ids) == set(found.aic_ids)

    def corrupt(data: Data) -> None:
        ids = kernel(data, found.operators[0])
        ids["aiv_ids"] = [
            15 - 1 - core for core in ids["aic_ids"]
        ]  # 14 down to 7: all but one of them no AI core at all

    assert "partners" in {v.rule for v in violations(instance, good, corrupt)}


def test_the_seal_alone(qwen: Instance, scripted: Schedule) -> None:
    for seal in ("", "0" * 64):
        outcome = replay(qwen, scripted.model_copy(update={"seal": seal}))
        assert [v.rule for v in outcome.violations] == ["seal"]


def test_amounts_and_times(qwen: Instance, scripted: Schedule) -> None:
    """A violation says by how much and when: spot checks where the change is the amount."""
    data = scripted.model_dump(mode="json")
    norm, gate, down = (kernel(data, name) for name in ("l0.input_norm", "l0.gate_proj", "l0.down_proj"))
    queries, keys = kernel(data, "l0.q_proj"), kernel(data, "l0.k_proj")
    cases: list[tuple[Corruption, str, float, int | None]] = [
        (end_one_late, "duration", 1, down["end_ns"] + 1),
        (end_one_early, "duration", -1, down["end_ns"] - 1),
        (phase_one_short, "hbm_phase", -1, gate["hbm_start_ns"]),
        (phase_before_the_body, "hbm_phase", 1, gate["hbm_start_ns"] - 1),
        (buffers_overlap_by_32_bytes, "overlap", 32, gate["start_ns"]),
        (buffer_misaligned, "alignment", 1, norm["start_ns"]),
        (buffer_beyond_capacity, "capacity", 32, norm["start_ns"]),
        (residencies_overlap, "overlap", 512, stay(data, "l0.o_reduced")["start_ns"]),
        (residency_too_large, "residency", 512, down["start_ns"]),
        (l2_rate_handed_out_twice, "l2_rate", keys["tiling"]["l2_permille"], queries["start_ns"]),
        (move_one_short, "move", -1, move(data, "prefetch", "l0.w_q")["start_ns"]),
        (latency_one_short, "latency", 1, data["latency_ns"]),
        (spill_of_an_output_missing, "output", 4096, None),
    ]
    for corrupt, rule, amount, time_ns in cases:
        found = [(v.rule, v.amount, v.time_ns) for v in violations(qwen, scripted, corrupt)]
        assert (rule, amount, time_ns) in found, f"{corrupt.__name__}: {found}"


def test_surgical_corruptions_break_one_rule_only(qwen: Instance, scripted: Schedule) -> None:
    """Where only one thing is wrong, only one thing is said."""
    for corrupt, rule in [
        (two_kernels_on_one_core, "cores"),
        (another_cores_vector_core, "partners"),
        (buffers_overlap_by_32_bytes, "overlap"),
        (buffer_misaligned, "alignment"),
        (residencies_overlap, "overlap"),
        (residency_too_small, "residency"),
        (l2_rate_handed_out_twice, "l2_rate"),
        (workspaces_overlap, "overlap"),
        (latency_one_short, "latency"),
        (optimal_without_equality, "status"),
        (phase_one_short, "hbm_phase"),
    ]:
        found = violations(qwen, scripted, corrupt)
        assert {v.rule for v in found} == {rule}, f"{corrupt.__name__}: {[str(v) for v in found]}"
