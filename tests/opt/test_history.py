"""The course of a search that a schedule carries: true to its events, and no part of the answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import opt
from instances.documents import parse
from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import MOST_SEARCH_POINTS, Schedule, SearchPoint
from opt.history import END, MOST_POINTS, search_points
from opt.replay import replay
from solvers.interface import Event, Result


def test_a_solved_schedule_tells_its_search(tmp_path: Path, instance: Instance, best: Result) -> None:
    search = best.schedule.search
    assert (search[-1].objective_ns, search[-1].bound_ns) == (best.objective_ns, best.bound_ns)
    assert search[-1].time_s == pytest.approx(best.runtime_s, abs=0.001)
    assert {point.source for point in search} <= {event.source for event in best.events} | {END}
    assert len({point.source for point in search}) > 2
    assert replay(instance, best.schedule).valid
    opt.save(best.schedule, tmp_path / "s.json")
    assert opt.load_schedule(tmp_path / "s.json").search == search


def test_the_search_is_no_part_of_the_answer(greedy: Result) -> None:
    schedule = greedy.schedule
    other = schedule.model_copy(update={"search": schedule.search[:1]})
    assert other == schedule
    assert other.content_digest == schedule.content_digest == schedule.seal
    assert schedule.model_copy(update={"latency_ns": schedule.latency_ns + 1}) != schedule
    assert schedule != "a schedule"


def test_points_never_go_back_and_never_contradict_the_answer(greedy: Result) -> None:
    """As after a fallback: the first solver claims what the answer refutes, the second begins anew."""
    latency, bound = greedy.objective_ns, greedy.bound_ns
    events = (
        Event(0.1, None, bound // 3, "first"),
        Event(0.2, 3 * latency, bound // 2, "first"),
        Event(0.3, latency - 1, bound + 7, "liar"),
        Event(0.4, None, bound // 4, "second"),
        Event(0.5, 2 * latency, bound // 4, "second"),
    )
    points = search_points(replace(greedy, events=events, runtime_s=0.75))
    assert [(p.time_s, p.objective_ns, p.bound_ns, p.source) for p in points] == [
        (0.1, None, bound // 3, "first"),
        (0.2, 3 * latency, bound // 2, "first"),
        (0.5, 2 * latency, bound // 2, "second"),
        (0.75, latency, bound, END),
    ]


def test_long_searches_are_thinned(greedy: Result) -> None:
    latency = greedy.objective_ns
    events = tuple(Event(index / 100, latency + 5000 - index, 1, "chance") for index in range(5000))
    points = search_points(replace(greedy, events=events, runtime_s=50.0))
    assert len(points) == MOST_POINTS
    assert points[0].objective_ns == latency + 5000
    assert points[-2].objective_ns == latency + 1
    assert all(after.time_s > before.time_s for before, after in pairwise(points))


def test_absurd_searches_are_refused(greedy: Result) -> None:
    data = greedy.schedule.model_dump(mode="json")
    point = SearchPoint(time_s=0, objective_ns=None, bound_ns=1, source="x").model_dump(mode="json")
    for search in ([point | {"time_s": -1}], [point | {"source": ""}], [point] * (MOST_SEARCH_POINTS + 1)):
        with pytest.raises(InputError, match="search"):
            parse(Schedule, data | {"search": search}, "file")
