"""Collects tensors and operators into a graph, and knows what an element of each vector operator costs.

Loop dimensions have one extent per graph: :class:`GraphBuilder` holds them, takes every shape from them, and
gives every operator exactly the loops that index its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import ValidationError

from instances.documents import first_problem
from instances.errors import InputError
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor, VectorClass

Work = dict[VectorClass, int]
"""Elements per instruction class of the vector unit, on 32-bit lanes."""

_CLASSES = {
    "one": VectorClass.ONE_SOURCE,
    "two": VectorClass.TWO_SOURCE,
    "exp": VectorClass.TRANSCENDENTAL,
    "div": VectorClass.DIVIDE,
    "reduce": VectorClass.REDUCE,
    "max": VectorClass.MAXIMUM,
    "turn": VectorClass.TRANSPOSE,
    "sort": VectorClass.SORT,
    "convert": VectorClass.CONVERT,
}

PER_ELEMENT: dict[str, dict[str, int]] = {
    # square, sum, scale by the inverse root, weight; a root and a division per row are added
    "rms_norm": {"two": 2, "reduce": 1, "one": 1},
    # the same, with a mean (one more sum), its subtraction and a bias
    "layer_norm": {"two": 3, "reduce": 2, "one": 2},
    # x*cos, rotated*sin, their sum, a sign
    "rope": {"two": 3, "one": 1},
    # negate, exp, +1, divide, times up
    "silu_gated": {"one": 2, "exp": 1, "div": 1, "two": 1},
    # 1/(1+exp(-x))
    "sigmoid": {"one": 2, "exp": 1, "div": 1},
    # 0.5x(1+tanh(c(x+kx^3))) with tanh through exp; the erf form is priced the same
    "gelu": {"two": 3, "one": 4, "exp": 1, "div": 1},
    "relu": {"one": 1},
    # the same, times up
    "gelu_gated": {"two": 4, "one": 4, "exp": 1, "div": 1},
    "relu_gated": {"one": 1, "two": 1},
    # (1-e)/(1+e), e = exp(-2x)
    "tanh": {"one": 3, "exp": 1, "div": 1},
    "add": {"two": 1},
    # row maximum and row sum; scale, subtract the maximum, multiply by the reciprocal; a division per row is added
    "softmax": {"max": 1, "reduce": 1, "one": 3, "exp": 1},
    "scale": {"one": 1},
    "sort": {"sort": 1},
    "largest": {"max": 1},
    # multiply by the router weight, accumulate
    "combine": {"two": 2},
    # absolute value and scaling, row maximum, rounding to int8; a division per row is added
    "quantize": {"one": 2, "max": 1, "convert": 1},
    # int32 to float, channel scale, token scale
    "dequantize": {"convert": 1, "two": 1, "one": 1},
    # the same without a scale per token
    "dequantize_columns": {"convert": 1, "two": 1},
    # int8 weights by their channel scale; the conversions are those of storage
    "dequantize_weights": {"two": 1},
    "dequantize_bias": {"convert": 1, "two": 2, "one": 1},
    "transpose": {"turn": 1},
    # data moves without arithmetic
    "move": {},
}
"""Vector instructions per element, by what is computed; conversions to and from 16 bit are not counted here."""


def work(what: str, elements: int, **extra: int) -> Work:
    """Vector work of ``elements`` elements of a :data:`PER_ELEMENT` row, plus ``extra`` elements by class."""
    counts = {key: per * elements for key, per in PER_ELEMENT[what].items()}
    for key, value in extra.items():
        counts[key] = counts.get(key, 0) + value
    return {_CLASSES[key]: value for key, value in counts.items()}


class GraphBuilder:
    """Tensors and operators of one graph in the making.

    Parameters
    ----------
    loops
        Extent of every loop dimension of the graph.
    dtype
        Element type of activations and caches.
    quantized
        Whether projections multiply int8 activations by int8 weights (W8A8) instead of ``dtype`` by ``dtype``.
    tp
        Ranks of tensor parallelism; above 1 partial sums are reduced over the link.
    """

    def __init__(self, loops: dict[str, int], dtype: DType, quantized: bool = False, tp: int = 1) -> None:
        self.loops = loops
        self.dtype = dtype
        self.quantized = quantized
        self.tp = tp
        self._tensors: dict[str, Tensor] = {}
        self._operators: list[Operator] = []
        self._int8: dict[str, tuple[Access, Access]] = {}

    def graph(self, name: str) -> Graph:
        """The checked graph; :class:`InputError` where sizes are beyond what a graph may hold."""
        try:
            return Graph(name=name, tensors=tuple(self._tensors.values()), operators=tuple(self._operators))
        except ValidationError as error:
            raise _too_large(error) from None

    # ------------------------------------------------------------------ tensors

    def extent(self, axis: str) -> int:
        """Elements along an axis that is indexed by ``axis`` (loops joined by ``*``)."""
        return math.prod(self.loops[loop] for loop in axis.split("*"))

    def elements(self, access: Access) -> int:
        """Elements of the whole tensor of an access."""
        return self._tensors[access.tensor].elements

    def size_bytes(self, access: Access) -> int:
        """Bytes of the whole tensor of an access."""
        return self._tensors[access.tensor].size_bytes

    def tensor(
        self,
        name: str,
        dims: Sequence[str],
        role: Role = Role.INTERMEDIATE,
        dtype: DType | None = None,
        shape: Sequence[int] | None = None,
    ) -> Access:
        """A new tensor (shape from its loops unless given), as an access to all of it."""
        sizes = tuple(shape) if shape is not None else tuple(self.extent(axis) for axis in dims)
        try:
            self._tensors[name] = Tensor(name=name, shape=sizes, dtype=dtype or self.dtype, role=role)
        except ValidationError as error:
            raise _too_large(error) from None
        return Access(tensor=name, dims=tuple(dims))

    def weight(self, name: str, dims: Sequence[str], dtype: DType | None = None) -> Access:
        """A new weight."""
        return self.tensor(name, dims, Role.WEIGHT, dtype)

    def rows_of(self, access: Access, rows: int) -> Access:
        """The same tensor with ``rows`` of its first axis touched; all of it where it has no more."""
        tensor = self._tensors[access.tensor]
        if rows >= tensor.shape[0]:
            return access
        return self.picked(access, access.dims, rows)

    def picked(self, access: Access, dims: Sequence[str], rows: int) -> Access:
        """``rows`` of a tensor's first axis, looked up by what stands in another tensor.

        ``dims`` then name the loops that do the looking up: an embedding table is indexed by tokens.
        """
        tensor = self._tensors[access.tensor]
        touched = min(rows, tensor.shape[0]) * tensor.size_bytes // tensor.shape[0]
        return Access(tensor=access.tensor, dims=tuple(dims), touched_bytes=touched)

    # ---------------------------------------------------------------- operators

    def op(
        self,
        name: str,
        kind: OpKind,
        reads: Sequence[Access],
        writes: Sequence[Access],
        *,
        macs: int = 0,
        vector: Work | None = None,
        link_bytes: int = 0,
        whole: Sequence[str] = (),
        density: float = 1.0,
        note: str = "",
    ) -> None:
        """A new operator; its loops are those that index its tensors, in order of appearance."""
        loops: dict[str, int] = {}
        for access in (*reads, *writes):
            for axis in access.axes:
                for loop in axis:
                    loops[loop] = self.loops[loop]
        try:
            self._operators.append(
                Operator(
                    name=name,
                    kind=kind,
                    dims=loops,
                    reads=tuple(reads),
                    writes=tuple(writes),
                    macs=macs,
                    vector=vector or {},
                    link_bytes=link_bytes,
                    whole=tuple(whole),
                    density=density,
                    note=note,
                )
            )
        except ValidationError as error:
            raise _too_large(error) from None

    def matmul(
        self, name: str, reads: Sequence[Access], out: Access, *, macs: int | None = None, note: str = ""
    ) -> Access:
        """``out = reads[0] @ reads[1] (+ bias)``; work is rows x columns x contraction unless given."""
        if macs is None:
            left, right = reads[0], reads[1]
            contracted = (left.loops & right.loops) - out.loops
            macs = self.elements(out) * math.prod(self.loops[loop] for loop in contracted)
        self.op(name, OpKind.MATMUL, reads, (out,), macs=macs, note=note)
        return out

    def norm(
        self, prefix: str, what: str, x: Access, *, rms: bool, whole: Sequence[str], role: Role = Role.INTERMEDIATE
    ) -> Access:
        """RMS or layer norm over the loops ``whole``, with its learned scale (and bias); writes ``what + "ed"``."""
        axis = "*".join(whole)
        parts = [self.weight(f"{prefix}w_{what}", (axis,))]
        if not rms:
            parts.append(self.weight(f"{prefix}b_{what}", (axis,)))
        result = self.tensor(f"{prefix}{what}ed", x.dims, role)
        rows = self.elements(x) // self.extent(axis)
        vector = work("rms_norm" if rms else "layer_norm", self.elements(x), exp=rows, div=rows)
        self.op(f"{prefix}{what}", OpKind.NORM, (x, *parts), (result,), vector=vector, whole=whole)
        return result

    def add(self, name: str, left: Access, right: Access, out: str, role: Role = Role.INTERMEDIATE) -> Access:
        """``out = left + right``, indexed as ``left``."""
        result = self.tensor(out, left.dims, role)
        self.op(name, OpKind.ELEMENTWISE, (left, right), (result,), vector=work("add", self.elements(result)))
        return result

    def all_reduce(self, name: str, partial: Access, out: str) -> Access:
        """Sum of every rank's ``partial``; nothing where there is one rank."""
        if self.tp == 1:
            return partial
        result = self.tensor(out, partial.dims)
        size = self.size_bytes(partial)
        self.op(name, OpKind.COLLECTIVE, (partial,), (result,), link_bytes=size, note=f"all-reduce of {self.tp} ranks")
        return result

    # -------------------------------------------------------------- projections

    def project(
        self,
        prefix: str,
        what: str,
        x: Access,
        columns: str,
        *,
        bias: bool = False,
        quantize: bool = True,
        experts: int | None = None,
        dtype: DType | None = None,
        op: str = "",
        note: str = "",
    ) -> Access:
        """A learned projection of ``x`` along its last axis onto ``columns``; writes ``prefix.what``.

        Parameters
        ----------
        x
            Activation, ``[rows, features]``.
        bias
            Whether a bias over ``columns`` is added.
        quantize
            Whether it takes part in W8A8; false for router and head.
        experts
            For a grouped matmul: how many experts are expected to be touched.
        dtype
            Element type of the result; that of activations unless given.
        op
            Name of the operator; ``what_proj`` unless given.
        """
        features = x.dims[-1]
        quantized = self.quantized and quantize
        lead = ("experts",) if experts else ()
        weight = self.weight(f"{prefix}w_{what}", (*lead, features, columns), DType.INT8 if quantized else self.dtype)
        biases = (self.weight(f"{prefix}b_{what}", (columns,)),) if bias else ()
        if experts:
            weight = self.rows_of(weight, experts)
        out_dims = (*x.dims[:-1], columns)
        name = f"{prefix}{op or what + '_proj'}"
        if not quantized:
            out = self.tensor(f"{prefix}{what}", out_dims, dtype=dtype)
            return self.matmul(name, (x, weight, *biases), out, note=note)
        data, scale = self._quantize(x)
        raw = self.matmul(
            name, (data, weight), self.tensor(f"{prefix}{what}_acc", out_dims, dtype=DType.INT32), note=note
        )
        channel = self.weight(f"{prefix}w_{what}_scale", (*lead, columns), DType.FLOAT32)
        if experts:
            channel = self.picked(channel, out_dims, experts)  # a row takes the scales of its one expert
        out = self.tensor(f"{prefix}{what}", out_dims)
        vector = work("dequantize_bias" if bias else "dequantize", self.elements(out))
        self.op(f"{prefix}{what}_dequant", OpKind.DEQUANTIZE, (raw, scale, channel, *biases), (out,), vector=vector)
        return out

    def _quantize(self, x: Access) -> tuple[Access, Access]:
        """``x`` as int8 with one scale per row, made once however many projections read it."""
        if x.tensor not in self._int8:
            data = self.tensor(f"{x.tensor}_int8", x.dims, dtype=DType.INT8)
            scale = self.tensor(f"{x.tensor}_scale", x.dims[:-1], dtype=DType.FLOAT32)
            whole = x.dims[-1].split("*")
            vector = work("quantize", self.elements(x), div=self.elements(scale))
            self.op(f"{x.tensor}_quant", OpKind.QUANTIZE, (x,), (data, scale), vector=vector, whole=whole)
            self._int8[x.tensor] = (data, scale)
        return self._int8[x.tensor]


def indexed(access: Access, dims: Sequence[str]) -> Access:
    """The same tensor, all of it, indexed by other loops."""
    return Access(tensor=access.tensor, dims=tuple(dims))


def _too_large(error: ValidationError) -> InputError:
    return InputError(f"graph: {first_problem(error)}; ask for fewer tokens, a shorter context or a smaller batch")
