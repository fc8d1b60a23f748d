"""Buffers with known lifetimes, and MiniMalloc's csv: what a packing of addresses is asked and answered in.

``id,lower,upper,size`` and, where there is one, ``alignment`` and ``offset`` (a place that is given); lifetimes are
half-open, ``[lower, upper)``. The answer is the same table with the column ``offset``. Format: google/minimalloc.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from instances.documents import Frozen, first_problem, read_text, write_text
from instances.errors import InputError

Instant = Annotated[int, Field(ge=-(2**62), le=2**62)]
Size = Annotated[int, Field(gt=0, le=2**50)]

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "offset")


class Buffer(Frozen):
    """``size`` bytes over ``[lower, upper)``, at a multiple of ``alignment``, or at ``offset`` where that is given."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    lower: Instant
    upper: Instant
    size: Size
    alignment: Size = 1
    offset: Annotated[int, Field(ge=0, le=2**52)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"buffer {self.id!r} ends at {self.upper}, no later than it begins ({self.lower})")
        if self.offset is not None and self.offset % self.alignment:
            raise ValueError(f"buffer {self.id!r} is given offset {self.offset}, no multiple of {self.alignment}")
        return self

    def meets(self, other: Buffer) -> bool:
        """Whether the two live at one time."""
        return self.lower < other.upper and other.lower < self.upper


def read_buffers(path: str | Path) -> list[Buffer]:
    """The buffers of a csv file.

    Raises
    ------
    InputError
        Where it cannot be read, lacks a column, has one that is not known, holds no rows, or a value is out of range;
        the sentence names file, line and value.
    """
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        for name in REQUIRED:
            if name not in names:
                raise InputError(f"{path}: line 1 lacks the column {name!r}; the header is {','.join(REQUIRED)}")
        for name in names:
            if name not in (*REQUIRED, *OPTIONAL):
                raise InputError(f"{path}: line 1 has the column {name!r}, which is not read; remove it")
        found = [_buffer(path, reader.line_num, dict(zip(names, record.values(), strict=False))) for record in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num + 1} is no CSV ({error}); mend or remove the row") from None
    if not found:
        raise InputError(f"{path}: holds no buffers; give at least one row")
    seen: set[str] = set()
    for buffer in found:
        if buffer.id in seen:
            raise InputError(f"{path}: two buffers are called {buffer.id!r}; rename one")
        seen.add(buffer.id)
    return found


def write_buffers(buffers: Sequence[Buffer], offsets: Sequence[int], path: str | Path) -> None:
    """The table of an answer: every buffer with its offset."""
    aligned = any(buffer.alignment > 1 for buffer in buffers)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*REQUIRED, *(["alignment"] if aligned else []), "offset"])
    for buffer, offset in zip(buffers, offsets, strict=True):
        own = [buffer.alignment] if aligned else []
        writer.writerow([buffer.id, buffer.lower, buffer.upper, buffer.size, *own, offset])
    write_text(path, text.getvalue())


def _buffer(path: str | Path, line: int, cells: dict[str, str | None]) -> Buffer:
    try:
        return Buffer.model_validate({name: value.strip() for name, value in cells.items() if value and value.strip()})
    except ValidationError as error:
        raise InputError(f"{path}: line {line}: {first_problem(error)}; mend the row") from None


def greatest_load(buffers: Sequence[Buffer], alignment: int = 1) -> tuple[int, int]:
    """The most bytes that live at one instant, sizes rounded up to ``alignment``, and the first such instant."""
    changes = sorted(
        (instant, sign * -(-buffer.size // alignment) * alignment)
        for buffer in buffers
        for instant, sign in ((buffer.upper, -1), (buffer.lower, 1))
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
    order = sorted(range(len(buffers)), key=lambda i: buffers[i].lower)
    alive: list[int] = []
    for i in order:
        alive = [j for j in alive if buffers[j].upper > buffers[i].lower]
        for j in alive:
            low, high = max(offsets[i], offsets[j]), min(offsets[i] + buffers[i].size, offsets[j] + buffers[j].size)
            if low < high:
                found.append(
                    f"buffers {buffers[j].id!r} and {buffers[i].id!r} overlap by {high - low} bytes from {low} on, "
                    f"at time {buffers[i].lower}"
                )
        alive.append(i)
    return found
