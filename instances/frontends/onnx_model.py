"""ONNX models as captured graphs. Weights are never read; the onnx package is imported when a model is.

Shapes are inferred anew from the inputs, with symbolic dimensions bound to numbers. Nodes whose inputs are all known
(shapes, axes, indices) are evaluated by the package's reference implementation, so that what the remaining operators
need as arguments is there; the operators themselves are translated by :mod:`instances.frontends.onnx_operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from instances.documents import first_problem
from instances.errors import InputError
from instances.frontends.captured import CapturedGraph, CapturedInput, CapturedOutput
from instances.frontends.extras import need
from instances.frontends.onnx_operators import TRANSLATIONS, Collector, Known

MOST_KNOWN = 100_000
"""Largest constant that is read (elements): axes, shapes and indices are smaller, weights are larger."""

MOST_SEEN = 2**24
"""The same of truth values, which are masks and no weights."""


def read_onnx(path: str | Path, dims: Mapping[str, int] | None = None, name: str = "") -> CapturedGraph:
    """The captured graph of an ONNX file.

    Parameters
    ----------
    path
        The file; weights beside it need not be there.
    dims
        Symbolic dimension -> its size.
    name
        Name of the graph; that of the file unless given.

    Raises
    ------
    InputError
        Where the file is no ONNX model, a dimension is not bound, or an operator cannot be translated.
    """
    onnx = need("onnx", "onnx")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is no ONNX model ({reason}); export it again") from None
    return capture_onnx(model, dims, name or path.name.removesuffix(".onnx"))


def capture_onnx(model: Any, dims: Mapping[str, int] | None = None, name: str = "onnx") -> CapturedGraph:
    """The captured graph of a loaded model; as :func:`read_onnx`."""
    onnx = need("onnx", "onnx")
    bound = _bind(model, dict(dims or {}), name)
    declared = [*model.graph.value_info, *model.graph.output]
    del bound.graph.value_info[:]
    try:
        if bound.functions:
            bound = need("onnx.inliner", "onnx").inline_local_functions(bound)
        bound = onnx.shape_inference.infer_shapes(bound, data_prop=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"graph {name}: shapes cannot be inferred ({reason}); export it again") from None
    return _Reader(onnx, bound, name, declared).read()


def _bind(model: Any, dims: dict[str, int], name: str) -> Any:
    """A copy of a model with its symbolic input dimensions bound."""
    if wrong := [symbol for symbol, size in dims.items() if size < 1]:
        raise InputError(f"graph {name}: dimension {wrong[0]!r} is to be {dims[wrong[0]]}; give a size of at least 1")
    bound = type(model)()
    bound.CopyFrom(model)
    initialised = {tensor.name for tensor in bound.graph.initializer}
    unbound: dict[str, str] = {}
    used = set()
    for tensor in bound.graph.input:
        if tensor.name in initialised:
            continue
        for place, dim in enumerate(tensor.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            symbol = dim.dim_param or f"{tensor.name}[{place}]"
            if symbol in dims:
                used.add(symbol)
                dim.dim_value = int(dims[symbol])
            else:
                unbound.setdefault(symbol, f"axis {place} of {tensor.name!r}")
    if unbound:
        symbol, where = next(iter(unbound.items()))
        more = f" (and {', '.join(list(unbound)[1:])})" if len(unbound) > 1 else ""
        raise InputError(f"graph {name}: {where} has the symbolic size {symbol!r}; bind it with --dim {symbol}=N{more}")
    if strangers := sorted(set(dims) - used):
        raise InputError(f"graph {name}: dimension {strangers[0]!r} does not occur; leave it out")
    for output in bound.graph.output:  # what they were said to be no longer holds
        output.type.tensor_type.ClearField("shape")
    return bound


_DTYPE_NAMES = {"float32": "float", "float64": "double"}
"""Element types that ONNX calls by another name."""

STANDARD = ("", "ai.onnx")
"""Domains of the operators that are translated: those of others may mean something else by the same name."""

SIDE_RESULTS = frozenset({"Dropout", "BatchNormalization", "LRN", "MaxPool", "LayerNormalization", "RMSNormalization"})
"""Operators of which the first result alone is of use."""


class _Reader:
    """Walks the nodes of one model."""

    def __init__(self, onnx: Any, model: Any, name: str, declared: list[Any]) -> None:
        self.onnx = onnx
        self.model = model
        self.name = name
        self.declared = {tensor.name: tensor for tensor in declared}
        self.types: dict[str, tuple[tuple[int, ...], str]] = {}
        self.known: Known = {}
        self.collector = Collector(self.types, self.known)
        for tensor in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            self._declare(tensor)

    def read(self) -> CapturedGraph:
        """The captured graph."""
        graph = self.model.graph
        inputs = []
        initialised = set()
        for tensor in graph.initializer:
            initialised.add(tensor.name)
            shape = tuple(int(size) for size in tensor.dims)
            dtype = self._dtype(tensor.data_type)
            self.types[tensor.name] = shape, dtype
            self._remember(tensor)
            kind = "parameter" if dtype.startswith(("float", "bfloat")) else "constant"
            inputs.append(self._input(tensor.name, kind))
        for tensor in graph.input:
            if tensor.name not in initialised:
                inputs.append(self._input(tensor.name, "user_input"))
        for node in graph.node:
            if self._evaluate(node):
                continue
            translate = TRANSLATIONS.get(node.op_type) if node.domain in STANDARD else None
            self._check_shapes(node)
            scope = self._scope(node)
            if translate is None:
                self.collector.unknown(node, scope)
                continue
            translate(self.collector, node, self._attributes(node), scope)
        drawn = {self.collector.named(name) for name in self.collector.triangles}
        inputs = [item for item in inputs if item.name not in drawn]
        inputs += self.collector.constants({item.name for item in inputs})
        made = {item.name for item in inputs} | {item.name for item in self.collector.nodes}
        results = [self.collector.named(tensor.name) for tensor in graph.output if tensor.name not in self.known]
        outputs = tuple(CapturedOutput(name=result) for result in results if result in made)  # no statistics of a norm
        if not self.collector.nodes or not outputs:
            raise InputError(f"graph {self.name}: holds no operation on its inputs; export the model's forward pass")
        used = {name for node in self.collector.nodes for name in node.inputs} | {item.name for item in outputs}
        try:
            return CapturedGraph(
                name=self.name,
                level="onnx",
                modules=tuple(self.collector.modules),
                inputs=tuple(item for item in inputs if item.name in used),
                nodes=tuple(self.collector.nodes),
                outputs=outputs,
            )
        except ValidationError as error:
            raise InputError(f"graph {self.name}: {first_problem(error)}") from None

    def _input(self, name: str, kind: str) -> CapturedInput:
        if name not in self.types:
            raise InputError(f"graph {self.name}: input {name!r} is no tensor of a known shape; export with shapes")
        shape, dtype = self.types[name]
        return CapturedInput.model_validate(
            {"name": self.collector.named(name), "kind": kind, "shape": shape, "dtype": dtype, "target": name}
        )

    def _declare(self, tensor: Any) -> None:
        kind = tensor.type.tensor_type
        if not kind.HasField("shape"):
            return
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        if all(size >= 0 for size in sizes):
            self.types[tensor.name] = tuple(sizes), self._dtype(kind.elem_type)

    def _dtype(self, number: int) -> str:
        name: str = self.onnx.TensorProto.DataType.Name(number).lower()
        return {short: dtype for dtype, short in _DTYPE_NAMES.items()}.get(name, name)

    def _number(self, dtype: str) -> int:
        number: int = self.onnx.TensorProto.DataType.Value(_DTYPE_NAMES.get(dtype, dtype).upper())
        return number

    def _remember(self, tensor: Any) -> None:
        """Keep a small constant whose data lie in the file."""
        most = MOST_SEEN if tensor.data_type == self.onnx.TensorProto.BOOL else MOST_KNOWN
        if int(np.prod(tensor.dims, dtype=np.int64)) <= most and not tensor.external_data:
            try:
                self.known[tensor.name] = self.onnx.numpy_helper.to_array(tensor)
            except Exception:  # an element type that numpy has no name for: not needed as an argument
                return

    def _evaluate(self, node: Any) -> bool:
        """Work a node out where everything it reads is known."""
        outputs = [name for name in node.output if name]
        if node.op_type == "Shape" and node.input[0] in self.types:
            attributes = self._attributes(node)
            shape = self.types[node.input[0]][0][attributes.get("start", 0) : attributes.get("end")]
            self.known[outputs[0]] = np.array(shape, dtype=np.int64)
            return True
        if node.op_type == "CastLike" and node.input[0] in self.known and node.input[1] in self.types:
            number = self._number(self.types[node.input[1]][1])  # of the second, the type alone is of use
            wanted = self.onnx.helper.tensor_dtype_to_np_dtype(number)
            self.known[outputs[0]] = self.known[node.input[0]].astype(wanted)
            return True
        if any(name and name not in self.known for name in node.input) or node.op_type.startswith("Random"):
            return False
        if node.op_type == "Range":  # known where axes are wanted; else an operator, by which causal masks are told
            self.collector.ranges[outputs[0]] = np.arange(*(self.known[name].item() for name in node.input))
            self.types[outputs[0]] = self.collector.ranges[outputs[0]].shape, str(self.known[node.input[0]].dtype)
            return False
        sizes = [self.types.get(name, ((MOST_KNOWN + 1,), ""))[0] for name in outputs]
        if any(int(np.prod(size, dtype=np.int64)) > MOST_KNOWN for size in sizes) and node.op_type != "Constant":
            return False
        try:
            reference = need("onnx.reference", "onnx")
            evaluator = reference.ReferenceEvaluator(self._single(node, outputs))
            results = evaluator.run(None, {name: self.known[name] for name in node.input if name})
        except Exception:  # what the reference cannot do stays an operator
            return False
        for name, result in zip(outputs, results, strict=True):
            array = np.asarray(result)
            self.known[name] = array
            self.types.setdefault(name, (tuple(array.shape), str(array.dtype)))
        return True

    def _single(self, node: Any, outputs: list[str]) -> Any:
        """A model of one node."""
        helper = self.onnx.helper
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(self.known[name].dtype), self.known[name].shape
            )
            for name in dict.fromkeys(node.input)
            if name
        ]
        results = [self.onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph([node], "one", inputs, results)
        return helper.make_model(graph, opset_imports=self.model.opset_import)

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {item.name: self.onnx.helper.get_attribute_value(item) for item in node.attribute}

    def _check_shapes(self, node: Any) -> None:
        wanted = node.output[:1] if node.op_type in SIDE_RESULTS else node.output
        if any(name and name not in self.types for name in wanted):
            self._infer(node)
        for name in wanted:
            if name not in self.types and name in self.declared:  # no rule for its shape: as the file has it
                self._declare(self.declared[name])
        for name in (*node.input, *wanted):
            if name and name not in self.types and name not in self.known:
                raise InputError(
                    f"graph {self.name}: the shape of {name!r} ({node.op_type} {node.name!r}) is not static; "
                    "export with static shapes, or bind more dimensions with --dim"
                )

    def _infer(self, node: Any) -> None:
        """The shapes of a node's results, with all that is known by now of what it reads."""
        helper = self.onnx.helper
        types, data = {}, {}
        for name in node.input:
            if name in self.known or name in self.collector.ranges:
                array = self.known[name] if name in self.known else self.collector.ranges[name]
                data[name] = self.onnx.numpy_helper.from_array(array, name)
                types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            elif name in self.types:
                shape, dtype = self.types[name]
                types[name] = helper.make_tensor_type_proto(self._number(dtype), shape)
        version = next((item.version for item in self.model.opset_import if item.domain == node.domain), 1)
        try:
            schema = self.onnx.defs.get_schema(node.op_type, version, node.domain)
            found = self.onnx.shape_inference.infer_node_outputs(schema, node, types, data)
        except Exception:  # its operands are of no fixed shape; the caller says so
            return
        for name, kind in found.items():
            self._declare(self.onnx.ValueInfoProto(name=name, type=kind))

    def _scope(self, node: Any) -> tuple[str, str]:
        """The innermost module that the exporter noted."""
        found = {item.key: item.value for item in node.metadata_props}
        scopes = _listed(found.get("pkg.torch.onnx.name_scopes", ""))
        classes = _listed(found.get("pkg.torch.onnx.class_hierarchy", ""))
        if len(scopes) < 2:
            return "", ""
        cls = classes[-2].split(".")[-1] if len(classes) >= len(scopes) else ""
        return scopes[-2], cls


def _listed(text: str) -> list[str]:
    """A list of texts as Python prints it."""
    return [part.strip().strip("'\"") for part in text.strip("[]").split(",")] if text else []
