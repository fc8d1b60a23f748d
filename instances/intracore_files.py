"""The contest's files: a task as JSON or as a pair of CSV tables, an answer as three lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instances.documents import parse, read_json, read_table, read_text, write_text
from instances.errors import InputError
from instances.intracore import Spill, TileAnswer, TileTask

NODES, EDGES = "_Nodes.csv", "_Edges.csv"
SCHEDULE, MEMORY, SPILL = "_schedule.txt", "_memory.txt", "_spill.txt"


def is_tile_task(content: Any) -> bool:
    """Whether parsed JSON is a task of this kind."""
    return isinstance(content, dict) and {"Nodes", "Edges"} <= set(content)


def is_tile_table(path: Path) -> bool:
    """Whether a file is named like one of the two tables of a task."""
    return path.name.endswith((NODES, EDGES))


def read_tile_task(path: str | Path) -> TileTask:
    """Read a task from JSON, or from both CSV tables where one of them is named; :class:`InputError` otherwise."""
    path = Path(path)
    if path.suffix == ".csv":
        stem = _stem(path)
        nodes = read_table(path.with_name(stem + NODES), ("Id", "Op"), "node").rows
        ends = ("StartNodeId", "EndNodeId")
        edges = [
            tuple(row.get(end) for end in ends)
            for _, row in read_table(path.with_name(stem + EDGES), ends, "edge").rows
        ]
        return _task(stem, [_from_row(row) for _, row in nodes], edges, path)
    content = read_json(path)
    if not is_tile_task(content) or not isinstance(content["Nodes"], list):
        raise InputError(f"{path}: is no task of tile operations; give Nodes and Edges")
    return _task(path.stem, content["Nodes"], content["Edges"], path)


def _stem(path: Path) -> str:
    for ending in (NODES, EDGES):
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    raise InputError(f"{path}: is no table of a task; its name must end in {NODES} or {EDGES}")


def _from_row(row: dict[str, str]) -> dict[str, Any]:
    """A row of the table of nodes as the JSON form has it: no empty cells, ``Bufs`` as a list."""
    node: dict[str, Any] = {key: value for key, value in row.items() if value}
    if "Bufs" in node:
        node["Bufs"] = [part.strip() for part in str(node["Bufs"]).strip("[]").split(",") if part.strip()]
    return node


def _task(name: str, nodes: list[Any], edges: Any, path: Path) -> TileTask:
    operations = []
    claims: dict[Any, dict[str, Any]] = {}
    freed: dict[Any, tuple[Any, Any]] = {}
    for place, node in enumerate(nodes):
        if not isinstance(node, dict) or "Id" not in node or "Op" not in node:
            raise InputError(f"{path}: Nodes[{place}] has no Id or no Op; give both")
        kind = node["Op"]
        wanted = ("BufId", "Size", "Type") if kind in ("ALLOC", "FREE") else ("Pipe", "Cycles", "Bufs")
        if missing := [key for key in wanted if key not in node]:
            raise InputError(f"{path}: Nodes[{place}] ({kind}) has no {missing[0]}; give it")
        if kind == "ALLOC":
            if _number(node["BufId"]) in claims:
                raise InputError(f"{path}: Nodes[{place}] allocates buffer {node['BufId']} a second time")
            claims[_number(node["BufId"])] = node
        elif kind == "FREE":
            freed[_number(node["BufId"])] = (node["Id"], node["Size"])
        else:
            operations.append(
                {
                    "id": node["Id"],
                    "name": kind,
                    "pipe": node["Pipe"],
                    "cycles": node["Cycles"],
                    "buffers": node["Bufs"],
                }
            )
    if set(claims) != set(freed):
        odd = min(set(claims) ^ set(freed), key=str)
        raise InputError(f"{path}: buffer {odd} has not one ALLOC and one FREE; give both")
    buffers = [
        {"id": number, "place": node["Type"], "size": node["Size"], "alloc": node["Id"], "free": freed[number][0]}
        for number, node in claims.items()
    ]
    given = {"name": name, "operations": operations, "buffers": buffers, "edges": edges}
    return parse(TileTask, given, path)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def write_tile_task(task: TileTask, path: str | Path) -> None:
    """Write a task in the contest's JSON form, a node to a line."""
    nodes: dict[int, dict[str, Any]] = {}
    for one in task.buffers:
        for node, kind in ((one.alloc, "ALLOC"), (one.free, "FREE")):
            nodes[node] = {"Id": node, "Op": kind, "BufId": one.id, "Size": one.size, "Type": one.place.value}
    for op in task.operations:
        nodes[op.id] = {
            "Id": op.id,
            "Op": op.name,
            "Pipe": op.pipe.value,
            "Cycles": op.cycles,
            "Bufs": list(op.buffers),
        }
    rows = ",\n".join(f"    {json.dumps(nodes[node])}" for node in sorted(nodes))
    edges = ",\n".join(f"    {json.dumps(list(edge))}" for edge in task.edges)
    write_text(path, f'{{\n  "Nodes": [\n{rows}\n  ],\n  "Edges": [\n{edges}\n  ]\n}}\n')


def read_tile_answer(folder: str | Path, name: str) -> TileAnswer:
    """Read ``NAME_schedule.txt`` and, where they are there, ``NAME_memory.txt`` and ``NAME_spill.txt``."""
    folder = Path(folder)
    order = [_whole(line, folder / f"{name}{SCHEDULE}") for _, line in _lines(folder / f"{name}{SCHEDULE}")]
    offsets: dict[int, int] = {}
    for buffer, offset, where in _pairs(folder / f"{name}{MEMORY}"):
        if buffer in offsets:
            raise InputError(f"{where}: buffer {buffer} has an offset already; give one")
        offsets[buffer] = offset
    spills = [Spill(buffer=buffer, offset=offset) for buffer, offset, _ in _pairs(folder / f"{name}{SPILL}")]
    return TileAnswer(order=tuple(order), offsets=offsets, spills=tuple(spills))


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def _pairs(path: Path) -> list[tuple[int, int, str]]:
    if not path.exists():
        return []
    found = []
    for number, line in _lines(path):
        buffer, colon, offset = line.partition(":")
        where = f"{path}, line {number}"
        if not colon:
            raise InputError(f"{where}: {line!r} is not BUFFER:OFFSET; write two whole numbers with a colon")
        found.append((_whole(buffer, where), _whole(offset, where), where))
    return found


def _whole(text: str, where: str | Path) -> int:
    text = text.strip()
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"{where}: {text!r} is no whole number from 0; mend the file")
    return int(text)


def write_tile_answer(answer: TileAnswer, folder: str | Path, name: str, *, order_only: bool = False) -> list[Path]:
    """Write an answer in the contest's form; the schedule comes last, so a folder with one is whole.

    ``order_only`` for sub-problem 1, which has no memory and no spills.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    if not order_only:
        files[SPILL] = "".join(f"{one.buffer}:{one.offset}\n" for one in answer.spills)
        files[MEMORY] = "".join(f"{buffer}:{answer.offsets[buffer]}\n" for buffer in sorted(answer.offsets))
    files[SCHEDULE] = "".join(f"{node}\n" for node in answer.order)
    for ending, text in files.items():
        write_text(folder / f"{name}{ending}", text)
    return [folder / f"{name}{ending}" for ending in files]
