"""Two schedules side by side: attributions add up to the difference exactly, and known differences get their worth."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from itertools import permutations
from xml.etree import ElementTree

import pytest

import opt
from instances.build import build_instance
from instances.graph import DType, OpKind, Role
from instances.graph_builder import GraphBuilder, work
from instances.instance import Instance
from instances.kernels import Implementation
from instances.schedule import MoveKind, Schedule
from reports.comparison import Kind, compare
from reports.comparison_page import render_comparison
from tests.conftest import Script
from tests.reports.conftest import EVIL, QUOTE
from tests.tiny import tiny_machine


@pytest.fixture(autouse=True)
def prices() -> None:
    """Instead of the fixture of that name: here kernels cost what the cost model says."""


@pytest.fixture(scope="module")
def pair() -> Instance:
    """x -> t0, then t0 + y -> out, on a chip with two tilings of each."""
    b = GraphBuilder({"rows": 64, "a": 256}, DType.FLOAT16)
    x, y = (b.tensor(name, ("rows", "a"), Role.INPUT) for name in ("x", "y"))
    t, out = b.tensor("t0", ("rows", "a"), Role.INTERMEDIATE), b.tensor("out", ("rows", "a"), Role.OUTPUT)
    b.op("g0", OpKind.ACTIVATION, (x,), (t,), vector=work("gelu", 64 * 256))
    b.op("last", OpKind.ELEMENTWISE, (t, y), (out,), vector=work("add", 64 * 256))
    return build_instance(b.graph("two"), tiny_machine(l2_bytes=2**20, launch_ns=2000.0, hbm_gb_s=20.0), max_group=2)


def written(instance: Instance, gap_ns: int = 0, fits: Callable[[Implementation], bool] = lambda way: True) -> Schedule:
    """The two kernels in line, ``gap_ns`` between them, the first run by an implementation that fits."""
    s = Script(instance)
    s.kernel("g0", fits=fits)
    s.kernel("last", to_hbm=("out",), start=s.now + gap_ns)
    return s.schedule()


def by_kind(instance: Instance, a: Schedule, b: Schedule) -> dict[Kind, int]:
    """Differences by class, those that are none left out; they add up."""
    found = compare(instance, a, b)
    assert found.difference_ns == b.latency_ns - a.latency_ns
    assert sum(share.difference_ns for share in found.shares) == found.difference_ns
    assert sum(share.a_ns for share in found.shares) == a.latency_ns
    assert sum(share.b_ns for share in found.shares) == b.latency_ns
    return {kind: b_ns - a_ns for kind, a_ns, b_ns in found.by_kind if a_ns != b_ns}


def test_the_same_twice(pair: Instance) -> None:
    plain = written(pair)
    assert by_kind(pair, plain, plain) == {}
    found = compare(pair, plain, plain)
    assert found.differences == ()
    assert {share.kind for share in found.shares} <= {Kind.SAME, Kind.CHANNEL}
    assert found.headline.endswith("the same.")


def test_idle_time(pair: Instance) -> None:
    plain, late = written(pair), written(pair, gap_ns=123)
    assert by_kind(pair, plain, late) == {Kind.IDLE: 123}
    assert by_kind(pair, late, plain) == {Kind.IDLE: -123}
    (moved,) = compare(pair, plain, late).differences
    assert moved.what == "kernel" and moved.label == "last"


def test_another_tiling(pair: Instance) -> None:
    """What the first kernel takes longer on fewer cores is what the tiling is worth."""
    candidate = next(c for c in pair.candidates if c.operators == ("g0",))
    ways = pair.implementations(candidate)
    quick, slow = ways[0], max(ways, key=lambda way: way.cost.least_ns)
    assert quick != slow
    a, b = written(pair, fits=quick.__eq__), written(pair, fits=slow.__eq__)
    longer = (b.kernels[0].end_ns - b.kernels[0].start_ns) - (a.kernels[0].end_ns - a.kernels[0].start_ns)
    assert longer != 0
    sums = by_kind(pair, a, b)
    assert set(sums) <= {Kind.TILING, Kind.CHANNEL}
    assert sum(sums.values()) == longer
    found = compare(pair, a, b)
    kernel = next(one for one in found.differences if one.label == "g0")
    assert kernel.worth_ns == longer
    assert "tile" in kernel.words
    alone = kernel.facts["b_alone_ns"] - kernel.facts["a_alone_ns"]
    assert alone == longer  # the channel is free from the start in both


def test_other_groups(pair: Instance) -> None:
    s = Script(pair)
    s.kernel("g0", "last", to_hbm=("out",))
    fused, apart = s.schedule(), written(pair)
    sums = by_kind(pair, apart, fused)
    assert set(sums) <= {Kind.FUSION, Kind.CHANNEL}
    assert compare(pair, apart, fused).by_operators == (("g0+last", apart.latency_ns, fused.latency_ns),)
    group, *rest = compare(pair, apart, fused).differences
    assert group.what == "fusion" and group.label == "g0+last"
    assert group.worth_ns == fused.latency_ns - apart.latency_ns
    assert group.facts == {
        "a": ["g0", "last"],
        "b": ["g0+last"],
        "a_alone_ns": apart.latency_ns,
        "b_alone_ns": fused.latency_ns,
    }
    assert [(one.what, one.label) for one in rest] == [("in L2", "t0")]


def test_a_prefetch(pair: Instance) -> None:
    """Brought while the first kernel computes, y does not lengthen the second: the channel is what that is worth."""
    s = Script(pair)
    first = s.kernel("g0")
    s.move(MoveKind.PREFETCH, "y", start=s.phase_end(first))
    s.now = max(s.now, s.phase_end(first) + s.facts.move_ns("y"))
    s.kernel("last", far=("y",), to_hbm=("out",))
    brought, streamed = s.schedule(), written(pair)
    sums = by_kind(pair, streamed, brought)
    assert set(sums) <= {Kind.CHANNEL, Kind.SOURCES, Kind.ORDER} and sums
    found = compare(pair, streamed, brought)
    assert {label for label, *_ in found.by_operators} == {"g0", "last"}  # the move counts with its reader
    assert sum(b - a for _, a, b in found.by_operators) == found.difference_ns
    assert [one.label for one in found.differences if one.what == "move"] == ["prefetch of y"]
    assert any("y (32,768 bytes) from HBM in a, from L2 in b" in one.words for one in found.differences)


def test_real_layers_add_up() -> None:
    """Every pair of answers of four solvers, both ways."""
    instance = opt.generate("gpt2", phase="decode", context=128, layers=2)
    names = ("greedy", "unfused", "dp", "anneal")
    schedules = [opt.solve(instance, 1.0, name, workers=1).schedule for name in names]
    for a, b in permutations(schedules, 2):
        there, back = by_kind(instance, a, b), by_kind(instance, b, a)
        assert there == {kind: -ns for kind, ns in back.items()}
        found = compare(instance, a, b)
        assert any(one.what in ("fusion", "kernel") for one in found.differences) or a.kernels == b.kernels


class Page(HTMLParser):
    """Tags, what they point at, and the numbers of ``<data>``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.numbers: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("href", "src") if name in given]
        if tag == "data":
            self.numbers.append(int(given["value"] or ""))


