"""Broken files and places at the command line: one sentence, the exit code that is documented, no partial file."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import opt
from instances.build import build_instance
from instances.documents import MAX_DOCUMENT_BYTES
from instances.graph import MAX_OPERATORS, Graph
from instances.machine import load_machine
from opt.replay import replay
from tests.opt.test_cli import fails, spawn, tilewright

Json = Any


@pytest.fixture
def layer(files: Path) -> Json:
    """An instance as JSON."""
    return json.loads((files / "layer.json").read_text(encoding="utf-8"))


def long_chain(layer: Json, operators: int) -> Json:
    """The instance with that many element-wise operators in a row instead of its graph."""
    tensors = [
        {"name": f"t{i}", "shape": [16], "dtype": "float16", "role": "intermediate"} for i in range(operators + 1)
    ]
    tensors[0]["role"], tensors[-1]["role"] = "input", "output"
    row = [
        {
            "name": f"o{i}",
            "kind": "elementwise",
            "dims": {"m": 16},
            "reads": [{"tensor": f"t{i}", "dims": ["m"]}],
            "writes": [{"tensor": f"t{i + 1}", "dims": ["m"]}],
            "vector": {"two_source": 16},
        }
        for i in range(operators)
    ]
    return {**layer, "graph": {"name": "chain", "tensors": tensors, "operators": row}}


def with_cycle(layer: Json) -> Json:
    """A loop of two operators that read from one another."""
    changed = long_chain(layer, 3)
    changed["graph"]["operators"][0]["reads"].append({"tensor": "t2", "dims": ["m"]})
    return changed


def renamed(layer: Json) -> Json:
    """Two operators with one name."""
    operators = layer["graph"]["operators"]
    operators[1]["name"] = operators[0]["name"]
    return layer


CONTENTS: dict[str, tuple[Callable[[Json], str | bytes], str]] = {
    "empty": (lambda _: "", "is not JSON"),
    "cut short": (lambda layer: json.dumps(layer)[:3000], "is not JSON"),
    "another encoding": (lambda layer: json.dumps(layer).encode("utf-16"), "is not UTF-8"),
    "binary": (lambda _: os.urandom(64) + b"\xff", "is not UTF-8"),
    "brackets in brackets": (lambda _: "[" * 200_000, "nested too deeply"),
    "objects in objects": (lambda _: '{"a":' * 200_000, "nested too deeply"),
    "a list": (lambda _: "[1, 2]", "not a JSON object"),
    "a number of 5000 digits": (lambda _: '{"graph": 1' + "0" * 5000 + "}", "absurd number"),
    "not a number": (lambda layer: json.dumps(layer).replace('"shape": [1', '"shape": [NaN', 1), "shape"),
    "negative": (lambda layer: json.dumps(layer).replace('"shape": [1', '"shape": [-1', 1), "shape"),
    "a name twice in an object": (lambda layer: '{"graph": 1, ' + json.dumps(layer)[1:], "the name 'graph' twice"),
    "two operators of one name": (lambda layer: json.dumps(renamed(layer)), "two operators are called"),
    "a cycle": (lambda layer: json.dumps(with_cycle(layer)), "cycle"),
    "a later version": (lambda layer: json.dumps({**layer, "schema_version": 999}), "schema_version 999 is unknown"),
    "an unknown field": (lambda layer: json.dumps({**layer, "colour": "red"}), "colour"),
    "a missing field": (lambda layer: json.dumps({k: v for k, v in layer.items() if k != "machine"}), "machine"),
    "a wrong type": (lambda layer: json.dumps({**layer, "candidates": "all"}), "candidates"),
    "too many operators": (
        lambda layer: json.dumps(long_chain(layer, MAX_OPERATORS + 1)),
        f"above the limit of {MAX_OPERATORS}",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents(tmp_path: Path, layer: Json, kind: str) -> None:
    make, words = CONTENTS[kind]
    content = make(layer)
    path = tmp_path / "odd.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    assert words in fails(2, "solve", path, "-o", tmp_path / "out.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["odd.json"]


@pytest.mark.parametrize("command", [("validate",), ("report",), ("plan",), ("simulate",), ("mutate",)])
def test_every_reader_of_schedules(tmp_path: Path, files: Path, command: tuple[str, ...]) -> None:
    odd = tmp_path / "odd.json"
    odd.write_text('{"schema_version": 1, "kernels": NaN}', encoding="utf-8")
    extra = ("-o", tmp_path / "page.html") if command in (("report",), ("plan",)) else ()
    assert "odd.json" in fails(2, *command, files / "layer.json", odd, *extra)
    assert [entry.name for entry in tmp_path.iterdir()] == ["odd.json"]


def test_links(tmp_path: Path, files: Path) -> None:
    """A link to a file is read; one that leads in a circle is a sentence."""
    (tmp_path / "good.json").symlink_to(files / "layer.json")
    (tmp_path / "a.json").symlink_to(tmp_path / "b.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert tilewright("solve", tmp_path / "good.json", "--solver", "greedy", "--quiet").code == 0
    assert "cannot be read" in fails(2, "solve", tmp_path / "a.json")
    assert "is a link" in fails(2, "solve", files / "layer.json", "-o", tmp_path / "a.json")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless device")
def test_an_endless_file() -> None:
    assert f"more than the limit of {MAX_DOCUMENT_BYTES} bytes" in fails(2, "solve", "/dev/zero")


def test_a_long_chain_is_answered(layer: Json) -> None:
    """As many operators as a whole model has; what takes the square of their number would be felt here."""
    graph = Graph.model_validate(long_chain(layer, 3000)["graph"])
    instance = build_instance(graph, load_machine("ascend910b2"), max_group=1)
    result = opt.solve(instance, 60, "greedy")
    assert result.gap == 0
    assert replay(instance, result.schedule).valid


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_no_room_for_the_answer(tmp_path: Path, files: Path) -> None:
    """The disk is full in the middle of the schedule: a sentence, what was there before stays, nothing half-written."""
    target = tmp_path / "schedule.json"
    target.write_text("before", encoding="utf-8")
    process = spawn(
        "solve",
        files / "layer.json",
        *("--solver", "greedy", "--quiet", "-o", target),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "cannot be written" in errors
    assert target.read_text(encoding="utf-8") == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["schedule.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_no_room_for_the_summary(files: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = spawn("validate", files / "layer.json", files / "schedule.json", stdout=full)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "No space left" in errors


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, files: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "cannot be written" in fails(2, "solve", files / "layer.json", "-o", locked / "out.json")


def test_two_processes_at_once(tmp_path: Path, files: Path) -> None:
    """They write into one folder, even to one file, and neither disturbs the other."""
    target = tmp_path / "schedule.json"
    both = [
        spawn("solve", files / "layer.json", "--solver", solver, "--quiet", "--time-limit", "20", "-o", target)
        for solver in ("greedy", "unfused")
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert tilewright("validate", files / "layer.json", target).code == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["schedule.json"]
