"""Simulated annealing of the order of anchors, in slices, for each of the three sub-problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.intracore.choices import Choices, choices_of, copy_choices, take_back, vary
from solvers.intracore.compiling import compiled
from solvers.intracore.evictions import NEVER, Beam, beam_of, evict
from solvers.intracore.orders import move, residency, spread, undo
from solvers.intracore.stays import Stays, pack, stay, stays_of
from solvers.intracore.steps import Steps, arrange, steps_of
from solvers.intracore.tables import Flags, Graph, Ints, Stores, Tables
from solvers.intracore.timing import Clock, clock_of, run

ABOVE_WEIGHT = 0.02
"""Sub-problem 1: weight of units above the goal, summed over operations, against units of the peak."""

BROKEN_UNITS = 500
"""Sub-problem 1: what a second live buffer in an L0 counts."""

TRAFFIC_WEIGHT, MISFIT_WEIGHT = 20.0, 50.0
"""Sub-problem 3: cycles that a unit of traffic beyond the limit, and one without an address, count."""


BY_CHOICE = 0.35
"""Sub-problem 3: share of moves that leave the order alone and change a choice."""

NEAR = 0.985
"""Sub-problem 3: no single move makes an order better than this share of the best."""

TRIES = 6
"""Times that addresses are tried again; of sub-problem 2 only for orders that would be the best."""


class Search(NamedTuple):
    """An order in work, the best so far, and scratch.

    ``figures``: cost of the present order, cost of the best, and its residency, traffic or time (:data:`NEVER`: none).
    """

    anchors: Ints
    best: Ints
    choices: Choices
    best_choices: Choices
    where: Ints
    unit: Ints
    order: Ints
    out: Flags
    done: Flags
    left: Ints
    buffers: Ints
    live: Ints
    spare: Ints
    figures: np.ndarray
    beam: Beam
    stays: Stays
    steps: Steps
    clock: Clock


def search_of(tables: Tables, anchors: Ints, width: int = 8, choices: Choices | None = None) -> Search:
    """A search that starts with an order of anchors, and choices of sub-problem 3."""
    where = np.full(tables.count, -1, np.int64)
    where[anchors] = np.arange(len(anchors))
    return Search(
        anchors=anchors.copy(),
        best=anchors.copy(),
        choices=choices_of(tables, choices),
        best_choices=choices_of(tables),
        where=where,
        unit=units_of(tables),
        order=np.zeros(tables.count, np.int64),
        out=np.zeros(len(tables.stores.touched.items), np.bool_),
        done=np.zeros(tables.count, np.bool_),
        left=np.zeros(tables.count, np.int64),
        buffers=np.zeros(len(tables.stores.size), np.int64),
        live=np.zeros(len(tables.stores.capacity), np.int64),
        spare=np.zeros(len(anchors), np.int64),
        figures=np.array([np.inf, np.inf, float(NEVER)]),
        beam=beam_of(tables, width),
        stays=stays_of(tables),
        steps=steps_of(tables),
        clock=clock_of(tables),
    )


def units_of(tables: Tables) -> Ints:
    """Anchors that only wait for one another share a number: chains, such as the products that one tile sums up."""
    graph = tables.graph
    unit = np.arange(tables.count)
    for anchor in tables.anchors:
        after = graph.frees.items[graph.frees.first[anchor] : graph.frees.first[anchor + 1]]
        if len(after) == 1 and graph.waits.first[after[0] + 1] - graph.waits.first[after[0]] == 1:
            unit[after[0]] = unit[anchor]
    return unit


@compiled
def price(
    problem: int, search: Search, graph: Graph, stores: Stores, goal: int, ahead: int, most: float
) -> tuple[float, int, int]:
    """Cost of the present order for the search, what the sub-problem asks for, and the number of steps (2 and 3).

    ``goal``: in 1 the residency that is hoped for, in 3 the most extra traffic. The second is :data:`NEVER` where a
    rule is broken. An order of sub-problem 3 that costs more than ``most`` if its time is nearly the best known is
    looked at no further: its cost is infinite.
    """
    order, out, beam, stays, steps = search.order, search.out, search.beam, search.stays, search.steps
    spread(search.anchors, graph, order, search.done, search.left)
    if problem == 1:
        peak, above, broken = residency(order, stores, goal, search.buffers, search.live)
        return peak + ABOVE_WEIGHT * above + BROKEN_UNITS * broken, NEVER if broken else peak, 0
    traffic = evict(order, stores, beam, out, search.choices.sparing)
    if traffic >= NEVER:
        return np.inf, NEVER, 0
    if problem == 2 and traffic >= search.figures[2]:
        return float(traffic), traffic, 0
    beyond = max(0, traffic - goal)
    hoped = NEAR * search.figures[1] if search.figures[1] < np.inf else 0.0
    if problem == 3 and hoped + TRAFFIC_WEIGHT * beyond > most:
        return np.inf, NEVER, 0
    count = stay(order, out, beam.then, stores, stays)
    misfit = pack(stores, stays, count, TRIES, search.choices.turned)
    if problem == 2:
        return float(traffic), NEVER if misfit else traffic, 0
    penalty = TRAFFIC_WEIGHT * beyond + MISFIT_WEIGHT * misfit
    if hoped + penalty > most:
        return np.inf, NEVER, 0
    number = arrange(order, out, beam.then, graph, stores, stays, steps, ahead)
    span = run(number, out, beam.then, graph, stores, steps, stays, search.clock)
    return span + penalty, NEVER if misfit or beyond else span, number


@compiled
def anneal(
    problem: int,
    search: Search,
    graph: Graph,
    stores: Stores,
    goal: int,
    ahead: int,
    by_unit: float,
    by_need: float,
    hot: float,
    cold: float,
    rounds: int,
    seed: int,
) -> None:
    """Some rounds from one temperature to another; for the shares see :func:`solvers.intracore.orders.move`."""
    np.random.seed(seed)
    anchors, figures, choices = search.anchors, search.figures, search.choices
    for number in range(rounds):
        temperature = hot * (cold / hot) ** (number / rounds)
        low = high = 0
        touch, varied = -1, 0
        if figures[0] < np.inf:
            if problem == 3 and np.random.random() < BY_CHOICE:
                touch, varied = vary(choices, search.order, stores, search.stays.mixed)
            else:
                low, high = move(anchors, search.where, search.unit, graph, search.spare, search.done, by_unit, by_need)
            if low == high and touch < 0 and varied == 0:
                continue
        most = figures[0] - temperature * np.log(1.0 - np.random.random())
        cost, value, _ = price(problem, search, graph, stores, goal, ahead, most)
        if cost <= most:
            figures[0] = cost
            if value < figures[2] or (figures[2] == NEVER and cost < figures[1]):
                figures[1], figures[2] = cost, value
                search.best[:] = anchors
                copy_choices(choices, search.best_choices)
        else:
            take_back(choices, touch, varied)
            undo(anchors, search.where, low, high, search.spare)
