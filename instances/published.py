"""Which published problem a JSON document is, so that a file given to the wrong reader is named for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instances.documents import parse, read_json
from instances.errors import InputError
from instances.instance import Instance
from instances.intracore_files import is_tile_task
from instances.subgraphs import is_subgraph_problem


def published_kind(content: Any) -> str | None:
    """The name of a published format, as ``--format`` has it; ``None`` for documents of ours."""
    if is_subgraph_problem(content):
        return "mlsys2026"
    return "huaweicup" if is_tile_task(content) else None


WHAT = {
    "mlsys2026": "graph on a two-level memory (mlsys2026); solve and validate take it",
    "huaweicup": "task of tile operations (huaweicup); solve, validate and report take it",
}
"""Published format -> what such a file is, and who takes it."""


def read_instance(path: str | Path) -> Instance:
    """Read and check an instance; :class:`InputError` that names file, place and remedy where it is not one."""
    content = read_json(path)
    kind = published_kind(content)
    if kind is not None:
        raise InputError(f"{path}: is no instance, but a {WHAT[kind]}")
    return parse(Instance, content, path)
