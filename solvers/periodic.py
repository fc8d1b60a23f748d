"""Whole models: what repeats is decided once, on a few blocks, and unrolled over all of them.

Blocks are found by the form of the graph, not by names: operators that cost the same and read from the same distance,
all along. A short instance keeps the first two blocks, the last one and what lies around them. It is annealed in states
that are the same in every block, so that each step changes all of them, with what it means across their borders: a
weight is fetched as far ahead in every block. A state of the short instance takes a millisecond or two to judge, and
unrolls into one of the whole in 20 to 80; annealing the whole itself left gaps of 10 % (Llama-3-8B, 32 blocks) and 30 %
(Llama-3-70B, 80), because a step that changes one block among many is lost in the noise.
"""

from __future__ import annotations

from functools import cached_property

from formulations.facts import Facts
from instances.graph import Operator
from instances.instance import Instance
from instances.kernels import Candidate
from instances.repetition import Repetition
from instances.repetition import find_repetition as find_in_graph
from solvers.anneal import State

KEPT = 3
"""Blocks of the short instance: a first, one that stands for all, and the last."""


def find_repetition(facts: Facts) -> Repetition | None:
    """The repetition of an instance's graph; ``None`` without one that is worth unrolling."""
    return find_in_graph(facts.instance)


class Periodic:
    """The short instance of one with repeated blocks, and the way from its states to those of the whole.

    Raises :class:`ValueError` or :class:`KeyError` where the blocks cannot be cut out (one reads from another than the
    one before it, or an operator has no kernel of its own for where groups of two blocks do not meet).
    """

    def __init__(self, facts: Facts, repetition: Repetition) -> None:
        alone = {c.operators[0] for c in facts.instance.candidates if len(c.operators) == 1}
        if not alone.issuperset(facts.order):
            raise ValueError("an operator has no kernel of its own")
        self.facts = facts
        self.repetition = repetition
        self.removed = (repetition.count - KEPT) * repetition.period
        self.tail = repetition.end - repetition.period
        self.short = Facts(self._shortened())

    def _shortened(self) -> Instance:
        """The instance without the blocks from the third to the last but one."""
        instance, graph = self.facts.instance, self.facts.graph
        operators = graph.operators
        cut = self.tail - self.removed
        renamed: dict[str, str] = {}
        for i in range(self.tail - self.repetition.period, self.tail):  # the last removed block is the last kept before
            for old, new in zip(_accessed(operators[i]), _accessed(operators[i - self.removed]), strict=True):
                renamed.setdefault(old, new)
        kept = [*operators[:cut]]
        made = {access.tensor for operator in operators[cut : self.tail] for access in operator.writes}
        for operator in operators[self.tail :]:
            reads = tuple(
                access.model_copy(update={"tensor": renamed[access.tensor]}) if access.tensor in made else access
                for access in operator.reads
            )
            kept.append(operator.model_copy(update={"reads": reads}))
        touched = {tensor for operator in kept for tensor in _accessed(operator)}
        found: list[Candidate] = []
        twin = {operators[i].name: operators[i - self.removed].name for i in range(cut, self.tail) if i >= self.removed}
        for candidate in instance.candidates:
            positions = [self.facts.order[name] for name in candidate.operators]
            if max(positions) < cut:
                found.append(candidate)
            elif max(positions) >= self.tail and min(positions) >= self.tail - self.repetition.period:
                update = {
                    side: tuple(renamed.get(t, t) if t not in touched else t for t in getattr(candidate, side))
                    for side in ("reads", "writes")
                }
                update["operators"] = tuple(twin.get(name, name) for name in candidate.operators)
                found.append(candidate.model_copy(update=update))
        return Instance(
            name=f"{instance.name}-short",
            graph=type(graph)(
                name=f"{graph.name}-short",
                tensors=tuple(tensor for tensor in graph.tensors if tensor.name in touched),
                operators=tuple(kept),
            ),
            machine=instance.machine,
            templates=instance.templates,
            candidates=tuple(found),
            census=instance.census,
            price=instance.price,
            pipelines=instance.pipelines,
            unscheduled=instance.unscheduled,
        )

    def _source(self, i: int, *, whole: bool) -> tuple[int, int]:
        """Where position ``i`` of the whole (or of the short instance) is decided: a short position, and the shift."""
        first, period = self.repetition.first, self.repetition.period
        end = self.repetition.end - (0 if whole else self.removed)
        if i < first:
            return i, 0
        if i >= end:
            return (i - self.removed, self.removed) if whole else (i, 0)
        block = (i - first) // period
        return i - (block - 1) * period, (block - 1) * period

    @cached_property
    def twins(self) -> dict[int, int]:
        """Candidates of the short instance that lie in a block -> the same in the next block."""
        order, candidates = self.short.order, self.short.instance.candidates
        at = {tuple(sorted(order[name] for name in c.operators)): g for g, c in enumerate(candidates)}
        first, end = self.repetition.first, self.repetition.end - self.removed
        found = {}
        for positions, g in at.items():
            twin = at.get(tuple(i + self.repetition.period for i in positions))
            if twin is not None and positions[0] >= first and positions[-1] + self.repetition.period < end:
                found[g] = twin
        return found

    def rates(self, begun: dict[int, int]) -> list[float]:
        """Priorities per ns in which one block comes a period after another, by what lies between each two of them.

        ``begun`` are the starts (ns) of the chosen candidates of the short instance. Shifted by the period, priorities
        are in the order of the times then.
        """
        apart: dict[int, list[int]] = {}
        for g, h in self.twins.items():
            if g in begun and h in begun:
                first = min(self.short.order[name] for name in self.short.instance.candidates[g].operators)
                block = (first - self.repetition.first) // self.repetition.period
                apart.setdefault(block, []).append(begun[h] - begun[g])
        means = [sum(each) / len(each) for _, each in sorted(apart.items())]
        return [self.repetition.period / mean for mean in means if mean > 0]

    @cached_property
    def unroll(self) -> _Unrolling:
        """From a state of the short instance to one of the whole."""
        return self._unrolling(self.facts, whole=True)

    @cached_property
    def level(self) -> _Unrolling:
        """From a state of the short instance to one that is the same in every block, as the middle one is."""
        return self._unrolling(self.short, whole=False)

    def _unrolling(self, target: Facts, *, whole: bool) -> _Unrolling:
        return _Unrolling(self.short, target, [self._source(i, whole=whole) for i in range(len(target.order))])


