"""Which format a file has: by the name that is given, or by what the file holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast, get_args

import typer

from instances.documents import read_json, read_text
from instances.errors import InputError
from instances.intracore_files import is_tile_table
from instances.published import published_kind

FormatName = Literal["native", "packing", "replacement", "mlsys2026", "huaweicup"]

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
        return "huaweicup" if is_tile_table(path) else "packing"
    if path.suffix != ".json" or not path.is_file() or path.stat().st_size > LARGEST_PUBLISHED:
        return "native"
    content = read_json(path)
    published = published_kind(content)
    if published is not None:
        return cast(FormatName, published)
    return "replacement" if isinstance(content, dict) and "capacity_bytes" in content else "native"


def refuse_elsewhere(context: typer.Context, names: Iterable[str], why: str, path: Path) -> None:
    """:func:`refuse_options` for options of another format; where the file cannot be read, that is said instead."""
    if any(_is_given(context, name) for name in names) and not path.is_file():
        read_text(path)
    refuse_options(context, names, why)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_options(context: typer.Context, names: Iterable[str], why: str) -> None:
    """:class:`InputError` where one of some options was given on the command line; ``why`` is about its name."""
    for name in names:
        if _is_given(context, name):
            option = next(one for one in context.command.params if one.name == name)
            raise InputError(f"{option.opts[0]} {why}; leave it out")
