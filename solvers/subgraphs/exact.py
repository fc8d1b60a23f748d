"""Small problems, exactly: the shortest path over what is stored, what is resident and what has been run.

Every connected set of operators is a step, also those that repeat what has been run, with every way of keeping what it
makes for the next. Exponential in the number of operators, and the yardstick for everything else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import combinations, count

from formulations.subgraphs.sequence import NOTHING, Chosen, Group, Sequences, traced
from instances.subgraphs import SubgraphProblem

MOST_OPERATORS = 9
"""Largest problem that is enumerated."""

State = tuple[frozenset[int], frozenset[int], frozenset[int]]
"""Tensors made and stored, tensors resident, operators run."""


def solve_exactly(sequences: Sequences, should_stop: Callable[[], bool] = lambda: False) -> Chosen | None:
    """An optimum over all sequences; ``None`` where it was stopped first."""
    p = sequences.problem
    everything = frozenset(range(p.count))
    groups = [
        frozenset(chosen)
        for size in range(1, p.count + 1)
        for chosen in combinations(range(p.count), size)
        if sequences.pricer.may_run(frozenset(chosen))
    ]
    start: State = (NOTHING, NOTHING, NOTHING)
    best: dict[State, float] = {start: 0.0}
    parent: dict[State, tuple[State, Group]] = {}
    ticket = count()
    queue: list[tuple[float, int, State]] = [(0.0, next(ticket), start)]
    while queue:
        cost, _, state = heapq.heappop(queue)
        if cost > best[state] or should_stop():
            if should_stop():
                return None
            continue
        stored, resident, done = state
        if done == everything and p.results <= stored:
            return traced(parent, state, cost)
        for group in groups:
            if not sequences.external(group) <= stored | resident:
                continue
            made, sinks = sequences.made(group), sequences.sinks(group)
            for number in range(len(made) + 1):
                for kept in map(frozenset, combinations(sorted(made), number)):
                    price = sequences.price(group, resident, kept)
                    if price is None:
                        continue
                    following = (stored | (sinks - kept), kept, done | group)
                    total = cost + price.latency
                    if total < best.get(following, float("inf")):
                        best[following] = total
                        parent[following] = (state, group)
                        heapq.heappush(queue, (total, next(ticket), following))
    return None


def is_chain(p: SubgraphProblem) -> bool:
    """Whether each operator reads one made tensor, that of the one before, and no two share an input."""
    shared = any(len(readers) > 1 for readers in p.readers.values())
    return not shared and all(len(p.before[op]) == min(1, rank) for rank, op in enumerate(p.order))


def solve_chain(sequences: Sequences) -> Chosen | None:
    """An optimum for a chain: there every step is a stretch.

    A step starts behind a tensor that the step before stored, or that it kept; going back to one stored earlier would
    make what lies between useless. Beside the tensor that the next step starts from, only the step's own result can be
    worth keeping (it saves writing it). So the last result and what is kept are all there is to know.
    """
    p = sequences.problem
    order = list(p.order)
    end = len(order)
    start = (-1, NOTHING)
    best: dict[tuple[int, frozenset[int]], float] = {start: 0.0}
    parent: dict[tuple[int, frozenset[int]], tuple[tuple[int, frozenset[int]], Group]] = {}
    for last in range(-1, end - 1):
        for node in [known for known in best if known[0] == last]:
            kept_now = node[1]
            places = {order.index(p.maker[t]) for t in kept_now}
            if last < 0 or p.out(order[last]) not in kept_now:
                places.add(last)
            for place in places:
                for reach in range(max(place, last) + 1, end):
                    group = frozenset(order[place + 1 : reach + 1])
                    result = p.out(order[reach])
                    inner = [p.out(order[i]) for i in range(place + 1, reach)]
                    stays = [NOTHING, *(frozenset((t,)) for t in inner)]
                    also = (NOTHING, frozenset((result,)))
                    choices = [NOTHING] if reach == end - 1 else [kept | more for kept in stays for more in also]
                    for kept in choices:
                        price = sequences.price(group, kept_now, kept)
                        if price is None:
                            continue
                        total = best[node] + price.latency
                        if total < best.get((reach, kept), float("inf")):
                            best[reach, kept] = total
                            parent[reach, kept] = (node, group)
    goal = (end - 1, NOTHING)
    if goal not in best:
        return None
    return traced(parent, goal, best[goal])
