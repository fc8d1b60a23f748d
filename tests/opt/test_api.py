"""The functions of ``import opt``."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import opt
from instances.catalogue import load_model
from instances.errors import InfeasibleError, InputError, InvalidScheduleError, NoScheduleError
from instances.instance import Instance
from instances.machine import load_machine
from instances.schedule import Schedule, Status
from solvers.interface import Event, Options, Result
from solvers.registry import REGISTRY, Entry, find_solver

ROOT = Path(opt.__file__).parents[1]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_import_is_light_and_silent() -> None:
    heavy = "ortools", "highspy", "networkx", "jinja2", "typer", "rich"
    assert python("import opt") == ""
    assert python(f"import opt, sys; print([m for m in {heavy!r} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize(
    "code",
    [
        "import opt; from opt.replay import Replay, Violation, replay; assert opt.replay is replay",
        "from opt.replay import replay; import opt; assert opt.replay is replay",
        "import opt.replay.judge; import opt; assert callable(opt.replay)",
        "import opt; from opt.replay.judge import replay; assert opt.replay is replay",
    ],
)
def test_replay_is_both_a_function_and_a_package(code: str) -> None:
    assert python(code) == ""


def test_everything_public_is_there() -> None:
    assert set(opt.__all__) <= set(dir(opt))
    assert isinstance(opt.__version__, str)
    assert "gpt2" in opt.models()
    assert "ascend910b2" in opt.machines()
    assert opt.solvers()[0] == "portfolio"
    assert {"cpsat", "anneal", "dp", "milp", "greedy", "stack", "autofuse", "unfused", "exhaustive"} < set(
        opt.solvers()
    )


def test_every_solver_of_the_registry_loads() -> None:
    assert all(callable(entry.load()) and entry.description and entry.source for entry in REGISTRY.values())


# --------------------------------------------------------------------------- generate


def test_tokens_have_defaults_where_there_is_one_sensible_number() -> None:
    assert opt.generate("gpt2", phase="decode", context=64, layers=1).origin["tokens"] == 1
    assert opt.generate("vit-b-16", phase="prefill", layers=1).origin["tokens"] == 197
    speech = opt.generate("whisper-large-v3", phase="prefill", layers=1, max_group=1)
    assert speech.origin["tokens"] == 1  # what the decoder starts from
    assert speech.graph.operator["d0.cross_attn_scores"].dims["source"] == 1500
    with pytest.raises(InputError, match="without tokens"):
        opt.generate("gpt2", phase="prefill", layers=1)


def test_origin_says_what_was_chosen_alone() -> None:
    plain = opt.generate("t5-base", phase="decode", context=16, source=32, layers=1, max_group=1)
    assert plain.origin["source"] == 32 and "absorbed" not in plain.origin
    step = {"phase": "decode", "context": 64, "layers": 1, "max_group": 1}
    expanded = opt.generate("deepseek-v2-lite", absorbed=False, **step)  # type: ignore[arg-type]
    assert expanded.origin["absorbed"] is False and "source" not in expanded.origin
    assert expanded.graph.fingerprint != opt.generate("deepseek-v2-lite", **step).graph.fingerprint  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("t5-base", {"phase": "prefill", "tokens": 16, "source": 64}),
        ("t5-base", {"phase": "decode", "context": 16, "source": 64}),
        ("whisper-large-v3", {"phase": "decode", "context": 16}),
        ("pangu-pro-moe", {"phase": "decode", "context": 64}),
        ("pangu-alpha-2.6b", {"phase": "prefill", "tokens": 16}),
        ("deepseek-v2-lite", {"phase": "decode", "context": 64, "absorbed": False}),
    ],
)
def test_models_of_every_shape_are_solved(name: str, asked: dict[str, Any]) -> None:
    """Two blocks with their ends, so that a query layer and a head are among them; the answer has passed its replay."""
    model = load_model(name)
    few = {"layers": 2, "decoder_layers": 2 if model.decoder_layers else None}
    instance = opt.generate(model.model_copy(update=few), max_group=3, **asked)
    result = opt.solve(instance, solver="greedy", time_limit=3)
    assert opt.replay(instance, result.schedule).valid
    assert {name for kernel in result.schedule.kernels for name in kernel.operators} == set(instance.graph.operator)
    assert 0 < result.bound_ns <= result.objective_ns


def test_generate_takes_a_machine_and_its_name() -> None:
    by_name = opt.generate("gpt2", phase="decode", context=64, layers=1, machine="ascend950pr")
    by_value = opt.generate("gpt2", phase="decode", context=64, layers=1, machine=load_machine("ascend950pr"))
    assert by_name == by_value
    assert by_name.machine.name == "ascend950pr"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"batch": -1}, InputError),
        ({"batch": 10**30}, InputError),
        ({"batch": 10**9}, InfeasibleError),
        ({"tp": 0}, InputError),
        ({"layers": 13}, InputError),
        ({"source": 8}, InputError),
        ({"absorbed": True}, InputError),
        ({"max_group": 0}, InputError),
        ({"max_group": 10**30}, InputError),
        ({"dtype": "int4"}, InputError),
        ({"phase": "both"}, InputError),
        ({"machine": "abacus"}, InputError),
    ],
)
def test_generate_refuses_what_makes_no_sense(change: dict[str, Any], error: type[Exception]) -> None:
    request: dict[str, Any] = {"phase": "decode", "context": 64, "layers": 1}
    with pytest.raises(error):
        opt.generate("gpt2", **request | change)


# --------------------------------------------------------------------------- solve


def test_result_is_replayed_and_bounded(instance: Instance, best: Result, greedy: Result) -> None:
    judged = opt.replay(instance, best.schedule)
    assert judged.valid
    assert judged.latency_ns == best.objective_ns <= greedy.objective_ns
    assert 0 < best.bound_ns <= best.objective_ns
    assert best.bounds_ns[best.bound_by] == best.bound_ns
    assert (best.status is Status.OPTIMAL) == (best.gap == 0)


def test_files_round_trip(tmp_path: Path, instance: Instance, greedy: Result) -> None:
    opt.save(instance, tmp_path / "i.json")
    opt.save(greedy.schedule, tmp_path / "s.json")
    assert opt.load_instance(tmp_path / "i.json") == instance
    assert opt.load_schedule(tmp_path / "s.json") == greedy.schedule


def test_events_only_improve(instance: Instance) -> None:
    seen: list[Event] = []
    result = opt.solve(instance, 2, workers=1, on_event=seen.append)
    bounds = [event.bound_ns for event in seen]
    assert bounds == sorted(bounds)
    objectives = [event.objective_ns for event in seen if event.objective_ns is not None]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] == result.objective_ns


def test_unknown_solver_lists_the_known(instance: Instance) -> None:
    with pytest.raises(InputError, match=r"portfolio, cpsat, .*, unfused, exhaustive"):
        opt.solve(instance, solver="oracle")


@pytest.mark.parametrize(
    "limits",
    [
        {"time_limit": 0},
        {"time_limit": -1},
        {"time_limit": float("nan")},
        {"time_limit": float("inf")},
        {"workers": -1},
        {"workers": 10**20},
        {"seed": -1},
        {"seed": 10**20},
        {"gap": 1},
        {"gap": float("nan")},
        {"deterministic_limit": 0},
        {"deterministic_limit": float("nan")},
        {"leave_out": ["cores"]},
        {"leave_out": ["nonsense"]},
    ],
)
def test_numbers_that_make_no_sense_are_refused(instance: Instance, limits: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        opt.solve(instance, **limits)


def test_a_warm_start_is_never_lost(instance: Instance, best: Result) -> None:
    again = opt.solve(instance, 5, "unfused", warm_start=best.schedule)
    assert again.objective_ns == best.objective_ns
    assert again.solver == "unfused"
    assert opt.replay(instance, again.schedule).valid


def test_an_invalid_warm_start_is_refused(instance: Instance, greedy: Result) -> None:
    forged = greedy.schedule.model_copy(update={"latency_ns": 1})
    with pytest.raises(InvalidScheduleError, match="warm start"):
        opt.solve(instance, 5, warm_start=forged)


def test_a_warm_start_from_outside_the_candidates_is_refused(greedy: Result) -> None:
    narrow = opt.generate("gpt2", phase="decode", context=128, layers=1, max_group=1)
    assert opt.replay(narrow, greedy.schedule).valid  # the same graph and machine
    with pytest.raises(InputError, match="not among the instance's candidates"):
        opt.solve(narrow, 5, warm_start=greedy.schedule)


# --------------------------------------------------------------------------- what if a solver errs

Answer = Callable[[Instance, Options], Result]


def impersonate(monkeypatch: pytest.MonkeyPatch, name: str, answer: Answer) -> None:
    """Let a solver of the registry answer otherwise."""
    honest = Entry.load
    monkeypatch.setattr(Entry, "load", lambda entry: answer if entry.name == name else honest(entry))


def lying(change: Callable[[Schedule], Schedule]) -> Answer:
    """The greedy solver's answer, falsified."""

    def answer(instance: Instance, options: Options) -> Result:
        result = find_solver("greedy").load()(instance, options)
        return replace(result, schedule=change(result.schedule).sealed())

    return answer


