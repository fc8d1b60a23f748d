"""Graph scheduling on a two-level memory, as asked in the MLSys 2026 contest (Google track): problem and solution.

A step runs a group of operators tile by tile in a fast memory: external inputs are loaded slice by slice, what is made
and used inside takes no room, results go back to slow memory or stay, whole, for the next step. Sizes are in elements,
times in the file's unit. Files are the contest's own JSON (parallel lists); the statement, its rules R1 to R12 and the
open questions A1 to A8 are those of the organisers' repository (yarongmu-google/MLSys) and its issues.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from instances.documents import Frozen, canonical_json, digest, parse, read_json, write_text
from instances.errors import InputError

Size = Annotated[int, Field(gt=0, le=2**40)]
Index = Annotated[int, Field(ge=0)]
Cost = Annotated[float, Field(ge=0, le=2.0**60)]

MOST_OPERATORS = 5000
"""Largest problem; the contest's has 152 operators."""


class Kind(StrEnum):
    """What an operator computes."""

    MATMUL = "MatMul"
    POINTWISE = "Pointwise"


class SubgraphProblem(Frozen):
    """A graph of matrix products and elementwise operators over tensors, and a fast memory before a slow one.

    Parameters
    ----------
    widths, heights
        Of each tensor: columns and rows.
    inputs, outputs
        Of each operator: tensors read (a product: left, right) and written.
    base_costs
        Of each operator: time per tile, for a product over the whole of its depth.
    op_types
        ``MatMul`` or ``Pointwise``.
    fast_memory_capacity
        Elements.
    slow_memory_bandwidth
        Elements per time unit.
    native_granularity
        Largest width and height of a tile; the first is also the largest depth.
    """

    widths: tuple[Size, ...] = Field(min_length=1)
    heights: tuple[Size, ...] = Field(min_length=1)
    inputs: tuple[tuple[Index, ...], ...]
    outputs: tuple[tuple[Index, ...], ...]
    base_costs: tuple[Cost, ...]
    op_types: tuple[Kind, ...] = Field(min_length=1, max_length=MOST_OPERATORS)
    fast_memory_capacity: Size
    slow_memory_bandwidth: Annotated[float, Field(gt=0, le=2.0**50)]
    native_granularity: tuple[Size, Size]

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.op_types)
        for what in ("inputs", "outputs", "base_costs"):
            if len(getattr(self, what)) != count:
                raise ValueError(f"{what} has {len(getattr(self, what))} entries for {count} operators")
        if len(self.widths) != len(self.heights):
            raise ValueError(f"widths has {len(self.widths)} entries, heights {len(self.heights)}")
        made: dict[int, int] = {}
        for op in range(count):
            for tensor in (*self.inputs[op], *self.outputs[op]):
                if tensor >= len(self.widths):
                    raise ValueError(f"operator {op} names tensor {tensor}, but there are {len(self.widths)}")
            if len(self.outputs[op]) != 1:
                raise ValueError(f"operator {op} has {len(self.outputs[op])} outputs; only one is supported")
            if self.outputs[op][0] in made:
                raise ValueError(
                    f"tensor {self.outputs[op][0]} is written by operators {made[self.outputs[op][0]]} and {op}"
                )
            made[self.outputs[op][0]] = op
            self._check_shapes(op)
        if len(self.order) != count:
            raise ValueError("the graph has a cycle")
        return self

    def _check_shapes(self, op: int) -> None:
        out = self.outputs[op][0]
        reads = self.inputs[op]
        if self.op_types[op] is Kind.POINTWISE:
            if not reads or any(self.shape(t) != self.shape(out) for t in reads):
                raise ValueError(f"operator {op} is Pointwise, but its tensors differ in shape")
            return
        if len(reads) != 2:
            raise ValueError(f"operator {op} is a MatMul with {len(reads)} inputs; give two")
        left, right = reads
        if (
            self.widths[left] != self.heights[right]
            or self.heights[left] != self.heights[out]
            or self.widths[right] != self.widths[out]
        ):
            raise ValueError(f"operator {op} is a MatMul, but its tensors do not go together in shape")

    def shape(self, tensor: int) -> tuple[int, int]:
        """Width and height of a tensor."""
        return self.widths[tensor], self.heights[tensor]

    def size(self, tensor: int) -> int:
        """Elements of a tensor."""
        return self.widths[tensor] * self.heights[tensor]

    def out(self, op: int) -> int:
        """The tensor that an operator writes."""
        return self.outputs[op][0]

    def depth(self, op: int) -> int:
        """Depth of a product."""
        return self.widths[self.inputs[op][0]]

    @cached_property
    def count(self) -> int:
        """Number of operators."""
        return len(self.op_types)

    @cached_property
    def maker(self) -> dict[int, int]:
        """Tensor -> operator that writes it."""
        return {self.out(op): op for op in range(self.count)}

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """Tensor -> operators that read it."""
        found: dict[int, list[int]] = {}
        for op in range(self.count):
            for tensor in dict.fromkeys(self.inputs[op]):
                found.setdefault(tensor, []).append(op)
        return {tensor: tuple(ops) for tensor, ops in found.items()}

    @cached_property
    def before(self) -> tuple[frozenset[int], ...]:
        """Operators whose results each operator reads."""
        return tuple(frozenset(self.maker[t] for t in self.inputs[op] if t in self.maker) for op in range(self.count))

    @cached_property
    def after(self) -> tuple[frozenset[int], ...]:
        """Operators that read each operator's result."""
        return tuple(frozenset(self.readers.get(self.out(op), ())) for op in range(self.count))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """A topological order; shorter than the number of operators where there is none."""
        maker = {self.outputs[op][0]: op for op in range(len(self.op_types))}
        waits = {op: {maker[t] for t in self.inputs[op] if t in maker} for op in range(len(self.op_types))}
        done: list[int] = []
        seen: set[int] = set()
        while True:
            ready = [op for op in waits if op not in seen and waits[op] <= seen]
            if not ready:
                return tuple(done)
            done += ready
            seen |= set(ready)

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """Operators that lie before each, at any distance."""
        found: list[frozenset[int]] = [frozenset()] * self.count
        for op in self.order:
            found[op] = self.before[op].union(*(found[before] for before in self.before[op]))
        return tuple(found)

    @cached_property
    def results(self) -> frozenset[int]:
        """Tensors that are made and read by nobody: they must end in slow memory."""
        return frozenset(t for t in self.maker if t not in self.readers)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the problem."""
        return digest(canonical_json(self))


class SubgraphStep(Frozen):
    """One step: operators in topological order, tile width, height and depth, what stays, the order of tiles."""

    ops: tuple[int, ...]
    granularity: tuple[int, int, int]
    retain: tuple[int, ...] = ()
    traversal: tuple[int, ...] | None = None
    latency: float = 0.0


class SubgraphSolution(Frozen):
    """Steps, one after the other."""

    steps: tuple[SubgraphStep, ...]


_FIELDS = ("subgraphs", "granularities", "tensors_to_retain", "traversal_orders", "subgraph_latencies")


def is_subgraph_problem(content: Any) -> bool:
    """Whether parsed JSON is a problem of this kind."""
    return isinstance(content, dict) and {"fast_memory_capacity", "op_types", "base_costs"} <= set(content)


def read_subgraph_problem(path: str | Path) -> SubgraphProblem:
    """Read a problem; :class:`InputError` that names file, place, value and remedy."""
    data = read_json(path)
    if not is_subgraph_problem(data):
        raise InputError(
            f"{path}: is no graph scheduling problem; give widths, heights, inputs, outputs, base_costs, op_types"
        )
    return parse(SubgraphProblem, data, path)


def read_subgraph_solution(path: str | Path) -> SubgraphSolution:
    """Read a solution in the contest's form."""
    data = read_json(path)
    if not isinstance(data, dict) or "subgraphs" not in data or "granularities" not in data:
        raise InputError(f"{path}: is no solution of a graph scheduling problem; give subgraphs and granularities")
    count = len(data["subgraphs"]) if isinstance(data["subgraphs"], list) else 0
    lists: list[list[Any]] = []
    for name in _FIELDS:
        given = data.get(name)
        if given is None and name in _FIELDS[2:]:
            given = [{"tensors_to_retain": [], "traversal_orders": None, "subgraph_latencies": 0.0}[name]] * count
        if not isinstance(given, list) or len(given) != count:
            raise InputError(f"{path}: {name} is no list of {count} entries, one for each step; mend the file")
        lists.append(given)
    steps = [
        {"ops": ops, "granularity": tile, "retain": kept or (), "traversal": order, "latency": claim or 0.0}
        for ops, tile, kept, order, claim in zip(*lists, strict=True)
    ]
    return parse(SubgraphSolution, {"steps": steps}, path)


def write_subgraph_solution(solution: SubgraphSolution, path: str | Path) -> None:
    """Write a solution in the contest's form, whole or not at all."""
    import json

    steps = solution.steps
    columns: list[list[Any]] = [
        [list(step.ops) for step in steps],
        [list(step.granularity) for step in steps],
        [list(step.retain) for step in steps],
        [None if step.traversal is None else list(step.traversal) for step in steps],
        [step.latency for step in steps],
    ]
    rows = ",\n".join(
        f'  "{name}": [\n' + ",\n".join(f"    {json.dumps(entry)}" for entry in column) + "\n  ]"
        for name, column in zip(_FIELDS, columns, strict=True)
    )
    write_text(path, "{\n" + rows + "\n}\n")
