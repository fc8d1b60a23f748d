"""Numbers and tables as people read them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Literal

import typer

PIPED_WIDTH = 1000
"""Columns of a table that does not go to a terminal: nothing is wrapped."""


def is_dumb() -> bool:
    """Whether the terminal says that it cannot move its cursor."""
    return os.environ.get("TERM", "") in ("dumb", "unknown")


def plain_codes() -> Literal["auto"] | None:
    """Colour system for rich: none where nobody wants codes (https://no-color.org) or the terminal has none.

    rich itself would leave bold and underlined text under ``NO_COLOR``.
    """
    return None if os.environ.get("NO_COLOR") or is_dumb() else "auto"


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
    Console(file=text, width=width, force_terminal=terminal, color_system=plain_codes(), highlight=False).print(table)
    typer.echo("\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines()))


def show_lines(lines: Iterable[tuple[str, str]], err: bool) -> None:
    """Named facts, one a line."""
    for name, fact in lines:
        typer.echo(f"{name:<10} {fact}", err=err)
