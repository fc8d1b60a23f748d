"""The page about tile operations: what it holds is what the judge found, whatever a task is called."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from instances.intracore import TileAnswer, TileTask
from instances.intracore_samples import matmul
from opt import intracore
from opt.replay.intracore import Rules, judge_tiles
from reports.intracore import LEAVES, RETURNS, SLICES, STAYS, STAYS_MOVED, find_stays, tile_page
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, TWICE, TWICE_ANSWER
from tests.intracore.handmade import answer as handmade_answer
from tests.intracore.handmade import task as handmade_task


def page_of(task: TileTask, answer: TileAnswer) -> str:
    verdict = judge_tiles(task, answer, Rules(problem=2))
    assert verdict.valid
    return tile_page(task, answer, verdict.starts, verdict.traffic, verdict.makespan)


def data_of(page: str) -> Any:
    """The table that the script draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


@pytest.mark.parametrize(("task", "answer"), [(CHAIN, CHAIN_ANSWER), (TWICE, TWICE_ANSWER)])
def test_every_operation_and_every_cell_is_drawn(task: TileTask, answer: TileAnswer) -> None:
    verdict = judge_tiles(task, answer)
    data = data_of(page_of(task, answer))
    assert data["span"] == verdict.makespan
    drawn = {node: start for node, _, _, start, _, _ in data["operations"]}
    asked = {*task.operation, *range(task.count, task.count + 2 * len(answer.spills))}
    assert drawn == {node: verdict.starts[node] for node in asked}
    assert max(start + cycles for _, _, _, start, cycles, _ in data["operations"]) == verdict.makespan
    assert {stay[1] for stay in data["stays"]} == set(task.buffer)


def test_stays_of_a_buffer_that_is_moved() -> None:
    """Buffer 0 lies from 0 to 150, leaves in no time, comes back from 280 to 6430, and is released at 6470."""
    verdict = judge_tiles(CHAIN, CHAIN_ANSWER)
    stays = find_stays(CHAIN, CHAIN_ANSWER, verdict.starts)
    mine = [(stay.what, stay.offset, stay.start, stay.end) for stay in stays if stay.buffer == 0]
    assert mine == [
        (STAYS_MOVED, 0, 0, 150),
        (LEAVES, 0, 150, 150),
        (RETURNS, 500, 280, 6430),
        (STAYS_MOVED, 500, 6430, 6470),
    ]
    assert [stay.what for stay in stays if stay.buffer == 2] == [STAYS]


def test_no_cell_is_two_buffers_at_one_time() -> None:
    for task, answer in ((CHAIN, CHAIN_ANSWER), (TWICE, TWICE_ANSWER)):
        stays = find_stays(task, answer, judge_tiles(task, answer).starts)
        for turn, one in enumerate(stays):
            for other in stays[:turn]:
                a, b = task.buffer[one.buffer], task.buffer[other.buffer]
                apart = one.offset >= other.offset + b.size or other.offset >= one.offset + a.size
                assert a.place != b.place or apart or one.start >= other.end or other.start >= one.end


def test_what_people_read() -> None:
    page = page_of(TWICE, TWICE_ANSWER)
    for words in ("6,250", "2,600", "5 operations and 2 buffers", "Share of the time", "In main memory before"):
        assert words in page
    assert page.count(f'viewBox="0 0 {SLICES} 1"') == 6 + 1
    quiet = matmul(1, 1, 1)
    result, verdict = intracore.solve_tiles(quiet, 2, time_limit=0.5)
    none = tile_page(quiet, result.answer, verdict.starts, verdict.traffic, verdict.makespan)
    assert "None: every buffer stays where it is" in none


def test_names_are_text() -> None:
    """A task and an operation called like markup stay text, in the page and in its table."""
    evil = "</script><script>alert(1)</script>\u202e"
    first = CHAIN.operations[0].model_copy(update={"name": evil})
    rest = CHAIN.operations[1:]
    task = CHAIN.model_copy(update={"name": evil, "operations": (first, *rest)})
    task = TileTask.model_validate(task.model_dump())
    page = page_of(task, CHAIN_ANSWER)
    assert "<script>alert" not in page and "\u202e" not in page
    assert page.count("<script") == 2
    assert any("alert(1)" in name for name in data_of(page)["names"])


def test_an_empty_time() -> None:
    """An operation of no cycles: nothing is divided by nothing."""
    still = handmade_task([("UB", 8)], [("ADD", "VECTOR", 0, [0])], name="still")
    assert data_of(page_of(still, handmade_answer((1, 0, 2), {0: 0})))["span"] == 1
