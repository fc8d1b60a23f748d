"""The command that runs a plan tile by tile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InputError, InvalidScheduleError
from opt import api, benchmarks
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.cli.solving import Seed
from opt.simulation import Simulated, simulate, survey
from opt.simulation.engine import Corruption
from opt.words import markdown_table, microseconds

HEADER = ("activity", "kind", "plan starts", "starts", "plan us", "simulated us", "ratio", "stalls most")
NUMBERS = ("plan starts", "starts", "plan us", "simulated us", "ratio")


@app.command(name="simulate")
def simulate_plan(
    path: Annotated[
        Path | None, typer.Argument(metavar="[INSTANCE", help="Instance file; without any, the benchmark's layers.")
    ] = None,
    schedule_path: Annotated[Path | None, typer.Argument(metavar="SCHEDULE]", help="Schedule file.")] = None,
    time_limit: Annotated[float, typer.Option(help="Without files: seconds for each layer to be solved.")] = 5.0,
    solver: Annotated[str, typer.Option(help="Without files: who plans the layers.")] = "dp",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Markdown file for the table.")] = None,
) -> None:
    """Run a schedule tile by tile on in-order pipes with shared bandwidth, beside what the plan says.

    \b
    Example:
      tilewright simulate layer.json schedule.json

    A second opinion on the cost model: kernels are written out as loads, products, vector work and stores with their
    buffers, and what overlaps comes out of that. Exit code 4 where a buffer's address is used again too early.
    """
    if (path is None) != (schedule_path is None):
        raise typer.BadParameter("give an instance file and its schedule file, or neither")
    check_outputs([output], [given for given in (path, schedule_path) if given is not None])
    if path is None or schedule_path is None:
        _survey(time_limit, solver, seed, output)
    else:
        _one(path, schedule_path, output)


def _survey(time_limit: float, solver: str, seed: int, output: Path | None) -> None:
    """All layers of the benchmark: a table, and a page where one is asked for."""
    found = survey.survey(
        benchmarks.cases("layers"),
        time_limit,
        solver,
        seed,
        lambda one: typer.echo(f"{one.case.name} on {one.case.machine}: {one.ratio:.3f} of the plan", err=True),
    )
    show_table(survey.HEADER, map(survey.cells, found), survey.NUMBERS)
    typer.echo(survey.summary(found), err=True)
    if output is not None:
        command = f"tilewright simulate --solver {solver} --time-limit {time_limit:g} -o {output}"
        write_text(output, survey.page(found, command))
    _refuse(corruption for one in found for corruption in one.simulation.corruptions)


def _one(path: Path, schedule_path: Path, output: Path | None) -> None:
    instance, schedule = api.load_instance(path), api.load_schedule(schedule_path)
    if schedule.instance != instance.fingerprint:
        raise InputError(f"{schedule_path}: was made for another graph or machine than {path}; give its own instance")
    found = simulate(instance, schedule)
    cells = [_cells(activity) for activity in sorted(found.activities, key=lambda one: one.start_ns)]
    show_table(HEADER, cells, NUMBERS)
    if output is not None:
        write_text(output, markdown_table(HEADER, cells, NUMBERS) + "\n")
    worst = max((a for a in found.activities), key=lambda a: abs(a.simulated_ns - a.plan_ns))
    show_lines(
        [
            ("plan", f"{found.plan_ns} ns"),
            ("simulated", f"{found.latency_ns} ns, {found.latency_ns / found.plan_ns:.3f} of the plan"),
            ("apart most", f"{worst.name}: plan {worst.plan_ns} ns, simulated {worst.simulated_ns} ns"),
        ],
        err=True,
    )
    _refuse(found.corruptions)


def _refuse(corruptions: Iterable[Corruption]) -> None:
    """:class:`InvalidScheduleError` where a buffer does not hold what is read from it."""
    listed = list(corruptions)
    for first in listed:
        raise InvalidScheduleError(
            f"{len(listed)} buffers do not hold what is read from them: first {first.buffer!r} in {first.memory} of "
            f"{first.kernel} at {first.time_ns} ns, overwritten by {first.by}"
        )


def _cells(one: Simulated) -> tuple[str, ...]:
    return (
        one.name,
        one.kind,
        microseconds(one.plan_start_ns),
        microseconds(one.start_ns),
        microseconds(one.plan_ns),
        microseconds(one.simulated_ns),
        f"{one.ratio:.2f}",
        one.stall,
    )
