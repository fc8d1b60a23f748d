"""What sub-problem 3 decides besides the order: at which end stays look for room, when memories are left less full.

Tried for addresses: keeping those of the order before where they still fit. It prices 2.5 times as many orders a
second, but cells fall into pieces: 428,000 to 430,000 cycles for Conv_Case0 where packing all anew came to 423,000, and
packing anew with some stays turned to 411,000 (one thread, 80 to 100 s).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from solvers.intracore.compiling import compiled
from solvers.intracore.tables import Flags, Ints, Stores, Tables


class Choices(NamedTuple):
    """Choices beside an order, and scratch of the last change.

    Parameters
    ----------
    turned
        By first touch, whether a stay looks for room from the other end than stays of its size do.
    sparing
        By operation, whether buffers leave until there is room for one more load (``Stores.reserve``) while it runs:
        it costs traffic, and the next load need not wait until the operation is over.
    """

    turned: Flags
    sparing: Flags
    changed: Ints


def choices_of(tables: Tables, source: Choices | None = None) -> Choices:
    """A copy of choices; without any, those of a task with none turned and none sparing."""
    operations, touches = tables.count, len(tables.stores.touched.items)
    return Choices(
        turned=np.zeros(touches, np.bool_) if source is None else source.turned.copy(),
        sparing=np.zeros(operations, np.bool_) if source is None else source.sparing.copy(),
        changed=np.zeros(operations, np.int64),
    )


@compiled
def vary(choices: Choices, order: Ints, stores: Stores, mixed: Flags) -> tuple[int, int]:
    """Turn one stay, or set a stretch of the order to be sparing or not.

    Returns the touch that was turned (-1: none), and the number of operations that were set.
    """
    if np.random.random() < 0.5:
        touch = np.random.randint(len(choices.turned))
        if not mixed[stores.place[stores.touched.items[touch]]]:
            return -1, 0
        choices.turned[touch] = not choices.turned[touch]
        return touch, 0
    if not np.any(stores.reserve):
        return -1, 0
    length = int(np.exp(np.random.random() * np.log(float(len(order)))))
    low = np.random.randint(0, len(order) - length + 1)
    value = np.random.random() < 0.5
    count = 0
    for t in range(low, low + length):
        if choices.sparing[order[t]] != value:
            choices.changed[count] = order[t]
            choices.sparing[order[t]] = value
            count += 1
    return -1, count


@compiled
def take_back(choices: Choices, touch: int, count: int) -> None:
    """Take back the last change."""
    if touch >= 0:
        choices.turned[touch] = not choices.turned[touch]
    for i in range(count):
        choices.sparing[choices.changed[i]] = not choices.sparing[choices.changed[i]]


@compiled
def copy_choices(source: Choices, target: Choices) -> None:
    """Make the choices of ``target`` those of ``source``."""
    target.turned[:] = source.turned
    target.sparing[:] = source.sparing
