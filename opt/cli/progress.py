"""What a search has found so far, live on a terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from opt.cli.display import is_dumb, plain_codes
from opt.words import microseconds, percent
from solvers.interface import Event

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 12
"""Latest improvements that are shown."""


@contextmanager
def live_progress(wanted: bool, started: float) -> Iterator[Callable[[Event], None] | None]:
    """A listener that shows improvements in a table on stderr; ``None`` where stderr is no terminal.

    On a terminal that cannot move its cursor each improvement is a line.

    Parameters
    ----------
    wanted
        False to show nothing.
    started
        ``time.monotonic()`` from which the clock above the table counts.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    if is_dumb():
        yield _say
        return
    from rich.console import Console
    from rich.live import Live

    latest: deque[Event] = deque(maxlen=ROWS)

    def draw() -> Table:
        return _table(list(latest), time.monotonic() - started)

    console = Console(stderr=True, color_system=plain_codes())
    with Live(get_renderable=draw, console=console, refresh_per_second=4, transient=True):
        yield latest.append


def _say(event: Event) -> None:
    typer.echo("  ".join(_cells(event)), err=True)


def _cells(event: Event) -> tuple[str, ...]:
    gap = None if event.objective_ns is None else event.gap
    numbers = (microseconds(event.objective_ns), microseconds(event.bound_ns), percent(gap))
    return (f"{event.time_s:.1f}", *numbers, event.source)


def _table(events: list[Event], elapsed_s: float) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=f"solving, {elapsed_s:.0f} s", title_justify="left")
    for column in ("time s", "latency us", "bound us", "gap"):
        table.add_column(column, justify="right")
    table.add_column("improved by")
    for event in events:
        table.add_row(*_cells(event))
    return table
