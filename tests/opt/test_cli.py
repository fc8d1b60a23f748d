"""The command line: flow, output for programs, and one sentence for whatever is wrong."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import opt
from instances.errors import NoScheduleError
from instances.instance import Instance
from opt import api
from opt.cli import app
from solvers.interface import Result

ROOT = Path(opt.__file__).parents[1]
COMMANDS = (
    "generate",
    "solve",
    "validate",
    "report",
    "plan",
    "explain",
    "compare",
    "benchmark",
    "mutate",
    "simulate",
    "cost",
    "calibrate",
    "models",
    "machines",
    "solvers",
    "schema",
    "plot",
    "doctor",
    "completion",
)
DECODE = ("generate", "gpt2", "--phase", "decode", "--context", "128", "--layers", "1")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def tilewright(*arguments: str | Path) -> Outcome:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def fails(code: int, *arguments: str | Path) -> str:
    """The one sentence that a command ends in."""
    outcome = tilewright(*arguments)
    assert outcome.code == code, outcome
    assert outcome.err.startswith("tilewright: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    return outcome.err


def spawn(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command as its own process."""
    command = [sys.executable, "-m", "opt", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


# --------------------------------------------------------------------------- the flow


def test_four_commands_lead_from_a_model_to_a_report(tmp_path: Path) -> None:
    layer, schedule, page = tmp_path / "layer.json", tmp_path / "schedule.json", tmp_path / "report.html"
    made = tilewright(*DECODE, "--batch", "2", "--machine", "ascend910b4", "-o", layer)
    assert made.code == 0, made.err
    assert all(word in made.err for word in ("operators", "tensors", "groups", "structures", "priced", "kept", "KiB"))
    solved = tilewright("solve", layer, "--time-limit", "3", "-o", schedule, "--trace", tmp_path / "t.json", "--json")
    assert solved.code == 0, solved.err
    assert "the same integer" in solved.err
    result = json.loads(solved.out)
    checked = tilewright("validate", layer, schedule)
    assert checked.code == 0, checked.out
    assert f"{result['objective']} ns" in checked.out
    assert "the integer the schedule states" in checked.out
    pictures = ("--trace", tmp_path / "t2.json", "--picture", tmp_path / "timeline.svg")
    shown = tilewright("report", layer, schedule, "-o", page, *pictures)
    assert shown.code == 0, shown.err
    assert "<svg" in (tmp_path / "timeline.svg").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "t.json").read_text(encoding="utf-8") == (tmp_path / "t2.json").read_text(encoding="utf-8")


