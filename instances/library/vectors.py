"""Kernels of the vector cores: norms, activations, softmax, quantisation, rotary embedding, element-wise, moves."""

from __future__ import annotations

from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import work
from instances.library.request import Call, Draftsman, Request, Shape, Unmodelled, flat
from instances.machine import Machine


def rms_norm(request: Request, machine: Machine) -> Call:
    """``x [..., features]``, ``weight [features]``."""
    d = _rows(request, machine)
    d.build.norm("", "norm", _tensor(d, "x", ("rows", "features")), rms=True, whole=("features",), role=Role.OUTPUT)
    return d.call()


def layer_norm(request: Request, machine: Machine) -> Call:
    """``x [..., features]``, ``weight``, ``bias``."""
    d = _rows(request, machine)
    d.build.norm("", "norm", _tensor(d, "x", ("rows", "features")), rms=False, whole=("features",), role=Role.OUTPUT)
    return d.call()


def add_rms_norm(request: Request, machine: Machine) -> Call:
    """``x1 [..., features]``, ``x2``, ``weight``: writes the sum and its norm."""
    d = _rows(request, machine)
    _add_norm(d, Role.OUTPUT)
    return d.call()


def add_rms_norm_dynamic_quant(request: Request, machine: Machine) -> Call:
    """``x1 [..., features]``, ``x2``, ``weight``: writes the sum, its norm in int8 and a scale per row."""
    d = _rows(request, machine)
    _quantize(d, _add_norm(d, Role.INTERMEDIATE), ("rows", "features"))
    return d.call()


def dynamic_quant(request: Request, machine: Machine) -> Call:
    """``x [..., features]``: writes int8 and a scale per row."""
    d = _rows(request, machine)
    _quantize(d, _tensor(d, "x", ("rows", "features")), ("rows", "features"))
    return d.call()


def softmax(request: Request, machine: Machine) -> Call:
    """``x`` over the axis ``dim``, the last by default."""
    shape = request.shape(0, "x")
    axis = _axis(request, shape, "dim", "axis")
    outer, inner = flat(shape[:axis]), flat(shape[axis + 1 :])
    d = Draftsman(request, machine, outer=outer, row=shape[axis], inner=inner)
    dims = ("outer", "row", "inner") if inner > 1 else ("outer", "row")
    x, out = _tensor(d, "x", dims), _tensor(d, "y", dims, Role.OUTPUT)
    vector = work("softmax", flat(shape), div=outer * inner)
    d.build.op("softmax", OpKind.SOFTMAX, (x,), (out,), vector=vector, whole=("row",))
    return d.call()


def swi_glu(request: Request, machine: Machine) -> Call:
    """``x [..., 2 * features]``: silu of one half times the other."""
    shape = request.shape(0, "x")
    d = _halved(request, machine, shape, _axis(request, shape, "dim", "axis"))
    x, out = _tensor(d, "x", ("rows", "two*features")), _tensor(d, "y", ("rows", "features"), Role.OUTPUT)
    d.build.op("swi_glu", OpKind.ACTIVATION, (x,), (out,), vector=work("silu_gated", d.build.elements(out)))
    return d.call()


def dequant_swiglu_quant(request: Request, machine: Machine) -> Call:
    """``x [..., 2 * features]``, then, where x is int32, scales per column and per row: writes int8 and its scale."""
    shape = request.shape(0, "x")
    d = _halved(request, machine, shape, len(shape) - 1)
    act = _dequant_swiglu(d, _tensor(d, "x", ("rows", "two*features")))
    _quantize(d, act, ("rows", "features"))
    return d.call()


def apply_rotary_pos_emb(request: Request, machine: Machine) -> Call:
    """``q [b, s, heads, dim]`` (``[b, heads, s, dim]``, or no ``b``), ``k``, ``cos [s, dim or half]``, ``sin``."""
    shapes = [request.shape(index, name, 3, 4) for index, name in enumerate(("query", "key"))]
    shapes = [shape if len(shape) == 4 else (1, *shape) for shape in shapes]
    table = request.shape(2, "cos")
    if not table or shapes[0][-1] != shapes[1][-1]:
        raise Unmodelled("the rotary table has no axes, or heads of query and key differ in size")
    seq, half = flat(table[:-1]), table[-1]
    by_head = request.attributes.get("layout", "0") == "1" or (shapes[0][1] != seq and shapes[0][2] == seq)
    batch, dim = shapes[0][0], shapes[0][-1]
    heads = [shape[1] if by_head else shape[2] for shape in shapes]
    positions = shapes[0][2] if by_head else shapes[0][1]
    if seq not in (positions, batch * positions):
        raise Unmodelled(f"the rotary table has {seq} rows for {batch} x {positions} positions")
    d = Draftsman(request, machine, batch=batch, seq=positions, head_dim=dim, half=half)
    row = ("seq",) if seq == positions else ("batch*seq",)
    tables = tuple(_tensor(d, name, (*row, "half")) for name in ("cos", "sin"))
    for name, count in zip(("q", "k"), heads, strict=True):
        loop = "heads" if heads[0] == heads[1] else f"{name}_heads"
        d.build.loops[loop] = count
        dims = ("batch", loop, "seq", "head_dim") if by_head else ("batch", "seq", loop, "head_dim")
        x, out = _tensor(d, name, dims), _tensor(d, f"{name}_rotated", dims, Role.OUTPUT)
        vector = work("rope", d.build.elements(x))
        d.build.op(f"rope_{name}", OpKind.ROPE, (x, *tables), (out,), vector=vector, whole=("head_dim",))
    return d.call()


