"""ONNX operators in the vocabulary of captured graphs: one small translation each.

A translation gets a :class:`Collector`, the node, its attributes and its scope, and adds captured nodes. Arguments that
ONNX passes as tensors (axes, shapes, indices) are taken from what is known; scalars become numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instances.errors import InputError
from instances.frontends.captured import CapturedInput, CapturedNode

Known = dict[str, Any]
"""Name -> its elements, where they are known."""

Types = dict[str, tuple[tuple[int, ...], str]]
"""Name -> shape and element type."""

Scope = tuple[str, str]

Translation = Callable[["Collector", Any, dict[str, Any], Scope], None]

TRANSLATIONS: dict[str, Translation] = {}


class Collector:
    """Captured nodes in the making."""

    def __init__(self, types: Types, known: Known) -> None:
        self.types = types
        self.known = known
        self.nodes: list[CapturedNode] = []
        self.modules: dict[Scope, int] = {}
        self.ranges: Known = {}
        self.triangles: set[str] = set()
        self._constants: dict[str, CapturedInput] = {}
        self._count = 0

    @staticmethod
    def named(name: str) -> str:
        """A tensor's name as it is written in a captured graph."""
        return name.lstrip("%") or "_"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, known or not."""
        return tuple(self.known[name].shape) if name in self.known else self.types[name][0]

    def ints(self, node: Any, index: int, default: Any = None) -> Any:
        """Whole numbers that an operator takes as a tensor; ``default`` where it is not given."""
        if index >= len(node.input) or not node.input[index]:
            return default
        name = node.input[index]
        if name not in self.known and name not in self.ranges:
            raise InputError(
                f"operator {node.op_type} {node.name!r} takes {name!r} from a computation; export with static shapes"
            )
        return [int(value) for value in np.asarray(self.known.get(name, self.ranges.get(name))).reshape(-1)]

    def operand(self, name: str, number: bool = True) -> Any:
        """A tensor as an argument: a number where it is a known scalar, and may be one."""
        if name in self.known:
            value = np.asarray(self.known[name])
            if value.size == 1 and number:
                item = value.reshape(-1)[0]
                return float(item) if np.issubdtype(value.dtype, np.floating) else int(item)
            shape, dtype = self.types.get(name, (tuple(value.shape), str(value.dtype)))
            if name in self.triangles or _is_triangle(value):
                return self._triangle(name, shape, dtype)
            self._constants.setdefault(
                name,
                CapturedInput.model_validate(
                    {"name": self.named(name), "kind": "constant", "shape": shape, "dtype": dtype, "target": name}
                ),
            )
        return f"%{self.named(name)}"

    def _triangle(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        """A causal mask that the exporter has worked out, as what it was worked out from."""
        if name not in self.triangles:
            self.triangles.add(name)
            ones = self.add("aten.ones.default", [list(shape)], [(shape, dtype)], ("", ""))
            self.add("aten.tril.default", [ones], [(shape, dtype)], ("", ""), self.named(name))
        return f"%{self.named(name)}"

    def constants(self, declared: set[str]) -> list[CapturedInput]:
        """Known tensors that are read as such, beside those that were declared."""
        return [item for item in self._constants.values() if item.name not in declared]

    def weight(self, name: str) -> None:
        """A tensor that stands for a learned one: its data are made up in the file."""
        shape, dtype = self.types[name]
        fields = {"name": self.named(name), "kind": "parameter", "shape": shape, "dtype": dtype, "target": name}
        self._constants[name] = CapturedInput.model_validate(fields)

    def add(
        self,
        op: str,
        args: Sequence[Any],
        outputs: Sequence[tuple[Sequence[int], str]],
        scope: Scope,
        name: str = "",
        **kwargs: Any,
    ) -> str:
        """One captured node; returns the reference to its (first) result."""
        if not name:
            self._count += 1
            name = f"onnx#{self._count}"
        module = self.modules.setdefault(scope, len(self.modules)) if scope != ("", "") else None
        node = CapturedNode.model_validate(
            {
                "name": name,
                "op": op,
                "inputs": tuple(dict.fromkeys(_references([args, list(kwargs.values())]))),
                "args": tuple(args),
                "kwargs": kwargs,
                "outputs": [(tuple(shape), dtype) for shape, dtype in outputs],
                "module": module,
            }
        )
        self.nodes.append(node)
        return f"%{name}"

    def finish(self, node: Any, op: str, args: Sequence[Any], scope: Scope, **kwargs: Any) -> None:
        """The last captured node of an operator: its results are the operator's."""
        names = [name for name in node.output if name]
        outputs = [self.types[name] for name in names]
        if len(names) == 1:
            self.add(op, args, outputs, scope, self.named(names[0]), **kwargs)
            return
        whole = self.add(op, args, outputs, scope, **kwargs)
        for index, name in enumerate(names):
            self.add("getitem", [whole, index], [outputs[index]], scope, self.named(name))

    def unknown(self, node: Any, scope: Scope) -> None:
        """An operator without a translation, under its own name."""
        args = [self.operand(name) for name in node.input if name]
        self.finish(node, f"{node.domain or 'onnx'}.{node.op_type}", args, scope)


