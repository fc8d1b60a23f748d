"""The parts of a report beyond timeline and kernels: groups, memories on scale, roofline, moves, search, comparison."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

import opt
from instances.instance import Instance
from instances.kernels import Buffer, Cost
from instances.machine import MemoryName
from instances.schedule import Move, MoveKind, Read, Residency, Schedule, SearchPoint, Source
from reports.facts import Facts, gather, layouts
from reports.figures import groups_timeline
from reports.figures_memory import in_core_bytes, in_core_map, l2_map, memory_rows, overview, scale_bytes
from reports.figures_plots import convergence, improvements, rate_text, roofline
from reports.groups import bands, spans
from reports.html import render_report
from reports.moves import move_facts, move_key
from reports.roofline import points, roofs
from tests.reports.test_report import EVIL, QUOTE, SIZE, Page

SEARCH = (
    SearchPoint(time_s=0.02, objective_ns=None, bound_ns=2622, source="traffic"),
    SearchPoint(time_s=0.2, objective_ns=9301, bound_ns=2622, source=EVIL),
    SearchPoint(time_s=2.0, objective_ns=7301, bound_ns=6900, source="condensed"),
    SearchPoint(time_s=20.0, objective_ns=7301, bound_ns=6900, source="end of the search"),
)


@pytest.fixture
def facts(instance: Instance, schedule: Schedule) -> Facts:
    return gather(instance, schedule)


def share(element: ElementTree.Element, name: str) -> float:
    """An attribute in percent as a share."""
    value = element.get(name, "")
    assert value.endswith("%")
    return float(value[:-1]) / 100


# ------------------------------------------------------------------------------------- core groups


def test_groups_that_do_the_same_are_one_band(facts: Facts) -> None:
    """Four cube cores with two vector cores each: kernels 1 on all cubes, 2 on cubes 0 and 2, 3 on vectors 6 and 7."""
    found = [
        (band.groups, [(lane.name, [row.number for row in lane.kernels]) for lane in band.lanes])
        for band in bands(facts)
    ]
    assert found == [
        ((0, 2), [("AIC", [1, 2]), ("AIV ×2", [2])]),
        ((1,), [("AIC", [1]), ("AIV ×2", [])]),
        ((3,), [("AIC", [1]), ("AIV ×2", [3])]),
    ]
    assert {band.cores for band in bands(facts)} == {"1 AIC + 2 AIV"}


def test_vector_cores_of_a_group_that_differ_have_lanes_of_their_own(instance: Instance, schedule: Schedule) -> None:
    alone = schedule.kernels[2].model_copy(update={"aiv_ids": (6,)})
    kernels = (*schedule.kernels[:2], alone, schedule.kernels[3])
    last = bands(gather(instance, schedule.model_copy(update={"kernels": kernels})))[-1]
    assert [(lane.name, len(lane.kernels)) for lane in last.lanes] == [("AIC", 1), ("AIV", 1), ("AIV", 0)]


def test_vector_cores_without_a_cube_core_are_groups_of_their_own(instance: Instance, schedule: Schedule) -> None:
    """As on a chip with 8 cores of both kinds and 7 of vectors alone."""
    kernel = schedule.kernels[2].model_copy(update={"aiv_ids": (6, 7, 9)})
    kernels = (*schedule.kernels[:2], kernel, schedule.kernels[3])
    last = bands(gather(instance, schedule.model_copy(update={"kernels": kernels})))[-1]
    assert (last.groups, last.cores) == ((4,), "2 AIV")


def test_every_kernel_on_cores_is_in_every_band_that_runs_it(facts: Facts) -> None:
    plot = groups_timeline(facts).plot
    marks = [group.get("data-k") for group in plot.iter("g") if group.get("data-k")]
    assert sorted(marks) == sorted(["1"] * 3 + ["2"] * 2 + ["3"])


def test_spans() -> None:
    assert spans([7, 1, 2, 3, 9, 10]) == "1–3, 7, 9–10"
    assert spans([]) == ""


# ------------------------------------------------------------------------------------- memories


def test_memories_are_on_one_scale(facts: Facts) -> None:
    """Chip: L2 4 MiB, 4 cube cores, 8 vector cores; kernel 1 holds all cube cores."""
    rows = {row.memory: row for row in memory_rows(facts)}
    assert scale_bytes(facts) == 2**22
    assert (rows[MemoryName.L2].count, rows[MemoryName.L2].used_bytes) == (1, 4 * SIZE + 65536)
    l1 = rows[MemoryName.L1]
    assert (l1.count, l1.capacity_bytes, l1.used_bytes, l1.used_together_bytes) == (4, 2**19, 2 * 65536, 8 * 65536)
    assert (rows[MemoryName.UB].count, rows[MemoryName.UB].used_together_bytes) == (8, 0)
    _, plot = overview(facts)
    drawn = [share(rect, "width") for rect in plot.iter("rect")]
    expected = [value for row in memory_rows(facts) for value in (row.together_bytes, row.used_together_bytes)]
    assert drawn == pytest.approx([value / 2**22 for value in expected], abs=1e-6)


def test_l2_runs_across_and_time_down(facts: Facts, schedule: Schedule) -> None:
    found = l2_map(facts)
    assert (found.width_bytes, found.magnified) == (2**22, 1)
    group = next(g for g in found.plot.iter("g") if (g.findtext("title") or "").startswith("residency s\n"))
    rect = group.find("rect")
    assert rect is not None
    place = [share(rect, name) for name in ("x", "width", "y", "height")]
    assert place == pytest.approx([2 * SIZE / 2**22, SIZE / 2**22, 2600 / 7301, 4701 / 7301], rel=1e-5)
    words = [text.text or "" for part in (found.axis, found.plot) for text in part.iter("text")]
    assert "capacity 4.00 MiB" in words
    assert "peak 2.06 MiB at 2.700 µs" in words
    limit = next(line for line in found.plot.iter("line") if line.get("class") == "limit")
    assert share(limit, "x1") == 1


def test_little_in_l2_is_magnified_and_says_so(instance: Instance, schedule: Schedule) -> None:
    few = Residency(tensor="h", offset_bytes=0, size_bytes=65536, start_ns=0, end_ns=4700)
    kernels = tuple(kernel.model_copy(update={"workspace_offset_bytes": None}) for kernel in schedule.kernels)
    small = schedule.model_copy(update={"kernels": kernels, "residencies": (few,)})
    found = l2_map(gather(instance, small))
    assert (found.width_bytes, found.magnified) == (2**16, 64)
    assert "capacity 4.00 MiB, 64 times this width →" in [text.text for text in found.axis.iter("text")]
    assert "full width is 64.00 KiB, 64 times the scale" in " ".join(Page(render_report(instance, small)).text.split())


def test_in_core_maps_show_every_slot_where_it_lies(facts: Facts) -> None:
    (layout,) = layouts(facts)
    assert layout.numbers == (1, 2)
    assert in_core_bytes(facts) == 2**19
    _, plot = in_core_map(facts, layout)
    slots = [(share(s, "x"), share(s, "width"), s.findtext("title") or "") for s in plot.iter("svg") if s is not plot]
    assert [place for x, width, _ in slots for place in (x, width)] == [0, 1 / 8, 1 / 8, 1 / 8, 0, 1 / 4]
    assert slots[1][2] == f"left {EVIL}, slot 2 of 2, 65,536 bytes at 65,536"
    rooms = [share(rect, "width") for rect in plot.iter("rect") if rect.get("class") == "room"]
    assert rooms == pytest.approx([1, 1 / 8, 1 / 8, 1 / 4])  # L1, L0A, L0B, L0C: no vector core is in it


def test_kernels_of_one_layout_share_its_map(instance: Instance, schedule: Schedule) -> None:
    other = (Buffer(name="rows", memory=MemoryName.UB, offset_bytes=0, size_bytes=1024, slots=1),)
    kernels = (*schedule.kernels[:2], schedule.kernels[2].model_copy(update={"buffers": other}), schedule.kernels[3])
    html = render_report(instance, schedule.model_copy(update={"kernels": kernels}))
    assert re.findall(r'<a href="#(m\d)">map<span class="hidden"> of kernel (\d)', html) == [
        *(("m1", "1"), ("m1", "2"), ("m2", "3")),
    ]
    assert html.count("In-core buffers of kernel") == 2


# ------------------------------------------------------------------------------------- roofline


def test_points_of_the_roofline(instance: Instance, schedule: Schedule, facts: Facts, prices: dict[str, Cost]) -> None:
    """Kernel 1: 2^20 multiply-accumulates, one tensor from HBM; kernel 2 nothing from there; others compute nothing."""
    one, two = points(facts)
    assert ([row.number for row in one.rows], [row.number for row in two.rows]) == ([1], [2])
    assert (one.operations, one.rate) == (2**21, 2**21 / 2600)
    assert (one.per_hbm_byte, one.per_l2_byte) == (2**21 / SIZE, 2**21 / (3 * SIZE))
    assert (two.per_hbm_byte, two.kind) == (None, "mix")
    assert {roof.name: roof.value for roof in roofs(facts)} == pytest.approx(
        {"HBM": 1000, "L2": 4000, "cube, float16": 2 * 4096 * 4, "vector": 64 / 1.5 * 8}
    )
    twice = schedule.model_copy(update={"kernels": (*schedule.kernels, schedule.kernels[0])})
    assert [len(point.rows) for point in points(gather(instance, twice))] == [2, 1]


def test_the_roofline_has_its_numbers_beside_it(instance: Instance, schedule: Schedule, facts: Facts) -> None:
    drawn = roofline(facts)
    assert drawn is not None
    marks = [(circle.get("class") or "").split() for circle in drawn[1].iter("circle")]
    assert sorted(marks) == [["dot", "cube"], ["ring", "cube"], ["ring", "mix"]]
    page = Page(render_report(instance, schedule))
    assert ["1", "up", "cube", "2,097,152", "807 G", "4", "1.333"] in page.rows
    assert ["2", f"{EVIL}, gelu", "mix", "2,097,152", "999 G", "no HBM traffic", "2"] in page.rows
    assert ["cube, float16", "32.8 T operations/s"] in page.rows
    assert ["HBM", "1,000 GB/s"] in page.rows


def test_no_roofline_of_kernels_that_compute_nothing(instance: Instance, schedule: Schedule) -> None:
    idle = schedule.model_copy(update={"kernels": schedule.kernels[3:]})
    assert roofline(gather(instance, idle)) is None
    assert "No kernel has both operations and traffic" in Page(render_report(instance, idle)).text


def test_rates() -> None:
    assert [rate_text(rate) for rate in (1e-9, 1.5e-3, 0.25, 353.9e3, 5e9)] == [
        "1",
        "1.5 M",
        "250 M",
        "354 T",
        "5e+03 P",
    ]


# ------------------------------------------------------------------------------------- moves


def test_what_is_known_of_moves(instance: Instance, schedule: Schedule, facts: Facts) -> None:
    """Phases of kernels: 600-1125, 3300-4801, 6776-7301."""
    brought, taken = move_facts(facts)
    assert (brought.reader.number if brought.reader else None, brought.wait_ns) == (2, 2000)
    assert (brought.duration_ns, brought.idle_ns, brought.under_ns) == (600, 600, 600)
    assert (taken.reader, taken.fill, taken.wait_ns) == (None, None, None)
    assert (taken.duration_ns, taken.idle_ns, taken.under_ns) == (725, 3300 - 1125, 725)
    page = Page(render_report(instance, schedule))
    assert [
        *(f"weight {EVIL}", "prefetch", "0.000", "0.600", f"{SIZE:,}", "kernel 2", "2.000", "0.600", "0.600", "0.600")
    ] in page.rows
    assert page.row(f"h {QUOTE}")[5] == "nobody: it is a result"


def test_a_spill_is_for_the_fill_or_the_reader_that_comes_first(instance: Instance, schedule: Schedule) -> None:
    hidden = f"h {QUOTE}"
    fill = Move(tensor=hidden, kind=MoveKind.FILL, start_ns=5000, end_ns=5100)
    both = schedule.model_copy(update={"moves": (*schedule.moves, fill)})
    spilled = move_facts(gather(instance, both))[1]
    assert (spilled.fill, spilled.reader, spilled.wait_ns) == (fill, None, 5000 - 1925)
    again = schedule.kernels[2].model_copy(update={"reads": (Read(tensor=hidden, source=Source.HBM),)})
    early = both.model_copy(update={"kernels": (*schedule.kernels[:2], again, schedule.kernels[3])})
    spilled = move_facts(gather(instance, early))[1]
    assert (spilled.fill, spilled.reader.number if spilled.reader else 0, spilled.wait_ns) == (None, 3, 2700 - 1925)


# ------------------------------------------------------------------------------------- search, comparison, reasons


def test_the_search_is_drawn_as_steps_and_told_in_numbers(instance: Instance, schedule: Schedule) -> None:
    told = schedule.model_copy(update={"search": SEARCH})
    drawn = convergence(told)
    assert drawn is not None
    paths = {path.get("class"): path.get("d") or "" for path in drawn[1].iter("path")}
    assert paths["step objective"].count("V") == 2  # one drop, and on to the end
    assert paths["step provenby"].count("V") == 3
    down = [int(y) for y in re.findall(r"(?:V|M\d+ )(\d+)", paths["step objective"])]
    assert down == sorted(down)
    assert down[0] < down[-1]  # downwards on the page
    assert EVIL in [text.text for text in drawn[1].iter("text")]
    assert [better for _, better in improvements(SEARCH)] == ["bound", "latency", "latency and bound", ""]
    html = render_report(instance, told)
    assert EVIL not in html
    page = Page(html)
    assert ["0.020", "", "2.622", "bound", "traffic"] in page.rows
    assert ["2.000", "7.301", "6.900", "latency and bound", "condensed"] in page.rows
    assert convergence(schedule) is None
    assert "does not tell how it was found" in Page(render_report(instance, schedule)).text


def test_the_answer_is_held_against_others(instance: Instance, schedule: Schedule) -> None:
    page = Page(render_report(instance, schedule, baselines={"stack": 14602, "unfused": 7301, EVIL: 3650}))
    words = " ".join(page.text.split())
    assert "It takes 50.00 % less than stack (14.602 µs)" in words
    assert "as long as unfused (7.301 µs)" in words
    assert f"100.03 % more than {EVIL}" in words
    assert ["stack", "14.602", "2.00 ×"] in page.rows
    assert "stack takes" not in Page(render_report(instance, schedule)).text


def test_reasons_are_shown_where_they_belong(instance: Instance, schedule: Schedule) -> None:
    kernel, move = schedule.kernels[1], schedule.moves[0]
    reasons = {kernel.label: f"no room {EVIL}", move_key(move): "in time for its reader", "nothing here": "lost"}
    html = render_report(instance, schedule, reasons=reasons)
    page = Page(html)
    assert EVIL not in html
    said = [" ".join(row[-1].split()) for row in page.kernel_rows()]
    assert [bool(words) for words in said] == [False, True, False, False]
    assert said[1].endswith(f"no room {EVIL}")
    header = next(row for row in page.rows if row[:2] == ["No.", "Operators"])
    assert header[-1] == "Why not fused further"
    moved = next(row for row in page.rows if row[:2] == [move.tensor, "prefetch"])
    assert moved[-1].endswith("in time for its reader")
    assert "lost" not in page.text
    assert "Why" not in Page(render_report(instance, schedule)).text


def test_the_question_is_one_line(instance: Instance, schedule: Schedule) -> None:
    text = " ".join(Page(render_report(instance, schedule)).text.split())
    assert f"Question toy {EVIL}, decode, batch 4, note " in text
    silent = instance.model_copy(update={"origin": {}})
    assert "Question" not in Page(render_report(silent, schedule)).text


def test_a_whole_model_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 layers: well below what browsers take in their stride, in bytes and in elements."""
    monkeypatch.undo()  # real prices
    model = opt.generate("qwen3-32b", phase="decode", batch=32, context=4096, tp=8, machine="ascend910b2")
    answer = opt.solve(model, 60, "stack", workers=1, first_feasible=True)
    html = opt.report(model, answer.schedule)
    assert len(answer.schedule.kernels) > 600
    assert len(html.encode()) < 4 * 10**6  # the promise is 10 MB
    assert html.count("<") < 130_000
