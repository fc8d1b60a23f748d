"""Pictures for papers and slides: PNG, SVG or PDF by matplotlib, the same bytes for the same data.

Figures are drawn without pyplot, so that nothing global is touched; matplotlib is the extra ``plot``. What each kind
shows comes from :mod:`reports.facts`; colours are those of the report, which the colour-blind can tell apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instances.errors import InputError
from instances.frontends.extras import need
from instances.instance import Instance
from instances.kernels import KernelKind
from instances.machine import MemoryName
from instances.schedule import Kernel, MoveKind, Schedule, Source
from reports.drawing import DARK, LIGHT, clean, percent
from reports.facts import Facts, KernelFacts, gather, pack_lanes

FORMATS = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Suffix -> what is left out of the file, so that it does not change from run to run."""

SALT = "tilewright"
"""Seed of the ids in an SVG."""

SERIES = ("cube", "spill", "mix", "link", "vector", "prefetch", "phase")
"""Colours of lines and points, in order."""

MARKERS = "osD^vPX"
"""Their markers, so that nothing is told by colour alone."""

CHAR_INCHES = 0.056
"""Width of a character at 6.5 points, on the wide side."""

MOST_LABELS = 16
"""Kernels that a roofline names: those that take longest."""

MIB = 2**20


@dataclass(frozen=True)
class Style:
    """How a picture looks: width and height in inches (``None``: what its kind takes), ground, dots per inch."""

    width: float = 7.0
    height: float | None = None
    dark: bool = False
    dpi: int = 200

    @property
    def colours(self) -> dict[str, str]:
        """Colour by kind."""
        return DARK if self.dark else LIGHT


@dataclass(frozen=True)
class SearchPoint:
    """What was known after ``time_s`` seconds of search, and who found it; times of the schedule in ns."""

    time_s: float
    objective_ns: int | None
    bound_ns: int | None
    source: str


@dataclass(frozen=True)
class GapPoint:
    """One solver on one instance: the relative gap to the best proven bound; ``None`` without an answer."""

    instance: str
    solver: str
    gap: float | None


def plot_timeline(instance: Instance, schedule: Schedule, path: str | Path, style: Style | None = None) -> None:
    """What runs when: cube cores, vector cores, the HBM channel and the link over time."""
    facts = gather(instance, schedule)
    with _picture(path, style or Style(), 3.4) as (figure, colours):
        _timeline(figure, colours, facts)


def plot_map(instance: Instance, schedule: Schedule, path: str | Path, style: Style | None = None) -> None:
    """What lies where in L2: time across, address up."""
    facts = gather(instance, schedule)
    with _picture(path, style or Style(), 3.4) as (figure, colours):
        _map(figure, colours, facts)


def plot_roofline(instance: Instance, schedule: Schedule, path: str | Path, style: Style | None = None) -> None:
    """Each kernel with products: operations per byte from HBM, and operations per second, under the machine's roofs.

    The bytes are those that the kernel streams, and those that a move brought for it; where a move brought them while
    other kernels ran, a kernel can lie above the slope.
    """
    facts = gather(instance, schedule)
    with _picture(path, style or Style(), 4.2) as (figure, colours):
        _roofline(figure, colours, facts)


def plot_convergence(points: Sequence[SearchPoint], path: str | Path, style: Style | None = None) -> None:
    """Latency and bound over the seconds of the search; :class:`InputError` where there are no points."""
    if not points:
        raise InputError(
            "there is no search history to plot: the schedule holds none; solve anew with a solver that searches, or "
            "give a csv with time_s,objective_ns,bound_ns,source"
        )
    with _picture(path, style or Style(), 3.4) as (figure, colours):
        _convergence(figure, colours, sorted(points, key=lambda point: point.time_s))


def plot_gaps(points: Sequence[GapPoint], path: str | Path, style: Style | None = None) -> None:
    """A line per instance, a mark per solver at its gap to the best bound; :class:`InputError` without any."""
    if not any(point.gap is not None for point in points):
        raise InputError("the table has no row with a gap to plot; give one that 'tilewright compare -o' has written")
    rows = len(dict.fromkeys(point.instance for point in points))
    with _picture(path, style or Style(), 1.2 + 0.24 * rows) as (figure, colours):
        _gaps(figure, colours, points)


