"""The page of benchmark results, from the table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, geometric_mean

from opt.comparison import SUMMARY_HEADER, Row, summarise, summary_cells
from opt.words import markdown_table, microseconds, percent

BASELINES = ("stack", "greedy")
HARDLY = 0.02
"""Gain below which the page says what binds instead."""

BINDING = {
    "hbm_traffic": "the HBM channel",
    "cube_work": "the cube cores",
    "vector_work": "the vector cores",
    "l2_work": "the rate of L2",
    "critical_path": "one kernel after the other",
}


def results_page(rows: Sequence[Row], main: str, title: str, command: str, time_limit_s: float) -> str:
    """The page in Markdown; ``main`` is the solver whose answers count, ``command`` wrote the table."""
    answers = [row for row in rows if row.solver == main and row.gap_to_best_bound is not None]
    parts = [
        f"# {title}",
        f"`{command}` wrote this page and the table of runs beside it.",
        _verdict(answers, main, time_limit_s),
        _table(rows, answers),
        "## Solvers side by side",
        "Wins are instances on which nobody was faster; the gap is to the best bound proven by any; heuristics get "
        "a second each.",
        markdown_table(SUMMARY_HEADER, map(summary_cells, summarise(rows)), SUMMARY_HEADER[1:]),
        f"## Where `{main}` wins",
        _gains(rows, answers, main),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
        f"largest {percent(max(gaps))}."
    )


def _table(rows: Sequence[Row], answers: Sequence[Row]) -> str:
    numbers = ("operators", "latency us", "bound us", "gap", "time s", "peak MiB", "less than stack", "than greedy")
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
                *(percent(_gain(rows, row, baseline)) for baseline in BASELINES),
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


def _gains(rows: Sequence[Row], answers: Sequence[Row], main: str) -> str:
    """By phase and chip, and where hardly anything is won."""
    lines = []
    for machine in dict.fromkeys(row.machine for row in answers):
        for phase in ("decode 1", "decode 32", "prefill"):
            here = [row for row in answers if row.machine == machine and row.instance.endswith(f" {phase}")]
            won = {
                baseline: [1 - gain for row in here if (gain := _gain(rows, row, baseline)) is not None]
                for baseline in BASELINES
            }
            if all(won.values()):
                means = " and ".join(
                    f"{percent(1 - geometric_mean(ratios))} less than `{baseline}`" for baseline, ratios in won.items()
                )
                lines.append(f"- {machine.removeprefix('ascend')}, {phase}: {means} (geometric mean).")
    hardly = [
        f"{row.instance} on {row.machine.removeprefix('ascend')} ({percent(gain)}): {BINDING[row.binds]}"
        for row in answers
        if (gain := min((_gain(rows, row, b) or 0.0 for b in BASELINES), default=0.0)) < HARDLY
    ]
    if hardly:
        lines.append(
            f"\nHardly anything (less than {percent(HARDLY)} over the better baseline) is won here; after each, what "
            "binds if all else is free:\n"
        )
        lines += [f"- {line}." for line in hardly]
    return "\n".join(lines)
