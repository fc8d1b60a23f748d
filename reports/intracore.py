"""An answer to a task of tile operations as a page: what runs when on each pipe, what lies where in each memory.

A task has tens of thousands of operations, so the figures are drawn on canvases by the page's script, from a table of
them that the page carries; an overview and all sums are there without it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from instances.intracore import COUNTED, Pipe, Place, TileAnswer, TileTask, spill_cycles
from reports import drawing, page

PIPES = (Pipe.MTE2, Pipe.MTE1, Pipe.CUBE, Pipe.FIXP, Pipe.VECTOR, Pipe.MTE3)
"""Rows from top to bottom: as data go through the core."""

KIND = {Pipe.CUBE: "cube", Pipe.VECTOR: "vector"}
"""Colour of a pipe; that of the movers otherwise."""

OUT, BACK = "SPILL_OUT", "SPILL_IN"

STAYS, STAYS_MOVED, LEAVES, RETURNS = range(4)
"""What a buffer does while it holds its cells: its content stays; so does that of one that is moved out at some time;
it is on its way out; it is on its way back."""

SLICES = 300
"""Slices of time in the overview."""

MOST_ROWS = 300
"""Spills that are listed one by one."""


@dataclass(frozen=True)
class Stay:
    """Cells of a buffer from ``start`` to ``end`` (cycles); ``number`` is the spill that moves it, or -1."""

    buffer: int
    offset: int
    start: int
    end: int
    what: int
    number: int = -1


@dataclass(frozen=True)
class PipeRow:
    """What a pipe does: operations, their cycles, and the cycles of moves of spills."""

    pipe: Pipe
    operations: int
    work: int
    spills: int
    spill_cycles: int


@dataclass(frozen=True)
class PlaceRow:
    """What a memory holds; ``most`` are units at one time."""

    place: Place
    capacity: int
    buffers: int
    most: int
    moved: int
    traffic: int


@dataclass(frozen=True)
class Move:
    """A spill, in cycles and units."""

    number: int
    buffer: int
    place: Place
    size: int
    backed: bool
    leaves: int
    returns: int
    away: int
    traffic: int


def tile_page(task: TileTask, answer: TileAnswer, starts: Mapping[int, int], traffic: int, makespan: int) -> str:
    """One self-contained HTML page.

    Parameters
    ----------
    answer
        A valid one to sub-problem 2 or 3.
    starts, traffic, makespan
        What the judge makes of it: start of every node (cycles), extra traffic (units), time (cycles).
    """
    stays = find_stays(task, answer, starts)
    pipes = _pipe_rows(task, answer)
    places = _place_rows(task, answer, stays)
    moves = _moves(task, answer, starts)
    script = page.template_text("intracore.js")
    longest = max(pipes, key=lambda row: row.work)
    return (
        page.environment({"percent": drawing.percent})
        .get_template("intracore.html.j2")
        .render(
            task=task,
            answer=answer,
            traffic=traffic,
            makespan=makespan,
            residency=_residency(task, answer),
            longest=longest,
            gap=(makespan - longest.work) / max(1, makespan),
            pipes=pipes,
            places=places,
            moves=sorted(moves, key=lambda move: (-move.traffic, move.leaves))[:MOST_ROWS],
            overview=_overview(task, answer, starts, stays, makespan),
            slices=SLICES,
            operations=Counter(op.name for op in task.operations).most_common(),
            data=_data(task, answer, starts, stays, makespan),
            style=page.style(),
            script=Markup(script),  # ours, no data in it
            script_hash=page.script_hash(script),
        )
    )


def find_stays(task: TileTask, answer: TileAnswer, starts: Mapping[int, int]) -> list[Stay]:
    """When each buffer holds which cells, in the order of the answer."""
    claims = {one.alloc: one.id for one in task.buffers}
    frees = {one.free: one.id for one in task.buffers}
    moved = {spill.buffer for spill in answer.spills}
    held: dict[int, tuple[int, int]] = {}  # buffer -> offset, and since when its content is there
    found = []

    def stay(buffer: int, end: int) -> int:
        offset, since = held.pop(buffer)
        found.append(Stay(buffer, offset, since, end, STAYS_MOVED if buffer in moved else STAYS))
        return offset

    for node in answer.order:
        at = starts[node]
        if node in claims:
            held[claims[node]] = (answer.offsets[claims[node]], at)
        elif node in frees:
            stay(frees[node], at)
        elif node >= task.count:
            number, back = divmod(node - task.count, 2)
            spill = answer.spills[number]
            end = at + _move_cycles(task, spill.buffer, bool(back))
            if back:
                found.append(Stay(spill.buffer, spill.offset, at, end, RETURNS, number))
                held[spill.buffer] = (spill.offset, end)
            else:
                found.append(Stay(spill.buffer, stay(spill.buffer, at), at, end, LEAVES, number))
    return found


def _move_cycles(task: TileTask, buffer: int, back: bool) -> int:
    return 0 if not back and buffer in task.backed else spill_cycles(task.buffer[buffer].size)


def _pipe_rows(task: TileTask, answer: TileAnswer) -> list[PipeRow]:
    count, work = Counter[Pipe](), Counter[Pipe]()
    for op in task.operations:
        count[op.pipe] += 1
        work[op.pipe] += op.cycles
    out = sum(_move_cycles(task, spill.buffer, False) for spill in answer.spills)
    back = sum(_move_cycles(task, spill.buffer, True) for spill in answer.spills)
    cycles = {Pipe.MTE3: out, Pipe.MTE2: back}
    moves = len(answer.spills)
    return [PipeRow(p, count[p], work[p], moves if p in cycles else 0, cycles.get(p, 0)) for p in PIPES]


def _place_rows(task: TileTask, answer: TileAnswer, stays: Sequence[Stay]) -> list[PlaceRow]:
    rows = []
    for place in Place:
        mine = [one for one in task.buffers if one.place == place]
        moved = [spill for spill in answer.spills if task.buffer[spill.buffer].place == place]
        if mine:
            most = _most(
                (stay.start, stay.end, task.buffer[stay.buffer].size) for stay in stays if _in(task, stay, place)
            )
            traffic = sum(task.traffic_of_spill(spill.buffer) for spill in moved)
            rows.append(PlaceRow(place, task.capacity[place], len(mine), most, len(moved), traffic))
    return rows


def _in(task: TileTask, stay: Stay, place: Place) -> bool:
    return task.buffer[stay.buffer].place == place


def _most(spans: Iterable[tuple[int, int, int]]) -> int:
    """Largest sum of sizes at one time; what ends when another begins is not beside it."""
    changes = sorted(change for start, end, size in spans if end > start for change in ((start, size), (end, -size)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _residency(task: TileTask, answer: TileAnswer) -> int:
    """Largest sum of L1 and UB between ALLOC and FREE, along the order: what sub-problem 1 asks for."""
    sizes = {one.alloc: one.size for one in task.buffers if one.place in COUNTED}
    sizes |= {one.free: -one.size for one in task.buffers if one.place in COUNTED}
    now = most = 0
    for node in answer.order:
        now += sizes.get(node, 0)
        most = max(most, now)
    return most


def _moves(task: TileTask, answer: TileAnswer, starts: Mapping[int, int]) -> list[Move]:
    found = []
    for number, spill in enumerate(answer.spills):
        one = task.buffer[spill.buffer]
        leaves, returns = starts[task.count + 2 * number], starts[task.count + 2 * number + 1]
        away = returns - leaves - _move_cycles(task, one.id, False)
        backed = one.id in task.backed
        traffic = task.traffic_of_spill(one.id)
        found.append(Move(number, one.id, one.place, one.size, backed, leaves, returns, away, traffic))
    return found


def _overview(
    task: TileTask, answer: TileAnswer, starts: Mapping[int, int], stays: Sequence[Stay], makespan: int
) -> list[tuple[str, str, Markup, str]]:
    """Per pipe and memory: name, colour, the outline of its use over time, and its mean use in per cent."""
    rows: list[tuple[str, str, list[tuple[int, int, float]]]] = []
    spilled: dict[Pipe, list[tuple[int, int, float]]] = {Pipe.MTE2: [], Pipe.MTE3: []}
    for number, spill in enumerate(answer.spills):
        for back, pipe in ((0, Pipe.MTE3), (1, Pipe.MTE2)):
            at = starts[task.count + 2 * number + back]
            spilled[pipe].append((at, at + _move_cycles(task, spill.buffer, bool(back)), 1.0))
    for pipe in PIPES:
        spans = [(starts[op.id], starts[op.id] + op.cycles, 1.0) for op in task.operations if op.pipe == pipe]
        rows.append((pipe.value, KIND.get(pipe, "prefetch"), spans + spilled.get(pipe, [])))
    for place in Place:
        room = task.capacity[place]
        if any(one.place == place for one in task.buffers):
            spans = [(s.start, s.end, task.buffer[s.buffer].size / room) for s in stays if _in(task, s, place)]
            rows.append((place.value, "residency", spans))
    found = []
    for name, kind, spans in rows:
        use = _use(spans, makespan)
        path = "".join(f"V{1 - min(1.0, share):.3g}h1" for share in use)
        found.append((name, kind, Markup(f"M0 1{path}V1Z"), drawing.percent(sum(use) / SLICES)))  # digits alone
    return found


def _use(spans: Iterable[tuple[int, int, float]], makespan: int) -> list[float]:
    """Mean of a sum of rectangles in each of :data:`SLICES` equal slices of time."""
    use = [0.0] * (SLICES + 1)
    step = makespan / SLICES or 1.0
    for start, end, height in spans:
        first, last = int(start / step), min(SLICES - 1, int(end / step))
        if first >= last:
            use[first] += height * (end - start) / step
            continue
        use[first] += height * (first + 1 - start / step)
        for slot in range(first + 1, last):
            use[slot] += height
        use[last] += height * (end / step - last)
    return use[:SLICES]


def _data(
    task: TileTask, answer: TileAnswer, starts: Mapping[int, int], stays: Sequence[Stay], makespan: int
) -> Markup:
    """What the script draws, as JSON.

    An operation is ``[node, row, name, start, cycles, buffers]``, a stay ``[memory, buffer, offset, size, start, end,
    what]``.
    """
    names: dict[str, int] = {OUT: 0, BACK: 1}
    operations: list[list[Any]] = []
    for op in task.operations:
        name = names.setdefault(drawing.clean(op.name), len(names))
        used = list(dict.fromkeys(op.buffers))
        operations.append([op.id, PIPES.index(op.pipe), name, starts[op.id], op.cycles, used])
    for number, spill in enumerate(answer.spills):
        for back, pipe in ((0, Pipe.MTE3), (1, Pipe.MTE2)):
            node = task.count + 2 * number + back
            cycles = _move_cycles(task, spill.buffer, bool(back))
            operations.append([node, PIPES.index(pipe), back, starts[node], cycles, [spill.buffer]])
    places = [place for place in Place if any(one.place == place for one in task.buffers)]
    lying = []
    for stay in stays:
        one = task.buffer[stay.buffer]
        lying.append([places.index(one.place), one.id, stay.offset, one.size, stay.start, stay.end, stay.what])
    whole = {
        "span": max(1, makespan),
        "pipes": [pipe.value for pipe in PIPES],
        "places": [[place.value, task.capacity[place]] for place in places],
        "names": list(names),
        "backed": sorted(task.backed),
        "operations": operations,
        "stays": lying,
    }
    text = json.dumps(whole, separators=(",", ":"))
    for char in "<>&":  # nothing ends the element that it stands in
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)
