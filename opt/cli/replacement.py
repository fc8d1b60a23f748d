"""Tensor replacement: what the commands do with its problems, and the one that makes them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import read_json, write_text
from instances.errors import InputError, InvalidScheduleError
from instances.memory_time import Timing
from instances.networks import NETWORKS
from instances.replacement import MemoryMap, Plan, Problem
from opt import replacement
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.replay.replacement import map_faults, plan_faults
from opt.words import csv_table, markdown_table, percent, size
from reports.replacement import map_page

OBJECTIVES = ("traffic", "time")

FIGURES = ("compulsory", "extra", "bound", "gap", "less than belady", "time s")
HEADER = ("problem", "scratchpad", "solver", *FIGURES, "verdict")
NUMBERS = ("scratchpad", *FIGURES)


@app.command()
def network(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NETWORKS)}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Problem file to write.")],
    batch: Annotated[int, typer.Option(help="Items at a time.")] = 1,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="Bytes of the scratchpad; default the fewest that run every operator.")
    ] = None,
) -> None:
    """Make a tensor replacement problem of a network.

    \b
    Example:
      tilewright network resnet-50 --batch 8 -o resnet.json && tilewright solve resnet.json -o plan.json
    """
    check_outputs([output])
    problem = replacement.network(name, batch, capacity)
    replacement.save_document(problem, output)
    lines = [
        ("problem", f"{problem.name}, {len(problem.operators)} operators, {len(problem.tensors)} tensors"),
        ("scratchpad", f"{size(problem.capacity_bytes)}, at least {size(problem.least_bytes)}"),
        ("compulsory", size(problem.compulsory_bytes)),
        ("file", f"{output}, {size(output.stat().st_size)}"),
    ]
    show_lines(lines, err=True)


def solve_problem(
    path: Path,
    capacity: int | None,
    solver: str,
    objective: str,
    output: Path | None,
    *,
    time_limit: float,
    workers: int,
    seed: int,
    started: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan order, addresses and evictions for least extra traffic; or map tensors to memories for least time."""
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    check_outputs([output], [path])
    problem = replacement.load_problem(path, capacity)
    left = max(0.1, time_limit - (time.monotonic() - started))
    if objective == "time":
        found = replacement.solve_mapping(problem, solver, time_limit=left, workers=workers, seed=seed)
        _show_map(problem, found, output, time.monotonic() - started, as_json=as_json, quiet=quiet)
        return
    plan = replacement.solve_replacement(problem, solver, time_limit=left, workers=workers, seed=seed)
    runtime = time.monotonic() - started
    if output is not None:
        replacement.save_document(plan, output)
    if not quiet:
        show_lines(_summary(problem, plan, runtime, output), err=True)
    if as_json:
        answer = {
            "status": plan.verdict.value,
            "objective": plan.extra_bytes,
            "bound": plan.bound_bytes,
            "bound_by": plan.bound_by,
            "bounds": plan.bounds_bytes,
            "gap": plan.gap,
            "runtime_s": round(runtime, 3),
            "solver": plan.solver,
            "workers": workers,
            "seed": seed,
            "compulsory_bytes": problem.compulsory_bytes,
            "capacity_bytes": problem.capacity_bytes,
            "spilled": len(plan.spilled),
        }
        typer.echo(json.dumps(answer))


def _summary(problem: Problem, plan: Plan, runtime: float, output: Path | None) -> list[tuple[str, str]]:
    fetched = sum(stay.fetched for stay in plan.stays)
    written = "" if output is None else f", written to {output}"
    return [
        ("problem", f"{problem.name}, {len(problem.operators)} operators in {size(problem.capacity_bytes)}"),
        ("traffic", f"{size(problem.compulsory_bytes)} compulsory, {plan.extra_bytes} bytes beyond it"),
        ("bound", f"{plan.bound_bytes} bytes by {plan.bound_by}, gap {percent(plan.gap)}, {plan.verdict.value}"),
        ("covers", _covers(plan)),
        ("replayed", "valid, the same traffic"),
        ("plan", f"{len(plan.stays)} stays, {fetched} fetched, {len(plan.spilled)} tensors written back{written}"),
        ("time", f"{runtime:.2f} s"),
    ]


