"""The timelines of a report: what runs when on each engine, and on each group of cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from instances.instance import Instance
from instances.kernels import KernelKind
from instances.schedule import Move, Schedule
from reports.drawing import (
    Element,
    Scale,
    box,
    child,
    fitted,
    light_css,
    microseconds,
    percent,
    serialise,
    time_axis,
)
from reports.facts import Facts, KernelFacts, engine_label, gather, move_bytes, pack_lanes
from reports.groups import Band, Lane, bands

HEAD_PX = 18
"""Strip above the tracks, for the name of the bound or of the peak."""

FOOT_PX = 22
"""Strip below the tracks, for the times."""

GUTTER_PX = 104
"""Column left of the plot, for the names of the tracks."""

PAGE_PX = 1080
"""Width that the labels of a page's figures are laid out for before its script measures."""

SVG = "http://www.w3.org/2000/svg"

KIND_NAMES = {
    "cube": "cube kernel",
    "vector": "vector kernel",
    "mix": "mixed kernel",
    "link": "collective",
    "phase": "HBM phase of a kernel",
    "prefetch": "prefetch",
    "spill": "spill",
    "fill": "fill",
}
"""The legend of the timeline."""


@dataclass(frozen=True)
class Chart:
    """A figure in two parts: names that stay put, and a plot that can be stretched along time."""

    gutter: Element
    plot: Element
    height_px: float
    kinds: tuple[str, ...]


@dataclass
class _Mark:
    times: tuple[int, int]
    kind: str
    label: str
    tip: str
    rows: tuple[int, int] = (0, 1)  # first row and number of rows of the track
    number: int = 0  # of the kernel, if it is one


@dataclass
class _Track:
    name: str
    note: str
    row_px: float
    rows: int
    marks: list[_Mark] = field(default_factory=list)

    @property
    def height_px(self) -> float:
        return self.row_px * self.rows


def timeline(facts: Facts, width_px: float = PAGE_PX) -> Chart:
    """What runs when: a track per engine, where the height of a kernel is the cores it holds."""
    scale = Scale(facts.span_ns, width_px)
    tracks = _tracks(facts)
    height = HEAD_PX + sum(track.height_px + 8 for track in tracks) + FOOT_PX
    gutter, plot = frame(height)
    child(plot, "title", "Timeline")
    child(plot, "desc", _timeline_words(facts))
    y = float(HEAD_PX)
    places = []
    for track in tracks:
        child(plot, "rect", x=0, width="100%", y=y, height=track.height_px, class_="track")
        child(gutter, "text", track.name, x=0, y=y + 13)
        child(gutter, "text", track.note, x=0, y=y + 26, class_="soft")
        places.append(y)
        y += track.height_px + 8
    time_axis(plot, scale, HEAD_PX, y - 4)
    for track, top in zip(tracks, places, strict=True):
        for mark in track.marks:
            first, rows = mark.rows
            place, tall = top + first * track.row_px, rows * track.row_px
            drawn = box(plot, scale, mark.times, place, tall, mark.kind, mark.label, mark.tip)
            if mark.number:
                drawn.set("data-k", str(mark.number))
    bound_line(plot, scale, facts.schedule, y - 4)
    shown = {mark.kind for track in tracks for mark in track.marks}
    return Chart(gutter, plot, height, tuple(kind for kind in KIND_NAMES if kind in shown))


def groups_timeline(facts: Facts, width_px: float = PAGE_PX) -> Chart:
    """What runs when on each core group; groups that do the same are one band, with a lane per kind of core.

    Marks carry the kernel's number alone (``data-k``): their words are those of the timeline.
    """
    scale = Scale(facts.span_ns, width_px)
    found = bands(facts)
    tall = [max(30.0, sum(map(_lane_px, band.lanes))) for band in found]
    height = HEAD_PX + sum(tall) + 8 * len(found) + FOOT_PX
    gutter, plot = frame(height)
    child(plot, "title", "Timeline of the core groups")
    child(plot, "desc", _groups_words(found))
    bottom = height - FOOT_PX - 4
    y = float(HEAD_PX)
    for band, high in zip(found, tall, strict=True):
        child(plot, "rect", x=0, width="100%", y=y, height=high, class_="track")
        child(gutter, "text", fitted(f"group{'s' * (len(band.groups) > 1)} {band.name}", GUTTER_PX), x=0, y=y + 12)
        child(gutter, "text", fitted(band.cores, GUTTER_PX), x=0, y=y + 25, class_="soft")
        y += high + 8
    time_axis(plot, scale, HEAD_PX, bottom)
    y = float(HEAD_PX)
    for band, high in zip(found, tall, strict=True):
        top = y
        for lane in band.lanes:
            _lane(plot, scale, lane, top)
            top += _lane_px(lane)
        y += high + 8
    bound_line(plot, scale, facts.schedule, bottom)
    shown = {row.kernel.kind.value for band in found for lane in band.lanes for row in lane.kernels}
    return Chart(gutter, plot, height, tuple(kind for kind in KIND_NAMES if kind in shown))


