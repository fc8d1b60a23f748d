"""The operator graph: a DAG of operators over tensors, at the level at which kernels are written."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest

MAX_OPERATORS, MAX_TENSORS = 20_000, 200_000
"""Largest graph: several times the largest whole model, and still answered within a minute."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Extent = Annotated[int, Field(gt=0, le=2**48)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Work = Annotated[int, Field(ge=0, le=2**52)]


class DType(StrEnum):
    """Element type of a tensor."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"

    @property
    def size_bytes(self) -> int:
        """Bytes per element."""
        return {"int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1}[self.value]


class Role(StrEnum):
    """Where a tensor comes from and whether it must survive."""

    INPUT = "input"
    WEIGHT = "weight"
    CACHE = "cache"
    INTERMEDIATE = "intermediate"
    OUTPUT = "output"

    @property
    def starts_in_hbm(self) -> bool:
        """True where the tensor exists, in HBM, before the schedule starts."""
        return self in (Role.INPUT, Role.WEIGHT, Role.CACHE)


class OpKind(StrEnum):
    """What an operator computes; the fusion rules speak of these."""

    MATMUL = "matmul"
    ATTENTION_SCORES = "attention_scores"
    ATTENTION_VALUES = "attention_values"
    SOFTMAX = "softmax"
    NORM = "norm"
    ROPE = "rope"
    ELEMENTWISE = "elementwise"
    ACTIVATION = "activation"
    CACHE_WRITE = "cache_write"
    GATHER = "gather"
    TOPK = "topk"
    PERMUTE = "permute"
    COMBINE = "combine"
    QUANTIZE = "quantize"
    DEQUANTIZE = "dequantize"
    COLLECTIVE = "collective"


class Engine(StrEnum):
    """The unit that does an operator's work."""

    CUBE = "cube"
    VECTOR = "vector"
    LINK = "link"


class VectorClass(StrEnum):
    """Instruction classes of the vector unit, priced per 256-byte repeat by the machine."""

    ONE_SOURCE = "one_source"
    TWO_SOURCE = "two_source"
    CONVERT = "convert"
    TRANSCENDENTAL = "transcendental"
    DIVIDE = "divide"
    REDUCE = "reduce"
    MAXIMUM = "maximum"
    TRANSPOSE = "transpose"
    GATHER = "gather"
    SORT = "sort"


CUBE_KINDS = frozenset({OpKind.MATMUL, OpKind.ATTENTION_SCORES, OpKind.ATTENTION_VALUES})


class Tensor(Frozen):
    """A dense tensor; ``shape`` in elements, outermost axis first."""

    name: Name
    shape: tuple[Extent, ...] = Field(min_length=1, max_length=8)
    dtype: DType
    role: Role

    @cached_property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.elements * self.dtype.size_bytes


class Access(Frozen):
    """One tensor as an operator touches it.

    ``dims`` has one entry per axis of the tensor: the loop dimension that indexes it, or several joined with
    ``*`` where an axis holds their product (``"heads*dim"``), or ``"1"`` for an axis of extent one.
    ``touched_bytes`` is set where only a part is touched (rows of an embedding table, the experts that were
    routed to); ``None`` means all of it.
    """

    tensor: Name
    dims: tuple[str, ...]
    touched_bytes: Annotated[int, Field(gt=0)] | None = None

    @cached_property
    def axes(self) -> tuple[tuple[str, ...], ...]:
        """The loop dimensions of each axis."""
        return tuple(() if axis == "1" else tuple(axis.split("*")) for axis in self.dims)

    @cached_property
    def loops(self) -> frozenset[str]:
        """All loop dimensions that index this tensor."""
        return frozenset(loop for axis in self.axes for loop in axis)


