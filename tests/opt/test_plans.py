"""Plans for compilers, held against the schedule and the instance that they were made of."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opt
from instances.costs import price_group
from instances.errors import InputError, InvalidScheduleError, NoScheduleError
from instances.fusion import Fuser, Fusion
from instances.instance import Instance
from instances.kernels import KernelKind, Rule
from instances.machine import Machine, load_machine
from instances.packing import faults, greatest_load
from instances.pipes import pipe_of
from instances.plan import FusionKind, Handover, Plan
from instances.schedule import MoveKind, Schedule, Source
from opt.plans.allocation import allocations, write_allocations
from opt.plans.cores import core_limits
from opt.plans.handovers import look_inside
from opt.plans.mlir import mlir_text
from opt.plans.prefetch import prefetch_list
from opt.plans.shapes import shape_of
from opt.simulation.kernels import busiest_program
from opt.simulation.program import Op, Slot
from solvers.interface import Result
from tests.tiny import random_examples, tiny_instances


class Case(NamedTuple):
    instance: Instance
    schedule: Schedule
    plan: Plan


def solved(solver: str = "greedy", **request: object) -> tuple[Instance, Schedule]:
    instance = opt.generate(**request)  # type: ignore[arg-type]
    return instance, opt.solve(instance, 10, solver, workers=1).schedule


REQUESTS: dict[str, dict[str, object]] = {
    "decode with prefetches": {"model": "llama-3-8b", "phase": "decode", "batch": 16, "context": 4096, "solver": "dp"},
    "prefill": {"model": "llama-3-8b", "phase": "prefill", "tokens": 512},
    "collectives on 950": {
        "model": "qwen3-32b",
        "phase": "decode",
        "batch": 16,
        "context": 4096,
        "tp": 8,
        "machine": "ascend950pr",
        "solver": "dp",
    },
    "one kind of core": {
        "model": "gpt2",
        "phase": "prefill",
        "tokens": 256,
        "dtype": "float16",
        "machine": "ascend310p3",
    },
    "split context": {"model": "llama-3-8b", "phase": "decode", "batch": 1, "context": 32768, "solver": "stack"},
    "by hand": {},
}


@pytest.fixture(scope="module", params=REQUESTS)
def case(request: pytest.FixtureRequest, qwen: Instance, scripted: Schedule) -> Case:
    """A schedule of each kind; the one by hand has spills, fills, workspaces, kernels side by side, collectives."""
    wanted = REQUESTS[request.param]
    instance, schedule = solved(layers=1, **wanted) if wanted else (qwen, scripted)  # type: ignore[arg-type]
    return Case(instance, schedule, opt.plan(instance, schedule))


def kernels_of(case: Case) -> dict[tuple[str, ...], str]:
    """Operators -> name of their kernel in the plan."""
    return {kernel.operators: kernel.id for kernel in case.plan.kernels}


def moves_of(case: Case) -> dict[tuple[str, int], str]:
    return {(move.tensor, move.start_ns): move.id for move in case.plan.moves}


def needed_orders(case: Case) -> Iterator[tuple[str, str, str]]:
    """Pairs of activities that must come one after the other, and why: from schedule and instance alone."""
    instance, schedule = case.instance, case.schedule
    kernel_id, move_id = kernels_of(case), moves_of(case)
    maker = {a.tensor: k for k in schedule.kernels for o in k.operators for a in instance.graph.operator[o].writes}
    blocks: list[tuple[int, int, int, int, str, list[str]]] = []
    for stay in schedule.residencies:
        if (stay.tensor, stay.start_ns) in move_id:
            by = move_id[stay.tensor, stay.start_ns]
            whole = next(m.end_ns for m in schedule.moves if (m.tensor, m.start_ns) == (stay.tensor, stay.start_ns))
        else:
            by, whole = kernel_id[maker[stay.tensor].operators], maker[stay.tensor].end_ns
        users = [
            kernel_id[k.operators]
            for k in schedule.kernels
            for r in k.reads
            if r.tensor == stay.tensor and r.source is Source.L2 and whole <= k.start_ns and k.end_ns <= stay.end_ns
        ]
        users += [
            move_id[m.tensor, m.start_ns]
            for m in schedule.moves
            if m.kind is MoveKind.SPILL and m.tensor == stay.tensor and whole <= m.start_ns and m.end_ns <= stay.end_ns
        ]
        yield from ((by, user, "the tensor is there") for user in users)
        top = stay.offset_bytes + stay.size_bytes
        blocks.append((stay.offset_bytes, top, stay.start_ns, stay.end_ns, by, [by, *users]))
    for kernel in schedule.kernels:
        me = kernel_id[kernel.operators]
        for read in kernel.reads:
            if read.tensor in maker:
                yield kernel_id[maker[read.tensor].operators], me, "its operand is made"
        size = price_group(instance.graph, instance.machine, kernel.operators, kernel.tiling).cost.workspace_bytes
        if size and kernel.workspace_offset_bytes is not None:
            low = kernel.workspace_offset_bytes
            blocks.append((low, low + size, kernel.start_ns, kernel.end_ns, me, [me]))
    for one, other in combinations(sorted(blocks, key=lambda block: block[2]), 2):
        if one[0] < other[1] and other[0] < one[1] and one[3] <= other[2]:
            yield from ((user, other[4], "L2 is free") for user in one[5])
    for first, second in combinations(sorted(schedule.kernels, key=lambda k: k.start_ns), 2):
        if set(first.aic_ids) & set(second.aic_ids) or set(first.aiv_ids) & set(second.aiv_ids):
            yield kernel_id[first.operators], kernel_id[second.operators], "the core is free"
    for move in schedule.moves:
        me = move_id[move.tensor, move.start_ns]
        ended = [k for k in schedule.kernels if k.end_ns <= move.start_ns]
        if ended:
            last = max(ended, key=lambda k: (k.end_ns, k.start_ns))
            yield kernel_id[last.operators], me, "it is time to issue the move"
    yield from hbm_orders(case, maker_id={t: kernel_id[k.operators] for t, k in maker.items()})


def hbm_orders(case: Case, maker_id: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """What is read from HBM was written there before; what takes addresses in the pool comes after who used them."""
    plan, schedule = case.plan, case.schedule
    kernel_id, move_id = kernels_of(case), moves_of(case)
    writes: dict[str, list[str]] = {}
    reads: dict[str, list[str]] = {}
    for kernel in schedule.kernels:
        for write in kernel.writes:
            if write.hbm:
                writes.setdefault(write.tensor, []).append(kernel_id[kernel.operators])
        for read in kernel.reads:
            if read.source is Source.HBM and read.tensor in maker_id:
                reads.setdefault(read.tensor, []).append(kernel_id[kernel.operators])
    for move in schedule.moves:
        if move.kind is not MoveKind.PREFETCH:
            side = writes if move.kind is MoveKind.SPILL else reads
            side.setdefault(move.tensor, []).append(move_id[move.tensor, move.start_ns])
    for tensor, readers in reads.items():
        if len(writes[tensor]) == 1:
            yield from ((writes[tensor][0], reader, "it was written to HBM") for reader in readers)
    places = sorted(plan.pool.places, key=lambda place: place.start_ns)
    for one, other in combinations(places, 2):
        apart = one.offset_bytes + one.size_bytes <= other.offset_bytes
        if apart or other.offset_bytes + other.size_bytes <= one.offset_bytes:
            continue
        for user in (*writes[one.tensor], *reads.get(one.tensor, ())):
            yield user, writes[other.tensor][0], "the pool is free"


def order_of(plan: Plan, without: int | None = None) -> nx.DiGraph:
    """What streams and events order; ``without`` leaves out one event by its position."""
    graph = nx.DiGraph()
    for stream in plan.streams:
        graph.add_nodes_from(stream.activities)
        nx.add_path(graph, stream.activities)
    for number, event in enumerate(plan.events):
        if number != without:
            graph.add_edge(event.record_after, event.wait_before)
    return graph


def unordered(case: Case, graph: nx.DiGraph) -> list[tuple[str, str, str]]:
    after = {name: nx.descendants(graph, name) for name in graph}
    return [(a, b, why) for a, b, why in needed_orders(case) if a != b and b not in after[a]]


def test_streams_and_events_order_what_must_be(case: Case) -> None:
    graph = order_of(case.plan)
    assert nx.is_directed_acyclic_graph(graph)
    assert unordered(case, graph) == []


def test_every_event_is_needed(case: Case) -> None:
    """Without any one of them, something is no longer in order; and none says what the others say."""
    for number, event in enumerate(case.plan.events):
        graph = order_of(case.plan, without=number)
        assert not nx.has_path(graph, event.record_after, event.wait_before)
        assert unordered(case, graph), event


@random_examples
@given(tiny_instances(), st.sampled_from(("greedy", "dp", "unfused")))
def test_any_schedule_is_ordered(instance: Instance, solver: str) -> None:
    """On chips with hardly any L2, where tensors are spilled, filled and read from HBM, and addresses change hands."""
    try:
        schedule = opt.solve(instance, 3, solver, workers=1).schedule
    except NoScheduleError:
        return
    case = Case(instance, schedule, opt.plan(instance, schedule))
    test_streams_and_events_order_what_must_be(case)
    test_every_event_is_needed(case)
    test_pool(case)
    test_l2_stays(case)
    test_handovers_follow_the_program(case)
    test_flags_have_ids_of_their_own(case)


def test_every_reason_for_an_event_occurs(qwen: Instance, scripted: Schedule) -> None:
    """Among the cases: what is tested above is there to be tested."""
    why = {reason for event in opt.plan(qwen, scripted).events for reason in event.why}
    assert why == {"data", "core", "issue", "l2_address", "hbm_address"}


def test_the_order_is_that_of_the_planned_times(case: Case) -> None:
    begin = {a.id: a.times.start_ns for a in case.plan.kernels} | {m.id: m.start_ns for m in case.plan.moves}
    end = {a.id: a.times.end_ns for a in case.plan.kernels} | {m.id: m.end_ns for m in case.plan.moves}
    assert all(end[a] <= begin[b] for a, b in order_of(case.plan).edges)
    starts = [kernel.times.start_ns for kernel in case.plan.kernels]
    assert starts == sorted(starts)
    ids = {kind: [name for name in begin if name[0] == kind] for kind in "km"}
    assert ids == {kind: [f"{kind}{i}" for i in range(len(names))] for kind, names in ids.items()}


def test_streams(case: Case) -> None:
    """Collectives and moves on streams of their own; as many others as kernels run at once."""
    kind = {kernel.id: kernel.kind for kernel in case.plan.kernels}
    for stream in case.plan.streams:
        for name in stream.activities:
            assert (stream.kind == "move") == (name[0] == "m")
            assert (stream.kind == "collective") == (kind.get(name) is KernelKind.LINK)
    running = [k.times for k in case.plan.kernels if k.kind is not KernelKind.LINK]
    most = max(sum(o.start_ns <= t.start_ns < o.end_ns for o in running) for t in running)
    assert sum(stream.kind == "compute" for stream in case.plan.streams) == most
    assert all(kernel.id in case.plan.streams[kernel.stream].activities for kernel in case.plan.kernels)


def test_kernels_say_what_the_schedule_says(case: Case) -> None:
    given = {kernel.operators: kernel for kernel in case.schedule.kernels}
    assert {kernel.operators for kernel in case.plan.kernels} == set(given)
    for kernel in case.plan.kernels:
        own = given[kernel.operators]
        assert (kernel.cores.aic_ids, kernel.cores.aiv_ids) == (own.aic_ids, own.aiv_ids)
        assert (kernel.times.start_ns, kernel.times.end_ns) == (own.start_ns, own.end_ns)
        assert [(i.tensor, i.source) for i in kernel.inputs] == [(r.tensor, r.source) for r in own.reads]
        assert [(b.name, b.memory, b.offset_bytes, b.size_bytes, b.slots) for b in kernel.buffers] == [
            (b.name, b.memory, b.offset_bytes, b.size_bytes, b.slots) for b in own.buffers
        ]
        for item in kernel.inputs:
            assert (item.l2_offset_bytes is not None) == (item.source is Source.L2)
            made = item.tensor in case.instance.graph.producer
            assert (item.hbm_offset_bytes is not None) == (item.source is Source.HBM and made)
        for result, write in zip(kernel.outputs, own.writes, strict=True):
            assert (result.l2_offset_bytes is not None, result.hbm_offset_bytes is not None) == (write.l2, write.hbm)
        assert kernel.times.body_ns + max(kernel.times.engines_ns.values(), default=0) <= kernel.times.end_ns


def test_loops_cover_the_kernel(case: Case) -> None:
    for kernel in case.plan.kernels:
        if kernel.kind is KernelKind.LINK:
            assert kernel.loops == ()
            continue
        cores = len(kernel.cores.aic_ids) if kernel.kind is not KernelKind.VECTOR else len(kernel.cores.aiv_ids)
        over = [loop for loop in kernel.loops if loop.over == "cores"]
        assert kernel.loops[: len(over)] == tuple(over)
        assert math.prod(loop.count for loop in over) == kernel.cores.items
        assert kernel.cores.most_items == -(-kernel.cores.items // cores)
        for tile in kernel.tiles:
            turns = [loop for loop in over if loop.role == tile.role]
            if turns and tile.role != "n":  # columns of several matmuls end in a tile each
                assert (turns[0].count - 1) * turns[0].step < tile.extent <= turns[0].count * turns[0].step
        depth = {tile.role: tile for tile in kernel.tiles}.get("k")
        if depth is not None and kernel.rule is not Rule.ATTENTION:
            levels = {memory.value: size for memory, size in depth.levels.items()}
            assert levels["l1"] % levels["l0a"] == 0
            assert levels["l0a"] == levels["l0b"] == depth.tile
            inner = [loop for loop in kernel.loops if loop.role == "k" and loop.over == "core"]
            parts = kernel.cores.parts.get(depth.axis, 1)
            assert inner[0].count * inner[0].step * parts >= depth.extent
            assert inner[1].count * inner[1].step >= inner[0].step


def hazards(ops: Sequence[Op]) -> Iterator[tuple[str, Op, Op, str]]:
    """(means, earlier, later, buffer): reads of what an operation left in a slot, and writes over what one read."""
    wrote = {content: op for op in ops for content in op.writes}
    read: dict[tuple[Slot, int], list[Op]] = {}
    for op in ops:
        for content in op.reads:
            read.setdefault(content, []).append(op)
    for (slot, version), readers in read.items():
        name = f"{slot[1].value}.{slot[0]}"
        for reader in readers:
            if (slot, version) in wrote:
                yield "ready", wrote[slot, version], reader, name
            if (slot, version + 1) in wrote:
                yield "free", reader, wrote[slot, version + 1], name


def check_flags(fusion: Fusion, machine: Machine, ops: Sequence[Op], handovers: Sequence[Handover]) -> None:
    """Where one pipe reads what another left in a slot, or writes over what it read, there is a flag for the slot."""
    flags = {(h.means, h.set_core, h.set_pipe, h.wait_core, h.wait_pipe, name) for h in handovers for name in h.buffers}
    direct = fusion.rule in (Rule.EPILOGUE, Rule.GATED) and machine.direct  # the program loads what FIX hands over
    for means, earlier, later, buffer in hazards(ops):
        one, other = (pipe_of(op.pipe, fusion.kind, coupled=machine.coupled) for op in (earlier, later))
        if one is None or other is None or one == other or (direct and buffer == "ub.sum"):
            continue
        assert (means, *one, *other, buffer) in flags, (fusion.names, means, earlier, later)


def test_handovers_follow_the_program(case: Case) -> None:
    fuser, machine = Fuser(case.instance.graph), case.instance.machine
    given = {kernel.operators: kernel for kernel in case.schedule.kernels}
    for kernel in case.plan.kernels:
        own, fusion = given[kernel.operators], fuser.judge(kernel.operators)
        if fusion is not None and kernel.kind is not KernelKind.LINK:
            ops = busiest_program(fusion, machine, own.tiling, own.buffers).ops
            assert kernel.steps == len(ops)
            check_flags(fusion, machine, ops, kernel.handovers)


@pytest.mark.parametrize("machine", ["ascend910a", "ascend910b2", "ascend950pr"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_every_way_to_run_a_kernel(machine: str, phase: str) -> None:
    """All implementations in an instance, not just those that a schedule chose."""
    size = {"batch": 8, "context": 300} if phase == "decode" else {"tokens": 300}
    chosen = {"model": "gpt2", "phase": phase, "layers": 1, "dtype": "float16", "machine": machine}
    instance = opt.generate(**chosen, **size)  # type: ignore[arg-type]
    fuser, rules = Fuser(instance.graph), set()
    for candidate in instance.candidates:
        fusion = fuser.judge(candidate.operators)
        assert fusion is not None
        rules.add(fusion.rule)
        for way in instance.implementations(candidate):
            shape = shape_of(fusion, instance.machine, way.tiling, way.cost.buffers)
            cores = way.tiling.aiv if fusion.kind is KernelKind.VECTOR else way.tiling.aic
            assert shape.most_items == -(-shape.items // cores)
            inside = look_inside(fusion, instance.machine, way.tiling, way.cost.buffers)
            ops = busiest_program(fusion, instance.machine, way.tiling, way.cost.buffers).ops
            check_flags(fusion, instance.machine, ops, inside.handovers)
    assert rules >= {Rule.SINGLE, Rule.SHARED_INPUT, Rule.EPILOGUE, Rule.ATTENTION}


def test_flags_have_ids_of_their_own(case: Case) -> None:
    for kernel in case.plan.kernels:
        taken: Counter[tuple[object, ...]] = Counter()
        for handover in kernel.handovers:
            pair = (handover.set_core, handover.set_pipe, handover.wait_core, handover.wait_pipe)
            for number in handover.ids:
                taken[(pair, number) if handover.scope == "core" else ("flag", number)] += 1
                assert number < (8 if handover.scope == "core" else 11)
        assert set(taken.values()) <= {1}


@pytest.mark.parametrize(("machine", "takes"), [("ascend910b2", "MTE2"), ("ascend950pr", "V")])
def test_a_mixed_kernel_hands_its_tile_over(machine: str, takes: str) -> None:
    """Through L2 on 910B2, whose vector cores load it; straight from L0C on 950PR."""
    instance, schedule = solved(model="gpt2", phase="decode", context=128, layers=1, machine=machine)
    mixed = [k for k in opt.plan(instance, schedule).kernels if k.rule in (Rule.EPILOGUE, Rule.GATED)]
    assert mixed
    for kernel in mixed:
        flags = [h for h in kernel.handovers if h.scope == "group"]
        assert [(h.means, h.set_pipe.value, h.wait_pipe.value) for h in flags] == [
            ("ready", "FIX", takes),
            ("free", takes, "FIX"),
        ]
        assert (kernel.workspace is not None) == (machine == "ascend910b2")
        inside = {(h.set_pipe.value, h.wait_pipe.value) for h in kernel.handovers if h.scope == "core"}
        assert {("MTE2", "MTE1"), ("MTE1", "M"), ("M", "FIX"), ("V", "MTE3")} <= inside
        double = next(h for h in kernel.handovers if h.means == "ready" and "l1.right" in h.buffers)
        slots = next(b.slots for b in kernel.buffers if (b.name, b.memory.value) == ("right", "l1"))
        assert len(double.ids) in (1, slots)


def test_a_split_context_joins_its_parts() -> None:
    instance, schedule = solved(layers=1, **REQUESTS["split context"])  # type: ignore[arg-type]
    plan = opt.plan(instance, schedule)
    kernel = next(kernel for kernel in plan.kernels if kernel.rule is Rule.ATTENTION)
    assert kernel.cores.parts
    assert [h.means for h in kernel.handovers if h.scope == "all"] == ["join"]
    assert "split-parts" in plan.required_features


def test_pool(case: Case) -> None:
    """Aligned, without overlap, no higher than said, no lower than what lives at once; no tensor is left out."""
    pool = case.plan.pool
    table = allocations(case.plan, case.instance.machine)["hbm"]
    assert faults(table[2], [place.offset_bytes for place in pool.places], pool.total_bytes) == []
    assert pool.load_bytes == greatest_load(table[2], 512)[0] <= pool.bound_bytes <= pool.total_bytes
    assert all(place.offset_bytes % 512 == 0 for place in pool.places)
    reach = {w.tensor for k in case.schedule.kernels for w in k.writes if w.hbm}
    reach |= {move.tensor for move in case.schedule.moves if move.kind is MoveKind.SPILL}
    assert {place.tensor for place in pool.places} == reach
    life = {place.tensor: (place.start_ns, place.end_ns) for place in pool.places}
    for kernel in case.schedule.kernels:
        for name in [w.tensor for w in kernel.writes if w.hbm] + [
            r.tensor for r in kernel.reads if r.source is Source.HBM and r.tensor in life
        ]:
            assert life[name][0] <= kernel.start_ns and kernel.end_ns <= life[name][1]
    for tensor in case.instance.graph.tensors:
        if tensor.role.value == "output":
            assert life[tensor.name][1] == case.schedule.latency_ns


def test_moves_are_issued_before_they_are_needed(case: Case) -> None:
    kernels = {kernel.id: kernel for kernel in case.plan.kernels}
    for move in case.plan.moves:
        assert move.anchor is not None
        times = kernels[move.anchor.kernel].times
        edge = times.start_ns if move.anchor.edge == "start" else times.end_ns
        assert move.anchor.edge_ns == edge <= move.start_ns == edge + move.anchor.delay_ns
        assert not any(edge < t <= move.start_ns for k in kernels.values() for t in (k.times.start_ns, k.times.end_ns))
        if move.kind is not MoveKind.SPILL:
            reader = kernels[move.first_reader or ""]
            assert move.end_ns <= reader.times.start_ns
            assert move.tensor in {item.tensor for item in reader.inputs if item.source is Source.L2}


def test_prefetch_list(case: Case) -> None:
    """Issue point before the first reader; a dependency that is made by then; all of the tensor."""
    graph, listed = case.instance.graph, prefetch_list(case.plan)["prefetches"]
    assert len(listed) == sum(move.kind is not MoveKind.SPILL for move in case.schedule.moves)
    kernels = {kernel.id: kernel for kernel in case.plan.kernels}
    for entry in listed:
        assert entry["max_size"] == graph.tensor[entry["input"]].size_bytes
        assert entry["planned_end_ns"] <= entry["needed_by_ns"] == kernels[entry["first_reader"]].times.start_ns
        if entry["after_kernel"] is None:
            assert graph.tensor[entry["dependency"]["tensor"]].role.starts_in_hbm
            assert all(kernel.times.end_ns > entry["planned_start_ns"] for kernel in kernels.values())
        else:
            before = kernels[entry["after_kernel"]]
            assert before.times.end_ns <= entry["planned_start_ns"]
            made = {access.tensor: name for name in before.operators for access in graph.operator[name].writes}
            assert made[entry["dependency"]["tensor"]] == entry["dependency"]["operator"]
            assert entry["dependency"]["tensor"] in {result.tensor for result in before.outputs}
            assert nx.has_path(order_of(case.plan), before.id, entry["first_reader"])


def test_core_limits(case: Case) -> None:
    machine = case.instance.machine
    limits = core_limits(case.plan, machine)
    assert limits["supported"] == (machine.architecture == "dav-c220")
    held = {kernel.id: kernel.cores for kernel in case.plan.kernels if kernel.kind is not KernelKind.LINK}
    assert [entry["kernel"] for entry in limits["kernels"]] == list(held)
    for entry in limits["kernels"]:
        assert 1 <= entry["op_aicore_num"] <= machine.aic_count
        assert entry["op_aicore_num"] >= len(held[entry["kernel"]].aic_ids)
        if not machine.coupled:
            assert max(1, len(held[entry["kernel"]].aiv_ids)) == entry["op_vectorcore_num"] <= machine.aiv_count


def test_allocation_tables(case: Case, tmp_path: Path) -> None:
    """Every memory's table holds against its capacity, in memory and as written."""
    from instances.packing import read_buffers

    machine = case.instance.machine
    tables = allocations(case.plan, machine)
    paths = write_allocations(case.plan, machine, tmp_path / "tables")
    assert [path.stem for path in paths] == list(tables)
    for path, (_, capacity, buffers) in zip(paths, tables.values(), strict=True):
        read = read_buffers(path)
        assert [buffer.id for buffer in read] == [buffer.id for buffer in buffers]
        assert faults(read, [buffer.offset or 0 for buffer in read], capacity) == []
    memories = {(kernel.id, buffer.memory.value) for kernel in case.plan.kernels for buffer in kernel.buffers}
    assert set(tables) == {"l2", "hbm"} | {f"{name}.{memory}" for name, memory in memories}
    for kernel in case.plan.kernels:
        assert all(b.first_step <= b.last_step < kernel.steps for b in kernel.buffers)


