"""The command that puts solvers side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InputError, InvalidScheduleError, NoScheduleError
from opt import api
from opt.cli.app import app
from opt.cli.display import show_table
from opt.cli.files import check_outputs
from opt.cli.formats import format_of
from opt.cli.interrupts import run_until_told
from opt.cli.packing import compare_packings
from opt.cli.replacement import compare_plans
from opt.cli.solving import Seed, Workers
from opt.comparison import (
    ROW_HEADER,
    ROW_NUMBERS,
    SUMMARY_HEADER,
    Run,
    as_csv,
    as_markdown,
    row_cells,
    run_all,
    summarise,
    summary_cells,
    tabulate,
)
from opt.packing_methods import METHODS
from opt.replacement import SOLVERS as REPLACEMENT_SOLVERS
from opt.words import microseconds
from solvers.interface import Options, available_workers
from solvers.registry import DEFAULT_SOLVER, find_solver


@app.command()
def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Instance files, or tables of buffers.")],
    solvers: Annotated[
        str | None,
        typer.Option(help="Names with commas between; see 'tilewright solvers'. [default: portfolio,greedy,unfused]"),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="Bytes to pack tables of buffers into; as low as can be without it.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for each run.")] = 60.0,
    workers: Workers = 0,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write: Markdown if it ends in .md, else CSV.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No word on each run as it ends.")] = False,
) -> None:
    """Put the answers of several solvers side by side.

    \b
    Example:
      tilewright compare layer.json --solvers portfolio,greedy,unfused --time-limit 30 -o table.csv
      tilewright compare buffers.csv --solvers packing,skyline,first-fit --time-limit 10
    """
    formats = {path: format_of(path) for path in paths}
    if contest := [path for path in paths if formats[path] in ("mlsys2026", "huaweicup")]:
        raise InputError(f"{contest[0]} is a problem of a contest, which one solver solves; use solve and validate")
    if problems := [path for path in paths if formats[path] == "replacement"]:
        if len(problems) < len(paths):
            raise InputError(f"{problems[0]} is a replacement problem and others are not; compare them in two commands")
        names = list(dict.fromkeys((solvers or ",".join(REPLACEMENT_SOLVERS)).split(",")))
        threads = workers or available_workers()
        compare_plans(paths, names, capacity, output, time_limit=time_limit, workers=threads, seed=seed)
        return
    tables = [path for path in paths if formats[path] == "packing"]
    if tables and len(tables) < len(paths):
        raise InputError(f"{tables[0]} is a table of buffers and others are not; compare them in two commands")
    if capacity is not None and not tables:
        raise InputError("--capacity is for tables of buffers; leave it out")
    solvers = solvers or ",".join(METHODS if tables else (DEFAULT_SOLVER, "greedy", "unfused"))
    names = list(dict.fromkeys(name.strip() for name in solvers.split(",") if name.strip()))
    if not names:
        raise InputError(f"--solvers {solvers!r} names no solver; choose from {', '.join(api.solvers())}")
    options = Options(time_limit_s=time_limit, workers=workers, seed=seed)  # refuses bad numbers before files are read
    if tables:
        threads = workers or available_workers()
        compare_packings(paths, names, capacity, output, time_limit=options.time_limit_s, workers=threads, seed=seed)
        return
    for name in names:
        find_solver(name)
    check_outputs([output], paths)
    instances = {str(path): api.load_instance(path) for path in paths}
    runs = run_until_told(
        lambda told: run_all(
            instances,
            names,
            time_limit=time_limit,
            workers=workers,
            seed=seed,
            on_run=None if quiet else _report,
            should_stop=told,
        )
    )
    rows = tabulate(runs)
    show_table(ROW_HEADER, map(row_cells, rows), ROW_NUMBERS)
    if len(runs) > 1:
        typer.echo()
        show_table(SUMMARY_HEADER, map(summary_cells, summarise(rows)), SUMMARY_HEADER[1:])
    if output is not None:
        write_text(output, as_markdown(rows) if output.suffix == ".md" else as_csv(rows))
    for run in runs:
        if run.error is not None:
            typer.echo(f"tilewright: {run.instance}, {run.solver}: {run.error}", err=True)
    if any(isinstance(run.error, InvalidScheduleError) for run in runs):
        raise InvalidScheduleError("a solver made a schedule that fails its replay; please report it")
    if all(run.result is None for run in runs):
        raise NoScheduleError("no solver found a schedule; raise --time-limit or choose other --solvers")


def _report(run: Run) -> None:
    """A line on stderr for a run that has ended, on a terminal."""
    if sys.stderr.isatty():
        latency = "no schedule" if run.result is None else f"{microseconds(run.result.objective_ns)} us"
        typer.echo(f"{run.instance}, {run.solver}: {latency} in {run.runtime_s:.1f} s", err=True)
