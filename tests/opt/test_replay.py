"""What solvers hand over passes the replay, which adds the latency, traffic and peak up for itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instances.build import build_instance
from instances.documents import read_document, write_document
from instances.errors import InvalidScheduleError
from instances.instance import Instance
from instances.kernels import KernelKind, Rule
from instances.machine import load_machine
from instances.schedule import MoveKind, Schedule, Source
from opt.replay import replay
from solvers.cpsat import solve_cpsat
from solvers.interface import Options
from solvers.sequential import solve_greedy, solve_unfused
from tests.conftest import llama_graph


@pytest.fixture(scope="module")
def solved(llama: Instance, qwen: Instance) -> dict[str, tuple[Instance, Schedule]]:
    """Schedules of every solver that scales, on a dense layer and on one with collectives."""
    found = {}
    for name, instance in (("llama", llama), ("qwen", qwen)):
        found[f"{name} unfused"] = (instance, solve_unfused(instance, Options(time_limit_s=2)).schedule)
        found[f"{name} greedy"] = (instance, solve_greedy(instance, Options(time_limit_s=2)).schedule)
        found[f"{name} cpsat"] = (instance, solve_cpsat(instance, Options(time_limit_s=5, workers=2)).schedule)
    return found


CASES = [f"{model} {solver}" for model in ("llama", "qwen") for solver in ("unfused", "greedy", "cpsat")]


@pytest.mark.parametrize("case", CASES)
def test_solvers_schedules_are_valid(solved: dict[str, tuple[Instance, Schedule]], case: str) -> None:
    instance, schedule = solved[case]
    outcome = replay(instance, schedule)
    assert outcome.violations == ()
    assert outcome.latency_ns == schedule.latency_ns == outcome.require_valid().latency_ns
    assert schedule.proof.bound_ns <= schedule.latency_ns


@pytest.mark.parametrize("case", CASES)
def test_replay_adds_up_traffic_and_peak(solved: dict[str, tuple[Instance, Schedule]], case: str) -> None:
    instance, schedule = solved[case]
    outcome = replay(instance, schedule)
    assert outcome.hbm_bytes == hbm_bytes(instance, schedule)
    assert outcome.l2_peak_bytes == l2_peak_bytes(instance, schedule)
    assert outcome.l2_peak_bytes <= 192 * 2**20


def test_the_schedules_between_them_use_everything(
    solved: dict[str, tuple[Instance, Schedule]], scripted: Schedule
) -> None:
    """Otherwise the tests on this page would prove little."""
    schedules = [scripted, *(schedule for _, schedule in solved.values())]
    assert {move.kind for schedule in schedules for move in schedule.moves} == set(MoveKind)
    assert {kernel.kind for schedule in schedules for kernel in schedule.kernels} == set(KernelKind)
    assert {kernel.rule for schedule in schedules for kernel in schedule.kernels} == set(Rule)
    assert any(kernel.workspace_offset_bytes is not None for _, s in solved.values() for kernel in s.kernels)


def test_cpsat_is_no_worse_than_greedy(solved: dict[str, tuple[Instance, Schedule]]) -> None:
    for model in ("llama", "qwen"):
        assert solved[f"{model} cpsat"][1].latency_ns <= solved[f"{model} greedy"][1].latency_ns


def test_unfused_takes_every_tensor_through_hbm(solved: dict[str, tuple[Instance, Schedule]], llama: Instance) -> None:
    """No residency, no workspace: nothing ever lies in L2."""
    schedule = solved["llama unfused"][1]
    outcome = replay(llama, schedule)
    assert (outcome.l2_peak_bytes, schedule.residencies, schedule.moves) == (0, (), ())
    reads = sum(llama.graph.touched_bytes(access) for o in llama.graph.operators for access in o.reads)
    writes = sum(llama.graph.tensor[access.tensor].size_bytes for o in llama.graph.operators for access in o.writes)
    assert outcome.hbm_bytes == reads + writes


def test_scripted_schedule_is_valid(qwen: Instance, scripted: Schedule) -> None:
    """The base of the corruptions: mixed kernels with workspaces, collectives, all three kinds of moves."""
    outcome = replay(qwen, scripted)
    assert outcome.violations == ()
    assert outcome.latency_ns == scripted.latency_ns
    assert outcome.hbm_bytes == hbm_bytes(qwen, scripted)
    assert outcome.l2_peak_bytes == l2_peak_bytes(qwen, scripted)
    assert {kernel.kind for kernel in scripted.kernels} == set(KernelKind)
    assert {move.kind for move in scripted.moves} == set(MoveKind)
    assert sum(kernel.workspace_offset_bytes is not None for kernel in scripted.kernels) == 4
    first, second = (k for k in scripted.kernels if k.operators[0] in ("l0.q_proj", "l0.k_proj"))
    assert first.start_ns == second.start_ns  # at once, on different cores


def test_a_later_start_of_everything_is_valid(qwen: Instance, scripted: Schedule) -> None:
    """The replay judges meaning, not form: idle time at the start breaks no rule and counts in the latency."""
    late = 1000
    moved = Schedule(
        instance=scripted.instance,
        latency_ns=scripted.latency_ns + late,
        kernels=tuple(
            kernel.model_copy(
                update={
                    "start_ns": kernel.start_ns + late,
                    "end_ns": kernel.end_ns + late,
                    "hbm_start_ns": None if kernel.hbm_start_ns is None else kernel.hbm_start_ns + late,
                }
            )
            for kernel in scripted.kernels
        ),
        moves=tuple(
            move.model_copy(update={"start_ns": move.start_ns + late, "end_ns": move.end_ns + late})
            for move in scripted.moves
        ),
        residencies=tuple(
            stay.model_copy(update={"start_ns": stay.start_ns + late, "end_ns": stay.end_ns + late})
            for stay in scripted.residencies
        ),
        proof=scripted.proof,
    ).sealed()
    outcome = replay(qwen, moved)
    assert outcome.violations == ()
    assert outcome.latency_ns == scripted.latency_ns + late


@pytest.mark.parametrize("machine", ["ascend310p3", "ascend950pr"])
def test_other_generations(machine: str) -> None:
    """Coupled cores, direct paths, more vector than cube cores: what holds on 910B holds elsewhere."""
    instance = build_instance(llama_graph(dtype="float16"), load_machine(machine))
    schedule = solve_greedy(instance, Options(time_limit_s=1)).schedule
    outcome = replay(instance, schedule)
    assert outcome.violations == ()
    assert outcome.latency_ns == schedule.latency_ns


def test_require_valid_names_the_first_violation(qwen: Instance, scripted: Schedule) -> None:
    wrong = scripted.model_copy(update={"latency_ns": scripted.latency_ns - 5}).sealed()
    outcome = replay(qwen, wrong)
    assert [(v.rule, v.time_ns, v.amount) for v in outcome.violations] == [("latency", scripted.latency_ns, 5)]
    said, ends = scripted.latency_ns - 5, scripted.latency_ns
    sentence = f"it breaks a rule: [latency] schedule at {ends} ns: says {said} ns, the replay ends at"
    with pytest.raises(InvalidScheduleError) as caught:
        outcome.require_valid("it")
    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == 4


def test_require_valid_counts_the_others(qwen: Instance, scripted: Schedule) -> None:
    outcome = replay(qwen, scripted.model_copy(update={"latency_ns": 1, "instance": "other"}))
    assert {v.rule for v in outcome.violations} >= {"instance", "seal", "latency"}
    with pytest.raises(InvalidScheduleError, match=rf"\(and {len(outcome.violations) - 1} more\)$"):
        outcome.require_valid()


def test_schedule_survives_its_file(tmp_path, qwen: Instance, scripted: Schedule) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "schedule.json"
    write_document(scripted, path)
    again = read_document(Schedule, path)
    assert again == scripted
    assert replay(qwen, again).valid


# --------------------------------------------------------------- the same sums, done another way


def hbm_bytes(instance: Instance, schedule: Schedule) -> int:
    """Bytes over the channel: of each kernel what it reads from and writes to HBM, of each move the whole tensor."""
    graph = instance.graph
    total = sum(graph.tensor[move.tensor].size_bytes for move in schedule.moves)
    for kernel in schedule.kernels:
        for read in kernel.reads:
            if read.source is Source.HBM:
                total += max(
                    access.touched_bytes or graph.tensor[read.tensor].size_bytes
                    for operator in graph.operators
                    for access in operator.reads
                    if operator.name in kernel.operators and access.tensor == read.tensor
                )
        total += sum(graph.tensor[write.tensor].size_bytes for write in kernel.writes if write.hbm)
    return total


def l2_peak_bytes(instance: Instance, schedule: Schedule) -> int:
    """The most that lies in L2 at the start of anything."""
    blocks = list(l2_blocks(instance, schedule))
    return max((sum(size for low, high, size in blocks if low <= t < high) for t, _, _ in blocks), default=0)


def l2_blocks(instance: Instance, schedule: Schedule) -> Iterator[tuple[int, int, int]]:
    """Start, end and bytes of residencies and workspaces."""
    for stay in schedule.residencies:
        yield stay.start_ns, stay.end_ns, stay.size_bytes
    ways = {c.operators: instance.implementations(c) for c in instance.candidates}
    for kernel in schedule.kernels:
        cost = next(way.cost for way in ways[kernel.operators] if way.tiling == kernel.tiling)
        if cost.workspace_bytes:
            yield kernel.start_ns, kernel.end_ns, cost.workspace_bytes
