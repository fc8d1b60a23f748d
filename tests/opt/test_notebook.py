"""What questions and answers show of themselves in a notebook: small, true, and nothing that runs."""

from __future__ import annotations

import base64
import pickle
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from instances.instance import Instance
from opt.pictures import MOST_KERNELS, picture_of
from solvers.interface import Result

EVIL = "<script>alert(1)</script>\u202e"


def cells(html: str) -> dict[str, str]:
    """The table's rows by name; it is well-formed."""
    table = ElementTree.fromstring(re.sub("<img .*", "", html))
    return {row[0].text or "": row[1].text or "" for row in table.iter("tr")}


def test_an_instance_shows_its_size(instance: Instance) -> None:
    shown = cells(instance._repr_html_())
    graph = instance.graph
    assert shown["graph"] == f"{len(graph.operators)} operators, {len(graph.tensors)} tensors"
    assert shown["machine"] == instance.machine.title
    assert shown["tilings"].startswith(f"{instance.census.kept_tilings:,} kept of")


def test_a_schedule_shows_latency_bound_and_moves(greedy: Result) -> None:
    shown = cells(greedy.schedule._repr_html_())
    assert shown["latency"] == f"{greedy.objective_ns / 1000:,.3f} µs"
    assert f"by {greedy.bound_by}, gap {100 * greedy.gap:.2f} %" in shown["bound"]
    assert shown["kernels"].startswith(f"{len(greedy.schedule.kernels)}, of ")
    assert shown["explicit moves"] == "none"


def test_a_result_shows_its_timeline(instance: Instance, greedy: Result) -> None:
    html = greedy._repr_html_()
    assert "s, " in cells(html)["search"]
    drawn = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert drawn is not None
    svg = ElementTree.fromstring(base64.b64decode(drawn.group(1)).decode())
    assert svg.tag.endswith("svg")
    assert any(greedy.schedule.kernels[0].label in (text.text or "") for text in svg.iter())
    assert "<img" not in replace(greedy, picture=None)._repr_html_()
    assert pickle.loads(pickle.dumps(greedy))._repr_html_() == html


def test_names_are_text(instance: Instance, greedy: Result) -> None:
    proof = greedy.schedule.proof.model_copy(update={"solver": EVIL})
    odd = greedy.schedule.model_copy(update={"proof": proof})
    for html in (odd._repr_html_(), instance.model_copy(update={"name": EVIL})._repr_html_()):
        assert "<script" not in html
        assert "\u202e" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd" in html


@pytest.mark.parametrize("count", [1, MOST_KERNELS, MOST_KERNELS + 1])
def test_long_schedules_have_no_picture(instance: Instance, greedy: Result, count: int) -> None:
    many = greedy.schedule.model_copy(update={"kernels": greedy.schedule.kernels[:1] * count})
    assert (picture_of(instance, many) is not None) is (count <= MOST_KERNELS)
