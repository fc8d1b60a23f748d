"""The Chrome trace: tracks without overlaps, exact times, counters that agree with the schedule."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import Schedule
from reports.facts import Block, pack_lanes, peak_of, steps
from reports.trace import CORES, PIPES, PROCESS, chrome_trace, write_trace

EVIL = "<script>alert(1)</script>"
QUOTE = "\"><img src=x onerror='alert(2)'>&amp;{{ 7 * 7 }}"
SIZE = 512 * 1024
intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))))


@pytest.fixture
def trace(instance: Instance, schedule: Schedule) -> dict[str, Any]:
    return chrome_trace(instance, schedule)


def threads(trace: dict[str, Any], process: int = PROCESS) -> dict[int, str]:
    named = [e for e in trace["traceEvents"] if e["name"] == "thread_name" and e["pid"] == process]
    return {e["tid"]: e["args"]["name"] for e in named}


def slices(trace: dict[str, Any], process: int = PROCESS) -> dict[str, list[dict[str, Any]]]:
    names = threads(trace, process)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X" and event["pid"] == process:
            found[names[event["tid"]]].append(event)
    return found


def ns(us: float) -> int:
    return round(us * 1000)


def test_form(trace: dict[str, Any], instance: Instance, schedule: Schedule) -> None:
    assert trace["displayTimeUnit"] == "ns"
    assert json.loads(json.dumps(trace)) == trace
    for event in trace["traceEvents"]:
        assert event["ph"] in {"M", "X", "C"}
        assert {"pid", "name", "args"} <= event.keys()
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
    processes = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert processes == [instance.machine.title, "cores", "pipes of one core group per kernel"]
    tids = [tid for process in (PROCESS, CORES, PIPES) for tid in threads(trace, process)]
    assert len(set(tids)) == len(tids)
    assert trace["otherData"]["latency_ns"] == schedule.latency_ns
    assert trace["otherData"]["bound_ns"] == schedule.proof.bound_ns


def test_tracks_hold_what_ran_there(trace: dict[str, Any]) -> None:
    assert list(threads(trace).values()) == ["AIC", "AIV", "AIV, lane 2", "HBM channel", "link"]
    found = slices(trace)
    assert [e["args"]["operators"] for e in found["AIC"]] == [["up"], [EVIL, "gelu"]]
    assert [(ns(e["ts"]), ns(e["dur"])) for e in found["AIC"]] == [(0, 2600), (2600, 2100)]
    assert [(ns(e["ts"]), ns(e["dur"])) for e in found["link"]] == [(4801, 2500)]
    assert [e["cat"] for e in found["HBM channel"]] == ["prefetch", "phase", "spill", "phase", "phase"]
    assert [e["args"]["bytes"] for e in found["HBM channel"] if e["cat"] == "spill"] == [SIZE]


def test_overlapping_kernels_get_lanes(instance: Instance, schedule: Schedule) -> None:
    beside = schedule.kernels[2].model_copy(update={"start_ns": 2600})
    crowded = schedule.model_copy(update={"kernels": (*schedule.kernels, beside, beside)})
    trace = chrome_trace(instance, crowded)
    assert {"AIV, lane 2", "AIV, lane 3", "AIV, lane 4"} <= set(threads(trace).values())


def test_events_on_one_thread_do_not_overlap(trace: dict[str, Any], instance: Instance, schedule: Schedule) -> None:
    crowded = schedule.model_copy(update={"kernels": schedule.kernels * 3, "moves": schedule.moves * 2})
    every = [(each, p) for each in (trace, chrome_trace(instance, crowded)) for p in (PROCESS, CORES, PIPES)]
    for each, process in every:
        for events in slices(each, process).values():
            times = sorted((ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])) for e in events)
            assert all(before[1] <= after[0] for before, after in pairwise(times))
    wanted = 3 * (2 + 2 + 3 + 1) + 2 * 2
    assert sum(map(len, slices(chrome_trace(instance, crowded)).values())) == wanted
    cores = 3 * sum(len(kernel.aic_ids) + len(kernel.aiv_ids) for kernel in schedule.kernels)
    assert sum(map(len, slices(chrome_trace(instance, crowded), CORES).values())) == cores


def test_each_core_has_a_track(trace: dict[str, Any], schedule: Schedule) -> None:
    """With the kernels that hold it, from start to end."""
    found = slices(trace, CORES)
    held: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for kernel in schedule.kernels:
        for name, ids in (("AIC", kernel.aic_ids), ("AIV", kernel.aiv_ids)):
            for core in ids:
                held[f"{name} {core}"].append((kernel.start_ns, kernel.end_ns - kernel.start_ns))
    assert {name: [(ns(e["ts"]), ns(e["dur"])) for e in events] for name, events in found.items()} == held
    assert list(threads(trace, CORES).values()) == [
        *(f"AIC {i}" for i in range(4)),
        *(f"AIV {i}" for i in (0, 1, 4, 5, 6, 7)),
    ]
    assert {e["args"]["kernel"] for e in found["AIC 0"]} == {1, 2}


def test_each_pipe_has_a_track(trace: dict[str, Any]) -> None:
    """Each pipe's time from the start of the body on; the cube core's pipes apart from the vector core's."""
    found = {
        name: [(e["args"]["kernel"], ns(e["ts"]), ns(e["dur"])) for e in events]
        for name, events in slices(trace, PIPES).items()
    }
    assert found == {
        "AIC MTE1": [(1, 500, 900)],
        "AIC MTE2": [(1, 500, 1200)],
        "AIC M": [(1, 500, 2000), (2, 3500, 1000)],
        "AIC FIX": [(1, 500, 300)],
        "AIV V": [(3, 3000, 900)],
        "AIV V, lane 2": [(2, 3500, 400)],
        "AIV MTE3": [(3, 3000, 100)],
    }
    cores = {name: [e["args"]["core"] for e in events] for name, events in slices(trace, PIPES).items()}
    assert (cores["AIC M"], cores["AIV V"], cores["AIV V, lane 2"]) == ([0, 0], [6], [0])