def test_json_of_solve(files: Path) -> None:
    outcome = tilewright("solve", files / "layer.json", "--solver", "greedy", "--seed", "7", "--json", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    answer = json.loads(outcome.out)
    wanted = "status objective bound bound_by bounds gap runtime_s solver workers seed covers kernels replayed_ns"
    assert set(wanted.split()) <= set(answer)
    assert answer["replayed_ns"] == answer["objective"] >= answer["bound"] == answer["bounds"][answer["bound_by"]] > 0
    assert (answer["solver"], answer["seed"], answer["status"]) == ("greedy", 7, "feasible")


def test_json_of_validate(files: Path, greedy: Result) -> None:
    outcome = tilewright("validate", files / "layer.json", files / "schedule.json", "--json")
    answer = json.loads(outcome.out)
    assert outcome.code == 0
    assert answer["valid"] is True
    assert answer["violations"] == []
    assert answer["replayed_ns"] == answer["objective"] == greedy.objective_ns


def test_a_warm_start_is_read(files: Path, tmp_path: Path, greedy: Result) -> None:
    arguments = ("--solver", "unfused", "--warm-start", files / "schedule.json", "-o", tmp_path / "s.json", "-q")
    assert tilewright("solve", files / "layer.json", *arguments).code == 0
    assert opt.load_schedule(tmp_path / "s.json").latency_ns == greedy.objective_ns


def test_the_solvers_log_goes_to_stderr(files: Path) -> None:
    outcome = tilewright("solve", files / "layer.json", "--time-limit", "3", "-v", "--leave-out", "cuts", "--json")
    assert outcome.code == 0
    assert "CP-SAT" in outcome.err
    json.loads(outcome.out)


def test_quiet_says_nothing(files: Path) -> None:
    assert tilewright("solve", files / "layer.json", "--solver", "greedy", "--quiet") == (0, "", "")


def test_compare_prints_a_table_and_writes_csv(files: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    outcome = tilewright(
        "compare", files / "layer.json", "--solvers", "greedy,unfused,exhaustive", "--time-limit", "5", "-o", table
    )
    assert outcome.code == 0
    assert f"{files / 'layer.json'}, exhaustive: " in outcome.err
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["solver"] for row in rows] == ["greedy", "unfused", "exhaustive"]
    assert int(rows[0]["objective_ns"]) <= int(rows[1]["objective_ns"])
    assert rows[0]["best_bound_ns"] == rows[1]["best_bound_ns"]
    assert rows[2]["objective_ns"] == ""
    for row in rows:
        assert row["solver"] in outcome.out


def test_compare_fails_where_nobody_finds_anything(files: Path) -> None:
    outcome = tilewright("compare", files / "layer.json", "--solvers", "exhaustive")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("tilewright: no solver found a schedule")


# --------------------------------------------------------------------------- lists and help


def test_lists_name_everything_with_a_source() -> None:
    models, machines, solvers = (tilewright(command).out for command in ("models", "machines", "solvers"))
    assert all(name in models for name in opt.models())
    assert "huggingface.co/" in models
    assert all(name in machines for name in opt.machines())
    assert "direct path" in machines
    assert all(name in solvers for name in opt.solvers())
    assert "source" in solvers


def test_one_machine_and_one_model_in_full() -> None:
    machine = tilewright("machines", "ascend910b2").out
    assert all(word in machine for word in ("grade", "clock_mhz", "official", "fitted"))
    assert "n_embd" in tilewright("models", "gpt2").out


@pytest.mark.parametrize("document", ["graph", "machine", "instance", "schedule"])
def test_schemas_are_json(document: str) -> None:
    schema = json.loads(tilewright("schema", document).out)
    assert schema["title"] == document.capitalize()
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_with_a_sentence_and_an_example(command: str) -> None:
    text = tilewright(command, "--help").out
    usage, sentence, example = text.split("\n\n")[:3]
    assert usage.startswith("Usage: ")
    assert sentence.strip().endswith(".")
    assert "Example:" in example
    assert f"tilewright {command}" in example


def test_without_a_command_there_is_help() -> None:
    outcome = tilewright()
    assert outcome.code == 2
    assert all(command in outcome.err for command in COMMANDS)
    assert tilewright("--version").out == f"tilewright {opt.__version__}\n"


# --------------------------------------------------------------------------- what can be wrong


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--batch", "-1"), "batch"),
        (("--batch", str(10**30)), "batch"),
        (("--batch", "two"), "--batch"),
        (("--layers", "99"), "layers"),
        (("--tp", "0"), "tp"),
        (("--tp", "5"), "tp"),
        (("--max-group", "0"), "max_group"),
        (("--dtype", "int4"), "dtype"),
        (("--phase", "both"), "phase"),
        (("--machine", "abacus"), "abacus"),
        (("--machine", "abacus.json"), "no such file"),
    ],
)
def test_generate_refuses(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    assert word in fails(2, *DECODE, *arguments, "-o", tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_unknown_model_lists_the_known(tmp_path: Path) -> None:
    assert "gpt2" in fails(2, "generate", "gpt9", "--phase", "decode", "-o", tmp_path / "x.json")


def test_generate_an_encoder_decoder(tmp_path: Path) -> None:
    request = (
        "generate",
        "t5-base",
        "--phase",
        "prefill",
        "--layers",
        "1",
        "--max-group",
        "1",
        "-o",
        tmp_path / "x.json",
    )
    assert "source" in fails(2, *request)
    assert tilewright(*request, "--source", "64").code == 0
    instance = api.load_instance(tmp_path / "x.json")
    assert instance.origin["source"] == 64 and instance.origin["tokens"] == 1


def test_generate_expanded_and_absorbed(tmp_path: Path) -> None:
    request = (
        "generate",
        "deepseek-v2-lite",
        "--phase",
        "decode",
        "--context",
        "64",
        "--layers",
        "1",
        "--max-group",
        "1",
    )
    found = {}
    for choice in ("", "--absorbed", "--expanded"):
        path = tmp_path / f"x{choice}.json"
        assert tilewright(*request, *filter(None, [choice]), "-o", path).code == 0
        found[choice] = "l0.q_absorb" in api.load_instance(path).graph.operator
    assert found == {"": True, "--absorbed": True, "--expanded": False}
    assert "latent attention" in fails(2, *DECODE, "--expanded", "-o", tmp_path / "y.json")


def test_prefill_wants_tokens(tmp_path: Path) -> None:
    assert "tokens" in fails(2, "generate", "gpt2", "--phase", "prefill", "-o", tmp_path / "x.json")


def test_a_model_that_exceeds_hbm_is_infeasible(tmp_path: Path) -> None:
    request = ("generate", "llama-3-70b", "--phase", "decode", "--context", "4096", "-o", tmp_path / "x.json")
    assert "raise --tp" in fails(3, *request)
    one = ("generate", "llama-3-70b", "--phase", "decode", "--layers", "1", "--context", "4096", "--batch", "100000")
    assert "tensor 'l0.cache_k'" in fails(3, *one, "-o", tmp_path / "x.json")


def cyclic(data: dict[str, Any]) -> None:
    """Let the first operator read what a later one makes of its result."""
    operators = data["graph"]["operators"]
    access = operators[0]["reads"][0]
    later = next(
        write["tensor"]
        for operator in reversed(operators)
        for write in operator["writes"]
        if write["dims"] == access["dims"] and "add" in operator["name"]
    )
    access["tensor"] = later


def dangling(data: dict[str, Any]) -> None:
    data["graph"]["tensors"] = [t for t in data["graph"]["tensors"] if t["name"] != "l0.q"]


def untouched(data: dict[str, Any]) -> None:
    data["graph"]["tensors"].append(data["graph"]["tensors"][0] | {"name": "lonely"})


def uncovered(data: dict[str, Any]) -> None:
    data["candidates"] = data["candidates"][:1]


def from_the_future(data: dict[str, Any]) -> None:
    data["schema_version"] = 99


def infinite(data: dict[str, Any]) -> None:
    data["machine"]["clock_mhz"]["value"] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cyclic, "cycle"),
        (dangling, "'l0.q', which is not in the graph"),
        (untouched, "'lonely' is touched by no operator"),
        (uncovered, "in no candidate"),
        (from_the_future, "schema_version 99 is unknown"),
        (infinite, "clock_mhz"),
    ],
)
def test_a_wrong_instance_is_named(
    files: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    data = json.loads((files / "layer.json").read_text(encoding="utf-8"))
    change(data)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    sentence = fails(2, "solve", path)
    assert str(path) in sentence
    assert words in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b'{"name": ', "line 1 column"),
        (b"[1, 2]", "not a JSON object"),
        (b"{}", "Field required"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("command", ["solve", "validate", "report", "compare"])
def test_a_broken_file_is_named(tmp_path: Path, command: str, content: bytes, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    more: dict[str, tuple[str | Path, ...]] = {"validate": (path,), "report": (path, "-o", tmp_path / "r.html")}
    sentence = fails(2, command, path, *more.get(command, ()))
    assert str(path) in sentence
    assert words in sentence


def test_missing_file_and_directory(tmp_path: Path, files: Path) -> None:
    assert "no such file" in fails(2, "solve", tmp_path / "none.json")
    assert "is a directory" in fails(2, "solve", tmp_path)
    assert "is a directory" in fails(2, "validate", files / "layer.json", tmp_path)
    assert "no such file" in fails(2, "solve", files / "layer.json", "--warm-start", tmp_path / "none.json")
    assert "no such file" in fails(2, "compare", files / "layer.json", tmp_path / "none.json")


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e999", "soon"])
@pytest.mark.parametrize("command", ["solve", "compare"])
def test_time_limits_that_are_none(files: Path, command: str, limit: str) -> None:
    fails(2, command, files / "layer.json", "--time-limit", limit)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", "-1"),
        ("--workers", str(10**20)),
        ("--seed", "-1"),
        ("--seed", str(10**20)),
        ("--gap", "nan"),
        ("--gap", "1"),
        ("--deterministic-limit", "0"),
        ("--leave-out", "cores"),
        ("--solver", "oracle"),
        ("--nonsense",),
    ],
)
def test_solve_refuses(files: Path, arguments: tuple[str, ...]) -> None:
    fails(2, "solve", files / "layer.json", *arguments)


