"""The command that says why a schedule is as it is."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from opt import api
from opt.cli.answers import SchedulePath
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.interrupts import run_until_told
from opt.cli.solving import Seed, Workers
from opt.explaining import explain_name
from opt.replay import replay
from opt.what_if import QUESTIONS, Answer, Kept, ask, keep_plan
from opt.words import microseconds
from reports.reasons import Reason, Reasons

MOST_KEPT = 3
"""Changes of the machine that the summary names."""

MARGIN = " " * 11
"""Below the topics, which stand in ten columns."""


@app.command()
def explain(
    path: Annotated[Path, typer.Argument(metavar="INSTANCE", help="Instance file.")],
    schedule: SchedulePath,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="KERNEL|TENSOR",
            help="A kernel by number, label or one of its operators, or a tensor; a clear part of the name will do.",
        ),
    ] = None,
    chain: Annotated[bool, typer.Option("--chain", help="Every step of the chain that makes the latency.")] = False,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Plan anew with a little more of the chip, and say what that would save.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="With --what-if: seconds for all questions together.")] = 60.0,
    workers: Workers = 0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Say why a schedule is as it is: what binds it, why kernels are not fused, why tensors move.

    \b
    Example:
      tilewright explain layer.json schedule.json
      tilewright explain layer.json schedule.json o_proj
      tilewright explain layer.json schedule.json --what-if --time-limit 60

    Without a name: what binds the whole, the chain that makes the latency, the longest kernels, and what a little more
    of the chip would give this very plan. With --what-if the layer is planned anew on each changed chip; the new
    latency lies between the bound and what was found, and what is saved in an interval that may hold 0.
    """
    instance, claim = api.load_instance(path), api.load_schedule(schedule)
    replay(instance, claim).require_valid(str(schedule))
    reasons = Reasons(instance, claim)
    kept: list[Kept] = []
    answers: list[Answer] = []
    if name is not None:
        found = explain_name(reasons, name)
    elif chain:
        found = list(reasons.steps())
    else:
        found = list(reasons.summary())
        kept = keep_plan(instance, claim)
    if not as_json:
        _show(found)
        if kept:
            _show_kept(kept)
    if what_if:
        answers = run_until_told(
            lambda told: ask(
                instance,
                claim,
                time_limit,
                workers=workers,
                seed=seed,
                should_stop=told,
                on_answer=None if as_json else _progress,
                started=time.monotonic(),
            )
        )
        unasked = [question.words for question in QUESTIONS[len(answers) :]]
        if unasked:
            typer.echo(f"no time was left for: {', '.join(unasked)}; give more --time-limit", err=True)
    if as_json:
        typer.echo(json.dumps(_as_json(instance.name, found, kept, answers)))
    elif answers:
        _show_answers(answers)


def _show(found: Sequence[Reason]) -> None:
    """Sentences below what they speak of."""
    for number, (subject, group) in enumerate(groupby(found, key=_title)):
        if number:
            typer.echo()
        typer.echo(subject)
        show_lines([(reason.topic, _wrapped(reason.words)) for reason in group], err=False)


def _wrapped(words: str) -> str:
    """A sentence beside its topic: broken to the width of a terminal, and left whole for a file."""
    if not sys.stdout.isatty():
        return words
    width = max(40, shutil.get_terminal_size().columns - len(MARGIN))
    return f"\n{MARGIN}".join(textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False))


def _title(reason: Reason) -> str:
    """What a group of sentences is headed by; steps and kernels of a summary stand together."""
    return {"step": "steps of the chain", "kernel": "longest kernels"}.get(reason.topic, reason.subject)


def _show_kept(kept: Sequence[Kept]) -> None:
    typer.echo()
    typer.echo("a little more of the chip")
    useful = [one for one in kept if one.saves_ns > 0][:MOST_KEPT]
    lines = [("plan kept", _wrapped(one.words)) for one in useful]
    rest = [one.question.words for one in kept if one.saves_ns <= 0]
    if rest:
        lines.append(("plan kept", f"Nothing for this very plan: {', '.join(rest)}."))
    lines.append(("", "A new plan may save more; --what-if asks for one."))
    show_lines(lines, err=False)


def _progress(answer: Answer) -> None:
    typer.echo(answer.words, err=True)


def _show_answers(answers: Sequence[Answer]) -> None:
    first = answers[0]
    typer.echo()
    typer.echo(
        f"planned anew; the machine as it is takes {microseconds(first.base_bound_ns)} to "
        f"{microseconds(first.base_latency_ns)} us"
    )
    columns = ("with", "bound us", "latency us", "saves at least us", "saves at most us", "bound by")
    ordered = sorted(answers, key=lambda answer: (-answer.least_ns, -answer.most_ns))
    show_table(
        columns,
        [
            (
                answer.question.words,
                microseconds(answer.bound_ns),
                microseconds(answer.latency_ns),
                microseconds(answer.least_ns),
                microseconds(answer.most_ns),
                answer.bound_by,
            )
            for answer in ordered
        ],
        right=columns[1:5],
    )


def _as_json(name: str, found: Sequence[Reason], kept: Sequence[Kept], answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "instance": name,
        "reasons": [
            {"topic": one.topic, "subject": one.subject, "words": one.words, "facts": one.facts} for one in found
        ],
        "plan_kept": [
            {"with": one.question.words, "latency_ns": one.latency_ns, "saves_ns": one.saves_ns} for one in kept
        ],
        "what_if": [
            {
                "with": one.question.words,
                "latency_ns": one.latency_ns,
                "bound_ns": one.bound_ns,
                "bound_by": one.bound_by,
                "base_latency_ns": one.base_latency_ns,
                "base_bound_ns": one.base_bound_ns,
                "saves_least_ns": one.least_ns,
                "saves_most_ns": one.most_ns,
                "warm": one.warm,
            }
            for one in answers
        ],
    }
