"""Packing of buffers with known lifetimes: what ``solve`` and ``validate`` do with a csv file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from instances.documents import write_text
from instances.errors import InputError, InvalidScheduleError, NoScheduleError
from instances.packing import faults, greatest_load, height, read_buffers, write_buffers
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.packing import pack, pack_lowest
from opt.packing_methods import check_method, run_method
from opt.words import csv_table, percent


def solve_packing(
    path: Path,
    capacity: int | None,
    output: Path | None,
    *,
    time_limit: float,
    workers: int,
    seed: int,
    started: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find offsets within a capacity, or as low as can be; the answer is the same table with a column ``offset``."""
    check_outputs([output], [path])
    buffers = read_buffers(path)
    left = max(0.0, time_limit - (time.monotonic() - started))
    load, instant = greatest_load(buffers)
    if capacity is None:
        lowest = pack_lowest(buffers, time_limit=left, workers=workers, seed=seed)
        offsets, bound = lowest.offsets, lowest.bound
    else:
        offsets, bound = pack(buffers, capacity, time_limit=left, workers=workers, seed=seed), load
    reached = height(buffers, offsets)
    if output is not None:
        write_buffers(buffers, offsets, output)
    runtime = time.monotonic() - started
    if not quiet:
        written = "" if output is None else f", written to {output}"
        lines = [
            ("buffers", f"{len(buffers)}{written}"),
            ("height", f"{reached} bytes" + ("" if capacity is None else f" of {capacity}")),
            ("bound", f"{bound} bytes by {_by(bound, load)} ({load} bytes live at time {instant})"),
            ("checked", "no two overlap, all aligned, none beyond the capacity"),
            ("time", f"{runtime:.2f} s"),
        ]
        show_lines(lines, err=True)
    if as_json:
        answer = {
            "status": "optimal" if reached == bound else "feasible",
            "objective": reached,
            "bound": bound,
            "bound_by": _by(bound, load),
            "gap": (reached - bound) / reached,
            "runtime_s": runtime,
            "solver": "packing",
            "workers": workers,
            "seed": seed,
            "capacity": capacity,
            "offsets": {buffer.id: offset for buffer, offset in zip(buffers, offsets, strict=True)},
        }
        typer.echo(json.dumps(answer))


def _by(bound: int, load: int) -> str:
    """What proves a bound: what lives at one instant, or a search of all that is lower."""
    return "load" if bound == load else "search"


def compare_packings(
    paths: Sequence[Path],
    methods: Sequence[str],
    capacity: int | None,
    output: Path | None,
    *,
    time_limit: float,
    workers: int,
    seed: int,
) -> None:
    """Put methods of packing side by side: height over the greatest load, bound, time."""
    for name in methods:
        check_method(name)
    check_outputs([output], paths)
    rows = []
    for path in paths:
        buffers = read_buffers(path)
        load = greatest_load(buffers)[0]
        runs = [run_method(name, buffers, capacity, time_limit, workers, seed) for name in methods]
        best = max(run.bound for run in runs)
        for run in runs:
            if run.height is None:
                status = "no packing"
            elif capacity is not None:
                status = "fits" if run.height <= capacity else f"{run.height - capacity} too high"
            else:
                status = "optimal" if run.height == best else "feasible"
            over = None if run.height is None else run.height / load - 1
            rows.append((str(path), run.method, run.height, run.bound, over, round(run.runtime_s, 3), status))
    header = ("table", "method", "height", "bound", "over load", "time s", "status")
    show_table(
        header,
        [
            (path, method, "-" if height is None else f"{height}", f"{bound}", percent(over), f"{seconds:.2f}", status)
            for path, method, height, bound, over, seconds, status in rows
        ],
        right=header[2:6],
    )
    if output is not None:
        write_text(output, csv_table([name.replace(" ", "_") for name in header], rows))
    if all(row[2] is None for row in rows):
        raise NoScheduleError("no method found a packing; raise --time-limit or choose other --solvers")


def validate_packing(path: Path, solution: Path, capacity: int | None, *, as_json: bool) -> None:
    """Check a table with offsets against the problem, buffer by buffer."""
    asked = read_buffers(path)
    given = {buffer.id: buffer for buffer in read_buffers(solution)}
    if missing := [buffer.id for buffer in asked if buffer.id not in given or given[buffer.id].offset is None]:
        raise InputError(f"{solution}: gives no offset to buffer {missing[0]!r}; solve the problem anew")
    offsets = [given[buffer.id].offset or 0 for buffer in asked]
    wrong = faults(asked, offsets, capacity)
    wrong += [f"buffer {name!r} is not in the problem" for name in given if name not in {b.id for b in asked}]
    reached = height(asked, offsets)
    if as_json:
        typer.echo(json.dumps({"valid": not wrong, "height": reached, "violations": wrong}))
    elif wrong:
        for sentence in wrong:
            typer.echo(sentence)
    else:
        load, instant = greatest_load(asked)
        lines = [("verdict", "valid: no two overlap"), ("height", f"{reached} bytes; {load} live at time {instant}")]
        show_lines(lines, err=False)
    if wrong:
        raise InvalidScheduleError(f"{solution}: is invalid, {len(wrong)} faults; solve the problem anew")
