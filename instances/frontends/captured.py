"""A captured operator graph: what torch.export, ONNX and JSON files are turned into before it is understood.

The file format is ``exported-graph/1``: one JSON object with ``inputs``, ``nodes`` in topological order and
``outputs``, each a list of records. A node names its operator as the exporter does (``aten.linear.default``), gives
its arguments in full (``"%x"`` stands for the result of node or input ``x``) and one ``[shape, dtype]`` per result.
It needs neither torch nor the machine that captured it: a graph taken on one machine is planned on another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from instances.documents import Frozen, parse, read_json, write_text
from instances.errors import InputError
from instances.graph import MAX_OPERATORS
from instances.published import WHAT, published_kind

FORMAT: Literal["exported-graph/1"] = "exported-graph/1"

MAX_NODES = 10 * MAX_OPERATORS
"""Largest captured graph: an operator is several nodes."""

MAX_DEPTH = 20
"""Deepest nesting of an argument: lists of lists of values are the most that exporters write."""

Label = Annotated[str, Field(min_length=1, max_length=1000)]
Dimension = Annotated[int, Field(ge=0, le=2**48)]
Result = tuple[tuple[Dimension, ...], str]
"""Shape and element type of one result."""


class CapturedInput(Frozen):
    """A tensor from outside; ``shape`` and ``dtype`` are ``None`` for what is no tensor."""

    name: Label
    kind: Literal["parameter", "buffer", "constant", "user_input"]
    shape: tuple[Dimension, ...] | None
    dtype: str | None
    target: str | None = None


class CapturedNode(Frozen):
    """One operation.

    Parameters
    ----------
    op
        Operator as the exporter names it, or ``getitem`` for one of several results.
    inputs
        Names of the tensors read.
    args, kwargs
        Arguments in full; ``"%x"`` is the result of ``x``.
    outputs
        Shape and element type of each result.
    module
        Index into the graph's modules: the innermost module the operation was called in.
    region
        Where the operation comes from, where known: a helper function, or the node of a graph that was traced again.
    """

    name: Label
    op: Label
    inputs: tuple[str, ...] = ()
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = Field(default_factory=dict)
    outputs: tuple[Result, ...] = Field(min_length=1)
    module: int | None = None
    region: str | None = None


class CapturedOutput(Frozen):
    """A result of the graph."""

    name: Label
    kind: str = "user_output"


class CapturedGraph(Frozen):
    """Inputs, nodes in topological order, and outputs, all referring to each other by name."""

    format: Literal["exported-graph/1"] = FORMAT
    name: Label
    level: str = ""
    source: dict[str, Any] = Field(default_factory=dict)
    scenario: dict[str, Any] = Field(default_factory=dict)
    modules: tuple[tuple[str, str], ...] = ()
    inputs: tuple[CapturedInput, ...]
    nodes: tuple[CapturedNode, ...] = Field(min_length=1)
    outputs: tuple[CapturedOutput, ...] = Field(min_length=1)

    @field_validator("nodes", mode="before")
    @classmethod
    def _not_too_many(cls, given: Any) -> Any:
        if isinstance(given, list | tuple) and len(given) > MAX_NODES:
            raise ValueError(f"{len(given)} nodes are above the limit of {MAX_NODES}; capture fewer layers")
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        known: set[str] = set()
        for name in (tensor.name for tensor in self.inputs):
            if name in known:
                raise ValueError(f"two inputs are called {name!r}; rename one")
            known.add(name)
        for node in self.nodes:
            for name in (*node.inputs, *references((node.args, node.kwargs))):
                if name not in known:
                    raise ValueError(f"node {node.name!r} reads {name!r}, which no input or earlier node makes")
            if node.module is not None and not 0 <= node.module < len(self.modules):
                raise ValueError(f"node {node.name!r} names module {node.module}, but there are {len(self.modules)}")
            if node.name in known:
                raise ValueError(f"two inputs or nodes are called {node.name!r}; rename one")
            known.add(node.name)
        for output in self.outputs:
            if output.name not in known:
                raise ValueError(f"output {output.name!r} is made by no node")
        return self


def references(argument: Any, depth: int = 0) -> Iterator[str]:
    """Names of the results that an argument refers to, at any depth."""
    if isinstance(argument, str):
        if argument.startswith("%"):
            yield argument[1:]
    elif isinstance(argument, dict | list | tuple):
        if depth == MAX_DEPTH:
            raise ValueError(f"arguments are nested deeper than {MAX_DEPTH} levels; capture the graph again")
        for inner in argument.values() if isinstance(argument, dict) else argument:
            yield from references(inner, depth + 1)


def read_captured(path: str | Path) -> CapturedGraph:
    """Read a captured graph; :class:`InputError` that names file, place, value and remedy where it is not one."""
    data = read_json(path)
    if (kind := published_kind(data)) is not None:
        raise InputError(f"{path}: is no captured graph, but a {WHAT[kind]}")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: format is {found!r}, not {FORMAT!r}; capture the graph again")
    return parse(CapturedGraph, data, Path(path))


def write_captured(graph: CapturedGraph, path: str | Path) -> None:
    """Write a captured graph, one record a line, whole or not at all."""
    document = graph.model_dump(mode="json", exclude_none=False)
    for node in document["nodes"]:
        for key in ("module", "region", "kwargs"):
            if node[key] in (None, {}):
                del node[key]
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            records = ",\n".join(f"  {json.dumps(record, separators=(',', ':'))}" for record in value)
            parts.append(f'"{key}": [\n{records}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")
