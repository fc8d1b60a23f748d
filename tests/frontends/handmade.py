"""Captured graphs drawn by hand: every node is computed by numpy as it is drawn, so that its shape follows, and a
program that rules have rewritten can be computed again and compared."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instances.frontends.captured import CapturedGraph
from instances.frontends.importing import Imported, import_graph
from instances.frontends.program import FLOATS, Program, Value, load_program, short_name
from instances.frontends.rules import RULES
from instances.graph import Operator, OpKind

SHARED = Path(os.environ.get("TILEWRIGHT_SHARED", Path(__file__).parents[3] / "shared"))
EXPORTS = SHARED / "data" / "exported_graphs"
"""Operator graphs that torch.export made of Hugging Face's models."""

Array = Any


def softmax(x: Array, axis: int = -1, _half: bool = False) -> Array:
    grown = np.exp(x - x.max(axis=axis, keepdims=True))
    return grown / grown.sum(axis=axis, keepdims=True)


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(np.minimum(-x, 700)))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    made = x @ weight.T
    return made if bias is None else made + bias


def cut(x: Array, axis: int = 0, start: int | None = 0, end: int | None = None, step: int = 1) -> Array:
    index: list[Any] = [slice(None)] * x.ndim
    index[axis] = slice(start, end, step)
    return x[tuple(index)]


def split(x: Array, sizes: int | list[int], axis: int = 0) -> tuple[Array, ...]:
    if isinstance(sizes, int):
        sizes = [min(sizes, x.shape[axis] - at) for at in range(0, x.shape[axis], sizes)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def chunk(x: Array, count: int, axis: int = 0) -> tuple[Array, ...]:
    return split(x, -(-x.shape[axis] // count), axis)


def expand(x: Array, shape: Sequence[int]) -> Array:
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x.reshape(own), [o if s == -1 else s for o, s in zip(own, shape, strict=True)])


def slice_scatter(
    base: Array, piece: Array, axis: int = 0, start: int = 0, end: int | None = None, step: int = 1
) -> Array:
    made = np.array(np.broadcast_to(base, base.shape))
    index: list[Any] = [slice(None)] * base.ndim
    index[axis] = slice(start, end, step)
    made[tuple(index)] = piece
    return made


def layer_norm(x: Array, _shape: Any = None, weight: Array = 1.0, bias: Array = 0.0, eps: float = 0.0) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, _shape: Any = None, weight: Array = 1.0, eps: float = 0.0) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def mean(x: Array, axes: Any = None, keep: bool = False) -> Array:
    return x.mean(tuple(axes) if isinstance(axes, list) else axes, keepdims=keep)


def total(x: Array, axes: Any = None, keep: bool = False) -> Array:
    return x.sum(tuple(axes) if isinstance(axes, list) else axes, keepdims=keep)


def topk(x: Array, count: int, axis: int = -1) -> tuple[Array, Array]:
    places = np.argsort(-x, axis=axis).take(range(count), axis=axis)
    return np.take_along_axis(x, places, axis=axis), places


def attend(
    q: Array, k: Array, v: Array, mask: Array | None = None, _p: float = 0.0, causal: bool = False, **_: Any
) -> Array:
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    if causal:
        mask = np.tril(np.ones(scores.shape[-2:], bool), k[..., 0, 0].ndim and scores.shape[-1] - scores.shape[-2])
    if mask is not None:
        scores = np.where(mask, scores, -1e9) if mask.dtype == bool else scores + mask
    return softmax(scores) @ v


COMPUTE: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "square": lambda a: a * a,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "reciprocal": lambda a: 1 / a,
    "tanh": np.tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": lambda x, **_: gelu(x),
    "relu": relu,
    "exp": np.exp,
    "cos": np.cos,
    "sin": np.sin,
    "maximum": np.maximum,
    "where": np.where,
    "masked_fill": lambda x, m, v: np.where(m, v, x),
    "le": lambda a, b: a <= b,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "eq": lambda a, b: a == b,
    "logical_not": np.logical_not,
    "tril": np.tril,
    "softmax": softmax,
    "cumsum": np.cumsum,
    "mean": mean,
    "sum": total,
    "linear": linear,
    "mm": lambda a, b: a @ b,
    "bmm": lambda a, b: a @ b,
    "matmul": lambda a, b: a @ b,
    "addmm": lambda c, a, b: c + a @ b,
    "baddbmm": lambda c, a, b: c + a @ b,
    "einsum": lambda equation, operands: np.einsum(equation, *operands),
    "view": np.reshape,
    "unsqueeze": np.expand_dims,
    "squeeze": np.squeeze,
    "transpose": np.swapaxes,
    "permute": np.transpose,
    "t": np.transpose,
    "expand": expand,
    "repeat_interleave": np.repeat,
    "slice": cut,
    "select": lambda x, axis, index: np.take(x, index, axis),
    "split": split,
    "split_with_sizes": split,
    "chunk": chunk,
    "unbind": lambda x, axis=0: tuple(np.moveaxis(x, axis, 0)),
    "cat": lambda pieces, axis=0: np.concatenate(pieces, axis),
    "stack": lambda pieces, axis=0: np.stack(pieces, axis),
    "slice_scatter": slice_scatter,
    "copy": lambda a, b: np.broadcast_to(b, a.shape),
    "clone": lambda x, **_: x,
    "alias": lambda x: x,
    "dropout": lambda x, *_: x,
    "_to_copy": lambda x, **_: x,
    "embedding": lambda table, ids: table[ids],
    "index": lambda x, places: x[tuple(slice(None) if p is None else p for p in places)],
    "index_select": lambda x, axis, places: np.take(x, places, axis),
    "gather": lambda x, axis, places: np.take_along_axis(x, places, axis),
    "arange": lambda count, **_: np.arange(count),
    "zeros": lambda shape, **_: np.zeros(shape),
    "zeros_like": np.zeros_like,
    "ones": lambda shape, **_: np.ones(shape),
    "full": lambda shape, value, **_: np.full(shape, value),
    "constant": np.float64,
    "new_empty": lambda x, shape, **_: np.zeros(shape),
    "topk": topk,
    "layer_norm": layer_norm,
    "native_layer_norm": lambda *a: (layer_norm(*a), a[0].mean(-1, keepdims=True), a[0].var(-1, keepdims=True)),
    "rms_norm": rms_norm,
    "scaled_dot_product_attention": attend,
    "view_as_complex": lambda x: x[..., 0] + 1j * x[..., 1],
    "view_as_real": lambda x: np.stack([x.real, x.imag], -1),
}
"""Operators of captured graphs, without namespace and overload."""


