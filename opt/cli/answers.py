"""The commands that look at a schedule: validate and report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InvalidScheduleError
from instances.schedule import Schedule
from opt import api
from opt.baselines import baseline_latencies
from opt.cli.app import app
from opt.cli.contrast import write_comparison
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.cli.formats import format_of, refuse_elsewhere, refuse_options
from opt.cli.intracore import NOT_OURS, OURS, TILES, report_answer, validate_answer
from opt.cli.packing import validate_packing
from opt.cli.replacement import report_plan, validate_plan
from opt.cli.solving import BaselineTraffic, Capacity, Format, InstancePath, Slack, SubProblem
from opt.cli.subgraphs import validate_steps
from opt.replay import Replay, replay
from opt.words import microseconds, percent, size

SchedulePath = Annotated[Path, typer.Argument(metavar="SCHEDULE", help="Schedule file.")]
AnswerPath = Annotated[
    Path, typer.Argument(metavar="SCHEDULE", help="Schedule file; of tile operations, the folder with the answer.")
]


@app.command()
def validate(
    context: typer.Context,
    path: InstancePath,
    schedule: AnswerPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    format_name: Format = None,
    capacity: Capacity = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME=VALUE", help="Open rule of a contest, such as inner=own; repeatable."),
    ] = None,
    problem: SubProblem = None,
    baseline_traffic: BaselineTraffic = None,
    slack: Slack = None,
) -> None:
    """Replay a schedule and list every rule it breaks; or check a table of offsets.

    \b
    Example:
      tilewright validate layer.json schedule.json
      tilewright validate task.json answers --problem 3 --rule reuse=literal
    """
    file_format = format_of(path, format_name)
    if file_format == "huaweicup":
        refuse_options(context, ("capacity",), f"has no meaning for {path}, {TILES}")
        validate_answer(
            path,
            schedule,
            problem,
            rule or [],
            baseline_traffic=baseline_traffic,
            slack=slack,
            as_json=as_json,
        )
        return
    refuse_elsewhere(context, OURS, f"{NOT_OURS}, and {path} is read as {file_format}", path)
    if file_format != "mlsys2026":
        refuse_options(context, ("rule",), f"is for the open rules of a contest, and {path} is read as {file_format}")
    if file_format == "mlsys2026":
        validate_steps(path, schedule, rule or [], as_json=as_json)
        return
    if file_format == "packing":
        validate_packing(path, schedule, capacity, as_json=as_json)
        return
    if file_format == "replacement":
        validate_plan(path, schedule, capacity, as_json=as_json)
        return
    instance = api.load_instance(path)
    claim = api.load_schedule(schedule)
    judged = replay(instance, claim)
    if as_json:
        typer.echo(json.dumps(_verdict(claim, judged)))
    elif judged.valid:
        show_lines(_facts(claim, judged), err=False)
    else:
        for violation in judged.violations:
            typer.echo(str(violation))
    _require_valid(schedule, judged)


def _require_valid(path: Path, judged: Replay) -> None:
    if judged.violations:
        count = len(judged.violations)
        rules = ", ".join(sorted({violation.rule for violation in judged.violations}))
        raise InvalidScheduleError(
            f"{path}: is invalid, {count} violation{'s' * (count > 1)} of {rules}; solve the instance anew"
        )


def _facts(schedule: Schedule, judged: Replay) -> list[tuple[str, str]]:
    proof = schedule.proof
    return [
        ("verdict", "valid: no rule is broken"),
        (
            "latency",
            f"{judged.latency_ns} ns ({microseconds(judged.latency_ns)} us) by replay, the integer the schedule states",
        ),
        ("bound", f"{proof.bound_ns} ns by {proof.bound_by}, gap {percent(schedule.gap)}, {proof.status.value}"),
        ("traffic", f"{judged.hbm_bytes} bytes over HBM, at most {judged.l2_peak_bytes} bytes in L2"),
        ("schedule", f"{len(schedule.kernels)} kernels, {len(schedule.moves)} moves, by {proof.solver}"),
    ]


def _verdict(schedule: Schedule, judged: Replay) -> dict[str, object]:
    proof = schedule.proof
    return {
        "valid": judged.valid,
        "status": proof.status.value,
        "objective": schedule.latency_ns,
        "replayed_ns": judged.latency_ns,
        "bound": proof.bound_ns,
        "bound_by": proof.bound_by,
        "bounds": proof.bounds_ns,
        "gap": schedule.gap,
        "solver": proof.solver,
        "covers": proof.covers,
        "kernels": len(schedule.kernels),
        "moves": len(schedule.moves),
        "hbm_bytes": judged.hbm_bytes,
        "l2_peak_bytes": judged.l2_peak_bytes,
        "violations": [asdict(violation) for violation in judged.violations],
    }


@app.command()
def report(
    context: typer.Context,
    path: InstancePath,
    schedule: AnswerPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML page to write.")],
    compare: Annotated[
        Path | None, typer.Option(help="A second schedule: the page is about what the two differ in, and its worth.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace to write, for Perfetto.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Timeline to write as SVG.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Compare with the schedules 'stack' and 'unfused'.")
    ] = True,
    problem: SubProblem = None,
) -> None:
    """Write a schedule as one self-contained HTML page.

    \b
    Example:
      tilewright report layer.json schedule.json -o report.html --trace trace.json
      tilewright report layer.json a.json --compare b.json -o compare.html
      tilewright report task.json answers --problem 3 -o report.html
    """
    file_format = format_of(path)
    if file_format == "huaweicup":
        refuse_options(context, ("compare", "trace", "picture", "baselines"), f"has no meaning for {path}, {TILES}")
        report_answer(path, schedule, problem, output)
        return
    refuse_elsewhere(context, ("problem",), f"{NOT_OURS}, and {path} is read as {file_format}", path)
    if compare is not None:
        if trace is not None or picture is not None:
            raise typer.BadParameter("--compare writes the page alone; ask for trace and picture without it")
        write_comparison(path, schedule, compare, output)
        return
    if file_format == "replacement":
        report_plan(path, schedule, output)
        return
    check_outputs([output, trace, picture], [path, schedule])
    instance = api.load_instance(path)
    answer = api.load_schedule(schedule)
    _require_valid(schedule, replay(instance, answer))
    api.report(instance, answer, output, baselines=baseline_latencies(instance) if baselines else None)
    if trace is not None:
        api.trace(instance, answer, trace)
    if picture is not None:
        from reports.figures import timeline_svg

        write_text(picture, timeline_svg(instance, answer))
    written = [file for file in (output, trace, picture) if file is not None]
    show_lines([("file", f"{file}, {size(file.stat().st_size)}") for file in written], err=True)
