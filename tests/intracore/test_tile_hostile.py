"""Files as other programs leave them, files that are none, and signals: an answer, or one sentence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import opt
from instances.errors import InputError
from instances.intracore_files import read_tile_answer, read_tile_task, write_tile_answer, write_tile_task
from opt import intracore
from opt.cli import app
from opt.replay.intracore import MOST_FAULTS, judge_tiles
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, answer
from tests.intracore.test_tile_files import write_tables

ROOT = Path(opt.__file__).parents[1]

MARK = "\ufeff"


def run(*arguments: object) -> Any:
    """A command; its clock starts now."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], obj=time.monotonic())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a task and an answer to it."""
    monkeypatch.chdir(tmp_path)
    write_tile_task(CHAIN, tmp_path / "tiny.json")
    write_tile_answer(CHAIN_ANSWER, tmp_path / "out", "tiny")
    return tmp_path


def test_marks_and_line_ends_are_no_content(folder: Path) -> None:
    """A byte order mark and CRLF change nothing, in either form of a task and in an answer."""
    plain = read_tile_task("tiny.json")
    nodes, edges = write_tables(CHAIN, folder, "tiny")
    for path in (folder / "tiny.json", nodes, edges, *(folder / "out").iterdir()):
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        path.write_bytes((MARK + text.replace("\n", "\r\n")).encode())
    assert read_tile_task("tiny.json") == read_tile_task(nodes) == plain
    assert read_tile_answer("out", "tiny") == CHAIN_ANSWER
    assert run("validate", "tiny.json", "out", "--problem", 2).exit_code == 0


def test_numbers_as_tables_of_floats_have_them(folder: Path) -> None:
    """Beside empty cells some programs write 3000.0 for 3000; 0.5 stays an error."""
    nodes, _ = write_tables(CHAIN, folder, "tiny")
    text = nodes.read_text()
    nodes.write_text(text.replace(",3000,", ",3000.0,").replace(",100,", ",100.00,"))
    assert read_tile_task(nodes) == read_tile_task("tiny.json")
    nodes.write_text(text.replace(",3000,", ",3000.5,"))
    with pytest.raises(InputError, match=r"Size: '3000.5' is no whole number"):
        read_tile_task(nodes)