def test_mlir(case: Case) -> None:
    """Parsed and printed again by another reader of MLIR; flags are waited for as often as they are set, and later."""
    pytest.importorskip("xdsl")
    from xdsl.context import Context
    from xdsl.dialects.builtin import Builtin
    from xdsl.parser import Parser

    context = Context(allow_unregistered=True)
    context.load_dialect(Builtin)
    module = Parser(context, mlir_text(case.plan)).parse_module()
    module.verify()
    again = Parser(context, str(module)).parse_module()
    assert str(again) == str(module)
    functions = list(again.body.block.ops)
    kernels = [kernel for kernel in case.plan.kernels if kernel.kind is not KernelKind.LINK]
    assert len(functions) == len(kernels)
    for function, kernel in zip(functions, kernels, strict=True):
        assert function.attributes["tilewright.kernel"].data == kernel.id  # type: ignore[attr-defined]
        text = str(function)
        assert text.count('"hivm.hir.pointer_cast"') == len(kernel.buffers)
        offsets = [line.split("value = ")[1].split(" :")[0] for line in text.splitlines() if "arith.constant" in line]
        assert list(map(int, offsets)) == [
            buffer.offset_bytes + slot * buffer.size_bytes for buffer in kernel.buffers for slot in range(buffer.slots)
        ]
        pending: Counter[str] = Counter()
        for line in text.splitlines():
            name, _, rest = line.strip().partition("(")
            if name in ('"hivm.hir.set_flag"', '"hivm.hir.sync_block_set"'):
                pending[flag_in(name, rest)] += 1
            elif name in ('"hivm.hir.wait_flag"', '"hivm.hir.sync_block_wait"'):
                assert pending[flag_in(name, rest)] > 0, line
                pending[flag_in(name, rest)] -= 1
        assert not +pending


