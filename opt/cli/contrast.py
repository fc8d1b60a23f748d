"""Two schedules beside each other: what ``tilewright report --compare`` writes and prints."""

from __future__ import annotations

from pathlib import Path

import typer

from opt import api
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.explaining import compare_schedules
from opt.words import microseconds, size

MOST_ROWS = 8
"""Sets of operators that are printed; the page has all."""


def write_comparison(path: Path, schedule: Path, other: Path, output: Path) -> None:
    """Write the page, and print what the difference is made of."""
    check_outputs([output], [path, schedule, other])
    instance = api.load_instance(path)
    pair = api.load_schedule(schedule), api.load_schedule(other)
    found = compare_schedules(instance, *pair, output, (str(schedule), str(other)))
    typer.echo(found.headline)
    columns = ("on the critical chain", "a us", "b us", "difference us")
    rows = [(kind.value, a, b) for kind, a, b in found.by_kind]
    rows.append(("all", pair[0].latency_ns, pair[1].latency_ns))
    cells = [(name, microseconds(a), microseconds(b), f"{(b - a) / 1000:+,.3f}") for name, a, b in rows]
    show_table(columns, cells, right=columns[1:])
    rows = [row for row in found.by_operators if row[1] != row[2]][:MOST_ROWS]
    if rows:
        typer.echo()
        cells = [(name, microseconds(a), microseconds(b), f"{(b - a) / 1000:+,.3f}") for name, a, b in rows]
        show_table(("operators, with the moves for them", *columns[1:]), cells, right=columns[1:])
    typer.echo()
    count = {what: sum(d.what == what for d in found.differences) for what in ("fusion", "kernel", "move", "in L2")}
    words = (
        f"{count['fusion']} sets of operators in other groups, {count['kernel']} kernels run otherwise, "
        f"{count['move']} moves, {count['in L2']} tensors kept in L2 by one alone"
    )
    show_lines([("differ", words)], err=False)
    show_lines([("file", f"{output}, {size(output.stat().st_size)}")], err=True)
