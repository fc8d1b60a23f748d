"""The contest's files: both forms of a task are one task, and whatever is wrong is named with its place."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from instances import intracore
from instances.errors import InputError
from instances.intracore import TileTask
from instances.intracore_files import read_tile_answer, read_tile_task, write_tile_answer, write_tile_task
from instances.intracore_samples import flash_attention
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, answer, task

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "huaweicup2025a"

PUBLISHED = {
    "FlashAttention_Case0": (1716, 2712, 572, 25_600),
    "Matmul_Case0": (4160, 7104, 1216, 65_536),
    "Conv_Case0": (2580, 3869, 831, 348_677),
}
"""Task -> nodes, edges, buffers, and cycles of the busiest pipe."""

COLUMNS = ("Id", "Op", "BufId", "Size", "Type", "Pipe", "Cycles", "Bufs")


def content(one: TileTask, folder: Path) -> dict[str, Any]:
    """A task as JSON has it."""
    write_tile_task(one, folder / "content.json")
    loaded: dict[str, Any] = json.loads((folder / "content.json").read_text())
    return loaded


def write_tables(one: TileTask, folder: Path, name: str) -> tuple[Path, Path]:
    """Both tables of a task, as the contest writes them: ``Bufs`` a comma list, no cell where nothing applies."""
    whole = content(one, folder)
    nodes, edges = folder / f"{name}_Nodes.csv", folder / f"{name}_Edges.csv"
    with nodes.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for node in whole["Nodes"]:
            cells = node | ({"Bufs": ",".join(map(str, node["Bufs"]))} if "Bufs" in node else {})
            writer.writerow([cells.get(column, "") for column in COLUMNS])
    with edges.open("w", newline="") as stream:
        csv.writer(stream).writerows([("StartNodeId", "EndNodeId"), *whole["Edges"]])
    return nodes, edges


@pytest.mark.parametrize("one", [CHAIN, flash_attention(2, 2), task([], [("ADD", "VECTOR", 3, [])] * 2, [(0, 1)])])
def test_both_forms_are_one_task(one: TileTask, tmp_path: Path) -> None:
    write_tile_task(one, tmp_path / "tiny.json")
    from_json = read_tile_task(tmp_path / "tiny.json")
    nodes, edges = write_tables(one, tmp_path, "tiny")
    assert read_tile_task(nodes) == read_tile_task(edges) == from_json
    assert from_json.fingerprint == one.model_copy(update={"name": "tiny"}).fingerprint
    assert set(from_json.edges) == set(one.edges)


def test_the_order_of_nodes_does_not_matter(tmp_path: Path) -> None:
    whole = content(CHAIN, tmp_path)
    turned = {"Nodes": whole["Nodes"][::-1], "Edges": whole["Edges"][::-1]}
    (tmp_path / "content.json").write_text(json.dumps(whole))
    straight = read_tile_task(tmp_path / "content.json")
    (tmp_path / "content.json").write_text(json.dumps(turned))
    assert read_tile_task(tmp_path / "content.json") == straight


@pytest.mark.skipif(not DATA.is_dir(), reason="the published tasks are not part of the repository")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tasks(name: str, tmp_path: Path) -> None:
    one = read_tile_task(DATA / f"{name}.json")
    busy: dict[str, int] = {}
    for op in one.operations:
        busy[op.pipe] = busy.get(op.pipe, 0) + op.cycles
    assert (one.count, len(one.edges), len(one.buffers), max(busy.values())) == PUBLISHED[name]
    nodes, _ = write_tables(one, tmp_path, name)
    assert read_tile_task(nodes) == one


def changed(whole: dict[str, Any], node: int, **values: Any) -> dict[str, Any]:
    """The task with some keys of a node changed, or removed where the value is ``None``."""
    nodes = [dict(one) for one in whole["Nodes"]]
    nodes[node] = {key: value for key, value in (nodes[node] | values).items() if value is not None}
    return {**whole, "Nodes": nodes}


def without(whole: dict[str, Any], node: int) -> dict[str, Any]:
    return {**whole, "Nodes": [one for one in whole["Nodes"] if one["Id"] != node]}


FAULTS: dict[str, tuple[Any, str]] = {
    "no object": (lambda w: [], "is no task of tile operations"),
    "no edges": (lambda w: {"Nodes": w["Nodes"]}, "has no Edges; a task is an object with Nodes and Edges"),
    "nodes no list": (lambda w: {**w, "Nodes": {}}, "Nodes is a dict; give a list"),
    "edges no list": (lambda w: {**w, "Edges": 5}, "Edges is a int; give a list"),
    "node no object": (lambda w: {**w, "Nodes": [7]}, "Nodes[0] has no Id or no Op"),
    "nothing to do": (lambda w: {"Nodes": [], "Edges": []}, "holds no operation"),
    "no Op": (lambda w: changed(w, 3, Op=None), "Nodes[3] has no Id or no Op"),
    "Op no name": (lambda w: changed(w, 3, Op=[1]), "Nodes[3]: Op [1] is no name"),
    "no Pipe": (lambda w: changed(w, 3, Pipe=None), "Nodes[3] (ADD) has no Pipe; give it"),
    "no Size": (lambda w: changed(w, 6, Size=None), "Nodes[6] (ALLOC) has no Size; give it"),
    "unknown pipe": (lambda w: changed(w, 3, Pipe="MTE9"), "Nodes[3]: Pipe 'MTE9' is unknown; choose one of MTE1"),
    "pipe a list": (lambda w: changed(w, 3, Pipe=[]), "Nodes[3]: Pipe [] is unknown"),
    "unknown memory": (lambda w: changed(w, 6, Type="L2"), "Nodes[6]: Type 'L2' is unknown; choose one of L1, UB"),
    "not a number": (lambda w: changed(w, 3, Cycles="fast"), "Nodes[3]: Cycles: 'fast' is no whole number"),
    "half": (lambda w: changed(w, 3, Cycles=1.5), "Nodes[3]: Cycles: 1.5 is no whole number"),
    "truth": (lambda w: changed(w, 3, Id=True), "Nodes[3]: Id: True is no whole number"),
    "negative": (lambda w: changed(w, 3, Cycles=-1), "Nodes[3]: Cycles: -1 is no whole number from 0"),
    "no size": (lambda w: changed(w, 6, Size=0), "Nodes[6]: Size: 0 is no whole number from 1"),
    "huge": (lambda w: changed(w, 6, Size=10**30), "Nodes[6]: Size: 1000000000000000000000000000000 is no whole"),
    "buffer a list": (lambda w: changed(w, 6, BufId=[0]), "Nodes[6]: BufId: [0] is no whole number"),
    "buffers no list": (lambda w: changed(w, 3, Bufs="1,2"), "Nodes[3]: Bufs '1,2' is no list"),
    "doubled node": (lambda w: {**w, "Nodes": [*w["Nodes"], w["Nodes"][3]]}, "node 3 is there twice"),
    "gap": (lambda w: without(w, 4), "there is a node 11, but 11 nodes are numbered 0 to 10"),
    "second ALLOC": (lambda w: changed(w, 8, BufId=0), "Nodes[8] is the second ALLOC of buffer 0; remove one"),
    "second FREE": (lambda w: changed(w, 9, BufId=0), "Nodes[9] is the second FREE of buffer 0; remove one"),
    "no FREE": (lambda w: without(w, 9), "buffer 1 has no FREE; give it one"),
    "no ALLOC": (lambda w: without(w, 8), "buffer 1 has no ALLOC; give it one"),
    "other size": (lambda w: changed(w, 7, Size=5), "Nodes[7]: buffer 0 is released as 5 units of L1, but claimed as"),
    "other memory": (lambda w: changed(w, 9, Type="L1"), "Nodes[9]: buffer 1 is released as 600 units of L1, but"),
    "unknown buffer": (lambda w: changed(w, 3, Bufs=[1, 77]), "node 3 uses buffer 77, which nothing allocates"),
    "too large": (
        lambda w: changed(changed(w, 6, Size=5000), 7, Size=5000),
        "buffer 0 has 5000 units, L1 only 4096; cut it into parts",
    ),
    "cycle": (lambda w: {**w, "Edges": [*w["Edges"], [4, 1]]}, "the edges 1 -> 3 -> 4 -> 1 make a cycle"),
    "own successor": (lambda w: {**w, "Edges": [*w["Edges"], [3, 3]]}, "the edges 3 -> 3 make a cycle"),
    "edge of three": (lambda w: {**w, "Edges": [[0, 1, 2]]}, "Edges[0] is [0, 1, 2]; give two numbers"),
    "edge no number": (lambda w: {**w, "Edges": [[0, 1], [0, "x"]]}, "Edges[1]: 'x' is no whole number"),
    "edge to nowhere": (lambda w: {**w, "Edges": [[0, 99]]}, "edge 0 -> 99 names a node beyond 11; mend or remove"),
    "edge into an ALLOC": (lambda w: {**w, "Edges": [[0, 8]]}, "edge 0 -> 8 leads into an ALLOC or out of a FREE"),
    "edge out of a FREE": (lambda w: {**w, "Edges": [[7, 5]]}, "edge 7 -> 5 leads into an ALLOC or out of a FREE"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tasks_that_make_no_sense(fault: str, tmp_path: Path) -> None:
    change, words = FAULTS[fault]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(change(content(CHAIN, tmp_path))))
    with pytest.raises(InputError) as error:
        read_tile_task(path)
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))


def test_files_that_are_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_tile_task(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"Nodes": [')
    with pytest.raises(InputError, match="line 1 column 12 is not JSON"):
        read_tile_task(tmp_path / "broken.json")
    with pytest.raises(InputError, match="must end in _Nodes"):
        read_tile_task(tmp_path / "table.csv")


def test_a_table_alone_is_no_task(tmp_path: Path) -> None:
    nodes, edges = write_tables(CHAIN, tmp_path, "tiny")
    text = edges.read_text()
    edges.unlink()
    with pytest.raises(InputError, match=r"tiny_Edges.csv: no such file; put the table beside .*tiny_Nodes.csv"):
        read_tile_task(nodes)
    edges.write_text(text)
    nodes.unlink()
    with pytest.raises(InputError, match=r"tiny_Nodes.csv: no such file; put the table beside"):
        read_tile_task(edges)


TABLES: dict[str, tuple[str, str, str, str]] = {
    "no number": ("Nodes", "1,MOVE,,,,MTE1,50", "1,MOVE,,,,MTE1,fast", "Nodes.csv: line 3: Cycles: 'fast' is no"),
    "no pipe": ("Nodes", "1,MOVE,,,,MTE1,50", "1,MOVE,,,,,50", "Nodes.csv: line 3 (MOVE) has no Pipe; give it"),
    "odd buffers": ("Nodes", '"0,1"', '"0;1"', "Nodes.csv: line 3: Bufs: '0;1' is no whole number"),
    "half an edge": ("Edges", "0,1\n", "0,\n", "Edges.csv: line 2 has no EndNodeId; give both ends"),
    "no header": ("Edges", "StartNodeId", "Start", "Edges.csv: line 1 lacks the column 'StartNodeId'"),
    "edge of words": ("Edges", "0,1\n", "0,one\n", "Edges.csv: line 2: 'one' is no whole number"),
    "huge": ("Edges", "0,1\n", f"0,{'9' * 5000}\n", "is no whole number from 0"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_tables_that_make_no_sense(fault: str, tmp_path: Path) -> None:
    table, old, new, words = TABLES[fault]
    nodes, _ = write_tables(CHAIN, tmp_path, "tiny")
    path = tmp_path / f"tiny_{table}.csv"
    text = path.read_bytes().decode().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_tile_task(nodes)
    assert words in str(error.value)


def test_a_long_cycle_is_found_at_once() -> None:
    """Of 8,000 operations; its middle is left out of the sentence."""
    count = 8000
    ring = [(node, (node + 1) % count) for node in range(count)]
    with pytest.raises(ValidationError, match=r"the edges 0 -> 1 -> 2 -> 3 -> \.\.\. -> 7998 -> 7999 -> 0 make"):
        task([], [("ADD", "VECTOR", 1, [])] * count, ring)


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intracore, "MOST_NODES", 60)
    with pytest.raises(ValidationError, match="61 nodes are more than the 60 that are read"):
        task([], [("ADD", "VECTOR", 1, [])] * 61)


def test_answers_come_back(tmp_path: Path) -> None:
    files = write_tile_answer(CHAIN_ANSWER, tmp_path / "new" / "folder", "tiny")
    assert [file.name for file in files] == ["tiny_spill.txt", "tiny_memory.txt", "tiny_schedule.txt"]
    assert read_tile_answer(tmp_path / "new" / "folder", "tiny") == CHAIN_ANSWER
    assert (tmp_path / "new" / "folder" / "tiny_spill.txt").read_text() == "0:500\n"
    order = write_tile_answer(CHAIN_ANSWER, tmp_path / "order", "tiny", order_only=True)
    assert [file.name for file in (tmp_path / "order").iterdir()] == [order[0].name] == ["tiny_schedule.txt"]
    assert read_tile_answer(tmp_path / "order", "tiny", order_only=True) == answer(CHAIN_ANSWER.order)


def test_a_list_of_no_spills_may_be_missing(tmp_path: Path) -> None:
    write_tile_answer(answer((0,), {}), tmp_path, "tiny")
    assert (tmp_path / "tiny_spill.txt").read_text() == ""
    (tmp_path / "tiny_spill.txt").unlink()
    assert read_tile_answer(tmp_path, "tiny").spills == ()


ANSWERS: dict[str, tuple[str, str, str]] = {
    "word": ("schedule", "6\nx\n", "tiny_schedule.txt, line 2: 'x' is no whole number from 0"),
    "negative node": ("schedule", "-6\n", "tiny_schedule.txt, line 1: -6 is no whole number|'-6' is no whole number"),
    "huge": ("schedule", "9" * 40, "tiny_schedule.txt, line 1: "),
    "no colon": ("memory", "0:1\n\n5\n", "tiny_memory.txt, line 3: '5' is not BUFFER:OFFSET"),
    "offset twice": ("memory", "0:1\n0:2\n", "tiny_memory.txt, line 2: buffer 0 has an offset already; give one"),
    "no offset": ("spill", "0:\n", "tiny_spill.txt, line 1: '' is no whole number"),
}


@pytest.mark.parametrize("fault", ANSWERS)
def test_answers_that_cannot_be_read(fault: str, tmp_path: Path) -> None:
    ending, text, words = ANSWERS[fault]
    write_tile_answer(CHAIN_ANSWER, tmp_path, "tiny")
    (tmp_path / f"tiny_{ending}.txt").write_text(text)
    with pytest.raises(InputError) as error:
        read_tile_answer(tmp_path, "tiny")
    assert any(one in str(error.value) for one in words.split("|"))


@pytest.mark.parametrize("ending", ["schedule", "memory"])
def test_answers_that_are_not_there(ending: str, tmp_path: Path) -> None:
    write_tile_answer(CHAIN_ANSWER, tmp_path, "tiny")
    (tmp_path / f"tiny_{ending}.txt").unlink()
    with pytest.raises(InputError, match=f"tiny_{ending}.txt: no such file"):
        read_tile_answer(tmp_path, "tiny")


def test_an_answer_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of the three files cannot be written the old answer stays, and nothing is left behind."""
    write_tile_answer(CHAIN_ANSWER, tmp_path, "tiny")
    written = os.fdopen
    calls: list[int] = []

    def full(handle: int, *arguments: Any, **options: Any) -> Any:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return written(handle, *arguments, **options)

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_tile_answer(answer((1, 2, 3), {0: 7}, [(0, 9)]), tmp_path, "tiny")
    monkeypatch.undo()
    os.close(calls[2])
    assert read_tile_answer(tmp_path, "tiny") == CHAIN_ANSWER
    assert len(list(tmp_path.iterdir())) == 3


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made a folder"):
        write_tile_answer(CHAIN_ANSWER, tmp_path / "file", "tiny")
    (tmp_path / "tiny_memory.txt").mkdir()
    with pytest.raises(InputError, match=r"tiny_memory.txt: is a directory"):
        write_tile_answer(CHAIN_ANSWER, tmp_path, "tiny")
    assert not (tmp_path / "tiny_spill.txt").exists()