class Operator(Frozen):
    """One operator.

    Parameters
    ----------
    dims
        Loop dimensions and their extents. Names are shared across the graph: two operators that both loop over
        ``"tokens"`` can be tiled together along it.
    reads, writes
        The tensors, with the dimensions that index them.
    macs
        Multiply-accumulates for the cube.
    vector
        Elements per instruction class for the vector unit, counted on 32-bit lanes; conversions from and to
        16-bit storage are added by the cost model, once per element that enters or leaves a kernel.
    link_bytes
        Bytes of the message of a collective, per rank.
    whole
        Loop dimensions that a tile must hold entirely (a normalised row, a rotated head).
    density
        Share of the loop space that is computed: below 1 where a causal mask skips blocks. ``macs`` counts the
        computed part alone.
    """

    name: Name
    kind: OpKind
    dims: dict[str, Extent]
    reads: tuple[Access, ...] = Field(min_length=1)
    writes: tuple[Access, ...] = Field(min_length=1)
    macs: Work = 0
    vector: dict[VectorClass, Work] = Field(default_factory=dict)
    link_bytes: Work = 0
    whole: tuple[str, ...] = ()
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    note: str = ""

    @cached_property
    def engine(self) -> Engine:
        """The engine that does the work, by kind."""
        if self.kind in CUBE_KINDS:
            return Engine.CUBE
        return Engine.LINK if self.kind is OpKind.COLLECTIVE else Engine.VECTOR

    @model_validator(mode="after")
    def _check(self) -> Self:
        for access in (*self.reads, *self.writes):
            for loop in access.loops:
                if loop not in self.dims:
                    raise ValueError(
                        f"operator {self.name!r} indexes {access.tensor!r} by {loop!r}, "
                        f"which is not among its dims {sorted(self.dims)}"
                    )
        for loop in self.whole:
            if loop not in self.dims:
                raise ValueError(f"operator {self.name!r}: whole dimension {loop!r} is not among its dims")
        if self.engine is Engine.CUBE and len(self.reads) < 2:
            raise ValueError(f"operator {self.name!r} is a {self.kind.value} with one operand; give it two")
        if self.engine is Engine.CUBE and self.macs == 0:
            raise ValueError(f"operator {self.name!r} is a {self.kind.value} without macs; give its work")
        if self.engine is Engine.LINK and self.link_bytes == 0:
            raise ValueError(f"operator {self.name!r} is a collective without link_bytes; give its message")
        return self


