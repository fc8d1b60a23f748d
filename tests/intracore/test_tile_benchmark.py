"""The benchmark of tile operations: it goes on where its table ends, and its page says what the judge says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instances.errors import InfeasibleError, InputError
from instances.intracore import TileTask
from instances.intracore_files import write_tile_task
from opt import intracore_benchmark
from opt.cli import app
from opt.intracore import SubProblem
from opt.intracore_benchmark import Known, TileRun, page, read_best, read_runs
from tests.intracore.handmade import CHAIN, TWICE
from tests.intracore.test_tile_files import write_tables


def run(*arguments: object) -> Any:
    """A command; its clock starts now."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], obj=time.monotonic())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tile_task(CHAIN, tasks / "tiny.json")
    write_tables(TWICE, tasks, "twice")
    (tasks / "content.json").unlink()  # what the tables were written from
    (tasks / "other.json").write_text("{}")
    return tasks


def test_it_goes_on_where_its_table_ends(folder: Path, tmp_path: Path) -> None:
    """All problems and seeds, then nothing again; sub-problem 3 is given the traffic of 2 with its seed."""
    out, table = tmp_path / "runs.md", tmp_path / "runs.csv"
    command = ("benchmark", "intracore", folder, "-o", out, "--time-limit", 0.2, "--seeds", "0,1")
    done = run(*command)
    assert done.exit_code == 0, done.output
    rows = read_runs(table)
    assert {row.key for row in rows} == {(t, p, s) for t in ("tiny", "twice") for p in (1, 2, 3) for s in (0, 1)}
    traffic = {(row.task, row.seed): row.objective for row in rows if row.problem == 2}
    for row in rows:
        assert row.bound <= row.objective and row.limit == 0.2
        assert row.baseline == (traffic[row.task, row.seed] if row.problem == 3 else -1)
        if row.problem == 3:
            assert row.traffic <= 1.05 * row.baseline
    first = table.read_text(encoding="utf-8"), out.read_text(encoding="utf-8")
    assert first[1].count("| tiny | ") == 3 and "best known" not in first[1]
    assert run(*command).exit_code == 0
    assert (table.read_text(encoding="utf-8"), out.read_text(encoding="utf-8")) == first


def test_parts_of_it(folder: Path, tmp_path: Path) -> None:
    """By name and by problem; sub-problem 3 brings 2 with it; values of others stand beside."""
    (folder / "best_known.csv").write_text("task,problem,published,best\ntiny,3,9000,1\ntiny,2,,\n")
    out, text = tmp_path / "runs.csv", tmp_path / "page.md"
    command = ("benchmark", "intracore", folder, "-o", out, "--page", text, "--time-limit", 0.2, "--seeds", "5")
    assert run(*command, "--problem", "1", "--task", "twice").exit_code == 0
    assert {row.key for row in read_runs(out)} == {("twice", 1, 5)}
    assert run(*command, "--problem", "3", "--task", "tiny").exit_code == 0
    assert {row.key for row in read_runs(out)} == {("twice", 1, 5), ("tiny", 2, 5), ("tiny", 3, 5)}
    words = text.read_text(encoding="utf-8")
    assert "| 9,000 | 1 | +" in words and "least extra traffic" in words


def row_of(objective: int, seed: int, **changes: Any) -> TileRun:
    return TileRun("a", 9, 3, seed, 300.0, objective, 70 + seed, 80, "pipe", 70, 3.0 + seed, **changes)


def test_the_page_takes_the_median() -> None:
    text = page([row_of(100, 0), row_of(90, 1), row_of(160, 2)], {("a", 3): Known(None, 80)}, "the command")
    assert "| a | 9 | 3 | 100 | 90 | 70 | 80 | 20.00 % | 4.0 | - | 80 | +25.00 % | pipe |" in text
    assert "`the command` writes this page" in text and "300 s a run, seeds 0, 1, 2" in text


def test_samples_are_asked_for(folder: Path) -> None:
    named = [task.name for task in intracore_benchmark.questions(folder, "", samples=False)]
    assert named == ["tiny", "twice"]
    named = [task.name for task in intracore_benchmark.questions(folder, "flash_attention_8", samples=True)]
    assert named == ["FlashAttention_8x8"]


def test_a_task_without_an_answer_does_not_end_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer to sub-problem 1 of one task, and none to 2 of the other: then 3, which needs it, is left out, too."""
    usual = intracore_benchmark.solve_tiles

    def refusing(task: TileTask, problem: SubProblem, **options: Any) -> Any:
        if (task.name, problem) in (("tiny", 1), ("twice", 2)):
            raise InfeasibleError("nothing fits")
        return usual(task, problem, **options)

    monkeypatch.setattr(intracore_benchmark, "solve_tiles", refusing)
    table = tmp_path / "runs.csv"
    done = run("benchmark", "intracore", folder, "-o", table, "--time-limit", 0.2, "--seeds", 0)
    assert done.exit_code == 0, done.output
    assert "tiny 1 has no answer: nothing fits" in done.output and "twice 2 has no answer" in done.output
    assert {row.key for row in read_runs(table)} == {("tiny", 2, 0), ("tiny", 3, 0), ("twice", 1, 0)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("intracore",), "needs the folder of its tasks"),
        (("intracore", "nowhere"), "nowhere: is no folder"),
        (("intracore", "empty"), "holds no task of tile operations"),
        (("intracore", "tasks", "--seeds", "0,x"), "--seeds '0,x': give whole numbers from 0"),
        (("intracore", "tasks", "--problem", "4"), "--problem '4': give whole numbers from 1 to 3"),
        (("intracore", "tasks", "--seed", "4"), "give --seeds instead of --seed"),
        (("intracore", "tasks", "--time-limit", "0"), "--time-limit 0 is not above 0"),
        (("intracore", "tasks", "-o", "x.md", "--page", "y.md"), "--page names another"),
        (("layers", "tasks"), "DIR is for benchmark intracore"),
        (("layers", "--seeds", "1"), "--seeds is for benchmark intracore"),
        (("nothing",), "choose one of layers, models, growth, replacement, intracore"),
    ],
)
def test_one_sentence(arguments: tuple[str, ...], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    output = () if "-o" in arguments else ("-o", "x.csv")
    done = run("benchmark", *arguments, *output)
    assert done.exit_code == 2, done.output
    assert words in done.output and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task,problem,published,best\na,7,1,1\n", "line 2: problem 7 is none of 1, 2, 3"),
        ("task,problem,published,best\na,2,nan,1\n", "line 2: published 'nan' is no whole number"),
        ("task,problem,published,best\na,,1,1\n", "line 2: problem '' is no whole number"),
        ("task,problem\na,2\n", "lacks the column 'published'"),
    ],
)
def test_odd_values_of_others(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "best_known.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_best(tmp_path)


def test_an_odd_table_of_runs(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text(intracore_benchmark.as_csv([row_of(1, 0)]).replace(",80,", ",eighty,"))
    with pytest.raises(InputError, match="line 2 is no run of this benchmark"):
        read_runs(table)
