"""The judge on modulo schedules: legal ones pass, and whatever is wrong with one is said."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opt
from formulations.modulo_facts import objection
from instances.instance import Instance
from instances.machine import load_machine
from instances.pipelines.course import Uncertified, course
from instances.pipelines.loop import KernelLoop, LoopKernel, PipelineSchedule
from opt.exact_prices import repriced
from opt.replay.pipelines import check_pipeline
from solvers.interface import Result
from solvers.pipelining.exact import Piped, Repriced, estimated
from solvers.pipelining.search import schedule_loop
from tests.pipelining import loop_of, small_loops

MACHINE = load_machine("ascend910b2")


@pytest.fixture(scope="module", autouse=True)
def _no_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setenv("TILEWRIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def plain() -> Instance:
    return opt.generate("gpt2", phase="prefill", tokens=512, layers=1, machine="ascend950pr")


@pytest.fixture(scope="module")
def exact(plain: Instance) -> Repriced:
    return repriced(plain)


@pytest.fixture(scope="module")
def solved(exact: Repriced) -> Result:
    return opt.solve(exact.instance, 5, "dp", workers=1)


def test_a_schedule_with_exact_prices_is_valid(exact: Repriced, solved: Result) -> None:
    found = opt.replay(exact.instance, solved.schedule)
    assert found.valid, found.violations[:3]
    assert found.latency_ns == solved.objective_ns >= solved.bound_ns


def test_every_certificate_is_legal(exact: Repriced) -> None:
    assert len(exact.scheduled) > 20
    for way in exact.scheduled:
        assert way.loop is not None and way.schedule is not None
        assert check_pipeline(way.loop, way.schedule, exact.instance.machine) == []


def test_estimates_are_not_touched(plain: Instance, exact: Repriced) -> None:
    """The question with estimates is the same before and after, and knows nothing of pipelines."""
    back = estimated(exact.instance)
    assert back == plain and back.fingerprint == plain.fingerprint != exact.instance.fingerprint
    assert "pipelines" not in plain.model_dump(mode="json", exclude_defaults=True)


def _other(instance: Instance, change: dict[str, Any], number: int) -> Instance:
    """The instance with one of its certificates changed."""
    changed = list(instance.pipelines)
    changed[number] = PipelineSchedule(**(changed[number].model_dump() | change))
    return _with(instance, tuple(changed))


def _with(instance: Instance, pipelines: tuple[PipelineSchedule, ...]) -> Instance:
    fields = {name: getattr(instance, name) for name in Instance.model_fields}
    return Instance(**fields | {"pipelines": pipelines})


def test_corrupted_certificates_are_named(exact: Repriced, solved: Result) -> None:
    """Of an instance whose certificate does not hold, the schedule is refused with the rule and the kernel."""
    way = next(w for w in _used(exact, solved) if w.loop is not None and w.loop.body.cyclic)
    assert way.loop is not None and way.schedule is not None
    number = next(n for n, s in enumerate(exact.instance.pipelines) if s.loop == way.schedule.loop)
    schedule = way.schedule
    ring = way.loop.body.rings[0].key
    changes: dict[str, dict[str, Any]] = {
        "hold": {"ii_ps": max(1, schedule.ii_ps // 2), "bound_ps": 0},
        "lets it": {"start_ps": (0,) * len(schedule.start_ps)},
        "slots exceed": {"slots": {**schedule.slots, ring: 64}},
        "other buffers": {"slots": {}},
        "another loop": {"start_ps": schedule.start_ps[1:]},
        "the bound is above": {"bound_ps": schedule.ii_ps + 1},
    }
    for words, change in changes.items():
        broken = _other(exact.instance, change, number)
        faults = check_pipeline(way.loop, broken.pipelines[number], broken.machine)
        assert any(words in fault.what and fault.amount > 0 for fault in faults), (words, faults)
        named = [v for v in opt.replay(broken, solved.schedule).violations if v.place == way.label]
        assert any(v.rule == "pipeline" or "of another loop" in v.detail for v in named), (words, named)


def _used(exact: Repriced, solved: Result) -> list[Piped]:
    ways = {(way.operators, way.tiling.model_dump_json()): way for way in exact.scheduled}
    return [
        ways[key]
        for kernel in solved.schedule.kernels
        if (key := (kernel.operators, kernel.tiling.model_dump_json())) in ways
    ]


def test_hostile_certificates_end_soon(exact: Repriced) -> None:
    """Absurd numbers are refused by the judge, and by whoever else prices with them, before they cost time."""
    way = next(w for w in exact.scheduled if w.loop is not None and w.loop.body.cyclic)
    assert way.loop is not None and way.schedule is not None
    count, machine = len(way.schedule.start_ps), exact.instance.machine
    far = way.schedule.model_copy(update={"ii_ps": 1, "start_ps": (0,) * (count - 1) + (2**52,), "bound_ps": 0})
    (fault,) = check_pipeline(way.loop, far, machine)
    assert "looked at together" in fault.what
    with pytest.raises(Uncertified, match="in flight"):
        course(way.loop, far)
    with pytest.raises(Uncertified, match="starts too early"):
        course(way.loop, way.schedule.model_copy(update={"start_ps": (0,) * count}))


def test_a_missing_certificate_is_no_price(exact: Repriced, solved: Result) -> None:
    bare = _with(exact.instance, ())
    found = [v for v in opt.replay(bare, solved.schedule).violations if v.rule == "tiling"]
    assert found and "pipeline schedule (missing)" in found[0].detail


def test_a_time_that_does_not_suffice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the price counted less than the iterations take, the judge's own run shows it."""
    body = loop_of([("in", 4), ("work", 5)], [(0, 1, 4, 0)], [(0, 1, 3)])
    schedule = schedule_loop(body)
    assert schedule is not None
    loop = KernelLoop(body=body, iterations=7)
    assert check_pipeline(loop, schedule, MACHINE) == []
    assert course(loop, schedule).end_ps == 4 + 7 * 5
    short = course(loop.model_copy(update={"iterations": 2}), schedule)
    monkeypatch.setattr(sys.modules["opt.replay.pipelines"], "course", lambda loop, schedule: short)
    (fault,) = check_pipeline(loop, schedule, MACHINE)
    assert fault.what == "7 iterations take 39 ps, 14 ps are counted" and fault.amount == 25


