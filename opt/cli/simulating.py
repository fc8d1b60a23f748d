"""The command that runs a plan tile by tile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InputError, InvalidScheduleError
from opt import api
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.simulation import Simulated, simulate
from opt.words import markdown_table, microseconds

HEADER = ("activity", "kind", "plan starts", "starts", "plan us", "simulated us", "ratio", "stalls most")
NUMBERS = ("plan starts", "starts", "plan us", "simulated us", "ratio")


@app.command(name="simulate")
def simulate_plan(
    path: Annotated[Path, typer.Argument(metavar="INSTANCE", help="Instance file.")],
    schedule_path: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="Schedule file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Markdown file for the table.")] = None,
) -> None:
    """Run a schedule tile by tile on in-order pipes with shared bandwidth, beside what the plan says.

    \b
    Example:
      tilewright simulate layer.json schedule.json

    A second opinion on the cost model: kernels are written out as loads, products, vector work and stores with their
    buffers, and what overlaps comes out of that. Exit code 4 where a buffer's address is used again too early.
    """
    check_outputs([output], [path, schedule_path])
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
    if found.corruptions:
        first = found.corruptions[0]
        raise InvalidScheduleError(
            f"{len(found.corruptions)} buffers do not hold what is read from them: first {first.buffer!r} in "
            f"{first.memory} of {first.kernel} at {first.time_ns} ns, overwritten by {first.by}"
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
