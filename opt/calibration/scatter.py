"""Predicted against measured times, log-log, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from opt.calibration.predictions import Prediction
from reports.drawing import LIGHT, Element, child, serialise

SIDE_PX, LEFT_PX, TOP_PX, LEGEND_PX = 520, 64, 16, 170

FAMILIES: dict[str, tuple[str, frozenset[str]]] = {
    "matrix products": (
        LIGHT["cube"],
        frozenset(
            {
                "matmul",
                "batch_matmul",
                "quant_matmul",
                "weight_quant_batch_matmul",
                "grouped_matmul",
                "grouped_matmul_swiglu_quant",
                "mla_prolog",
            }
        ),
    ),
    "attention": (LIGHT["mix"], frozenset({"flash_attention", "mha", "gqa", "mla"})),
    "moves": (LIGHT["link"], frozenset({"copy", "transpose"})),
}
"""Colour and ops of each group; all others are vector kernels."""

VECTOR_KERNELS = "vector kernels"

STYLE = f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: {LIGHT["ink"]}; }}
.soft {{ fill: {LIGHT["soft"]}; font-size: 11px; }}
.grid {{ stroke: {LIGHT["line"]}; }}
.equal {{ stroke: {LIGHT["ink"]}; }}
.factor {{ stroke: {LIGHT["soft"]}; stroke-dasharray: 4 3; }}
.mark {{ fill-opacity: 0.55; stroke-width: 0.8; }}
"""


def scatter(predictions: Sequence[Prediction]) -> str:
    """A mark per modelled row: its place by both times, its colour by kind of kernel, its form by chip.

    Returns
    -------
    str
        A self-contained SVG document on a light ground.
    """
    points = [(p, p.predicted_us) for p in predictions if p.predicted_us is not None]
    times = [us for p, predicted in points for us in (p.row.us, predicted)] or [1.0, 10.0]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    high = max(high, low + 1)

    def px(us: float) -> float:
        return SIDE_PX * (math.log10(us) - low) / (high - low)

    chips = sorted({p.row.chip for p, _ in points})
    width, height = LEFT_PX + SIDE_PX + LEGEND_PX, TOP_PX + SIDE_PX + 48
    root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", role="img")
    root.set("width", str(width))
    child(root, "title", "Predicted against measured kernel times")
    child(root, "style", STYLE)
    child(root, "rect", width=width, height=height, fill=LIGHT["surface"])
    plot = child(root, "g", transform=f"translate({LEFT_PX},{TOP_PX})")
    for decade in range(low, high + 1):
        at = px(10.0**decade)
        label = f"{10.0**decade:g}"
        child(plot, "line", x1=at, x2=at, y1=0, y2=SIDE_PX, class_="grid")
        child(plot, "line", x1=0, x2=SIDE_PX, y1=SIDE_PX - at, y2=SIDE_PX - at, class_="grid")
        child(plot, "text", label, x=at, y=SIDE_PX + 16, text_anchor="middle", class_="soft")
        child(plot, "text", label, x=-6, y=SIDE_PX - at + 4, text_anchor="end", class_="soft")
    for factor, kind in ((1.0, "equal"), (2.0, "factor"), (0.5, "factor")):
        first, last = max(10.0**low, 10.0**low / factor), min(10.0**high, 10.0**high / factor)
        y1, y2 = SIDE_PX - px(first * factor), SIDE_PX - px(last * factor)
        child(plot, "line", x1=px(first), y1=y1, x2=px(last), y2=y2, class_=kind)
    child(plot, "text", "measured, µs", x=SIDE_PX / 2, y=SIDE_PX + 38, text_anchor="middle")
    middle = SIDE_PX / 2
    child(plot, "text", "predicted, µs", x=-middle, y=-44, text_anchor="middle", transform="rotate(-90)")
    for p, predicted in points:
        group = child(plot, "g")
        what = f"{p.row.op} {p.row.dtype} {p.row.shapes} on {p.row.chip}"
        child(group, "title", f"{what}: {p.row.us:g} µs measured, {predicted:.2f} µs predicted")
        _mark(group, px(p.row.us), SIDE_PX - px(predicted), chips.index(p.row.chip), _colour(p.row.op))
    _legend(child(root, "g", transform=f"translate({LEFT_PX + SIDE_PX + 16},{TOP_PX + 12})"), chips)
    return str(serialise(root))


def _colour(op: str) -> str:
    return next((colour for colour, ops in FAMILIES.values() if op in ops), LIGHT["vector"])


def _mark(parent: Element, x: float, y: float, form: int, colour: str) -> None:
    """A circle, square, triangle or diamond of much the same area."""
    style = {"fill": colour, "stroke": colour, "class_": "mark"}
    if form == 0:
        child(parent, "circle", cx=x, cy=y, r=4, **style)
    elif form == 1:
        child(parent, "rect", x=x - 3.5, y=y - 3.5, width=7, height=7, **style)
    elif form == 2:
        child(parent, "path", d=f"M{x:.2f} {y - 5:.2f}l4.6 8.4h-9.2z", **style)
    else:
        child(parent, "path", d=f"M{x:.2f} {y - 5:.2f}l5 5l-5 5l-5-5z", **style)


def _legend(parent: Element, chips: Sequence[str]) -> None:
    y = 0.0
    groups = {**{name: colour for name, (colour, _) in FAMILIES.items()}, VECTOR_KERNELS: LIGHT["vector"]}
    for name, colour in groups.items():
        child(parent, "rect", x=0, y=y - 8, width=10, height=10, fill=colour)
        child(parent, "text", name, x=18, y=y + 1)
        y += 20
    y += 8
    for form, chip in enumerate(chips):
        _mark(parent, 5, y - 3, form, LIGHT["soft"])
        child(parent, "text", chip, x=18, y=y + 1)
        y += 20
    y += 8
    for kind, name in (("equal", "equal"), ("factor", "a factor 2 off")):
        child(parent, "line", x1=-2, x2=12, y1=y - 3, y2=y - 3, class_=kind)
        child(parent, "text", name, x=18, y=y + 1)
        y += 20
