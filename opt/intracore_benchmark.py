"""The benchmark of tile operations: the tasks of a folder, all sub-problems, several seeds; every answer is judged."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

from instances.documents import read_json, read_table, write_text
from instances.errors import InfeasibleError, InputError
from instances.intracore import TileAnswer, TileTask
from instances.intracore_files import EDGES, NODES, is_tile_task
from opt.intracore import OBJECTIVES, SubProblem, read_tile_task, sample_task, solve_tiles
from opt.words import csv_table, markdown_table, percent

SAMPLES = ("flash-attention:8,8", "flash-attention:22,22", "matmul:16,16,16")
"""Made-up tasks of the sizes that a contest's folder may lack."""

BEST = "best_known.csv"
"""Table beside the tasks: values that others have published or reached."""

BEST_COLUMNS = ("task", "problem", "published", "best")

DEFAULT_LIMIT_S = 300.0

SEEDS = "0,1,2"

PROBLEMS: tuple[SubProblem, ...] = (1, 2, 3)


@dataclass(frozen=True)
class TileRun:
    """One answer: units and cycles; ``limit`` and ``seconds`` in s.

    ``baseline`` is the extra traffic that sub-problem 3 was given: that of sub-problem 2 with the same seed.
    """

    task: str
    nodes: int
    problem: int
    seed: int
    limit: float
    objective: int
    traffic: int
    bound: int
    bound_by: str
    baseline: int
    seconds: float

    @property
    def key(self) -> tuple[str, int, int]:
        """What was asked."""
        return self.task, self.problem, self.seed


@dataclass(frozen=True)
class Known:
    """What others reached on a task and sub-problem; ``None`` where nothing is said."""

    published: int | None
    best: int | None


NOTHING = Known(None, None)


