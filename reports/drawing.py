"""SVG by parts: palette, elements, time axis, labels that fit.

Figures are built as element trees, so that every name is escaped and every figure well-formed by construction.
Along time, positions are shares of the plot in percent: the plot can be stretched without distorting its text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element

LIGHT = {
    "surface": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1b1f24",
    "soft": "#57606a",
    "line": "#d0d7de",
    "accent": "#0b5cad",
    "warn": "#b3261e",
    "cube": "#0072b2",
    "vector": "#e69f00",
    "mix": "#1fa37c",
    "link": "#cc79a7",
    "phase": "#9aa3ad",
    "prefetch": "#56b4e9",
    "spill": "#e0703a",
    "fill": "#e3d335",
    "residency": "#a9c7e8",
    "workspace": "#d9c3ea",
    "objective": "#b24a00",
    "provenby": "#0b5cad",
}
"""Colours on a light ground; the kinds are told apart by the colour-blind (after Okabe and Ito)."""

DARK = LIGHT | {
    "surface": "#12161b",
    "panel": "#1b2129",
    "ink": "#e6edf3",
    "soft": "#a3adb8",
    "line": "#37404a",
    "accent": "#7cb7f5",
    "warn": "#ff8a80",
    "phase": "#848d97",
    "residency": "#6f9ccb",
    "workspace": "#ad8cc7",
    "objective": "#f0a15e",
    "provenby": "#7cb7f5",
}
"""Colours on a dark ground."""

KINDS = (
    *("cube", "vector", "mix", "link", "phase", "prefetch", "spill", "fill", "residency", "workspace"),
    *("objective", "provenby"),
)
"""What has a colour of its own in the figures, and in their legends."""

FIGURE_CSS = """
.chart text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink); }
.chart .soft { fill: var(--soft); }
.chart .halo { paint-order: stroke; stroke: var(--surface); stroke-width: 3px; stroke-linejoin: round; }
.chart .head { font-size: 14px; font-weight: 600; }
.chart .track { fill: var(--panel); }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .mark { stroke: var(--surface); stroke-width: 0.6; }
.chart .thin { stroke: none; }
.chart .on { fill: #101418; pointer-events: none; }
.chart .on-cube { fill: #ffffff; }
.chart .bound { stroke: var(--accent); stroke-width: 1.5; stroke-dasharray: 4 3; }
.chart .boundname { fill: var(--accent); }
.chart .limit { stroke: var(--warn); stroke-width: 1.5; }
.chart .limitname { fill: var(--warn); }
.chart .room { fill: var(--panel); stroke: var(--line); stroke-width: 1; }
.chart .roof { stroke-width: 1.5; stroke: var(--ink); }
.chart .slope-l2 { stroke-dasharray: 6 4; }
.chart .roof-vector { stroke: var(--vector); }
.chart .roof-cube { stroke: var(--cube); }
.chart .tie { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 1 3; }
.chart .dot { stroke: var(--surface); stroke-width: 1; }
.chart .ring { stroke-width: 2; }
.chart .step { fill: none; stroke-width: 2; }
.chart .peak { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 2; }
""" + "\n".join(f".chart .{kind} {{ fill: var(--{kind}); }}" for kind in KINDS)
FIGURE_CSS += "".join(
    f"\n.chart .ring.{kind} {{ fill: var(--surface); stroke: var(--{kind}); }}" for kind in ("cube", "vector", "mix")
)
FIGURE_CSS += "".join(
    f"\n.chart .step.{kind} {{ fill: none; stroke: var(--{kind}); }}" for kind in ("objective", "provenby")
)
"""Rules for figures; colours are variables that the page sets, or :func:`light_css` fills in."""

CHAR_PX = 6.3
"""Mean width of a character at 11 px, on the wide side."""

LABEL_PX = 10
"""A rectangle less high carries no label."""

LEAST_CHARS = 3
"""A label is not shortened below this; it is left out instead."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")


@dataclass(frozen=True)
class Scale:
    """The time axis: ``span_ns`` from left to right, and the width in px that labels are laid out for."""

    span_ns: int
    width_px: float

    def share(self, time_ns: float) -> str:
        """Position of an instant."""
        return f"{100 * time_ns / self.span_ns:.6g}%"

    def px(self, duration_ns: int) -> float:
        """Width of a duration."""
        return self.width_px * duration_ns / self.span_ns

    def anchor(self, time_ns: int) -> tuple[str, str]:
        """``text-anchor`` and ``dx`` that keep a text beside an instant inside the plot."""
        return ("start", "4") if 2 * time_ns < self.span_ns else ("end", "-4")


def clean(text: str) -> str:
    """Text that is safe in XML and reads as it is stored: control and direction characters become U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd" if char in _BIDI or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t") else char
        for char in text
    )


def child(parent: Element, tag: str, text: str = "", **attributes: str | float) -> Element:
    """Append an element; ``_`` in an attribute's name stands for ``-`` and a trailing one is dropped."""
    element = ElementTree.SubElement(parent, tag)
    for name, value in attributes.items():
        shown = clean(value) if isinstance(value, str) else f"{value:.6g}"
        element.set(name.rstrip("_").replace("_", "-") if name != "viewBox" else name, shown)
    if text:
        element.text = clean(text)
    return element


def serialise(element: Element) -> Markup:
    """The element as markup."""
    return Markup(ElementTree.tostring(element, encoding="unicode"))  # the tree has escaped what came from data


def light_css() -> str:
    """:data:`FIGURE_CSS` with the light colours filled in, for a figure that stands alone."""
    return re.sub(r"var\(--(\w+)\)", lambda match: LIGHT[match.group(1)], FIGURE_CSS)


def fitted(text: str, width_px: float) -> str:
    """As much of a label as fits, or nothing."""
    chars = int((width_px - 6) / CHAR_PX)
    if len(text) <= chars:
        return text
    return text[: chars - 1] + "…" if chars >= LEAST_CHARS else ""


def box(
    parent: Element, scale: Scale, times: tuple[int, int], y: float, height: float, kind: str, label: str, tip: str = ""
) -> Element:
    """A rectangle over an interval, with a tooltip, and with as much of its label as fits.

    The whole label stays in ``data-label``, for the script that stretches the plot and writes more of it then.
    """
    width_px = scale.px(times[1] - times[0])
    group = child(parent, "g")
    if tip:
        child(group, "title", tip)
    child(
        group,
        "rect",
        x=scale.share(times[0]),
        width=scale.share(times[1] - times[0]),
        y=y,
        height=max(height, 1.0),  # what is there is seen
        class_=f"mark {kind}" if width_px >= 2 and height >= 2 else f"mark thin {kind}",
    )
    if label and height >= LABEL_PX:
        group.set("data-label", clean(label))
        if shown := fitted(clean(label), width_px):
            middle = y + min(height, 40) / 2 + 4
            child(group, "text", shown, x=scale.share(times[0]), dx=4, y=middle, class_=f"on on-{kind}")
    return group


def nice_step(span: float, most: float) -> float:
    """The smallest of 1, 2, 5 x 10^k that cuts ``span`` into at most ``most`` parts."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if span / (step * factor) <= most:
                return step * factor
        step *= 10


def time_axis(parent: Element, scale: Scale, top: float, bottom: float) -> None:
    """Grid lines from ``top`` to ``bottom`` with times in us below."""
    group = child(parent, "g", class_="ticks")
    group.set("data-top", f"{top:g}")
    group.set("data-bottom", f"{bottom:g}")
    step = nice_step(scale.span_ns, max(2.0, scale.width_px / 100))
    for index in range(int(scale.span_ns / step) + 1):
        time_ns = index * step
        x = scale.share(time_ns)
        child(group, "line", x1=x, x2=x, y1=top, y2=bottom, class_="grid")
        near_end = time_ns > 0.97 * scale.span_ns
        anchor = "start" if index == 0 else "end" if near_end else "middle"
        child(group, "text", f"{time_ns / 1000:g} µs", x=x, y=bottom + 14, text_anchor=anchor, class_="soft")


def microseconds(time_ns: int) -> str:
    """Whole ns as us, exactly."""
    return f"{time_ns // 1000:,}.{time_ns % 1000:03d}"


def size(size_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves at least one."""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{value:.2f} {unit}"


def percent(share: float) -> str:
    """A share in percent; what is not zero is not shown as zero."""
    if 0 < share < 0.00005:
        return "<0.01 %"
    return f"{100 * share:.2f} %"