def test_odd_names(instance: Instance, greedy: Result, tmp_path: Path) -> None:
    """Quotes, backslashes, commas and names of 200 characters stay apart in tables and in MLIR."""
    pytest.importorskip("xdsl")
    from xdsl.context import Context
    from xdsl.dialects.builtin import Builtin
    from xdsl.parser import Parser

    from instances.packing import read_buffers

    plan = opt.plan(instance, greedy.schedule)
    odd = 'a "quoted\\ name", \n é ' + "x" * 170
    stays = tuple(stay.model_copy(update={"tensor": f"{odd}{i:04}"}) for i, stay in enumerate(plan.l2))
    first = plan.kernels[0].model_copy(update={"operators": (odd,)})
    changed = plan.model_copy(update={"l2": stays, "kernels": (first, *plan.kernels[1:])})
    write_allocations(changed, instance.machine, tmp_path)
    assert len(read_buffers(tmp_path / "l2.csv")) >= len(stays) > 1
    context = Context(allow_unregistered=True)
    context.load_dialect(Builtin)
    module = Parser(context, mlir_text(changed)).parse_module()
    function = module.body.block.first_op
    assert function is not None
    read = function.attributes["tilewright.operators"].data[0].data  # type: ignore[attr-defined]
    assert read == odd.encode("utf-8")  # bytes, since some of them are escaped


