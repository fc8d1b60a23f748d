"""Solvers side by side on the same instances: latency, gap to the best proven bound, time, and a summary."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, geometric_mean

from instances.errors import NoScheduleError, TilewrightError
from instances.instance import Instance
from opt import api
from opt.words import markdown_table, microseconds, percent
from solvers.interface import Result


@dataclass(frozen=True)
class Run:
    """One solver on one instance: a result, or the error that stands in its place."""

    instance: str
    machine: str
    solver: str
    seed: int
    runtime_s: float
    result: Result | None = None
    error: TilewrightError | None = None


@dataclass(frozen=True)
class Row:
    """A run beside the others of its instance. Times in ns but for ``runtime_s``.

    ``answered_by`` differs from ``solver`` where a fallback stepped in. ``best_bound_ns`` is the highest bound that any
    solver proved for the instance, ``gap_to_best_bound`` the relative distance from it.
    """

    instance: str
    machine: str
    solver: str
    answered_by: str
    objective_ns: int | None
    bound_ns: int | None
    bound_by: str
    best_bound_ns: int | None
    gap_to_best_bound: float | None
    runtime_s: float
    seed: int
    workers: int
    status: str


@dataclass(frozen=True)
class Summary:
    """A solver over all instances that it answered.

    ``wins`` counts the instances on which nobody was faster, ``optimal`` those on which it met the best bound.
    ``over_best`` is the geometric mean of its latency over the best one, less 1.
    """

    solver: str
    answered: int
    wins: int
    optimal: int
    mean_gap: float
    over_best: float
    mean_runtime_s: float


def run_all(
    instances: Mapping[str, Instance],
    solvers: Sequence[str],
    *,
    time_limit: float,
    workers: int = 0,
    seed: int = 0,
    on_run: Callable[[Run], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Run]:
    """Every solver on every instance, ``time_limit`` seconds each; where told to stop, those until then."""
    runs: list[Run] = []
    for label, instance in instances.items():
        for solver in solvers:
            if should_stop() and runs:
                return runs
            started = time.monotonic()
            result, error = None, None
            try:
                result = api.solve(
                    instance, time_limit, solver, workers, seed, started=started, should_stop=should_stop
                )
            except TilewrightError as reason:
                error = reason
            runtime = result.runtime_s if result is not None else time.monotonic() - started
            runs.append(Run(label, instance.machine.name, solver, seed, runtime, result, error))
            if on_run:
                on_run(runs[-1])
    return runs


def tabulate(runs: Iterable[Run]) -> list[Row]:
    """Each run beside the best bound of its instance."""
    runs = list(runs)
    best: dict[str, int] = {}
    for run in runs:
        if run.result is not None:
            best[run.instance] = max(run.result.bound_ns, best.get(run.instance, 0))
    return [_row(run, best.get(run.instance)) for run in runs]


def _row(run: Run, bound: int | None) -> Row:
    result = run.result
    seconds = round(run.runtime_s, 3)
    if result is None or bound is None:
        status = "no schedule" if isinstance(run.error, NoScheduleError) else "failed"
        return Row(run.instance, run.machine, run.solver, "", None, None, "", bound, None, seconds, run.seed, 0, status)
    gap = (result.objective_ns - bound) / max(1, result.objective_ns)
    status = "optimal" if result.objective_ns == bound else result.status.value
    return Row(
        instance=run.instance,
        machine=run.machine,
        solver=run.solver,
        answered_by=result.solver,
        objective_ns=result.objective_ns,
        bound_ns=result.bound_ns,
        bound_by=result.bound_by,
        best_bound_ns=bound,
        gap_to_best_bound=gap,
        runtime_s=seconds,
        seed=run.seed,
        workers=result.workers,
        status=status,
    )


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One line for each solver that answered anything, the least mean gap first."""
    best: dict[str, int] = {}
    for row in rows:
        if row.objective_ns is not None:
            best[row.instance] = min(row.objective_ns, best.get(row.instance, row.objective_ns))
    found = []
    for solver in dict.fromkeys(row.solver for row in rows):
        answered = [row for row in rows if row.solver == solver and row.objective_ns is not None]
        if not answered:
            continue
        ratios = [max(1, row.objective_ns or 0) / max(1, best[row.instance]) for row in answered]
        found.append(
            Summary(
                solver=solver,
                answered=len(answered),
                wins=sum(row.objective_ns == best[row.instance] for row in answered),
                optimal=sum(row.status == "optimal" for row in answered),
                mean_gap=fmean(row.gap_to_best_bound or 0.0 for row in answered),
                over_best=geometric_mean(ratios) - 1,
                mean_runtime_s=fmean(row.runtime_s for row in answered),
            )
        )
    return sorted(found, key=lambda summary: summary.mean_gap)


def as_csv(rows: Iterable[Row]) -> str:
    """The rows with a header, all digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


ROW_NUMBERS = ("latency us", "bound us", "gap to best bound", "time s")
ROW_HEADER = ("instance", "chip", "solver", *ROW_NUMBERS, "proved by", "status")
SUMMARY_HEADER = ("solver", "answered", "wins", "optimal", "mean gap", "over the best", "mean time s")


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows and their summary as two tables."""
    parts = [markdown_table(ROW_HEADER, map(row_cells, rows), ROW_NUMBERS)]
    parts.append(markdown_table(SUMMARY_HEADER, map(summary_cells, summarise(rows)), SUMMARY_HEADER[1:]))
    return "\n\n".join(parts) + "\n"


def row_cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, under :data:`ROW_HEADER`."""
    return (
        row.instance,
        row.machine,
        row.solver,
        microseconds(row.objective_ns),
        microseconds(row.bound_ns),
        percent(row.gap_to_best_bound),
        f"{row.runtime_s:.2f}",
        row.bound_by,
        row.status,
    )


def summary_cells(summary: Summary) -> tuple[str, ...]:
    """A summary as people read it, under :data:`SUMMARY_HEADER`."""
    return (
        summary.solver,
        f"{summary.answered}",
        f"{summary.wins}",
        f"{summary.optimal}",
        percent(summary.mean_gap),
        percent(summary.over_best),
        f"{summary.mean_runtime_s:.2f}",
    )
