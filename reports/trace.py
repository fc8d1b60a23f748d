"""A schedule as a Chrome trace, which Perfetto (ui.perfetto.dev) and MindStudio Insight open.

Format: "Trace Event Format" of the Chromium project, JSON object form; ``ts`` and ``dur`` in us. Kernels and moves
are complete events (``X``), names metadata (``M``), levels counters (``C``).

The chip is one process, with a track for all cube cores, all vector cores, the HBM channel and the link; the cores are
a second, with a track for each; the pipes of one core group per kernel are a third: what each pipe has to do, from the
start of the kernel's body on and without its waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instances.documents import write_text
from instances.instance import Instance
from instances.kernels import KernelKind
from instances.lifetimes import hbm_lives
from instances.machine import MemoryName
from instances.pipes import Core, HardwarePipe, pipe_of
from instances.schedule import Schedule
from reports.facts import (
    Facts,
    KernelFacts,
    channel_intervals,
    engine_label,
    gather,
    in_core_steps,
    l2_steps,
    move_bytes,
    pack_lanes,
    steps,
)

PROCESS, CORES, PIPES = 1, 2, 3
"""The chip is one process, whose engines are threads; its cores are a second, the pipes of one core group a third."""

FIRST_CORE, FIRST_PIPE = 10_000, 20_000
"""Number of the first track of cores, and of pipes; the others count up from there."""

FIRST_THREAD = {"AIC": 100, "AIV": 200, "HBM channel": 300, "link": 400}
"""Number of the first lane of each engine; further lanes count up from there."""


IN_CORE = (MemoryName.L1, MemoryName.L0A, MemoryName.L0B, MemoryName.L0C, MemoryName.UB)
"""Memories of a core whose use is counted."""


@dataclass(frozen=True)
class _Slice:
    name: str
    category: str
    start_ns: int
    end_ns: int
    args: dict[str, Any]


def chrome_trace(instance: Instance, schedule: Schedule) -> dict[str, Any]:
    """The trace of a schedule, ready for JSON.

    A kernel on cube and vector cores is on both tracks. Kernels that overlap in time on one engine are on lanes of
    their own, so that events with the same ``tid`` never overlap.

    Raises
    ------
    InputError
        Where the schedule names an operator or a tensor that the instance does not have.
    """
    facts = gather(instance, schedule)
    events = [_named("process_name", 0, instance.machine.title)]
    for order, (engine, slices) in enumerate(_engines(facts).items()):
        lanes = pack_lanes(slices, lambda piece: (piece.start_ns, piece.end_ns)) or [[]]
        for index, lane in enumerate(lanes):
            thread = FIRST_THREAD[engine] + index
            events.append(_named("thread_name", thread, engine if index == 0 else f"{engine}, lane {index + 1}"))
            events.append(_metadata("thread_sort_index", thread, {"sort_index": 100 * order + index}))
            events += [_complete(thread, piece) for piece in lane]
    events += _tracks(CORES, "cores", FIRST_CORE, _cores(facts))
    events += _tracks(PIPES, "pipes of one core group per kernel", FIRST_PIPE, _pipes(facts))
    events += _counter("L2 in use", "bytes", l2_steps(facts.blocks))
    for memory in IN_CORE:
        if levels := in_core_steps(facts, memory):
            events += _counter(f"{memory.value.upper()} in use on a core", "bytes", levels)
    lives = hbm_lives(instance.graph, schedule)
    pool = steps((life.start_ns, life.end_ns, life.size_bytes) for life in lives)
    events += _counter("made tensors in HBM", "bytes", pool)
    events += _counter("HBM channel busy", "busy", steps((start, end, 1) for start, end in channel_intervals(facts)))
    proof = schedule.proof
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "instance": instance.name,
            "machine": instance.machine.name,
            "latency_ns": schedule.latency_ns,
            "bound_ns": proof.bound_ns,
            "bound_by": proof.bound_by,
            "status": proof.status.value,
            "solver": proof.solver,
        },
    }


def write_trace(instance: Instance, schedule: Schedule, path: str | Path) -> None:
    """Write :func:`chrome_trace` as JSON, whole or not at all; :class:`InputError` where it cannot be written."""
    write_text(path, json.dumps(chrome_trace(instance, schedule), separators=(",", ":")) + "\n")


def _engines(facts: Facts) -> dict[str, list[_Slice]]:
    found: dict[str, list[_Slice]] = {engine: [] for engine in FIRST_THREAD}
    for row in facts.kernels:
        piece = _Slice(row.label, row.kernel.kind.value, row.kernel.start_ns, row.kernel.end_ns, _kernel_args(row))
        if row.aic_ids:
            found["AIC"].append(piece)
        if row.aiv_ids:
            found["AIV"].append(piece)
        if row.kernel.kind is KernelKind.LINK:
            found["link"].append(piece)
        if row.kernel.hbm_start_ns is not None:
            found["HBM channel"].append(_phase(row, row.kernel.hbm_start_ns))
    for move in facts.schedule.moves:
        args = {"tensor": move.tensor, "kind": move.kind.value, "bytes": move_bytes(facts.instance, move)}
        name = f"{move.kind.value} {move.tensor}"
        found["HBM channel"].append(_Slice(name, move.kind.value, move.start_ns, move.end_ns, args))
    return found


def _cores(facts: Facts) -> dict[str, list[_Slice]]:
    """What each core runs: the kernels' numbers; all else about them is on the chip's tracks."""
    found: dict[str, list[_Slice]] = {}
    for engine in ("AIC", "AIV"):
        held = {core for row in facts.kernels for core in _ids(row, engine)}
        found.update({f"{engine} {core}": [] for core in sorted(held)})
    for row in facts.kernels:
        kernel = row.kernel
        piece = _Slice(row.label, kernel.kind.value, kernel.start_ns, kernel.end_ns, {"kernel": row.number})
        for engine in ("AIC", "AIV"):
            for core in _ids(row, engine):
                found[f"{engine} {core}"].append(piece)
    return found


def _ids(row: KernelFacts, engine: str) -> tuple[int, ...]:
    return row.aic_ids if engine == "AIC" else row.aiv_ids


def _pipes(facts: Facts) -> dict[str, list[_Slice]]:
    """The times of each kernel's pipes on its busiest core, from the start of its body on."""
    found: dict[str, list[_Slice]] = {
        f"{core.value.upper()} {pipe.value}": [] for core in Core for pipe in HardwarePipe
    }
    for row in facts.kernels:
        kernel, cost = row.kernel, row.cost
        for engine, busy_ns in cost.engines_ns.items() if cost else ():
            place = pipe_of(engine, kernel.kind, coupled=facts.instance.machine.coupled)
            if cost is None or place is None:
                continue
            begin = kernel.start_ns + cost.head_ns
            end = min(begin + busy_ns, kernel.end_ns)
            if begin < end:
                core, pipe = place
                held = _ids(row, core.value.upper()) or row.aic_ids or row.aiv_ids
                args = {"kernel": row.number, "engine": engine, "busy_ns": busy_ns, "core": min(held, default=0)}
                found[f"{core.value.upper()} {pipe.value}"].append(_Slice(row.label, "pipe", begin, end, args))
    return {name: slices for name, slices in found.items() if slices}


