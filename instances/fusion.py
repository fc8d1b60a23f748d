"""Which sets of operators may run as one kernel, by rules that real Ascend stacks ship.

=================== ============================================================ =================================
rule                 what it allows                                               source
=================== ============================================================ =================================
single               any operator alone                                           every stack
vector_chain         connected vector operators with a common row partition,      CANN AutoFuse guide: vector
                     rows held whole where an operator needs them (norm + quant,  operators that share traffic and
                     add + norm, rope of q and k, rope + cache write)             loop axes; AddRmsNormDynamicQuant,
                                                                                  RopeQuantKvCache
shared_input         matmuls that read the same left operand (q, k, v; gate, up)  merged QKV and gate-up weights in
                                                                                  vllm-ascend
cube_with_vector     one matmul and the vector operators that consume its tile:   CATLASS epilogues (add, silu, gelu,
_epilogue            residual add, activation, dequantize, rope                   dequant); on 910B one kernel of
                                                                                  AIC and AIV over an L2 workspace
gated_matmuls        several matmuls of one input and the vector operators that   GroupedMatmulSwigluQuant, FFN
                     join their tiles (gate, up, silu-mul)
attention            scores, softmax and values with online softmax               FlashAttentionScore,
                                                                                  FusedInferAttentionScore
=================== ============================================================ =================================

A set must be connected (through tensors made or read in common), convex (no way out and back in), and of at
most ``max_group`` operators. Collectives run alone: the fused matmul-collective kernels of CANN are not used
by the published network traces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from instances.graph import Access, Engine, Graph, Operator, OpKind, Role
from instances.kernels import KernelKind, Rule

SIBLING_WINDOW = 3
"""Readers of one tensor count as neighbours when at most so many others read it between them: a table read by every
layer must not connect all layers."""

SIBLING_REACH = 16
"""... and when at most so many operators apart: a tensor that products of every layer read (the states of an encoder)
would join each layer's to the next one's."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """A legal fusion group with what crosses its border. Compared by identity, so that it can key a cache."""

    graph: Graph
    operators: tuple[Operator, ...]
    kind: KernelKind
    rule: Rule

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Operator names in topological order."""
        return tuple(operator.name for operator in self.operators)

    @cached_property
    def made(self) -> frozenset[str]:
        """Tensors that the group writes."""
        return frozenset(access.tensor for operator in self.operators for access in operator.writes)

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """Accesses to tensors from outside, one per tensor (the largest), in order of first use."""
        found: dict[str, Access] = {}
        for operator in self.operators:
            for access in operator.reads:
                if access.tensor in self.made:
                    continue
                known = found.get(access.tensor)
                if known is None or self.graph.touched_bytes(access) > self.graph.touched_bytes(known):
                    found[access.tensor] = access
        return tuple(found.values())

    @cached_property
    def writes(self) -> tuple[Access, ...]:
        """Accesses to tensors that somebody outside needs."""
        inside = set(self.names)
        return tuple(
            access
            for operator in self.operators
            for access in operator.writes
            if self.graph.tensor[access.tensor].role is Role.OUTPUT
            or any(reader not in inside for reader in self.graph.consumers[access.tensor])
        )

    @cached_property
    def cubes(self) -> tuple[Operator, ...]:
        """The operators on the cube."""
        return tuple(operator for operator in self.operators if operator.engine is Engine.CUBE)

    @cached_property
    def vectors(self) -> tuple[Operator, ...]:
        """The operators on the vector unit."""
        return tuple(operator for operator in self.operators if operator.engine is Engine.VECTOR)


