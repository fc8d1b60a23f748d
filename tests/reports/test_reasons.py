"""Reasons: where they are known by hand they are found, and their numbers are those of the replay."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

import opt
from instances.build import build_instance
from instances.errors import InputError
from instances.graph import DType, OpKind, Role
from instances.graph_builder import GraphBuilder, work
from instances.instance import Instance
from instances.machine import Machine, MemoryName, load_machine
from instances.objections import Obstacle
from instances.schedule import MoveKind, Schedule
from opt.replay import replay
from opt.replay.timeline import Traffic, kernel_times
from reports.chain import Cause, Network, Part
from reports.reasons import Reason, Reasons, critical_chain, what_binds, why_here, why_moved, why_not_fused
from reports.view import View
from reports.why_fused import Verdict
from tests.conftest import Script, llama_graph
from tests.tiny import tiny_machine

BYTES = 16 * 32 * 2
"""Of each tensor of the hand-made graphs."""


@pytest.fixture(autouse=True)
def prices() -> None:
    """Instead of the fixture of that name: here kernels cost what the cost model says."""


def line(l2_bytes: int, max_group: int = 1) -> Instance:
    """x -> t0 -> t1 -> t2 -> out, where the last adds t0 and t2; a kilobyte each, 1 byte per ns over HBM."""
    b = GraphBuilder({"rows": 16, "a": 32}, DType.FLOAT16)
    names = {"x": Role.INPUT, "t0": Role.INTERMEDIATE, "t1": Role.INTERMEDIATE, "t2": Role.INTERMEDIATE}
    made = {name: b.tensor(name, ("rows", "a"), role) for name, role in (names | {"out": Role.OUTPUT}).items()}
    for number, (source, target) in enumerate(pairwise(names)):
        b.op(f"g{number}", OpKind.ACTIVATION, (made[source],), (made[target],), vector=work("gelu", 512))
    b.op("last", OpKind.ELEMENTWISE, (made["t2"], made["t0"]), (made["out"],), vector=work("add", 512))
    machine = tiny_machine(l2_bytes=l2_bytes, launch_ns=40.0)
    return build_instance(b.graph("line"), machine, max_group=max_group)


def spilled(instance: Instance) -> Schedule:
    """t0 is written out after its first reader and read back from HBM by its last."""
    s = Script(instance)
    s.kernel("g0")
    s.kernel("g1")
    s.move(MoveKind.SPILL, "t0")
    s.kernel("g2")
    s.kernel("last", from_hbm=("t0",), to_hbm=("out",))
    return s.schedule()


def only(reasons: tuple[Reason, ...], topic: str) -> Reason:
    found = [reason for reason in reasons if reason.topic == topic]
    assert len(found) == 1, found
    return found[0]


def test_a_spill_that_capacity_forces() -> None:
    """t1 and t2 take two of two and a half kilobytes while the third kernel runs: t0 is half a kilobyte too much."""
    instance = line(l2_bytes=2560)
    schedule = spilled(instance)
    assert replay(instance, schedule).valid
    reason = only(why_moved(instance, schedule, schedule.moves[0]), "move")
    assert reason.facts["over_bytes"] == 512
    assert reason.facts["used_bytes"] == 2 * BYTES
    assert set(reason.facts["there"]) == {"t1", "t2"}
    assert reason.facts["fullest_ns"] == schedule.kernels[2].start_ns
    assert reason.facts["readers"] == [4]
    assert "L2 would be 512 bytes over its 2,560 bytes" in reason.words
    place = why_here(instance, schedule, "t0")
    assert only(place, "hbm").facts["over_bytes"] == 512
    assert "kernel 4 reads it there" in only(place, "hbm").words
    assert only(place, "l2").facts["end_ns"] == schedule.moves[0].end_ns


def test_a_spill_that_nothing_forces() -> None:
    instance = line(l2_bytes=4096)
    schedule = spilled(instance)
    reason = only(why_moved(instance, schedule, schedule.moves[0]), "move")
    assert reason.facts["over_bytes"] == 0
    assert "capacity does not force that" in reason.words
    assert "over its" not in reason.words


def two_inputs() -> Instance:
    """x -> t0, then t0 + y -> out; y takes a thousand ns of the channel."""
    b = GraphBuilder({"rows": 16, "a": 32}, DType.FLOAT16)
    x, y = (b.tensor(name, ("rows", "a"), Role.INPUT) for name in ("x", "y"))
    t, out = b.tensor("t0", ("rows", "a"), Role.INTERMEDIATE), b.tensor("out", ("rows", "a"), Role.OUTPUT)
    b.op("g0", OpKind.ACTIVATION, (x,), (t,), vector=work("gelu", 512))
    b.op("last", OpKind.ELEMENTWISE, (t, y), (out,), vector=work("add", 512))
    return build_instance(b.graph("two"), tiny_machine(l2_bytes=8192, launch_ns=2000.0), max_group=2)


def test_a_prefetch_in_idle_time() -> None:
    """The channel is idle between the phases of the two kernels; streaming y makes the second a thousand ns longer."""
    instance = two_inputs()
    s = Script(instance)
    first = s.kernel("g0")
    start = s.phase_end(first) + 5
    s.move(MoveKind.PREFETCH, "y", start=start)
    s.now = max(s.now, start + 10 + BYTES)
    second = s.kernel("last", far=("y",), to_hbm=("out",))
    schedule = s.schedule()
    assert replay(instance, schedule).valid
    brought, instead = why_moved(instance, schedule, schedule.moves[0])
    assert brought.facts["idle_from_ns"] == start - 5
    assert brought.facts["idle_to_ns"] == second.hbm_start_ns
    assert brought.facts["readers"] == [2]
    assert f"idle for {(second.hbm_start_ns or 0) - start + 5:,} ns" in brought.words
    assert instead.facts["phase_ns"] == BYTES and instead.facts["longer_phase_ns"] == 2 * BYTES

    other = Script(instance)  # the same without the prefetch
    other.kernel("g0")
    other.kernel("last", to_hbm=("out",))
    streamed = other.schedule()
    assert replay(instance, streamed).valid
    durations = [kernel.end_ns - kernel.start_ns for kernel in (schedule.kernels[1], streamed.kernels[1])]
    assert instead.facts["duration_ns"] == durations[0]
    assert instead.facts["longer_duration_ns"] == durations[1]
    assert f"{durations[1] - durations[0]:,} ns more" in instead.words


def test_what_the_fused_kernel_would_take() -> None:
    """As the replay says of a schedule that has it."""
    instance = two_inputs()
    s = Script(instance)
    s.kernel("g0")
    s.kernel("last", to_hbm=("out",))
    apart = s.schedule()
    candidate = next(c for c in instance.candidates if len(c.operators) == 2)
    schedules = []
    for way in instance.implementations(candidate):
        f = Script(instance)
        f.kernel("g0", "last", to_hbm=("out",), fits=way.__eq__)
        schedules.append(f.schedule())
    fused = min(schedules, key=lambda schedule: schedule.latency_ns)
    reason = only(why_not_fused(instance, apart, 1), "fusion")
    assert reason.facts["verdict"] == Verdict.CANDIDATE
    assert reason.facts["relation"] == "consumer" and reason.facts["tensors"] == ["t0"]
    assert reason.facts["fused_ns"] == fused.latency_ns
    assert sum(reason.facts["apart_ns"]) == apart.latency_ns
    assert reason.facts["more_ns"] == fused.latency_ns - apart.latency_ns
    assert reason.facts["end_ns"] == fused.latency_ns
    assert reason.facts["fused_hbm_bytes"] == replay(instance, fused).hbm_bytes
    assert f"{apart.latency_ns - fused.latency_ns:,} ns less" in reason.words


@pytest.mark.parametrize("beside", [True, False])
def test_whose_cores_are_in_the_way(beside: bool) -> None:
    """The fused kernel takes all vector cores from the start; one that runs then on half of them would have to move."""
    b = GraphBuilder({"rows": 64, "a": 256}, DType.FLOAT16)
    names = {"x": Role.INPUT, "y": Role.INPUT, "t0": Role.INTERMEDIATE, "out": Role.OUTPUT, "other": Role.OUTPUT}
    x, y, t, out, other = (b.tensor(name, ("rows", "a"), role) for name, role in names.items())
    for name, source, target in (("p0", x, t), ("p1", t, out), ("q", y, other)):
        b.op(name, OpKind.ACTIVATION, (source,), (target,), vector=work("gelu", 64 * 256))
    machine = tiny_machine(l2_bytes=2**22, launch_ns=40.0, hbm_gb_s=500.0)
    instance = build_instance(b.graph("beside"), machine, max_group=2)
    s = Script(instance)
    first = s.kernel("p0", fits=lambda way: way.tiling.aiv == 2)
    if beside:
        after = s.phase_end(first)
        s.kernel("q", to_hbm=("other",), start=0, phase_after=after, fits=lambda way: way.tiling.aiv == 2)
    s.kernel("p1", to_hbm=("out",))
    if not beside:
        s.now += 10**6
        s.kernel("q", to_hbm=("other",))
    schedule = s.schedule()
    assert replay(instance, schedule).valid
    row = View(instance, schedule).kernel_of["p1"].number
    (reason,) = why_not_fused(instance, schedule, row)
    assert reason.facts["aiv"] == 4
    assert reason.facts.get("in_the_way") == ([View(instance, schedule).kernel_of["q"].number] if beside else None)
    assert ("would have to move" in reason.words) == beside


def test_more_than_max_group() -> None:
    instance = line(l2_bytes=8192, max_group=2)
    s = Script(instance)
    s.kernel("g0", "g1")
    s.kernel("g2")
    s.kernel("last", to_hbm=("out",))
    schedule = s.schedule()
    by_other = {r.facts["other"]: r for r in why_not_fused(instance, schedule, 1)}
    assert by_other[2].facts["verdict"] == Verdict.TOO_LARGE
    assert "Together they have 3 operators; the instance's kernels have at most 2" in by_other[2].words
    assert by_other[3].facts["rule"] == Obstacle.NOT_CONVEX
    assert "g2 lies between" in by_other[3].words


@pytest.mark.parametrize("cut_short", [0, 3])
def test_legal_and_not_listed(cut_short: int) -> None:
    whole = two_inputs()
    s = Script(whole)
    s.kernel("g0")
    s.kernel("last", to_hbm=("out",))
    census = whole.census.model_copy(update={"cut_short": cut_short})
    single = tuple(c for c in whole.candidates if len(c.operators) == 1)
    cut = Instance.model_validate(whole.model_dump() | {"candidates": single, "census": census})
    (reason,) = why_not_fused(cut, s.schedule(), 1)
    assert reason.facts["verdict"] == Verdict.NOT_LISTED
    assert ("cut short around 3 operators" in reason.words) == (cut_short == 3)


def test_rules_are_named_on_a_real_layer(scripted: Schedule, qwen: Instance) -> None:
    """Two neighbours each, and what stands between them."""
    expected = {
        ("l0.input_norm", "l0.q_proj"): Obstacle.VECTOR_FIRST,
        ("l0.o_proj", "l0.attn_all_reduce"): Obstacle.COLLECTIVE,
        ("l0.q_proj", "l0.attn_scores"): Obstacle.ATTENTION_SET,
        ("l0.up_proj", "l0.down_proj"): Obstacle.LEFT_OPERAND,
        ("l0.attn_add", "l0.mlp_add"): Obstacle.NOT_CONVEX,
    }
    reasons = Reasons(qwen, scripted)
    for (one, other), obstacle in expected.items():
        row, beside = reasons.view.kernel_of[one], reasons.view.kernel_of[other]
        found = next(r for r in why_not_fused(qwen, scripted, row.kernel) if r.facts["other"] == beside.number)
        assert found.facts["verdict"] == Verdict.FORBIDDEN
        assert found.facts["rule"] == obstacle
        assert obstacle.value in found.words


def test_fits_nowhere_by_so_many_bytes() -> None:
    """A row of either operator fits UB; two read, two written and two copies to work on do not."""
    b = GraphBuilder({"rows": 64, "a": 2048}, DType.FLOAT16)
    names = {"x": Role.INPUT, "y": Role.INPUT, "t0": Role.OUTPUT, "out": Role.OUTPUT}
    x, y, t, out = (b.tensor(name, ("rows", "a"), role) for name, role in names.items())
    b.op("first", OpKind.NORM, (x,), (t,), vector=work("add", 64 * 2048), whole=("a",))
    b.op("second", OpKind.NORM, (t, y), (out,), vector=work("add", 64 * 2048), whole=("a",))
    row, copies = 2048 * 2, 2 * 2048 * 4
    share = (3 * row + copies + 1024) / load_machine("ascend910b2").capacity(MemoryName.UB)
    machine = tiny_machine(l2_bytes=2**22, in_core=share, hbm_gb_s=100.0)
    instance = build_instance(b.graph("long"), machine, max_group=2)
    s = Script(instance)
    s.kernel("first", both=("t0",))
    s.kernel("second", to_hbm=("out",))
    (reason,) = why_not_fused(instance, s.schedule(), 2)
    capacity = machine.capacity(MemoryName.UB)
    assert reason.facts["verdict"] == Verdict.FITS_NOWHERE
    assert reason.facts["memory"] == "ub"
    assert reason.facts["needed_bytes"] == 4 * row + copies
    assert reason.facts["over_bytes"] == 4 * row + copies - capacity
    assert f"{4 * row + copies - capacity:,} bytes more than the {capacity:,} bytes there are" in reason.words


def test_fits_nowhere() -> None:
    """The norm needs its row of 4096 whole, and no tile of the projection before it is that long."""
    instance = build_instance(llama_graph(), load_machine("ascend910b2"))
    schedule = opt.solve(instance, 1.2, "stack", workers=1).schedule
    view = View(instance, schedule)
    row = view.kernel_of["l0.o_proj"]
    number = view.kernel_of["l0.post_norm"].number
    found = next(r for r in why_not_fused(instance, schedule, row.number) if r.facts["other"] == number)
    assert found.facts["verdict"] == Verdict.FITS_NOWHERE
    assert "fits nowhere on ascend910b2" in found.words


@pytest.fixture(scope="module")
def layers(qwen: Instance, scripted: Schedule) -> list[tuple[Instance, Schedule]]:
    """Layers with schedules of several solvers; the one by hand has every kind of move."""
    gpt2 = opt.generate("gpt2", phase="decode", context=128, layers=2)
    llama = opt.generate("llama-3-8b", phase="prefill", tokens=256, layers=1)
    small = opt.generate("qwen3-32b", phase="decode", batch=4, context=512, layers=1, tp=8, machine="ascend950pr")
    return [
        (qwen, scripted),
        *((gpt2, opt.solve(gpt2, 1.2, name, workers=1).schedule) for name in ("greedy", "unfused", "dp")),
        (llama, opt.solve(llama, 1.2, "greedy", workers=1).schedule),
        (small, opt.solve(small, 1.5, "dp", workers=1).schedule),
    ]


def numbers(facts: object) -> Iterator[int]:
    if isinstance(facts, dict):
        for value in facts.values():
            yield from numbers(value)
    elif isinstance(facts, list | tuple):
        for value in facts:
            yield from numbers(value)
    elif isinstance(facts, int) and not isinstance(facts, bool):
        yield facts


def test_everything_answers(layers: list[tuple[Instance, Schedule]]) -> None:
    """Every kernel, move and tensor; what is said of durations is what the replay says."""
    topics = set()
    for instance, schedule in layers:
        reasons = Reasons(instance, schedule)
        traffic = Traffic(instance)
        for row in reasons.view.rows:
            times = kernel_times(traffic, row.kernel, reasons.view.cost(row))
            duration = times.end_ns - row.kernel.start_ns
            terms = reasons.view.terms(row)
            assert terms.duration_ns(reasons.view.wait_ns(row)) == duration
            assert terms.phase_ns == times.phase_ns
            said = only(what_binds(instance, schedule, row.number), "duration")
            assert said.facts["duration_ns"] == duration and f"It runs {duration:,} ns" in said.words
            found = reasons.kernel(row)
            assert {"duration", "hbm", "chain"} <= {reason.topic for reason in found}
            for reason in found:
                topics.add(reason.topic)
                assert reason.words.endswith(".")
        for tensor in instance.graph.tensors:
            found = reasons.tensor(tensor.name)
            assert found[0].topic == "place"
            topics |= {reason.topic for reason in found}
            in_l2 = {(s.start_ns, s.end_ns) for s in schedule.residencies if s.tensor == tensor.name}
            assert {(r.facts["start_ns"], r.facts["end_ns"]) for r in found if r.topic == "l2"} == in_l2
        for move in schedule.moves:
            assert why_moved(instance, schedule, move)[0].facts["start_ns"] == move.start_ns
        assert len(reasons.summary()) > 5
    assert topics == {
        *("duration", "engines", "launch", "hbm", "chain", "fusion"),
        *("place", "inside", "l2", "streamed", "move"),
    }


def test_sentences_hold_their_facts(layers: list[tuple[Instance, Schedule]]) -> None:
    """Times and sizes among the facts of what binds a kernel are in its words."""
    for instance, schedule in layers:
        reasons = Reasons(instance, schedule)
        for row in reasons.view.rows:
            for reason in reasons.binds(row):
                if reason.topic in ("engines", "launch"):
                    wanted = [v for k, v in reason.facts.items() if k.endswith("_ns") and k != "busy_ns"]
                    assert all(f"{value:,} ns" in reason.words for value in wanted), reason
                    assert all(value >= 0 for value in numbers(reason.facts))


def test_the_chain_is_the_latency(layers: list[tuple[Instance, Schedule]]) -> None:
    """Steps follow one another from 0 to the end; where a schedule does not idle it, each has a cause."""
    causes = set()
    for instance, schedule in layers:
        network = Network(View(instance, schedule))
        chain = network.chain()
        assert chain[0].start_ns == 0 and chain[-1].end_ns == schedule.latency_ns
        assert all(before.end_ns == after.start_ns for before, after in pairwise(chain))
        assert sum(step.length_ns for step in chain) == schedule.latency_ns
        causes |= {step.cause for step in chain}
        slacks = network.slacks
        idle = sum(step.length_ns for step in chain if step.part is Part.IDLE)
        assert all(slack >= 0 for slack in slacks)
        on_chain = [slacks[s.number - 1] for s in chain if s.number is not None and s.part is Part.KERNEL]
        assert all(slack <= idle for slack in on_chain)
        early = max(network.earliest().values())
        assert (idle > 0) == (early < schedule.latency_ns)
        told = [r for r in Reasons(instance, schedule).summary() if r.topic == "earliest"]
        assert [r.facts["earliest_ns"] for r in told] == ([early] if idle else [])
        assert len(critical_chain(instance, schedule)) == len(chain)
    assert {Cause.START, Cause.DATA} <= causes and len(causes) >= 4, causes


def test_no_arc_says_more_than_the_schedule_does(layers: list[tuple[Instance, Schedule]]) -> None:
    for instance, schedule in layers:
        network = Network(View(instance, schedule))
        for arc in network.arcs:
            assert network.times[arc.source] + arc.length_ns <= network.times[arc.target], arc
        timed = network.retimed().sealed()
        judged = replay(instance, timed)
        assert {violation.rule for violation in judged.violations} <= {"bound", "status"}
        assert timed.latency_ns <= schedule.latency_ns


def test_slack_is_what_a_kernel_can_be_late(layers: list[tuple[Instance, Schedule]]) -> None:
    """Begun that much later, with all that waits for it, the whole ends as before; 1 ns more shows in the end."""
    tried = 0
    for instance, schedule in layers:
        view = View(instance, schedule)
        network = Network(view)
        for row in view.rows:
            slack = network.slacks[row.number - 1]
            tried += slack > 0
            for late in (slack, slack + 1):
                floor = network.times | {event: network.times[event] + late for event in network.events(row)}
                assert max(network.earliest(floor).values()) == schedule.latency_ns + late - slack
            floor = network.times | {network.events(row)[0]: row.kernel.start_ns + slack}
            shifted = network.retimed(floor).sealed()
            rules = {violation.rule for violation in replay(instance, shifted).violations}
            assert rules <= {"bound", "status"}, (row.label, rules)
            assert shifted.latency_ns == schedule.latency_ns
    assert tried > 3


def test_causes_by_hand() -> None:
    """Of two kernels without common data the second waits for the cores; a kernel that waits for nothing idles."""
    b = GraphBuilder({"rows": 64, "a": 32}, DType.FLOAT16)
    for number in range(2):
        x, y = b.tensor(f"x{number}", ("rows", "a"), Role.INPUT), b.tensor(f"y{number}", ("rows", "a"), Role.OUTPUT)
        b.op(f"g{number}", OpKind.ACTIVATION, (x,), (y,), vector=work("gelu", 2048))
    instance = build_instance(b.graph("apart"), tiny_machine(l2_bytes=2**20, launch_ns=40.0, hbm_gb_s=50.0))
    most = instance.machine.aiv_count
    s = Script(instance)
    s.kernel("g0", to_hbm=("y0",), fits=lambda way: way.tiling.aiv == most)
    s.kernel("g1", to_hbm=("y1",), fits=lambda way: way.tiling.aiv == most)
    chain = Network(View(instance, s.schedule())).chain()
    assert [step.cause for step in chain] == [Cause.START, Cause.CORES]
    assert chain[1].through == f"{most} AIV"
    late = Script(instance)
    late.kernel("g0", to_hbm=("y0",), fits=lambda way: way.tiling.aiv == most)
    late.kernel("g1", to_hbm=("y1",), start=late.now + 77, fits=lambda way: way.tiling.aiv == most)
    chain = Network(View(instance, late.schedule())).chain()
    assert [(step.part, step.length_ns) for step in chain if step.part is Part.IDLE] == [(Part.IDLE, 77)]


def test_a_move_that_waits_for_space() -> None:
    """L2 holds a tensor and a half: y comes when t0 is no longer read, and not earlier."""
    b = GraphBuilder({"rows": 16, "a": 32}, DType.FLOAT16)
    names = {"x": Role.INPUT, "y": Role.INPUT, "t0": Role.INTERMEDIATE, "out": Role.OUTPUT, "other": Role.OUTPUT}
    x, y, t, out, other = (b.tensor(name, ("rows", "a"), role) for name, role in names.items())
    for name, source, target in (("p0", x, t), ("p1", t, out), ("q", y, other)):
        b.op(name, OpKind.ACTIVATION, (source,), (target,), vector=work("gelu", 512))
    instance = build_instance(b.graph("space"), tiny_machine(l2_bytes=1536, launch_ns=2000.0), max_group=1)
    s = Script(instance)
    s.kernel("p0")
    s.kernel("p1", to_hbm=("out",))
    s.move(MoveKind.PREFETCH, "y")
    s.kernel("q", far=("y",), to_hbm=("other",))
    schedule = s.schedule()
    assert replay(instance, schedule).valid
    network = Network(View(instance, schedule))
    steps = network.chain()
    assert [(step.cause, step.through) for step in steps] == [
        (Cause.START, ""),
        (Cause.DATA, "t0"),
        (Cause.SPACE, "t0"),
        (Cause.MOVED, "y"),
    ]
    assert network.slacks == (0, 0, 0)
    assert network.retimed().moves == schedule.moves
    assert "its place in L2 is held by t0 until then" in critical_chain(instance, schedule)[2].words


def test_a_kernel_that_waits_for_the_rate_of_l2() -> None:
    """Two kernels on other cores that each draw more than half of the rate run one after the other."""
    b = GraphBuilder({"rows": 64, "a": 256}, DType.FLOAT16)
    for number in range(2):
        x, y = b.tensor(f"x{number}", ("rows", "a"), Role.INPUT), b.tensor(f"y{number}", ("rows", "a"), Role.OUTPUT)
        b.op(f"g{number}", OpKind.ACTIVATION, (x,), (y,), vector=work("add", 64 * 256))
    data = tiny_machine(l2_bytes=2**20, launch_ns=40.0, hbm_gb_s=500.0).model_dump(mode="json")
    data["l2"]["rate_gb_s"]["value"] = 400.0
    instance = build_instance(b.graph("rate"), Machine.model_validate(data))
    s = Script(instance)
    for number in range(2):
        s.kernel(f"g{number}", to_hbm=(f"y{number}",), fits=lambda way: way.tiling.aiv == 2)
    first, second = s.schedule().kernels
    kernels = tuple(kernel.model_copy(update={"aiv_ids": ids}) for kernel, ids in ((first, (0, 1)), (second, (2, 3))))
    assert first.tiling.l2_permille > 500
    schedule = s.schedule().model_copy(update={"kernels": kernels}).sealed()
    assert replay(instance, schedule).valid
    network = Network(View(instance, schedule))
    assert [step.cause for step in network.chain()] == [Cause.START, Cause.RATE]
    assert network.slacks == (0, 0)


def test_what_is_not_there() -> None:
    instance = line(l2_bytes=4096)
    schedule = spilled(instance)
    with pytest.raises(InputError, match="tensor 'nope' is not in the graph"):
        why_here(instance, schedule, "nope")
    with pytest.raises(InputError, match="kernel number 9 is not in the schedule"):
        what_binds(instance, schedule, 9)
    stranger = schedule.moves[0].model_copy(update={"start_ns": 1})
    with pytest.raises(InputError, match="spill of t0 is not in the schedule"):
        why_moved(instance, schedule, stranger)
