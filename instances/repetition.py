"""Repeated blocks of a graph, by form and not by names: operators that cost the same and read from as far back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instances.instance import Instance

LEAST_BLOCKS = 4
"""Repetitions below which unrolling a decision over all blocks is not worth the trouble."""

LEAST_SHARE = 0.5
"""Share of the operators that must lie in repeated blocks."""


@dataclass(frozen=True)
class Repetition:
    """Operators ``first`` to ``first + period * count`` are ``count`` blocks of the same form."""

    first: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """Position after the last block."""
        return self.first + self.period * self.count


def find_repetition(instance: Instance, least_blocks: int = LEAST_BLOCKS) -> Repetition | None:
    """The repetition that covers most operators, the shortest among equals; ``None`` without a worthy one.

    The form of an operator is the price of running it alone, and how many operators back each tensor it reads was made.
    """
    graph = instance.graph
    order = {operator.name: i for i, operator in enumerate(graph.operators)}
    producer = graph.producer
    alone = {c.operators[0]: c.template for c in instance.candidates if len(c.operators) == 1}
    forms = [
        (
            alone.get(operator.name),
            tuple(order[producer[read.tensor]] - i if read.tensor in producer else 0 for read in operator.reads),
        )
        for i, operator in enumerate(graph.operators)
    ]
    number = {form: k for k, form in enumerate(dict.fromkeys(forms))}
    kinds = np.array([number[form] for form in forms])
    best: Repetition | None = None
    for period in range(1, len(kinds) // least_blocks + 1):
        differ = np.flatnonzero(kinds[period:] != kinds[:-period])
        edges = np.concatenate(([-1], differ, [len(kinds) - period]))
        runs = np.diff(edges) - 1
        longest = int(np.argmax((runs > 0) * (runs + period) // period))
        run, first = int(runs[longest]), int(edges[longest]) + 1
        count = (run + period) // period
        if run and (best is None or count * period > best.count * best.period):
            best = Repetition(first, period, count)
    if best is None or best.count < least_blocks or best.count * best.period < LEAST_SHARE * len(kinds):
        return None
    return best
