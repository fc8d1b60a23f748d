"""The command that makes a plan for a compiler."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from instances.documents import made_folder, write_text
from instances.errors import InvalidScheduleError
from instances.instance import Instance, Pricing
from instances.plan import Plan
from instances.schedule import Schedule
from opt import api
from opt.cli.answers import SchedulePath
from opt.cli.app import app
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.cli.pipelining import Price, with_prices
from opt.plans import build_plan
from opt.plans.allocation import write_allocations
from opt.plans.cores import core_limits
from opt.plans.mlir import mlir_text
from opt.plans.pool import pool_table
from opt.plans.prefetch import prefetch_list
from opt.replay import replay
from opt.words import microseconds, percent, size


@app.command(name="plan")
def make_plan(
    path: Annotated[Path, typer.Argument(metavar="INSTANCE", help="Instance file.")],
    schedule: SchedulePath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Plan to write, as JSON.")],
    mlir: Annotated[Path | None, typer.Option(help="MLIR text to write, a function per kernel.")] = None,
    pool: Annotated[Path | None, typer.Option(help="Pool of made tensors in HBM to write, as JSON.")] = None,
    prefetch: Annotated[Path | None, typer.Option(help="Prefetches to write, as JSON.")] = None,
    cores: Annotated[Path | None, typer.Option(help="Core limits per kernel to write, as JSON.")] = None,
    allocation: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for tables of addresses, a CSV per memory.")
    ] = None,
    price: Price = Pricing.ESTIMATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Write what a compiler takes from a schedule: addresses, streams, events, moves and where to issue them.

    \b
    Example:
      tilewright plan layer.json schedule.json -o plan.json --prefetch prefetch.json --allocation addresses

    The schedule is replayed first: no plan is made of one that breaks a rule. With '--price exact' the schedule of an
    instance with estimated prices is timed anew with exact ones.
    """
    check_outputs([output, mlir, pool, prefetch, cores], [path, schedule])
    instance = api.load_instance(path)
    claim = api.load_schedule(schedule)
    replay(instance, claim).require_valid(str(schedule))
    if price is Pricing.EXACT and instance.price is Pricing.ESTIMATE:
        instance, claim = _timed_anew(instance, claim, schedule)
    made = build_plan(instance, claim)
    if allocation is not None:
        made_folder(allocation)
    api.save(made, output)
    written = [output]
    wanted: list[tuple[Path | None, Callable[[], dict[str, Any]]]] = [
        (pool, lambda: pool_table(made)),
        (prefetch, lambda: prefetch_list(made)),
        (cores, lambda: core_limits(made, instance.machine)),
    ]
    for file, content in wanted:
        if file is not None:
            write_text(file, json.dumps(content(), indent=1, ensure_ascii=False) + "\n")
            written.append(file)
    if mlir is not None:
        write_text(mlir, mlir_text(made))
        written.append(mlir)
    tables = [] if allocation is None else write_allocations(made, instance.machine, allocation)
    show_lines(_summary(made), err=True)
    show_lines([("file", f"{file}, {size(file.stat().st_size)}") for file in written], err=True)
    if allocation is not None:
        show_lines([("folder", f"{allocation}, {len(tables)} tables")], err=True)
    if as_json:
        typer.echo(json.dumps(_answer(made, [*written, *tables])))


def _timed_anew(instance: Instance, claim: Schedule, name: Path) -> tuple[Instance, Schedule]:
    """An instance with exact prices, and its schedule: the same kernels, tiles, moves and places at other times."""
    from opt.what_if import plan_on

    exact = with_prices(instance, Pricing.EXACT)
    timed = plan_on(exact, claim)
    if timed is None:
        raise InvalidScheduleError(
            f"{name}: does not fit with exact prices; make the instance with --price exact and solve that"
        )
    change = timed.latency_ns - claim.latency_ns
    show_lines([("latency", f"{claim.latency_ns} ns by estimates, {change:+d} ns with exact prices")], err=True)
    return exact, timed


def _summary(plan: Plan) -> list[tuple[str, str]]:
    verdict, pool = plan.verdict, plan.pool
    kinds = Counter(kernel.kind.value for kernel in plan.kernels)
    moves = Counter(move.kind.value for move in plan.moves)
    repeat = f", one of {plan.repeat} equal layers" if plan.repeat > 1 else ""
    return [
        ("plan", f"{plan.graph.name} on {plan.machine.name}{repeat}"),
        ("latency", f"{verdict.latency_ns} ns ({microseconds(verdict.latency_ns)} us), {verdict.status.value}"),
        ("bound", f"{verdict.bound_ns} ns by {verdict.bound_by}, gap {percent(verdict.gap)}"),
        ("kernels", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        ("moves", ", ".join(f"{count} {kind}" for kind, count in moves.items()) or "none"),
        ("order", f"{len(plan.streams)} streams, {len(plan.events)} events between them"),
        ("pool", f"{pool.total_bytes} bytes in HBM, {pool.load_bytes} live at one time"),
    ]


def _answer(plan: Plan, written: list[Path]) -> dict[str, Any]:
    """A plan in short, as other programs read it; times in ns, sizes in bytes."""
    return {
        "status": plan.verdict.status.value,
        "objective": plan.verdict.latency_ns,
        "bound": plan.verdict.bound_ns,
        "bound_by": plan.verdict.bound_by,
        "gap": plan.verdict.gap,
        "kernels": len(plan.kernels),
        "moves": len(plan.moves),
        "streams": len(plan.streams),
        "events": len(plan.events),
        "pool_bytes": plan.pool.total_bytes,
        "pool_load_bytes": plan.pool.load_bytes,
        "required_features": list(plan.required_features),
        "files": [str(file) for file in written],
    }