def find_tasks(folder: str | Path) -> list[Path]:
    """The files of the tasks in a folder, by name: JSON, or the table of nodes of a pair where there is no JSON.

    :class:`InputError` where there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give the one that holds the tasks")
    found = {path.stem: path for path in sorted(folder.glob("*.json")) if is_tile_task(read_json(path))}
    for path in sorted(folder.glob(f"*{NODES}")):
        stem = path.name.removesuffix(NODES)
        if path.with_name(stem + EDGES).exists():
            found.setdefault(stem, path)
    if not found:
        raise InputError(f"{folder}: holds no task of tile operations, neither NAME.json nor NAME{NODES} and {EDGES}")
    return [found[name] for name in sorted(found)]


def read_best(folder: str | Path) -> dict[tuple[str, int], Known]:
    """The table :data:`BEST` of a folder; empty where there is none."""
    path = Path(folder) / BEST
    found: dict[tuple[str, int], Known] = {}
    if not path.exists():
        return found
    for line, row in read_table(path, BEST_COLUMNS, "value").rows:
        values = []
        for column in BEST_COLUMNS[1:]:
            text = row.get(column, "").strip()
            if (text or column == "problem") and not (text.isdecimal() and len(text) <= 18):
                raise InputError(
                    f"{path}: line {line}: {column} {text[:40]!r} is no whole number; mend or leave it out"
                )
            values.append(int(text) if text else None)
        problem, published, best = values
        if problem not in PROBLEMS:
            raise InputError(f"{path}: line {line}: problem {problem} is none of 1, 2, 3; mend it")
        found[row["task"].strip(), problem] = Known(published, best)
    return found


def questions(folder: str | Path, only: str, samples: bool) -> Iterator[TileTask]:
    """The tasks of a folder whose name holds a text, then the samples."""
    for path in find_tasks(folder):
        if only in path.name.removesuffix(NODES).removesuffix(".json"):
            yield read_tile_task(path)
    for sample in SAMPLES if samples else ():
        if only in re.sub("[-:,]", "_", sample):  # as the task is called
            yield sample_task(sample)


def run(
    task: TileTask,
    problem: SubProblem,
    seed: int,
    baseline: int | None,
    time_limit: float,
    workers: int,
    stop: Callable[[], bool],
    start: TileAnswer | None = None,
) -> tuple[TileRun, TileAnswer]:
    """One answer, judged; :class:`instances.errors.InvalidScheduleError` where the judge disagrees."""
    begun = time.monotonic()
    result, verdict = solve_tiles(
        task,
        problem,
        time_limit=time_limit,
        seed=seed,
        workers=workers,
        baseline_traffic=baseline,
        start=start,
        should_stop=stop,
    )
    seconds = round(time.monotonic() - begun, 1)
    objective, traffic = verdict.objective(problem), verdict.traffic if problem != 1 else 0
    row = TileRun(
        task.name,
        task.count,
        problem,
        seed,
        time_limit,
        objective,
        traffic,
        result.bound,
        result.bound_by,
        -1 if baseline is None else baseline,
        seconds,
    )
    return row, result.answer


def run_all(
    folder: Path,
    table: Path,
    *,
    problems: Sequence[SubProblem] = PROBLEMS,
    seeds: Sequence[int] = (0, 1, 2),
    only: str = "",
    samples: bool = False,
    time_limit: float = DEFAULT_LIMIT_S,
    workers: int = 0,
    stop: Callable[[], bool] = lambda: False,
    on_run: Callable[[TileRun], None] = lambda one: None,
    on_none: Callable[[str], None] = lambda sentence: None,
) -> list[TileRun]:
    """Run what a table does not have yet, writing it after each run; all that it has in the end.

    Sub-problem 3 needs the traffic of sub-problem 2 with the same seed, which is run for it where it is not there;
    it begins with that answer, if it was found in the same go.
    """
    rows = read_runs(table)
    wanted = {*problems, 2} if 3 in problems else set(problems)
    answers: dict[tuple[str, int], TileAnswer] = {}
    for task in questions(folder, only, samples):
        for seed in seeds:
            for problem in (problem for problem in PROBLEMS if problem in wanted):
                done = {row.key: row for row in rows}
                if (task.name, problem, seed) in done:
                    continue
                if stop():
                    return rows
                before = done.get((task.name, 2, seed))
                if problem == 3 and before is None:
                    continue
                baseline = before.objective if problem == 3 and before else None
                try:
                    start = answers.get((task.name, seed)) if problem == 3 else None
                    fresh, answer = run(task, problem, seed, baseline, time_limit, workers, stop, start)
                except InfeasibleError as error:
                    on_none(f"{task.name} {problem} has no answer: {error}")
                    continue
                if stop():  # cut short: not a result of this benchmark
                    return rows
                if problem == 2:
                    answers[task.name, seed] = answer
                rows.append(fresh)
                write_text(table, as_csv(rows))
                on_run(fresh)
    return rows


def read_runs(path: Path) -> list[TileRun]:
    """The runs of a table; none where there is no file."""
    if not path.exists():
        return []
    types = {"task": str, "bound_by": str, "limit": float, "seconds": float}
    names = [field.name for field in fields(TileRun)]
    found = []
    for line, cells in read_table(path, names, "run").rows:
        try:
            found.append(TileRun(**{name: types.get(name, int)(cells[name]) for name in names}))
        except (KeyError, ValueError):
            raise InputError(f"{path}: line {line} is no run of this benchmark; mend or remove it") from None
    return found


def as_csv(rows: Sequence[TileRun]) -> str:
    """The table of runs."""
    return csv_table([field.name for field in fields(TileRun)], map(astuple, rows))


def page(rows: Sequence[TileRun], known: dict[tuple[str, int], Known], command: str) -> str:
    """The page in Markdown: a table for each sub-problem, a row for each task."""
    limits = sorted({row.limit for row in rows})
    seeds = sorted({row.seed for row in rows})
    parts = [
        "# Benchmark: tile operations",
        f"`{command}` writes this page and the table of runs beside it: "
        f"{' or '.join(f'{limit:g}' for limit in limits) or 'no'} s a run, "
        f"seeds {', '.join(map(str, seeds)) or 'none'}. "
        "Every answer has passed the judge, and every figure is the judge's. Bounds are proven; the gap is that of "
        "the median.",
    ]
    for problem in PROBLEMS:
        mine = [row for row in rows if row.problem == problem]
        if mine:
            parts += [f"## Sub-problem {problem}: least {OBJECTIVES[problem]}", _note(problem), _table(mine, known)]
    return "\n\n".join(parts) + "\n"


def _note(problem: int) -> str:
    return {
        1: "Largest sum of the live buffers in L1 and UB (units); one buffer at a time in each L0.",
        2: "Extra traffic (units); L0 by its capacity.",
        3: "Time (cycles) at extra traffic of at most 1.05 times that of sub-problem 2 with the same seed; what "
        "releases cells holds back whatever claims them later. Begins with that answer.",
    }[problem]


def _table(rows: Sequence[TileRun], known: dict[tuple[str, int], Known]) -> str:
    problem = rows[0].problem
    timed = problem == 3
    names = list(dict.fromkeys(row.task for row in rows))
    others = [known.get((name, problem), NOTHING) for name in names]
    compared = any(one != NOTHING for one in others)
    header = [
        "task",
        "nodes",
        "seeds",
        "median",
        "least",
        *(["at traffic"] if timed else []),
        "bound",
        "gap",
        "seconds",
    ]
    header += ["published", "best known", "median against it"] if compared else []
    table = []
    for name, other in zip(names, others, strict=True):
        mine = sorted((row for row in rows if row.task == name), key=lambda row: row.objective)
        middle, best = (
            mine[(len(mine) - 1) // 2],
            mine[0],
        )  # an answer that there is, where the seeds are even in number
        bound = max(row.bound for row in mine)
        cells = [name, _count(middle.nodes), str(len(mine)), _count(middle.objective), _count(best.objective)]
        cells += [_count(middle.traffic)] if timed else []
        gap = (middle.objective - bound) / middle.objective if middle.objective else 0.0
        cells += [_count(bound), percent(gap), f"{median(row.seconds for row in mine):.1f}"]
        if compared:
            cells += [_count(other.published), _count(other.best), _against(middle.objective, other.best)]
        by = max(mine, key=lambda row: row.bound).bound_by
        table.append([*cells, by])
    return markdown_table([*header, "proved by"], table, header[1:])


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _against(value: int, other: int | None) -> str:
    """Signed distance from a value that others reached, relative to that."""
    if not other:
        return "-" if other is None or value else "the same"
    return "the same" if value == other else f"{100 * (value - other) / other:+.2f} %"