def turned_halves(x: Array, cos: Array, sin: Array) -> Array:
    low, high = np.split(x, 2, axis=-1)
    return x * cos + np.concatenate([-high, low], -1) * sin


def attention(q: Array, k: Array, v: Array, *biases: Array, **how: Any) -> Array:
    assert not how.get("exposed") and not how.get("capped")
    if how.get("query_parts"):
        q, k = np.concatenate(how["query_parts"], -1), np.concatenate(how["key_parts"], -1)
    if how.get("keys_turned"):
        k = np.swapaxes(k, -1, -2)
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]) + sum(biases)
    rows, columns = scores.shape[-2:]
    if how["causal"]:
        scores = np.where(np.tril(np.ones((rows, columns), bool), columns - rows), scores, -1e9)
    return softmax(scores) @ v


REWRITTEN: dict[str, Callable[..., Any]] = {
    "norm": lambda x, weight=1.0, bias=0.0, *, rms: rms_norm(x, 0, weight) if rms else layer_norm(x, 0, weight, bias),
    "rope": turned_halves,
    "gated_activation": lambda x, up, *, function: {"silu": silu, "gelu": gelu, "relu": relu}[function](x) * up,
    "attention": attention,
    "cache_rows": lambda x: x,
}
"""What rules put in the place of several operators."""


