"""Why a set of operators may not run as one kernel: the rule of :mod:`instances.fusion` that forbids it, by name.

:func:`objection` looks at the rules in the order in which :meth:`Fuser.judge` does, and answers ``None`` exactly where
the latter gives a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from instances.fusion import SIBLING_REACH, SIBLING_WINDOW, Fuser, common_rows
from instances.graph import Access, Engine, Graph, Operator, OpKind, Role

_ATTENTION = (OpKind.ATTENTION_SCORES, OpKind.SOFTMAX, OpKind.ATTENTION_VALUES)


class Obstacle(StrEnum):
    """The rules that a set of operators can break."""

    NOT_CONVEX = "not convex"
    NOT_CONNECTED = "not connected"
    COLLECTIVE = "collective"
    NO_COMMON_ROWS = "no common rows"
    ATTENTION_SET = "attention runs as scores, softmax and values"
    ATTENTION_OUTPUT = "output inside attention"
    ATTENTION_READ = "attention read elsewhere"
    ATTENTION_ORDER = "attention out of order"
    LEFT_OPERAND = "matmuls of different input"
    WEIGHT_CHOICE = "matmuls that choose weights differently"
    VECTOR_FIRST = "vector before cube"
    READS_NOTHING = "vector operator beside the matmul"
    OUTSIDE_TILE = "loops that the tile does not have"
    WIDTHS = "results of different width"
    NOT_JOINED = "result that nobody joins"


@dataclass(frozen=True)
class Objection:
    """A broken rule: which, in words, and the operators and tensors that break it."""

    obstacle: Obstacle
    words: str
    operators: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


def objection(fuser: Fuser, names: Sequence[str]) -> Objection | None:
    """The first rule that forbids a kernel over these operators; ``None`` where they may be one."""
    graph = fuser.graph
    operators = tuple(sorted((graph.operator[name] for name in names), key=lambda one: fuser.index[one.name]))
    if len(operators) == 1:
        return None
    if outside := fuser.between(names):
        return Objection(Obstacle.NOT_CONVEX, _way_out_and_in(graph, operators, outside), outside)
    if not fuser.connected(names):
        words = (
            "no tensor joins them closely enough (a tensor joins its maker with each reader, and readers of which at "
            f"most {SIBLING_WINDOW - 1} others stand between and that are at most {SIBLING_REACH} operators apart)"
        )
        return Objection(Obstacle.NOT_CONNECTED, words)
    for operator in operators:
        if operator.engine is Engine.LINK:
            words = f"{operator.name} is a collective, and collectives run alone"
            return Objection(Obstacle.COLLECTIVE, words, (operator.name,))
    cubes = tuple(operator for operator in operators if operator.engine is Engine.CUBE)
    if not cubes:
        return _rows(operators)
    if tuple(operator.kind for operator in operators) == _ATTENTION:
        return _attention(graph, operators)
    strangers = [cube for cube in cubes if cube.kind is not OpKind.MATMUL]
    if strangers:
        words = (
            f"{strangers[0].name} is a product of attention, which runs alone or as scores, softmax and values "
            "together, with nothing else"
        )
        return Objection(Obstacle.ATTENTION_SET, words, tuple(cube.name for cube in strangers))
    found = _left_operand(cubes)
    if found is not None or len(cubes) == len(operators):
        return found
    return _epilogue(operators, cubes)


def _way_out_and_in(graph: Graph, operators: Sequence[Operator], outside: Sequence[str]) -> str:
    """One way through the operators that lie between, in words."""
    inside = {operator.name for operator in operators}
    makers = {
        graph.producer[a.tensor] for name in outside for a in graph.operator[name].reads if a.tensor in graph.producer
    }
    readers = {r for name in outside for a in graph.operator[name].writes for r in graph.consumers[a.tensor]}
    before = next(operator.name for operator in operators if operator.name in makers & inside)
    after = next(operator.name for operator in reversed(operators) if operator.name in readers & inside)
    them = outside[0] if len(outside) == 1 else f"{outside[0]} and {len(outside) - 1} more"
    verb = "lies" if len(outside) == 1 else "lie"
    return f"{them} {verb} between: after {before}, before {after}, and not in the group"


def _rows(operators: Sequence[Operator]) -> Objection | None:
    if common_rows(operators):
        return None
    parts, guilty = [], []
    for operator in operators:
        if operator.whole:
            parts.append(f"{operator.name} needs {', '.join(operator.whole)} whole")
            guilty.append(operator.name)
    if not parts or not common_rows([one.model_copy(update={"whole": ()}) for one in operators]):
        for operator in operators:
            written = frozenset.intersection(*(access.loops for access in operator.writes))
            parts.append(f"{operator.name} writes along {', '.join(sorted(written)) or 'none'}")
            guilty.append(operator.name)
    words = f"no loop is left along which all can be cut into rows: {'; '.join(parts)}"
    return Objection(Obstacle.NO_COMMON_ROWS, words, tuple(dict.fromkeys(guilty)))


def _attention(graph: Graph, operators: Sequence[Operator]) -> Objection | None:
    for before, after in pairwise(operators):
        tensor = before.writes[0].tensor
        if after.reads[0].tensor != tensor:
            words = f"{after.name} reads {after.reads[0].tensor} first and not {tensor}, which {before.name} makes"
            return Objection(Obstacle.ATTENTION_ORDER, words, (before.name, after.name), (tensor,))
        others = tuple(reader for reader in graph.consumers[tensor] if reader != after.name)
        if others:
            words = f"{tensor}, made inside the group, is read elsewhere, by {others[0]}"
            return Objection(Obstacle.ATTENTION_READ, words, others, (tensor,))
        if graph.tensor[tensor].role is Role.OUTPUT:
            words = f"{tensor}, made inside the group, is an output of the graph"
            return Objection(Obstacle.ATTENTION_OUTPUT, words, (before.name,), (tensor,))
    return None


def _left_operand(cubes: Sequence[Operator]) -> Objection | None:
    first = cubes[0]
    for cube in cubes[1:]:
        mine, theirs = first.reads[0], cube.reads[0]
        if mine.tensor != theirs.tensor:
            words = f"{first.name} multiplies {mine.tensor} and {cube.name} {theirs.tensor}: no common left operand"
            return Objection(Obstacle.LEFT_OPERAND, words, (first.name, cube.name), (mine.tensor, theirs.tensor))
        if mine != theirs:
            words = f"{first.name} and {cube.name} read {mine.tensor} in different ways"
            return Objection(Obstacle.LEFT_OPERAND, words, (first.name, cube.name), (mine.tensor,))
        if _chosen(first) != _chosen(cube):
            words = f"{first.name} and {cube.name} choose among their weights along different loops"
            return Objection(Obstacle.WEIGHT_CHOICE, words, (first.name, cube.name))
    return None


def _chosen(cube: Operator) -> frozenset[str]:
    """Loops that select one of several weights."""
    return cube.reads[1].loops - cube.reads[0].loops - cube.writes[0].loops


def _epilogue(operators: Sequence[Operator], cubes: Sequence[Operator]) -> Objection | None:
    vectors = [operator for operator in operators if operator.engine is Engine.VECTOR]
    made_by_vector = {access.tensor: operator for operator in vectors for access in operator.writes}
    for cube in cubes:
        for access in cube.reads:
            if access.tensor in made_by_vector:
                before = made_by_vector[access.tensor].name
                words = (
                    f"{cube.name} reads {access.tensor}, which {before} makes: vector operators follow the matmul of "
                    "their kernel, tile by tile, and never precede it"
                )
                return Objection(Obstacle.VECTOR_FIRST, words, (before, cube.name), (access.tensor,))
    made = {access.tensor for operator in operators for access in operator.writes}
    tile = frozenset(loop for cube in cubes for loop in cube.writes[0].loops)
    for vector in vectors:
        if not any(access.tensor in made for access in vector.reads):
            return Objection(
                Obstacle.READS_NOTHING, f"{vector.name} reads nothing that the group makes", (vector.name,)
            )
        if missing := sorted(set(vector.dims) - tile):
            words = (
                f"{vector.name} loops over {', '.join(missing)}, which the tiles of "
                f"{', '.join(cube.name for cube in cubes)} do not have"
            )
            return Objection(Obstacle.OUTSIDE_TILE, words, (vector.name,))
    if len(cubes) == 1:
        return None
    for one, other in combinations(cubes, 2):
        if one.writes[0].dims != other.writes[0].dims:
            words = (
                f"the results of {one.name} ({_dims(one.writes[0])}) and {other.name} ({_dims(other.writes[0])}) are "
                "of different form, so that no vector operator can join their tiles"
            )
            return Objection(Obstacle.WIDTHS, words, (one.name, other.name))
    joined = {access.tensor for operator in vectors for access in operator.reads}
    for cube in cubes:
        if cube.writes[0].tensor not in joined:
            words = f"no vector operator of the group reads {cube.writes[0].tensor}, the result of {cube.name}"
            return Objection(Obstacle.NOT_JOINED, words, (cube.name,), (cube.writes[0].tensor,))
    return None


def _dims(access: Access) -> str:
    return " x ".join(access.dims)