def flag_in(name: str, properties: str) -> str:
    """What a set and the wait for it have in common."""
    if "sync_block" in name:
        return "flag " + properties.split("static_flag_id = ")[1].split(" ")[0]
    pipes = [properties.split(f"{side} = #hivm.pipe<")[1].split(">")[0] for side in ("set_pipe", "wait_pipe")]
    return " ".join([*pipes, properties.split("#hivm.event<")[1].split(">")[0]])


def test_round_trip(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    opt.save(case.plan, path)
    assert opt.load_plan(path) == opt.load_plan(path, case.instance) == case.plan
    assert case.plan.verdict.latency_ns == case.schedule.latency_ns
    assert case.plan.verdict.bound_ns == case.schedule.proof.bound_ns


def test_l2_stays(case: Case) -> None:
    given = {(r.tensor, r.start_ns): r for r in case.schedule.residencies}
    assert len(case.plan.l2) == len(given)
    for stay in case.plan.l2:
        own = given[stay.tensor, stay.start_ns]
        assert (stay.offset_bytes, stay.size_bytes, stay.end_ns) == (own.offset_bytes, own.size_bytes, own.end_ns)
        assert stay.start_ns < stay.arrival_ns <= stay.end_ns
        there = [k for k in case.plan.kernels if k.times.start_ns < stay.end_ns and stay.start_ns < k.times.end_ns]
        assert (stay.first_kernel, stay.last_kernel) == (there[0].id, there[-1].id)


def test_a_plan_of_another_graph_or_machine_is_refused(instance: Instance, greedy: Result, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    opt.save(opt.plan(instance, greedy.schedule), path)
    longer = opt.generate("gpt2", phase="decode", context=256, layers=1)
    with pytest.raises(InputError, match=r"plan\.json: was made for another graph .*; make the plan anew"):
        opt.load_plan(path, longer)
    elsewhere = opt.generate("gpt2", phase="decode", context=128, layers=1, machine="ascend910b3")
    with pytest.raises(InputError, match=r"was made for another machine \(ascend910b2\)"):
        opt.load_plan(path, elsewhere)
    plan = opt.load_plan(path, instance)
    for derived in (core_limits, allocations):
        with pytest.raises(InputError, match="made for another machine"):
            derived(plan, load_machine("ascend910b3"))


def test_what_a_plan_requires_must_be_known(instance: Instance, greedy: Result, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    opt.save(opt.plan(instance, greedy.schedule), path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["required_features"]
    data["required_features"].append("time-travel")
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match="feature 'time-travel' is required and unknown"):
        opt.load_plan(path)
    data["required_features"].pop()
    first, second = data["streams"][0]["activities"][:2]
    data["events"] = [{"id": 0, "record_after": second, "wait_before": first, "why": ["data"]}]
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match="wait for each other without end"):
        opt.load_plan(path)
    data["events"][0]["record_after"] = "k99"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match="names 'k99', which is no activity"):
        opt.load_plan(path)
    del data["events"]
    data["streams"][0]["activities"].pop()
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match="streams do not hold each kernel"):
        opt.load_plan(path)