def test_page_stands_alone(pair: Instance) -> None:
    a, b = written(pair), written(pair, gap_ns=5000)
    text = render_comparison(compare(pair, a, b), ("one.json", "two.json"))
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert text.count('class="chart plot"') == 2
    assert {a.latency_ns, b.latency_ns, 5000} <= set(page.numbers)
    assert "one.json" in text and "two.json" in text
    assert "+5.000" in text


def test_timelines_share_a_scale(pair: Instance) -> None:
    """The kernel that ends at the latency of the shorter does not reach the end of the plot."""
    a, b = written(pair), written(pair, gap_ns=written(pair).latency_ns)
    text = render_comparison(compare(pair, a, b))
    plots = [part.split("</svg>")[0] for part in text.split('<svg class="chart plot"')[1:]]
    ends = []
    for plot in plots:
        tree = ElementTree.fromstring(f"<svg{plot[plot.index('>') :]}</svg>")
        marks = [rect for rect in tree.iter("rect") if "mark" in rect.get("class", "")]
        ends.append(max(float(r.get("x", "0%")[:-1]) + float(r.get("width", "0%")[:-1]) for r in marks))
    assert ends[0] == pytest.approx(50, abs=0.1)
    assert ends[1] == pytest.approx(100, abs=0.1)


def test_names_are_not_markup(instance: Instance, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names out of files are shown as they are stored and never run, also of schedules that nobody validated."""
    from instances import costs
    from instances.fusion import Fusion
    from instances.kernels import KernelKind, Rule
    from tests.reports.conftest import COSTS

    monkeypatch.setattr(
        costs,
        "price_group",
        lambda graph, machine, operators, tiling: costs.Priced(
            Fusion(graph, tuple(graph.operator[n] for n in operators), KernelKind.VECTOR, Rule.SINGLE),
            COSTS[operators[0]],
        ),
    )
    later = schedule.kernels[3].model_copy(update={"start_ns": 5000, "end_ns": 7500})
    other = schedule.model_copy(update={"kernels": (*schedule.kernels[:3], later), "latency_ns": 7500})
    found = compare(instance, schedule, other)
    assert sum(share.difference_ns for share in found.shares) == found.difference_ns == 199
    text = render_comparison(found, (EVIL, QUOTE))
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert "49" not in [str(n) for n in page.numbers] and "{{ 7 * 7 }}" in text
    assert "\u202e" not in text and "\x07" not in text