def test_arguments(trace: dict[str, Any]) -> None:
    up = slices(trace)["AIC"][0]["args"]
    assert up == {
        "operators": ["up"],
        "kind": "cube",
        "rule": "single",
        "tile": {"m": 128, "n": 256},
        "parts": {"k": 2},
        "cores": {"aic": 4, "aiv": 0},
        "bound_by": "cube",
        "bytes": {"hbm_read": SIZE, "hbm_written": 0, "l2": 3 * SIZE},
        "engines_ns": {"cube": 2000, "mte1": 900, "mte2": 1200, "fixp": 300, "l2": 700},
    }
    phase = next(e for e in slices(trace)["HBM channel"] if e["name"] == f"HBM phase of 3 {QUOTE}")
    assert phase["args"]["bytes"] == {"read": SIZE, "written": SIZE}
    assert (phase["args"]["reads"], phase["args"]["writes"]) == (["x"], ["a"])


def test_counters(trace: dict[str, Any]) -> None:
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            found[event["name"]].append((ns(event["ts"]), *event["args"].values()))
    assert found["L2 in use"] == [
        (0, 2 * SIZE),
        (2600, 3 * SIZE + 65536),
        (2700, 4 * SIZE + 65536),
        (4700, 2 * SIZE),
        (7301, 0),
    ]
    assert found["L1 in use on a core"] == [(0, 131072), (4700, 0)]
    assert found["L0C in use on a core"] == [(0, 131072), (4700, 0)]
    assert "UB in use on a core" not in found
    assert found["made tensors in HBM"] == [(0, 0), (1200, SIZE), (1925, 0), (2700, SIZE), (7301, 0)]
    busy = [(0, 1), (1125, 0), (1200, 1), (1925, 0), (3300, 1), (4801, 0), (6776, 1), (7301, 0)]
    assert found["HBM channel busy"] == busy


def test_write(instance: Instance, schedule: Schedule, trace: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(instance, schedule, path)
    assert json.loads(path.read_text(encoding="utf-8")) == trace
    with pytest.raises(InputError):
        write_trace(instance, schedule, tmp_path)


@given(intervals)
def test_lanes(spans: list[tuple[int, int]]) -> None:
    lanes = pack_lanes(spans, lambda span: span)
    assert sorted(span for lane in lanes for span in lane) == sorted(spans)
    for lane in lanes:
        assert all(before[1] <= after[0] for before, after in pairwise(lane))
    proper = [span for span in spans if span[0] < span[1]]
    most = max((sum(s <= instant < e for s, e in proper) for instant in range(60)), default=0)
    assert len(pack_lanes(proper, lambda span: span)) == most


@given(intervals)
def test_steps_and_peak(spans: list[tuple[int, int]]) -> None:
    levels = dict(steps((start, end, 1) for start, end in spans))
    level, history = 0, []
    for instant in range(60):
        level = levels.get(instant, level)
        assert level == sum(start <= instant < end for start, end in spans)
        history.append(level)
    blocks = [Block(str(index), "residency", 0, 1, start, end) for index, (start, end) in enumerate(spans)]
    peak = peak_of(blocks)
    assert peak.size_bytes == max(history) == len(peak.live)
    assert peak.at_ns == (history.index(max(history)) if max(history) else 0)
