"""Numbers and tables as people read them, wherever they are printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def microseconds(ns: int | None) -> str:
    """Nanoseconds as microseconds with all their digits."""
    return "-" if ns is None else f"{ns / 1000:,.3f}"


def percent(share: float | None) -> str:
    """A share in per cent."""
    return "-" if share is None else f"{100 * share:.2f} %"


def size(count: float) -> str:
    """Bytes in the largest binary unit that leaves at least one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> str:
    """A table in Markdown; the columns named in ``right`` are numbers."""
    numbers = frozenset(right)
    ruler = ["---:" if column in numbers else "---" for column in columns]
    lines = (columns, ruler, *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
