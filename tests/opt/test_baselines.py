"""What runs today, beside an answer: the same latencies as the solvers of those names, shown unless told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

import opt
from instances.errors import NoScheduleError
from instances.instance import Instance
from opt import api
from opt.baselines import BASELINES, baseline_latencies
from solvers.interface import Result
from tests.opt.test_cli import tilewright


def test_baselines_are_those_of_the_solvers(instance: Instance) -> None:
    assert baseline_latencies(instance) == {name: opt.solve(instance, 20, name).objective_ns for name in BASELINES}


def test_a_baseline_without_a_schedule_is_left_out(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    honest = api.solve

    def solve(asked: Instance, time_limit: float, solver: str, **more: object) -> Result:
        if solver == "stack":
            raise NoScheduleError("no room")
        return honest(asked, time_limit, solver, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "solve", solve)
    assert set(baseline_latencies(instance)) == {"unfused"}


def test_the_report_compares_unless_told_otherwise(tmp_path: Path, files: Path) -> None:
    asked = ("report", files / "layer.json", files / "schedule.json", "-o")
    with_them, without = tmp_path / "with.html", tmp_path / "without.html"
    assert tilewright(*asked, with_them).code == 0
    assert tilewright(*asked, without, "--no-baselines").code == 0
    for words in ("stack takes", "unfused takes", "Against other schedules"):
        assert words in with_them.read_text(encoding="utf-8")
        assert words not in without.read_text(encoding="utf-8")