SENTENCES: dict[str, tuple[tuple[object, ...], str]] = {
    "not there": (("solve", "none.json", "--problem", 2), "none.json: no such file"),
    "a folder": (("solve", "out", "--problem", 2), "out: is a directory"),
    "judged, not there": (("validate", "none.json", "out", "--problem", 2), "none.json: no such file"),
    "drawn, not there": (("report", "none.json", "out", "--problem", 2, "-o", "r.html"), "none.json: no such file"),
    "half": (("solve", "half.json", "--problem", 2), "half.json: has no Edges"),
    "not UTF-8": (("solve", "latin.json", "--problem", 2), "latin.json: byte 12 is not UTF-8"),
    "NaN": (("solve", "nan.json", "--problem", 2), "Cycles: nan is no whole number"),
    "infinity": (("solve", "inf.json", "--problem", 2), "Cycles: inf is no whole number"),
    "digits": (("solve", "digits.json", "--problem", 2), "absurd number"),
    "twice": (("solve", "twice.json", "--problem", 2), "has the name 'Cycles' twice"),
    "deep": (("solve", "deep.json", "--problem", 2), "nested too deeply"),
    "seed": (("solve", "tiny.json", "--problem", 2, "--seed", -1), "seed -1 is not in 0"),
    "workers": (("solve", "tiny.json", "--problem", 2, "--workers", -1), "workers -1 is negative"),
    "endless": (("solve", "tiny.json", "--problem", 2, "--time-limit", "inf"), "is not a number of seconds"),
    "captured": (
        ("import", "json", "tiny.json", "-o", "i.json"),
        "is no captured graph, but a task of tile operations",
    ),
    "mutate": (("mutate", "tiny.json", "tiny.json"), "is no instance, but a task of tile operations"),
    "simulate": (("simulate", "tiny.json", "tiny.json"), "is no instance, but a task of tile operations"),
    "ablate": (("ablate", "tiny.json"), "is no instance, but a task of tile operations"),
    "plot": (("plot", "timeline", "tiny.json", "x", "-o", "a.svg"), "is no instance, but a task of tile operations"),
    "page over the task": (("report", "tiny.json", "out", "--problem", 2, "-o", "tiny.json"), "named twice"),
    "page over the answer": (("report", "tiny.json", "out", "--problem", 2, "-o", "out/tiny_spill.txt"), "named twice"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_one_sentence(name: str, folder: Path) -> None:
    whole = (folder / "tiny.json").read_text()
    cycles = '"Cycles": 100'
    (folder / "half.json").write_text('{"Nodes": []}')
    (folder / "latin.json").write_bytes(b'{"Nodes": ["\xff"]}')
    (folder / "nan.json").write_text(whole.replace(cycles, '"Cycles": NaN'))
    (folder / "inf.json").write_text(whole.replace(cycles, '"Cycles": 1e999'))
    (folder / "digits.json").write_text(whole.replace(cycles, '"Cycles": ' + "9" * 6000))
    (folder / "twice.json").write_text(whole.replace(cycles, '"Cycles": 1, "Cycles": 2'))
    (folder / "deep.json").write_text('{"Nodes": ' + "[" * 200_000)
    arguments, words = SENTENCES[name]
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert done.output.count("\n") == 1 and "Traceback" not in done.output


def test_faults_of_a_long_schedule_are_listed_up_to_a_number() -> None:
    """Whatever is wrong with it: nodes that there are not, twice or unknown, and offsets of nothing."""
    assert len(judge_tiles(CHAIN, answer(range(10_000, 70_000))).faults) == MOST_FAULTS
    assert len(judge_tiles(CHAIN, answer([1] * 50_000, dict.fromkeys(range(20_000), 0))).faults) == MOST_FAULTS
    assert len(judge_tiles(CHAIN, answer(range(9), spills=[(99, 0)] * 30_000)).faults) == MOST_FAULTS


def test_a_page_of_a_broken_answer_is_not_written(folder: Path) -> None:
    (folder / "out" / "tiny_memory.txt").write_text("0:0\n1:0\n2:9000\n")
    done = run("report", "tiny.json", "out", "--problem", 2, "-o", "page.html")
    assert done.exit_code == 4 and "is invalid: node 10: buffer 2 ends 6904 units beyond L1" in done.output
    assert not (folder / "page.html").exists()


def test_what_programs_read_of_a_refusal(folder: Path) -> None:
    """Nothing on stdout but the one object, also where the answer is wrong."""
    (folder / "out" / "tiny_memory.txt").write_text("0:0\n")
    done = run("validate", "tiny.json", "out", "--problem", 3, "--json")
    assert done.exit_code == 4
    told = json.loads(done.stdout)
    assert told["valid"] is False and told["objective"] is told["makespan"] is None and told["violations"]
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_best_so_far(folder: Path, number: signal.Signals) -> None:
    """A search that would take ten minutes is told to stop; its answer is written, and the exit code is 0."""
    code = (
        "import signal, time, opt.main\n"
        "from solvers.intracore import solve as module\n"
        "usual = module.solve\n"
        "def patient(task, problem, should_stop, **options):\n"
        "    best = usual(task, problem, **options | {'time_limit': 0.5})\n"
        "    print('searching', flush=True)\n"
        "    while not should_stop():\n"
        "        time.sleep(0.02)\n"
        "    return best\n"
        "module.solve = patient\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "opt.main.main()\n"
    )
    arguments = ["solve", "tiny.json", "--problem", "2", "--time-limit", "600", "-o", "found"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "searching\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "no rule is broken" in err
    place, problem = intracore.find_answer("found", "tiny", None)
    assert judge_tiles(read_tile_task("tiny.json"), read_tile_answer(place, "tiny")).valid and problem == 2
