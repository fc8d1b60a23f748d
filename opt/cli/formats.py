"""Which format a file has: by the name that is given, or by what the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast, get_args

from instances.documents import read_json
from instances.errors import InputError
from instances.subgraphs import is_subgraph_problem

FormatName = Literal["native", "packing", "replacement", "mlsys2026"]

LARGEST_PUBLISHED = 16 * 2**20
"""Bytes above which a JSON file can only be one of ours: it is not parsed to find out."""


def format_of(path: Path, name: str | None = None) -> FormatName:
    """The format of a file; :class:`InputError` where the given name is none."""
    known = get_args(FormatName)
    if name is not None:
        if name not in known:
            raise InputError(f"format {name!r} is unknown; choose {', '.join(known[:-1])} or {known[-1]}")
        return cast(FormatName, name)
    if path.suffix == ".csv":
        return "packing"
    if path.suffix != ".json" or not path.is_file() or path.stat().st_size > LARGEST_PUBLISHED:
        return "native"
    content = read_json(path)
    if is_subgraph_problem(content):
        return "mlsys2026"
    return "replacement" if isinstance(content, dict) and "capacity_bytes" in content else "native"
