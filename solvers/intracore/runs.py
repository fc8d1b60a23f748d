"""Annealing runs side by side: which, how hot and how long, and the best order of all.

Each thread begins with short runs of every style, and spends the rest of its time on long ones of the style that came
out best, from the beginning or from the best order so far. Temperatures are shares of what one step of the objective
is: the median cost of a spill, the median size of a buffer, or the first makespan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from formulations.intracore.decisions import decisions_of, makespan_of, residency_of, traffic_of
from instances.errors import InfeasibleError
from instances.intracore import TileAnswer, TileTask
from solvers.intracore.annealing import anneal, price, search_of, units_of
from solvers.intracore.answers import order_only, planned
from solvers.intracore.bundles import Threads, bundled, bundles_of, threads_of
from solvers.intracore.choices import Choices, choices_of
from solvers.intracore.evictions import NEVER
from solvers.intracore.orders import spread
from solvers.intracore.tables import Ints, Tables, tables_of

Problem = Literal[1, 2, 3]

SLICE_S = 0.1
"""Seconds between looks at the clock."""

TRIALS = 0.4
"""Share of the time for one short run of each style."""

ROOMS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0)
"""Shares of the memories that the first order fills, until all its stays have addresses."""


class Style(NamedTuple):
    """Shares of moves (see :func:`solvers.intracore.orders.move`), temperatures, whether anchors are fine, the
    operations by which a load may be early, and whether it begins with bundles of threads, which it moves whole.
    """

    name: str
    by_unit: float
    by_need: float
    hot: float
    cold: float
    fine: bool
    ahead: int = 0
    bundled: bool = False


STYLES: dict[int, tuple[Style, ...]] = {
    1: (Style("steps", 0.2, 0.5, 0.8, 0.04, True), Style("coarse steps", 0.2, 0.5, 0.8, 0.04, False)),
    2: (
        Style("bundles", 1.0, 0.0, 6.0, 0.25, False, bundled=True),
        Style("chains", 1.0, 0.0, 6.0, 0.25, False),
        Style("steps", 0.1, 0.8, 0.4, 0.025, False),
        Style("fine steps", 0.2, 0.5, 0.4, 0.025, True),
        Style("hot steps", 0.2, 0.5, 0.8, 0.03, False),
    ),
    3: (Style("time", 0.2, 0.5, 0.004, 0.0002, True, 12), Style("time, far", 0.2, 0.5, 0.004, 0.0002, True, 32)),
}

AGAIN = 0.3
"""Temperatures of a run that goes on from the best order, as a share of those of one from the beginning."""


@dataclass(frozen=True)
class Best:
    """An answer and what it comes to; ``value`` is what the sub-problem asks for."""

    answer: TileAnswer
    value: int
    residency: int
    traffic: int
    makespan: int
    stage: str


@dataclass
class _Found:
    """The best order so far: operations in order, the tables that price it, and for sub-problem 3 by how many
    operations a load may be early and the other choices.
    """

    order: Ints
    tables: Tables
    value: int
    stage: str
    ahead: int = 0
    choices: Choices | None = None


class Runs:
    """Runs on one task.

    Parameters
    ----------
    single
        Whether L0A, L0B and L0C hold one buffer at a time in sub-problems 2 and 3 too.
    start
        An answer whose order is the first, instead of the task's own.
    """

    def __init__(
        self,
        task: TileTask,
        seed: int,
        workers: int,
        single: bool,
        start: TileAnswer | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.task, self.seed, self.workers, self.single, self.should_stop = task, seed, workers, single, should_stop
        self.tables = {fine: tables_of(task, fine, single) for fine in (True, False)}
        number = {op.id: index for index, op in enumerate(task.operations)}
        given = task.order if start is None else [node for node in start.order if node in number]
        self.order = np.array([number[node] for node in given], np.int64)
        self._given = start is not None
        self._lock = threading.Lock()

    @cached_property
    def threads(self) -> Threads | None:
        """Threads of the task; ``None`` where it has none, or an order is given."""
        return None if self._given else threads_of(self.tables[False])

    def go(
        self,
        problem: Problem,
        *,
        until: float,
        enough: int,
        on_better: Callable[[int, str], None],
        bound: Callable[[], int] = lambda: 0,
        most_traffic: int | None = None,
    ) -> Best:
        """The best answer of all runs until a moment, or until it is ``enough`` or meets the bound of then."""
        found = self._first(problem, most_traffic)
        on_better(found.value, found.stage)
        over = threading.Event()
        state = _Shared(found, self._step(problem), on_better, self._lock, over, enough)
        threads = [
            threading.Thread(target=self._work, args=(problem, number, until, state, most_traffic), daemon=True)
            for number in range(self.workers)
        ]
        if until > time.monotonic():
            for thread in threads:
                thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                state.floor = max(enough, bound())
                if self.should_stop() or found.value <= state.floor or time.monotonic() >= until:
                    break
                time.sleep(SLICE_S / 4)
        finally:
            over.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if state.error is not None:
            raise state.error
        self.order = found.order
        return self._answer(problem, found, most_traffic)

    def measure(self, problem: Problem, answer: TileAnswer) -> Best:
        """What a legal answer of somebody else comes to."""
        if problem == 1:
            value = residency_of(self.task, [node for node in answer.order if node in self.task.operation])
            return Best(answer, value, value, 0, 0, "")
        decisions = decisions_of(self.task, answer)
        traffic, span = traffic_of(self.task, decisions.stays), makespan_of(self.task, decisions)
        residency = residency_of(self.task, decisions.operations)
        return Best(answer, traffic if problem == 2 else span, residency, traffic, span, "")

    def _first(self, problem: Problem, most_traffic: int | None) -> _Found:
        """The given order, priced; with less room where its stays have no addresses otherwise."""
        goal = NEVER if most_traffic is None else most_traffic
        for room in ROOMS if problem > 1 else ROOMS[:1]:
            tables = self.tables[True] if room == 1 else tables_of(self.task, True, self.single, room)
            search = search_of(tables, self._anchors(tables, self.order))
            search.figures[2] = np.inf
            ahead = STYLES[problem][0].ahead
            _, value, _ = price(problem, search, tables.graph, tables.stores, goal, ahead, np.inf)
            if value < NEVER:
                found = _Found(search.order.copy(), tables, int(value), "first order", ahead)
                break
        else:
            found = _Found(self.order, self.tables[True], NEVER, "first order", STYLES[problem][0].ahead)
        if problem == 2 and self.threads is not None:
            other = self._bundles(np.random.default_rng(self.seed))
            if other.value < found.value:
                return other
        return found

    def _bundles(self, random: np.random.Generator) -> _Found:
        """The best of some orders of bundles, for sub-problem 2."""
        assert self.threads is not None
        tables = self.tables[False]
        best = _Found(self.order, tables, NEVER, "bundles")
        search = search_of(tables, tables.anchors)
        for anchors in bundled(tables, self.threads, random):
            search.anchors[:] = anchors
            search.figures[2] = best.value
            _, value, _ = price(2, search, tables.graph, tables.stores, 0, 0, np.inf)
            if value < best.value:
                best = _Found(search.order.copy(), tables, int(value), "bundles")
        return best

    @staticmethod
    def _anchors(tables: Tables, order: Ints) -> Ints:
        return order[np.isin(order, tables.anchors)]

    def _work(self, problem: Problem, number: int, until: float, state: _Shared, most_traffic: int | None) -> None:
        try:
            self._runs_of(problem, number, until, state, most_traffic)
        except Exception as error:  # it is raised where the threads are joined
            state.error = error
            state.over.set()

    def _runs_of(self, problem: Problem, number: int, until: float, state: _Shared, most_traffic: int | None) -> None:
        styles = [style for style in STYLES[problem] if self._fits(style)]
        begun = time.monotonic()
        whole = until - begun
        reached: dict[str, float] = {}
        original = self.order
        if problem == 3:
            styles = [styles[number % len(styles)]]
        turns = len(styles) if len(styles) > 1 else 0
        for turn in range(10**9):
            if state.over.is_set() or time.monotonic() >= until:
                return
            if turn < turns:
                style, seconds, again = styles[(turn + number) % turns], TRIALS * whole / turns, False
            else:
                style = min(styles, key=lambda one: reached.get(one.name, 0.0))
                left = until - time.monotonic()
                long = (0.6 if turns == 0 else 0.3) * whole
                seconds = long if left > 1.5 * long else left
                again = (turn - turns + number) % 2 == 1 if turns else turn > 0
            reached[style.name] = min(
                reached.get(style.name, np.inf),
                self._run(problem, style, original, seconds, until, state, again, most_traffic, (number, turn)),
            )

    def _fits(self, style: Style) -> bool:
        """Whether there are threads, or chains long enough, to be worth a style of their own."""
        if style.bundled:
            return self.threads is not None
        if style.by_unit < 1:
            return True
        if self.threads is not None:
            return False
        tables = self.tables[style.fine]
        unit = units_of(tables)[tables.anchors]
        return 2 * len(set(unit.tolist())) <= len(unit)

    def _run(
        self,
        problem: Problem,
        style: Style,
        original: Ints,
        seconds: float,
        until: float,
        state: _Shared,
        again: bool,
        most_traffic: int | None,
        serial: tuple[int, int],
    ) -> float:
        """One run; the best cost it came to."""
        tables = self.tables[style.fine]
        random = np.random.default_rng([self.seed, problem, *serial])
        with self._lock:
            order, choices = (state.found.order, state.found.choices) if again else (original, None)
        if style.bundled and not again:
            order = self._bundles(random).order
        search = search_of(tables, self._anchors(tables, order), choices=choices)
        if style.bundled and self.threads is not None:
            search.unit[:] = bundles_of(tables, self.threads, search.anchors)
        step = float(state.found.value) if problem == 3 and state.found.value < NEVER else state.step
        scale = step * (AGAIN if again else 1.0)
        begun = time.monotonic()
        end = min(begun + seconds, until)
        rounds = 16
        told = np.inf
        while True:
            now = time.monotonic()
            if now >= end or state.over.is_set():
                return float(search.figures[1])
            share = (now - begun) / max(end - begun, 1e-9)
            temperature = scale * style.hot * (style.cold / style.hot) ** share
            goal = self._goal(problem, state, most_traffic)
            anneal(
                problem,
                search,
                tables.graph,
                tables.stores,
                goal,
                style.ahead,
                style.by_unit,
                style.by_need,
                temperature,
                temperature,
                rounds,
                int(random.integers(2**31)),
            )
            spent = time.monotonic() - now
            rounds = int(min(10 * rounds, max(4, rounds * SLICE_S / max(spent, 1e-4))))
            if search.figures[2] < told:
                told = search.figures[2]
                if told < state.found.value:
                    full = np.zeros(tables.count, np.int64)
                    spread(search.best, tables.graph, full, search.done, search.left)
                    stage = f"annealing, {style.name}"
                    choices = choices_of(tables, search.best_choices)
                    state.offer(_Found(full, tables, int(told), stage, style.ahead, choices))

    def _step(self, problem: Problem) -> float:
        """What temperatures are shares of, seen from the first order; in sub-problem 3 until a makespan is known."""
        tables = self.tables[True]
        stores = tables.stores
        if problem == 3:
            return float(tables.graph.cycles.sum())
        if problem == 1:
            counted = stores.size[stores.counted[stores.place]]
            return float(np.median(counted)) if len(counted) else 1.0
        search = search_of(tables, self._anchors(tables, self.order))
        price(2, search, tables.graph, stores, 0, 0, np.inf)
        spilled = stores.cost[stores.touched.items[search.out]]
        return float(np.median(spilled)) if len(spilled) else 1.0

    def _goal(self, problem: Problem, state: _Shared, most_traffic: int | None) -> int:
        if problem == 1:  # units above it are what the search works off
            return max(0, min(state.found.value, NEVER - 1) * 63 // 64)
        return NEVER if most_traffic is None else most_traffic

    def _answer(self, problem: Problem, found: _Found, most_traffic: int | None) -> Best:
        """The answer of an order, with what it comes to."""
        tables = found.tables
        search = search_of(tables, self._anchors(tables, found.order), choices=found.choices)
        if found.value >= NEVER:
            if problem == 1:
                raise InfeasibleError(
                    f"{self.task.name}: found no order with one live buffer in each of L0A, L0B and L0C; give more time"
                )
            if problem == 2 or most_traffic is None:
                raise InfeasibleError(f"{self.task.name}: the buffers of one operation do not fit; enlarge the memory")
        graph, stores = tables.graph, tables.stores
        if problem == 1:
            price(1, search, graph, stores, 0, 0, np.inf)
            answer = order_only(tables, search.order.tolist())
            return Best(answer, found.value, found.value, 0, 0, found.stage)
        span, _, steps = price(3, search, graph, stores, NEVER, found.ahead, np.inf)
        answer = planned(tables, search.steps, steps, search.stays)
        out = search.out
        traffic = int(stores.cost[stores.touched.items[out]].sum())
        residency = residency_of(self.task, [self.task.operations[op].id for op in search.order])
        return Best(answer, traffic if problem == 2 else int(span), residency, traffic, int(span), found.stage)


class _Shared:
    """What the threads of one :meth:`Runs.go` share."""

    def __init__(
        self,
        found: _Found,
        step: float,
        on_better: Callable[[int, str], None],
        lock: threading.Lock,
        over: threading.Event,
        floor: int,
    ) -> None:
        self.found, self.step, self.on_better = found, step, on_better
        self.lock, self.over, self.floor = lock, over, floor
        self.error: Exception | None = None

    def offer(self, other: _Found) -> None:
        """Take another order where it is better."""
        with self.lock:
            if other.value >= self.found.value:
                return
            mine = self.found
            mine.order, mine.tables, mine.ahead, mine.choices = other.order, other.tables, other.ahead, other.choices
            mine.value, mine.stage = other.value, other.stage
            self.on_better(other.value, other.stage)
            if other.value <= self.floor:
                self.over.set()
