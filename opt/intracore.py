"""Tile operations inside one core (2025 Huawei Cup, problem A): read, solve, judge, write."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from instances.errors import InputError, InvalidScheduleError
from instances.intracore import TileAnswer, TileTask
from instances.intracore_files import (
    SCHEDULE,
    read_tile_answer,
    read_tile_task,
    write_tile_answer,
    write_tile_task,
)
from opt.replay.intracore import Rules, TileVerdict, judge_tiles

if TYPE_CHECKING:
    from solvers.intracore.solve import TileResult

__all__ = [
    "OBJECTIVES",
    "Rules",
    "SubProblem",
    "TileVerdict",
    "answer_folder",
    "check_limits",
    "find_answer",
    "judge_tiles",
    "judged",
    "literal_makespan",
    "read_tile_answer",
    "read_tile_task",
    "sample_task",
    "solve_tiles",
    "write_tile_answer",
    "write_tile_task",
]

SubProblem = Literal[1, 2, 3]

OBJECTIVES: dict[int, str] = {1: "residency", 2: "extra traffic", 3: "time"}
"""Sub-problem -> what is to be least: units, units, cycles."""

DEFAULT_LIMIT_S = 300.0
"""Seconds of a search where none are given."""


def solve_tiles(
    task: TileTask | str | Path,
    problem: SubProblem,
    *,
    time_limit: float = DEFAULT_LIMIT_S,
    seed: int = 0,
    workers: int = 0,
    single_l0: bool = False,
    baseline_traffic: int | None = None,
    slack: float = 0.05,
    start: TileAnswer | None = None,
    on_better: Callable[[int, str], None] = lambda objective, stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TileResult, TileVerdict]:
    """An answer to a sub-problem, with a bound; it has passed the judge.

    Parameters
    ----------
    task
        The task, or the path of its JSON or of one of its two tables.
    problem
        1: least residency (units); 2: least extra traffic (units); 3: least time (cycles).
    time_limit
        Seconds.
    seed, workers
        Of the search.
    single_l0
        Whether L0A, L0B and L0C hold one buffer at a time in sub-problems 2 and 3 too.
    baseline_traffic, slack
        In sub-problem 3 the extra traffic is at most ``baseline_traffic * (1 + slack)``; without a baseline it is what
        sub-problem 2, solved first in a share of the time, comes to.
    start
        An answer to begin with, of any sub-problem; it has to keep the task's order.
    on_better
        Called with each better objective and the stage that found it.
    should_stop
        Asked many times a second; where it says so, the best so far is the answer.

    Raises
    ------
    InputError
        Where the limit, the seed or the workers are no such thing.
    InfeasibleError
        Where the buffers of one operation do not fit their memory.
    InvalidScheduleError
        If the answer fails the judge, or comes to another integer than the solver says.
    """
    from solvers.intracore.solve import solve

    check_limits(time_limit, workers, seed)
    asked = task if isinstance(task, TileTask) else read_tile_task(task)
    result = solve(
        asked,
        problem,
        time_limit=time_limit,
        seed=seed,
        workers=workers,
        single_l0=single_l0,
        baseline_traffic=baseline_traffic,
        slack=slack,
        start=start,
        on_better=on_better,
        should_stop=should_stop,
    )
    rules = Rules(problem=problem, single_l0=single_l0, baseline_traffic=baseline_traffic, slack=slack)
    return result, judged(asked, result, rules)


def check_limits(time_limit: float, workers: int, seed: int) -> None:
    """That a search can be run like that; :class:`InputError` otherwise."""
    from solvers.interface import Options

    Options(time_limit_s=time_limit, workers=workers, seed=seed)


def judged(task: TileTask, result: TileResult, rules: Rules) -> TileVerdict:
    """The judge's verdict on a solver's answer; :class:`InvalidScheduleError` where the two disagree."""
    verdict = judge_tiles(task, result.answer, rules)
    if verdict.faults:
        raise InvalidScheduleError(f"the solver's answer breaks a rule: {verdict.faults[0]}")
    figures = [(OBJECTIVES[rules.problem], result.objective, verdict.objective(rules.problem))]
    if rules.problem != 1:
        figures += [("extra traffic", result.traffic, verdict.traffic), ("time", result.makespan, verdict.makespan)]
    for name, claimed, found in figures:
        if claimed != found:
            raise InvalidScheduleError(f"the solver says that the {name} is {claimed}, the judge {found}")
    if result.bound > result.objective:
        raise InvalidScheduleError(f"the solver's bound {result.bound} is above its answer {result.objective}")
    return verdict


def literal_makespan(task: TileTask, answer: TileAnswer, rules: Rules) -> int:
    """Time (cycles) by the statement's letter, in which FREE alone holds back ALLOC; see :class:`Rules`."""
    return judge_tiles(task, answer, replace(rules, reuse="literal")).makespan


