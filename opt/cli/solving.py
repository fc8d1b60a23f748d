"""The command that searches."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from instances.instance import Instance
from opt import api
from opt.checkpoint import Checkpoint
from opt.cli.app import app
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.cli.formats import format_of, refuse_elsewhere, refuse_options
from opt.cli.interrupts import run_until_told
from opt.cli.intracore import NOT_OURS, ONE_SOLVER, OURS, TILES, solve_task
from opt.cli.packing import solve_packing
from opt.cli.progress import live_progress
from opt.cli.replacement import solve_problem
from opt.cli.subgraphs import solve_steps
from opt.replacement import DEFAULT as REPLACEMENT_DEFAULT
from opt.replay import Replay
from opt.words import microseconds, percent
from solvers.interface import Options, Result
from solvers.registry import DEFAULT_SOLVER, find_solver

InstancePath = Annotated[Path, typer.Argument(metavar="PATH", help="Instance file.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds from the start of the process to the answer.")]
Workers = Annotated[int, typer.Option(help="Threads of the search; 0 takes all CPUs.")]
Seed = Annotated[int, typer.Option(help="Seed of the search.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="native|packing|replacement|mlsys2026|huaweicup",
        help="Format of PATH; default by what it holds.",
    ),
]
Capacity = Annotated[
    int | None, typer.Option(min=1, help="Bytes to pack the buffers of a csv file into, or of a scratchpad.")
]
SubProblem = Annotated[
    int | None,
    typer.Option("--problem", metavar="1|2|3", min=1, max=3, help="Of tile operations: residency, traffic or time."),
]
BaselineTraffic = Annotated[
    int | None, typer.Option(min=0, help="Of tile operations, problem 3: extra traffic that the time may cost.")
]
Slack = Annotated[
    float | None, typer.Option(help="Share of extra traffic above the baseline that is allowed. [default: 0.05]")
]


@app.command()
def solve(
    context: typer.Context,
    path: InstancePath,
    solver: Annotated[str, typer.Option(help="Name; see 'tilewright solvers'.")] = DEFAULT_SOLVER,
    time_limit: TimeLimit = 60.0,
    workers: Workers = 0,
    seed: Seed = 0,
    gap: Annotated[float, typer.Option(help="Stop at this relative gap, such as 0.01.")] = 0.0,
    first_feasible: Annotated[bool, typer.Option("--first-feasible", help="Stop at the first schedule.")] = False,
    patience: Annotated[
        float | None, typer.Option(help="Stop when no better schedule was found for so many seconds.")
    ] = None,
    warm_start: Annotated[
        Path | None, typer.Option(help="Schedule file, or folder of an answer, to start from.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Schedule file that always holds the best so far, for --warm-start.")
    ] = None,
    memory_limit: Annotated[
        int | None, typer.Option(help="MiB that the process may hold; above, it stops with the best so far.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Schedule file to write; of tile operations, the folder.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace to write, for Perfetto.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no summary.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="The solver's log on stderr.")] = False,
    deterministic_limit: Annotated[
        float | None, typer.Option(help="Limit in CP-SAT's deterministic time; with --workers 1 runs repeat exactly.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Redundant constraint family to leave out; repeatable.")
    ] = None,
    format_name: Format = None,
    capacity: Capacity = None,
    objective: Annotated[
        str, typer.Option(metavar="traffic|time", help="Of a replacement problem: what is to be least.")
    ] = "traffic",
    problem: SubProblem = None,
    baseline_traffic: BaselineTraffic = None,
    slack: Slack = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME=VALUE", help="Of tile operations: single-l0=true, one buffer in each L0."),
    ] = None,
) -> None:
    """Find the fastest schedule, pack buffers, plan a scratchpad or order tile operations, with a proven bound.

    \b
    Example:
      tilewright solve layer.json --time-limit 60 -o schedule.json --trace trace.json
      tilewright solve task.json --format huaweicup --problem 3 -o answers

    Ctrl-C or SIGTERM ends the search and gives the best schedule so far; a second one ends all.
    """
    started = float(context.obj)
    file_format = format_of(path, format_name)
    if file_format == "huaweicup":
        refuse_options(context, ONE_SOLVER, f"has no meaning for {path}, {TILES}")
        solve_task(
            path,
            problem,
            output,
            rules=rule or [],
            baseline_traffic=baseline_traffic,
            slack=slack,
            time_limit=_given(context, time_limit),
            warm_start=warm_start,
            workers=workers,
            seed=seed,
            started=started,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
        return
    refuse_elsewhere(context, (*OURS, "rule"), f"{NOT_OURS}, and {path} is read as {file_format}", path)
    if file_format == "packing":
        solve_packing(
            path,
            capacity,
            output,
            time_limit=time_limit,
            workers=workers,
            seed=seed,
            started=started,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if file_format == "mlsys2026":
        solve_steps(
            path,
            output,
            time_limit=_given(context, time_limit),
            workers=workers,
            seed=seed,
            started=started,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if file_format == "replacement":
        solve_problem(
            path,
            capacity,
            REPLACEMENT_DEFAULT if solver == DEFAULT_SOLVER else solver,
            objective,
            output,
            time_limit=time_limit,
            workers=workers,
            seed=seed,
            started=started,
            as_json=as_json,
            quiet=quiet,
        )
        return
    find_solver(solver)
    check_outputs([output, trace, checkpoint], [path, None if checkpoint == warm_start else warm_start])
    instance = api.load_instance(path)
    warm = None if warm_start is None else api.load_schedule(warm_start)
    keeping = nullcontext() if checkpoint is None else Checkpoint(instance, checkpoint, warm)
    with live_progress(not (quiet or verbose), started) as listener, keeping as keep:
        options = Options(
            time_limit_s=time_limit,
            workers=workers,
            seed=seed,
            gap=gap,
            first_feasible=first_feasible,
            patience_s=patience,
            warm_start=warm,
            deterministic_limit=deterministic_limit,
            leave_out=frozenset(leave_out or ()),
            started=started,
            on_event=listener,
            on_schedule=keep,
            memory_limit_mib=memory_limit,
            log=_log if verbose else None,
        )
        result, judged = run_until_told(
            lambda told: api.solve_and_replay(instance, solver, replace(options, should_stop=told))
        )
    if output is not None:
        api.save(result.schedule, output)
    if trace is not None:
        api.trace(instance, result.schedule, trace)
    if not quiet:
        show_lines(summary(instance, result, judged, output), err=True)
    if as_json:
        typer.echo(json.dumps(answer(instance, result, judged)))


def _given(context: typer.Context, time_limit: float) -> float | None:
    """The time limit, where it was given."""
    source = context.get_parameter_source("time_limit")
    return None if source is not None and source.name == "DEFAULT" else time_limit


def _log(line: str) -> None:
    typer.echo(line.rstrip("\n"), err=True)


def summary(instance: Instance, result: Result, judged: Replay, output: Path | None) -> list[tuple[str, str]]:
    """A result in a few lines."""
    schedule = result.schedule
    proven = sorted(((name, value) for name, value in result.bounds_ns.items() if value > 0), key=_by_value)
    others = ", ".join(f"{name} {value}" for name, value in proven)
    written = "" if output is None else f", written to {output}"
    return [
        ("instance", instance.name),
        ("latency", f"{result.objective_ns} ns ({microseconds(result.objective_ns)} us) by {result.solver}"),
        ("bound", f"{result.bound_ns} ns by {result.bound_by}, gap {percent(result.gap)}, {result.status.value}"),
        ("bounds", others),
        ("covers", result.covers),
        ("replayed", f"{judged.latency_ns} ns, the same integer"),
        ("schedule", f"{len(schedule.kernels)} kernels, {len(schedule.moves)} moves{written}"),
        ("time", f"{result.runtime_s:.2f} s, {result.workers} workers, seed {result.seed}"),
    ]


def _by_value(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def answer(instance: Instance, result: Result, judged: Replay) -> dict[str, object]:
    """A result as other programs read it; times in ns but for ``runtime_s``."""
    return {
        "status": result.status.value,
        "objective": result.objective_ns,
        "bound": result.bound_ns,
        "bound_by": result.bound_by,
        "bounds": result.bounds_ns,
        "gap": result.gap,
        "runtime_s": round(result.runtime_s, 3),
        "solver": result.solver,
        "workers": result.workers,
        "seed": result.seed,
        "covers": result.covers,
        "kernels": len(result.schedule.kernels),
        "moves": len(result.schedule.moves),
        "replayed_ns": judged.latency_ns,
        "hbm_bytes": judged.hbm_bytes,
        "l2_peak_bytes": judged.l2_peak_bytes,
        "instance": instance.name,
    }
