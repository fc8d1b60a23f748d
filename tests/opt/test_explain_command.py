"""``tilewright explain`` and ``report --compare``: names, sentences, what-ifs, pages, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import opt
from instances.errors import InputError, InvalidScheduleError
from instances.instance import Instance
from instances.machine import MemoryName
from instances.schedule import Status
from opt.cli import app
from opt.replay import replay
from opt.what_if import QUESTIONS, Answer, Question, ask, changed_machine, keep_plan
from reports.chain import Network
from reports.view import View
from solvers.interface import Result


def tilewright(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command in this process: exit code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def explained(files: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = tilewright("explain", files / "layer.json", files / "schedule.json", *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_whole_in_short(files: Path, greedy: Result) -> None:
    code, out, err = tilewright("explain", files / "layer.json", files / "schedule.json")
    assert code == 0, err
    assert f"The latency is {greedy.objective_ns:,} ns" in out
    assert f"{greedy.bound_ns:,} ns ({greedy.bound_by})" in out
    assert "What binds most by itself is" in out
    assert "a little more of the chip" in out
    assert out.count("\nkernel ") == 5 and out.count("\nstep ") == 5


def test_the_chain_in_full(files: Path, greedy: Result) -> None:
    """The steps printed last as long as the schedule."""
    steps = explained(files, "--chain")["reasons"]
    assert {step["topic"] for step in steps} == {"step"}
    assert sum(step["facts"]["end_ns"] - step["facts"]["start_ns"] for step in steps) == greedy.objective_ns


@pytest.mark.parametrize("name", ["3", "#3", "label", "l0.attn_scores", "attn_scores", "L0.Attn_S"])
def test_a_kernel_by_any_name(files: Path, greedy: Result, instance: Instance, name: str) -> None:
    view = View(instance, greedy.schedule)
    row = view.kernel_of["l0.attn_scores"]
    asked = {"3": str(row.number), "#3": f"#{row.number}", "label": row.kernel.label}.get(name, name)
    reasons = explained(files, asked)["reasons"]
    assert {reason["subject"] for reason in reasons} == {f"kernel {row.label}"}
    duration = next(reason for reason in reasons if reason["topic"] == "duration")
    assert duration["facts"]["duration_ns"] == row.duration_ns
    assert f"{row.duration_ns:,} ns" in duration["words"]


def test_a_tensor_and_what_is_called_like_it(files: Path) -> None:
    """``l0.act`` is an operator and the tensor that it makes: both are told of."""
    subjects = {reason["subject"] for reason in explained(files, "l0.act")["reasons"]}
    assert "l0.act" in subjects and len(subjects) == 2
    weight = explained(files, "w_fc2")["reasons"]
    assert weight[0]["words"].startswith("l0.w_fc2 has 4,718,592 bytes and role weight")


def test_names_that_are_wrong(files: Path, greedy: Result) -> None:
    many = len(greedy.schedule.kernels)
    for name, words in (
        ("o_prj", ("no kernel, operator or tensor", "nearest", "l0.o_proj")),
        ("_proj", ("not clear", "l0.q_proj", "l0.k_proj")),
        ("0", (f"kernels 1 to {many}",)),
        (str(many + 1), (f"kernels 1 to {many}",)),
        ("²", ("no kernel, operator or tensor",)),
        ("", ("no kernel, operator or tensor",)),
    ):
        code, out, err = tilewright("explain", files / "layer.json", files / "schedule.json", name)
        assert code == 2 and out == ""
        assert all(word in err for word in words), err
        assert err.count("\n") == 1


def test_a_broken_schedule_is_not_explained(files: Path, tmp_path: Path, greedy: Result, instance: Instance) -> None:
    broken = greedy.schedule.model_copy(update={"latency_ns": 1}).sealed()
    opt.save(broken, tmp_path / "broken.json")
    code, _, err = tilewright("explain", files / "layer.json", tmp_path / "broken.json")
    assert code == 4 and "latency" in err
    with pytest.raises(InvalidScheduleError):
        opt.explain(instance, broken)
    with pytest.raises(InvalidScheduleError, match="schedule b breaks a rule"):
        opt.compare_schedules(instance, greedy.schedule, broken)


def test_the_library_says_the_same(files: Path, instance: Instance, greedy: Result) -> None:
    for name in (None, "1", "o_proj", "l0.w_q"):
        said = [str(reason) for reason in opt.explain(instance, greedy.schedule, name)]
        assert said and all(words.endswith(".") for words in said)
        arguments = [] if name is None else [name]
        assert said == [reason["words"] for reason in explained(files, *arguments)["reasons"]]
    assert [str(r) for r in opt.explain(instance, greedy.schedule, 1)] == [
        str(r) for r in opt.explain(instance, greedy.schedule, "1")
    ]
    with pytest.raises(InputError, match="not clear"):
        opt.explain(instance, greedy.schedule, "_proj")


def test_machines_are_changed_as_said(instance: Instance) -> None:
    base = instance.machine
    more = {question.name: changed_machine(base, question) for question in QUESTIONS}
    assert more["ub"].capacity(MemoryName.UB) == base.capacity(MemoryName.UB) + 1024
    assert (more["core"].aic_count, more["core"].aiv_count) == (base.aic_count + 1, base.aiv_count + base.aiv_per_aic)
    assert more["hbm"].hbm.rate_gb_s.value == pytest.approx(1.01 * base.hbm.rate_gb_s.value)
    assert more["l2-rate"].l2.rate_gb_s.value == pytest.approx(1.01 * base.l2.rate_gb_s.value)
    grown = more["l2-size"].capacity(MemoryName.L2) - 1.01 * base.capacity(MemoryName.L2)
    assert 0 <= grown < base.alignment(MemoryName.L2)
    assert len({machine.fingerprint for machine in (base, *more.values())}) == 6


def faster_hbm(data: dict[str, Any]) -> None:
    data["hbm"]["rate_gb_s"]["value"] *= 4


FASTER = Question("hbm4", "four times the HBM rate", faster_hbm)


def test_the_plan_kept(instance: Instance, greedy: Result) -> None:
    """More of anything makes the plan no slower; a channel four times as fast helps one that streams."""
    kept = {one.question.name: one for one in keep_plan(instance, greedy.schedule, (*QUESTIONS, FASTER))}
    own = Network(View(instance, greedy.schedule)).retimed().latency_ns
    assert set(kept) == {"ub", "core", "hbm", "l2-rate", "l2-size", "hbm4"}
    for one in kept.values():
        assert one.saves_ns == own - one.latency_ns >= 0
        assert f"{one.latency_ns:,} ns" in one.words
    assert kept["hbm4"].saves_ns > kept["hbm"].saves_ns >= 0


def test_planned_anew(instance: Instance, greedy: Result) -> None:
    """The answer is proven on the changed machine, and never worse than the plan kept."""
    heard: list[Answer] = []
    (answer,) = ask(instance, greedy.schedule, 4.0, questions=(FASTER,), workers=1, on_answer=heard.append)
    assert heard == [answer]
    (kept,) = keep_plan(instance, greedy.schedule, (FASTER,))
    assert answer.warm
    assert answer.bound_ns <= answer.latency_ns <= kept.latency_ns
    assert answer.base_bound_ns <= answer.base_latency_ns <= greedy.objective_ns
    assert answer.base_bound_ns >= greedy.bound_ns
    assert answer.least_ns == answer.base_bound_ns - answer.latency_ns
    assert answer.most_ns == answer.base_latency_ns - answer.bound_ns
    assert answer.least_ns <= answer.most_ns
    assert f"{answer.most_ns:,} ns" in answer.words


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((90, 90, 100, 100), "saves 10 ns, proven"),
        ((100, 100, 100, 100), "saves nothing, proven"),
        ((90, 80, 100, 95), "saves between 5 ns and 20 ns"),
        ((100, 80, 100, 95), "saves between -5 ns and 20 ns: it may save nothing"),
        ((100, 100, 100, 95), "saves between -5 ns and 0 ns: it saves nothing"),
    ],
)
def test_intervals_are_honest(numbers: tuple[int, int, int, int], words: str) -> None:
    latency, bound, base, base_bound = numbers
    answer = Answer(QUESTIONS[0], latency, bound, "cp-sat", base, base_bound, warm=True)
    assert answer.words.endswith(f"it {words}.")


def test_what_if_on_the_command_line(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "__kwdefaults__", {**(ask.__kwdefaults__ or {}), "questions": (FASTER,)})
    found = explained(files, "--what-if", "--time-limit", "3", "--workers", "1")
    (answer,) = found["what_if"]
    assert answer["with"] == "four times the HBM rate"
    assert answer["saves_least_ns"] == answer["base_bound_ns"] - answer["latency_ns"]
    code, out, err = tilewright(
        *("explain", files / "layer.json", files / "schedule.json", "--what-if", "--time-limit", "2", "--workers", "1")
    )
    assert code == 0, err
    assert "planned anew" in out and "four times the HBM rate" in out
    for limit in ("0", "-1", "nan"):
        code, _, err = tilewright(
            *("explain", files / "layer.json", files / "schedule.json", "--what-if", "--time-limit", limit)
        )
        assert code == 2 and "time limit" in err


def test_questions_for_which_there_is_no_time(files: Path) -> None:
    code, out, err = tilewright(
        *("explain", files / "layer.json", files / "schedule.json", "--what-if", "--time-limit", "0.1")
    )
    assert code == 0, err
    assert "planned anew" not in out
    assert "no time was left for: 1 KiB more of UB, one more AIC" in err


def test_compare_writes_a_page_and_says_what_the_difference_is(
    files: Path, tmp_path: Path, instance: Instance, greedy: Result, best: Result
) -> None:
    opt.save(best.schedule, tmp_path / "best.json")
    page = tmp_path / "compare.html"
    code, out, err = tilewright(
        *("report", files / "layer.json", files / "schedule.json", "--compare", tmp_path / "best.json", "-o", page)
    )
    assert code == 0, err
    less = greedy.objective_ns - best.objective_ns
    assert less > 0
    assert f"a takes {greedy.objective_ns:,} ns, b {best.objective_ns:,} ns: {less:,} ns less." in out
    rows = [line.split() for line in out.splitlines() if line[:1].islower()]
    total = next(row for row in rows if row[0] == "all")
    assert float(total[-1].replace(",", "")) == pytest.approx(-less / 1000)
    assert "compare.html" in err and page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    found = opt.compare_schedules(instance, greedy.schedule, best.schedule)
    assert found.difference_ns == -less == sum(share.difference_ns for share in found.shares)


def test_compare_refuses(files: Path, tmp_path: Path) -> None:
    layer, schedule = files / "layer.json", files / "schedule.json"
    page = tmp_path / "page.html"
    for extra, words in (
        (("--compare", schedule, "-o", page, "--trace", tmp_path / "t.json"), "--compare writes the page alone"),
        (("--compare", schedule, "-o", schedule), "is named twice"),
        (("--compare", tmp_path / "none.json", "-o", page), "none.json"),
    ):
        code, _, err = tilewright("report", layer, schedule, *extra)
        assert code == 2 and words in err, err
        assert not page.exists()


def test_an_optimal_schedule_is_said_to_be(instance: Instance, best: Result) -> None:
    whole = opt.explain(instance, best.schedule)[0].words
    assert ("optimal" in whole) == (best.status is Status.OPTIMAL)
    assert replay(instance, best.schedule).latency_ns == best.objective_ns
