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
import random
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


def write_buffers(buffers: Sequence[Buffer], offsets: Sequence[int] | None, path: str | Path) -> None:
    """The table of an answer, every buffer with its offset; or of a question, where there are no offsets."""
    plain = Buffer(id="plain", lower=0, upper=1, size=1)
    used = [name for name in COLUMNS[4:-1] if any(getattr(buffer, name) != getattr(plain, name) for buffer in buffers)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if offsets is None:
        used += ["offset"] if any(buffer.offset is not None for buffer in buffers) else []
    writer.writerow([*COLUMNS[:4], *used, *(["offset"] if offsets is not None else [])])
    for i, buffer in enumerate(buffers):
        cells = {
            "alignment": buffer.alignment,
            "hint": -1 if buffer.hint is None else buffer.hint,
            "gaps": " ".join(str(gap) for gap in buffer.gaps),
            "offset": "" if buffer.offset is None else buffer.offset,
        }
        answer = [] if offsets is None else [offsets[i]]
        writer.writerow([buffer.id, buffer.lower, buffer.upper, buffer.size, *(cells[name] for name in used), *answer])
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


def random_buffers(count: int, longest: int, seed: int = 0) -> list[Buffer]:
    """Buffers of 1 to 1,024 bytes that begin at any of ``count`` instants and live for 1 to ``longest``."""
    if count < 1 or longest < 1:
        raise InputError(f"{count} buffers that live for up to {longest}: give numbers above zero")
    draw = random.Random(seed)
    found = []
    for i in range(count):
        lower = draw.randrange(count)
        upper = lower + draw.randint(1, longest)
        found.append(Buffer(id=str(i), lower=lower, upper=upper, size=draw.randint(1, 1024)))
    return found


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


def height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """End of the highest buffer (bytes)."""
    return max((offset + buffer.size for buffer, offset in zip(buffers, offsets, strict=True)), default=0)


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
    import numpy as np  # here, so that no command waits for it that packs nothing

    held = sorted(
        (lower, upper, offset + low, offset + high, buffer.id)
        for buffer, offset in zip(buffers, offsets, strict=True)
        for lower, upper, low, high in buffer.spans()
    )
    begins, lows, highs = (np.array([span[field] for span in held], np.int64) for field in (0, 2, 3))
    for i, (_, ends, low, high, name) in enumerate(held):
        met = slice(i + 1, int(np.searchsorted(begins, ends)))  # what begins while this is held
        for j in np.flatnonzero((lows[met] < high) & (highs[met] > low)) + i + 1:
            begin, _, other_low, other_high, other = held[j]
            bottom, top = max(low, other_low), min(high, other_high)
            found.append(
                f"buffers {name!r} and {other!r} overlap by {top - bottom} bytes from {bottom} on, at time {begin}"
            )
    return found
