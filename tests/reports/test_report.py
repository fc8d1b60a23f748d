"""The HTML report and its figures: what is shown equals the schedule, and no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from instances import costs
from instances.errors import InputError
from instances.graph import Graph
from instances.instance import Instance
from instances.kernels import Cost, KernelKind, Tiling
from instances.machine import Machine
from instances.schedule import Move, MoveKind, Schedule
from reports.drawing import clean, fitted, microseconds, nice_step, percent, size
from reports.facts import UNPRICED, bound_of, gather, machine_rows, uses
from reports.figures import timeline_svg
from reports.html import render_report, write_report

EVIL = "<script>alert(1)</script>"
QUOTE = "\"><img src=x onerror='alert(2)'>&amp;{{ 7 * 7 }}"
CONTROL = "bell\x07 nul\x00 turn\u202eed ]]>"
SIZE = 512 * 1024
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags with attributes, the cells of table rows, and the text of a page as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.row_ids: list[str | None] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
            self.row_ids.append(dict(attrs).get("id"))
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def kernel_rows(self) -> list[list[str]]:
        """Rows of the kernel table."""
        return [row for row, name in zip(self.rows, self.row_ids, strict=True) if name]

    def row(self, first: str) -> list[str]:
        """The row whose first cell reads so."""
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture
def html(instance: Instance, schedule: Schedule) -> str:
    return render_report(instance, schedule)


@pytest.fixture
def page(html: str) -> Page:
    return Page(html)


def test_no_name_becomes_markup(html: str, page: Page) -> None:
    names = [name for name, _ in page.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert not [attribute for _, attributes in page.tags for attribute in attributes if attribute.startswith("on")]
    assert EVIL not in html
    assert EVIL in page.text
    assert QUOTE in page.text
    assert "49" not in re.findall(r"&amp;amp;(.{0,4})", html)


def test_control_characters_are_replaced(html: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert clean(CONTROL) == "bell\ufffd nul\ufffd turn\ufffded ]]>"


def test_nothing_is_loaded(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    style = html[html.index("<style>") : html.index("</style>")]
    script = html[html.index("<script>") : html.index("</script>")]
    for word in ("url(", "@import", "http://", "https://", "fetch(", "import("):
        assert word not in style
        assert word not in script


def test_policy_allows_the_one_script(html: str, page: Page) -> None:
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    wanted = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{wanted}'" in policy
    assert "default-src 'none'" in policy


def figures_of(html: str) -> list[ElementTree.Element]:
    """The figures of a page; those inside of others stay there."""
    found, depth, begin = [], 0, 0
    for tag in re.finditer(r"<svg\b[^>]*?(/?)>|</svg>", html):
        if tag.group().startswith("</"):
            depth -= 1
            if depth == 0:
                found.append(ElementTree.fromstring(html[begin : tag.end()]))
        elif not tag.group(1):
            begin = begin if depth else tag.start()
            depth += 1
    return found


def test_figures_are_well_formed(html: str, instance: Instance, schedule: Schedule) -> None:
    plots = {plot.findtext("title") or "": plot for plot in figures_of(html) if plot.get("role") == "img"}
    assert list(plots) == [
        *("Timeline", "Timeline of the core groups", "Memories on one scale", "Map of L2", "Roofline"),
        "In-core buffers of kernel 1",
    ]
    for plot in plots.values():
        assert plot.findtext("desc")
    tips = [group.findtext("title") or "" for group in plots["Timeline"].iter("g") if group.find("title") is not None]
    for number, kernel in enumerate(schedule.kernels, start=1):
        assert any(tip.startswith(f"kernel {number} {clean(kernel.label)}\n") for tip in tips)
    for move in schedule.moves:
        assert any(tip.startswith(f"{move.kind.value} of {move.tensor}\n") for tip in tips)
    assert sum(tip.startswith("HBM phase") for tip in tips) == 3
    rectangles = [group for group in plots["Map of L2"].iter("g") if group.find("title") is not None]
    assert len(rectangles) == len(schedule.residencies) + 1  # and one workspace


def test_rectangles_stand_where_the_schedule_says(instance: Instance, schedule: Schedule) -> None:
    root = ElementTree.fromstring(timeline_svg(instance, schedule))
    group = next(g for g in root.iter(f"{SVG}g") if (g.findtext(f"{SVG}title") or "").startswith("spill of"))
    rectangle = group.find(f"{SVG}rect")
    assert rectangle is not None
    assert float(rectangle.get("x", "").rstrip("%")) == pytest.approx(100 * 1200 / 7301, rel=1e-5)
    assert float(rectangle.get("width", "").rstrip("%")) == pytest.approx(100 * 725 / 7301, rel=1e-5)


@pytest.mark.parametrize("width", [320, 1200])
def test_timeline_stands_alone(instance: Instance, schedule: Schedule, width: int) -> None:
    text = timeline_svg(instance, schedule, width)
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("width") == str(width)
    assert "var(" not in text
    assert "url(" not in text
    assert "href" not in text
    assert not list(root.iter(f"{SVG}script"))
    assert "7.301 µs" in (root.findtext(f"{SVG}desc") or "")
    assert text == timeline_svg(instance, schedule, width)


def test_headline_and_bounds(page: Page) -> None:
    words = " ".join(page.text.split())
    assert "takes 7.301 µs" in words
    assert "less than 6.900 µs, by the argument critical_path: the gap is 5.49 %" in words
    assert "feasible, not proven optimal" in words
    assert f"Solver: hand {EVIL}" in words
    assert f"What the bound covers: all decisions {EVIL}" in words
    assert page.row("critical_path (the proof)")[1:] == ["6.900", "5.49 %"]
    assert page.row("compulsory_hbm")[1:] == ["2.622", "64.09 %"]
    assert page.row(f"own {QUOTE}")[1] == "6.899"
    assert "phase" in {row[0] for row in page.rows}
    assert "made for another instance" not in words


def test_kernel_table(page: Page, schedule: Schedule) -> None:
    rows = page.kernel_rows()
    assert len(rows) == len(schedule.kernels)
    for number, (row, kernel) in enumerate(zip(rows, schedule.kernels, strict=True), start=1):
        assert row[0] == str(number)
        assert row[1] == ", ".join(clean(name) for name in kernel.operators)
        assert row[2:4] == [kernel.kind.value, kernel.rule.value]
        assert row[5:7] == [str(len(kernel.aic_ids)), str(len(kernel.aiv_ids))]
        assert row[7] == microseconds(kernel.start_ns)
        assert row[8] == microseconds(kernel.end_ns - kernel.start_ns)
    assert [row[9] for row in rows] == ["cube", "launch", "HBM", "link"]
    assert rows[0][4] == "m 128, n 256, k in 2 parts"
    header = next(row for row in page.rows if row[:2] == ["No.", "Operators"])
    up = dict(zip(header, rows[0], strict=True))
    assert [up[engine] for engine in ("cube", "vector", "mte1", "mte2", "mte3", "fixp", "L2")] == [
        *("2.000", "", "0.900", "1.200", "", "0.300", "0.700")
    ]
    assert [up["Head + tail"], up["HBM phase"]] == ["0.600", "0.525"]
    assert [up["HBM read"], up["HBM written"], up["L2 traffic"]] == ["512.00 KiB", "0 B", "1.50 MiB"]


def test_every_part_is_listed(page: Page, instance: Instance, schedule: Schedule) -> None:
    for residency in schedule.residencies:
        shown = [microseconds(residency.start_ns), microseconds(residency.end_ns), f"{residency.size_bytes:,}"]
        assert [residency.tensor, *shown, f"{residency.offset_bytes:,}"] in page.rows
    assert ["L1", f"left {EVIL}", "0", "65,536", "2"] in page.rows
    assert ["L0C", "accumulator", "0", "131,072", "1"] in page.rows
    figures = machine_rows(instance.machine)
    for row in figures:
        assert [row.name, row.value, row.grade, row.source] in page.rows
    assert sum(1 for row in figures if row.grade) == instance.machine.model_dump_json().count('"grade":')
    assert [row.value for row in figures if not row.grade] == ["exists", "does not exist"]
    assert f"workspace of 2 {EVIL}+gelu" in {row[0] for row in page.rows}


def test_structure_for_readers(page: Page) -> None:
    names = [name for name, _ in page.tags]
    assert names.count("table") == names.count("caption")
    assert names.count("h1") == names.count("main") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if "href" in attributes:
            assert (attributes["href"] or "")[1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert ("html", {"lang": "en"}) in page.tags
    assert all("hidden" in a for tag, a in page.tags if tag == "div" and a.get("class") == "tools")


def test_peak_and_use(instance: Instance, schedule: Schedule) -> None:
    facts = gather(instance, schedule)
    assert (facts.peak.size_bytes, facts.peak.at_ns) == (4 * SIZE + 65536, 2700)
    assert {block.name for block in facts.peak.live} >= {"h", "s", "a", f"weight {EVIL}"}
    assert len(facts.peak.live) == 5
    busy = {use.resource: (use.busy_ns, round(use.share, 6)) for use in uses(facts)}
    assert busy["4 AIC"] == (4700, round((4 * 2600 + 2 * 2100) / (4 * 7301), 6))
    assert busy["8 AIV"] == (2201, round((4 * 2100 + 2 * 2101) / (8 * 7301), 6))
    assert busy["HBM channel"] == (600 + 525 + 725 + 1501 + 525, round(3876 / 7301, 6))
    assert busy["link"] == (2500, round(2500 / 7301, 6))
    assert [(row.hbm_read_bytes, row.hbm_written_bytes) for row in facts.kernels] == [
        (SIZE, 0),
        (0, 0),
        (SIZE, SIZE),
        (0, SIZE),
    ]


def test_what_bounds_a_kernel(schedule: Schedule, prices: dict[str, Cost]) -> None:
    kernel, cost = schedule.kernels[0], prices["up"]
    assert bound_of(kernel, cost) == "cube"
    assert bound_of(kernel.model_copy(update={"end_ns": 2601}), cost) == "hbm"
    assert bound_of(kernel, cost.model_copy(update={"head_ns": 1200, "busy_ns": 1300})) == "cube"
    assert bound_of(kernel, cost.model_copy(update={"head_ns": 1201, "busy_ns": 1299})) == "launch"
    assert bound_of(kernel, None) == UNPRICED


def test_equal_kernels_are_priced_once(
    instance: Instance, schedule: Schedule, prices: dict[str, Cost], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    honest = costs.price_group

    def count(graph: Graph, machine: Machine, operators: tuple[str, ...], tiling: Tiling) -> costs.Priced:
        asked.append(operators)
        return honest(graph, machine, operators, tiling)

    monkeypatch.setattr(costs, "price_group", count)
    other = schedule.kernels[0].model_copy(update={"tiling": Tiling(tile={"m": 64}, aic=4, aiv=0)})
    facts = gather(instance, schedule.model_copy(update={"kernels": (*schedule.kernels[:1] * 3, other)}))
    assert asked == [("up",), ("up",)]
    assert [row.cost for row in facts.kernels] == [prices["up"]] * 4


def test_a_kernel_without_a_price_is_still_shown(
    instance: Instance, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> costs.Priced:
        raise costs.Misfit("l1", 64)

    monkeypatch.setattr(costs, "price_group", refuse)
    rows = Page(render_report(instance, schedule)).kernel_rows()
    assert [row[9] for row in rows] == [UNPRICED] * 4


def test_bare_schedule(instance: Instance, schedule: Schedule) -> None:
    """No moves, no residencies, no cores named, ends past the stated latency, a proof as good as the latency."""
    kernels = tuple(
        kernel.model_copy(update={"aic_ids": (), "aiv_ids": (), "buffers": (), "workspace_offset_bytes": None})
        for kernel in schedule.kernels
    )
    proof = schedule.proof.model_copy(update={"status": "optimal", "bound_ns": 0, "covers": ""})
    bare = schedule.model_copy(
        update={"kernels": kernels, "moves": (), "residencies": (), "latency_ns": 0, "proof": proof}
    )
    page = Page(render_report(instance, bare))
    assert [row[5:7] for row in page.kernel_rows()] == [["4", "0"], ["2", "4"], ["0", "2"], ["0", "0"]]
    assert "Nothing is kept in L2" in page.text
    assert "the schedule is optimal" in " ".join(page.text.split())
    ElementTree.fromstring(timeline_svg(instance, bare))


def test_wrong_instance(instance: Instance, schedule: Schedule) -> None:
    assert "made for another instance" in render_report(instance, schedule.model_copy(update={"instance": "0" * 64}))
    stray = schedule.kernels[0].model_copy(update={"operators": ("nowhere",)})
    with pytest.raises(InputError, match="operator 'nowhere'"):
        render_report(instance, schedule.model_copy(update={"kernels": (stray,)}))
    move = Move(tensor="ghost", kind=MoveKind.FILL, start_ns=0, end_ns=1)
    with pytest.raises(InputError, match="move names tensor 'ghost'"):
        timeline_svg(instance, schedule.model_copy(update={"moves": (move,)}))


def test_write(instance: Instance, schedule: Schedule, html: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(instance, schedule, path)
    assert path.read_text(encoding="utf-8") == html
    with pytest.raises(InputError):
        write_report(instance, schedule, tmp_path / "no" / "report.html")


def test_kinds_have_colours(html: str) -> None:
    for kind in [*(k.value for k in KernelKind), *(k.value for k in MoveKind), "phase", "residency", "workspace"]:
        assert f".chart .{kind} {{ fill: var(--{kind}); }}" in html
        assert html.count(f"--{kind}: #") == 2


def test_texts() -> None:
    assert [microseconds(ns) for ns in (0, 7, 1234567)] == ["0.000", "0.007", "1,234.567"]
    assert [size(n) for n in (0, 1023, 1024, 3 * 2**19, 2**40)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "1.50 MiB",
        "1024.00 GiB",
    ]
    assert [percent(share) for share in (0, 1e-7, 0.05494, 1)] == ["0.00 %", "<0.01 %", "5.49 %", "100.00 %"]
    assert [fitted("attention", width) for width in (100, 40, 20)] == ["attention", "atte…", ""]
    assert [nice_step(span, 10) for span in (1, 10, 11, 49, 7301)] == [1, 1, 2, 5, 1000]