def _lane_px(lane: Lane) -> float:
    return 18 if lane.name == "AIC" else 14


def _lane(plot: Element, scale: Scale, lane: Lane, top: float) -> None:
    for row in lane.kernels:
        times = (row.kernel.start_ns, row.kernel.end_ns)
        mark = box(plot, scale, times, top + 1, _lane_px(lane) - 2, row.kernel.kind.value, str(row.number))
        mark.set("data-k", str(row.number))


def _groups_words(found: Sequence[Band]) -> str:
    parts = [f"{'groups' if len(band.groups) > 1 else 'group'} {band.name} ({band.cores} each)" for band in found]
    return f"{len(found)} band{'s' * (len(found) > 1)} of core groups that do the same: {'; '.join(parts)}."


def timeline_svg(instance: Instance, schedule: Schedule, width: int = 1200) -> str:
    """The timeline as an SVG file of its own, on light ground.

    Parameters
    ----------
    width
        Width in px.

    Raises
    ------
    InputError
        Where the schedule names an operator or a tensor that the instance does not have.
    """
    facts = gather(instance, schedule)
    inner = max(200, width - GUTTER_PX - 32)
    chart = timeline(facts, inner)
    height = chart.height_px + 72
    root = ElementTree.Element("svg", {"xmlns": SVG, "class": "chart", "role": "img"})
    for name, value in (("width", f"{width}"), ("height", f"{height:g}"), ("viewBox", f"0 0 {width} {height:g}")):
        root.set(name, value)
    child(root, "title", f"Timeline of {instance.name}")
    child(root, "desc", _timeline_words(facts))
    child(root, "style", light_css())
    child(root, "rect", width="100%", height="100%", fill="#ffffff")
    child(root, "text", fitted(_headline(facts), (width - 32) / 1.3), x=16, y=26, class_="head")
    for part, x, wide in ((chart.gutter, 16, GUTTER_PX), (chart.plot, 16 + GUTTER_PX, inner)):
        for stale in [element for element in part if element.tag in ("title", "desc")]:
            part.remove(stale)
        for name, value in (("x", f"{x}"), ("y", "36"), ("width", f"{wide:g}"), ("height", f"{chart.height_px:g}")):
            part.set(name, value)
        for element in part.iter():
            for name in ("data-label", "data-k"):
                element.attrib.pop(name, None)
        root.append(part)
    x = 16 + GUTTER_PX
    for kind in chart.kinds:
        child(root, "rect", x=x, y=height - 24, width=12, height=12, class_=kind)
        child(root, "text", KIND_NAMES[kind], x=x + 17, y=height - 14)
        x += 34 + int(len(KIND_NAMES[kind]) * 6.3)
    return str(serialise(root)) + "\n"


def kernel_tip(facts: Facts, row: KernelFacts) -> str:
    """A kernel in words, for tooltips."""
    kernel = row.kernel
    lines = [
        f"kernel {row.label}",
        f"{kernel.kind.value}, {kernel.rule.value}, {len(row.aic_ids)} AIC, {len(row.aiv_ids)} AIV",
        f"{microseconds(kernel.start_ns)} to {microseconds(kernel.end_ns)} µs ({microseconds(row.duration_ns)} µs)",
        f"bound by {engine_label(row.bound_by)}",
    ]
    return "\n".join(lines)


def _headline(facts: Facts) -> str:
    schedule = facts.schedule
    return (
        f"{facts.instance.name}: {microseconds(schedule.latency_ns)} µs, proven bound "
        f"{microseconds(schedule.proof.bound_ns)} µs, gap {percent(schedule.gap)}"
    )


