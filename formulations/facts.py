"""Quantities of an instance that every formulation and solver needs, computed once: times, sizes, precedence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from instances.costs import explicit_move_ns, hbm_ns
from instances.costs.terms import MIB, round_up
from instances.graph import Engine, Role
from instances.instance import Instance
from instances.kernels import Candidate, Cost, KernelKind
from instances.machine import MemoryName

SPAN = 16
"""Operators at most this far apart in topological order get a constraint on the work between them."""


LARGE = 80
"""Above this many operators, constraints that sum over all that comes before an operator are left out: their terms
grow with the square of the model, and nobody waits for them."""


@dataclass(frozen=True)
class Edge:
    """``consumer`` reads ``tensor``, which ``producer`` makes (operator names)."""

    producer: str
    consumer: str
    tensor: str


class Facts:
    """Derived data of one instance. Times in ns, sizes in bytes."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.graph = instance.graph
        self.machine = instance.machine

    @cached_property
    def large(self) -> bool:
        """Whether constraints that grow with the square of the graph are left out."""
        return len(self.graph.operators) > LARGE

    @cached_property
    def l2_unit(self) -> int:
        """Alignment of addresses in L2."""
        return self.machine.alignment(MemoryName.L2)

    @cached_property
    def l2_capacity(self) -> int:
        """Usable bytes of L2, down to the alignment."""
        return self.machine.capacity(MemoryName.L2) // self.l2_unit * self.l2_unit

    @cached_property
    def l2_size(self) -> dict[str, int]:
        """Bytes that a tensor occupies in L2, aligned."""
        return {tensor.name: round_up(tensor.size_bytes, self.l2_unit) for tensor in self.graph.tensors}

    @cached_property
    def order(self) -> dict[str, int]:
        """Position of each operator in the graph's topological order."""
        return {operator.name: i for i, operator in enumerate(self.graph.operators)}

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All producer-consumer pairs, one per tensor."""
        return tuple(
            Edge(producer, consumer, tensor)
            for tensor, producer in self.graph.producer.items()
            for consumer in self.graph.consumers[tensor]
        )

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """Operator -> the operators that read its results."""
        found: dict[str, dict[str, None]] = {name: {} for name in self.order}
        for edge in self.edges:
            found[edge.producer][edge.consumer] = None
        return {name: tuple(after) for name, after in found.items()}

    def kind(self, candidate: Candidate) -> KernelKind:
        """Engines a candidate runs on."""
        return self.instance.templates[candidate.template].kind

    @cached_property
    def _touched(self) -> dict[tuple[str, str], int]:
        """(operator, tensor) -> bytes read, the most where an operator reads a tensor twice."""
        found: dict[tuple[str, str], int] = {}
        for operator in self.graph.operators:
            for access in operator.reads:
                key = (operator.name, access.tensor)
                found[key] = max(found.get(key, 0), self.graph.touched_bytes(access))
        return found

    def read_bytes(self, candidate: Candidate, tensor: str) -> int:
        """Bytes of an outside tensor that a candidate reads."""
        return max(self._touched.get((name, tensor), 0) for name in candidate.operators)

    def read_ns(self, candidate: Candidate, tensor: str) -> int:
        """Time on the HBM channel when a candidate streams a tensor."""
        return hbm_ns(self.machine, self.read_bytes(candidate, tensor))

    def write_ns(self, tensor: str) -> int:
        """Time on the HBM channel to write a tensor out."""
        return hbm_ns(self.machine, self.graph.tensor[tensor].size_bytes)

    def move_ns(self, tensor: str) -> int:
        """Time of an explicit move of a tensor."""
        return explicit_move_ns(self.machine, self.graph.tensor[tensor].size_bytes)

    def miss_ns(self, cost: Cost, moved_bytes: int) -> int:
        """Least time of a kernel's body for bytes that its ports draw from HBM."""
        return math.ceil(cost.miss_ns_per_mib * moved_bytes / MIB)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Tensors in HBM before the schedule starts."""
        return tuple(tensor.name for tensor in self.graph.tensors if tensor.role.starts_in_hbm)

    @cached_property
    def made(self) -> tuple[str, ...]:
        """Tensors that operators write."""
        return tuple(tensor.name for tensor in self.graph.tensors if not tensor.role.starts_in_hbm)

    def held_for(self, least_ns: int) -> frozenset[str]:
        """Sources and outputs that hold the channel for at least so long when a kernel reads or writes them."""
        sources = {
            t
            for candidate in self.instance.candidates
            for t in candidate.reads
            if t not in self.graph.producer and self.read_ns(candidate, t) >= least_ns
        }
        return frozenset(sources | {t for t in self.made if self.is_output(t) and self.write_ns(t) >= least_ns})

    def is_output(self, tensor: str) -> bool:
        """Whether a tensor must be in HBM at the end."""
        return self.graph.tensor[tensor].role is Role.OUTPUT

    def can_stay(self, tensor: str) -> bool:
        """Whether a tensor fits into L2 at all."""
        return self.l2_size[tensor] <= self.l2_capacity

    @cached_property
    def prefetchable(self) -> frozenset[str]:
        """Sources that an explicit move may bring: they fit into L2 and all their readers read the whole.

        Which rows of an embedding table or which experts are read is known only when they are.
        """
        return frozenset(
            name
            for name in self.sources
            if self.can_stay(name)
            and all(
                self._touched[reader, name] == self.graph.tensor[name].size_bytes
                for reader in self.graph.consumers[name]
            )
        )

    @cached_property
    def least_ns(self) -> tuple[int, ...]:
        """Per candidate: least duration over its implementations, everything in L2."""
        return tuple(
            min(item.cost.least_ns for item in self.instance.implementations(candidate))
            for candidate in self.instance.candidates
        )

    @cached_property
    def _related(self) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        """Operator -> its ancestors and its descendants."""
        above: dict[str, set[str]] = {name: set() for name in self.order}
        below: dict[str, set[str]] = {name: set() for name in self.order}
        parents: dict[str, list[str]] = {name: [] for name in self.order}
        for edge in self.edges:
            parents[edge.consumer].append(edge.producer)
        for name in self.order:
            for parent in parents[name]:
                above[name] |= above[parent] | {parent}
        for name, ancestors in above.items():
            for ancestor in ancestors:
                below[ancestor].add(name)
        return {name: (frozenset(above[name]), frozenset(below[name])) for name in self.order}

    def related(self, operator: str) -> tuple[frozenset[str], frozenset[str]]:
        """Ancestors and descendants of an operator."""
        return self._related[operator]

    @cached_property
    def cuts(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Operator -> candidates that end before its kernel starts, and those that start after it ends.

        A kernel that holds an ancestor of v and not v itself ends before v's kernel starts: the path from that
        ancestor leads there through kernels one after the other. On :attr:`large` graphs only the candidates that
        hold an operator at most :data:`SPAN` positions away are listed.
        """
        found = {}
        for name, (ancestors, descendants) in self._related.items():
            before, after = [], []
            for g in self._around(name):
                candidate = self.instance.candidates[g]
                if name in candidate.operators:
                    continue
                if not ancestors.isdisjoint(candidate.operators):
                    before.append(g)
                elif not descendants.isdisjoint(candidate.operators):
                    after.append(g)
            found[name] = (tuple(before), tuple(after))
        return found

    def _around(self, operator: str) -> Iterable[int]:
        """Candidates to consider around an operator: all, or on large graphs the near ones."""
        if not self.large:
            return range(len(self.instance.candidates))
        names = list(self.order)
        place = self.order[operator]
        near = names[max(0, place - SPAN) : place + SPAN + 1]
        return sorted({g for name in near for g in self.instance.candidates_of[name]})

    @cached_property
    def spans(self) -> tuple[tuple[str | None, str | None, tuple[int, ...]], ...]:
        """Pairs u, v of operators, u an ancestor of v, with the candidates that run wholly between their kernels.

        These hold a descendant of u that is an ancestor of v, and neither u nor v: they start after u's kernel has
        ended and end before v's starts. ``None`` stands for the start or the end of the schedule. Pairs further
        apart than :data:`SPAN` positions are left out, save those with ``None``.
        """
        found: list[tuple[str | None, str | None, tuple[int, ...]]] = []
        members = [frozenset(candidate.operators) for candidate in self.instance.candidates]
        for v, (ancestors, _) in self._related.items():
            before, after = self.cuts[v]
            if not self.large:
                found.append((None, v, before))
                found.append((v, None, after))
            for u in sorted(ancestors, key=self.order.__getitem__):
                if self.order[v] - self.order[u] > SPAN:
                    continue
                inner = ancestors & self._related[u][1]
                between = tuple(g for g in before if u not in members[g] and not inner.isdisjoint(members[g]))
                if len(between) > 1:
                    found.append((u, v, between))
        found.append((None, None, tuple(range(len(members)))))
        return tuple(found)

    def ancestors(self, operator: str) -> tuple[str, ...]:
        """Ancestors of an operator in topological order."""
        return tuple(sorted(self._related[operator][0], key=self.order.__getitem__))

    @cached_property
    def joins(self) -> tuple[str, ...]:
        """Operators that read the results of at least two others."""
        producers: dict[str, set[str]] = {}
        for edge in self.edges:
            producers.setdefault(edge.consumer, set()).add(edge.producer)
        return tuple(name for name in self.order if len(producers.get(name, ())) > 1)

    @cached_property
    def parallel(self) -> tuple[tuple[str, str], ...]:
        """Pairs of cube operators of which neither depends on the other, at most :data:`SPAN` positions apart."""
        cubes = [name for name in self.order if self.graph.operator[name].engine is Engine.CUBE]
        return tuple(
            (one, other)
            for i, one in enumerate(cubes)
            for other in cubes[i + 1 :]
            if self.order[other] - self.order[one] <= SPAN and one not in self._related[other][0]
        )

    @cached_property
    def crowded(self) -> tuple[tuple[str, str, str, str], ...]:
        """Pairs of prefetches that cannot share L2: tensor, its reader, a later tensor, its reader.

        Together the two exceed L2, each has one reader, and the first reader is the second or an ancestor of it. If
        both are prefetched, the second stays until after the first reader has ended, so it must not be there before.
        """
        large = sorted(t for t in self.prefetchable if len(self.graph.consumers[t]) == 1)
        found = []
        for one in large:
            for other in large:
                if one == other or self.l2_size[one] + self.l2_size[other] <= self.l2_capacity:
                    continue
                (first,), (second,) = self.graph.consumers[one], self.graph.consumers[other]
                if self.large and self.order[second] - self.order[first] > SPAN:
                    continue
                if first == second or first in self._related[second][0]:
                    found.append((one, first, other, second))
        return tuple(found)

    def moves_before(self, operator: str, before: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Prefetchable source -> candidates of which at most one is chosen and whose reading it from L2 puts its
        move before ``operator``'s kernel starts.

        Of the operators that read the source, one is taken: ``operator`` itself or an ancestor. The candidates that
        hold it exclude one another, and each of them ends before ``operator`` starts, or is its kernel.
        """
        earlier = set(before)
        own = set(self.instance.candidates_of[operator])
        found = {}
        for t in sorted(self.prefetchable):
            for reader in self.graph.consumers[t]:
                groups = [g for g in self.instance.candidates_of[reader] if g in earlier or g in own]
                if groups:
                    found[t] = tuple(g for g in groups if t in self.instance.candidates[g].reads)
                    break
        return found

    @cached_property
    def serial_ns(self) -> int:
        """A latency that is never needed: every operator alone in its slowest way, everything through HBM."""
        total = 0
        for candidate in self.instance.candidates:
            if len(candidate.operators) == 1:
                traffic = sum(self.read_ns(candidate, t) for t in candidate.reads)
                traffic += sum(self.write_ns(t) for t in candidate.writes)
                ways = self.instance.implementations(candidate)
                total += traffic + max(
                    way.cost.least_ns
                    + sum(self.miss_ns(way.cost, self.read_bytes(candidate, t)) for t in candidate.reads)
                    for way in ways
                )
        return total

    @cached_property
    def compulsory_ns(self) -> int:
        """Time on the HBM channel that no schedule avoids: each source read once, each output written once.

        A source read in parts counts with the largest part that one operator reads.
        """
        reads = sum(
            hbm_ns(self.machine, max(self._touched[reader, name] for reader in self.graph.consumers[name]))
            for name in self.sources
        )
        writes = sum(self.write_ns(name) for name in self.made if self.is_output(name))
        return reads + writes
