"""Numbers and tables as people read them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal

import typer

from instances.errors import InvalidScheduleError

PIPED_WIDTH = 1000
"""Columns of a table that does not go to a terminal: nothing is wrapped."""

MOST_FAULTS_SHOWN = 20
"""Broken rules that are listed."""


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


def show_faults(faults: Sequence[str]) -> None:
    """The first broken rules, a line each, on standard output."""
    for fault in faults[:MOST_FAULTS_SHOWN]:
        typer.echo(fault)


def require_no_faults(path: Path, faults: Sequence[str], what: str, most: int | None = None) -> None:
    """:class:`InvalidScheduleError` with the count of broken rules; ``most``: where counting ends."""
    if faults:
        count = len(faults)
        more = " or more" if most is not None and count >= most else ""
        raise InvalidScheduleError(
            f"{path}: is invalid, {count}{more} violation{'s' * (count > 1)}; solve the {what} anew"
        )
