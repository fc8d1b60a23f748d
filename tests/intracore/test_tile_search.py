"""The search: evictions and addresses of an order, moves, and answers that the judge confirms to the unit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from formulations.intracore.fixed_order import least_traffic
from instances.errors import InfeasibleError
from instances.intracore import TileTask
from instances.intracore_samples import convolutions, flash_attention, matmul, random_task
from opt.intracore import Rules, judge_tiles, read_tile_task, solve_tiles
from solvers.intracore import compiling
from solvers.intracore.annealing import price, search_of
from solvers.intracore.answers import planned
from solvers.intracore.bundles import bundled, bundles_of, threads_of
from solvers.intracore.evictions import NEVER, evict
from solvers.intracore.orders import move, spread
from solvers.intracore.runs import Runs
from solvers.intracore.stays import pack, stay
from solvers.intracore.steps import arrange
from solvers.intracore.tables import Tables, tables_of
from solvers.intracore.timing import run

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "huaweicup2025a"


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Compile first: time limits are for searching."""
    for problem in (1, 2, 3):
        solve_tiles(matmul(4, 4, 4), problem, time_limit=0.5)
        solve_tiles(matmul(4, 4, 4), problem, time_limit=0.5)


def random_tasks(count: int) -> list[TileTask]:
    return [random_task(seed, operations=10 + seed % 9) for seed in range(count)]


def orders(tables: Tables, count: int, seed: int) -> list[np.ndarray]:
    """Orders that random moves lead to, from the task's own."""
    search = search_of(tables, tables.anchors)
    found = []
    for number in range(count):
        move(search.anchors, search.where, search.unit, tables.graph, search.spare, search.done, 0.3, 0.3)
        if number % 5 == seed % 5:
            spread(search.anchors, tables.graph, search.order, search.done, search.left)
            found.append(search.order.copy())
    return found


@pytest.mark.parametrize("task", [flash_attention(2, 2), matmul(3, 3, 3), *random_tasks(4)], ids=lambda task: task.name)
@pytest.mark.parametrize("fine", [True, False])
def test_moves_keep_the_order_of_edges(task: TileTask, fine: bool) -> None:
    tables = tables_of(task, fine)
    ids = [op.id for op in task.operations]
    for order in orders(tables, 200, 1):
        place = {ids[op]: at for at, op in enumerate(order)}
        assert len(place) == len(ids)
        assert all(place[first] < place[node] for node in ids for first in task.waits[node])


@pytest.mark.parametrize("task", [flash_attention(3, 2), matmul(3, 4, 5)], ids=lambda task: task.name)
def test_bundles_hold_whole_threads(task: TileTask) -> None:
    tables = tables_of(task, fine=False)
    threads = threads_of(tables)
    assert threads is not None
    members = [set(threads.members.items[a:b]) for a, b in pairwise(threads.members.first)]
    assert len(members) == {"FlashAttention_3x2": 3, "Matmul_3x4x5": 12}[task.name]
    found = list(bundled(tables, threads, np.random.default_rng(0)))
    assert len({tuple(order) for order in found}) > 3
    for order in found:
        place = {op: at for at, op in enumerate(order)}
        assert sorted(place) == sorted(tables.anchors)
        waits = tables.graph.waits
        assert all(place[w] < place[op] for op in order for w in waits.items[waits.first[op] : waits.first[op + 1]])
        bundle = bundles_of(tables, threads, order)[order]
        assert sorted(bundle) == list(bundle)
        for number in set(bundle):
            together = set(order[bundle == number])
            assert together == set().union(*(one for one in members if one & together))


def test_bundles_need_less_traffic_than_the_order_of_the_file() -> None:
    task = matmul(8, 8, 8)
    tables = tables_of(task, fine=False)
    threads = threads_of(tables)
    assert threads is not None

    def traffic(anchors: np.ndarray) -> int:
        return price(2, search_of(tables, anchors), tables.graph, tables.stores, 0, 0, np.inf)[1]

    least = min(traffic(order) for order in bundled(tables, threads, np.random.default_rng(0)))
    assert 2 * least < traffic(tables.anchors)


def test_a_task_in_one_piece_has_no_threads() -> None:
    assert threads_of(tables_of(convolutions(2, 2))) is None


