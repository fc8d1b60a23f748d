"""Tables of measured kernels."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from instances.documents import read_table
from instances.errors import InputError
from instances.library import DTYPES

COLUMNS = ("op", "chip", "dtype", "shapes", "us")
"""Columns that a table must have; ``attributes`` and ``setting`` are empty where they are missing."""


MOST_SHAPE_CHARACTERS = 2000
"""Longest list of shapes that is read; no kernel comes near it."""


@dataclass(frozen=True)
class MeasuredRow:
    """One measured kernel.

    ``shapes`` is a JSON list of operand shapes, kept as text: what cannot be read makes a row unmodelled, not a
    table unreadable. ``setting`` says whether the kernel ran alone or in a network.
    """

    line: int
    op: str
    chip: str
    dtype: str
    shapes: str
    attributes: str
    us: float
    setting: str

    @property
    def network(self) -> bool:
        """Whether it was measured inside a network."""
        return "network" in self.setting.lower()

    @property
    def aligned(self) -> bool:
        """Whether the rows of every operand are whole 32-byte blocks."""
        dtype = DTYPES.get(self.dtype.lower())
        try:
            return dtype is not None and all(
                shape[-1] * dtype.size_bytes % 32 == 0 for shape in self.operands() if shape
            )
        except ValueError:
            return False

    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the operands; those after an ellipsis are left out. ``ValueError`` where it is no such list."""
        text = self.shapes.strip()
        if len(text) > MOST_SHAPE_CHARACTERS:
            raise ValueError(f"shapes take {len(text)} characters; give at most {MOST_SHAPE_CHARACTERS}")
        try:
            shapes = json.loads(text.replace(", ...", "").replace(",...", ""))
        except json.JSONDecodeError as error:
            raise ValueError(f"shapes are not a JSON list ({error.msg})") from None
        except RecursionError:
            raise ValueError("shapes are nested too deeply") from None
        if isinstance(shapes, list) and shapes and all(isinstance(extent, int) for extent in shapes):
            shapes = [shapes]
        if not isinstance(shapes, list) or not all(
            isinstance(shape, list) and all(type(extent) is int and extent > 0 for extent in shape) for shape in shapes
        ):
            raise ValueError("shapes are not a list of lists of positive whole numbers")
        return tuple(tuple(shape) for shape in shapes)


def read_rows(path: str | Path) -> list[MeasuredRow]:
    """The rows of a table.

    Raises
    ------
    InputError
        Where the file cannot be read, lacks a column, holds no rows, or a time is not a positive number.
    """
    rows = []
    for line, cells in read_table(path, COLUMNS, "measured kernel").rows:
        try:
            us = float(cells.get("us", ""))
            if not (0 < us < math.inf):
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}: line {line}: us is {cells.get('us', '')!r}, "
                "not a positive number of microseconds; mend or remove the row"
            ) from None
        rows.append(
            MeasuredRow(
                line=line,
                op=cells.get("op", "").strip(),
                chip=cells.get("chip", "").strip(),
                dtype=cells.get("dtype", "").strip(),
                shapes=cells.get("shapes", ""),
                attributes=cells.get("attributes", ""),
                us=us,
                setting=cells.get("setting", ""),
            )
        )
    return rows
