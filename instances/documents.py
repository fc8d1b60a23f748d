"""Frozen documents: how every piece of data is defined, read, written and fingerprinted.

Reading turns whatever can be wrong with a file into one :class:`InputError` that names file, place, value
and remedy. Writing goes to a temporary name in the same folder and is renamed, so that a reader never sees
half a file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from instances.errors import InputError

SCHEMA_VERSION = 1
"""Version of all our document formats; a reader refuses any other."""

MAX_DOCUMENT_BYTES = 128 * 2**20
"""Largest file that is read (bytes): far above any real instance, below what would exhaust memory."""


class Frozen(BaseModel):
    """Immutable data with no unknown fields; a NaN or an infinity is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Document = TypeVar("Document", bound=Frozen)


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, without a byte order mark; :class:`InputError` where there is none to be had."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a directory; give the path of a file")
        with path.open("rb") as stream:  # what a device or a pipe holds is known only by reading it
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) > MAX_DOCUMENT_BYTES:
            raise InputError(f"{path}: holds more than the limit of {MAX_DOCUMENT_BYTES} bytes; split the file")
        return content.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); check the path and its permissions") from None


@dataclass(frozen=True)
class Table:
    """A CSV file: the columns of its header, and its rows as the line each ends on and its cells by column."""

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_table(path: str | Path, required: Sequence[str], what: str, aliases: Mapping[str, str] | None = None) -> Table:
    """A CSV file with a header. Cells that are missing are left out.

    ``what`` names a row. ``aliases`` are other names of columns: cells are found by the name that one stands for.
    :class:`InputError` where a required column or all rows are missing, a column is there twice, or it is no CSV.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        names = [(aliases or {}).get(name, name) for name in columns]
        for name in required:
            if name not in names:
                raise InputError(f"{path}: line 1 lacks the column {name!r}; the header is {','.join(required)}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{path}: line 1 has the column {twice[0]!r} twice; remove one")
        reader.fieldnames = names
        rows = [
            (reader.line_num, {name or "": cell for name, cell in record.items() if isinstance(cell, str)})
            for record in reader
        ]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1} is no CSV ({error}); mend or remove the row") from None
    if not rows:
        raise InputError(f"{path}: holds no {what}s; give at least one {what}")
    return Table(columns, rows)


def read_json(path: str | Path) -> Any:
    """The parsed JSON of a file; :class:`InputError` with line and column where it is broken, or a name comes twice."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_members)
    except _NamedTwiceError as error:
        raise InputError(f"{path}: an object has the name {_short(str(error))} twice; remove one of the two") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno} column {error.colno} is not JSON ({error.msg}); mend or regenerate the file"
        ) from None
    except (RecursionError, ValueError):
        raise InputError(f"{path}: is nested too deeply or holds an absurd number; regenerate the file") from None


class _NamedTwiceError(Exception):
    """A name that comes twice in one JSON object: readers differ in which of the two they take."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _NamedTwiceError(name)
            seen.add(name)
    return members


def parse(model: type[Document], data: Any, source: str | Path) -> Document:
    """``data`` as a ``model``; :class:`InputError` naming ``source`` and the first offending place."""
    if not isinstance(data, dict):
        raise InputError(
            f"{source}: holds a {type(data).__name__}, not a JSON object; expected the {model.__name__.lower()} format"
        )
    version = data.get("schema_version", SCHEMA_VERSION)
    if "schema_version" in model.model_fields and version != SCHEMA_VERSION:
        raise InputError(
            f"{source}: schema_version {version!r} is unknown; this release reads version {SCHEMA_VERSION}"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """One sentence on the first of a validation error's problems: place, value, reason."""
    problems = error.errors(include_url=False)
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    reason = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = "" if isinstance(value, dict | list | tuple | Frozen) else f" (value {_short(value)})"
    more = f"; {len(problems) - 1} more like it" if len(problems) > 1 else ""
    return f"{place}: {reason}{shown}{more}"


def read_document(model: type[Document], path: str | Path) -> Document:
    """Read and check one document."""
    return parse(model, read_json(path), path)


def canonical_json(document: Frozen, exclude: set[str] | None = None) -> str:
    """The one text that stands for a document: defaults included, keys sorted, no spaces."""
    data = document.model_dump(mode="json", exclude=exclude)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(text: str) -> str:
    """SHA-256 of a text, as hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_document(document: Frozen, path: str | Path) -> None:
    """Write a document as JSON, whole or not at all. Fields at their defaults are left out."""
    data = document.model_dump(mode="json", exclude_defaults=True)
    if "schema_version" in type(document).model_fields:
        data = {"schema_version": SCHEMA_VERSION, **data}
    write_text(path, json.dumps(data, separators=(",", ":"), ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all; :class:`InputError` where it cannot be written."""
    write_texts({Path(path): text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several text files, all or none: each is whole under a temporary name before the first gets its own."""
    staged: list[tuple[str, Path]] = []
    path = Path()
    try:
        for path, text in texts.items():
            if path.is_dir():
                raise InputError(f"{path}: is a directory; give the path of a file to write")
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            staged.append((temporary, path))
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.chmod(temporary, 0o666 & ~_umask())
        while staged:
            temporary, path = staged[0]
            os.replace(temporary, path)
            del staged[0]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); choose another place") from None
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)


def made_folder(folder: str | Path) -> Path:
    """A folder that is there; :class:`InputError` where it cannot be made."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be made a folder ({_reason(error)}); choose another place") from None
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