def _timeline_words(facts: Facts) -> str:
    return (
        f"{_headline(facts)}. {len(facts.kernels)} kernels and {len(facts.schedule.moves)} explicit moves over "
        f"{microseconds(facts.span_ns)} µs, one track each for cube cores, vector cores, the HBM channel and the link."
    )


def frame(height: float) -> tuple[Element, Element]:
    """An empty gutter and an empty plot of a height in px."""
    gutter = ElementTree.Element("svg", {"class": "chart gutter", "aria-hidden": "true"})
    plot = ElementTree.Element("svg", {"class": "chart plot", "role": "img", "width": "100%"})
    for part in (gutter, plot):
        part.set("height", f"{height:g}")
    gutter.set("width", str(GUTTER_PX))
    return gutter, plot


def _tracks(facts: Facts) -> list[_Track]:
    machine = facts.instance.machine
    return [
        _core_track(facts, "AIC", machine.aic_count, lambda row: row.aic_ids),
        _core_track(facts, "AIV", machine.aiv_count, lambda row: row.aiv_ids),
        _channel_track(facts),
        _link_track(facts),
    ]


def _core_track(facts: Facts, name: str, count: int, held: Callable[[KernelFacts], tuple[int, ...]]) -> _Track:
    rows = [row for row in facts.kernels if held(row)]
    tall = max([count, *(max(held(row)) + 1 for row in rows)])
    track = _Track(name, f"{count} cores", 96 / max(1, tall), tall)
    for row in rows:
        runs = _runs(held(row))
        widest = max(runs, key=lambda run: run[1])
        for run in runs:
            label = row.label if run == widest else ""
            times = (row.kernel.start_ns, row.kernel.end_ns)
            track.marks.append(_Mark(times, row.kernel.kind.value, label, kernel_tip(facts, row), run, row.number))
    return track


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Core numbers as stretches: first and length."""
    runs: list[tuple[int, int]] = []
    for core in sorted(set(ids)):
        if runs and core == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((core, 1))
    return runs


def _channel_track(facts: Facts) -> _Track:
    marks = []
    for row in facts.kernels:
        begin = row.kernel.hbm_start_ns
        if begin is not None:
            tip = (
                f"HBM phase of kernel {row.label}\n{microseconds(begin)} to {microseconds(row.hbm_end_ns)} µs\n"
                f"{row.hbm_read_bytes:,} bytes read, {row.hbm_written_bytes:,} bytes written"
            )
            marks.append(_Mark((begin, row.hbm_end_ns), "phase", row.label, tip))
    marks += [_move_mark(facts, move) for move in facts.schedule.moves]
    return _laned("HBM channel", "phases, moves", 36, marks)


def _move_mark(facts: Facts, move: Move) -> _Mark:
    tip = (
        f"{move.kind.value} of {move.tensor}\n{microseconds(move.start_ns)} to {microseconds(move.end_ns)} µs\n"
        f"{move_bytes(facts.instance, move):,} bytes"
    )
    return _Mark((move.start_ns, move.end_ns), move.kind.value, f"{move.kind.value} {move.tensor}", tip)


def _link_track(facts: Facts) -> _Track:
    rows = [row for row in facts.kernels if row.kernel.kind is KernelKind.LINK]
    marks = []
    for row in rows:
        times = (row.kernel.start_ns, row.kernel.end_ns)
        marks.append(_Mark(times, "link", row.label, kernel_tip(facts, row), number=row.number))
    return _laned("link", "collectives" if marks else "idle", 28, marks)


def _laned(name: str, note: str, row_px: float, marks: Iterable[_Mark]) -> _Track:
    lanes = pack_lanes(marks, lambda mark: mark.times)
    track = _Track(name, note, row_px, max(1, len(lanes)))
    for index, lane in enumerate(lanes):
        for mark in lane:
            mark.rows = (index, 1)
            track.marks.append(mark)
    return track


def bound_line(plot: Element, scale: Scale, schedule: Schedule, bottom: float) -> None:
    """The proven bound as a dashed line down to ``bottom``, with its name; nothing where it lies outside."""
    at_ns = schedule.proof.bound_ns
    if at_ns <= scale.span_ns:
        x = scale.share(at_ns)
        anchor, dx = scale.anchor(at_ns)
        words = f"proven bound {microseconds(at_ns)} µs"
        child(plot, "line", x1=x, x2=x, y1=0, y2=bottom, class_="bound")
        child(plot, "text", words, x=x, dx=dx, y=12, text_anchor=anchor, class_="boundname")
