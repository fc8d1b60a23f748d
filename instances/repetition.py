"""Repeated blocks of a graph, by form and not by names: operators that cost the same and read from as far back."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from instances.documents import digest
from instances.fusion import Fuser
from instances.graph import Graph, Operator, Role
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
    return longest_repetition(forms, least_blocks)


def find_layers(graph: Graph, least_blocks: int = 2) -> Repetition | None:
    """As :func:`find_repetition` before anything is priced: operators are compared by a hash of all but their names.

    The first block may read from outside what the others read of the block before.
    """
    order = {operator.name: i for i, operator in enumerate(graph.operators)}
    kinds = [_canonical(graph, operator) for operator in graph.operators]
    back = [
        tuple(order[graph.producer[read.tensor]] - i if read.tensor in graph.producer else 0 for read in operator.reads)
        for i, operator in enumerate(graph.operators)
    ]
    found = longest_repetition(list(zip(kinds, back, strict=True)), least_blocks)
    loose = longest_repetition(kinds, least_blocks)
    if loose is None or (found is not None and found.count * found.period >= loose.count * loose.period):
        return found
    return loose if _chained(back, loose) else found


def _chained(back: Sequence[tuple[int, ...]], blocks: Repetition) -> bool:
    """Whether blocks read from as far back as each other, or all from one operator that lies before them.

    The first may read from outside what the others read of the one before.
    """
    for place in range(blocks.first, blocks.end - blocks.period):
        for mine, next_one in zip(back[place], back[place + blocks.period], strict=True):
            offset = place - blocks.first
            enters = offset < blocks.period and mine == 0 and -blocks.period <= next_one + offset < 0
            common = place + mine == place + blocks.period + next_one < blocks.first
            if mine != next_one and not enters and not common:
                return False
    return True


def _canonical(graph: Graph, operator: Operator) -> str:
    """SHA-256 of an operator without its name and those of its tensors."""
    accesses = [
        (graph.tensor[access.tensor].shape, graph.tensor[access.tensor].dtype.value, access.dims, access.touched_bytes)
        for access in (*operator.reads, *operator.writes)
    ]
    own = operator.model_dump(mode="json", exclude={"name", "reads", "writes", "note"})
    return digest(json.dumps([own, accesses], sort_keys=True))


def longest_repetition(forms: Sequence[Hashable], least_blocks: int) -> Repetition | None:
    """The period and the stretch of a sequence that repeats with it and covers most."""
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


@dataclass(frozen=True)
class Folded:
    """One layer that stands for ``repeat`` equal ones, and how many operators of the whole lie outside of them."""

    graph: Graph
    repeat: int
    outside: int


def fold(graph: Graph, repetition: Repetition) -> Folded:
    """One block of a repetition as a graph of its own, cut where it hurts least.

    A block as modules have it ends between a residual addition and the norm of the next, which fuse well. All rotations
    of the block are looked at, and that one is taken whose cut separates the fewest pairs of operators that may run as
    one kernel, then crosses the fewest tensors, then the fewest bytes. What crosses it becomes an input, or an output.
    """
    first, period, count = repetition.first, repetition.period, repetition.count
    fuser = Fuser(graph)
    cuts = [first + turn for turn in range(period)]
    start = min(cuts, key=lambda cut: (*_severed(graph, fuser, cut + period * (count > 2)), cut))
    repeat = count if start == first else count - 1
    if repeat > 1 and start + 2 * period <= repetition.end:
        start += period  # the first block may start from what the others do not
    operators = graph.operators[start : start + period]
    made = {access.tensor for operator in operators for access in operator.writes}
    names = {operator.name for operator in operators}
    tensors = []
    for tensor in graph.tensors:
        touched = any(a.tensor == tensor.name for o in operators for a in (*o.reads, *o.writes))
        if not touched:
            continue
        role = tensor.role
        if tensor.name not in made and not role.starts_in_hbm:
            role = Role.INPUT
        elif tensor.name in made and any(reader not in names for reader in graph.consumers[tensor.name]):
            role = Role.OUTPUT
        tensors.append(tensor.model_copy(update={"role": role}))
    name = f"{graph.name[:170]}-layer"
    folded = Graph(name=name, tensors=tuple(tensors), operators=operators)
    return Folded(folded, repeat, len(graph.operators) - repeat * period)


def _severed(graph: Graph, fuser: Fuser, cut: int) -> tuple[int, int, int]:
    """What a cut before an operator costs: pairs that could be one kernel, tensors that cross it, their bytes."""
    before = {operator.name for operator in graph.operators[:cut]}
    pairs = crossing = size_bytes = 0
    for name, maker in graph.producer.items():
        readers = [reader for reader in graph.consumers[name] if reader not in before]
        if maker in before and readers:
            crossing += 1
            size_bytes += graph.tensor[name].size_bytes
            pairs += sum(fuser.judge([maker, reader]) is not None for reader in readers)
    return pairs, crossing, size_bytes
