"""The command that runs the benchmark and writes its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

from instances.documents import read_text, write_text
from instances.errors import InfeasibleError, InputError
from opt import intracore_benchmark, replacement_benchmark
from opt.benchmarks import (
    SETS,
    BestKnown,
    Case,
    cases,
    form,
    improve_best_known,
    read_best_known,
    write_best_known,
)
from opt.cli.app import app
from opt.cli.display import show_table
from opt.cli.files import check_outputs
from opt.cli.interrupts import run_until_told
from opt.cli.solving import Seed, Workers
from opt.comparison import (
    ROW_HEADER,
    ROW_NUMBERS,
    Row,
    as_csv,
    beside,
    from_csv,
    row_cells,
    run_all,
    tabulate,
)
from opt.intracore import SubProblem
from opt.results_page import results_page
from solvers.interface import Options, available_workers
from solvers.registry import DEFAULT_SOLVER, find_solver

HEURISTICS = frozenset({"unfused", "autofuse", "stack", "greedy", "dp"})
"""Solvers that need no more than :data:`HEURISTIC_S` seconds."""

HEURISTIC_S = 1.0

SOLVERS = f"{DEFAULT_SOLVER},dp,greedy,stack,autofuse,unfused"

REPLACEMENT, INTRACORE, PIPELINES = "replacement", "intracore", "pipelines"

OTHERS = (REPLACEMENT, INTRACORE, PIPELINES)
"""Benchmarks of problems that are no instances, and of single kernels."""

DEFAULT_LIMIT_S = 60.0

TITLES = {
    "layers": "Benchmark: one layer",
    "models": "Benchmark: whole models",
    "growth": "Benchmark: from 1 to 94 layers",
}


@app.command()
def benchmark(
    set_name: Annotated[
        str, typer.Argument(metavar="SET", help="One of layers, models, growth, replacement, intracore and pipelines.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV table of runs; those in it are not run again.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Of intracore: the folder that holds its tasks.")
    ] = None,
    solvers: Annotated[
        str, typer.Option(help="Names with commas between; the first is the one the page is about.")
    ] = SOLVERS,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds for each run of a solver that searches; default 60, of intracore 300.")
    ] = None,
    gap: Annotated[float, typer.Option(help="Relative gap at which a solver may stop.")] = 0.0,
    only: Annotated[str, typer.Option("--only", "--task", help="Instances whose name and chip hold this text.")] = "",
    page: Annotated[Path | None, typer.Option(help="Markdown page to write.")] = None,
    best_known: Annotated[Path | None, typer.Option(help="Table of best-known values to bring up to date.")] = None,
    workers: Workers = 0,
    seed: Seed = 0,
    seeds: Annotated[str | None, typer.Option(help="Of intracore: seeds with commas between; default 0,1,2.")] = None,
    problem: Annotated[
        str | None, typer.Option(help="Of intracore: sub-problems with commas between; default 1,2,3.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Of intracore: three made-up tasks, too.")] = False,
) -> None:
    """Run the benchmark instances, write the table of runs after each, and a page about them.

    \b
    Example:
      tilewright benchmark layers -o layers.csv --page layers.md --only "llama-3-8b decode"
      tilewright benchmark intracore tasks -o tiles.md --problem 2 --seeds 0,1,2
    """
    if set_name == INTRACORE:
        if folder is None:
            raise InputError("benchmark intracore needs the folder of its tasks; give it behind 'intracore'")
        if seed:
            raise InputError("benchmark intracore runs several seeds; give --seeds instead of --seed")
        asked_seeds = _numbers("--seeds", seeds or intracore_benchmark.SEEDS, 2**31 - 1)
        asked_problems = _numbers("--problem", problem or "1,2,3", 3, least=1)
        limit = intracore_benchmark.DEFAULT_LIMIT_S if time_limit is None else time_limit
        _tiles(folder, output, page, only, limit, workers, asked_seeds, asked_problems, samples)
        return
    for option, given in (("DIR", folder), ("--seeds", seeds), ("--problem", problem), ("--samples", samples)):
        if given:
            raise InputError(f"{option} is for benchmark intracore; leave it out of benchmark {set_name}")
    time_limit = DEFAULT_LIMIT_S if time_limit is None else time_limit
    if set_name == REPLACEMENT:
        _replacement(output, page, only, time_limit, workers or available_workers(), seed)
        return
    if set_name == PIPELINES:
        _pipelines(output, page, only)
        return
    if set_name not in SETS:
        raise InputError(f"benchmark {set_name!r} is unknown; choose one of {', '.join((*SETS, *OTHERS))}")
    names = list(dict.fromkeys(name.strip() for name in solvers.split(",") if name.strip()))
    for name in names:
        find_solver(name)
    rows = from_csv(read_text(output)) if output.exists() else []
    chosen = [case for case in cases(set_name) if only in f"{case.name} {case.machine}"]
    found: list[BestKnown] = []
    impossible: dict[str, str] = {}

    def run(told: Callable[[], bool]) -> None:
        for case in chosen:
            if told():
                return
            options = Options(time_limit_s=time_limit, workers=workers, seed=seed, gap=gap)
            try:
                fresh = _run(case, names, rows, options, told)
            except InfeasibleError as error:
                impossible[f"{case.name} on {case.machine}"] = str(error)
                continue
            if fresh is not None:
                found.append(_best(set_name, case, fresh, rows))
                rows[:] = beside(rows)
                write_text(output, as_csv(rows))

    run_until_told(run)
    show_table(ROW_HEADER, map(row_cells, rows), ROW_NUMBERS)
    if best_known is not None:
        write_best_known(improve_best_known(read_best_known(best_known), found), best_known)
    if page is not None:
        until = f" --gap {gap:g}" if gap else ""
        by = "" if solvers == SOLVERS else f" --solvers {solvers}"
        command = f"tilewright benchmark {set_name} --time-limit {time_limit:g}{until}{by} -o {output} --page {page}"
        asked = len(cases(set_name))
        text = results_page(rows, names[0], TITLES[set_name], command, time_limit, asked, impossible)
        write_text(page, text)


def _replacement(output: Path, page: Path | None, only: str, time_limit: float, workers: int, seed: int) -> None:
    """The benchmark of tensor replacement."""
    rows = run_until_told(lambda told: replacement_benchmark.run_all(output, only, time_limit, workers, seed, told))
    if page is not None:
        command = f"tilewright benchmark {REPLACEMENT} --time-limit {time_limit:g} -o {output} --page {page}"
        write_text(page, replacement_benchmark.page(rows, command, time_limit))
    proven = sum(row.optimal for row in rows)
    typer.echo(f"{proven} of {len(rows)} problems proven optimal", err=True)


def _pipelines(output: Path, page: Path | None, only: str) -> None:
    """The comparison of exact prices with the event simulation."""
    from opt import pipeline_benchmark as kernels

    rows = kernels.run_all(only, lambda row: typer.echo(f"{row.name} on {row.machine}: {row.ratio:.3f}", err=True))
    write_text(output, kernels.as_csv(rows))
    show_table(kernels.HEADER, map(kernels.cells, rows), kernels.NUMBERS)
    typer.echo(kernels.summary(kernels.named(rows)), err=True)
    if page is not None:
        command = f"tilewright benchmark {PIPELINES} -o {output} --page {page}"
        write_text(page, kernels.page(rows, command))


def _tiles(
    folder: Path,
    output: Path,
    page: Path | None,
    only: str,
    time_limit: float,
    workers: int,
    seeds: list[int],
    problems: list[int],
    samples: bool,
) -> None:
    """The benchmark of tile operations; an output that ends in ``.md`` is the page, and the runs are beside it."""
    if output.suffix == ".md":
        if page is not None:
            raise InputError(f"{output}: is a page, and --page names another; give the table of runs as FILE.csv")
        output, page = output.with_suffix(".csv"), output
    if not time_limit > 0:
        raise InputError(f"--time-limit {time_limit:g} is not above 0; give seconds")
    check_outputs([output, page])
    known = intracore_benchmark.read_best(folder)
    rows = run_until_told(
        lambda told: intracore_benchmark.run_all(
            folder,
            output,
            problems=cast(list[SubProblem], problems),
            seeds=seeds,
            only=only,
            samples=samples,
            time_limit=time_limit,
            workers=workers,
            stop=told,
            on_run=_tell,
            on_none=lambda sentence: typer.echo(sentence, err=True),
        )
    )
    if page is not None:
        parts = [f"tilewright benchmark {INTRACORE} {folder.name} --time-limit {time_limit:g}"]
        parts += [f"--seeds {','.join(map(str, seeds))}", *(["--samples"] if samples else []), f"-o {page.name}"]
        write_text(page, intracore_benchmark.page(rows, known, " ".join(parts)))
    optimal = sum(row.objective == row.bound for row in rows)
    typer.echo(f"{len(rows)} runs, {optimal} proven optimal", err=True)


def _tell(row: intracore_benchmark.TileRun) -> None:
    typer.echo(
        f"{row.task} {row.problem} seed {row.seed}: {row.objective}, bound {row.bound}, {row.seconds} s", err=True
    )


def _numbers(option: str, text: str, most: int, least: int = 0) -> list[int]:
    """Whole numbers with commas between, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 12 and least <= int(part) <= most for part in parts):
        raise InputError(f"{option} {text[:60]!r}: give whole numbers from {least} to {most} with commas between")
    return sorted({int(part) for part in parts})


