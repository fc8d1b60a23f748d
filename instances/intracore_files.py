"""The contest's files: a task as JSON or as a pair of CSV tables, an answer as three lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from instances.documents import made_folder, parse, read_json, read_table, read_text, write_text, write_texts
from instances.errors import InputError
from instances.intracore import Pipe, Place, Spill, TileAnswer, TileTask

NODES, EDGES = "_Nodes.csv", "_Edges.csv"
SCHEDULE, MEMORY, SPILL = "_schedule.txt", "_memory.txt", "_spill.txt"

MOST = 2**31
"""Largest number of a node or a buffer, and largest size and offset, that is read."""

MOST_CYCLES = 2**40
"""Longest operation that is read."""

MOST_DIGITS = 18
"""Digits of a number in a table or a list; longer ones are not even looked at."""

Where = Callable[[int], str]
"""Names the place of the node or edge of an index."""

Word = TypeVar("Word", bound=StrEnum)


def is_tile_task(content: Any) -> bool:
    """Whether parsed JSON is a task of this kind, if only half of one."""
    return isinstance(content, dict) and not {"Nodes", "Edges"}.isdisjoint(content)


def is_tile_table(path: Path) -> bool:
    """Whether a file is named like one of the two tables of a task."""
    return path.name.endswith((NODES, EDGES))


def read_tile_task(path: str | Path) -> TileTask:
    """Read a task from JSON, or from both CSV tables where one of them is named; :class:`InputError` otherwise.

    Nodes and edges are put into the order of their numbers, so that both forms of a task are equal.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return _from_tables(path)
    content = read_json(path)
    if not is_tile_task(content):
        raise InputError(f"{path}: is no task of tile operations; give an object with Nodes and Edges")
    for key in ("Nodes", "Edges"):
        if key not in content:
            raise InputError(f"{path}: has no {key}; a task is an object with Nodes and Edges, give both")
        if not isinstance(content[key], list):
            raise InputError(f"{path}: {key} is a {type(content[key]).__name__}; give a list")
    edges = content["Edges"]
    for place, edge in enumerate(edges):
        if not isinstance(edge, list) or len(edge) != 2:
            raise InputError(f"{path}: Edges[{place}] is {_shown(edge)}; give two numbers of nodes, such as [0, 3]")
    return _task(
        path.stem, path, content["Nodes"], edges, lambda n: f"{path}: Nodes[{n}]", lambda n: f"{path}: Edges[{n}]"
    )


def _from_tables(path: Path) -> TileTask:
    stem = _stem(path)
    nodes, edges = path.with_name(stem + NODES), path.with_name(stem + EDGES)
    for table in (nodes, edges):
        if path.exists() and not table.exists():
            raise InputError(f"{table}: no such file; put the table beside {path}, a task is both")
    rows = read_table(nodes, ("Id", "Op"), "node").rows
    ends = ("StartNodeId", "EndNodeId")
    pairs = read_table(edges, ends, "edge").rows
    for line, row in pairs:
        if missing := [end for end in ends if not row.get(end, "").strip()]:
            raise InputError(f"{edges}: line {line} has no {missing[0]}; give both ends")
    return _task(
        stem,
        nodes,
        [_from_row(row) for _, row in rows],
        [[row[end] for end in ends] for _, row in pairs],
        lambda n: f"{nodes}: line {rows[n][0]}",
        lambda n: f"{edges}: line {pairs[n][0]}",
    )


def _stem(path: Path) -> str:
    for ending in (NODES, EDGES):
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    raise InputError(f"{path}: is no table of a task; its name must end in {NODES} or {EDGES}")


def _from_row(row: dict[str, str]) -> dict[str, Any]:
    """A row of the table of nodes as the JSON form has it: no empty cells, ``Bufs`` as a list."""
    node: dict[str, Any] = {key: _unpadded(value.strip()) for key, value in row.items() if value.strip()}
    if node.get("Op") not in ("ALLOC", "FREE"):  # an operation of no buffers has an empty cell
        node["Bufs"] = [part.strip() for part in node.get("Bufs", "").strip("[]").split(",") if part.strip()]
    return node


def _unpadded(cell: str) -> str:
    """A whole number without the zeros behind its point that programs for tables put there beside empty cells."""
    whole, point, rest = cell.partition(".")
    return whole if point and whole.isdecimal() and rest and not rest.strip("0") else cell


