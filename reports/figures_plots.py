"""The plots of a report: the roofline of its kernels, and how objective and bound met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from instances.schedule import Schedule, SearchPoint
from reports.drawing import CHAR_PX, Element, child, microseconds, nice_step
from reports.facts import Facts
from reports.figures import GUTTER_PX, PAGE_PX, frame
from reports.roofline import Point, Roof, points, roofs

PLOT_PX, HEAD_PX, FOOT_PX = 380, 16, 40
"""Height of a plot, of the strip above it, and of the one below for the axis."""

GRAIN = 10_000
"""Units of the inner viewport that step lines are drawn in, along either axis."""

LEAST_S = 0.01
"""Where the axis of the search's time begins at the earliest (s)."""


class _Axis:
    """A logarithmic axis from ``low`` to ``high``; positions are shares from 0 to 1."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, max(high, low * 1.0001)

    def at(self, value: float) -> float:
        """Where a value stands."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Powers of ten on the axis; twice and five times these too where there are few."""
        first, last = math.floor(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        factors = (1, 2, 5) if last - first < 4 else (1,)
        found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high]


def roofline(facts: Facts) -> tuple[Element, Element] | None:
    """Every kernel by intensity and rate under the machine's roofs: gutter and plot; ``None`` without such kernels.

    A dot stands at operations per HBM byte, a ring at operations per byte between L2 and the cores.
    """
    dots, limits = points(facts), roofs(facts)
    across = [value for dot in dots for value in (dot.per_hbm_byte, dot.per_l2_byte) if value]
    if not across:
        return None
    top = max(limit.value for limit in limits if limit.flat)
    ridge = max(top / limit.value for limit in limits if not limit.flat)
    x = _Axis(10.0 ** math.floor(math.log10(min(across)) - 0.3), max(*across, ridge) * 3)
    y = _Axis(10.0 ** math.floor(math.log10(min(dot.rate for dot in dots)) - 0.05), 2.2 * top)
    gutter, plot = frame(HEAD_PX + PLOT_PX + FOOT_PX)
    child(plot, "title", "Roofline")
    kernels = sum(len(dot.rows) for dot in dots)
    child(plot, "desc", f"{kernels} kernels by operations per byte and rate; the table below has all numbers.")
    child(plot, "rect", x=0, y=HEAD_PX, width="100%", height=PLOT_PX, class_="track")

    def up(value: float) -> float:
        return HEAD_PX + PLOT_PX * (1 - y.at(value))

    for value in x.ticks():
        place = _percent(x.at(value))
        child(plot, "line", x1=place, x2=place, y1=HEAD_PX, y2=HEAD_PX + PLOT_PX, class_="grid")
        child(plot, "text", f"{value:g}", x=place, y=HEAD_PX + PLOT_PX + 15, text_anchor=_anchor(x.at(value)))
    child(plot, "text", "operations per byte", x="50%", y=HEAD_PX + PLOT_PX + 32, text_anchor="middle", class_="soft")
    for value in y.ticks():
        child(plot, "line", x1="0", x2="100%", y1=up(value), y2=up(value), class_="grid")
        child(gutter, "text", rate_text(value), x=GUTTER_PX - 6, y=up(value) + 4, text_anchor="end")
    child(gutter, "text", "operations/s", x=0, y=11, class_="soft")
    for limit in limits:
        _draw_roof(plot, limit, x, y, top)
    for dot in dots:
        _draw_point(plot, dot, x, up(dot.rate))
    return gutter, plot


def rate_text(rate: float) -> str:
    """Operations per ns as operations per second with a prefix."""
    value, unit = rate * 1e9, ""
    for unit in ("", "K", "M", "G", "T", "P"):
        if value < 1000 or unit == "P":
            break
        value /= 1000
    return f"{value:.3g} {unit}".rstrip()


def convergence(schedule: Schedule) -> tuple[Element, Element] | None:
    """Best latency and best bound over the time of the search, as steps: gutter and plot; ``None`` where it is untold.

    Points are named by who found them where the names find room; all are in the table.
    """
    search = schedule.search
    if not search:
        return None
    latencies = [point.objective_ns for point in search if point.objective_ns is not None]
    high = max([*latencies, *(point.bound_ns for point in search), schedule.latency_ns])
    low = min([point.bound_ns for point in search if point.bound_ns] or [0])
    margin = max(1.0, 0.08 * (high - low))
    bottom, top = max(0.0, low - margin), high + margin
    first_s = max(LEAST_S, search[0].time_s)
    x = _Axis(10.0 ** math.floor(math.log10(first_s)), max(search[-1].time_s, 2 * first_s))
    gutter, plot = frame(HEAD_PX + PLOT_PX + FOOT_PX)
    child(plot, "title", "Convergence")
    last = search[-1]
    child(plot, "desc", f"Latency and bound over {last.time_s:g} s of search; the table below has every step.")
    child(plot, "rect", x=0, y=HEAD_PX, width="100%", height=PLOT_PX, class_="track")

    def up(value: float) -> float:
        return HEAD_PX + PLOT_PX * (1 - (value - bottom) / (top - bottom))

    for value in x.ticks():
        place = _percent(x.at(value))
        child(plot, "line", x1=place, x2=place, y1=HEAD_PX, y2=HEAD_PX + PLOT_PX, class_="grid")
        child(plot, "text", f"{value:g} s", x=place, y=HEAD_PX + PLOT_PX + 15, text_anchor=_anchor(x.at(value)))
    child(plot, "text", "time of the search", x="50%", y=HEAD_PX + PLOT_PX + 32, text_anchor="middle", class_="soft")
    step = nice_step(top - bottom, 7)
    for index in range(math.ceil(bottom / step), int(top / step) + 1):
        child(plot, "line", x1="0", x2="100%", y1=up(index * step), y2=up(index * step), class_="grid")
        words = f"{index * step / 1000:g} µs"
        child(gutter, "text", words, x=GUTTER_PX - 6, y=up(index * step) + 4, text_anchor="end")
    inner = child(plot, "svg", x=0, y=HEAD_PX, width="100%", height=PLOT_PX, viewBox=f"0 0 {GRAIN} {GRAIN}")
    inner.set("preserveAspectRatio", "none")
    lines = {
        "objective": [(p.time_s, p.objective_ns, p.source) for p in search if p.objective_ns is not None],
        "provenby": [(p.time_s, p.bound_ns, p.source) for p in search],
    }
    for kind, steps in lines.items():
        path = child(inner, "path", d=_steps(steps, x, bottom, top), class_=f"step {kind}")
        path.set("vector-effect", "non-scaling-stroke")
        _draw_steps(plot, kind, steps, x, up)
    return gutter, plot