class Fuser:
    """Enumerates and judges the fusion groups of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.cut_short = 0
        self.operators = graph.operators
        self.index = {operator.name: i for i, operator in enumerate(graph.operators)}
        self._descendants = self._closure()
        self._ancestors = self._reversed_closure()
        self._neighbours = self._adjacency()

    def judge(self, names: Sequence[str]) -> Fusion | None:
        """The group of these operators, or ``None`` where they may not run as one kernel."""
        members = frozenset(self.index[name] for name in names)
        if len(members) > 1 and not (self._convex(members) and self._connected(members)):
            return None
        return self._classify(members)

    def between(self, names: Sequence[str]) -> tuple[str, ...]:
        """Operators outside a set that follow from one of its operators and lead to another: the set is not convex."""
        members = frozenset(self.index[name] for name in names)
        found = self._between(members)
        return tuple(operator.name for i, operator in enumerate(self.operators) if found >> i & 1)

    def connected(self, names: Sequence[str]) -> bool:
        """Whether a set of operators hangs together through tensors made or read in common."""
        return self._connected(frozenset(self.index[name] for name in names))

    def groups(self, max_group: int, most_per_operator: int) -> Iterator[Fusion]:
        """Every legal group of at most ``max_group`` operators, once each, small ones first around each operator.

        The search around an operator ends after ``most_per_operator`` sets, so that a graph in which everything
        touches everything still has a bounded number of candidates; :attr:`cut_short` counts how often that happened.
        """
        seen: set[frozenset[int]] = set()
        self.cut_short = 0
        for seed in range(len(self.operators)):
            queue = deque([frozenset({seed})])
            visited = 0
            while queue:
                members = queue.popleft()
                if members in seen:
                    continue
                if visited == most_per_operator:
                    self.cut_short += 1
                    break
                visited += 1
                seen.add(members)
                if len(members) == 1 or self._convex(members):
                    fusion = self._classify(members)
                    if fusion is not None:
                        yield fusion
                if len(members) < max_group:
                    around = set().union(*(self._neighbours[i] for i in members)) - members
                    queue.extend(
                        grown
                        for other in sorted(around)
                        if (grown := members | {other}) not in seen and self._may_grow(grown)
                    )

    def _closure(self) -> list[int]:
        """Descendants of each operator as a bit set."""
        below = [0] * len(self.operators)
        for i in reversed(range(len(self.operators))):
            for j in self._successors(i):
                below[i] |= below[j] | (1 << j)
        return below

    def _reversed_closure(self) -> list[int]:
        above = [0] * len(self.operators)
        for i in range(len(self.operators)):
            for j in self._successors(i):
                above[j] |= above[i] | (1 << i)
        return above

    def _successors(self, i: int) -> list[int]:
        return sorted({self.index[r] for a in self.operators[i].writes for r in self.graph.consumers[a.tensor]})

    def _adjacency(self) -> list[set[int]]:
        near: list[set[int]] = [set() for _ in self.operators]
        for tensor in self.graph.tensors:
            readers = [self.index[name] for name in self.graph.consumers[tensor.name]]
            pairs = [
                (a, b)
                for n, a in enumerate(readers)
                for b in readers[n + 1 : n + 1 + SIBLING_WINDOW]
                if b - a <= SIBLING_REACH
            ]
            if tensor.name in self.graph.producer:
                pairs += [(self.index[self.graph.producer[tensor.name]], b) for b in readers]
            for a, b in pairs:
                near[a].add(b)
                near[b].add(a)
        return near

    def _convex(self, members: frozenset[int]) -> bool:
        return not self._between(members)

    def _between(self, members: frozenset[int]) -> int:
        """Operators outside on a way from one member to another, as a bit set."""
        inside = below = above = 0
        for i in members:
            inside |= 1 << i
            below |= self._descendants[i]
            above |= self._ancestors[i]
        return below & above & ~inside

    def _connected(self, members: frozenset[int]) -> bool:
        reached, frontier = set(), [next(iter(members))]
        while frontier:
            i = frontier.pop()
            if i not in reached:
                reached.add(i)
                frontier.extend(self._neighbours[i] & members)
        return reached == members

    def _may_grow(self, members: frozenset[int]) -> bool:
        """Whether some legal group could contain these operators (cheap, may say yes too often)."""
        operators = [self.operators[i] for i in members]
        engines = {operator.engine for operator in operators}
        if Engine.LINK in engines:
            return False
        cubes = [operator for operator in operators if operator.engine is Engine.CUBE]
        if any(operator.kind is not OpKind.MATMUL for operator in cubes):
            return sum(o.kind is OpKind.ATTENTION_SCORES for o in cubes) <= 1 and len(operators) <= 3
        return len({operator.reads[0].tensor for operator in cubes}) <= 1

    def _classify(self, members: frozenset[int]) -> Fusion | None:
        operators = tuple(self.operators[i] for i in sorted(members))
        engines = {operator.engine for operator in operators}
        if len(operators) == 1:
            kind = {
                Engine.CUBE: KernelKind.CUBE,
                Engine.VECTOR: KernelKind.VECTOR,
                Engine.LINK: KernelKind.LINK,
            }[operators[0].engine]
            return Fusion(self.graph, operators, kind, Rule.SINGLE)
        if Engine.LINK in engines:
            return None
        if engines == {Engine.VECTOR}:
            return self._vector_chain(operators)
        cubes = [operator for operator in operators if operator.engine is Engine.CUBE]
        if _is_attention(self.graph, operators):
            return Fusion(self.graph, operators, KernelKind.MIX, Rule.ATTENTION)
        if any(operator.kind is not OpKind.MATMUL for operator in cubes) or not _same_rows(cubes):
            return None
        if len(cubes) == len(operators):
            return Fusion(self.graph, operators, KernelKind.CUBE, Rule.SHARED_INPUT)
        return self._epilogue(operators, cubes)

    def _vector_chain(self, operators: tuple[Operator, ...]) -> Fusion | None:
        return Fusion(self.graph, operators, KernelKind.VECTOR, Rule.VECTOR_CHAIN) if common_rows(operators) else None

    def _epilogue(self, operators: tuple[Operator, ...], cubes: list[Operator]) -> Fusion | None:
        """Vector operators may follow the matmuls of their group, tile by tile, never precede them."""
        made_by_vector = {a.tensor for o in operators if o.engine is Engine.VECTOR for a in o.writes}
        if any(access.tensor in made_by_vector for cube in cubes for access in cube.reads):
            return None
        made = {a.tensor for o in operators for a in o.writes}
        tile_dims = frozenset(loop for cube in cubes for loop in cube.writes[0].loops)
        for operator in operators:
            if operator.engine is not Engine.VECTOR:
                continue
            if not any(access.tensor in made for access in operator.reads):
                return None
            if not set(operator.dims) <= tile_dims:
                return None
        if len(cubes) > 1:
            joined = {a.tensor for o in operators if o.engine is Engine.VECTOR for a in o.reads}
            widths = {cube.writes[0].dims for cube in cubes}
            if len(widths) > 1 or not all(cube.writes[0].tensor in joined for cube in cubes):
                return None
        rule = Rule.EPILOGUE if len(cubes) == 1 else Rule.GATED
        return Fusion(self.graph, operators, KernelKind.MIX, rule)


def common_rows(operators: Sequence[Operator]) -> frozenset[str]:
    """Loop dimensions along which all these vector operators can be cut together.

    A dimension qualifies if every operator writes along it and none needs it whole.
    """
    shared: frozenset[str] | None = None
    for operator in operators:
        written = frozenset.intersection(*(access.loops for access in operator.writes))
        free = written - frozenset(operator.whole)
        shared = free if shared is None else shared & free
    return shared or frozenset()


def _same_rows(cubes: Sequence[Operator]) -> bool:
    """Whether matmuls share their left operand and the way it is read, so that its tiles serve all."""
    first = cubes[0].reads[0]
    grouped = {frozenset(cube.reads[1].loops - cube.reads[0].loops - cube.writes[0].loops) for cube in cubes}
    return all(cube.reads[0] == first for cube in cubes) and len(grouped) == 1


def _is_attention(graph: Graph, operators: tuple[Operator, ...]) -> bool:
    """Scores, softmax, values, each feeding the next and nobody else reading what lies between."""
    if [o.kind for o in operators] != [OpKind.ATTENTION_SCORES, OpKind.SOFTMAX, OpKind.ATTENTION_VALUES]:
        return False
    return all(
        after.reads[0].tensor == before.writes[0].tensor
        and graph.consumers[before.writes[0].tensor] == (after.name,)
        and graph.tensor[before.writes[0].tensor].role is not Role.OUTPUT
        for before, after in pairwise(operators)
    )