def _task(name: str, path: Path, nodes: list[Any], edges: list[Any], of_node: Where, of_edge: Where) -> TileTask:
    operations: list[dict[str, Any]] = []
    claims: dict[int, dict[str, Any]] = {}
    frees: dict[int, tuple[int, int, Place, str]] = {}
    for index, node in enumerate(nodes):
        where = of_node(index)
        if not isinstance(node, dict) or "Id" not in node or "Op" not in node:
            raise InputError(f"{where} has no Id or no Op; give both")
        kind = node["Op"]
        if not isinstance(kind, str):
            raise InputError(f"{where}: Op {_shown(kind)} is no name; give one, such as MATMUL")
        wanted = ("BufId", "Size", "Type") if kind in ("ALLOC", "FREE") else ("Pipe", "Cycles", "Bufs")
        if missing := [key for key in wanted if key not in node]:
            raise InputError(f"{where} ({kind}) has no {missing[0]}; give it")
        number = _whole(node["Id"], f"{where}: Id")
        if kind not in ("ALLOC", "FREE"):
            if not isinstance(node["Bufs"], list):
                raise InputError(f"{where}: Bufs {_shown(node['Bufs'])} is no list; give numbers of buffers")
            operations.append(
                {
                    "id": number,
                    "name": kind,
                    "pipe": _word(Pipe, node["Pipe"], f"{where}: Pipe"),
                    "cycles": _whole(node["Cycles"], f"{where}: Cycles", most=MOST_CYCLES),
                    "buffers": [_whole(buffer, f"{where}: Bufs") for buffer in node["Bufs"]],
                }
            )
            continue
        buffer = _whole(node["BufId"], f"{where}: BufId")
        size = _whole(node["Size"], f"{where}: Size", least=1)
        place = _word(Place, node["Type"], f"{where}: Type")
        if buffer in (claims if kind == "ALLOC" else frees):
            raise InputError(f"{where} is the second {kind} of buffer {buffer}; remove one")
        if kind == "ALLOC":
            claims[buffer] = {"id": buffer, "place": place, "size": size, "alloc": number}
        else:
            frees[buffer] = (number, size, place, where)
    if odd := set(claims) ^ set(frees):
        lacks = "FREE" if min(odd) in claims else "ALLOC"
        raise InputError(f"{path}: buffer {min(odd)} has no {lacks}; give it one")
    for buffer, (number, size, place, where) in frees.items():
        claim = claims[buffer]
        if (size, place) != (claim["size"], claim["place"]):
            raise InputError(
                f"{where}: buffer {buffer} is released as {size} units of {place}, but claimed as {claim['size']} of "
                f"{claim['place']}; make them equal"
            )
        claim["free"] = number
    ends = [tuple(_whole(end, of_edge(index)) for end in edge) for index, edge in enumerate(edges)]
    given = {
        "name": name,
        "operations": sorted(operations, key=lambda op: int(op["id"])),
        "buffers": [claims[buffer] for buffer in sorted(claims)],
        "edges": sorted(ends),
    }
    if not operations:
        raise InputError(f"{path}: holds no operation; give at least one besides ALLOC and FREE")
    return parse(TileTask, given, path)


def _whole(value: Any, where: str, least: int = 0, most: int = MOST) -> int:
    """A whole number of JSON or of a text."""
    number: int | None = None
    if isinstance(value, str):
        text = value.strip()
        if text.removeprefix("-").isdecimal() and len(text) <= MOST_DIGITS:
            number = int(text)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or not least <= number <= most:
        raise InputError(f"{where}: {_shown(value)} is no whole number from {least} to {most}; mend it")
    return number


def _word(words: type[Word], value: Any, where: str) -> Word:
    try:
        return words(value)
    except ValueError:
        raise InputError(f"{where} {_shown(value)} is unknown; choose one of {', '.join(words)}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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


def read_tile_answer(folder: str | Path, name: str, *, order_only: bool = False) -> TileAnswer:
    """Read ``NAME_schedule.txt`` and, unless ``order_only``, ``NAME_memory.txt`` and ``NAME_spill.txt``.

    A missing list of spills stands for none.
    """
    folder = Path(folder)
    schedule, memory, spill = (folder / f"{name}{ending}" for ending in (SCHEDULE, MEMORY, SPILL))
    order = tuple(_whole(line, f"{schedule}, line {number}") for number, line in _lines(schedule))
    if order_only:
        return TileAnswer(order=order)
    offsets: dict[int, int] = {}
    for buffer, offset, where in _pairs(memory):
        if buffer in offsets:
            raise InputError(f"{where}: buffer {buffer} has an offset already; give one")
        offsets[buffer] = offset
    moved = _pairs(spill) if spill.exists() else ()
    spills = tuple(Spill(buffer=buffer, offset=offset) for buffer, offset, _ in moved)
    return TileAnswer(order=order, offsets=offsets, spills=spills)


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def _pairs(path: Path) -> Iterable[tuple[int, int, str]]:
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        buffer, colon, offset = line.partition(":")
        if not colon:
            raise InputError(f"{where}: {_shown(line)} is not BUFFER:OFFSET; write two whole numbers with a colon")
        yield _whole(buffer, where), _whole(offset, where, least=-MOST), where


def answer_files(folder: str | Path, name: str, *, order_only: bool = False) -> list[Path]:
    """The files of an answer in a folder; the schedule last."""
    endings = (SCHEDULE,) if order_only else (SPILL, MEMORY, SCHEDULE)
    return [Path(folder) / f"{name}{ending}" for ending in endings]


def write_tile_answer(answer: TileAnswer, folder: str | Path, name: str, *, order_only: bool = False) -> list[Path]:
    """Write an answer in the contest's form, all files or none; the files, the schedule last.

    ``order_only`` for sub-problem 1, which has no memory and no spills. The folder is made where it is not there.
    """
    files = answer_files(folder, name, order_only=order_only)
    spills = "".join(f"{one.buffer}:{one.offset}\n" for one in answer.spills)
    offsets = "".join(f"{buffer}:{answer.offsets[buffer]}\n" for buffer in sorted(answer.offsets))
    order = "".join(f"{node}\n" for node in answer.order)
    made_folder(folder)
    write_texts(dict(zip(files, [order] if order_only else [spills, offsets, order], strict=True)))
    return files