class Graph(Frozen):
    """A checked DAG. Operators stand in a topological order; the reader brings them into one."""

    schema_version: int = SCHEMA_VERSION
    name: Name
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...] = Field(min_length=1)

    @field_validator("operators", "tensors", mode="before")
    @classmethod
    def _not_too_many(cls, given: Any, info: ValidationInfo) -> Any:
        most = MAX_OPERATORS if info.field_name == "operators" else MAX_TENSORS
        if isinstance(given, list | tuple) and len(given) > most:
            raise ValueError(f"{len(given)} are above the limit of {most}; cut the graph into parts")
        return given

    @field_validator("operators")
    @classmethod
    def _unique_operators(cls, operators: tuple[Operator, ...]) -> tuple[Operator, ...]:
        if repeated := _first_repeated(operator.name for operator in operators):
            raise ValueError(f"two operators are called {repeated!r}; rename one")
        return operators

    @field_validator("tensors")
    @classmethod
    def _unique_tensors(cls, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if repeated := _first_repeated(tensor.name for tensor in tensors):
            raise ValueError(f"two tensors are called {repeated!r}; rename one")
        return tensors

    @model_validator(mode="after")
    def _check(self) -> Self:
        tensors = {tensor.name: tensor for tensor in self.tensors}
        producer: dict[str, str] = {}
        touched: set[str] = set()
        for operator in self.operators:
            for access in (*operator.reads, *operator.writes):
                _check_access(operator, access, tensors.get(access.tensor))
                touched.add(access.tensor)
            for access in operator.writes:
                tensor = tensors[access.tensor]
                if tensor.role.starts_in_hbm:
                    raise ValueError(
                        f"operator {operator.name!r} writes {tensor.name!r}, which has role {tensor.role.value!r}; "
                        "only intermediates and outputs are written"
                    )
                if access.tensor in producer:
                    raise ValueError(
                        f"tensor {access.tensor!r} is written by {producer[access.tensor]!r} and {operator.name!r}; "
                        "each tensor has one producer"
                    )
                producer[access.tensor] = operator.name
        for tensor in self.tensors:
            if tensor.name not in touched:
                raise ValueError(f"tensor {tensor.name!r} is touched by no operator; remove it")
            if not tensor.role.starts_in_hbm and tensor.name not in producer:
                raise ValueError(f"tensor {tensor.name!r} ({tensor.role.value}) is read but nothing writes it")
        order = _topological(self.operators, producer)
        if order != list(self.operators):
            object.__setattr__(self, "operators", tuple(order))
        return self

    @cached_property
    def tensor(self) -> Mapping[str, Tensor]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def operator(self) -> Mapping[str, Operator]:
        """Operators by name."""
        return {operator.name: operator for operator in self.operators}

    @cached_property
    def producer(self) -> Mapping[str, str]:
        """Tensor name -> name of the operator that writes it."""
        return {access.tensor: op.name for op in self.operators for access in op.writes}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """Tensor name -> names of the operators that read it, in topological order."""
        found: dict[str, list[str]] = {tensor.name: [] for tensor in self.tensors}
        for op in self.operators:
            for name in dict.fromkeys(access.tensor for access in op.reads):
                found[name].append(op.name)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the graph's canonical JSON."""
        return digest(canonical_json(self))

    def touched_bytes(self, access: Access) -> int:
        """Bytes of its tensor that an access touches."""
        return access.touched_bytes or self.tensor[access.tensor].size_bytes


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_access(operator: Operator, access: Access, tensor: Tensor | None) -> None:
    if tensor is None:
        raise ValueError(f"operator {operator.name!r} touches tensor {access.tensor!r}, which is not in the graph")
    if len(access.dims) != len(tensor.shape):
        raise ValueError(
            f"operator {operator.name!r} indexes {tensor.name!r} by {len(access.dims)} axes, "
            f"but its shape {list(tensor.shape)} has {len(tensor.shape)}"
        )
    for axis, (loops, extent) in enumerate(zip(access.axes, tensor.shape, strict=True)):
        spanned = math.prod(operator.dims[loop] for loop in loops)
        if access.touched_bytes is None and spanned != extent:
            raise ValueError(
                f"operator {operator.name!r} spans {spanned} along axis {axis} of {tensor.name!r} "
                f"({access.dims[axis]}), whose extent is {extent}"
            )
    if access.touched_bytes is not None and access.touched_bytes > tensor.size_bytes:
        raise ValueError(
            f"operator {operator.name!r} touches {access.touched_bytes} bytes of {tensor.name!r}, "
            f"which has {tensor.size_bytes}"
        )


def _topological(operators: tuple[Operator, ...], producer: Mapping[str, str]) -> list[Operator]:
    """Kahn's algorithm, taking operators in their given order wherever there is a choice."""
    by_name = {op.name: op for op in operators}
    position = {op.name: index for index, op in enumerate(operators)}
    waits: dict[str, set[str]] = {}
    feeds: dict[str, list[str]] = {op.name: [] for op in operators}
    for op in operators:
        waits[op.name] = {producer[a.tensor] for a in op.reads if a.tensor in producer}
        if op.name in waits[op.name]:
            raise ValueError(f"operator {op.name!r} reads what it writes: the graph has a cycle")
        for other in waits[op.name]:
            feeds[other].append(op.name)
    ready = [position[name] for name, needed in waits.items() if not needed]
    heapq.heapify(ready)
    order: list[Operator] = []
    while ready:
        op = operators[heapq.heappop(ready)]
        order.append(op)
        for name in feeds[op.name]:
            waits[name].discard(op.name)
            if not waits[name]:
                heapq.heappush(ready, position[name])
    if len(order) < len(operators):
        stuck = next(name for name, needed in waits.items() if needed)
        # walk back along unmet needs until an operator repeats: that stretch is a cycle
        walk: list[str] = []
        while stuck not in walk:
            walk.append(stuck)
            stuck = next(name for name in sorted(waits[stuck]) if waits[name])
        cycle = " -> ".join([*reversed(walk[walk.index(stuck) :]), walk[-1]])
        raise ValueError(f"the graph has a cycle: {cycle}")
    return [by_name[op.name] for op in order]