@pytest.mark.parametrize("task", random_tasks(6), ids=lambda task: task.name)
def test_evictions_are_the_least_for_their_order(task: TileTask) -> None:
    """Against the exact model of one order; that has addresses, too, so it may need more."""
    tables = tables_of(task)
    ids = [op.id for op in task.operations]
    search = search_of(tables, tables.anchors, 64)
    for order in orders(tables, 40, 1):
        units = evict(order, tables.stores, search.beam, search.out, search.choices.sparing)
        assert units == sum(int(tables.stores.cost[tables.stores.touched.items[k]]) for k in np.flatnonzero(search.out))
        exact = least_traffic(task, [ids[op] for op in order], time_limit_s=5)
        assert exact.bound <= units or units <= exact.traffic
        assert units <= exact.traffic


@pytest.mark.parametrize(
    "task", [flash_attention(3, 3), matmul(4, 4, 4), *random_tasks(12)], ids=lambda task: task.name
)
@pytest.mark.parametrize("ahead", [0, 12])
def test_time_is_what_the_judge_counts(task: TileTask, ahead: int) -> None:
    tables = tables_of(task)
    graph, stores = tables.graph, tables.stores
    search = search_of(tables, tables.anchors)
    beam, stays, steps = search.beam, search.stays, search.steps
    packed = 0
    rng = np.random.default_rng(0)
    for number, order in enumerate(orders(tables, 60, 2)):
        if number % 2:
            search.choices.turned[:] = rng.random(len(search.choices.turned)) < 0.3
            search.choices.sparing[:] = rng.random(len(search.choices.sparing)) < 0.5
        units = evict(order, stores, beam, search.out, search.choices.sparing)
        assert units < NEVER
        if pack(stores, stays, stay(order, search.out, beam.then, stores, stays), 8, search.choices.turned):
            continue
        packed += 1
        count = arrange(order, search.out, beam.then, graph, stores, stays, steps, ahead)
        span = run(count, search.out, beam.then, graph, stores, steps, stays, search.clock)
        verdict = judge_tiles(task, planned(tables, steps, count, stays), Rules(problem=3))
        assert verdict.faults == ()
        assert (verdict.traffic, verdict.makespan) == (units, span)
    assert packed


@pytest.mark.parametrize("task", [flash_attention(2, 2), *random_tasks(3)], ids=lambda task: task.name)
@pytest.mark.parametrize("problem", [1, 2, 3])
def test_answers_are_judged_and_bounded(task: TileTask, problem: int) -> None:
    told: list[int] = []
    result, verdict = solve_tiles(
        task, problem, time_limit=0.5, workers=2, on_better=lambda value, stage: told.append(value)
    )
    assert verdict.valid
    assert verdict.objective(problem) == result.objective
    assert result.bound <= result.objective
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize("single", [False, True])
def test_one_buffer_in_each_l0(single: bool) -> None:
    result, verdict = solve_tiles(matmul(2, 2, 3), 3, time_limit=1, single_l0=single)
    assert verdict.valid
    other = judge_tiles(matmul(2, 2, 3), result.answer, Rules(problem=3, single_l0=True))
    assert other.valid or not single


def test_a_limit_on_traffic_that_cannot_be_kept_is_said() -> None:
    task = next(task for task in random_tasks(40) if solve_tiles(task, 2, time_limit=0.5)[0].bound > 0)
    with pytest.raises(InfeasibleError, match=r"traffic|no answer"):
        solve_tiles(task, 3, time_limit=0.5, baseline_traffic=0)


def test_an_earlier_answer_is_the_first_one() -> None:
    task = matmul(8, 8, 8)
    before, _ = solve_tiles(task, 2, time_limit=2)
    values: list[int] = []
    after, _ = solve_tiles(
        task, 2, time_limit=0.5, start=before.answer, on_better=lambda value, stage: values.append(value)
    )
    assert values[0] == before.objective
    assert after.objective <= before.objective


def test_a_fault_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(Runs, "_run", broken)
    with pytest.raises(ZeroDivisionError):
        solve_tiles(matmul(4, 4, 4), 2, time_limit=5)


def test_compiled_code_is_kept_apart_by_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def double(number: int) -> int:
        return 2 * number

    assert compiling.compiled(double)(4) == 8
    assert [path.name.startswith("compiled-") for path in (tmp_path / "tilewright").iterdir()] == [True]


@pytest.mark.skipif(not DATA.exists(), reason="the published tasks are not here")
def test_published_tasks_in_seconds() -> None:
    """Far from what minutes reach, but out of reach without the search."""
    conv = read_tile_task(DATA / "Conv_Case0.json")
    assert solve_tiles(conv, 2, time_limit=6)[0].objective <= 46_872
    product = read_tile_task(DATA / "Matmul_Case0.json")
    assert solve_tiles(product, 1, time_limit=20)[0].optimal