def _is_triangle(value: Any) -> bool:
    """Whether a mask lets each row see what is before it, and its last what is there: by truth, or by what is added."""
    if value.ndim < 2 or value.shape[-2] < 2 or value.dtype.kind not in "bf":
        return False
    seen = value if value.dtype.kind == "b" else value == 0
    if value.dtype.kind == "f" and not np.all(seen | (value < -1000)):
        return False
    rows, columns = value.shape[-2:]
    return bool(np.array_equal(seen, np.broadcast_to(np.tri(rows, columns, columns - rows, dtype=bool), seen.shape)))


def _references(args: Any) -> list[str]:
    if isinstance(args, str):
        return [args[1:]] if args.startswith("%") else []
    if isinstance(args, list | tuple):
        return [name for inner in args for name in _references(inner)]
    return []


def translates(*names: str) -> Callable[[Translation], Translation]:
    """Register the translation of operators."""

    def register(translation: Translation) -> Translation:
        for name in names:
            TRANSLATIONS[name] = translation
        return translation

    return register


# ------------------------------------------------------------------------- elementwise

ELEMENTWISE = {
    "Add": "add.Tensor",
    "Sub": "sub.Tensor",
    "Mul": "mul.Tensor",
    "Div": "div.Tensor",
    "Pow": "pow.Tensor_Scalar",
    "Mod": "remainder.Tensor",
    "Where": "where.self",
    "Equal": "eq.Tensor",
    "Less": "lt.Tensor",
    "LessOrEqual": "le.Tensor",
    "Greater": "gt.Tensor",
    "GreaterOrEqual": "ge.Tensor",
    "And": "logical_and.default",
    "Or": "logical_or.default",
    "Not": "logical_not.default",
    "Min": "minimum.default",
    "Max": "maximum.default",
    "Sum": "add.Tensor",
    "Sqrt": "sqrt.default",
    "Reciprocal": "reciprocal.default",
    "Exp": "exp.default",
    "Log": "log.default",
    "Neg": "neg.default",
    "Abs": "abs.default",
    "Erf": "erf.default",
    "Tanh": "tanh.default",
    "Sigmoid": "sigmoid.default",
    "Relu": "relu.default",
    "Sin": "sin.default",
    "Cos": "cos.default",
    "Floor": "floor.default",
    "Ceil": "ceil.default",
    "Round": "round.default",
    "Sign": "sign.default",
    "Softplus": "softplus.default",
    "IsNaN": "isnan.default",
    "IsInf": "isinf.default",
    "Gelu": "gelu.default",
    "Swish": "silu.default",
    "HardSwish": "hardswish.default",
    "HardSigmoid": "hardsigmoid.default",
    "LeakyRelu": "leaky_relu.default",
    "Elu": "elu.default",
    "Mish": "mish.default",
    "Clip": "clamp.default",
    "Identity": "alias.default",
    "Dropout": "dropout.default",
    "Trilu": "tril.default",
    "ScatterND": "index_put.default",
    "ScatterElements": "scatter.default",
    "LRN": "local_response_norm.default",
    "BatchNormalization": "batch_norm.default",
    "Range": "arange.default",
}
"""Operators that keep their arguments -> their name."""


