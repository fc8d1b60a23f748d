"""Limits and faults: a killed search leaves its best on disk, too much memory ends one with what it has."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import opt
from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import Schedule
from opt.checkpoint import Checkpoint
from opt.replay import replay
from solvers.interface import Options
from solvers.memory import held_mib
from tests.opt.test_cli import ROOT, tilewright


def test_each_better_schedule_is_handed_over(instance: Instance) -> None:
    """Valid and sealed, each better than the one before, the last as good as the answer."""
    seen: list[Schedule] = []
    result = opt.solve(instance, 20, workers=1, deterministic_limit=0.5, on_schedule=seen.append)
    latencies = [schedule.latency_ns for schedule in seen]
    assert len(latencies) >= 2
    assert latencies == sorted(set(latencies), reverse=True)
    assert latencies[-1] == result.objective_ns
    for schedule in seen:
        assert replay(instance, schedule).valid


def test_a_killed_search_leaves_its_best_on_disk(files: Path, tmp_path: Path, instance: Instance) -> None:
    """Whole and valid after SIGKILL; a second search goes on from it and is no worse."""
    kept = tmp_path / "kept.json"
    command = [sys.executable, "-m", "opt", "solve", str(files / "layer.json"), "--time-limit", "120", "--quiet"]
    process = subprocess.Popen([*command, "--checkpoint", str(kept), "--solver", "lns"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not kept.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = opt.load_schedule(kept)
    assert replay(instance, left).valid
    again = ("solve", files / "layer.json", "--warm-start", kept, "--checkpoint", kept, "--first-feasible")
    assert tilewright(*again).code == 0
    after = opt.load_schedule(kept)
    assert replay(instance, after).valid
    assert after.latency_ns <= left.latency_ns


def test_a_checkpoint_keeps_the_better_one(tmp_path: Path, instance: Instance) -> None:
    good, poor = (opt.solve(instance, 5, name, workers=1).schedule for name in ("greedy", "unfused"))
    path = tmp_path / "kept.json"
    with Checkpoint(instance, path) as keep:
        for schedule in (poor, good, poor):
            keep(schedule)
    assert opt.load_schedule(path) == good
    with Checkpoint(instance, path, start=good) as keep:
        keep(poor)
    assert opt.load_schedule(path) == good


def test_what_cannot_be_kept_is_said_once(tmp_path: Path, instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid schedule, and a folder that is gone, leave no file behind and one warning."""
    schedule = opt.solve(instance, 5, "greedy", workers=1).schedule
    wrong = schedule.model_copy(update={"latency_ns": schedule.latency_ns - 1}).sealed()
    for path, document in ((tmp_path / "a.json", wrong), (tmp_path / "gone" / "b.json", schedule)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), Checkpoint(instance, path) as keep:
            keep(document)
        assert not path.exists()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.skipif(not held_mib(), reason="the system does not tell how much memory a process holds")
def test_a_memory_limit_ends_the_search_with_what_it_has(instance: Instance) -> None:
    assert held_mib() > 10
    result = opt.solve(instance, 60, memory_limit_mib=10)
    assert replay(instance, result.schedule).valid
    assert result.runtime_s < 30
    free = opt.solve(instance, 60, memory_limit_mib=10**6, gap=0.5)
    assert free.gap <= 0.5


def test_a_memory_limit_must_make_sense(instance: Instance) -> None:
    with pytest.raises(InputError, match="memory limit 0 is not above zero"):
        opt.solve(instance, 5, memory_limit_mib=0)


def test_solves_leave_no_memory_behind() -> None:
    """A hundred solves hold no more than the first ten did, but for 10 MiB."""
    if not held_mib():
        pytest.skip("the system does not tell how much memory a process holds")
    small = opt.generate("gpt2", phase="decode", context=64, layers=1, ends=False, max_group=1)
    held = []
    for _ in range(100):
        opt.solve(small, 60, workers=1, deterministic_limit=0.005)
        held.append(held_mib())
    assert held[-1] <= held[9] + 10, held


def test_two_searches_at_once_do_not_disturb_each_other(instance: Instance) -> None:
    """In two threads of one process: the same answers as one after the other."""

    def ask(seed: int) -> str:
        result = opt.solve(instance, 60, "cpsat", workers=1, deterministic_limit=0.3, seed=seed)
        return result.schedule.content_digest

    alone = [ask(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, (1, 2))) == alone


def test_the_clock_of_limits_is_monotonic(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> None:
    """A wall clock that jumps by a day ends nothing and prolongs nothing."""
    jumps = iter(range(0, 10**9, 86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    options = Options(time_limit_s=30)
    assert options.elapsed_s < 5
    assert opt.solve(instance, 30, "greedy").runtime_s < 20


def test_no_code_runs_from_data() -> None:
    """No pickle, eval, exec or shell in what is shipped."""
    words = ("import pickle", "pickle.load", "eval(", " exec(", "shell=True", "os.system", "yaml.load(", "marshal")
    for package in ("instances", "formulations", "solvers", "reports", "opt"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], path