def test_outputs_are_checked_before_solving(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("solved before looking at the output")

    for function in ("solve", "solve_and_replay", "generate"):
        monkeypatch.setattr(api, function, never)
    layer = files / "layer.json"
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for output, words in (
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "s.json", "does not exist"),
        (tmp_path / "file" / "s.json", "does not exist"),
        (tmp_path / "link", "is a link"),
        (tmp_path / ("n" * 300), "cannot be written"),
        (Path("/dev/null"), "is a link or a device"),
        (layer, "named twice"),
    ):
        assert words in fails(2, "solve", layer, "-o", output)
        assert words in fails(2, "solve", layer, "--trace", output)
        assert words in fails(2, "compare", layer, "-o", output)
        assert words in fails(2, "report", layer, files / "schedule.json", "-o", output)
        if output != layer:
            assert words in fails(2, *DECODE, "-o", output)
    same = tmp_path / "same.json"
    assert "named twice" in fails(2, "solve", layer, "-o", same, "--trace", same)


def test_usage(tmp_path: Path) -> None:
    assert "--help" in fails(2, "generate")
    assert "solve" in fails(2, "solv")
    fails(2, "schema", "poem")
    fails(2, "machines", "abacus")
    fails(2, "models", "gpt9")
    fails(2, "compare", tmp_path / "x.json", "--solvers", ",")
    assert "cpsat" in fails(2, "compare", tmp_path / "x.json", "--solvers", "oracle")


