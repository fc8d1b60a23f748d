"""The page of benchmark results, from the table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean
from types import MappingProxyType

from opt.benchmarks import PHASES, kind
from opt.comparison import BINDS, SUMMARY_HEADER, Row, summarise, summary_cells
from opt.words import markdown_table, microseconds, percent

BASELINES = ("stack", "greedy")
HARDLY = 0.02
"""Gain below which the page says what binds instead."""


def results_page(
    rows: Sequence[Row],
    main: str,
    title: str,
    command: str,
    time_limit_s: float,
    asked: int,
    impossible: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page in Markdown.

    ``main`` is the solver whose answers count; ``command`` writes the table, which has ``asked`` instances when it is
    complete; ``impossible`` says of some of these why they have no answer. Comparisons are left out where nobody else
    was run.
    """
    answers = [row for row in rows if row.solver == main and row.gap_to_best_bound is not None]
    done = len({row.question for row in rows})
    left = "" if done + len(impossible) >= asked else f" {done} of its {asked} instances have been run so far."
    parts = [
        f"# {title}",
        f"`{command}` writes this page and the table of runs beside it.{left}",
        _verdict(answers, main, time_limit_s),
        _table(rows, answers),
        *(f"{name} has no answer: {reason}." for name, reason in impossible.items()),
    ]
    if any(row.solver != main for row in rows):
        parts += [
            "## Solvers side by side",
            "Wins are instances on which nobody was faster; the gap is to the best bound proven by any; heuristics get "
            "a second each.",
            markdown_table(SUMMARY_HEADER, map(summary_cells, summarise(rows)), SUMMARY_HEADER[1:]),
        ]
    if gains := _gains(rows, answers):
        parts += [f"## Where `{main}` wins", gains]
    return "\n\n".join(parts) + "\n"


def _verdict(answers: Sequence[Row], main: str, time_limit_s: float) -> str:
    if not answers:
        return "No answers yet."
    gaps = [row.gap_to_best_bound or 0.0 for row in answers]
    optimal = [row for row in answers if row.status == "optimal"]
    quick = sum(row.runtime_s < 10 for row in optimal)
    setting = sorted({(row.workers, row.seed) for row in answers})
    settings = ", ".join(f"{workers} workers, seed {seed}" for workers, seed in setting)
    return (
        f"`{main}`, {time_limit_s:.0f} s each, {settings}: of {len(answers)} instances "
        f"{sum(gap <= 0.01 for gap in gaps)} within 1 % of the proven bound, {sum(gap <= 0.03 for gap in gaps)} within "
        f"3 %, {len(optimal)} optimal, {quick} of these in less than 10 s. Mean gap {percent(fmean(gaps))}, "
        f"largest {percent(max(gaps))}. Longest run {max(row.runtime_s for row in answers):.1f} s."
    )


def _table(rows: Sequence[Row], answers: Sequence[Row]) -> str:
    compared = [baseline for baseline in BASELINES if any(row.solver == baseline for row in rows)]
    numbers = (
        "operators",
        "latency us",
        "bound us",
        "gap",
        "time s",
        "peak MiB",
        *(f"less than {b}" for b in compared),
    )
    return markdown_table(
        ("instance", "chip", *numbers, "proved by"),
        [
            (
                row.instance,
                row.machine.removeprefix("ascend"),
                f"{row.operators}",
                microseconds(row.objective_ns),
                microseconds(row.best_bound_ns),
                percent(row.gap_to_best_bound),
                f"{row.runtime_s:.1f}",
                f"{row.peak_mib or '-'}",
                *(percent(_gain(rows, row, baseline)) for baseline in compared),
                row.bound_by,
            )
            for row in answers
        ],
        numbers,
    )


def _gain(rows: Sequence[Row], answer: Row, baseline: str) -> float | None:
    """Share of the baseline's latency that the answer saves."""
    other = next((row for row in rows if row.question == answer.question and row.solver == baseline), None)
    if other is None or not other.objective_ns or answer.objective_ns is None:
        return None
    return 1 - answer.objective_ns / other.objective_ns


def _gains(rows: Sequence[Row], answers: Sequence[Row]) -> str:
    """By phase and chip, and where hardly anything is won; empty where there is nothing to compare with."""
    lines = []
    for machine in dict.fromkeys(row.machine for row in answers):
        for phase, batch in PHASES:
            here = [
                row for row in answers if row.machine == machine and row.instance.endswith(f" {kind(phase, batch)}")
            ]
            won = {
                baseline: [1 - gain for row in here if (gain := _gain(rows, row, baseline)) is not None]
                for baseline in BASELINES
            }
            if all(won.values()):
                means = " and ".join(
                    f"{percent(1 - geometric_mean(ratios))} less than `{baseline}`" for baseline, ratios in won.items()
                )
                lines.append(f"- {machine.removeprefix('ascend')}, {kind(phase, batch)}: {means} (geometric mean).")
    hardly = []
    for row in answers:
        gains = [gain for baseline in BASELINES if (gain := _gain(rows, row, baseline)) is not None]
        if gains and min(gains) < HARDLY:
            chip = row.machine.removeprefix("ascend")
            hardly.append(f"- {row.instance} on {chip} ({percent(min(gains))}): {BINDS[row.binds]}.")
    if hardly:
        lines.append(
            f"\nHardly anything (less than {percent(HARDLY)} over the better baseline) is won here; after each, what "
            "binds if all else is free:\n"
        )
    return "\n".join([*lines, *hardly])
