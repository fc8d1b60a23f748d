"""Buffers with known lifetimes, and MiniMalloc's csv: what a packing of addresses is asked and answered in.

``id,lower,upper,size`` and, where there are any, ``alignment``, ``hint`` (an offset to try; -1 for none), ``gaps`` and
``offset`` (a place that is given); lifetimes are half-open, ``[lower, upper)``. A gap is a time within the lifetime in
which the buffer is not held (``3-5``), or only its bytes from ``low`` up to ``high`` (``3-5@0:64``); several stand
with spaces between. The answer is the same table with the column ``offset``. Older names
of columns are read, too: ``buffer``, ``buffer_id``, ``begin``, ``start``, and ``end``, which is the last instant
itself. Format: google/minimalloc.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from instances.documents import Frozen, first_problem, read_table, write_text
from instances.errors import InputError

Instant = Annotated[int, Field(ge=-(2**61), le=2**61)]
Size = Annotated[int, Field(gt=0, le=2**50)]
Offset = Annotated[int, Field(ge=0, le=2**52)]

COLUMNS = ("id", "lower", "upper", "size", "alignment", "hint", "gaps", "offset")
"""Columns in the order in which they are written; the first four are required."""

OLD_NAMES = {"buffer": "id", "buffer_id": "id", "begin": "lower", "start": "lower", "end": "upper"}

_GAP = re.compile(r"(-?\d+)-(-?\d+)(?:@(\d+):(\d+))?")


class Gap(Frozen):
    """Over ``[lower, upper)`` only the bytes ``[low, high)`` of a buffer are held; none where the two are equal."""

    lower: Instant
    upper: Instant
    low: Offset = 0
    high: Offset = 0

    def __str__(self) -> str:
        return f"{self.lower}-{self.upper}" + (f"@{self.low}:{self.high}" if self.low < self.high else "")


class Buffer(Frozen):
    """``size`` bytes over ``[lower, upper)``, at a multiple of ``alignment``, or at ``offset`` where that is given."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    lower: Instant
    upper: Instant
    size: Size
    alignment: Size = 1
    hint: Offset | None = None
    gaps: tuple[Gap, ...] = ()
    offset: Offset | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"buffer {self.id!r} ends at {self.upper}, no later than it begins ({self.lower})")
        if self.offset is not None and self.offset % self.alignment:
            raise ValueError(f"buffer {self.id!r} is given offset {self.offset}, no multiple of {self.alignment}")
        until = self.lower
        for gap in self.gaps:
            if not until <= gap.lower < gap.upper <= self.upper:
                raise ValueError(f"buffer {self.id!r} has the gap {gap}, which does not follow within its lifetime")
            if not gap.low <= gap.high <= self.size:
                raise ValueError(f"buffer {self.id!r} has the gap {gap}, which is not within its {self.size} bytes")
            until = gap.upper
        return self

    def spans(self) -> list[tuple[int, int, int, int]]:
        """``(lower, upper, low, high)``: over this time, these of its bytes are held."""
        found, until = [], self.lower
        for gap in self.gaps:
            if until < gap.lower:
                found.append((until, gap.lower, 0, self.size))
            if gap.low < gap.high:
                found.append((gap.lower, gap.upper, gap.low, gap.high))
            until = gap.upper
        if until < self.upper:
            found.append((until, self.upper, 0, self.size))
        return found


def read_buffers(path: str | Path) -> list[Buffer]:
    """The buffers of a csv file.

    Raises
    ------
    InputError
        Where it cannot be read, lacks a column, has one that is not known, holds no rows, or a value is out of range;
        the sentence names file, line and value.
    """
    table = read_table(path, COLUMNS[:4], "buffer", OLD_NAMES)
    for name in table.columns:
        if OLD_NAMES.get(name, name) not in COLUMNS:
            raise InputError(f"{path}: line 1 has the column {name!r}, which is not read; remove it")
    found = [_buffer(path, line, cells, later=int("end" in table.columns)) for line, cells in table.rows]
    seen: set[str] = set()
    for buffer in found:
        if buffer.id in seen:
            raise InputError(f"{path}: two buffers are called {buffer.id!r}; rename one")
        seen.add(buffer.id)
    return found


