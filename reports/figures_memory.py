"""The pictures of memories: all of them on one scale, L2 over time, and the buffers of a kernel in its cores.

Bytes always run across. Each picture says how many bytes its full width is, and how many times that magnifies the
scale of the one that shows all memories together.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from instances.machine import MemoryName, Scope
from reports.drawing import (
    LABEL_PX,
    Element,
    Scale,
    child,
    clean,
    fitted,
    microseconds,
    nice_step,
    size,
)
from reports.facts import Block, Facts, Layout, used_bytes
from reports.figures import GUTTER_PX, PAGE_PX, frame

MAP_PX, AXIS_PX, TIMES_PX = 440, 34, GUTTER_PX
"""Height of the map of L2, of the strip with its addresses, and width of the column with its times."""

ROW_PX = 30
"""Height of a memory in the pictures without time."""

LEAST_WIDTH_BYTES = 65536
"""The map of L2 is not magnified beyond this."""

IN_CORE = (MemoryName.L1, MemoryName.L0A, MemoryName.L0B, MemoryName.L0C, MemoryName.UB)
"""Memories of a core, in the order shown."""

SHADES = ("residency", "workspace", "fill", "prefetch")
"""Fills of a layout's buffers, in turn."""


@dataclass(frozen=True)
class MemoryRow:
    """A memory of the chip: how many there are, capacity and most use (bytes) of one and of all together."""

    memory: MemoryName
    count: int
    capacity_bytes: int
    used_bytes: int
    used_together_bytes: int

    @property
    def together_bytes(self) -> int:
        """Capacity of all of them."""
        return self.count * self.capacity_bytes


@dataclass(frozen=True)
class Map:
    """The map of L2: a strip of addresses, a column of times, the plot, and what its width stands for."""

    axis: Element
    times: Element
    plot: Element
    width_bytes: int
    magnified: int
    kinds: tuple[str, ...]


def memory_rows(facts: Facts) -> tuple[MemoryRow, ...]:
    """L2 and the memories of the cores, with their use."""
    machine = facts.instance.machine
    capacity = machine.capacity(MemoryName.L2)
    rows = [MemoryRow(MemoryName.L2, 1, capacity, facts.peak.size_bytes, facts.peak.size_bytes)]
    for memory in IN_CORE:
        of_aic = machine.memories[memory].scope is not Scope.AIV
        uses = [
            (used, len(row.aic_ids if of_aic else row.aiv_ids) or 1)
            for row in facts.kernels
            if (used := used_bytes(row.kernel.buffers).get(memory, 0))
        ]
        most = max((used for used, _ in uses), default=0)
        together = max((used * cores for used, cores in uses), default=0)
        count = machine.aic_count if of_aic else machine.aiv_count
        rows.append(MemoryRow(memory, count, machine.capacity(memory), most, together))
    return tuple(rows)


def scale_bytes(facts: Facts) -> int:
    """Bytes that the full width stands for where all memories are on one scale: the largest of them."""
    return max(row.together_bytes for row in memory_rows(facts))


def overview(facts: Facts, width_px: float = PAGE_PX) -> tuple[Element, Element]:
    """All memories of the chip but HBM on one scale, what there is and the most that is used at once: gutter, plot."""
    rows, whole = memory_rows(facts), scale_bytes(facts)
    gutter, plot = frame(len(rows) * (ROW_PX + 4) + 2)
    child(plot, "title", "Memories on one scale")
    words = [f"{_name(row.memory)} {size(row.used_together_bytes)} of {size(row.together_bytes)}" for row in rows]
    child(plot, "desc", f"Most in use at once: {', '.join(words)}. The full width is {size(whole)}.")
    for index, row in enumerate(rows):
        y = 2 + index * (ROW_PX + 4)
        child(gutter, "text", _name(row.memory), x=0, y=y + 13)
        child(gutter, "text", f"{row.count} × {size(row.capacity_bytes)}", x=0, y=y + 26, class_="soft")
        for value, kind in ((row.together_bytes, "room"), (row.used_together_bytes, "residency")):
            child(plot, "rect", x=0, y=y, width=_share(value, whole), height=ROW_PX, class_=kind)
        text = f"{size(row.used_together_bytes)} of {size(row.together_bytes)}"
        wide = 7 * len(text)
        if width_px * row.together_bytes / whole < wide:
            child(plot, "text", text, x=_share(row.together_bytes, whole), dx=6, y=y + 19)
        elif width_px * row.used_together_bytes / whole > wide:
            child(plot, "text", text, x=0, dx=6, y=y + 19, class_="on")
        else:
            child(plot, "text", text, x=_share(row.used_together_bytes, whole), dx=6, y=y + 19, class_="halo")
    return gutter, plot


