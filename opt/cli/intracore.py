"""Tile operations inside a core: what the commands do with the contest's files, and the one that makes a task."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from instances.documents import made_folder, write_text
from instances.errors import InputError, InvalidScheduleError
from instances.intracore import TileAnswer, TileTask
from instances.intracore_files import answer_files
from opt import intracore
from opt.cli.app import app
from opt.cli.display import require_no_faults, show_faults, show_lines
from opt.cli.files import check_outputs
from opt.cli.interrupts import run_until_told
from opt.intracore import Rules, SubProblem
from opt.replay.intracore import MOST_FAULTS
from opt.words import percent, size
from solvers.interface import available_workers

LEAST_S = 0.2
"""Seconds that a search gets at least, however long it took to get there."""

MOST_SLACK = 1e6
"""Largest ``--slack``; a share that lets everything pass."""

UNITS = {1: "units", 2: "units", 3: "cycles"}

RULES: dict[str, dict[str, str | bool]] = {
    "reuse": {"all": "all", "literal": "literal"},
    "single_l0": {"true": True, "false": False},
}
"""Open rule -> its readings as they are written."""

ONE_SOLVER = (
    *("solver", "gap", "first_feasible", "patience", "checkpoint", "memory_limit", "trace"),
    *("deterministic_limit", "leave_out", "capacity", "objective"),
)
"""Options of ``solve`` that mean nothing here."""

OURS = ("problem", "baseline_traffic", "slack")
"""Options that are for tasks of tile operations alone."""

TILES = "a task of tile operations"

NOT_OURS = "is for tasks of tile operations (--format huaweicup)"


@app.command()
def tiles(
    sample: Annotated[
        str,
        typer.Argument(
            metavar="SAMPLE", help="matmul:M,N,K or flash-attention:Q,K, counted in blocks, such as matmul:4,4,4."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Task to write, in the contest's JSON.")],
) -> None:
    """Make a task of tile operations inside one core, of a matrix product or of attention.

    \b
    Example:
      tilewright tiles matmul:4,4,4 -o task.json && tilewright solve task.json --problem 2 -o answer
    """
    check_outputs([output])
    task = intracore.sample_task(sample)
    intracore.write_tile_task(task, output)
    show_lines([("task", _census(task)), ("file", f"{output}, {size(output.stat().st_size)}")], err=True)


def _census(task: TileTask) -> str:
    return f"{task.name}, {task.count} nodes: {len(task.operations)} operations, {len(task.buffers)} buffers"


def rules_from(
    problem: SubProblem, given: list[str], baseline_traffic: int | None = None, slack: float | None = None
) -> Rules:
    """``reuse=literal``, ``single-l0=true``, and the traffic that sub-problem 3 may come to."""
    chosen: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        name = key.strip().replace("-", "_")
        if name not in RULES:
            raise InputError(f"--rule {text!r}: there is no such rule; choose reuse or single-l0")
        if value.strip().lower() not in RULES[name]:
            raise InputError(f"--rule {text!r}: {key} is {' or '.join(RULES[name])}")
        chosen[name] = RULES[name][value.strip().lower()]
    if problem != 3 and (baseline_traffic is not None or slack is not None):
        option = "--slack" if baseline_traffic is None else "--baseline-traffic"
        raise InputError(f"{option} is for --problem 3, where traffic is a limit; leave it out")
    if slack is not None:
        if not 0 <= slack <= MOST_SLACK or math.isnan(slack):
            raise InputError(f"--slack {slack} is no share from 0; give one such as 0.05")
        chosen["slack"] = slack
    return Rules(problem=problem, baseline_traffic=baseline_traffic, **chosen)


def solve_task(
    path: Path,
    problem: int | None,
    folder: Path | None,
    *,
    rules: list[str],
    baseline_traffic: int | None,
    slack: float | None,
    time_limit: float | None,
    warm_start: Path | None,
    workers: int,
    seed: int,
    started: float,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Solve a sub-problem and write the contest's files; the time counts from the start of the process."""
    if problem is None:
        raise InputError(f"{path}: is a task of tile operations; say what to solve: --problem 1, 2 or 3")
    asked = rules_from(cast(SubProblem, problem), rules, baseline_traffic, slack)
    if asked.reuse != "all":
        raise InputError("--rule reuse=literal is for validate: plans are made by reuse=all alone, which is safe")
    limit = intracore.DEFAULT_LIMIT_S if time_limit is None else time_limit
    if not limit > 0:
        raise InputError(f"--time-limit {limit:g} is not above 0; give seconds")
    intracore.check_limits(limit, workers, seed)
    task = intracore.read_tile_task(path)
    start = None if warm_start is None else _earlier(task, warm_start)
    target = None if folder is None else intracore.answer_folder(folder, problem)
    order_only = problem == 1
    if target is not None:
        check_outputs(answer_files(made_folder(target), task.name, order_only=order_only), [path])
    left = max(LEAST_S, limit - (time.monotonic() - started))
    shown = verbose or (not quiet and sys.stderr.isatty())
    result, verdict = run_until_told(
        lambda told: intracore.solve_tiles(
            task,
            asked.problem,
            time_limit=left,
            seed=seed,
            workers=workers,
            single_l0=asked.single_l0,
            baseline_traffic=baseline_traffic,
            slack=asked.slack,
            start=start,
            on_better=_progress(started) if shown else lambda objective, stage: None,
            should_stop=told,
        )
    )
    literal = None if order_only else intracore.literal_makespan(task, result.answer, asked)
    written = ""
    if target is not None:
        files = intracore.write_tile_answer(result.answer, target, task.name, order_only=order_only)
        written = f", written to {files[-1]}" + ("" if order_only else " and two more")
    status = "optimal" if result.optimal else "feasible"
    runtime = time.monotonic() - started
    if not quiet:
        name, unit = intracore.OBJECTIVES[problem], UNITS[problem]
        bounds = ", ".join(f"{by} {value}" for by, value in sorted(result.bounds.items(), key=lambda one: -one[1]))
        lines = [
            ("task", _census(task)),
            ("objective", f"{name} {result.objective} {unit} by {result.solver}{written}"),
            ("bound", f"{result.bound} {unit} by {result.bound_by}, gap {percent(result.gap)}, {status}"),
            ("bounds", bounds),
            ("covers", result.covers),
            ("judged", f"{verdict.objective(problem)} {unit}, the same integer; no rule is broken"),
        ]
        if not order_only:
            lines += [
                ("residency", f"{verdict.residency} units of L1 and UB at most, claimed to released"),
                ("traffic", f"{verdict.traffic} units beyond the task's own, in {len(result.answer.spills)} spills"),
                ("makespan", f"{verdict.makespan} cycles; {literal} by the statement's letter"),
            ]
        lines.append(("time", f"{runtime:.2f} s, seed {seed}"))
        show_lines(lines, err=True)
    if as_json:
        answer: dict[str, Any] = {
            "status": status,
            "objective": result.objective,
            "bound": result.bound,
            "bound_by": result.bound_by,
            "bounds": result.bounds,
            "gap": result.gap,
            "runtime_s": round(runtime, 3),
            "solver": result.solver,
            "workers": workers or available_workers(),
            "seed": seed,
            "covers": result.covers,
            "task": task.name,
            "problem": problem,
            "residency": verdict.residency,
            "traffic": None if order_only else verdict.traffic,
            "spills": len(result.answer.spills),
            "makespan": None if order_only else verdict.makespan,
            "makespan_literal": literal,
            "judged": verdict.objective(problem),
        }
        typer.echo(json.dumps(answer))


