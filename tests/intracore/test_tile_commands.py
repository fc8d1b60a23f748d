"""The contest's files through the commands: solved, judged under both readings, refused in one sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from instances.errors import InputError, InvalidScheduleError
from instances.intracore_files import read_tile_answer, write_tile_answer, write_tile_task
from instances.intracore_samples import matmul
from opt import intracore
from opt.cli import app
from opt.cli.completing import suggestions
from opt.replay.intracore import Rules
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, CHAIN_ORDER
from tests.intracore.test_tile_files import write_tables

RUN = CliRunner()

KEYS = (
    *("status", "objective", "bound", "bound_by", "bounds", "gap", "runtime_s", "solver", "workers", "seed", "covers"),
    *("residency", "traffic", "makespan", "makespan_literal", "judged"),
)


def run(*arguments: object) -> Any:
    """A command; its clock starts now."""
    return RUN.invoke(app, [str(argument) for argument in arguments], obj=time.monotonic())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tile_task(matmul(2, 2, 2), tmp_path / "task.json")
    write_tile_task(CHAIN, tmp_path / "tiny.json")
    return tmp_path


@pytest.mark.parametrize("problem", [1, 2, 3])
def test_solve_and_validate(problem: int, folder: Path) -> None:
    """The same figures come from the solver, from the judge, and from the files."""
    task, out = folder / "task.json", folder / "out"
    solved = run("solve", task, "--problem", problem, "-o", out, "--time-limit", 0.6, "--seed", 3, "--json", "-q")
    assert solved.exit_code == 0, solved.output
    told = json.loads(solved.stdout)
    assert set(KEYS) <= set(told)
    assert told["bound"] <= told["objective"] == told["judged"]
    assert told["bound"] == told["bounds"][told["bound_by"]] and told["seed"] == 3
    assert told["status"] in ("optimal", "feasible")
    endings = ("schedule",) if problem == 1 else ("schedule", "memory", "spill")
    found = {file.name for file in (out / f"Problem{problem}").iterdir()}
    assert found == {f"task_{ending}.txt" for ending in endings}
    for place in (out, out / f"Problem{problem}"):
        judged = run("validate", task, place, "--problem", problem, "--json")
        assert judged.exit_code == 0, judged.output
        verdict = json.loads(judged.stdout)
        for key in ("objective", "residency", "traffic", "makespan", "makespan_literal"):
            assert verdict[key] == told[key], key
    if problem == 1:
        assert told["traffic"] is told["makespan"] is None
    else:
        assert told["makespan_literal"] <= told["makespan"]


def test_what_people_read(folder: Path) -> None:
    solved = run("solve", folder / "task.json", "--problem", 3, "-o", folder / "out", "--time-limit", 0.6, "--verbose")
    assert solved.exit_code == 0, solved.output
    for word in ("task ", "objective", "bound ", "gap ", "judged", "traffic", "makespan", "by the statement's letter"):
        assert word in solved.output
    assert (folder / "out" / "Problem3" / "task_schedule.txt").exists()
    judged = run("validate", folder / "task.json", folder / "out")
    assert judged.exit_code == 0 and "no rule of sub-problem 3 is broken" in judged.output


def test_tables_are_recognised(folder: Path) -> None:
    nodes, edges = write_tables(CHAIN, folder, "pair")
    for path in (nodes, edges):
        solved = run("solve", path, "--problem", 2, "-o", folder / "out", "--time-limit", 0.6)
        assert solved.exit_code == 0, solved.output
    assert run("validate", nodes, folder / "out").exit_code == 0
    edges.unlink()
    assert run("solve", nodes, "--problem", 2).exit_code == 2


def test_an_answer_is_found(folder: Path) -> None:
    """In ProblemK of the folder, in the folder, and without --problem where there is no doubt."""
    plain, sub = folder / "plain", folder / "mine"
    write_tile_answer(CHAIN_ANSWER, plain, "tiny")
    write_tile_answer(CHAIN_ANSWER, sub / "Problem2", "tiny")
    assert run("validate", folder / "tiny.json", plain, "--problem", 3).exit_code == 0
    assert run("validate", folder / "tiny.json", sub).exit_code == 0
    assert "sub-problem 2" in run("validate", folder / "tiny.json", sub / "Problem2").output
    doubt = run("validate", folder / "tiny.json", plain)
    assert doubt.exit_code == 2 and "give --problem 1, 2 or 3" in doubt.output
    other = run("validate", folder / "tiny.json", sub, "--problem", 3)
    assert other.exit_code == 2 and "has neither Problem3/tiny_schedule.txt nor" in other.output
    assert "only Problem2" in other.output
    none = run("validate", folder / "tiny.json", folder / "nowhere")
    assert none.exit_code == 2 and "is no folder" in none.output
    assert intracore.answer_folder("out/Problem2", 2) == Path("out/Problem2")
    assert intracore.answer_folder("out", 2) == Path("out/Problem2")


def test_broken_answers(folder: Path) -> None:
    """Each fault is a sentence, and the exit code is 4."""
    out = folder / "out"
    write_tile_answer(CHAIN_ANSWER.model_copy(update={"offsets": {0: -1, 2: 2500}}), out, "tiny")
    judged = run("validate", folder / "tiny.json", out, "--problem", 2)
    assert judged.exit_code == 4
    for words in ("buffer 1 has no offset", "buffer 0 starts 1 units before L1", "buffer 2 ends 404 units beyond L1"):
        assert words in judged.output
    as_json = run("validate", folder / "tiny.json", out, "--problem", 2, "--json")
    assert as_json.exit_code == 4
    told = json.loads(as_json.stdout)
    assert not told["valid"] and told["objective"] is None and len(told["violations"]) >= 3
    write_tile_answer(CHAIN_ANSWER.model_copy(update={"order": (9999, *CHAIN_ORDER[1:])}), out, "tiny")
    missing = run("validate", folder / "tiny.json", out, "--problem", 3)
    assert missing.exit_code == 4 and "node 6 is not in the schedule" in missing.output


def test_readings_and_limits(folder: Path) -> None:
    out = folder / "out"
    write_tile_answer(CHAIN_ANSWER, out, "tiny")
    asked = ("validate", folder / "tiny.json", out, "--problem", 3)
    safe, literal = (
        json.loads(run(*asked, "--json", "--rule", f"reuse={reading}").stdout) for reading in ("all", "literal")
    )
    assert (safe["objective"], literal["objective"]) == (6540, 6460)
    assert (
        (safe["makespan"], safe["makespan_literal"])
        == (6540, 6460)
        == (
            literal["makespan"],
            literal["makespan_literal"],
        )
    )
    assert run(*asked, "--baseline-traffic", 2858).exit_code == 0
    over = run(*asked, "--baseline-traffic", 2858, "--slack", 0)
    assert over.exit_code == 4 and "142 above the 2858 that are allowed" in over.output
    assert run(*asked, "--rule", "single-l0=true", "--rule", "reuse=all").exit_code == 0


SENTENCES: dict[str, tuple[tuple[object, ...], str]] = {
    "no problem": (("solve", "tiny.json"), "say what to solve: --problem 1, 2 or 3"),
    "problem 4": (("solve", "tiny.json", "--problem", 4), "--problem"),
    "no such rule": (("solve", "tiny.json", "--problem", 2, "--rule", "speed=1"), "choose reuse or single-l0"),
    "no such reading": (
        ("solve", "tiny.json", "--problem", 2, "--rule", "single-l0=maybe"),
        "single-l0 is true or false",
    ),
    "literal plan": (("solve", "tiny.json", "--problem", 3, "--rule", "reuse=literal"), "is for validate"),
    "slack of 2": (("solve", "tiny.json", "--problem", 2, "--slack", 0.1), "--slack is for --problem 3"),
    "baseline of 1": (("solve", "tiny.json", "--problem", 1, "--baseline-traffic", 9), "--baseline-traffic is for"),
    "slack below": (("solve", "tiny.json", "--problem", 3, "--slack", -1), "--slack -1.0 is no share from 0"),
    "slack nan": (("solve", "tiny.json", "--problem", 3, "--slack", "nan"), "--slack nan is no share from 0"),
    "no time": (("solve", "tiny.json", "--problem", 3, "--time-limit", 0), "--time-limit 0 is not above 0"),
    "solver": (("solve", "tiny.json", "--problem", 2, "--solver", "lns"), "--solver has no meaning for"),
    "capacity": (("solve", "tiny.json", "--problem", 2, "--capacity", 5), "--capacity has no meaning for"),
    "folder a file": (("solve", "tiny.json", "--problem", 2, "-o", "tiny.json"), "cannot be made a folder"),
    "slack alone": (("validate", "tiny.json", "out", "--problem", 3, "--slack", 0.1), "give that, too"),
    "compare": (("compare", "tiny.json"), "use solve and validate"),
    "plan": (("plan", "tiny.json", "x.json", "-o", "plan.json"), "is no instance, but a task of tile operations"),
    "explain": (("explain", "tiny.json", "x.json"), "is no instance, but a task of tile operations"),
    "report of an order": (("report", "tiny.json", "out", "--problem", 1, "-o", "r.html"), "has no times"),
    "report with trace": (
        ("report", "tiny.json", "out", "--problem", 2, "-o", "r.html", "--trace", "t"),
        "--trace has no meaning",
    ),
    "problem of an instance": (("solve", "other.json", "--problem", 2), "--problem is for tasks of tile operations"),
    "rule of an instance": (("solve", "other.json", "--rule", "a=b"), "--rule is for tasks of tile operations"),
    "validate by rule": (("validate", "other.json", "x", "--rule", "a=b"), "--rule is for the open rules of a contest"),
    "validate by problem": (("validate", "other.json", "x", "--problem", 2), "--problem is for tasks of tile"),
    "report by problem": (("report", "other.json", "x", "--problem", 2, "-o", "y"), "--problem is for tasks of tile"),
    "other format": (("solve", "other.json", "--format", "huaweicup", "--problem", 2), "is no task of tile operations"),
    "named native": (("solve", "tiny.json", "--format", "native"), "is no instance, but a task of tile operations"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_one_sentence(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "other.json").write_text("{}")
    write_tile_answer(CHAIN_ANSWER, folder / "out", "tiny")
    arguments, words = SENTENCES[name]
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert done.output.count("\n") == 1 and "Traceback" not in done.output


def test_samples(tmp_path: Path) -> None:
    for sample in ("matmul:1,2,3", "flash-attention:1,2"):
        made = run("tiles", sample, "-o", tmp_path / "sample.json")
        assert made.exit_code == 0, made.output
        assert intracore.read_tile_task(tmp_path / "sample.json").operations
    for sample, words in (
        ("conv:1,2", "sample 'conv' is unknown; choose one of matmul, flash-attention"),
        ("matmul:1,2", "give m, n, k as whole numbers from 1, such as matmul:4,4,4"),
        ("matmul:1,0,2", "whole numbers from 1"),
        ("flash-attention", "such as flash-attention:4,4"),
        ("matmul:999,999,999", "give at most"),
    ):
        refused = run("tiles", sample, "-o", tmp_path / "none.json")
        assert refused.exit_code == 2 and words in refused.output
    assert not (tmp_path / "none.json").exists()


def test_shells_complete() -> None:
    group = get_command(app)
    assert suggestions(group, ["solve", "x.json", "--format", "h"]) == ["huaweicup"]
    assert suggestions(group, ["solve", "x.json", "--problem", ""]) == ["1", "2", "3"]
    assert suggestions(group, ["tiles", "mat"]) == ["matmul:"]


def test_a_solver_that_is_wrong_is_found_out() -> None:
    """Its integer and its answer are judged before anything is written."""
    result, verdict = intracore.solve_tiles(CHAIN, 2, time_limit=0.5)
    assert verdict.traffic == result.objective
    rules = Rules(problem=2)
    from dataclasses import replace

    with pytest.raises(InvalidScheduleError, match="the solver says that the extra traffic is -1, the judge"):
        intracore.judged(CHAIN, replace(result, objective=-1), rules)
    with pytest.raises(InvalidScheduleError, match=f"bound {result.objective + 1} is above its answer"):
        intracore.judged(CHAIN, replace(result, bounds={"wrong": result.objective + 1}), rules)
    with pytest.raises(InvalidScheduleError, match="the solver's answer breaks a rule: node"):
        intracore.judged(CHAIN, replace(result, answer=CHAIN_ANSWER.model_copy(update={"order": (0,)})), rules)


def test_in_python(folder: Path) -> None:
    result, verdict = intracore.solve_tiles(folder / "tiny.json", 3, time_limit=0.5)
    assert verdict.valid and verdict.makespan == result.objective
    place = intracore.answer_folder(folder / "out", 3)
    intracore.write_tile_answer(result.answer, place, "tiny")
    found, problem = intracore.find_answer(folder / "out", "tiny", None)
    task = intracore.read_tile_task(folder / "tiny.json")
    again = intracore.judge_tiles(task, read_tile_answer(found, "tiny"), Rules(problem=problem))
    assert again == verdict
    with pytest.raises(InputError, match="has neither"):
        intracore.find_answer(folder, "tiny", None)


def test_an_interrupted_run_keeps_the_old_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out" / "Problem2"
    write_tile_answer(CHAIN_ANSWER, out, "tiny")

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(intracore, "solve_tiles", stopped)
    assert run("solve", folder / "tiny.json", "--problem", 2, "-o", folder / "out").exit_code == 130
    assert read_tile_answer(out, "tiny") == CHAIN_ANSWER