def answer_folder(folder: str | Path, problem: int) -> Path:
    """Where an answer is written: ``Problem1`` to ``Problem3`` in the folder, or the folder if that is its name."""
    folder = Path(folder)
    return folder if folder.name == f"Problem{problem}" else folder / f"Problem{problem}"


def find_answer(folder: str | Path, name: str, problem: int | None) -> tuple[Path, SubProblem]:
    """The folder that holds the answer to a task, and its sub-problem where none is named.

    It is ``ProblemK`` in the folder, or the folder itself. :class:`InputError` where there is none, or several.
    """
    folder = Path(folder)
    file = f"{name}{SCHEDULE}"
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give the one that holds {file}, or Problem1 to Problem3 with it")
    inside = [number for number in (1, 2, 3) if (folder / f"Problem{number}" / file).exists()]
    itself = (folder / file).exists()
    if problem is None:
        if own := re.fullmatch("Problem([123])", folder.resolve().name):
            problem = int(own.group(1))
        elif len(inside) == 1 and not itself:
            problem = inside[0]
        elif inside or itself:
            raise InputError(f"{folder}: does not say which sub-problem {file} answers; give --problem 1, 2 or 3")
    asked = cast(SubProblem, problem)
    if asked in inside:
        return folder / f"Problem{asked}", asked
    if itself:
        return folder, asked
    others = f", only Problem{' and '.join(map(str, inside))}" if inside else ""
    place = "" if asked is None else f" Problem{asked}/{file} nor"
    raise InputError(f"{folder}: has neither{place} {file}{others}; solve the task first, or give its folder")


SAMPLES = {"matmul": ("m", "n", "k"), "flash-attention": ("query blocks", "key blocks")}
"""Sample tasks by name, with what is counted."""

MOST_BLOCKS = 100_000
"""Most blocks of a sample."""


def sample_task(text: str) -> TileTask:
    """A task of the contest's kind: ``matmul:m,n,k`` or ``flash-attention:q,k``, counted in blocks of one tile.

    :class:`InputError` where the text is no such thing.
    """
    from instances import intracore_samples

    name, _, given = text.partition(":")
    wanted = SAMPLES.get(name)
    if wanted is None:
        raise InputError(f"sample {name!r} is unknown; choose one of {', '.join(SAMPLES)}")
    numbers = given.split(",")
    shape = ",".join("4" for _ in wanted)
    if len(numbers) != len(wanted) or not all(re.fullmatch("[1-9][0-9]{0,4}", number.strip()) for number in numbers):
        raise InputError(f"sample {text!r}: give {', '.join(wanted)} as whole numbers from 1, such as {name}:{shape}")
    counts = [int(number) for number in numbers]
    blocks = 1
    for count in counts:
        blocks *= count
    if blocks > MOST_BLOCKS:
        raise InputError(f"sample {text!r} has {blocks} blocks; give at most {MOST_BLOCKS}")
    if name == "matmul":
        return intracore_samples.matmul(*counts)
    return intracore_samples.flash_attention(*counts)
