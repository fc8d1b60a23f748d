"""Kernels around the cube: plain, quantised and grouped matrix products, and the projections of latent attention."""

from __future__ import annotations

from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import work
from instances.library.request import Call, Draftsman, Request, Shape, Unmodelled, flat
from instances.machine import Machine


def matmul(request: Request, machine: Machine) -> Call:
    """``[..., m, k]`` by ``[..., k, n]`` (or ``[n, k]`` by attribute), with a bias where a third operand is given."""
    left, right = request.shape(0, "left"), request.shape(1, "right")
    m, k, n = _sizes(request, left, right)
    batch = flat(right[:-2])
    right_dims = ("n", "k") if _turned(request, left, right) else ("k", "n")
    if batch > 1:
        if left[:-2] != right[:-2]:
            raise Unmodelled("leading axes of the operands differ")
        d = Draftsman(request, machine, batch=batch, m=m // batch, k=k, n=n)
        lead: tuple[str, ...] = ("batch",)
    else:
        d = Draftsman(request, machine, m=m, k=k, n=n)
        lead = ()
    b = d.build
    x, w = b.tensor("left", (*lead, "m", "k"), Role.INPUT), b.tensor("right", (*lead, *right_dims), request.stored)
    b.matmul("matmul", (x, w, *_bias(d, 2)), b.tensor("out", (*lead, "m", "n"), Role.OUTPUT))
    return d.call()


def quant_matmul(request: Request, machine: Machine) -> Call:
    """``int8 [m, k]`` by ``int8 [k, n]``, scale per column; scale per row and bias where given.

    The fixed pipe scales on the way out where it can: to float16 by column; with scales per row, or to bfloat16 on
    chips whose fixed pipe does not (910B), vector cores do it.
    """
    left, right = request.shape(0, "left"), request.shape(1, "right")
    m, k, n = _sizes(request, left, right)
    d = Draftsman(request, machine, m=m, k=k, n=n)
    b = d.build
    wanted = request.attributes.get("output_dtype", "float16").lower()
    out_dtype = {"bfloat16": DType.BFLOAT16, "bf16": DType.BFLOAT16, "int8": DType.INT8, "int32": DType.INT32}.get(
        wanted, DType.FLOAT16
    )
    x = b.tensor("left", ("m", "k"), Role.INPUT, DType.INT8)
    w = b.tensor("right", ("k", "n"), request.stored, DType.INT8)
    column = b.tensor("column_scale", ("n",), request.stored, DType.FLOAT32)
    per_row = m > 1 and any(shape == (m,) and m != n for shape in request.shapes[3:])
    by_vector = per_row or (out_dtype is DType.BFLOAT16 and not machine.direct)
    out = b.tensor("out", ("m", "n"), Role.OUTPUT, out_dtype)
    if not by_vector:
        b.matmul("matmul", (x, w, column), out)
        return d.call()
    raw = b.matmul("matmul", (x, w), b.tensor("sum", ("m", "n"), Role.INTERMEDIATE, DType.INT32))
    row = (b.tensor("row_scale", ("m",), Role.INPUT, DType.FLOAT32),) if per_row else ()
    vector = work("dequantize" if per_row else "dequantize_columns", m * n)
    b.op("dequantize", OpKind.DEQUANTIZE, (raw, column, *row), (out,), vector=vector)
    return d.call()


def weight_quant_batch_matmul(request: Request, machine: Machine) -> Call:
    """``[m, k]`` by ``int8 [k, n]`` that vector cores turn into the type of the left operand on the way."""
    left, right = request.shape(0, "left"), request.shape(1, "right")
    m, k, n = _sizes(request, left, right)
    d = Draftsman(request, machine, m=m, k=k, n=n)
    b = d.build
    x = b.tensor("left", ("m", "k"), Role.INPUT)
    w = b.tensor("weight", ("k", "n"), request.stored, DType.INT8)
    scale = b.tensor("column_scale", ("n",), request.stored)
    wide = b.tensor("right", ("k", "n"), Role.INTERMEDIATE)
    b.op("dequantize", OpKind.DEQUANTIZE, (w, scale), (wide,), vector=work("dequantize_weights", k * n))
    b.matmul("matmul", (x, wide), b.tensor("out", ("m", "n"), Role.OUTPUT))
    return d.call(("dequantize",), ("matmul",), together=True)


def grouped_matmul(request: Request, machine: Machine) -> Call:
    """``[rows, k]`` by ``[groups, k, n]`` (or ``[groups, n, k]``): rows in equal shares to the groups."""
    d, x, w = _grouped(request, machine)
    bias: tuple[Access, ...] = ()
    if len(request.shapes) > 2:  # a row for each group; a row of the product takes that of its one group
        every = d.build.tensor("bias", ("groups", "n"), request.stored)
        bias = (d.build.picked(every, ("rows", "n"), d.build.loops["groups"]),)
    d.build.matmul("matmul", (x, w, *bias), d.build.tensor("out", ("rows", "n"), Role.OUTPUT))
    return d.call()


def grouped_matmul_swiglu_quant(request: Request, machine: Machine) -> Call:
    """``int8 [rows, k]`` by ``int8 [groups, k, 2 f]``, then dequantise, silu of a half times the other, quantise."""
    d, x, w = _grouped(request, machine, halved=True)
    b = d.build
    raw = b.matmul("matmul", (x, w), b.tensor("sum", ("rows", "two*n"), Role.INTERMEDIATE, DType.INT32))
    columns = b.picked(
        b.tensor("column_scale", ("groups", "two*n"), request.stored, DType.FLOAT32),
        ("rows", "two*n"),
        d.build.loops["groups"],
    )
    rows = b.tensor("row_scale", ("rows",), Role.INPUT, DType.FLOAT32)
    wide = b.tensor("scaled", ("rows", "two*n"), Role.INTERMEDIATE, DType.FLOAT32)
    b.op("dequantize", OpKind.DEQUANTIZE, (raw, columns, rows), (wide,), vector=work("dequantize", b.elements(raw)))
    act = b.tensor("act", ("rows", "n"), Role.INTERMEDIATE, DType.FLOAT32)
    b.op("swi_glu", OpKind.ACTIVATION, (wide,), (act,), vector=work("silu_gated", b.elements(act)))
    data = b.tensor("quantized", ("rows", "n"), Role.OUTPUT, DType.INT8)
    scale = b.tensor("scale", ("rows",), Role.OUTPUT, DType.FLOAT32)
    vector = work("quantize", b.elements(act), div=b.elements(scale))
    b.op("quantize", OpKind.QUANTIZE, (act,), (data, scale), vector=vector, whole=("n",))
    return d.call(("matmul",), ("dequantize", "swi_glu", "quantize"), together=True)


def mla_prolog(request: Request, machine: Machine) -> Call:
    """``x [b, s, hidden]``, ``w_dq [hidden, q_latent]``, ``w_uq [q_latent, heads * (nope + rope)]``.

    Latent attention before the scores (DeepSeek-V2, arXiv 2405.04434): queries through their latent, brought into
    the latent space of the keys per head; the key's latent and its rotated part; norms and rotary embedding.
    The operands that a table of shapes leaves out have their published sizes: a latent of 512, 64 rotated and 128
    other elements per head.
    """
    x_shape, down, up = request.shape(0, "x"), request.shape(1, "w_dq", 2), request.shape(2, "w_uq", 2)
    latent, rotated, nope = 512, 64, 128
    given = request.attributes.get("n_heads", "")
    heads = int(given) if given.isdecimal() else up[1] // (nope + rotated)
    if up[1] != heads * (nope + rotated) or x_shape[-1] != down[0] or down[1] != up[0]:
        raise Unmodelled("operands do not chain, or heads are not of 128 + 64 elements")
    d = Draftsman(
        request,
        machine,
        tokens=flat(x_shape[:-1]),
        hidden=down[0],
        q_latent=down[1],
        heads=heads,
        nope=nope,
        rope=rotated,
        both=nope + rotated,
        latent=latent,
        key=latent + rotated,
    )
    b = d.build
    x = b.tensor("x", ("tokens", "hidden"), Role.INPUT)
    q = b.matmul(
        "q_down", (x, b.tensor("w_dq", ("hidden", "q_latent"), request.stored)), b.tensor("c_q", ("tokens", "q_latent"))
    )
    key = b.matmul(
        "kv_down", (x, b.tensor("w_dkv", ("hidden", "key"), request.stored)), b.tensor("c_kv", ("tokens", "key"))
    )
    q = b.norm("", "q_norm", q, rms=True, whole=("q_latent",))
    b.op(
        "kv_norm_rope",
        OpKind.NORM,
        (key,),
        (b.tensor("kv_cache", ("tokens", "key"), Role.OUTPUT),),
        vector=work("rms_norm", b.elements(key)),
        whole=("key",),
    )
    w_up = b.tensor("w_uq", ("q_latent", "heads*both"), request.stored)
    wide = b.matmul("q_up", (q, w_up), b.tensor("q", ("tokens", "heads*both")))
    rope_out = b.tensor("q_rope", ("tokens", "heads*rope"), Role.OUTPUT)
    q_rope = Access(tensor=wide.tensor, dims=("tokens", "heads*rope"), touched_bytes=b.size_bytes(rope_out))
    b.op("q_rope", OpKind.ROPE, (q_rope,), (rope_out,), vector=work("rope", b.elements(rope_out)), whole=("rope",))
    q_nope = Access(
        tensor=wide.tensor, dims=("tokens", "heads*nope"), touched_bytes=b.size_bytes(rope_out) * nope // rotated
    )
    w_uk = b.tensor("w_uk", ("heads", "nope", "latent"), request.stored)
    out = b.tensor("q_nope", ("tokens", "heads", "latent"), Role.OUTPUT)
    b.matmul("q_absorb", (q_nope, w_uk), out, macs=d.build.loops["tokens"] * heads * nope * latent)
    return d.call(("q_down", "kv_down"), ("q_norm",), ("kv_norm_rope",), ("q_up",), ("q_rope",), ("q_absorb",))


def _sizes(request: Request, left: Shape, right: Shape) -> tuple[int, int, int]:
    """m, k, n of two matrices; leading axes of the left are rows."""
    if len(left) < 2 or len(right) < 2:
        raise Unmodelled("operands are not matrices")
    if request.flag("transpose_a", "transpose_x1", "trans_a"):
        left = (*left[:-2], left[-1], left[-2])
    k = left[-1]
    if _turned(request, left, right):
        right = (*right[:-2], right[-1], right[-2])
    if right[-2] != k:
        raise Unmodelled(f"depths of the operands differ: {k} and {right[-2]}")
    return flat(left[:-1]), k, right[-1]


def _turned(request: Request, left: Shape, right: Shape) -> bool:
    """Whether the right operand is ``[n, k]``, by attribute or because only that fits."""
    k = left[-2] if request.flag("transpose_a", "transpose_x1", "trans_a") else left[-1]
    return request.flag("transpose_b", "transpose_x2", "transpose_weight", "trans_b") or (
        right[-2] != k and right[-1] == k
    )


def _bias(d: Draftsman, index: int) -> tuple[Access, ...]:
    """The bias along the columns, where the operand is there."""
    if index >= len(d.request.shapes):
        return ()
    return (d.build.tensor("bias", ("n",), d.request.stored),)


def _grouped(request: Request, machine: Machine, halved: bool = False) -> tuple[Draftsman, Access, Access]:
    left, right = request.shape(0, "rows", 2), request.shape(1, "weights", 3)
    rows, k, n = _sizes(request, left, right)
    if halved and n % 2:
        raise Unmodelled(f"{n} columns do not split in two")
    d = Draftsman(request, machine, rows=rows, k=k, groups=right[0], two=2, n=n // 2 if halved else n)
    x = d.build.tensor("left", ("rows", "k"), Role.INPUT)
    w = d.build.tensor("right", ("groups", "k", "two*n" if halved else "n"), request.stored)
    return d, x, w
