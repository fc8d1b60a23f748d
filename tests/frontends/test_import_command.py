"""``tilewright import``: summary, output for programs, options, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opt
from instances.frontends.captured import CapturedGraph, read_captured, write_captured
from instances.instance import Instance
from tests.frontends.handmade import Drawn
from tests.opt.test_cli import fails, tilewright


def layers(count: int = 3, unknown: bool = False) -> CapturedGraph:
    g = Drawn("layers")
    x = g.input("x", 1, 8, 64)
    for i in range(count):
        gate, up = (g.node("linear", x, g.weight(f"{name}{i}", 128, 64)) for name in ("gate", "up"))
        act = g.node("mul.Tensor", g.node("silu", gate), up)
        if unknown:
            act = g.node("mylib.swish2.default", act, shape=(1, 8, 128), module=g.module("mlp"))
        x = g.node("add.Tensor", x, g.node("linear", act, g.weight(f"down{i}", 64, 128)))
    return g.graph(g.node("add.Tensor", x, g.node("cos", g.input("position", 64, kind="buffer"))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_captured(layers(), tmp_path / "graph.json")
    return tmp_path / "graph.json"


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    write_captured(layers(unknown=True), tmp_path / "unknown.json")
    return tmp_path / "unknown.json"


def words(text: str) -> dict[str, str]:
    """The summary as a mapping."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = ("instance", "graph", "rules", "set aside", "layers", "one layer", "unknown", "kernels", "time", "file")
    return {name: line[len(name) :].strip() for line in lines for name in names if line.startswith(f"{name} ")}


def test_the_summary(file: Path, tmp_path: Path) -> None:
    outcome = tilewright("import", "json", file, "-o", tmp_path / "instance.json")
    assert (outcome.code, outcome.out) == (0, "")
    said = words(outcome.err)
    assert said["graph"] == "20 nodes became 16 operators"
    assert said["rules"] == "gate 3"
    assert said["set aside"].startswith("1 nodes")
    assert said["layers"] == "3 equal ones of 5 operators"
    assert "one layer" not in said and "unknown" not in said
    instance = opt.load_instance(tmp_path / "instance.json")
    assert instance == opt.from_exported(file)
    assert instance.origin["captured"] == "layers"


def test_one_json_object(file: Path, tmp_path: Path) -> None:
    outcome = tilewright("import", "json", file, "-o", tmp_path / "instance.json", "--json")
    answer = json.loads(outcome.out)
    name = answer.pop("instance")
    assert isinstance(opt.load_instance(tmp_path / "instance.json"), Instance) and name
    assert answer == {
        "nodes": 20,
        "operators": 16,
        "macs": 3 * 3 * 8 * 64 * 128,
        "rules": {"gate": 3},
        "unknown": {},
        "set_aside": 1,
        "layers": 3,
        "repeat": 1,
    }


def test_one_layer(file: Path, tmp_path: Path) -> None:
    outcome = tilewright("import", "json", file, "-o", tmp_path / "one.json", "--one-layer", "--json")
    answer = json.loads(outcome.out)
    instance = opt.load_instance(tmp_path / "one.json")
    assert answer["operators"] == len(instance.graph.operators) == 5
    assert answer["repeat"] == instance.origin["repeat"] in (2, 3)
    assert words(outcome.err)["one layer"] == f"stands for {answer['repeat']}"


def test_unknown_operators(unknown: Path, tmp_path: Path) -> None:
    sentence = fails(2, "import", "json", unknown, "-o", tmp_path / "instance.json")
    assert "1 operators are not mapped: mylib.swish2.default (3 times, first swish2_" in sentence
    assert "--allow-unknown" in sentence
    assert not (tmp_path / "instance.json").exists()
    outcome = tilewright("import", "json", unknown, "-o", tmp_path / "instance.json", "--allow-unknown", "--json")
    assert {op: len(places) for op, places in json.loads(outcome.out)["unknown"].items()} == {"mylib.swish2.default": 3}
    assert words(outcome.err)["unknown"].startswith("mylib.swish2.default (3 times, first swish2_")
    assert opt.load_instance(tmp_path / "instance.json").origin["unknown"] == "mylib.swish2.default (3 times)"


def test_the_graph_as_captured(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    tilewright("import", "json", file, "-o", tmp_path / "instance.json", "--captured", again)
    assert again.read_bytes() == file.read_bytes()
    assert read_captured(again) == read_captured(file)


def test_the_instance_is_solved(file: Path, tmp_path: Path) -> None:
    tilewright("import", "json", file, "-o", tmp_path / "instance.json", "--one-layer")
    outcome = tilewright(
        "solve", tmp_path / "instance.json", "--solver", "greedy", "-o", tmp_path / "schedule.json", "--time-limit", "5"
    )
    assert outcome.code == 0, outcome.err
    assert tilewright("validate", tmp_path / "instance.json", tmp_path / "schedule.json").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keras",), "door 'keras' is unknown; choose json, torch or onnx"),
        (("json", "--dim", "batch=8"), "--dim binds dimensions of ONNX models, not of json"),
        (("torch", "--dim", "batch=8"), "--dim binds dimensions of ONNX models, not of torch"),
        (("onnx", "--dim", "batch"), "--dim 'batch' is not NAME=SIZE"),
        (("onnx", "--dim", "=8"), "--dim '=8' is not NAME=SIZE"),
        (("onnx", "--dim", "batch=0"), "--dim 'batch=0' is not NAME=SIZE"),
        (("onnx", "--dim", "batch=-1"), "--dim 'batch=-1' is not NAME=SIZE"),
        (("onnx", "--dim", "batch=two"), "--dim 'batch=two' is not NAME=SIZE"),
        (("onnx", "--dim", "batch=²"), "--dim 'batch=²' is not NAME=SIZE"),
        (("onnx", "--dim", "batch=" + "9" * 5000), "is not NAME=SIZE"),
        (("onnx", "--dim", "batch=2", "--dim", "batch=3"), "--dim binds 'batch' twice"),
        (("json", "--machine", "nowhere"), "nowhere"),
    ],
)
def test_misuse(arguments: tuple[str, ...], said: str, file: Path, tmp_path: Path) -> None:
    door, *options = arguments
    assert said in fails(2, "import", door, file, "-o", tmp_path / "instance.json", *options)
    assert not (tmp_path / "instance.json").exists()


def test_a_file_through_the_wrong_door(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\xff")
    assert "model.onnx" in fails(2, "import", "json", tmp_path / "model.onnx", "-o", tmp_path / "instance.json")
    assert "no such file" in fails(2, "import", "json", tmp_path / "nothing.json", "-o", tmp_path / "instance.json")


def test_files_that_would_be_lost(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    fails(2, "import", "json", file, "-o", file)
    fails(2, "import", "json", file, "-o", tmp_path / "instance.json", "--captured", file)
    fails(2, "import", "json", file, "-o", tmp_path / "one.json", "--captured", tmp_path / "one.json")
    assert file.read_bytes() == before
