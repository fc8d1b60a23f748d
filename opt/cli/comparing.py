"""The command that puts solvers side by side."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InputError, InvalidScheduleError, NoScheduleError, TilewrightError
from instances.instance import Instance
from opt import api
from opt.cli.app import app
from opt.cli.display import microseconds, percent, show_table
from opt.cli.files import check_outputs
from opt.cli.interrupts import ending_at_once
from opt.cli.packing import compare_packings, is_packing
from opt.cli.solving import Seed, Workers
from opt.packing_methods import METHODS
from solvers.interface import Options, Result, available_workers
from solvers.registry import find_solver


@dataclass(frozen=True)
class Run:
    """One solver on one instance: a result, or the error that stands in its place."""

    instance: str
    solver: str
    runtime_s: float
    result: Result | None = None
    error: TilewrightError | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table. ``answered_by`` differs from ``solver`` where a fallback stepped in."""

    instance: str
    solver: str
    answered_by: str
    objective_ns: int | None
    bound_ns: int | None
    bound_by: str
    best_bound_ns: int | None
    gap_to_best_bound: float | None
    runtime_s: float
    status: str


@app.command()
def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Instance files, or tables of buffers.")],
    solvers: Annotated[
        str | None,
        typer.Option(help="Names with commas between; see 'tilewright solvers'. [default: cpsat,greedy,unfused]"),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="Bytes to pack tables of buffers into; as low as can be without it.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for each run.")] = 60.0,
    workers: Workers = 0,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV file to write.")] = None,
) -> None:
    """Put the answers of several solvers side by side.

    \b
    Example:
      tilewright compare layer.json --solvers cpsat,greedy,unfused --time-limit 30 -o table.csv
      tilewright compare buffers.csv --solvers packing,skyline,first-fit --time-limit 10
    """
    tables = [path for path in paths if is_packing(path, None)]
    if tables and len(tables) < len(paths):
        raise InputError(f"{tables[0]} is a table of buffers and others are not; compare them in two commands")
    if capacity is not None and not tables:
        raise InputError("--capacity is for tables of buffers; leave it out")
    solvers = solvers or ",".join(METHODS if tables else ("cpsat", "greedy", "unfused"))
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
    with ending_at_once():
        runs = [
            _run(label, instance, name, time_limit, workers, seed)
            for label, instance in instances.items()
            for name in names
        ]
    rows = list(_rows(runs))
    _show(rows)
    if output is not None:
        write_text(output, _csv(rows))
    for run in runs:
        if run.error is not None:
            typer.echo(f"tilewright: {run.instance}, {run.solver}: {run.error}", err=True)
    if any(isinstance(run.error, InvalidScheduleError) for run in runs):
        raise InvalidScheduleError("a solver made a schedule that fails its replay; please report it")
    if all(run.result is None for run in runs):
        raise NoScheduleError("no solver found a schedule; raise --time-limit or choose other --solvers")


def _run(label: str, instance: Instance, solver: str, time_limit: float, workers: int, seed: int) -> Run:
    started = time.monotonic()
    try:
        result = api.solve(instance, time_limit, solver, workers, seed, started=started)
    except TilewrightError as error:
        return Run(label, solver, time.monotonic() - started, error=error)
    return Run(label, solver, result.runtime_s, result)


def _rows(runs: Sequence[Run]) -> Iterator[Row]:
    best: dict[str, int] = {}
    for run in runs:
        if run.result is not None:
            best[run.instance] = max(run.result.bound_ns, best.get(run.instance, 0))
    for run in runs:
        bound, result = best.get(run.instance), run.result
        if result is None or bound is None:
            status = "no schedule" if isinstance(run.error, NoScheduleError) else "failed"
            yield Row(run.instance, run.solver, "", None, None, "", bound, None, round(run.runtime_s, 3), status)
        else:
            yield Row(
                instance=run.instance,
                solver=run.solver,
                answered_by=result.solver,
                objective_ns=result.objective_ns,
                bound_ns=result.bound_ns,
                bound_by=result.bound_by,
                best_bound_ns=bound,
                gap_to_best_bound=(result.objective_ns - bound) / max(1, result.objective_ns),
                runtime_s=round(run.runtime_s, 3),
                status="optimal" if result.objective_ns == bound else result.status.value,
            )


def _show(rows: Sequence[Row]) -> None:
    numbers = ("latency us", "bound us", "gap to best bound", "time s")
    show_table(
        ("instance", "solver", *numbers, "status"),
        [
            (
                row.instance,
                row.solver,
                microseconds(row.objective_ns),
                microseconds(row.bound_ns),
                percent(row.gap_to_best_bound),
                f"{row.runtime_s:.2f}",
                row.status,
            )
            for row in rows
        ],
        right=numbers,
    )


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
