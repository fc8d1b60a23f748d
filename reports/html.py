"""A schedule as one HTML page that needs nothing else: no network, no other file, no script to be read.

The template escapes whatever comes from data, figures are built as element trees, and the page forbids itself, by
a content security policy, to load anything or to run any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from instances.documents import write_text
from instances.instance import Instance
from instances.machine import MemoryName
from instances.schedule import Kernel, Schedule, Source
from reports import drawing, facts, figures


def render_report(instance: Instance, schedule: Schedule) -> str:
    """The report on a schedule as HTML.

    Raises
    ------
    InputError
        Where the schedule names an operator or a tensor that the instance does not have.
    """
    gathered = facts.gather(instance, schedule)
    script = _template_text("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            instance=instance,
            schedule=schedule,
            facts=gathered,
            model=_origin(instance, "model", instance.graph.name),
            phase=_origin(instance, "phase", ""),
            origin=[(name, value) for name, value in instance.origin.items() if value is not None],
            foreign=schedule.instance != instance.fingerprint,
            bounds=sorted(schedule.proof.bounds_ns.items(), key=lambda item: (-item[1], item[0])),
            timeline=figures.timeline(gathered),
            l2_map=figures.l2_map(gathered),
            kind_names=figures.KIND_NAMES | {"residency": "residency", "workspace": "workspace of a kernel"},
            uses=facts.uses(gathered),
            layouts=facts.layouts(gathered),
            machine_rows=facts.machine_rows(instance.machine),
            l2_capacity_bytes=instance.machine.capacity(MemoryName.L2),
            style=Markup(_style()),  # ours, no data in it
            script=Markup(script),  # ours, no data in it
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
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


def _origin(instance: Instance, key: str, default: str) -> str:
    value = instance.origin.get(key)
    return default if value is None else str(value)


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "us": drawing.microseconds,
        "size": drawing.size,
        "percent": drawing.percent,
        "engine": facts.engine_label,
        "svg": drawing.serialise,
        "tile": tile_text,
    }
    environment.globals |= {
        "bound_gap": _bound_gap,
        "from_hbm": lambda kernel: [read.tensor for read in kernel.reads if read.source is Source.HBM],
        "move_bytes": facts.move_bytes,
    }
    return environment


def _bound_gap(latency_ns: int, bound_ns: int) -> float:
    return (latency_ns - bound_ns) / max(1, latency_ns)


def _finalize(value: Any) -> Any:
    """Control and direction characters out of everything that is shown; markup of ours is left alone."""
    return drawing.clean(str(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _template_text(name: str) -> str:
    return (resources.files("reports") / "templates" / name).read_text(encoding="utf-8")


def _style() -> str:
    def colours(palette: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in palette.items())

    return "\n".join(
        (
            f":root {{ color-scheme: light dark; {colours(drawing.LIGHT)} }}",
            f"@media (prefers-color-scheme: dark) {{ :root {{ {colours(drawing.DARK)} }} }}",
            _template_text("report.css"),
            drawing.FIGURE_CSS,
        )
    )