def _kernel_args(row: KernelFacts) -> dict[str, Any]:
    kernel = row.kernel
    return {
        "operators": list(kernel.operators),
        "kind": kernel.kind.value,
        "rule": kernel.rule.value,
        "tile": dict(kernel.tiling.tile),
        "parts": dict(kernel.tiling.parts),
        "cores": {"aic": len(row.aic_ids), "aiv": len(row.aiv_ids)},
        "bound_by": engine_label(row.bound_by),
        "bytes": {"hbm_read": row.hbm_read_bytes, "hbm_written": row.hbm_written_bytes, "l2": row.l2_bytes},
        "engines_ns": dict(row.cost.engines_ns) if row.cost else {},
    }


def _phase(row: KernelFacts, start_ns: int) -> _Slice:
    args = {
        "kernel": row.label,
        "bytes": {"read": row.hbm_read_bytes, "written": row.hbm_written_bytes},
        "reads": [read.tensor for read in row.kernel.reads if read.source.value == "hbm"],
        "writes": [write.tensor for write in row.kernel.writes if write.hbm],
    }
    return _Slice(f"HBM phase of {row.label}", "phase", start_ns, row.hbm_end_ns, args)


def _tracks(process: int, name: str, first: int, tracks: Mapping[str, list[_Slice]]) -> Iterator[dict[str, Any]]:
    """A process with a thread per track; more where slices on one overlap, which a valid schedule's never do."""
    yield _named("process_name", 0, name, process)
    thread = first
    for track, slices in tracks.items():
        for index, lane in enumerate(pack_lanes(slices, lambda piece: (piece.start_ns, piece.end_ns)) or [[]]):
            yield _named("thread_name", thread, track if index == 0 else f"{track}, lane {index + 1}", process)
            yield _metadata("thread_sort_index", thread, {"sort_index": thread}, process)
            yield from (_complete(thread, piece, process) for piece in lane)
            thread += 1


def _complete(thread: int, piece: _Slice, process: int = PROCESS) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "name": piece.name,
        "cat": piece.category,
        "ts": piece.start_ns / 1000,
        "dur": (piece.end_ns - piece.start_ns) / 1000,
        "args": piece.args,
    }


def _metadata(kind: str, thread: int, args: dict[str, Any], process: int = PROCESS) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": args}


def _named(kind: str, thread: int, name: str, process: int = PROCESS) -> dict[str, Any]:
    return _metadata(kind, thread, {"name": name}, process)


def _counter(name: str, series: str, levels: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    if not levels or levels[0][0] > 0:
        levels = [(0, 0), *levels]
    for instant, level in levels:
        yield {"ph": "C", "pid": PROCESS, "name": name, "ts": instant / 1000, "args": {series: level}}
