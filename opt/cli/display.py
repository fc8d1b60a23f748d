"""Numbers and tables as people read them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from io import StringIO

import typer

PIPED_WIDTH = 1000
"""Columns of a table that does not go to a terminal: nothing is wrapped."""


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


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """A table on stdout; the columns named in ``right`` are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    numbers = frozenset(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else PIPED_WIDTH
    text = StringIO()
    Console(file=text, width=width, force_terminal=terminal, highlight=False).print(table)
    typer.echo("\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines()))


def show_lines(lines: Iterable[tuple[str, str]], err: bool) -> None:
    """Named facts, one a line."""
    for name, fact in lines:
        typer.echo(f"{name:<10} {fact}", err=err)