def _show_map(
    problem: Problem, found: MemoryMap, output: Path | None, runtime: float, *, as_json: bool, quiet: bool
) -> None:
    """What a memory map comes to; the file where one is asked for."""
    if output is not None:
        replacement.save_document(found, output)
    slow = Timing(problem).total_ns(())
    if not quiet:
        written = "" if output is None else f", written to {output}"
        lines = [
            ("problem", f"{problem.name}, {len(problem.operators)} operators, {size(problem.capacity_bytes)} fast"),
            ("time", f"{found.time_ns} ns; {slow} ns with nothing in fast memory"),
            ("bound", f"{found.bound_ns} ns by {found.bound_by}, gap {percent(found.gap)}, {found.verdict.value}"),
            ("covers", "the program's order, each tensor in one memory all its life, all addresses"),
            ("replayed", "valid, the same time"),
            ("map", f"{len(found.fast)} of {len(problem.tensors)} tensors in fast memory{written}"),
            ("took", f"{runtime:.2f} s"),
        ]
        show_lines(lines, err=True)
    if as_json:
        answer = {
            "status": found.verdict.value,
            "objective": found.time_ns,
            "bound": found.bound_ns,
            "bound_by": found.bound_by,
            "gap": found.gap,
            "runtime_s": round(runtime, 3),
            "solver": found.solver,
            "slow_ns": slow,
            "fast": {one.tensor: one.offset_bytes for one in found.fast},
        }
        typer.echo(json.dumps(answer))


def _covers(plan: Plan) -> str:
    orders = "the program's order" if plan.solver == "packing-only" else "all orders"
    return f"{orders}, all evictions and fetches of whole tensors, all addresses"


def validate_plan(path: Path, plan_path: Path, capacity: int | None, *, as_json: bool) -> None:
    """Replay a plan and list every rule that it breaks."""
    problem = replacement.load_problem(path, capacity)
    content = read_json(plan_path)
    if isinstance(content, dict) and "fast" in content:
        mapped = replacement.load_map(plan_path)
        wrong, told = map_faults(problem, mapped), {"time_ns": mapped.time_ns}
        line = ("time", f"{mapped.time_ns} ns, counted anew")
    else:
        plan = replacement.load_plan(plan_path)
        wrong, told = plan_faults(problem, plan), {"extra_bytes": plan.extra_bytes}
        line = ("traffic", f"{plan.extra_bytes} bytes beyond the compulsory, counted anew")
    if as_json:
        typer.echo(json.dumps({"valid": not wrong, **told, "violations": wrong}))
    elif wrong:
        for sentence in wrong:
            typer.echo(sentence)
    else:
        show_lines([("verdict", "valid"), line], err=False)
    if wrong:
        raise InvalidScheduleError(f"{plan_path}: is invalid, {len(wrong)} faults; solve the problem anew")


def report_plan(path: Path, plan_path: Path, output: Path) -> None:
    """The memory map as a page: address over steps, what was fetched and what was written back marked."""
    check_outputs([output], [path, plan_path])
    problem, plan = replacement.load_problem(path), replacement.load_plan(plan_path)
    if wrong := plan_faults(problem, plan):
        raise InvalidScheduleError(f"{plan_path}: is invalid: {wrong[0]}")
    write_text(output, map_page(problem, plan))


def compare_plans(
    paths: Sequence[Path],
    solvers: Sequence[str],
    capacity: int | None,
    output: Path | None,
    *,
    time_limit: float,
    workers: int,
    seed: int,
) -> None:
    """Put solvers side by side: extra traffic, bound, and what is saved against Belady."""
    check_outputs([output], paths)
    rows = []
    for path in paths:
        problem = replacement.load_problem(path, capacity)
        runs = [replacement.timed(problem, name, time_limit, workers, seed) for name in solvers]
        base = replacement.solve_replacement(problem, "belady").extra_bytes
        bound = max(plan.bound_bytes for plan, _ in runs if plan.solver != "packing-only" or len(runs) == 1)
        for name, (plan, seconds) in zip(solvers, runs, strict=True):
            gap = (plan.extra_bytes - bound) / plan.extra_bytes if plan.extra_bytes else 0.0
            saved = None if not base else 1 - plan.extra_bytes / base
            verdict = "optimal" if plan.extra_bytes == bound else plan.verdict.value
            cells = (problem.name, f"{problem.capacity_bytes}", name, f"{problem.compulsory_bytes}")
            figures = (f"{plan.extra_bytes}", f"{bound}", percent(gap), percent(saved), f"{seconds:.2f}", verdict)
            rows.append((*cells, *figures))
    show_table(HEADER, rows, NUMBERS)
    if output is not None:
        columns = [name.replace(" ", "_") for name in HEADER]
        as_markdown = output.suffix == ".md"
        write_text(output, markdown_table(HEADER, rows, NUMBERS) + "\n" if as_markdown else csv_table(columns, rows))
