"""The benchmark of tensor replacement: networks, batches, and scratchpads from the least to one that is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from instances.documents import read_table, write_text
from instances.networks import NETWORKS, load_network
from instances.replacement import Problem
from opt.replacement import DEFAULT, solve_replacement, timed
from opt.words import csv_table, markdown_table, percent, size

BATCHES = (1, 8)
SIZES = 5
"""Scratchpads of each network and batch, evenly apart, both ends among them; fewer where the ends are close."""

BASELINES = ("belady", "lru", "greedy", "order-first", "packing-only")
RANDOM, SMALL, MEDIUM = "randwire", 60, 150
PAPER = "84 %"


@dataclass(frozen=True)
class Run:
    """One problem: bytes but for ``seconds``; ``roomy`` is Belady's traffic where addresses do not matter."""

    network: str
    batch: int
    operators: int
    capacity: int
    compulsory: int
    extra: int
    bound: int
    bound_by: str
    seconds: float
    belady: int
    lru: int
    greedy: int
    order_first: int
    packing_only: int
    roomy: int

    @property
    def optimal(self) -> bool:
        """Whether bound and traffic are the same integer."""
        return self.extra == self.bound

    @property
    def gap(self) -> float:
        """Relative distance of traffic and bound."""
        return (self.extra - self.bound) / self.extra if self.extra else 0.0


def problems(only: str) -> Iterator[tuple[str, int, Problem]]:
    """Every problem of the benchmark whose network's name holds a text."""
    for name in NETWORKS:
        for batch in BATCHES if only in name else ():
            least = load_network(name, batch)
            for capacity in capacities(least):
                yield name, batch, least.within(capacity)


def capacities(problem: Problem) -> list[int]:
    """From the least scratchpad that runs every operator to the least that needs no extra traffic (bytes)."""
    from formulations.replacement.facts import Facts
    from formulations.replacement.orders import least_peak
    from solvers.replacement import run_policy

    low, unit = problem.least_bytes, problem.unit_bytes
    if not run_policy(Facts(problem.within(low)), "belady").extra_bytes:
        return [low]
    found = least_peak(Facts(problem))
    high = 2 * low if found is None else max(low, found[0])
    steps = (low + (high - low) * k // (SIZES - 1) for k in range(SIZES))
    return sorted({-(-step // unit) * unit for step in steps})


def run(name: str, batch: int, problem: Problem, time_limit: float, workers: int, seed: int) -> Run:
    """The exact search, and all baselines."""
    from formulations.replacement.facts import Facts
    from solvers.replacement.policies import roomy_traffic

    plan, seconds = timed(problem, DEFAULT, time_limit, workers, seed)
    others = {
        baseline.replace("-", "_"): solve_replacement(
            problem, baseline, time_limit=10.0, workers=workers, seed=seed
        ).extra_bytes
        for baseline in BASELINES
    }
    return Run(
        network=name,
        batch=batch,
        operators=len(problem.operators),
        capacity=problem.capacity_bytes,
        compulsory=problem.compulsory_bytes,
        extra=plan.extra_bytes,
        bound=plan.bound_bytes,
        bound_by=plan.bound_by,
        seconds=round(seconds, 2),
        roomy=roomy_traffic(Facts(problem)),
        **others,
    )


def run_all(path: Path, only: str, time_limit: float, workers: int, seed: int, stop: Callable[[], bool]) -> list[Run]:
    """Run what a table does not have yet, writing it after each; all that it has in the end."""
    rows = read_runs(path)
    done = {(row.network, row.batch, row.capacity) for row in rows}
    for name, batch, problem in problems(only):
        if stop():
            break
        if (name, batch, problem.capacity_bytes) not in done:
            rows.append(run(name, batch, problem, time_limit, workers, seed))
            write_text(path, as_csv(rows))
    return rows


def read_runs(path: Path) -> list[Run]:
    """The runs of a table; none where there is no file."""
    if not path.exists():
        return []
    types = {"network": str, "bound_by": str, "seconds": float}
    names = [field.name for field in fields(Run)]
    rows = read_table(path, names, "run").rows
    return [Run(**{name: types.get(name, int)(cells[name]) for name in names}) for _, cells in rows]


def as_csv(rows: Sequence[Run]) -> str:
    """The table of runs."""
    return csv_table([field.name for field in fields(Run)], map(astuple, rows))


FIGURES = ("batch", "operators", "scratchpad", "compulsory", "extra", "bound", "gap", "time s", "Belady", "roomy")
HEADER = ("network", *FIGURES)


def page(rows: Sequence[Run], command: str, time_limit: float) -> str:
    """The page in Markdown."""
    plain = [row for row in rows if RANDOM not in row.network]
    small = [row for row in plain if row.operators <= SMALL]
    medium = [row for row in plain if SMALL < row.operators <= MEDIUM]
    large = [row for row in rows if row.operators > MEDIUM]
    wired = [row for row in rows if RANDOM in row.network and row.operators <= SMALL]
    lines = [
        f"- {what}: {sum(row.optimal for row in part)} of {len(part)} proven optimal, longest {_longest(part)}, "
        f"largest gap {percent(max(row.gap for row in part))}"
        for what, part in (
            (f"up to {SMALL} operators, random-wired ones aside", small),
            (f"{SMALL + 1} to {MEDIUM} operators", medium),
            (f"more than {MEDIUM} operators", large),
            ("random-wired stages of 34 operators", wired),
        )
        if part
    ]
    saved = [
        f"- {what}: {percent(_reduction(rows, name))}"
        for what, name in (
            ("program order, best fit, furthest next use (Belady)", "belady"),
            ("the same, addresses left out (no plan, a floor for the one above)", "roomy"),
            ("program order, best fit, least recently used", "lru"),
            ("greedy order by memory, Belady", "greedy"),
            ("order of least peak first, then Belady", "order_first"),
            ("program order, evictions and addresses exact", "packing_only"),
        )
    ]
    table = [
        (
            row.network,
            f"{row.batch}",
            f"{row.operators}",
            size(row.capacity),
            size(row.compulsory),
            size(row.extra),
            size(row.bound),
            percent(row.gap),
            f"{row.seconds:.1f}",
            size(row.belady),
            size(row.roomy),
        )
        for row in rows
    ]
    parts = [
        "# Benchmark: tensor replacement",
        f"`{command}` writes this page and the table of runs beside it: up to {time_limit:g} s each; scratchpads from "
        "the least that runs every operator to the least that needs no extra traffic, in even steps.",
        "\n".join(lines),
        "## Extra traffic saved",
        "Mean over the problems in which the baseline has any, of the share of its traffic beyond the compulsory that "
        f"the plan saves. The paper (COSMA, arXiv 2311.18246) reports a mean of {PAPER} against earlier methods, with "
        "its own list of networks and scratchpads; here weights take room while their operator runs, and every figure "
        "is replayed.",
        "\n".join(saved),
        "## All problems",
        "Extra and bound are traffic beyond the compulsory.",
        markdown_table(HEADER, table, FIGURES),
    ]
    return "\n\n".join(parts) + "\n"


def _longest(rows: Sequence[Run]) -> str:
    proven = [row.seconds for row in rows if row.optimal]
    return f"{max(proven):.1f} s" if proven else "-"


def _reduction(rows: Sequence[Run], name: str) -> float | None:
    """Mean share of a baseline's extra traffic that is saved."""
    shares = [1 - row.extra / getattr(row, name) for row in rows if getattr(row, name)]
    return fmean(shares) if shares else None
