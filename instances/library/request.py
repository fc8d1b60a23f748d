"""What is asked of a kernel, and what it becomes: operands in, a small graph with its kernels out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from instances.graph import DType, Graph, Role
from instances.graph_builder import GraphBuilder
from instances.machine import Machine

Shape = tuple[int, ...]

DTYPES = {dtype.value: dtype for dtype in DType} | {
    "fp32": DType.FLOAT32,
    "float": DType.FLOAT32,
    "fp16": DType.FLOAT16,
    "half": DType.FLOAT16,
    "bf16": DType.BFLOAT16,
    "uint8": DType.INT8,
    "bool": DType.INT8,
    "uint32": DType.INT32,
    "uint64": DType.INT64,
}
"""Element types by the names that people use; unsigned ones are as large as their signed likes."""


class Unmodelled(Exception):  # noqa: N818 - it is an answer, not a mishap
    """A kernel that cannot be modelled; the message says why, in a few words."""


@dataclass(frozen=True)
class Request:
    """A kernel as a profiler names it.

    Parameters
    ----------
    op
        Name of the kernel, one of :func:`instances.library.ops`.
    dtype
        Element type of the first operand.
    shapes
        Shapes of the operands, in the order of the kernel's interface.
    attributes
        By lower-case name, as text (``{"is_causal": "True"}``).
    network
        Whether it runs inside a network: weights are laid out for the cube ahead of time, and what the kernel
        before has just made is in L2 where it fits.
    """

    op: str
    dtype: DType
    shapes: tuple[Shape, ...]
    attributes: dict[str, str] = field(default_factory=dict)
    network: bool = False

    def shape(self, index: int, what: str, *ranks: int) -> Shape:
        """An operand's shape; :class:`Unmodelled` where it is missing or of a rank that the kernel does not take."""
        if index >= len(self.shapes):
            raise Unmodelled(f"operand {index} ({what}) is missing")
        shape = self.shapes[index]
        if ranks and len(shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise Unmodelled(f"operand {index} ({what}) has {len(shape)} axes, not {wanted}")
        return shape

    def flag(self, *names: str) -> bool:
        """Whether one of these attributes is true."""
        return any(self.attributes.get(name, "").lower() in ("true", "1", "yes") for name in names)

    @property
    def stored(self) -> Role:
        """Role of a learned operand: a weight in a network, an input like any other where the kernel is alone."""
        return Role.WEIGHT if self.network else Role.INPUT


@dataclass(frozen=True)
class Call:
    """One launch, as a graph whose operators form one kernel or several parts of one.

    ``parts`` names the operators of each part. Parts run one after the other, with a synchronisation of all cores
    between them, or, where ``together``, at the same time, as producer and consumer.
    """

    graph: Graph
    parts: tuple[tuple[str, ...], ...]
    together: bool = False


class Draftsman:
    """Builds the graph of one call.

    Loops are named as they come; an operand's shape gives them their extent.
    """

    def __init__(self, request: Request, machine: Machine, **loops: int) -> None:
        self.request = request
        self.machine = machine
        self.build = GraphBuilder(dict(loops), request.dtype)

    def call(self, *parts: Sequence[str], together: bool = False) -> Call:
        """The finished call; one part of all operators unless given."""
        graph = self.build.graph(self.request.op)
        named = tuple(tuple(part) for part in parts) or (tuple(operator.name for operator in graph.operators),)
        return Call(graph, named, together)


_PAIR = re.compile(r"[\"']?(\w+)[\"']?\s*[:=]\s*(\[[^\]]*\]|[^,}]*)")


def parse_attributes(text: str) -> dict[str, str]:
    """Attributes out of ``{name: value, ...}``, JSON or not, or ``name=value, ...``; names in lower case."""
    return {name.lower(): value.strip().strip("\"'") for name, value in _PAIR.findall(text or "")}


def flat(shape: Shape) -> int:
    """Elements of a shape."""
    return math.prod(shape)