def write_buffers(buffers: Sequence[Buffer], offsets: Sequence[int], path: str | Path) -> None:
    """The table of an answer: every buffer with its offset."""
    plain = Buffer(id="plain", lower=0, upper=1, size=1)
    used = [name for name in COLUMNS[4:-1] if any(getattr(buffer, name) != getattr(plain, name) for buffer in buffers)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS[:4], *used, "offset"])
    for buffer, offset in zip(buffers, offsets, strict=True):
        cells = {
            "alignment": buffer.alignment,
            "hint": -1 if buffer.hint is None else buffer.hint,
            "gaps": " ".join(str(gap) for gap in buffer.gaps),
        }
        writer.writerow([buffer.id, buffer.lower, buffer.upper, buffer.size, *(cells[name] for name in used), offset])
    write_text(path, text.getvalue())


def _buffer(path: str | Path, line: int, cells: dict[str, str], later: int) -> Buffer:
    """A row; ``later`` is what is added to the ends of times."""
    try:
        values: dict[str, Any] = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
        if values.get("hint", "").startswith("-"):
            del values["hint"]
        if later and "upper" in values:
            values["upper"] = int(values["upper"]) + later
        if "gaps" in values:
            values["gaps"] = [_gap(text, later) for text in values["gaps"].split()]
        return Buffer.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: line {line}: {first_problem(error)}; mend the row") from None
    except ValueError as error:
        raise InputError(f"{path}: line {line}: {error}; mend the row") from None


def _gap(text: str, later: int) -> dict[str, int]:
    parts = _GAP.fullmatch(text)
    if parts is None:
        raise ValueError(f"gap {text[:60]!r} is none; write LOWER-UPPER or LOWER-UPPER@LOW:HIGH")
    lower, upper, low, high = (int(part or 0) for part in parts.groups())
    return {"lower": lower, "upper": upper + later, "low": low, "high": high}


def greatest_load(buffers: Sequence[Buffer], alignment: int = 1) -> tuple[int, int]:
    """The most bytes that live at one instant, sizes rounded up to ``alignment``, and the first such instant."""
    changes = sorted(
        (instant, sign * (-(-high // alignment) - low // alignment) * alignment)
        for buffer in buffers
        for lower, upper, low, high in buffer.spans()
        for instant, sign in ((upper, -1), (lower, 1))
    )
    most, when, load = 0, 0, 0
    for instant, change in changes:  # at one instant what ends comes first
        load += change
        if load > most:
            most, when = load, instant
    return most, when


def faults(buffers: Sequence[Buffer], offsets: Sequence[int], capacity: int | None = None) -> list[str]:
    """What is wrong with a packing: one sentence for each misplaced buffer and each overlap, with place and amount."""
    found = []
    for buffer, offset in zip(buffers, offsets, strict=True):
        name = f"buffer {buffer.id!r} at {offset}"
        if offset < 0:
            found.append(f"{name} begins {-offset} bytes below 0")
        if capacity is not None and offset + buffer.size > capacity:
            found.append(f"{name} ends {offset + buffer.size - capacity} bytes beyond {capacity}")
        if offset % buffer.alignment:
            found.append(f"{name} is {offset % buffer.alignment} bytes past a multiple of {buffer.alignment}")
        if buffer.offset is not None and offset != buffer.offset:
            found.append(f"{name} is given a place of its own, {buffer.offset}")
    held = sorted(
        (lower, upper, offset + low, offset + high, buffer.id)
        for buffer, offset in zip(buffers, offsets, strict=True)
        for lower, upper, low, high in buffer.spans()
    )
    alive: list[tuple[int, int, int, int, str]] = []
    for this in held:
        alive = [other for other in alive if other[1] > this[0]]
        for other in alive:
            low, high = max(this[2], other[2]), min(this[3], other[3])
            if low < high:
                both = f"buffers {other[4]!r} and {this[4]!r}"
                found.append(f"{both} overlap by {high - low} bytes from {low} on, at time {this[0]}")
        alive.append(this)
    return found