@settings(max_examples=150, deadline=None)
@given(small_loops(), st.data())
def test_judge_and_formulation_agree(loop: LoopKernel, data: st.DataObject) -> None:
    """Of any change to a schedule, the judge, which lays iterations out, and the arcs of the model say the same."""
    schedule = schedule_loop(loop, 0.2)
    if schedule is None:
        return
    starts = list(schedule.start_ps)
    place = data.draw(st.integers(0, len(starts) - 1))
    starts[place] = max(0, starts[place] + data.draw(st.integers(-4, 4)))
    update = {
        "start_ps": tuple(starts),
        "ii_ps": max(1, schedule.ii_ps + data.draw(st.integers(-2, 2))),
        "slots": {key: max(1, n + data.draw(st.integers(-1, 1))) for key, n in schedule.slots.items()},
        "bound_ps": 0,
    }
    changed = schedule.model_copy(update=update)
    faults = check_pipeline(KernelLoop(body=loop, iterations=6), changed, MACHINE)
    assert bool(faults) == bool(objection(loop, changed)), (faults, objection(loop, changed))


@settings(max_examples=60, deadline=None)
@given(small_loops(), st.integers(1, 9))
def test_a_course_is_no_longer_than_the_schedule_and_no_shorter_than_its_work(loop: LoopKernel, turns: int) -> None:
    schedule = schedule_loop(loop, 0.2)
    if schedule is None:
        return
    run = course(KernelLoop(body=loop, iterations=turns), schedule)
    assert run.end_ps <= (turns - 1) * schedule.ii_ps + schedule.span_ps(loop)
    busiest = max(sum(ps for _, ps in users) for users in loop.resources.values())
    assert run.end_ps >= turns * busiest
    assert all(run.fill_ps(pipe) >= 0 and run.drain_ps(pipe) >= 0 for pipe in run.first_ps)