def _run(
    case: Case,
    names: list[str],
    rows: list[Row],
    options: Options,
    told: Callable[[], bool],
) -> str | None:
    """Run what the table does not have yet, and add it; the instance's form if anything was run."""
    done = {(row.question, row.solver, row.seed) for row in rows}
    missing = [name for name in names if ((case.name, case.machine), name, options.seed) not in done]
    if not missing:
        return None
    instance = case.build()
    for name in missing:
        runs = run_all(
            {case.name: instance},
            [name],
            time_limit=HEURISTIC_S if name in HEURISTICS else options.time_limit_s,
            gap=options.gap,
            workers=options.workers,
            seed=options.seed,
            should_stop=told,
        )
        if told():  # cut short: not a result of this benchmark
            return None
        rows += tabulate(runs)
    return form(instance)


def _best(set_name: str, case: Case, form_of: str, rows: list[Row]) -> BestKnown:
    """The best of the rows of one case."""
    mine = [row for row in rows if row.question == (case.name, case.machine)]
    latency = min(row.objective_ns for row in mine if row.objective_ns is not None)
    strongest = max((row for row in mine if row.bound_ns is not None), key=lambda row: row.bound_ns or 0)
    bound = strongest.bound_ns or 0
    return BestKnown(set_name, case.name, case.machine, form_of, latency, bound, strongest.bound_by)
