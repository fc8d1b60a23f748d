"""The command that shows the modulo schedules behind exact prices."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InputError
from instances.instance import Instance, Pricing
from opt import api
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.cli.solving import Seed, Workers
from opt.exact_prices import pipeline_cache, repriced
from opt.words import markdown_table
from solvers.registry import DEFAULT_SOLVER, find_solver

Price = Annotated[
    Pricing,
    typer.Option(
        "--price",
        help="How kernels are priced: by their bottleneck engine, or by modulo schedules of their loops.",
    ),
]

MOST_LISTED = 5
"""Kernels whose price changed most, as commands that make instances list them."""


def with_prices(instance: Instance, price: Pricing) -> Instance:
    """The instance with prices as asked for; says on stderr what exact ones change."""
    if price is Pricing.ESTIMATE:
        return instance
    from opt.pipelines import by_change, price_line

    cache, started = pipeline_cache(), time.monotonic()
    known, solved = cache.found, cache.solved
    found = repriced(instance)
    lines = [("prices", price_line(found, cache.found - known, cache.solved - solved))]
    changed = [way for way in by_change(found.fastest) if way.loop is not None and way.ratio != 1][:MOST_LISTED]
    lines += [
        ("changed", f"x{way.ratio:.3f} {way.label}, {way.estimate.least_ns} to {way.exact.least_ns} ns")
        for way in changed
    ]
    show_lines([*lines, ("pricing", f"{time.monotonic() - started:.2f} s")], err=True)
    return found.instance


@app.command(name="pipeline")
def show_pipelines(
    path: Annotated[Path, typer.Argument(metavar="INSTANCE", help="Instance file, with estimated or exact prices.")],
    kernel: Annotated[
        str | None,
        typer.Option(help="Show the pipelines of kernels whose label holds this text, operation by operation."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Plan with estimated and with exact prices, and show what changes.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="With --plan: seconds for each of the two.")] = 10.0,
    solver: Annotated[str, typer.Option(help="With --plan: who plans.")] = DEFAULT_SOLVER,
    workers: Workers = 0,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Markdown file for the table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Show kernels as loops: their modulo schedules, and how exact prices differ from estimates.

    \b
    Example:
      tilewright pipeline layer.json --kernel softmax

    Of each kernel, the way to run it that takes least time by its estimate: initiation interval, what bounds it and how
    far above its proven bound it is. 'generate --price exact' puts these prices into an instance.
    """
    from opt.pipelines import HEADER, NUMBERS, as_data, by_change, chosen, kernel_cells

    if kernel is not None and plan:
        raise typer.BadParameter("--kernel shows one kernel and --plan the whole; give one of the two")
    find_solver(solver)
    check_outputs([output], [path])
    instance = api.load_instance(path)
    found = repriced(instance)
    if plan:
        _plans(found.instance, time_limit, solver, workers, seed, output, as_json)
        return
    ways = chosen(by_change(found.fastest), kernel or "")
    if not ways:
        raise InputError(f"{path}: no kernel's label holds {kernel!r}; see 'tilewright pipeline {path}'")
    if as_json:
        typer.echo(json.dumps({"instance": instance.name, "kernels": [as_data(way) for way in ways]}))
    elif kernel is not None:
        from opt.pipelines import OP_HEADER, OP_NUMBERS, op_cells, pipeline_lines

        for number, way in enumerate(ways):
            if number:
                typer.echo()
            show_lines(pipeline_lines(way), err=False)
            if cells := op_cells(way):
                typer.echo()
                show_table(OP_HEADER, cells, OP_NUMBERS)
    else:
        show_table(HEADER, map(kernel_cells, ways), NUMBERS)
    if output is not None:
        write_text(output, markdown_table(HEADER, map(kernel_cells, ways), NUMBERS) + "\n")


def _plans(
    exact: Instance,
    time_limit: float,
    solver: str,
    workers: int,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """What exact prices change in the plan."""
    from opt.pipelines import PLAN_HEADER, PLAN_NUMBERS, plan_change
    from solvers.pipelining.exact import estimated

    change = plan_change(estimated(exact), exact, time_limit, solver, workers, seed)
    if as_json:
        answer = {
            "instance": exact.name,
            "solver": solver,
            "estimate": {"objective": change.estimated.objective_ns, "bound": change.estimated.bound_ns},
            "exact": {"objective": change.exact.objective_ns, "bound": change.exact.bound_ns},
            "kept": None if change.kept is None else change.kept.latency_ns,
            "gone": change.gone,
            "fresh": change.fresh,
        }
        typer.echo(json.dumps(answer))
    else:
        show_table(PLAN_HEADER, change.cells(), PLAN_NUMBERS)
    show_lines([("change", change.sentence())], err=True)
    if output is not None:
        write_text(output, markdown_table(PLAN_HEADER, change.cells(), PLAN_NUMBERS) + "\n")