@translates(*ELEMENTWISE)
def _elementwise(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    op = f"aten.{ELEMENTWISE[node.op_type]}"
    args = [c.operand(name) for name in node.input if name]
    if node.op_type in ("Add", "Mul") and len(args) == 2 and not isinstance(args[0], str):
        args = args[::-1]  # the number last, as torch has it
    if node.op_type in ("Dropout", "BatchNormalization"):
        args = args[:1] if node.op_type == "Dropout" else args
    names = [name for name in node.output if name]
    c.add(op, args, [c.types[names[0]]], scope, c.named(names[0]))


@translates("ConstantOfShape")
def _filled(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    shape, dtype = c.types[node.output[0]]
    if dtype.startswith(("float", "bfloat")) and math.prod(shape) > 1:
        c.weight(node.output[0])
        return
    c.finish(node, "aten.full.default", [list(shape), 0], scope)


@translates("Cast", "CastLike")
def _cast(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    dtype = c.types[node.output[0]][1]
    c.finish(node, "aten._to_copy.default", [c.operand(node.input[0])], scope, dtype=dtype)


# ------------------------------------------------------------------------------- views


@translates("Reshape", "Flatten", "Unsqueeze", "Squeeze")
def _reshape(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    c.finish(node, "aten.view.default", [c.operand(node.input[0]), list(c.types[node.output[0]][0])], scope)


@translates("Expand", "Tile")
def _expand(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    op = "aten.expand.default" if node.op_type == "Expand" else "aten.repeat.default"
    c.finish(node, op, [c.operand(node.input[0]), list(c.types[node.output[0]][0])], scope)


@translates("Transpose")
def _transpose(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    rank = len(c.types[node.output[0]][0])
    order = [int(axis) for axis in attributes.get("perm", range(rank)[::-1])]
    c.finish(node, "aten.permute.default", [c.operand(node.input[0]), order], scope)


@translates("Slice")
def _slice(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    shape, dtype = list(c.shape(node.input[0])), c.types[node.output[0]][1]
    starts = c.ints(node, 1, attributes.get("starts"))
    ends = c.ints(node, 2, attributes.get("ends"))
    axes = c.ints(node, 3, attributes.get("axes")) or list(range(len(starts)))
    steps = c.ints(node, 4) or [1] * len(starts)
    value = c.operand(node.input[0])
    for place, (start, end, given, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        axis = given % len(shape)
        size = shape[axis]
        shape[axis] = len(range(size)[start:end:step])
        last = place == len(axes) - 1
        name = c.named(node.output[0]) if last else ""
        value = c.add("aten.slice.Tensor", [value, axis, start, end, step], [(tuple(shape), dtype)], scope, name)


@translates("Split")
def _split(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    axis = int(attributes.get("axis", 0)) % len(c.shape(node.input[0]))
    sizes = [c.types[name][0][axis] for name in node.output if name]
    c.finish(node, "aten.split_with_sizes.default", [c.operand(node.input[0]), sizes, axis], scope)


@translates("Concat")
def _concat(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    pieces = [c.operand(name, number=False) for name in node.input]
    c.finish(node, "aten.cat.default", [pieces, int(attributes["axis"])], scope)


@translates("Gather")
def _gather(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    axis = int(attributes.get("axis", 0)) % max(1, len(c.shape(node.input[0])))
    value, index = c.operand(node.input[0]), c.operand(node.input[1])
    if isinstance(index, int):
        if not c.shape(node.input[1]):
            c.finish(node, "aten.select.int", [value, axis, index], scope)
        else:
            end = index + 1 if index != -1 else 2**31
            c.finish(node, "aten.slice.Tensor", [value, axis, index, end, 1], scope)
        return
    op = "aten.embedding.default" if axis == 0 else "aten.index_select.default"
    c.finish(node, op, [value, index] if axis == 0 else [value, axis, index], scope)


@translates("GatherElements", "GatherND")
def _gather_elements(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    axis = int(attributes.get("axis", 0))
    c.finish(node, "aten.gather.default", [c.operand(node.input[0]), axis, c.operand(node.input[1])], scope)


@translates("Pad")
def _pad(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    same = c.shape(node.input[0]) == c.types[node.output[0]][0]
    c.finish(node, "aten.pad.default", [c.operand(node.input[0]), [0] if same else [1]], scope)


# -------------------------------------------------------------------------- reductions

REDUCTIONS = {
    "ReduceMean": "mean.dim",
    "ReduceSum": "sum.dim_IntList",
    "ReduceMax": "amax.default",
    "ReduceMin": "amin.default",
    "ReduceProd": "prod.dim_int",
    "ReduceL2": "linalg_vector_norm.default",
    "ReduceLogSumExp": "logsumexp.default",
    "ArgMax": "argmax.default",
    "ArgMin": "argmin.default",
}


@translates(*REDUCTIONS)
def _reduce(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    given = attributes.get("axes", attributes.get("axis") if node.op_type.startswith("Arg") else None)
    axes = c.ints(node, 1, [given] if isinstance(given, int) else given)
    rank = len(c.shape(node.input[0]))
    axes = [int(axis) % rank for axis in axes] if axes else list(range(rank))
    keep = bool(attributes.get("keepdims", 1))
    c.finish(node, f"aten.{REDUCTIONS[node.op_type]}", [c.operand(node.input[0]), axes, keep], scope)


@translates("Softmax", "LogSoftmax")
def _softmax(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    op = "aten.softmax.int" if node.op_type == "Softmax" else "aten.log_softmax.int"
    c.finish(node, op, [c.operand(node.input[0]), int(attributes.get("axis", -1))], scope)


@translates("CumSum", "CumProd")
def _cumsum(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    axis = c.ints(node, 1, [0])[0]
    op = "aten.cumsum.default" if node.op_type == "CumSum" else "aten.cumprod.default"
    c.finish(node, op, [c.operand(node.input[0]), axis], scope)


@translates("TopK")
def _topk(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    axis = int(attributes.get("axis", -1))
    kept = c.types[next(name for name in node.output if name)][0][axis]
    c.finish(node, "aten.topk.default", [c.operand(node.input[0]), kept, axis], scope)


@translates("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")
def _pool(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    window = [int(size) for size in attributes.get("kernel_shape", c.shape(node.input[0])[2:])]
    names = [name for name in node.output if name]
    op = "aten.max_pool2d.default" if "Max" in node.op_type else "aten.avg_pool2d.default"
    c.add(op, [c.operand(node.input[0]), window], [c.types[names[0]]], scope, c.named(names[0]))


# ------------------------------------------------------------------------------- norms


@translates("LayerNormalization", "RMSNormalization")
def _norm(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    rank = len(c.shape(node.input[0]))
    axis = int(attributes.get("axis", -1)) % rank
    width = list(c.shape(node.input[0])[axis:])
    learned = [c.operand(name) for name in node.input[1:] if name]
    op = "aten.layer_norm.default" if node.op_type == "LayerNormalization" else "aten.rms_norm.default"
    names = [name for name in node.output if name]
    c.add(op, [c.operand(node.input[0]), width, *learned], [c.types[names[0]]], scope, c.named(names[0]))


@translates("RotaryEmbedding")
def _rotary(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    x, cos, sin = (c.operand(name) for name in node.input[:3])
    c.finish(node, "asc.rope.default", [x, cos, sin], scope)


# ---------------------------------------------------------------------------- products


@translates("MatMul")
def _matmul(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    c.finish(node, "aten.matmul.default", [c.operand(name, number=False) for name in node.input], scope)


@translates("Gemm")
def _gemm(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    left, right = (c.operand(name, number=False) for name in node.input[:2])
    dtype = c.types[node.output[0]][1]
    if attributes.get("transA"):
        rows, columns = c.shape(node.input[0])
        left = c.add("aten.permute.default", [left, [1, 0]], [((columns, rows), dtype)], scope)
    if attributes.get("transB"):
        rows, columns = c.shape(node.input[1])
        right = c.add("aten.permute.default", [right, [1, 0]], [((columns, rows), dtype)], scope)
    if len(node.input) > 2 and node.input[2]:
        c.finish(node, "aten.addmm.default", [c.operand(node.input[2], number=False), left, right], scope)
        return
    c.finish(node, "aten.mm.default", [left, right], scope)


@translates("Einsum")
def _einsum(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    equation = attributes["equation"]
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    c.finish(node, "aten.einsum.default", [text, [c.operand(name, number=False) for name in node.input]], scope)


@translates("Conv")
def _conv(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    args = [c.operand(name, number=False) for name in node.input[:2]]
    bias = c.operand(node.input[2], number=False) if len(node.input) > 2 and node.input[2] else None
    groups = int(attributes.get("group", 1))
    c.finish(node, "aten.conv2d.default", [*args, bias, [1], [0], [1], groups], scope)


@translates("Attention")
def _attention(c: Collector, node: Any, attributes: dict[str, Any], scope: Scope) -> None:
    """Attention of opset 23: heads taken apart, past put before, key and value heads repeated."""
    names = list(node.input) + [""] * (6 - len(node.input))
    flat = len(c.shape(names[0])) == 3
    q_heads = int(attributes.get("q_num_heads", 0)) or c.shape(names[0])[1]
    kv_heads = int(attributes.get("kv_num_heads", 0)) or c.shape(names[1])[1]
    operands = []
    shapes = []
    for name, heads in zip(names[:3], (q_heads, kv_heads, kv_heads), strict=True):
        value, shape, dtype = c.operand(name, number=False), c.shape(name), c.types[name][1]
        if flat:
            shape = (shape[0], shape[1], heads, shape[2] // heads)
            value = c.add("aten.view.default", [value, list(shape)], [(shape, dtype)], scope)
            shape = (shape[0], heads, shape[1], shape[3])
            value = c.add("aten.permute.default", [value, [0, 2, 1, 3]], [(shape, dtype)], scope)
        operands.append((value, dtype))
        shapes.append(shape)
    outputs = list(node.output) + [""] * (4 - len(node.output))
    for place, past in ((1, names[4]), (2, names[5])):
        present = outputs[place]
        value, dtype = operands[place]
        if past:
            b, h, s, d = shapes[place]
            shapes[place] = (b, h, c.shape(past)[2] + s, d)
            joined = [[c.operand(past), value], 2]
            label = c.named(present) if present else ""
            value = c.add("aten.cat.default", joined, [(shapes[place], dtype)], scope, label)
        elif present:
            value = c.add("aten.alias.default", [value], [(shapes[place], dtype)], scope, c.named(present))
        if kv_heads != q_heads:
            value = _repeated(c, value, shapes[place], q_heads // kv_heads, dtype, scope)
        operands[place] = value, dtype
    kwargs: dict[str, Any] = {"is_causal": bool(attributes.get("is_causal", 0))}
    if names[3]:
        mask = c.operand(names[3])
        if isinstance(mask, str):
            kwargs["attn_mask"] = mask
    dtype = operands[0][1]
    b, h, s, _ = shapes[0]
    shape = (b, h, s, shapes[2][3])
    args = [value for value, _ in operands]
    if attributes.get("softcap"):
        kwargs["capped"] = True
    results = [(shape, dtype)]
    if outputs[3]:  # the product of queries and keys, before or after the softmax
        kwargs["exposed"] = "probs" if int(attributes.get("qk_matmul_output_mode", 0)) == 3 else "scores"
        results.append(((b, h, s, shapes[1][2]), c.types[outputs[3]][1]))
    label = "" if flat or outputs[3] else c.named(outputs[0])
    result = c.add("aten.scaled_dot_product_attention.default", args, results, scope, label, **kwargs)
    if outputs[3]:
        c.add("getitem", [result, 1], results[1:], scope, c.named(outputs[3]))
        result = c.add("getitem", [result, 0], results[:1], scope, "" if flat else c.named(outputs[0]))
    if flat:
        turned = c.add("aten.permute.default", [result, [0, 2, 1, 3]], [((b, s, h, shape[3]), dtype)], scope)
        flat_shape = (b, s, h * shape[3])
        c.add("aten.view.default", [turned, list(flat_shape)], [(flat_shape, dtype)], scope, c.named(outputs[0]))


def _repeated(c: Collector, value: str, shape: tuple[int, ...], times: int, dtype: str, scope: Scope) -> str:
    """Each key or value head as often as query heads share it."""
    b, h, s, d = shape
    value = c.add("aten.unsqueeze.default", [value, 2], [((b, h, 1, s, d), dtype)], scope)
    wide = (b, h, times, s, d)
    value = c.add("aten.expand.default", [value, list(wide)], [(wide, dtype)], scope)
    whole = (b, h * times, s, d)
    return c.add("aten.view.default", [value, list(whole)], [(whole, dtype)], scope)