def l2_map(facts: Facts, width_px: float = PAGE_PX) -> Map:
    """What lies where in L2: address across, time down, the capacity as a line, the peak as another.

    Where little is used the addresses are magnified by a power of two, so that what is there can be seen.
    """
    scale = Scale(facts.span_ns, MAP_PX)
    capacity, whole = facts.instance.machine.capacity(MemoryName.L2), scale_bytes(facts)
    highest = max((block.top_bytes for block in facts.blocks), default=0)
    magnified = 1
    if 0 < 8 * highest <= whole:  # else the capacity is worth more than the size of what is there
        while 2 * magnified * highest <= whole and whole // magnified > LEAST_WIDTH_BYTES:
            magnified *= 2
    width_bytes = max(whole // magnified, highest if magnified == 1 else 0)
    axis, times, plot = _still(AXIS_PX, "axis"), _still(MAP_PX, "times"), _still(MAP_PX)
    times.set("width", str(TIMES_PX))
    for part in (axis, times):
        part.attrib.pop("role")
        part.set("aria-hidden", "true")
    plot.set("height", f"{MAP_PX}")
    child(plot, "title", "Map of L2")
    child(plot, "desc", _l2_words(facts, capacity))
    child(plot, "rect", x=0, y=0, width="100%", height="100%", class_="track")
    _address_axis(axis, plot, width_bytes, width_px)
    _time_ticks(times, plot, scale)
    for block in facts.blocks:
        _block(plot, scale, block, width_bytes, width_px)
    if capacity <= width_bytes:
        x = _share(capacity, width_bytes)
        child(plot, "line", x1=x, x2=x, y1="0", y2="100%", class_="limit")
        child(axis, "text", f"capacity {size(capacity)}", x=x, dx=-4, y=12, text_anchor="end", class_="limitname")
    else:
        words = f"capacity {size(capacity)}, {capacity / width_bytes:.3g} times this width →"
        child(axis, "text", words, x="100%", dx=-4, y=12, text_anchor="end", class_="limitname")
    if facts.peak.size_bytes:
        y = scale.share(facts.peak.at_ns)
        words = f"peak {size(facts.peak.size_bytes)} at {microseconds(facts.peak.at_ns)} µs"
        child(plot, "line", x1="0", x2="100%", y1=y, y2=y, class_="peak")
        dy = -4 if 2 * facts.peak.at_ns > facts.span_ns else 13
        child(plot, "text", words, x="100%", dx=-6, y=y, dy=dy, text_anchor="end", class_="halo")
    return Map(axis, times, plot, width_bytes, magnified, tuple(sorted({block.kind for block in facts.blocks})))


def in_core_map(facts: Facts, layout: Layout) -> tuple[Element, Element]:
    """The buffers of a layout at their addresses, slot by slot, in every memory of the cores used: gutter, plot."""
    machine = facts.instance.machine
    whole = in_core_bytes(facts)
    scopes = {machine.memories[buffer.memory].scope for buffer in layout.buffers}
    shown = [memory for memory in IN_CORE if machine.memories[memory].scope in scopes]
    gutter, plot = frame(len(shown) * (ROW_PX + 4) + 2)
    used = ", ".join(f"{_name(memory)} {size(used)}" for memory, used in layout.used_bytes.items())
    child(plot, "title", f"In-core buffers of kernel {layout.numbers[0]}")
    child(plot, "desc", f"Used: {used}. The table below has every buffer.")
    for index, memory in enumerate(shown):
        y = 2 + index * (ROW_PX + 4)
        capacity = machine.capacity(memory)
        child(gutter, "text", _name(memory), x=0, y=y + 13)
        child(gutter, "text", f"of {size(capacity)}", x=0, y=y + 26, class_="soft")
        child(plot, "rect", x=0, y=y, width=_share(capacity, whole), height=ROW_PX, class_="room")
        for turn, buffer in enumerate(each for each in layout.buffers if each.memory is memory):
            for slot in range(buffer.slots):
                offset = buffer.offset_bytes + slot * buffer.size_bytes
                # an inner viewport clips the name at the border of the slot, at any width of the page
                inner = child(plot, "svg", x=_share(offset, whole), width=_share(buffer.size_bytes, whole))
                inner.set("y", str(y))
                inner.set("height", str(ROW_PX))
                tip = f"{buffer.name}, slot {slot + 1} of {buffer.slots}, {buffer.size_bytes:,} bytes at {offset:,}"
                child(inner, "title", tip)
                child(inner, "rect", width="100%", height="100%", class_=f"mark {SHADES[turn % len(SHADES)]}")
                child(inner, "text", buffer.name if slot == 0 else f"+{slot}", x=4, y=19, class_="on")
        free = f"{size(layout.used_bytes.get(memory, 0))} used" if 2 * capacity <= whole else ""
        child(plot, "text", free, x=_share(capacity, whole), dx=6, y=y + 19, class_="soft")
    return gutter, plot


def _name(memory: MemoryName) -> str:
    return memory.value.upper()


def in_core_bytes(facts: Facts) -> int:
    """Bytes that the full width of the in-core maps stands for: the largest memory of a core."""
    return max(facts.instance.machine.capacity(memory) for memory in IN_CORE)


def _still(height: float, kind: str = "plot") -> Element:
    plot = ElementTree.Element("svg", {"class": f"chart {kind}", "role": "img", "width": "100%"})
    plot.set("height", f"{height:g}")
    return plot


def _share(value: float, whole: float) -> str:
    return f"{100 * value / whole:.6g}%"


def _address_axis(axis: Element, plot: Element, width_bytes: int, width_px: float) -> None:
    """Addresses in steps of a power of two, which the script draws anew where the map is stretched."""
    labels, lines = child(axis, "g", class_="labels"), child(plot, "g", class_="columns")
    step = 1
    while width_bytes / step > width_px / 110:
        step *= 2
    for index in range(int(width_bytes // step) + 1):
        x = _share(index * step, width_bytes)
        anchor = "start" if index == 0 else "end" if index * step > 0.95 * width_bytes else "middle"
        child(labels, "text", size(index * step), x=x, y=AXIS_PX - 6, text_anchor=anchor, class_="soft")
        child(lines, "line", x1=x, x2=x, y1="0", y2="100%", class_="grid")


def _time_ticks(times: Element, plot: Element, scale: Scale) -> None:
    labels, lines = child(times, "g", class_="labels"), child(plot, "g", class_="rows")
    step = nice_step(scale.span_ns, 9)
    for index in range(int(scale.span_ns / step) + 1):
        y = scale.share(index * step)
        text = child(labels, "text", f"{index * step / 1000:g} µs", x=TIMES_PX - 6, y=y, dy=4, class_="soft")
        text.set("text-anchor", "end")
        if index == 0:
            text.set("dy", "10")
        elif index * step > 0.97 * scale.span_ns:
            text.set("dy", "-2")
        child(lines, "line", x1="0", x2="100%", y1=y, y2=y, class_="grid")


def _block(plot: Element, scale: Scale, block: Block, width_bytes: int, width_px: float) -> None:
    wide, high = width_px * block.size_bytes / width_bytes, scale.px(block.end_ns - block.start_ns)
    group = child(plot, "g")
    child(group, "title", _block_tip(block))
    rect = child(group, "rect", class_=f"mark {block.kind}" if min(wide, high) >= 2 else f"mark thin {block.kind}")
    places = (("x", block.offset_bytes / width_bytes), ("width", block.size_bytes / width_bytes))
    for name, value in places:
        rect.set(name, f"{100 * value:.6g}%")
    rect.set("y", scale.share(block.start_ns))
    rect.set("height", scale.share(block.end_ns - block.start_ns))
    group.set("data-label", clean(block.name))
    if high >= LABEL_PX and (shown := fitted(clean(block.name), wide)):
        child(group, "text", shown, x=rect.get("x", "0"), dx=4, y=rect.get("y", "0"), dy=11, class_="on")


def _block_tip(block: Block) -> str:
    return (
        f"{block.kind} {block.name}\n{block.size_bytes:,} bytes at {block.offset_bytes:,}\n"
        f"{microseconds(block.start_ns)} to {microseconds(block.end_ns)} µs"
    )


def _l2_words(facts: Facts, capacity: int) -> str:
    return (
        f"{len(facts.blocks)} residencies and workspaces; at most {size(facts.peak.size_bytes)} of {size(capacity)} "
        f"in use, first at {microseconds(facts.peak.at_ns)} µs."
    )