class _Unrolling:
    """States of one instance made into states of another, operator by operator."""

    def __init__(self, short: Facts, target: Facts, sources: list[tuple[int, int]]) -> None:
        self._short, self._target, self._sources = short, target, sources
        self._at = {
            tuple(sorted(target.order[name] for name in candidate.operators)): g
            for g, candidate in enumerate(target.instance.candidates)
        }
        self._reads = [
            list(zip(operator.reads, short.graph.operators[at].reads, strict=True))
            for operator, (at, _) in zip(target.graph.operators, sources, strict=True)
        ]
        self._writes = [
            list(zip(operator.writes, short.graph.operators[at].writes, strict=True))
            for operator, (at, _) in zip(target.graph.operators, sources, strict=True)
        ]

    def __call__(self, state: State) -> State:
        short, target = self._short, self._target
        candidates = short.instance.candidates
        holder = {short.order[name]: g for g in state.groups for name in candidates[g].operators}
        new = State(frozenset(), {}, frozenset(), frozenset(), {})
        covered: set[int] = set()
        for i, (at, shift) in enumerate(self._sources):
            if i in covered:
                continue
            g = holder[at]
            positions = tuple(sorted(short.order[name] + shift for name in candidates[g].operators))
            group = self._at.get(positions)
            if group is None or not covered.isdisjoint(positions):  # at the border of what repeats
                positions = (i,)
                group = self._at[positions]
                new.way[group] = 0
                new.priority["kernel", group] = float(i)
            else:
                alike = target.instance.candidates[group].template == candidates[g].template
                new.way[group] = state.way[g] if alike else 0  # the same operators, but a tensor lies elsewhere
                new.priority["kernel", group] = state.priority["kernel", g] + shift
            covered.update(positions)
        moved, spilled = set(), set()
        for reads, writes, (_, shift) in zip(self._reads, self._writes, self._sources, strict=True):
            for read, model in reads:
                if model.tensor in state.moved and read.tensor in target.prefetchable and read.tensor not in moved:
                    moved.add(read.tensor)
                    # what all blocks read is fetched once, ahead of the first
                    ahead = 0 if shift < 0 and read.tensor == model.tensor else shift
                    new.priority["prefetch", read.tensor] = state.priority["prefetch", model.tensor] + ahead
            for write, model in writes:
                if model.tensor in state.spilled and target.is_output(write.tensor) and target.can_stay(write.tensor):
                    spilled.add(write.tensor)
                    new.priority["spill", write.tensor] = state.priority["spill", model.tensor] + shift
        return State(frozenset(new.way), new.way, frozenset(moved), frozenset(spilled), new.priority)


def find_periodic(facts: Facts) -> Periodic | None:
    """The short instance of one with repeated blocks; ``None`` where there are none, or they cannot be cut out."""
    repetition = find_repetition(facts)
    if repetition is None:
        return None
    try:
        return Periodic(facts, repetition)
    except (ValueError, KeyError):
        return None


def _accessed(operator: Operator) -> list[str]:
    return [access.tensor for access in (*operator.reads, *operator.writes)]
