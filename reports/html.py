"""A schedule as one HTML page that needs nothing else: no network, no other file, no script to be read.

The template escapes whatever comes from data, figures are built as element trees, and the page forbids itself, by
a content security policy, to load anything or to run any script but its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from instances.documents import write_text
from instances.instance import Instance
from instances.machine import MemoryName
from instances.schedule import Kernel, Schedule
from reports import drawing, facts, figures, figures_memory, figures_plots, groups, moves, page, roofline

KIND_NAMES = figures.KIND_NAMES | {
    "residency": "tensor kept in L2",
    "workspace": "workspace of a kernel",
    "objective": "best latency",
    "provenby": "best proven bound",
}
"""The legends of all figures."""

UNASKED = frozenset({"max_group", "machine", "ends"})
"""Parts of an instance's origin that its headline leaves out: said elsewhere, or of interest to few."""


@dataclass(frozen=True)
class Explained:
    """Reasons to show: for kernels by label, for moves by :func:`reports.moves.move_key`; empty where none is given."""

    kernels: Mapping[str, str]
    moves: Mapping[str, str]


def render_report(
    instance: Instance,
    schedule: Schedule,
    *,
    baselines: Mapping[str, int] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> str:
    """The report on a schedule as HTML.

    Parameters
    ----------
    baselines
        Latencies of other schedules of the same instance, in ns by name, to compare with.
    reasons
        Why things are as they are, shown where they are listed: label of a kernel -> why it is not fused further;
        :func:`reports.moves.move_key` of a move -> why it is there.

    Raises
    ------
    InputError
        Where the schedule names an operator or a tensor that the instance does not have.
    """
    gathered = facts.gather(instance, schedule)
    script = page.template_text("report.js")
    layouts = facts.layouts(gathered)
    points = roofline.points(gathered)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            instance=instance,
            schedule=schedule,
            facts=gathered,
            model=_origin(instance, "model", instance.graph.name),
            phase=_origin(instance, "phase", ""),
            question=_question(instance),
            origin=[(name, value) for name, value in instance.origin.items() if value is not None],
            baselines=list((baselines or {}).items()),
            explained=_explained(schedule, reasons or {}),
            foreign=schedule.instance != instance.fingerprint,
            bounds=sorted(schedule.proof.bounds_ns.items(), key=lambda item: (-item[1], item[0])),
            timeline=figures.timeline(gathered),
            groups=figures.groups_timeline(gathered),
            overview=figures_memory.overview(gathered),
            memory_rows=figures_memory.memory_rows(gathered),
            scale_bytes=figures_memory.scale_bytes(gathered),
            in_core_bytes=figures_memory.in_core_bytes(gathered),
            l2_map=figures_memory.l2_map(gathered),
            kind_names=KIND_NAMES,
            uses=facts.uses(gathered),
            layouts=[(layout, figures_memory.in_core_map(gathered, layout)) for layout in layouts],
            layout_of={number: turn for turn, layout in enumerate(layouts, start=1) for number in layout.numbers},
            roofline=figures_plots.roofline(gathered),
            roofline_kinds=[kind for kind in figures.KIND_NAMES if kind in {point.kind for point in points}],
            points=points,
            roofs=roofline.roofs(gathered),
            moves=moves.move_facts(gathered),
            convergence=figures_plots.convergence(schedule),
            improvements=figures_plots.improvements(schedule.search),
            machine_rows=facts.machine_rows(instance.machine),
            l2_capacity_bytes=instance.machine.capacity(MemoryName.L2),
            style=page.style(),
            script=Markup(script),  # ours, no data in it
            script_hash=page.script_hash(script),
        )
    )


def write_report(instance: Instance, schedule: Schedule, path: str | Path) -> None:
    """Write :func:`render_report`, whole or not at all; :class:`InputError` where it cannot be written."""
    write_text(path, render_report(instance, schedule))


def tile_text(kernel: Kernel) -> str:
    """A kernel's tiling in one line: tile sizes, then the loops that are split over cores and summed up."""
    tile = [f"{loop} {extent}" for loop, extent in kernel.tiling.tile.items()]
    parts = [f"{loop} in {count} parts" for loop, count in kernel.tiling.parts.items()]
    return ", ".join(tile + parts) or "whole"


def _explained(schedule: Schedule, reasons: Mapping[str, str]) -> Explained:
    kernels = {kernel.label for kernel in schedule.kernels}
    keys = {moves.move_key(move) for move in schedule.moves}
    return Explained(
        {name: text for name, text in reasons.items() if name in kernels},
        {name: text for name, text in reasons.items() if name in keys},
    )


def _question(instance: Instance) -> str:
    """What was asked in one line; empty where the instance does not say how it came about."""
    asked = [(key, value) for key, value in instance.origin.items() if key not in UNASKED and value is not None]
    return ", ".join(str(value) if key in ("model", "phase", "dtype") else f"{key} {value}" for key, value in asked)


def _origin(instance: Instance, key: str, default: str) -> str:
    value = instance.origin.get(key)
    return default if value is None else str(value)


def _environment() -> Environment:
    made = page.environment(
        {
            "us": drawing.microseconds,
            "size": drawing.size,
            "percent": drawing.percent,
            "engine": facts.engine_label,
            "svg": drawing.serialise,
            "tile": tile_text,
            "spans": groups.spans,
            "rate": figures_plots.rate_text,
        }
    )
    made.globals |= {
        "bound_gap": _bound_gap,
        "factor": _factor,
        "against": _against,
        "move_key": moves.move_key,
    }
    return made


def _bound_gap(latency_ns: int, bound_ns: int) -> float:
    return (latency_ns - bound_ns) / max(1, latency_ns)


def _factor(other_ns: int, latency_ns: int) -> str:
    return f"{other_ns / max(1, latency_ns):.2f} ×"


def _against(latency_ns: int, other_ns: int) -> str:
    """How a latency compares with another one in words: ``12.00 % less than``."""
    if latency_ns == other_ns:
        return "as long as"
    share = abs(other_ns - latency_ns) / max(1, other_ns)
    return f"{drawing.percent(share)} {'less' if latency_ns < other_ns else 'more'} than"
