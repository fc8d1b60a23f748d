"""The best way to cut a given order of operators into steps, with what stays between them: a shortest path.

Nodes are a place in the order and what stays there; an arc is a step that runs what lies between two places. Where the
graph is a chain there is one order, and no step gains by repeating an operator whose result nobody else reads: the path
is an optimum of the problem, not only of the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from formulations.subgraphs.sequence import NOTHING, Chosen, Group, Sequences, traced

LONGEST = 16
"""Most operators in a step."""

MOST_KEPT = 2


def cut_order(
    sequences: Sequences, order: Sequence[int], longest: int = LONGEST, should_stop: Callable[[], bool] = lambda: False
) -> Chosen | None:
    """The cheapest cuts of an order, of all operators or of some; ``None`` where it was stopped or cannot be cut."""
    p = sequences.problem
    position = {op: i for i, op in enumerate(order)}
    # a reader that is not in the order comes after all of it
    last_reader = {t: max(position.get(op, len(order)) for op in ops) for t, ops in p.readers.items()}
    start = (0, NOTHING)
    best: dict[tuple[int, Group], float] = {start: 0.0}
    parent: dict[tuple[int, Group], tuple[tuple[int, Group], Group]] = {}
    pending: dict[int, set[Group]] = {0: {NOTHING}}
    for place in range(len(order)):
        for resident in sorted(pending.pop(place, ()), key=sorted):
            node = (place, resident)
            members: set[int] = set()
            for end in range(place + 1, min(place + longest, len(order)) + 1):
                if should_stop():
                    return None
                members.add(order[end - 1])
                if any(last_reader.get(t, -1) >= end for t in resident):
                    continue  # what stayed must be read by now: it was stored nowhere
                group = frozenset(members)
                for kept in _kept(sequences, group, end, last_reader, position):
                    price = sequences.price(group, resident, kept)
                    if price is None:
                        continue
                    total = best[node] + price.latency
                    following = (end, kept)
                    if total < best.get(following, float("inf")):
                        best[following] = total
                        parent[following] = (node, group)
                        pending.setdefault(end, set()).add(kept)
    goal = (len(order), NOTHING)
    if goal not in best:
        return None
    return traced(parent, goal, best[goal])


def _kept(
    sequences: Sequences, group: Group, end: int, last_reader: dict[int, int], position: dict[int, int]
) -> list[Group]:
    """What may stay after a step that ends at a place: inner results somebody else reads must, others may."""
    p = sequences.problem
    made = sequences.made(group)
    later = {t for t in made if last_reader.get(t, -1) >= end}
    must = frozenset(later - sequences.sinks(group))
    free = sorted(later - must, key=lambda t: -p.size(t))[:4]
    return [must | frozenset(s) for n in range(min(MOST_KEPT, len(free)) + 1) for s in combinations(free, n)]
