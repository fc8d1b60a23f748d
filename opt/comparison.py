"""Solvers side by side on the same instances: latency, gap to the best proven bound, time, and a summary."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from statistics import fmean, geometric_mean

from pydantic import TypeAdapter, ValidationError

from instances.documents import first_problem
from instances.errors import InputError, NoScheduleError, TilewrightError
from instances.instance import Instance
from opt import api
from opt.words import csv_table, markdown_table, microseconds, percent
from solvers.interface import Result

BINDS = {
    "hbm_traffic": "the HBM channel",
    "cube_work": "the cube cores",
    "vector_work": "the vector cores",
    "l2_work": "the rate of L2",
    "critical_path": "one kernel after the other",
}
"""Bounds by one argument each, and what would bind by it if all else cost nothing."""


@dataclass(frozen=True)
class Run:
    """One solver on one instance: a result, or the error that stands in its place."""

    instance: str
    machine: str
    operators: int
    solver: str
    seed: int
    runtime_s: float
    result: Result | None = None
    error: TilewrightError | None = None


@dataclass(frozen=True)
class Row:
    """A run beside the others of its instance. Times in ns but for ``runtime_s``.

    ``answered_by`` differs from ``solver`` where a fallback stepped in. ``best_bound_ns`` is the highest bound that any
    solver proved for the instance, ``gap_to_best_bound`` the relative distance from it; ``binds`` names the resource or
    path whose bound alone is highest; ``peak_mib`` is the peak memory of the process until then, 0 where unknown.
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
    binds: str
    runtime_s: float
    seed: int
    workers: int
    status: str
    operators: int
    peak_mib: int

    @property
    def question(self) -> tuple[str, str]:
        """What rows of different solvers have in common."""
        return self.instance, self.machine


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
    gap: float = 0.0,
    workers: int = 0,
    seed: int = 0,
    on_run: Callable[[Run], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Run]:
    """Every solver on every instance, ``time_limit`` seconds each or to a relative ``gap``.

    Where told to stop, those until then.
    """
    runs: list[Run] = []
    for label, instance in instances.items():
        for solver in solvers:
            if should_stop() and runs:
                return runs
            started = time.monotonic()
            result, error = None, None
            try:
                result = api.solve(
                    instance, time_limit, solver, workers, seed, gap, started=started, should_stop=should_stop
                )
            except TilewrightError as reason:
                error = reason
            runtime = result.runtime_s if result is not None else time.monotonic() - started
            operators = len(instance.graph.operators)
            runs.append(Run(label, instance.machine.name, operators, solver, seed, runtime, result, error))
            if on_run:
                on_run(runs[-1])
    return runs


def tabulate(runs: Iterable[Run]) -> list[Row]:
    """Each run beside the best bound of its instance."""
    return beside([_row(run) for run in runs])


def beside(rows: Sequence[Row]) -> list[Row]:
    """The rows with the best bound of each instance, and the gaps to it, worked out anew."""
    best: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.bound_ns is not None:
            best[row.question] = max(row.bound_ns, best.get(row.question, 0))
    found = []
    for row in rows:
        bound = best.get(row.question)
        if row.objective_ns is None or bound is None:
            found.append(replace(row, best_bound_ns=bound))
            continue
        gap = (row.objective_ns - bound) / max(1, row.objective_ns)
        status = "optimal" if row.objective_ns == bound else row.status
        found.append(replace(row, best_bound_ns=bound, gap_to_best_bound=gap, status=status))
    return found


def _row(run: Run) -> Row:
    result = run.result
    single = {} if result is None else {argument: result.bounds_ns.get(argument, 0) for argument in BINDS}
    missing = "no schedule" if isinstance(run.error, NoScheduleError) else "failed"
    return Row(
        instance=run.instance,
        machine=run.machine,
        solver=run.solver,
        answered_by="" if result is None else result.solver,
        objective_ns=None if result is None else result.objective_ns,
        bound_ns=None if result is None else result.bound_ns,
        bound_by="" if result is None else result.bound_by,
        best_bound_ns=None,
        gap_to_best_bound=None,
        binds=max(single, key=lambda argument: single[argument], default=""),
        runtime_s=round(run.runtime_s, 3),
        seed=run.seed,
        workers=0 if result is None else result.workers,
        status=missing if result is None else result.status.value,
        operators=run.operators,
        peak_mib=_peak_mib(),
    )


def _peak_mib() -> int:
    """Peak resident memory of this process; 0 where the platform does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One line for each solver that answered anything, the least mean gap first."""
    best: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.objective_ns is not None:
            best[row.question] = min(row.objective_ns, best.get(row.question, row.objective_ns))
    found = []
    for solver in dict.fromkeys(row.solver for row in rows):
        answered = [row for row in rows if row.solver == solver and row.objective_ns is not None]
        if not answered:
            continue
        ratios = [max(1, row.objective_ns or 0) / max(1, best[row.question]) for row in answered]
        found.append(
            Summary(
                solver=solver,
                answered=len(answered),
                wins=sum(row.objective_ns == best[row.question] for row in answered),
                optimal=sum(row.status == "optimal" for row in answered),
                mean_gap=fmean(row.gap_to_best_bound or 0.0 for row in answered),
                over_best=geometric_mean(ratios) - 1,
                mean_runtime_s=fmean(row.runtime_s for row in answered),
            )
        )
    return sorted(found, key=lambda summary: summary.mean_gap)


def as_csv(rows: Iterable[Row]) -> str:
    """The rows with a header, all digits."""
    return csv_table([field.name for field in fields(Row)], map(astuple, rows))


ROW_NUMBERS = ("latency us", "bound us", "gap to best bound", "time s")
ROW_HEADER = ("instance", "chip", "solver", *ROW_NUMBERS, "proved by", "status")
SUMMARY_HEADER = ("solver", "answered", "wins", "optimal", "mean gap", "over the best", "mean time s")


def from_csv(text: str) -> list[Row]:
    """Rows as :func:`as_csv` writes them; :class:`InputError` where they are not."""
    try:
        return [_ROW.validate_python(_without_blanks(record)) for record in csv.DictReader(io.StringIO(text))]
    except ValidationError as error:
        reason = first_problem(error)
        raise InputError(
            f"the table is not one of results ({reason}); give one that this command has written"
        ) from None


_ROW = TypeAdapter(Row)


def _without_blanks(record: dict[str, str]) -> dict[str, str | None]:
    """Blank numbers are missing ones."""
    return {name: None if text == "" and name.endswith(("_ns", "_bound")) else text for name, text in record.items()}


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
