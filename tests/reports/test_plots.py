"""Pictures by matplotlib: every kind in every format, the same bytes twice, a sentence for what cannot be drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

import opt
from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import Schedule
from opt.cli import app
from reports import plots
from reports.facts import gather
from reports.plots import GapPoint, SearchPoint, Style

pytest.importorskip("matplotlib")

POINTS = [
    SearchPoint(0.5, None, 400_000, "hbm_traffic"),
    SearchPoint(0.9, 700_000, 520_000, "greedy $x_1$"),
    SearchPoint(3.0, 610_000, 610_000, "condensed"),
]
GAPS = [
    GapPoint("gpt2 $\\frac{1}$", "dp", 0.05),
    GapPoint("gpt2 $\\frac{1}$", "greedy", None),
    GapPoint("bert", "dp", 0.0),
]

Draw = Callable[[Path, Style | None], None]


@pytest.fixture(params=["timeline", "map", "roofline", "convergence", "gaps"])
def draw(request: pytest.FixtureRequest, instance: Instance, schedule: Schedule) -> Draw:
    """One kind of picture, of names that no text may take for markup."""
    kinds: dict[str, Draw] = {
        "timeline": lambda path, style: plots.plot_timeline(instance, schedule, path, style),
        "map": lambda path, style: plots.plot_map(instance, schedule, path, style),
        "roofline": lambda path, style: plots.plot_roofline(instance, schedule, path, style),
        "convergence": lambda path, style: plots.plot_convergence(POINTS, path, style),
        "gaps": lambda path, style: plots.plot_gaps(GAPS, path, style),
    }
    return kinds[request.param]


@pytest.mark.parametrize(("suffix", "head"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_same_bytes_twice(draw: Draw, tmp_path: Path, suffix: str, head: bytes) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}{suffix}", Style(dpi=50))
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first.startswith(head)
    assert first == (tmp_path / f"b{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_light_and_dark(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "light.svg", None)
    draw(tmp_path / "dark.svg", Style(dark=True))
    light, dark = ((tmp_path / name).read_text(encoding="utf-8") for name in ("light.svg", "dark.svg"))
    ElementTree.fromstring(light)
    assert "#12161b" in dark and "#12161b" not in light
    assert "<dc:date>" not in light


def test_roofline_counts_what_was_moved_for_a_kernel(instance: Instance, schedule: Schedule) -> None:
    points = {point.label: point for point in plots.roofline_points(gather(instance, schedule))}
    up = points["up"]
    size = 512 * 1024  # x is streamed, the weight was prefetched
    assert up.intensity == pytest.approx(2 * 2**20 / (2 * size))
    assert up.rate == pytest.approx(2 * 2**20 / 2600)


@pytest.mark.parametrize("name", ["x.gif", "x"])
def test_formats_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.svg"):
        plots.plot_convergence(POINTS, tmp_path / name)


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no search history"):
        plots.plot_convergence([], tmp_path / "x.svg")
    with pytest.raises(InputError, match="no row with a gap"):
        plots.plot_gaps([GapPoint("a", "b", None)], tmp_path / "x.svg")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"tilewright\[plot\]"):
        plots.plot_convergence(POINTS, tmp_path / "x.svg")


# --------------------------------------------------------------------------- the command


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    return result.exit_code, result.stderr


@pytest.fixture
def folder(tmp_path: Path, instance: Instance, schedule: Schedule) -> Path:
    opt.save(instance, tmp_path / "layer.json")
    opt.save(schedule, tmp_path / "schedule.json")
    (tmp_path / "search.csv").write_text("time_s,objective_ns,bound_ns,source\n0.5,,400,a\n1,900,500,b\n")
    (tmp_path / "gaps.csv").write_text("instance,machine,solver,gap_to_best_bound\nx,m,dp,0.1\nx,n,dp,\n")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("timeline", ("layer.json", "schedule.json")),
        ("map", ("layer.json", "schedule.json")),
        ("convergence", ("search.csv",)),
        ("gaps", ("gaps.csv",)),
    ],
)
def test_the_command(folder: Path, kind: str, files: tuple[str, ...]) -> None:
    code, err = run(kind, *(folder / name for name in files), "-o", folder / "x.svg")
    assert code == 0, err
    assert "x.svg" in err
    assert (folder / "x.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("poem", "layer.json"), "unknown"),
        (("timeline", "layer.json"), "give both"),
        (("gaps", "search.csv"), "no column"),
        (("convergence", "gaps.csv"), "no column"),
        (("convergence", "schedule.json"), "no search history"),
        (("timeline", "layer.json", "schedule.json", "--width", "1e9"), "inches"),
    ],
)
def test_the_command_refuses(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    given = [folder / word if (folder / word).exists() else word for word in arguments]
    code, err = run(*given, "-o", folder / "x.svg")
    assert code == 2
    assert words in err and err.count("\n") == 1
    assert not (folder / "x.svg").exists()


def test_a_schedule_that_remembers_its_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Remembering:
        search: tuple[SearchPoint, ...] = tuple(POINTS)

    monkeypatch.setattr(opt.api, "load_schedule", lambda path: Remembering())
    code, err = run("convergence", folder / "schedule.json", "-o", folder / "x.svg")
    assert code == 0, err
