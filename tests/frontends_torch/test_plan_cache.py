"""Plans from the cache: what is found, what is told apart, and what a broken file or folder does."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tiny import tiny_machine

import opt.embedding
from instances.errors import InfeasibleError, InputError
from instances.frontends.captured import CapturedGraph, write_captured
from opt.embedding import Planned, PlanOptions, cache_key, plan_captured, plan_graph

FAST = PlanOptions(solver="greedy", cache="")


def graph(rows: int = 64, dtype: str = "float16", op: str = "relu", unknown: bool = False) -> CapturedGraph:
    """``op(x @ w)``, and one more that nobody knows."""
    result = [((rows, 256), dtype)]
    nodes = [
        {"name": "mm", "op": "aten.mm.default", "args": ("%x", "%w"), "inputs": ("x", "w"), "outputs": result},
        {"name": "act", "op": f"aten.{op}.default", "args": ("%mm",), "inputs": ("mm",), "outputs": result},
    ]
    if unknown:
        nodes.append({"name": "odd", "op": "my.odd", "args": ("%act",), "inputs": ("act",), "outputs": result})
    return CapturedGraph.model_validate(
        {
            "name": "small",
            "inputs": (
                {"name": "x", "kind": "user_input", "shape": (rows, 128), "dtype": dtype},
                {"name": "w", "kind": "parameter", "shape": (128, 256), "dtype": dtype},
            ),
            "nodes": nodes,
            "outputs": ({"name": nodes[-1]["name"]},),
        }
    )


def planned(folder: Path, captured: CapturedGraph | None = None, **changes: Any) -> Planned:
    return plan_captured(captured or graph(), replace(FAST, **{"cache": folder, **changes}))


def test_a_graph_seen_before_is_not_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(tmp_path / "new" / "folder")
    assert not first.cached and first.path is not None and first.path.is_file()
    assert set(first.nodes) == {"mm", "act"}
    assert set(first.nodes.values()) <= {kernel.id for kernel in first.plan.kernels}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("planned again")

    monkeypatch.setattr(opt.embedding, "_import", never)
    monkeypatch.setattr(opt.api, "solve", never)
    second = plan_graph(
        opt.embedding.digest(opt.embedding.canonical_json(graph())), never, replace(FAST, cache=first.path.parent)
    )
    assert second.cached and second.path == first.path
    assert (second.plan, second.nodes, second.notes) == (first.plan, first.nodes, first.notes)
    assert gc.isenabled()


def test_what_makes_another_plan_makes_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not planned(tmp_path).cached
    others: list[dict[str, Any]] = [
        {"captured": graph(rows=128)},
        {"captured": graph(dtype="float32")},
        {"captured": graph(op="silu")},
        {"machine": "ascend950pr"},
        {"machine": tiny_machine(l2_bytes=2**20)},
        {"max_group": 1},
        {"time_limit_s": 11.0},
        {"seed": 1},
        {"workers": 1},
        {"gap": 0.5},
        {"one_layer": True},
        {"allow_unknown": True},
    ]
    for other in others:
        assert not planned(tmp_path, **other).cached, other
        assert planned(tmp_path, **other).cached, other
    monkeypatch.setattr(opt.embedding, "__version__", "next")
    assert not planned(tmp_path).cached


def test_a_key_is_the_same_in_every_process(tmp_path: Path) -> None:
    write_captured(graph(), tmp_path / "graph.json")
    program = (
        "from instances.frontends.captured import read_captured\n"
        "from opt.embedding import PlanOptions, plan_captured\n"
        f"options = PlanOptions(solver='greedy', cache={str(tmp_path / 'cache')!r})\n"
        f"print(plan_captured(read_captured({str(tmp_path / 'graph.json')!r}), options).cached)\n"
    )
    answers = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert answers == ["False", "True"]
    assert planned(tmp_path / "cache").cached


@pytest.mark.parametrize(
    "harm",
    [
        "",
        "{",
        "[]",
        "\0\xff",
        '{"key": "other"}',
        lambda text: text[: len(text) // 2],
        lambda text: json.dumps({**json.loads(text), "schema_version": 99}),
        lambda text: json.dumps({**json.loads(text), "key": "other"}),
        lambda text: json.dumps({**json.loads(text), "nodes": {"mm": "no such kernel"}}),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
    ],
)
def test_a_broken_entry_is_planned_anew_and_replaced(tmp_path: Path, harm: Any) -> None:
    first = planned(tmp_path)
    assert first.path is not None
    text = first.path.read_text()
    first.path.write_text(harm if isinstance(harm, str) else harm(text))
    second = planned(tmp_path)
    assert not second.cached and second.plan == first.plan
    assert first.path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == [first.path.name]


def test_a_folder_that_cannot_be_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    caplog.set_level(logging.INFO, "opt.embedding")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/no/such"), Path("nul\0l")):
        found = planned(folder)
        assert not found.cached and found.path is None and found.plan.kernels
    assert "plan not kept" in caplog.text


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEWRIGHT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert PlanOptions().folder() == tmp_path / "xdg" / "tilewright"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert PlanOptions().folder() == tmp_path / ".cache" / "tilewright"
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "own"))
    assert PlanOptions().folder() == tmp_path / "own"
    assert PlanOptions(cache=tmp_path).folder() == tmp_path
    assert PlanOptions(cache="").folder() is None
    monkeypatch.setenv("TILEWRIGHT_CACHE", "")
    assert PlanOptions().folder() is None


def test_operators_that_are_not_mapped_are_noted(tmp_path: Path) -> None:
    found = planned(tmp_path, graph(unknown=True))
    (note,) = found.notes
    assert "my.odd (1 times, first odd)" in note
    assert planned(tmp_path, graph(unknown=True)).notes == (note,)  # of a plan from the cache, too
    assert planned(tmp_path, graph(unknown=True), allow_unknown=True).notes == ()


def test_a_budget_that_is_used_up_ends_in_the_greedy_plan(tmp_path: Path) -> None:
    found = planned(tmp_path, time_limit_s=0.01, solver="cpsat")
    assert any("planned by the greedy heuristic" in note for note in found.notes)
    assert found.plan.kernels == planned(tmp_path).plan.kernels


def test_what_cannot_be_planned_is_an_error_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown machine"):
        planned(tmp_path, machine="nothing")
    with pytest.raises(InputError):
        planned(tmp_path, solver="nothing")
    with pytest.raises(InfeasibleError):
        planned(tmp_path, graph(rows=2**30))
    assert not list(tmp_path.iterdir())


def test_threads_share_a_cache(tmp_path: Path) -> None:
    found: list[Planned] = []
    threads = [Thread(target=lambda: found.append(planned(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({one.plan.model_dump_json() for one in found}) == 1
    assert len(list(tmp_path.iterdir())) == 1 and planned(tmp_path).cached


def test_keys_name_the_machine_by_what_it_is() -> None:
    chip = tiny_machine()
    same, other = tiny_machine(), tiny_machine(hbm_gb_s=2.0)
    assert cache_key("graph", chip, FAST) == cache_key("graph", same, FAST)
    assert cache_key("graph", chip, FAST) != cache_key("graph", other, FAST)