def _earlier(task: TileTask, folder: Path) -> TileAnswer:
    """A legal answer of any sub-problem, to begin with."""
    place, problem = intracore.find_answer(folder, task.name, None)
    answer = intracore.read_tile_answer(place, task.name, order_only=problem == 1)
    if faults := intracore.judge_tiles(task, answer, Rules(problem=problem)).faults:
        raise InputError(f"{place}: no answer to begin with: {faults[0]}; give a legal one")
    return answer


def _progress(started: float) -> Callable[[int, str], None]:
    def tell(objective: int, stage: str) -> None:
        typer.echo(f"{time.monotonic() - started:8.1f} s  {objective}  {stage}", err=True)

    return tell


def validate_answer(
    path: Path,
    folder: Path,
    problem: int | None,
    rules: list[str],
    *,
    baseline_traffic: int | None,
    slack: float | None,
    as_json: bool,
) -> None:
    """Replay the contest's files from the task alone, and name every rule that is broken."""
    task = intracore.read_tile_task(path)
    place, asked = intracore.find_answer(folder, task.name, problem)
    if slack is not None and asked == 3 and baseline_traffic is None:
        raise InputError("--slack is the share above --baseline-traffic; give that, too")
    chosen = rules_from(asked, rules, baseline_traffic, slack)
    answer = intracore.read_tile_answer(place, task.name, order_only=asked == 1)
    verdict = intracore.judge_tiles(task, answer, chosen)
    other = replace(chosen, reuse="literal" if chosen.reuse == "all" else "all")
    times = {chosen.reuse: verdict.makespan, other.reuse: intracore.judge_tiles(task, answer, other).makespan}
    safe, literal = times["all"], times["literal"]
    if as_json:
        timed = asked != 1 and verdict.valid
        found = {
            "valid": verdict.valid,
            "problem": asked,
            "objective": verdict.objective(asked) if verdict.valid else None,
            "residency": verdict.residency if verdict.valid else None,
            "traffic": verdict.traffic if timed else None,
            "spills": len(answer.spills),
            "makespan": safe if timed else None,
            "makespan_literal": literal if timed else None,
            "violations": list(verdict.faults),
        }
        typer.echo(json.dumps(found))
    elif verdict.valid:
        unit = UNITS[asked]
        lines = [
            ("verdict", f"valid: no rule of sub-problem {asked} is broken"),
            ("objective", f"{intracore.OBJECTIVES[asked]} {verdict.objective(asked)} {unit}"),
        ]
        if asked != 1:
            lines += [
                ("residency", f"{verdict.residency} units of L1 and UB at most, claimed to released"),
                ("traffic", f"{verdict.traffic} units beyond the task's own, in {len(answer.spills)} spills"),
                ("makespan", f"{safe} cycles; {literal} by the statement's letter"),
            ]
        show_lines(lines, err=False)
    else:
        show_faults(verdict.faults)
    require_no_faults(place, verdict.faults, "task", MOST_FAULTS)


def report_answer(path: Path, folder: Path, problem: int | None, output: Path) -> None:
    """An answer as a page: what runs when on each pipe, and what lies where in each memory."""
    from reports.intracore import tile_page

    task = intracore.read_tile_task(path)
    place, asked = intracore.find_answer(folder, task.name, problem)
    if asked == 1:
        raise InputError(f"{place}: an order alone has no times and no addresses to draw; report sub-problem 2 or 3")
    check_outputs([output], [path, *answer_files(place, task.name)])
    answer = intracore.read_tile_answer(place, task.name)
    verdict = intracore.judge_tiles(task, answer, Rules(problem=asked))
    if verdict.faults:
        raise InvalidScheduleError(f"{place}: is invalid: {verdict.faults[0]}")
    write_text(output, tile_page(task, answer, verdict.starts, verdict.traffic, verdict.makespan))
    show_lines([("file", f"{output}, {size(output.stat().st_size)}")], err=True)
