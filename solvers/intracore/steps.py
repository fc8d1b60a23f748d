"""From stays to steps: operations, ways out and ways back, with loads ahead of their need.

Ways out come right after the use before them. Loads (operations of MTE2, and ways back) come as early as their memory
has room for them beside what the order holds anyway, in the order in which they are needed, since they share one
in-order queue; but never more than ``ahead`` operations early.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from formulations.intracore.decisions import BACK, OPERATION, OUT
from solvers.intracore.compiling import compiled
from solvers.intracore.evictions import NEVER
from solvers.intracore.stays import MTE2, Stays, extend
from solvers.intracore.tables import Flags, Graph, Ints, Stores, Tables


class Steps(NamedTuple):
    """Steps that :func:`arrange` makes, and its scratch.

    ``kind``, ``what``, ``touch`` of each step: the operation, or the buffer that moves and the touch before (OUT) or
    after (BACK) the move.
    """

    kind: Ints
    what: Ints
    touch: Ints
    issue: Ints
    load: Ints
    position: Ints
    last: Ints
    when: Ints
    done: Flags


def steps_of(tables: Tables) -> Steps:
    """Scratch for a task."""
    operations, touches = tables.count, len(tables.stores.touched.items)

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Steps(
        kind=zeros(operations + 2 * touches),
        what=zeros(operations + 2 * touches),
        touch=zeros(operations + 2 * touches),
        issue=zeros(operations + touches),
        load=zeros(operations + touches),
        position=zeros(operations),
        last=zeros(len(tables.stores.size)),
        when=zeros(len(tables.stores.size)),
        done=np.zeros(operations, np.bool_),
    )


@compiled
def arrange(
    order: Ints, out: Flags, then: Ints, graph: Graph, stores: Stores, stays: Stays, steps: Steps, ahead: int
) -> int:
    """Steps of an order; how many there are.

    ``out``: touches after which a buffer leaves; ``then``: position of the next touch of each touch's buffer.
    """
    loads = _loads(order, out, graph, stores, stays, steps, ahead)
    first, items = stores.touched
    kind, what, touch = steps.kind, steps.what, steps.touch
    issue, load, done = steps.issue, steps.load, steps.done
    done[:] = False
    count = pointer = 0
    for t in range(len(order)):
        while True:
            if pointer < loads and issue[pointer] == t:
                chosen = load[pointer]
                pointer += 1
            elif not done[order[t]]:
                chosen = order[t]
            else:
                break
            if chosen < 0:
                kind[count], what[count], touch[count] = BACK, items[-1 - chosen], -1 - chosen
                count += 1
                continue
            kind[count], what[count] = OPERATION, chosen
            done[chosen] = True
            count += 1
            for k in range(first[chosen], first[chosen + 1]):
                if out[k] and then[k] != NEVER:
                    kind[count], what[count], touch[count] = OUT, items[k], k
                    count += 1
    return count


@compiled
def _loads(order: Ints, out: Flags, graph: Graph, stores: Stores, stays: Stays, steps: Steps, ahead: int) -> int:
    """Loads in the order of need with the operation before which each is issued; how many there are.

    A load is the number of an operation, or ``-1 - k`` for the way back before touch ``k``.
    """
    first, items = stores.touched
    before_first, before = graph.before
    pipe = graph.pipe
    position, last, when, issue, load = steps.position, steps.last, steps.when, steps.issue, steps.load
    loads = latest = 0
    last[:] = -1  # last touch so far
    for t in range(len(order)):
        op = order[t]
        position[op] = t
        fresh = 0
        old = 0
        for k in range(first[op], first[op + 1]):
            buffer = items[k]
            if last[buffer] < 0:
                fresh += 1
                continue
            old += 1
            if out[last[buffer]]:
                latest = extend(k, max(latest, when[buffer] + 1, t - ahead), stores, stays, True)
                load[loads] = -1 - k
                issue[loads] = latest
                loads += 1
        if pipe[op] == MTE2:
            at = t
            if fresh == 1 and old == 0:
                earliest = max(latest, t - ahead)
                for k in range(before_first[op], before_first[op + 1]):
                    earliest = max(earliest, position[before[k]] + 1)
                at = extend(first[op], earliest, stores, stays, True)
            load[loads] = op
            issue[loads] = latest = at
            loads += 1
        for k in range(first[op], first[op + 1]):
            last[items[k]] = k
            when[items[k]] = t
    return loads