def elementwise(request: Request, machine: Machine) -> Call:
    """Two operands of one shape, or the second repeated along axes where it is one (maximum, add, mul)."""
    shape = request.shape(0, "left")
    other = request.shapes[1] if len(request.shapes) > 1 else shape
    if flat(other) > flat(shape):
        shape, other = other, shape
    if any(few not in (1, many) for few, many in zip(reversed(other), reversed(shape), strict=False)):
        raise Unmodelled("operands do not broadcast")
    own = other[next((axis for axis, extent in enumerate(other) if extent > 1), len(other)) :]
    by_rows = own == shape[len(shape) - len(own) :]  # repeated along leading axes alone
    elements = flat(own) if by_rows else flat(shape)
    d = Draftsman(request, machine, repeat=flat(shape) // elements, elements=elements)
    dims = ("repeat", "elements") if d.build.loops["repeat"] > 1 else ("elements",)
    left, right = _tensor(d, "left", dims), d.build.tensor("right", ("elements",), Role.INPUT, shape=(flat(other),))
    if not by_rows:  # repeated within rows: read as it is used, a part of an element for each result
        right = Access(tensor=right.tensor, dims=right.dims, touched_bytes=d.build.size_bytes(right))
    out = _tensor(d, "out", dims, Role.OUTPUT)
    vector = work("add", d.build.elements(out))
    d.build.op(request.op, OpKind.ELEMENTWISE, (left, right), (out,), vector=vector)
    return d.call()


def copy(request: Request, machine: Machine) -> Call:
    """``x`` as it is, to another place."""
    d = Draftsman(request, machine, elements=flat(request.shape(0, "x")))
    x, out = _tensor(d, "x", ("elements",)), _tensor(d, "out", ("elements",), Role.OUTPUT)
    d.build.op("copy", OpKind.PERMUTE, (x,), (out,))
    return d.call()


def transpose(request: Request, machine: Machine) -> Call:
    """``x`` with its axes in another order; the last two of a matrix change places in 16 x 16 blocks."""
    d = Draftsman(request, machine, elements=flat(request.shape(0, "x")))
    x, out = _tensor(d, "x", ("elements",)), _tensor(d, "out", ("elements",), Role.OUTPUT)
    d.build.op("transpose", OpKind.PERMUTE, (x,), (out,), vector=work("transpose", d.build.elements(x)))
    return d.call()


def _rows(request: Request, machine: Machine) -> Draftsman:
    shape = request.shape(0, "x")
    return Draftsman(request, machine, rows=max(1, flat(shape[:-1])), features=shape[-1])


def _halved(request: Request, machine: Machine, shape: Shape, axis: int) -> Draftsman:
    if shape[axis] % 2:
        raise Unmodelled(f"axis {axis} has an odd number of elements, which do not split in two")
    return Draftsman(request, machine, rows=max(1, flat(shape[:axis])), two=2, features=flat(shape[axis:]) // 2)


def _axis(request: Request, shape: Shape, *names: str) -> int:
    text = next((request.attributes[name] for name in names if name in request.attributes), "-1")
    try:
        axis = int(text)
        return range(len(shape))[axis]
    except (ValueError, IndexError):
        raise Unmodelled(f"axis {text!r} is not one of x's {len(shape)}") from None


def _tensor(
    d: Draftsman, name: str, dims: tuple[str, ...], role: Role = Role.INPUT, dtype: DType | None = None
) -> Access:
    return d.build.tensor(name, dims, role, dtype)


def _add_norm(d: Draftsman, role: Role) -> Access:
    dims = ("rows", "features")
    total = d.build.add("add", _tensor(d, "x1", dims), _tensor(d, "x2", dims), "sum", Role.OUTPUT)
    return d.build.norm("", "norm", total, rms=True, whole=("features",), role=role)


def _quantize(d: Draftsman, x: Access, dims: tuple[str, ...]) -> None:
    data = _tensor(d, "quantized", dims, Role.OUTPUT, DType.INT8)
    scale = _tensor(d, "scale", dims[:1], Role.OUTPUT, DType.FLOAT32)
    vector = work("quantize", d.build.elements(x), div=d.build.elements(scale))
    d.build.op("quantize", OpKind.QUANTIZE, (x,), (data, scale), vector=vector, whole=dims[1:])


def _dequant_swiglu(d: Draftsman, x: Access) -> Access:
    """Scale int32 per column and row (16-bit inputs come scaled), then silu of one half times the other."""
    act = _tensor(d, "act", ("rows", "features"), Role.INTERMEDIATE, DType.FLOAT32)
    if d.request.dtype is not DType.INT32:
        d.build.op("swi_glu", OpKind.ACTIVATION, (x,), (act,), vector=work("silu_gated", d.build.elements(act)))
        return act
    columns = _tensor(d, "column_scale", ("two*features",), Role.INPUT, DType.FLOAT32)
    rows = _tensor(d, "row_scale", ("rows",), Role.INPUT, DType.FLOAT32)
    wide = _tensor(d, "scaled", ("rows", "two*features"), Role.INTERMEDIATE, DType.FLOAT32)
    vector = work("dequantize", d.build.elements(x))
    d.build.op("dequantize", OpKind.DEQUANTIZE, (x, columns, rows), (wide,), vector=vector)
    d.build.op("swi_glu", OpKind.ACTIVATION, (wide,), (act,), vector=work("silu_gated", d.build.elements(act)))
    return act
