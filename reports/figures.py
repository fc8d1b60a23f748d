"""The pictures of a report: what runs when on each engine, and what lies where in L2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from instances.instance import Instance
from instances.kernels import KernelKind
from instances.machine import MemoryName
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
    size,
    time_axis,
)
from reports.facts import Block, Facts, KernelFacts, engine_label, gather, move_bytes, pack_lanes

HEAD_PX = 18
"""Strip above the tracks, for the name of the bound or of the peak."""

FOOT_PX = 22
"""Strip below the tracks, for the times."""

GUTTER_PX = 104
"""Column left of the plot, for the names of the tracks."""

L2_PX = 300
"""Height of the map of L2."""

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
    gutter, plot = _frame(height)
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
            box(plot, scale, mark.times, place, tall, mark.kind, mark.label, mark.tip)
    _bound_line(plot, scale, facts.schedule, y - 4)
    shown = {mark.kind for track in tracks for mark in track.marks}
    return Chart(gutter, plot, height, tuple(kind for kind in KIND_NAMES if kind in shown))


def l2_map(facts: Facts, width_px: float = PAGE_PX) -> Chart:
    """What lies where in L2: time across, address up; the capacity is drawn to scale once half of it is used."""
    scale = Scale(facts.span_ns, width_px)
    capacity = facts.instance.machine.capacity(MemoryName.L2)
    highest = max((block.top_bytes for block in facts.blocks), default=0)
    to_scale = 2 * highest >= capacity or highest == 0
    top_bytes = max(capacity, highest) if to_scale else highest * 1.12
    height = HEAD_PX + L2_PX + FOOT_PX
    gutter, plot = _frame(height)
    child(plot, "title", "Map of L2")
    child(plot, "desc", _l2_words(facts, capacity))

    def up(address: float) -> float:
        return HEAD_PX + L2_PX * (1 - address / top_bytes)

    child(plot, "rect", x=0, width="100%", y=HEAD_PX, height=L2_PX, class_="track")
    step = 2.0 ** (max(0, int(top_bytes) // 8)).bit_length()
    for index in range(int(top_bytes / step) + 1):
        child(gutter, "text", size(int(index * step)), x=0, y=up(index * step) + 4, class_="soft")
        child(plot, "line", x1="0", x2="100%", y1=up(index * step), y2=up(index * step), class_="grid")
    time_axis(plot, scale, HEAD_PX, HEAD_PX + L2_PX)
    for block in facts.blocks:
        tall = up(block.offset_bytes) - up(block.top_bytes)
        times = (block.start_ns, block.end_ns)
        box(plot, scale, times, up(block.top_bytes), tall, block.kind, block.name, _block_tip(block))
    line = up(capacity) if to_scale else float(HEAD_PX)
    note = f"capacity {size(capacity)}" + ("" if to_scale else " (not to scale)")
    child(plot, "line", x1="0", x2="100%", y1=line, y2=line, class_="limit")
    child(plot, "text", note, x=0, dx=4, y=line - 4 if line >= HEAD_PX else line + 12, class_="limitname")
    if facts.peak.size_bytes:
        x = scale.share(facts.peak.at_ns)
        anchor, dx = scale.anchor(facts.peak.at_ns)
        words = f"peak {size(facts.peak.size_bytes)} at {microseconds(facts.peak.at_ns)} µs"
        child(plot, "line", x1=x, x2=x, y1=HEAD_PX, y2=HEAD_PX + L2_PX, class_="peak")
        child(plot, "text", words, x=x, dx=dx, y=HEAD_PX + 14, text_anchor=anchor)
    return Chart(gutter, plot, height, tuple(sorted({block.kind for block in facts.blocks})))


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
        for text in part.iter("text"):
            text.attrib.pop("data-label", None)
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


def _l2_words(facts: Facts, capacity: int) -> str:
    return (
        f"{len(facts.blocks)} residencies and workspaces; at most {size(facts.peak.size_bytes)} of {size(capacity)} "
        f"in use, first at {microseconds(facts.peak.at_ns)} µs."
    )


def _frame(height: float) -> tuple[Element, Element]:
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
            track.marks.append(_Mark(times, row.kernel.kind.value, label, kernel_tip(facts, row), run))
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
    marks = [_Mark((r.kernel.start_ns, r.kernel.end_ns), "link", r.label, kernel_tip(facts, r)) for r in rows]
    return _laned("link", "collectives" if marks else "idle", 28, marks)


def _laned(name: str, note: str, row_px: float, marks: Iterable[_Mark]) -> _Track:
    lanes = pack_lanes(marks, lambda mark: mark.times)
    track = _Track(name, note, row_px, max(1, len(lanes)))
    for index, lane in enumerate(lanes):
        for mark in lane:
            mark.rows = (index, 1)
            track.marks.append(mark)
    return track


def _bound_line(plot: Element, scale: Scale, schedule: Schedule, bottom: float) -> None:
    at_ns = schedule.proof.bound_ns
    if at_ns <= scale.span_ns:
        x = scale.share(at_ns)
        anchor, dx = scale.anchor(at_ns)
        words = f"proven bound {microseconds(at_ns)} µs"
        child(plot, "line", x1=x, x2=x, y1=0, y2=bottom, class_="bound")
        child(plot, "text", words, x=x, dx=dx, y=12, text_anchor=anchor, class_="boundname")


def _block_tip(block: Block) -> str:
    return (
        f"{block.kind} {block.name}\n{block.size_bytes:,} bytes at {block.offset_bytes:,}\n"
        f"{microseconds(block.start_ns)} to {microseconds(block.end_ns)} µs"
    )
