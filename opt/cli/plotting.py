"""The command that draws pictures for papers and slides."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instances.documents import read_text
from instances.errors import InputError
from opt import api
from opt.cli.app import app
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.words import size

if TYPE_CHECKING:
    from reports import plots

OF_SCHEDULES = ("timeline", "map", "roofline")
"""Pictures of an instance and its schedule."""

KINDS = (*OF_SCHEDULES, "convergence", "gaps")
"""What can be drawn."""

MOST_INCHES = 100.0
"""Longest side; more is a mistyped number."""


@app.command()
def plot(
    kind: Annotated[str, typer.Argument(metavar="timeline|map|roofline|convergence|gaps", help="What to draw.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="timeline, map, roofline: INSTANCE SCHEDULE. convergence: SCHEDULE, or a csv with "
            "time_s,objective_ns,bound_ns,source. gaps: a csv that 'compare' or 'benchmark' wrote.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write: .png, .svg or .pdf.")],
    dark: Annotated[bool, typer.Option("--dark", help="On dark ground, for slides.")] = False,
    width: Annotated[float, typer.Option(help="Inches.")] = 7.0,
    height: Annotated[float | None, typer.Option(help="Inches; default by what is drawn.")] = None,
    dpi: Annotated[int, typer.Option(min=20, max=1200, help="Dots per inch of a .png.")] = 200,
) -> None:
    """Draw a timeline, a map of L2, a roofline, a search's convergence or a table's gaps, for papers and slides.

    \b
    Example:
      tilewright plot timeline layer.json schedule.json -o timeline.pdf
      tilewright plot gaps table.csv -o gaps.svg --dark

    The same data give the same bytes with one release of matplotlib (extra plot).
    """
    if kind not in KINDS:
        raise InputError(f"picture {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    for name, inches in (("width", width), ("height", height)):
        if inches is not None and not 1 <= inches <= MOST_INCHES:
            raise InputError(f"{name} {inches} is not in 1 to {MOST_INCHES:g}; give inches, such as 7")
    check_outputs([output], files)
    from reports import plots

    plots.check_format(output)
    style = plots.Style(width, height, dark, dpi)
    if kind in OF_SCHEDULES:
        if len(files) != 2:
            raise InputError(f"{kind} is of an instance and its schedule, {len(files)} files are given; give both")
        instance, schedule = api.load_instance(files[0]), api.load_schedule(files[1])
        if schedule.instance != instance.fingerprint:
            raise InputError(
                f"{files[1]}: was made for another graph or machine than {files[0]}; give its own instance"
            )
        draw = {"timeline": plots.plot_timeline, "map": plots.plot_map, "roofline": plots.plot_roofline}
        draw[kind](instance, schedule, output, style)
    elif kind == "convergence":
        plots.plot_convergence(_search_points(files), output, style)
    else:
        plots.plot_gaps(_gap_points(files), output, style)
    show_lines([("file", f"{output}, {size(output.stat().st_size)}")], err=True)


def _search_points(files: Sequence[Path]) -> list[plots.SearchPoint]:
    """The points of a csv, or those that a schedule holds (an instance before it is no harm)."""
    from reports.plots import SearchPoint

    path = files[-1]
    if path.suffix.lower() != ".csv":
        found = getattr(api.load_schedule(path), "search", ())
        return [SearchPoint(point.time_s, point.objective_ns, point.bound_ns, point.source) for point in found]
    rows = _rows(path, ("time_s", "objective_ns", "bound_ns", "source"))
    try:
        return [
            SearchPoint(
                float(row["time_s"]),
                int(row["objective_ns"]) if row["objective_ns"] else None,
                int(row["bound_ns"]) if row["bound_ns"] else None,
                row["source"],
            )
            for row in rows
        ]
    except ValueError as error:
        raise InputError(f"{path}: {error}; times are seconds and whole ns") from None


def _gap_points(files: Sequence[Path]) -> list[plots.GapPoint]:
    """The gaps of tables one after the other; chips are named where there are several."""
    from reports.plots import GapPoint

    wanted = ("instance", "machine", "solver", "gap_to_best_bound")
    rows = [(path, row) for path in files for row in _rows(path, wanted)]
    several = len({row["machine"] for _, row in rows}) > 1
    points = []
    for path, row in rows:
        name = f"{row['instance']}, {row['machine']}" if several else row["instance"]
        text = row["gap_to_best_bound"]
        try:
            points.append(GapPoint(name, row["solver"], float(text) if text else None))
        except ValueError:
            raise InputError(f"{path}: gap_to_best_bound {text!r} is no number; give a share such as 0.01") from None
    return points


def _rows(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a csv that has the wanted columns."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; give a csv with {', '.join(wanted)}")
    return [{name: row[name] or "" for name in wanted} for row in reader]