def too_fast(schedule: Schedule) -> Schedule:
    return schedule.model_copy(update={"latency_ns": schedule.latency_ns - 1})


def with_bound(bound_ns: int) -> Callable[[Schedule], Schedule]:
    def change(schedule: Schedule) -> Schedule:
        proof = schedule.proof
        more = proof.bounds_ns | {"cp-sat": bound_ns}
        update = {"bound_ns": bound_ns, "bound_by": "cp-sat", "bounds_ns": more}
        return too_fast(schedule).model_copy(update={"proof": proof.model_copy(update=update)})

    return change


def test_an_unsound_answer_of_cpsat_falls_back_to_greedy(
    instance: Instance, greedy: Result, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proven = greedy.bound_ns + 1
    impersonate(monkeypatch, "portfolio", lying(with_bound(proven)))
    with caplog.at_level(logging.WARNING, logger="opt"):
        result = opt.solve(instance, 5)
    assert "falling back to the greedy schedule" in caplog.text
    assert result.solver == "greedy"
    assert result.objective_ns == greedy.objective_ns
    assert (result.bound_ns, result.bound_by) == (proven, "cp-sat")
    assert opt.replay(instance, result.schedule).valid


def test_a_bound_that_the_fallback_refutes_is_dropped(
    instance: Instance, greedy: Result, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impersonate(monkeypatch, "portfolio", lying(with_bound(greedy.objective_ns + 1)))
    result = opt.solve(instance, 5)
    assert "refutes the bounds cp-sat" in caplog.text
    assert "cp-sat" not in result.bounds_ns
    assert 0 < result.bound_ns <= result.objective_ns


@pytest.mark.parametrize("error", [NoScheduleError("model invalid"), ZeroDivisionError("ours")])
def test_cpsat_giving_up_falls_back_to_greedy(
    instance: Instance, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def give_up(instance: Instance, options: Options) -> Result:
        raise error

    impersonate(monkeypatch, "portfolio", give_up)
    assert opt.solve(instance, 5).solver == "greedy"
    assert str(error) in caplog.text


def test_the_fallback_keeps_a_better_warm_start(
    instance: Instance, best: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    impersonate(monkeypatch, "portfolio", lying(lambda schedule: schedule.model_copy(update={"latency_ns": 1})))
    assert opt.solve(instance, 5, warm_start=best.schedule).objective_ns == best.objective_ns


def test_an_unsound_answer_of_another_solver_is_an_error(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    impersonate(monkeypatch, "unfused", lying(too_fast))
    with pytest.raises(InvalidScheduleError, match="unfused"):
        opt.solve(instance, 5, "unfused")


# --------------------------------------------------------------------------- what people look at


def test_report_and_trace(tmp_path: Path, instance: Instance, greedy: Result) -> None:
    page = opt.report(instance, greedy.schedule, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page
    assert f"{instance.machine.title}" in page
    events = opt.trace(instance, greedy.schedule, tmp_path / "t.json")
    assert events["otherData"]["latency_ns"] == greedy.objective_ns
    assert (tmp_path / "t.json").stat().st_size > 0