class Drawn:
    """A captured graph in the making. Names of results are handed out as references, ``"%name"``."""

    def __init__(self, name: str = "drawn") -> None:
        self.name = name
        self.values: dict[str, Any] = {}
        self.inputs: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.modules: list[tuple[str, str]] = []
        self._random = np.random.default_rng(7)

    def input(self, name: str, *shape: int, kind: str = "user_input", dtype: str = "bfloat16") -> str:
        """A tensor from outside: random numbers, or, of a type of integers, zeros and ones."""
        if math.prod(shape) > 10**6:
            self.values[name] = np.broadcast_to(np.float64(0), shape)
        elif dtype in FLOATS:
            self.values[name] = self._random.normal(size=shape)
        else:
            self.values[name] = self._random.integers(0, 2, size=shape)
        self.inputs.append({"name": name, "kind": kind, "shape": list(shape), "dtype": dtype, "target": None})
        return f"%{name}"

    def weight(self, name: str, *shape: int) -> str:
        return self.input(name, *shape, kind="parameter")

    def module(self, path: str, kind: str = "Module") -> int:
        """A module for nodes to be of."""
        if (path, kind) not in self.modules:
            self.modules.append((path, kind))
        return self.modules.index((path, kind))

    def node(
        self, op: str, *args: Any, shape: Any = None, label: str = "", module: int | None = None, **kwargs: Any
    ) -> str:
        """A node; ``shape`` (one, or a list of several) where numpy is not to compute it; ``label`` its type."""
        op = op if "::" in op or op.count(".") > 1 else f"aten.{op if '.' in op else op + '.default'}"
        stem = short_name(op).rpartition(".")[0].rpartition(".")[2] or short_name(op)
        name = f"{stem}_{len(self.nodes)}"
        if shape is None:
            made = COMPUTE[short_name(op)](*self._filled(list(args)), **self._filled(kwargs))
            made = made if isinstance(made, tuple) else (made,)
        else:
            several = shape if isinstance(shape, list) else [shape]
            made = tuple(np.broadcast_to(np.float64(0), one) for one in several)
        made = tuple(np.asarray(one) for one in made)
        self.values[name] = made[0] if len(made) == 1 else made
        label = label or str(kwargs.get("dtype") or "")
        record = {
            "name": name,
            "op": op,
            "inputs": list(dict.fromkeys(_references([*args, kwargs]))),
            "args": list(args),
            "kwargs": kwargs,
            "outputs": [[list(one.shape), label or _type(one)] for one in made],
            "module": module,
        }
        self.nodes.append(record)
        return f"%{name}"

    def item(self, several: str, index: int) -> str:
        """One of several results."""
        name = f"getitem_{len(self.nodes)}"
        self.values[name] = self.values[several[1:]][index]
        made = next(node for node in self.nodes if node["name"] == several[1:])["outputs"][index]
        self.nodes.append(
            {"name": name, "op": "getitem", "inputs": [several[1:]], "args": [several, index], "outputs": [made]}
        )
        return f"%{name}"

    def document(self, *outputs: str) -> dict[str, Any]:
        """The graph as its file has it."""
        return {
            "format": "exported-graph/1",
            "name": self.name,
            "modules": self.modules,
            "inputs": self.inputs,
            "nodes": self.nodes,
            "outputs": [{"name": output[1:]} for output in outputs],
        }

    def graph(self, *outputs: str) -> CapturedGraph:
        return CapturedGraph.model_validate(self.document(*outputs))

    def program(self, *outputs: str) -> Program:
        return load_program(self.graph(*outputs))

    def imported(self, *outputs: str, **options: Any) -> Imported:
        return import_graph(self.graph(*outputs), **options)

    def rewritten(self, rule: str, *outputs: str, after: Sequence[str] = ()) -> tuple[int, Program]:
        """How often a rule applies (after others), and what it leaves, which computes what was drawn."""
        program = self.program(*outputs)
        for earlier in after:
            RULES[earlier](program)
            program.sweep()
        count = RULES[rule](program)
        program.sweep()
        known = self.computed(program)
        for output, value in zip(outputs, program.outputs, strict=True):
            np.testing.assert_allclose(known[value], self.values[output[1:]], rtol=2e-3, atol=2e-3)
        return count, program

    def computed(self, program: Program) -> dict[Value, Array]:
        """What every value of a program is."""
        known: dict[Value, Array] = {value: self.values[value.name] for value in program.inputs}

        def fill(argument: Any) -> Any:
            if isinstance(argument, Value):
                return known[argument]
            if isinstance(argument, list | tuple):
                return [fill(inner) for inner in argument]
            return argument

        for step in program.steps:
            kwargs = {key: fill(inner) for key, inner in step.kwargs.items()}
            if step.op in ("cache_append", "positions"):
                made = _cache(step.op, step.out.shape, *(fill(argument) for argument in step.args))
            else:
                compute = REWRITTEN.get(step.op) or COMPUTE[step.op]
                made = compute(*(fill(argument) for argument in step.args), **kwargs)
            for value, one in zip(step.outputs, made if isinstance(made, tuple) else (made,), strict=False):
                assert np.shape(one) == value.shape, step.op
                known[value] = one
        return known

    def _filled(self, argument: Any) -> Any:
        if isinstance(argument, str) and argument.startswith("%"):
            return self.values[argument[1:]]
        if isinstance(argument, dict):
            return {key: self._filled(inner) for key, inner in argument.items()}
        if isinstance(argument, list):
            return [self._filled(inner) for inner in argument]
        return argument


def _cache(op: str, shape: tuple[int, ...], first: Array, *rest: Array) -> Array:
    if op == "positions":
        return first[: shape[-2]].reshape(shape)
    axis = next(i for i, (a, b) in enumerate(zip(first.shape, shape, strict=True)) if a != b)
    return np.concatenate([first, *rest], axis)


def _type(one: Array) -> str:
    if one.dtype == bool:
        return "bool"
    if np.issubdtype(one.dtype, np.complexfloating):
        return "complex64"
    return "int64" if np.issubdtype(one.dtype, np.integer) else "bfloat16"


def _references(argument: Any) -> list[str]:
    if isinstance(argument, str):
        return [argument[1:]] if argument.startswith("%") else []
    if isinstance(argument, dict):
        argument = list(argument.values())
    return [name for inner in argument for name in _references(inner)] if isinstance(argument, list) else []


def ops(program: Program) -> list[str]:
    """Operators of a program, views left out."""
    views = ("view", "unsqueeze", "squeeze", "transpose", "permute", "expand", "slice", "split", "t", "arange")
    return [step.op for step in program.steps if step.op not in views]


def only(imported: Imported, kind: OpKind) -> Operator:
    """The one operator of a kind."""
    (found,) = (op for op in imported.graph.operators if op.kind is kind)
    return found