def test_no_plan_is_made_of_a_broken_schedule(instance: Instance, greedy: Result) -> None:
    first = greedy.schedule.kernels[0]
    late = first.model_copy(update={"end_ns": first.end_ns + 1})
    broken = greedy.schedule.model_copy(update={"kernels": (late, *greedy.schedule.kernels[1:])}).sealed()
    with pytest.raises(InvalidScheduleError, match="breaks a rule"):
        opt.plan(instance, broken)


def test_repeated_layers() -> None:
    """Of four layers, those that read from one before them are of one form; names lead back to the first of these."""
    instance, schedule = solved(model="gpt2", phase="decode", context=64, layers=4, max_group=2)
    blocks = opt.plan(instance, schedule).blocks
    assert blocks is not None
    assert (blocks.count, len(blocks.like)) == (3, 3)
    for number, names in enumerate(blocks.like):
        assert len(names) == blocks.period
        assert list(names.values()) == list(blocks.like[0])
        for name, like in names.items():
            layer, _, rest = like.partition(".")
            assert name == f"l{int(layer[1:]) + number}.{rest}"
    assert blocks.first_operator == next(iter(blocks.like[0]))


def test_a_layer_that_stands_for_many(instance: Instance, greedy: Result) -> None:
    assert opt.plan(instance, greedy.schedule).repeat == 1
    many = instance.model_copy(update={"origin": {**instance.origin, "repeat": 12}})
    assert opt.plan(many, greedy.schedule).repeat == 12


def test_fusion_kinds(case: Case) -> None:
    expected = {
        Rule.EPILOGUE: FusionKind.MIX_CV,
        Rule.GATED: FusionKind.SHALLOW_CV,
        Rule.ATTENTION: FusionKind.MIX_C2,
        Rule.SHARED_INPUT: None,
    }
    for kernel in case.plan.kernels:
        if kernel.rule in expected:
            assert kernel.fusion_kind is expected[kernel.rule]
        elif kernel.kind is KernelKind.CUBE:
            assert kernel.fusion_kind is FusionKind.SINGLE_CUBE
        names = kernel.operators
        if len(names) == 1 and names[0].endswith("_norm") and not names[0].endswith(("q_norm", "k_norm")):
            assert kernel.fusion_kind is FusionKind.LAST_AXIS_PBR