def check_format(path: Path) -> None:
    """:class:`InputError` where the suffix names no format."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no format; name it {', '.join(FORMATS)}")


@contextmanager
def _picture(path: str | Path, style: Style, height: float) -> Iterator[tuple[Any, dict[str, str]]]:
    """An empty figure to draw in; it is written when all is drawn, whole or not at all."""
    target = Path(path)
    check_format(target)
    matplotlib, figures = need("matplotlib", "plot"), need("matplotlib.figure", "plot")
    colours = style.colours
    settings = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
        "font.size": 9,
        "text.parse_math": False,  # names of tensors are no formulas
        "text.color": colours["ink"],
        "axes.labelcolor": colours["ink"],
        "axes.edgecolor": colours["soft"],
        "axes.facecolor": colours["surface"],
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": colours["surface"],
        "grid.color": colours["line"],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "xtick.color": colours["soft"],
        "ytick.color": colours["soft"],
        "xtick.labelcolor": colours["ink"],
        "ytick.labelcolor": colours["ink"],
        "pdf.fonttype": 42,
        "svg.hashsalt": SALT,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a box in a label is no reason for a warning
        figure = figures.Figure(figsize=(style.width, style.height or height), dpi=style.dpi, layout="constrained")
        yield figure, colours
        temporary = target.with_name(f".{target.name}.tmp{target.suffix}")
        try:
            figure.savefig(temporary, metadata=FORMATS[target.suffix.lower()])
            temporary.replace(target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror}); choose another place") from None
        finally:
            temporary.unlink(missing_ok=True)


def _headline(facts: Facts) -> str:
    schedule = facts.schedule
    gap = percent(schedule.gap)
    return clean(f"{facts.instance.name}: {schedule.latency_ns / 1000:,.1f} µs, gap {gap}")


def _timeline(figure: Any, colours: dict[str, str], facts: Facts) -> None:
    machine = facts.instance.machine
    axes = figure.add_subplot()
    tracks = [
        (f"AIC\n{machine.aic_count} cores", 3.2, _core_bars(facts, machine.aic_count, lambda row: row.aic_ids)),
        (f"AIV\n{machine.aiv_count} cores", 3.2, _core_bars(facts, machine.aiv_count, lambda row: row.aiv_ids)),
        ("HBM", 1.0, _channel_bars(facts)),
        ("link", 0.7, _link_bars(facts)),
    ]
    top, names, places, shown = 0.0, [], [], set()
    for name, height, bars in tracks:
        if not bars and name == "link":
            continue
        for start_ns, end_ns, low, tall, kind, label in bars:
            place = (start_ns / 1000, top + low * height)
            _box(axes, colours, place, ((end_ns - start_ns) / 1000, tall * height), kind, label, facts.span_ns / 1000)
            shown.add(kind)
        names.append(name)
        places.append(top + height / 2)
        top += height + 0.3
    bound = facts.schedule.proof.bound_ns / 1000
    axes.axvline(bound, color=colours["accent"], linestyle=(0, (4, 3)), linewidth=1.2, label="proven bound")
    axes.set(xlim=(0, facts.span_ns / 1000), ylim=(top, -0.2), xlabel="µs")
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_title(_headline(facts))
    _legend(figure, axes, colours, [kind for kind in KINDS_SHOWN if kind in shown], "proven bound")


KINDS_SHOWN = {
    "cube": "cube kernel",
    "vector": "vector kernel",
    "mix": "mixed kernel",
    "link": "collective",
    "phase": "HBM phase",
    "prefetch": "prefetch",
    "spill": "spill",
    "fill": "fill",
    "residency": "tensor",
    "workspace": "workspace",
}
"""The legend."""

Bar = tuple[int, int, float, float, str, str]
"""Start and end in ns; place and height as shares of the track; kind; label."""


def _core_bars(facts: Facts, count: int, held: Callable[[KernelFacts], tuple[int, ...]]) -> list[Bar]:
    """Kernels as tall as the cores they hold; each on the first rows that are free."""
    bars: list[Bar] = []
    for row in facts.kernels:
        cores = sorted(held(row))
        runs: list[list[int]] = []
        for core in cores:
            if runs and core == runs[-1][-1] + 1:
                runs[-1].append(core)
            else:
                runs.append([core])
        widest = max(runs, key=len, default=[])
        for run in runs:
            label = row.kernel.label if run is widest else ""
            kernel = row.kernel
            share, tall = run[0] / max(1, count), len(run) / max(1, count)
            bars.append((kernel.start_ns, kernel.end_ns, share, tall, kernel.kind.value, label))
    return bars


def _channel_bars(facts: Facts) -> list[Bar]:
    bars: list[Bar] = []
    for row in facts.kernels:
        if row.kernel.hbm_start_ns is not None:
            bars.append((row.kernel.hbm_start_ns, row.hbm_end_ns, 0.0, 1.0, "phase", row.kernel.label))
    bars += [(m.start_ns, m.end_ns, 0.0, 1.0, m.kind.value, m.tensor) for m in facts.schedule.moves]
    return bars


def _link_bars(facts: Facts) -> list[Bar]:
    rows = [row.kernel for row in facts.kernels if row.kernel.kind is KernelKind.LINK]
    lanes = pack_lanes(rows, lambda kernel: (kernel.start_ns, kernel.end_ns))
    tall = 1 / max(1, len(lanes))
    return [(k.start_ns, k.end_ns, n * tall, tall, "link", k.label) for n, lane in enumerate(lanes) for k in lane]


def _box(
    axes: Any,
    colours: dict[str, str],
    place: tuple[float, float],
    extent: tuple[float, float],
    kind: str,
    label: str,
    span: float,
) -> None:
    """A rectangle, with as much of its label as its share of the span leaves room for."""
    x, y = place
    wide, tall = extent
    edge = colours["surface"] if wide > span / 400 and (label or tall >= 1) else "none"  # a thin box is all edge
    axes.broken_barh([(x, wide)], (y, tall), facecolor=colours[kind], edgecolor=edge, linewidth=0.4)
    figure_width = axes.figure.get_figwidth()
    room = int(wide / span * (figure_width - 1.2) / CHAR_INCHES) - 1
    if label and room >= 5:
        text = clean(label)
        shown = text if len(text) <= room else text[: room - 1] + "…"
        ink = "#ffffff" if kind == "cube" else "#101418"
        axes.text(x + wide / 2, y + tall / 2, shown, ha="center", va="center", fontsize=6.5, color=ink, clip_on=True)


def _legend(figure: Any, axes: Any, colours: dict[str, str], kinds: Sequence[str], *lines: str) -> None:
    patches = need("matplotlib.patches", "plot")
    handles = [patches.Patch(facecolor=colours[kind], label=KINDS_SHOWN[kind]) for kind in kinds]
    named, _ = axes.get_legend_handles_labels()
    handles += [line for line in named if line.get_label() in lines]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))


def _map(figure: Any, colours: dict[str, str], facts: Facts) -> None:
    axes = figure.add_subplot()
    capacity = facts.instance.machine.capacity(MemoryName.L2)
    highest = max((block.top_bytes for block in facts.blocks), default=0)
    for block in facts.blocks:
        place = (block.start_ns / 1000, block.offset_bytes / MIB)
        extent = ((block.end_ns - block.start_ns) / 1000, block.size_bytes / MIB)
        tall_enough = 24 * block.size_bytes >= max(1, highest)
        label = block.name if tall_enough else ""
        _box(axes, colours, place, extent, block.kind, label, facts.span_ns / 1000)
    to_scale = 2 * highest >= capacity
    if to_scale:
        axes.axhline(capacity / MIB, color=colours["warn"], linewidth=1.2, label="capacity")
    note = "" if to_scale else f" of {capacity / MIB:,.0f} MiB"
    top = max(highest, capacity) if to_scale else max(1, highest)
    axes.set(
        xlim=(0, facts.span_ns / 1000), ylim=(0, 1.03 * top / MIB), xlabel="µs", ylabel=f"address in L2, MiB{note}"
    )
    axes.grid()
    axes.set_axisbelow(True)
    axes.set_title(_headline(facts))
    kinds = sorted({block.kind for block in facts.blocks})
    _legend(figure, axes, colours, kinds, "capacity")


@dataclass(frozen=True)
class RooflinePoint:
    """A kernel under the roofs: operations per byte from HBM, operations per ns."""

    label: str
    kind: str
    intensity: float
    rate: float
    duration_ns: int


def roofline_points(facts: Facts) -> list[RooflinePoint]:
    """All kernels that multiply; one that takes nothing from HBM has no intensity and is left out."""
    graph = facts.instance.graph
    brought = {move.tensor for move in facts.schedule.moves if move.kind is not MoveKind.SPILL}
    points = []
    for row in facts.kernels:
        operations = 2 * sum(graph.operator[name].macs for name in row.kernel.operators)
        moved = [read.tensor for read in row.kernel.reads if read.source is Source.L2 and read.tensor in brought]
        brought -= set(moved)  # the first reader is whom it was brought for
        count = row.hbm_read_bytes + row.hbm_written_bytes + sum(graph.tensor[name].size_bytes for name in moved)
        if operations and count and row.duration_ns:
            kernel, rate = row.kernel, operations / row.duration_ns
            points.append(RooflinePoint(kernel.label, kernel.kind.value, operations / count, rate, row.duration_ns))
    return points


def _roofs(facts: Facts) -> dict[str, float]:
    """Element type -> operations per ns of all cube cores, for the types that the kernels multiply in."""
    machine, graph = facts.instance.machine, facts.instance.graph
    used = set()
    for row in facts.kernels:
        used |= {_operand_type(facts, row.kernel, name) for name in row.kernel.operators if graph.operator[name].macs}
    rates = machine.cube.macs_per_cycle
    clock = machine.clock_mhz.value / 1000
    return {
        str(dtype.value): 2 * rates[dtype].value * machine.aic_count * clock
        for dtype in sorted(rates, key=lambda dtype: str(dtype.value))
        if dtype.value in used
    }


def _operand_type(facts: Facts, kernel: Kernel, operator: str) -> str:
    graph = facts.instance.graph
    reads = graph.operator[operator].reads
    return str(graph.tensor[reads[-1].tensor].dtype.value) if reads else ""


def _roofline(figure: Any, colours: dict[str, str], facts: Facts) -> None:
    axes = figure.add_subplot()
    points = roofline_points(facts)
    if not points:
        raise InputError("no kernel of the schedule both multiplies and takes bytes from HBM: there is no roofline")
    roofs = _roofs(facts)
    hbm = facts.instance.machine.hbm.rate_gb_s.value
    knees = [roof / hbm for roof in roofs.values()]
    left = min(point.intensity for point in points) / 2
    right = 4 * max([point.intensity for point in points] + knees)
    for name, roof in roofs.items():
        knee = roof / hbm
        axes.plot(
            [left, knee, right], [left * hbm / 1000, roof / 1000, roof / 1000], color=colours["soft"], linewidth=1
        )
        axes.annotate(
            f"{roof / 1000:,.0f} TOP/s, {name}",
            (right, roof / 1000),
            (-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.annotate(
        f"HBM {hbm:,.0f} GB/s", (left, left * hbm / 1000), (6, 0), textcoords="offset points", va="top", fontsize=8
    )
    for kind in dict.fromkeys(point.kind for point in points):
        chosen = [point for point in points if point.kind == kind]
        marker = MARKERS[list(KINDS_SHOWN).index(kind) % len(MARKERS)]
        xs, ys = [p.intensity for p in chosen], [p.rate / 1000 for p in chosen]
        axes.plot(
            xs,
            ys,
            marker,
            color=colours[kind],
            markeredgecolor=colours["ink"],
            markeredgewidth=0.5,
            label=KINDS_SHOWN[kind],
        )
    axes.set(xscale="log", yscale="log", xlabel="operations per byte from HBM", ylabel="TOP/s")
    _plain_ticks(axes)
    axes.grid()
    axes.set_axisbelow(True)
    axes.set_title(_headline(facts))
    axes.legend(loc="lower right")
    _name_points(axes, sorted(points, key=lambda point: -point.duration_ns)[:MOST_LABELS])


def _name_points(axes: Any, points: Sequence[RooflinePoint]) -> None:
    """Names right of the points, each below the one above it where the two would meet."""
    lowest: list[tuple[float, float]] = []  # x of a point and height of its name, in points from the axes' corner
    per_inch = 72 / axes.figure.dpi
    for point in sorted(points, key=lambda point: (-point.rate, point.intensity)):
        x, y = (per_inch * value for value in axes.transData.transform((point.intensity, point.rate / 1000)))
        name = min([y, *(height - 8 for other, height in lowest if abs(other - x) < 110)])
        lowest.append((x, name))
        offset = (7, name - y)
        place = (point.intensity, point.rate / 1000)
        axes.annotate(clean(point.label)[:32], place, offset, textcoords="offset points", fontsize=6.5, va="center")


def _plain_ticks(axes: Any) -> None:
    """Numbers at the ticks of logarithmic axes, not powers as formulas."""
    ticker = need("matplotlib.ticker", "plot")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def _convergence(figure: Any, colours: dict[str, str], points: Sequence[SearchPoint]) -> None:
    axes = figure.add_subplot()
    found: list[tuple[float, float, str, str]] = []
    for attribute, name, colour in (("objective_ns", "latency", "cube"), ("bound_ns", "proven bound", "spill")):
        known = [(p.time_s, getattr(p, attribute) / 1000, p.source) for p in points if getattr(p, attribute)]
        if not known:
            continue
        times, values = [point[0] for point in known], [point[1] for point in known]
        times, values = [*times, points[-1].time_s], [*values, values[-1]]
        axes.step(times, values, where="post", color=colours[colour], label=name, linewidth=1.6)
        if attribute == "objective_ns" or values[-1] * 1000 != points[-1].objective_ns:  # else it stands there already
            axes.annotate(f"{values[-1]:,.1f}", (times[-1], values[-1]), (3, 0), textcoords="offset points", fontsize=8)
        before = [None, *(point[1] for point in known)]
        found += [(*point, attribute) for point, last in zip(known, before, strict=False) if point[1] != last]
    axes.set(xlabel="seconds of search", ylabel="µs")
    axes.margins(x=0.08, y=0.1)
    _name_finders(axes, colours, found)
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="best")


def _name_finders(axes: Any, colours: dict[str, str], found: Sequence[tuple[float, float, str, str]]) -> None:
    """Who found each better latency (above) and each better bound (below), as far as names do not meet."""
    placed: list[tuple[float, float, float]] = []  # left, right and height of a name, in points
    per_inch = 72 / axes.figure.dpi
    for time_s, value, source, attribute in found:
        axes.plot([time_s], [value], ".", color=colours["ink"], markersize=4)
        up = 5 if attribute == "objective_ns" else -5
        x, y = (per_inch * place for place in axes.transData.transform((time_s, value)))
        right = x + 72 * CHAR_INCHES * len(source)
        if all(right < left or end < x or abs(y + up - height) > 8 for left, end, height in placed):
            placed.append((x, right, y + up))
            axes.annotate(
                clean(source),
                (time_s, value),
                (2, up),
                textcoords="offset points",
                va="bottom" if up > 0 else "top",
                fontsize=6.5,
                color=colours["soft"],
            )


def _gaps(figure: Any, colours: dict[str, str], points: Sequence[GapPoint]) -> None:
    axes = figure.add_subplot()
    instances = list(dict.fromkeys(point.instance for point in points))
    solvers = list(dict.fromkeys(point.solver for point in points))
    for index, solver in enumerate(solvers):
        chosen = [(p.gap, instances.index(p.instance)) for p in points if p.solver == solver and p.gap is not None]
        axes.plot(
            [100 * gap for gap, _ in chosen],
            [row for _, row in chosen],
            MARKERS[index % len(MARKERS)],
            color=colours[SERIES[index % len(SERIES)]],
            markersize=5,
            markeredgecolor=colours["ink"],
            markeredgewidth=0.4,
            label=clean(solver),
            zorder=3 + len(solvers) - index,
        )
    axes.set_yticks(range(len(instances)), [clean(name) for name in instances])
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(need("matplotlib.ticker", "plot").StrMethodFormatter("{x:g}"))
    axes.set(xlabel="gap to the best proven bound, %", ylim=(len(instances) - 0.5, -0.5))
    axes.set_xlim(left=-0.1)
    axes.grid()
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=min(5, len(solvers)))