def improvements(search: Sequence[SearchPoint]) -> list[tuple[SearchPoint, str]]:
    """The points with what each brought: ``latency``, ``bound``, both, or neither at the end."""
    found = []
    before: SearchPoint | None = None
    for point in search:
        latency = point.objective_ns is not None and (before is None or point.objective_ns != before.objective_ns)
        bound = before is None or point.bound_ns != before.bound_ns
        found.append((point, " and ".join(word for word, new in (("latency", latency), ("bound", bound)) if new)))
        before = point
    return found


def _steps(steps: Sequence[tuple[float, int, str]], x: _Axis, bottom: float, top: float) -> str:
    parts: list[str] = []
    for time_s, value, _ in steps:
        across, down = GRAIN * x.at(max(time_s, x.low)), GRAIN * (1 - (value - bottom) / (top - bottom))
        parts.append(f"H{across:.0f}V{down:.0f}" if parts else f"M{across:.0f} {down:.0f}")
    return "".join(parts)


def _draw_steps(
    plot: Element,
    kind: str,
    steps: Sequence[tuple[float, int, str]],
    x: _Axis,
    up: Callable[[float], float],
) -> None:
    """A dot for every change, and the name of who found it where it differs from the last and there is room."""
    free_from, named = -1.0, ""
    changes = [steps[0], *(after for before, after in pairwise(steps) if after[1] != before[1])] if steps else []
    for time_s, value, source in changes:
        share = x.at(max(time_s, x.low))
        dot = child(plot, "circle", cx=_percent(share), cy=up(value), r=2.5, class_=f"dot {kind}")
        child(dot, "title", f"{microseconds(value)} µs after {time_s:g} s, {source}")
        wide = CHAR_PX * (len(source) + 1) / PAGE_PX
        if source != named and share >= free_from:
            late = share + wide > 1
            text = child(plot, "text", source, x=_percent(share), dx=-4 if late else 4, class_="halo")
            text.set("y", f"{up(value) + (-7 if kind == 'objective' else 15):.6g}")
            text.set("text-anchor", "end" if late else "start")
            free_from, named = share + wide, source


def _draw_roof(plot: Element, limit: Roof, x: _Axis, y: _Axis, top: float) -> None:
    """A roof with its name: above it at its right end, but below it at the lower of two slopes."""

    def at(intensity: float, rate: float) -> tuple[float, float]:
        return x.at(intensity), HEAD_PX + PLOT_PX * (1 - y.at(rate))

    if limit.flat:
        begin, end = at(x.low, limit.value), at(x.high, limit.value)
        words, along = f"{limit.name} {rate_text(limit.value)}op/s", 1.0
    else:
        left = max(x.low, y.low / limit.value)
        begin, end = at(left, left * limit.value), at(min(x.high, top / limit.value), min(x.high * limit.value, top))
        words, along = f"{limit.name} {limit.value:,.0f} GB/s", 0.45
    lower = limit.name == "HBM"
    line = child(plot, "line", y1=begin[1], y2=end[1], class_=f"roof {limit.kind}")
    line.set("x1", _percent(begin[0]))
    line.set("x2", _percent(end[0]))
    text = child(plot, "text", words, x=_percent(begin[0] + along * (end[0] - begin[0])), class_="halo")
    text.set("y", f"{begin[1] + along * (end[1] - begin[1]) + (14 if lower else -5):.6g}")
    text.set("dx", "8" if lower else "-6")
    text.set("text-anchor", "start" if lower else "end")


def _draw_point(plot: Element, dot: Point, x: _Axis, y: float) -> None:
    group = child(plot, "g")
    many = f" and {len(dot.rows) - 1} more like it" if len(dot.rows) > 1 else ""
    tip = f"kernel {dot.rows[0].label}{many}\n{rate_text(dot.rate)} operations/s"
    child(group, "title", tip)
    places = [(value, ring) for value, ring in ((dot.per_l2_byte, True), (dot.per_hbm_byte, False)) if value]
    if len(places) == 2:
        ends = [_percent(x.at(value)) for value, _ in places]
        child(group, "line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="tie")
    for value, ring in places:
        child(group, "circle", cx=_percent(x.at(value)), cy=y, r=5, class_=f"{'ring' if ring else 'dot'} {dot.kind}")


def _percent(share: float) -> str:
    return f"{100 * share:.5g}%"


def _anchor(share: float) -> str:
    return "start" if share < 0.02 else "end" if share > 0.98 else "middle"
