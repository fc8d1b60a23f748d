"""Tensor replacement: what the commands do with its problems, and the one that makes them."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import read_json, write_text
from instances.errors import InvalidScheduleError
from instances.networks import NETWORKS
from instances.replacement import Plan, Problem
from opt import replacement
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.replay.replacement import plan_faults
from opt.words import markdown_table, percent, size
from reports.replacement import map_page

FIGURES = ("compulsory", "extra", "bound", "gap", "less than belady", "time s")
HEADER = ("problem", "scratchpad", "solver", *FIGURES, "verdict")
NUMBERS = ("scratchpad", *FIGURES)


def is_replacement(path: Path, format_name: str | None) -> bool:
    """Whether a file is a replacement problem: by the format that is named, or by what it holds."""
    if format_name is not None or path.suffix != ".json" or not path.is_file():
        return format_name == "replacement"
    content = read_json(path)
    return isinstance(content, dict) and "capacity_bytes" in content


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
    output: Path | None,
    *,
    time_limit: float,
    workers: int,
    seed: int,
    started: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan order, addresses and evictions for least extra traffic."""
    check_outputs([output], [path])
    problem = replacement.load_problem(path, capacity)
    left = max(0.1, time_limit - (time.monotonic() - started))
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


def _covers(plan: Plan) -> str:
    orders = "the program's order" if plan.solver == "packing-only" else "all orders"
    return f"{orders}, all evictions and fetches of whole tensors, all addresses"


def validate_plan(path: Path, plan_path: Path, capacity: int | None, *, as_json: bool) -> None:
    """Replay a plan and list every rule that it breaks."""
    problem, plan = replacement.load_problem(path, capacity), replacement.load_plan(plan_path)
    wrong = plan_faults(problem, plan)
    if as_json:
        typer.echo(json.dumps({"valid": not wrong, "extra_bytes": plan.extra_bytes, "violations": wrong}))
    elif wrong:
        for sentence in wrong:
            typer.echo(sentence)
    else:
        lines = [("verdict", "valid"), ("traffic", f"{plan.extra_bytes} bytes beyond the compulsory, counted anew")]
        show_lines(lines, err=False)
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
        write_text(output, markdown_table(HEADER, rows, NUMBERS) + "\n" if output.suffix == ".md" else _as_csv(rows))


def _as_csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name.replace(" ", "_") for name in HEADER])
    writer.writerows(rows)
    return text.getvalue()
