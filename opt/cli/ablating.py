"""The command that shows what each constraint family is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opt import api
from opt.cli.app import app
from opt.cli.display import show_table
from opt.cli.interrupts import ending_at_once
from opt.cli.solving import Seed, Workers
from opt.words import microseconds, percent


@app.command()
def ablate(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Instance file.")],
    families: Annotated[
        str, typer.Option(help="Constraint families with commas between, each left out in its turn; default all.")
    ] = "",
    time_limit: Annotated[float, typer.Option(help="Seconds for each run.")] = 30.0,
    gap: Annotated[float, typer.Option(help="Relative gap at which a run ends.")] = 0.0,
    workers: Workers = 0,
    seed: Seed = 0,
) -> None:
    """Show what each constraint family of the joint model is worth: CP-SAT's bound and time without it.

    \b
    Example:
      tilewright ablate layer.json --families addresses,energy --time-limit 20
    """
    instance = api.load_instance(path)
    named = [name.strip() for name in families.split(",") if name.strip()]
    with ending_at_once():
        runs = api.ablate(instance, named, time_limit=time_limit, workers=workers, seed=seed, gap=gap)
    numbers = ("latency us", "bound us", "gap", "time s")
    show_table(
        ("without", *numbers, "which"),
        [
            (
                run.family or "-",
                microseconds(run.objective_ns),
                microseconds(run.bound_ns),
                percent((run.objective_ns - run.bound_ns) / run.objective_ns),
                f"{run.runtime_s:.2f}",
                "all families" if not run.family else "decides: a relaxation" if run.decides else "redundant",
            )
            for run in runs
        ],
        right=numbers,
    )