def corrupted(files: Path, folder: Path) -> Path:
    """The schedule with one digit changed."""
    data = json.loads((files / "schedule.json").read_text(encoding="utf-8"))
    data["kernels"][0]["end_ns"] += 1
    path = folder / "corrupted.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_corrupted_schedule_is_invalid(files: Path, tmp_path: Path) -> None:
    layer, path = files / "layer.json", corrupted(files, tmp_path)
    outcome = tilewright("validate", layer, path)
    assert outcome.code == 4
    assert len(outcome.out.splitlines()) > 1
    assert all(line.startswith("[") for line in outcome.out.splitlines())
    assert outcome.err.startswith(f"tilewright: {path}: is invalid")
    answer = json.loads(tilewright("validate", layer, path, "--json").out)
    assert answer["valid"] is False
    assert {"rule", "place", "time_ns", "amount", "detail"} == set(answer["violations"][0])
    fails(4, "report", layer, path, "-o", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    assert "warm start" in fails(4, "solve", layer, "--warm-start", path)


def test_a_schedule_of_another_instance_is_invalid(files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    opt.save(opt.generate("gpt2", phase="decode", context=64, layers=1), other)
    outcome = tilewright("validate", other, files / "schedule.json")
    assert outcome.code == 4
    assert "[instance]" in outcome.out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoScheduleError("nothing\nfits"), 1, "nothing fits"),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (RuntimeError("odd"), 70, "unexpected RuntimeError (odd)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, "nobody reads"),
    ],
)
def test_whatever_happens_is_one_sentence(
    files: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> Instance:
        raise error

    monkeypatch.setattr(api, "load_instance", fail)
    assert words in fails(code, "solve", files / "layer.json")


# --------------------------------------------------------------------------- as its own process


def test_a_process_ends_in_one_sentence(tmp_path: Path) -> None:
    with spawn("solve", tmp_path / "none.json") as process:
        out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert err == f"tilewright: {tmp_path / 'none.json'}: no such file; check the path\n"


def test_a_closed_pipe_leaves_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with spawn("schema", "instance", stdout=writer) as process:
        os.close(writer)
        _, err = process.communicate()
    assert process.returncode == 141
    assert err.count("\n") == 1
    assert "nobody reads" in err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_progress_is_shown_on_a_terminal(files: Path) -> None:
    reader, writer = os.openpty()
    with spawn("solve", files / "layer.json", "--solver", "greedy", "--json", stderr=writer) as process:
        os.close(writer)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone once the process is
            while chunk := os.read(reader, 4096):
                shown += chunk
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
    os.close(reader)
    assert process.returncode == 0
    assert b"solving" in shown
    assert b"improved by" in shown
    assert f"{answer['objective']} ns".encode() in shown


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_second_interrupt_leaves_no_traceback(files: Path, tmp_path: Path) -> None:
    """A search that does not listen ends with the process at the second Ctrl-C."""
    code = (
        "import signal, time, opt.main; from opt import api; "
        "api.solve_and_replay = lambda *_, **__: (print('searching', flush=True), time.sleep(60)); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); opt.main.main()"
    )
    command = [sys.executable, "-c", code, "solve", str(files / "layer.json"), "-o", str(tmp_path / "s.json")]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "searching\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "tilewright: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_best_so_far(tmp_path: Path, number: signal.Signals) -> None:
    """With ten minutes to go, one signal is enough for the answer: written, replayed, exit code 0."""
    layer, schedule = tmp_path / "layer.json", tmp_path / "s.json"
    model = ("qwen3-30b-a3b", "--phase", "decode", "--batch", "4", "--context", "1024", "--layers", "1")
    assert tilewright("generate", *model, "-o", layer).code == 0
    code = (
        "import signal, opt.main; from solvers import progress; "
        "found = progress.Progress.objective; "
        "progress.Progress.objective = lambda *a: (found(*a), print('found', flush=True)); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); opt.main.main()"
    )
    command = [sys.executable, "-c", code, "solve", str(layer), "--time-limit", "600", "-o", str(schedule)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "found\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "the same integer" in err
    assert tilewright("validate", layer, schedule).code == 0
