"""Kernels by profiler names: the graph each becomes, counted by hand, and why some become none."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from instances.estimate import Estimate, estimate
from instances.graph import Graph, Role, VectorClass
from instances.kernels import KernelKind
from instances.library import DTYPES, KERNELS, Request, Shape, Unmodelled, build_call, parse_attributes
from instances.machine import load_machine

B2 = load_machine("ascend910b2")
PR = load_machine("ascend950pr")


class Case(NamedTuple):
    """A kernel with what its graph must hold: macs, bytes of its sources, bytes of its results."""

    op: str
    dtype: str
    shapes: tuple[Shape, ...]
    attributes: str
    macs: int
    read: int
    written: int


CASES = (
    # 64 x 128 by 128 x 256 is 2^21 macs; 16 KiB and 64 KiB in, 32 KiB out
    Case("matmul", "float16", ((64, 128), (128, 256)), "", 2**21, 16384 + 65536, 32768),
    Case("matmul", "float16", ((64, 128), (128, 256), (256,)), "", 2**21, 16384 + 65536 + 512, 32768),
    Case("matmul", "float32", ((2, 32, 128), (128, 256)), "", 2**21, 32768 + 131072, 65536),
    Case("batch_matmul", "float16", ((4, 64, 128), (4, 128, 32)), "", 2**20, 65536 + 32768, 16384),
    # scales per column are float32
    Case("quant_matmul", "int8", ((64, 128), (128, 256), (256,)), "", 2**21, 8192 + 32768 + 1024, 32768),
    Case("quant_matmul", "int8", ((64, 128), (128, 256), (256,), (64,)), "", 2**21, 8192 + 32768 + 1024 + 256, 32768),
    # int8 weights, scales of the left operand's type
    Case("weight_quant_batch_matmul", "float16", ((64, 128), (128, 256)), "", 2**21, 16384 + 32768 + 512, 32768),
    Case("grouped_matmul", "float16", ((64, 128), (4, 128, 256)), "", 2**21, 16384 + 262144, 32768),
    # scales: 4 x 512 of columns, 64 of rows; out 64 x 256 int8 with 64 scales
    Case(
        "grouped_matmul_swiglu_quant",
        "int8",
        ((64, 128), (4, 128, 512)),
        "",
        2**22,
        8192 + 262144 + 8192 + 256,
        16384 + 256,
    ),
    # 8 tokens, 4 heads: 8 * (512 * 256 + 512 * 576 + 256 * 768 + 4 * 128 * 512) macs; x, w_dq, w_dkv, the norm's
    # weight, w_uq, w_uk in; the key's latent and rotated part, rotated queries and absorbed queries out
    Case(
        "mla_prolog",
        "bfloat16",
        ((1, 8, 512), (512, 256), (256, 768)),
        "",
        8 * (131072 + 294912 + 196608 + 262144),
        8192 + 262144 + 589824 + 512 + 393216 + 524288,
        9216 + 4096 + 32768,
    ),
    # 16 heads of a batch, 64 x 128 pairs: 32 deep for scores, 16 for values
    Case(
        "flash_attention",
        "float16",
        ((2, 64, 8, 32), (2, 128, 8, 32), (2, 128, 8, 16)),
        "{layout: BSND}",
        16 * 64 * 128 * 48,
        65536 + 131072 + 65536,
        32768,
    ),
    Case(
        "mha",
        "float16",
        ((2, 64, 256), (2, 128, 256), (2, 128, 128)),
        "{layout: BSH, num_heads: 8}",
        16 * 64 * 128 * 48,
        65536 + 131072 + 65536,
        32768,
    ),
    # two key heads of eight: a quarter of the keys and values, as many macs
    Case(
        "gqa",
        "float16",
        ((2, 64, 8, 32), (2, 128, 2, 32), (2, 128, 2, 16)),
        "",
        16 * 64 * 128 * 48,
        65536 + 32768 + 16384,
        32768,
    ),
    # 16 queries by 64 keys: 512 + 64 deep, then 512 wide
    Case(
        "mla",
        "float16",
        ((2, 1, 8, 512), (2, 1, 8, 64), (2, 64, 1, 512), (2, 64, 1, 64), (2, 64, 1, 512)),
        "",
        16 * 64 * (576 + 512),
        18432 + 147456 + 131072,
        16384,
    ),
    Case("rms_norm", "float16", ((64, 256), (256,)), "", 0, 32768 + 512, 32768),
    Case("layer_norm", "float16", ((64, 256), (256,), (256,)), "", 0, 32768 + 1024, 32768),
    Case("add_rms_norm", "float16", ((64, 256), (64, 256), (256,)), "", 0, 65536 + 512, 65536),
    # the sum, the norm in int8, a float32 scale per row
    Case(
        "add_rms_norm_dynamic_quant",
        "float16",
        ((64, 256), (64, 256), (256,)),
        "",
        0,
        65536 + 512,
        32768 + 16384 + 256,
    ),
    Case("dynamic_quant", "bfloat16", ((4, 16, 256),), "", 0, 32768, 16384 + 256),
    Case("softmax", "float32", ((64, 256),), "", 0, 65536, 65536),
    Case("swi_glu", "float16", ((64, 512),), "", 0, 65536, 32768),
    Case("dequant_swiglu_quant", "int32", ((64, 512),), "", 0, 131072 + 2048 + 256, 16384 + 256),
    Case("dequant_swiglu_quant", "float16", ((64, 512),), "", 0, 65536, 16384 + 256),
    Case(
        "apply_rotary_pos_emb",
        "float16",
        ((1, 64, 8, 32), (1, 64, 2, 32), (64, 32), (64, 32)),
        "",
        0,
        32768 + 8192 + 2 * 4096,
        32768 + 8192,
    ),
    Case("maximum", "float32", ((64, 256), (64, 256)), "", 0, 131072, 65536),
    Case("add", "float16", ((64, 256), (256,)), "", 0, 32768 + 512, 32768),
    Case("mul", "float16", ((64, 256), (1, 256)), "", 0, 32768 + 512, 32768),
    Case("transpose", "int64", ((64, 256),), "", 0, 131072, 131072),
    Case("copy", "bfloat16", ((64, 256),), "", 0, 32768, 32768),
)


def ask(op: str, dtype: str, shapes: tuple[Shape, ...], attributes: str = "", network: bool = False) -> Request:
    return Request(op, DTYPES[dtype], shapes, parse_attributes(attributes), network)


def asked(case: Case, network: bool = False) -> Request:
    return ask(case.op, case.dtype, case.shapes, case.attributes, network)


def macs(graph: Graph) -> int:
    return sum(operator.macs for operator in graph.operators)


def read(graph: Graph) -> int:
    """Bytes of what no operator makes, as far as operators touch them."""
    touched = {a.tensor: graph.touched_bytes(a) for o in graph.operators for a in o.reads}
    return sum(size for name, size in touched.items() if name not in graph.producer)


def written(graph: Graph) -> int:
    return sum(tensor.size_bytes for tensor in graph.tensors if tensor.role is Role.OUTPUT)


def totals(request: Request) -> tuple[int, int, int]:
    graph = build_call(request, B2).graph
    return macs(graph), read(graph), written(graph)


def vector_work(op: str, dtype: str, *shapes: Shape, attributes: str = "") -> dict[VectorClass, int]:
    """Elements by class over all operators."""
    found: dict[VectorClass, int] = {}
    for operator in build_call(ask(op, dtype, shapes, attributes), B2).graph.operators:
        for klass, elements in operator.vector.items():
            found[klass] = found.get(klass, 0) + elements
    return found


def named(case: Case) -> str:
    return f"{case.op}-{case.dtype}-{len(case.shapes)}"


# ------------------------------------------------------------------------------ all ops


def test_every_kernel_has_a_case() -> None:
    assert {case.op for case in CASES} == set(KERNELS)


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize("network", [False, True], ids=["alone", "network"])
def test_macs_and_bytes_counted_by_hand(case: Case, network: bool) -> None:
    assert totals(asked(case, network)) == (case.macs, case.read, case.written)


@pytest.mark.parametrize("machine", [B2, PR], ids=["ascend910b2", "ascend950pr"])
@pytest.mark.parametrize("case", CASES, ids=named)
def test_every_kernel_is_priced(case: Case, machine: object) -> None:
    chip = B2 if machine is B2 else PR
    for network in (False, True):
        found = estimate(asked(case, network), chip)
        assert found.total_ns > found.launch_ns + found.cold_ns > 0
        assert [list(part.fusion.names) for part in found.parts] == [list(names) for names in found.call.parts]
        assert {name for names in found.call.parts for name in names} == {o.name for o in found.call.graph.operators}
        assert found.call.graph.name == case.op
        assert (found.kind is KernelKind.VECTOR) == (case.macs == 0)


# ------------------------------------------------------------------------------ vector work


def test_vector_work_of_norms() -> None:
    """Per element of an RMS norm: square and scale by weight, a sum, a scale by the root; per row a root and a
    division. A layer norm subtracts a mean and adds a bias."""
    n, rows = 64 * 256, 64
    assert vector_work("rms_norm", "float16", (64, 256), (256,)) == {
        VectorClass.TWO_SOURCE: 2 * n,
        VectorClass.REDUCE: n,
        VectorClass.ONE_SOURCE: n,
        VectorClass.TRANSCENDENTAL: rows,
        VectorClass.DIVIDE: rows,
    }
    assert vector_work("layer_norm", "float16", (4, 16, 256)) == {
        VectorClass.TWO_SOURCE: 3 * n,
        VectorClass.REDUCE: 2 * n,
        VectorClass.ONE_SOURCE: 2 * n,
        VectorClass.TRANSCENDENTAL: rows,
        VectorClass.DIVIDE: rows,
    }


def test_vector_work_of_softmax_divides_once_a_row() -> None:
    """Over the middle axis of 4 x 8 x 16 there are 64 rows of 8."""
    found = vector_work("softmax", "float32", (4, 8, 16), attributes="dim: 1")
    assert found == {
        VectorClass.MAXIMUM: 512,
        VectorClass.REDUCE: 512,
        VectorClass.ONE_SOURCE: 3 * 512,
        VectorClass.TRANSCENDENTAL: 512,
        VectorClass.DIVIDE: 64,
    }
    assert vector_work("softmax", "float32", (4, 8, 16), attributes="axis: 0")[VectorClass.DIVIDE] == 128
    assert vector_work("softmax", "float32", (4, 8, 16))[VectorClass.DIVIDE] == 32


def test_vector_work_of_gates_counts_results() -> None:
    """silu of a half times the other: once per element of the result, a half of the operand's."""
    assert vector_work("swi_glu", "float16", (64, 512)) == {
        VectorClass.ONE_SOURCE: 2 * 64 * 256,
        VectorClass.TRANSCENDENTAL: 64 * 256,
        VectorClass.DIVIDE: 64 * 256,
        VectorClass.TWO_SOURCE: 64 * 256,
    }
    assert vector_work("swi_glu", "float16", (512, 64), attributes="dim: 0")[VectorClass.DIVIDE] == 512 * 32


def test_moves_do_no_arithmetic_and_transposes_turn_every_element() -> None:
    assert vector_work("copy", "float16", (64, 256)) == {}
    assert vector_work("transpose", "float16", (64, 256)) == {VectorClass.TRANSPOSE: 64 * 256}
    assert vector_work("maximum", "float16", (64, 256), (64, 256)) == {VectorClass.TWO_SOURCE: 64 * 256}


# ------------------------------------------------------------------------------ matrix products


@pytest.mark.parametrize(
    ("op", "dtype", "left", "right"),
    [
        ("matmul", "float16", (64, 128), (128, 256)),
        ("batch_matmul", "float16", (4, 64, 128), (4, 128, 32)),
        ("quant_matmul", "int8", (64, 128), (128, 256)),
        ("weight_quant_batch_matmul", "float16", (64, 128), (128, 256)),
        ("grouped_matmul", "float16", (64, 128), (4, 128, 256)),
    ],
)
def test_transposed_weights_cost_what_plain_ones_cost(op: str, dtype: str, left: Shape, right: Shape) -> None:
    turned = (*right[:-2], right[-1], right[-2])
    plain = ask(op, dtype, (left, right), network=True)
    assert totals(plain) == totals(ask(op, dtype, (left, turned), "{transpose_b: True}", network=True))
    assert totals(plain) == totals(ask(op, dtype, (left, turned), network=True)), "only that fits"
    for request in (
        ask(op, dtype, (left, turned), "transpose_b=1", network=True),
        ask(op, dtype, (left, turned), network=True),
    ):  # weights of a network are laid out for the cube, whatever their order was
        assert estimate(request, B2).total_ns == estimate(plain, B2).total_ns


def test_a_square_weight_is_turned_by_attribute_alone() -> None:
    def dims(attributes: str) -> tuple[str, ...]:
        operator = build_call(ask("matmul", "float16", ((64, 128), (128, 128)), attributes), B2).graph.operators[0]
        return operator.reads[1].dims

    assert dims("") == ("k", "n")
    assert dims("{transpose_x2: True}") == ("n", "k")
    assert dims("{transpose_x2: False}") == ("k", "n")


def test_a_transposed_left_operand_swaps_rows_and_depth() -> None:
    plain = totals(ask("matmul", "float16", ((64, 128), (128, 256))))
    assert totals(ask("matmul", "float16", ((128, 64), (128, 256)), "{transpose_a: True}")) == plain
    both = ask("matmul", "float16", ((128, 64), (256, 128)), "{transpose_x1: True, transpose_x2: True}")
    assert totals(both) == plain


def test_leading_axes_of_the_left_operand_are_rows() -> None:
    joined = build_call(ask("matmul", "float16", ((2, 32, 128), (128, 256))), B2).graph
    flat = build_call(ask("matmul", "float16", ((64, 128), (128, 256))), B2).graph
    assert joined.model_dump() == flat.model_dump()
    one = build_call(ask("batch_matmul", "float16", ((1, 64, 128), (1, 128, 256))), B2).graph
    assert macs(one) == macs(flat)


def test_learned_operands_are_weights_in_a_network_alone() -> None:
    for network, role in ((False, Role.INPUT), (True, Role.WEIGHT)):
        graph = build_call(ask("matmul", "float16", ((64, 128), (128, 256), (256,)), network=network), B2).graph
        assert [graph.tensor[name].role for name in ("left", "right", "bias")] == [Role.INPUT, role, role]


QUANTIZED = ((64, 128), (128, 256), (256,))


@pytest.mark.parametrize(
    ("shapes", "attributes", "on_b2", "on_pr"),
    [
        (QUANTIZED, "", KernelKind.CUBE, KernelKind.CUBE),
        (QUANTIZED, "{output_dtype: float16}", KernelKind.CUBE, KernelKind.CUBE),
        (QUANTIZED, "{output_dtype: int32}", KernelKind.CUBE, KernelKind.CUBE),
        (QUANTIZED, "{output_dtype: bfloat16}", KernelKind.MIX, KernelKind.CUBE),  # by FIXP on the 950 alone
        ((*QUANTIZED, (64,)), "", KernelKind.MIX, KernelKind.MIX),  # a scale per row
        ((*QUANTIZED, (256,)), "", KernelKind.CUBE, KernelKind.CUBE),  # a bias per column
        ((*QUANTIZED, (256,), (64,)), "", KernelKind.MIX, KernelKind.MIX),
        ((*QUANTIZED, (64,)), "{output_dtype: bfloat16}", KernelKind.MIX, KernelKind.MIX),
    ],
)
def test_which_engines_quantised_products_take(
    shapes: tuple[Shape, ...], attributes: str, on_b2: KernelKind, on_pr: KernelKind
) -> None:
    request = ask("quant_matmul", "int8", shapes, attributes)
    assert estimate(request, B2).kind is on_b2
    assert estimate(request, PR).kind is on_pr


@pytest.mark.parametrize(
    ("wanted", "element"), [("float16", 2), ("bfloat16", 2), ("bf16", 2), ("int8", 1), ("int32", 4)]
)
def test_results_of_quantised_products(wanted: str, element: int) -> None:
    request = ask("quant_matmul", "int8", QUANTIZED, f"{{output_dtype: {wanted}}}")
    assert totals(request)[2] == 64 * 256 * element


def test_weights_are_dequantised_beside_the_product() -> None:
    call = build_call(ask("weight_quant_batch_matmul", "bfloat16", ((64, 128), (128, 256))), B2)
    assert call.together
    assert call.parts == (("dequantize",), ("matmul",))
    found = estimate(ask("weight_quant_batch_matmul", "bfloat16", ((64, 128), (128, 256))), B2)
    assert [part.fusion.kind for part in found.parts] == [KernelKind.VECTOR, KernelKind.CUBE]
    assert found.kind is KernelKind.MIX


def test_grouped_products_with_gate_have_a_cube_and_a_vector_part_together() -> None:
    call = build_call(ask("grouped_matmul_swiglu_quant", "int8", ((64, 128), (4, 128, 512))), B2)
    assert call.together
    assert call.parts == (("matmul",), ("dequantize", "swi_glu", "quantize"))


def test_latent_projections_are_six_parts_in_turn() -> None:
    request = ask("mla_prolog", "bfloat16", ((1, 8, 512), (512, 256), (256, 768)))
    call = build_call(request, B2)
    assert len(call.parts) == 6
    assert not call.together
    assert [part.fusion.kind.value for part in estimate(request, B2).parts] == [
        "cube",
        "vector",
        "vector",
        "cube",
        "vector",
        "cube",
    ]


def test_latent_projections_split_heads_by_attribute_or_by_size() -> None:
    shapes = ((1, 8, 512), (512, 256), (256, 768))
    assert totals(ask("mla_prolog", "bfloat16", shapes, "{n_heads: 4}")) == totals(
        ask("mla_prolog", "bfloat16", shapes)
    )
    with pytest.raises(Unmodelled, match="do not chain"):
        build_call(ask("mla_prolog", "bfloat16", shapes, "{n_heads: 8}"), B2)


# ------------------------------------------------------------------------------ attention


def attention(
    layout: str = "BSND", attributes: str = "", q: int = 64, context: int = 128, network: bool = False
) -> Request:
    """Eight query heads on two key heads of 32 elements, in a layout."""
    shapes = {
        "BSND": ((2, q, 8, 32), (2, context, 2, 32), (2, context, 2, 16)),
        "BNSD": ((2, 8, q, 32), (2, 2, context, 32), (2, 2, context, 16)),
        "BSH": ((2, q, 256), (2, context, 64), (2, context, 32)),
        "SBH": ((q, 2, 256), (context, 2, 64), (context, 2, 32)),
    }[layout]
    heads = "num_heads: 8, num_kv_heads: 2, " if len(shapes[0]) == 3 else ""
    return ask("gqa", "float16", shapes, f"{{{heads}layout: {layout}, {attributes}}}", network)


@pytest.mark.parametrize("layout", ["BNSD", "BSH", "SBH"])
def test_layouts_say_the_same(layout: str) -> None:
    one, other = build_call(attention(), B2), build_call(attention(layout), B2)
    assert one.graph.model_dump() == other.graph.model_dump()
    assert estimate(attention(), PR).total_ns == estimate(attention(layout), PR).total_ns


@pytest.mark.parametrize(
    ("q", "context", "pairs"),
    [
        (64, 64, 64 * 65 // 2),
        (64, 128, 64 * 64 + 64 * 65 // 2),  # all of the first 64 keys, and a triangle
        (1, 128, 128),  # the last query sees everything
        (128, 64, 128 * 64),  # more queries than keys: not aligned at the end, so nothing is left out
    ],
)
def test_causal_attention_leaves_out_later_keys(q: int, context: int, pairs: int) -> None:
    """2 x 8 heads, 32 deep and 16 wide."""
    graph = build_call(attention(attributes="is_causal: True", q=q, context=context), B2).graph
    assert macs(graph) == 16 * pairs * 48
    assert {o.density for o in graph.operators} == {pairs / (q * context)}
    softmax = graph.operators[1]
    assert softmax.vector[VectorClass.TRANSCENDENTAL] == 16 * pairs
    assert read(graph) == read(build_call(attention(q=q, context=context), B2).graph)


def test_causal_attention_halves_long_prefills() -> None:
    shapes = ((1, 4096, 8, 128),) * 3
    full, causal = (estimate(ask("flash_attention", "float16", shapes, flag), B2) for flag in ("", "{is_causal: True}"))
    assert macs(causal.call.graph) / macs(full.call.graph) == pytest.approx(0.5, rel=1e-3)
    body = [sum(part.body_ns for part in found.parts) for found in (full, causal)]
    assert 0.5 * body[0] <= body[1] < 0.6 * body[0]  # queries are loaded and results stored all the same


def test_keys_are_a_cache_in_a_network() -> None:
    graph = build_call(attention(network=True), B2).graph
    assert [graph.tensor[name].role for name in "qkv"] == [Role.INPUT, Role.CACHE, Role.CACHE]
    alone = build_call(attention(), B2).graph
    assert [alone.tensor[name].role for name in "qkv"] == [Role.INPUT] * 3


# ------------------------------------------------------------------------------ vector kernels


def rotary(*shapes: Shape, attributes: str = "") -> Graph:
    return build_call(ask("apply_rotary_pos_emb", "float16", shapes, attributes), B2).graph


def test_rotary_embedding_finds_heads_before_or_after_positions() -> None:
    after = rotary((2, 64, 8, 32), (2, 64, 8, 32), (64, 16), (64, 16))
    before = rotary((2, 8, 64, 32), (2, 8, 64, 32), (64, 16), (64, 16))
    assert (read(after), written(after)) == (read(before), written(before))
    assert after.operators[0].dims == before.operators[0].dims
    # a table as long as heads are many is told apart by attribute
    by_attribute = rotary((2, 64, 64, 32), (2, 64, 64, 32), (64, 16), (64, 16), attributes="{layout: 1}")
    assert by_attribute.operators[0].reads[0].dims == ("batch", "heads", "seq", "head_dim")


def test_rotary_tables_of_every_sequence_are_larger() -> None:
    shared = rotary((4, 64, 8, 32), (4, 64, 8, 32), (64, 16), (64, 16))
    own = rotary((4, 64, 8, 32), (4, 64, 8, 32), (4, 64, 1, 16), (4, 64, 1, 16))
    assert read(own) - read(shared) == 2 * 3 * 64 * 16 * 2


def test_elementwise_kernels_read_a_repeated_operand_once() -> None:
    assert totals(ask("add", "float16", ((32, 64, 8), (64, 8))))[1] == (32 + 1) * 64 * 8 * 2
    assert totals(ask("add", "float16", ((32, 64, 8),)))[1] == 2 * 32 * 64 * 8 * 2  # the second is as the first
    assert totals(ask("mul", "float16", ((64, 8), (64, 1))))[1] == (64 * 8 + 64) * 2
    assert totals(ask("mul", "float16", ((1, 8), (64, 8))))[1] == (64 * 8 + 8) * 2  # whichever comes first


# ------------------------------------------------------------------------------ what has no model

SQUARE = (64, 64)


@pytest.mark.parametrize(
    ("op", "dtype", "shapes", "attributes", "why"),
    [
        ("conv2d", "float16", (SQUARE,), "", "no model of this op"),
        ("matmul", "float16", (), "", "empty or not positive"),
        ("matmul", "float16", ((64, 0), (0, 64)), "", "empty or not positive"),
        ("copy", "float16", ((-1, 64),), "", "empty or not positive"),
        ("matmul", "float16", (SQUARE,), "", r"operand 1 \(right\) is missing"),
        ("matmul", "float16", ((64,), (64,)), "", "not matrices"),
        ("matmul", "float16", ((64, 32), (48, 64)), "", "depths of the operands differ: 32 and 48"),
        ("matmul", "float16", ((64, 32), (32, 64)), "{transpose_b: True}", "depths of the operands differ: 32 and 64"),
        ("quant_matmul", "int8", ((64, 32), (48, 64), (64,)), "", "depths"),
        ("weight_quant_batch_matmul", "float16", ((64, 32), (48, 64)), "", "depths"),
        ("batch_matmul", "float16", ((2, 8, 16), (3, 16, 8)), "", "leading axes"),
        ("grouped_matmul", "float16", (SQUARE, SQUARE), "", r"operand 1 \(weights\) has 2 axes, not 3"),
        ("grouped_matmul", "float16", ((2, 64, 64), (4, 64, 64)), "", r"operand 0 \(rows\) has 3 axes, not 2"),
        ("mla_prolog", "bfloat16", ((8, 512), (512, 256), (256, 100)), "", "128 \\+ 64"),
        ("mla_prolog", "bfloat16", ((8, 511), (512, 256), (256, 768)), "", "do not chain"),
        ("mla_prolog", "bfloat16", ((8, 512), (512, 256), (255, 768)), "", "do not chain"),
        ("flash_attention", "float16", ((1, 8, 4, 32),), "", r"operand 1 \(key\) is missing"),
        ("flash_attention", "float16", (SQUARE,) * 3, "", r"operand 0 \(query\) has 2 axes, not 3 or 4"),
        ("gqa", "float16", ((1, 8, 6, 32), (1, 8, 4, 32), (1, 8, 4, 32)), "", "6 query heads are no multiple of 4"),
        ("mha", "float16", ((1, 8, 64),) * 3, "", "give num_heads"),
        ("mha", "float16", ((1, 8, 64),) * 3, "{num_heads: 5}", "give num_heads"),
        ("mha", "float16", ((1, 8, 4, 32),) * 3, "{layout: TND}", "layout TND is not"),
        ("mla", "float16", ((1, 1, 8, 64), (1, 1, 8, 16), (1, 9, 1, 64), (1, 9, 1, 16)), "", r"operand 4 \(value\)"),
        ("mla", "float16", ((8, 8, 64), (8, 8, 16), (9, 1, 64), (9, 1, 16), (9, 1, 64)), "", "3 axes, not 4"),
        ("softmax", "float16", ((4, 8),), "{dim: 2}", "axis '2' is not one of x's 2"),
        ("softmax", "float16", ((4, 8),), "{dim: -3}", "axis '-3'"),
        ("softmax", "float16", ((4, 8),), "{axis: last}", "axis 'last'"),
        ("swi_glu", "float16", ((4, 7),), "", "axis 1 has an odd number"),
        ("swi_glu", "float16", ((3, 8),), "{dim: 0}", "axis 0 has an odd number"),
        ("dequant_swiglu_quant", "int32", ((4, 7),), "", "odd number"),
        ("add", "float16", ((4, 8), (3,)), "", "do not broadcast"),
        ("add", "float16", ((4, 8), (2, 8)), "", "do not broadcast"),
        ("apply_rotary_pos_emb", "float16", ((1, 8, 4, 32), (1, 8, 4, 32)), "", r"operand 2 \(cos\) is missing"),
        ("apply_rotary_pos_emb", "float16", ((8, 32), (8, 32), (8, 32)), "", r"\(query\) has 2 axes, not 3 or 4"),
        ("apply_rotary_pos_emb", "float16", ((2, 8, 4, 32),) * 2 + ((9, 32),), "", "table has 9 rows for 2 x 8"),
    ],
)
def test_reasons(op: str, dtype: str, shapes: tuple[Shape, ...], attributes: str, why: str) -> None:
    with pytest.raises(Unmodelled, match=why):
        build_call(ask(op, dtype, shapes, attributes), B2)


@pytest.mark.parametrize(
    ("op", "dtype", "shapes", "attributes"),
    [
        pytest.param("flash_attention", "float16", ((1, 8, 64),) * 3, "{layout: BNSD}", id="three axes under BNSD"),
        pytest.param("rms_norm", "float16", ((),), "", id="a scalar"),
        pytest.param(
            "grouped_matmul_swiglu_quant", "int8", ((64, 128), (4, 128, 33)), "", id="an odd number of columns"
        ),
        pytest.param(
            "flash_attention", "float16", ((1, 8, 4, 64), (1, 8, 4, 32), (1, 8, 4, 32)), "", id="heads of two depths"
        ),
    ],
)
def test_operands_that_contradict_have_no_model(
    op: str, dtype: str, shapes: tuple[Shape, ...], attributes: str
) -> None:
    with pytest.raises(Unmodelled):
        build_call(ask(op, dtype, shapes, attributes), B2)


@pytest.mark.parametrize(
    ("machine", "dtype"), [("ascend910b2", "int32"), ("ascend910b2", "int64"), ("ascend310p3", "bfloat16")]
)
def test_products_that_the_matrix_unit_lacks_have_no_tiling(machine: str, dtype: str) -> None:
    with pytest.raises(Unmodelled, match="no tiling"):
        estimate(ask("matmul", dtype, (SQUARE, SQUARE)), load_machine(machine))


# ------------------------------------------------------------------------------ attributes and types


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("{}", {}),
        ("{is_causal: True, layout: BSND}", {"is_causal": "True", "layout": "BSND"}),
        ('{"is_causal": true, "numHeads": 8}', {"is_causal": "true", "numheads": "8"}),
        ("dim=-1, out='float16'", {"dim": "-1", "out": "float16"}),
        ("{perm: [1, 0], dim: 2}", {"perm": "[1, 0]", "dim": "2"}),
    ],
)
def test_attributes_are_read_in_several_spellings(text: str, wanted: dict[str, str]) -> None:
    assert parse_attributes(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"), [("True", True), ("1", True), ("yes", True), ("False", False), ("", False)]
)
def test_flags(text: str, wanted: bool) -> None:
    request = Request("matmul", DTYPES["half"], (SQUARE,), {"trans_b": text})
    assert request.flag("transpose_b", "trans_b") is wanted
    assert request.flag("transpose_b") is False


def test_element_types_by_other_names() -> None:
    assert {DTYPES[name].size_bytes for name in ("fp32", "float", "uint32")} == {4}
    assert DTYPES["fp16"] is DTYPES["half"] is DTYPES["float16"]
    assert DTYPES["bf16"] is DTYPES["bfloat16"]
    found: list[Estimate] = [estimate(ask("copy", name, ((64, 64),)), B2) for name in ("bool", "uint8", "int8")]
    assert len({each.total_ns for each in found}) == 1


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("apply_rotary_pos_emb", ((1, 8, 4, 32), (1, 8, 4, 32), ())),
        ("apply_rotary_pos_emb", ((1, 8, 4, 32), (1, 8, 4, 64), (8, 16), (8, 16))),
        ("gqa", ((1, 8, 4, 64), (2, 8, 4, 64), (2, 8, 4, 64))),
        ("gqa", ((1, 8, 4, 64), (1, 8, 4, 64), (1, 5, 4, 64))),
        ("mla", ((1, 1, 16, 512), (1, 1, 16, 64), (1, 128, 1, 512), (1, 64, 1, 64), (1, 128, 1, 512))),
    ],
)
def test_operands_that_do_not_belong_together(op: str, shapes: tuple[Shape, ...]) -> None:
    with pytest.raises(Unmodelled):
        build_call(ask(op, "float16", shapes), B2)


def test_each_group_has_a_bias_of_its_own() -> None:
    without, with_bias = (
        totals(ask("grouped_matmul", "float16", ((64, 128), (4, 128, 256), *more)))[1] for more in ((), ((4, 256),))
    )
    assert with_bias - without == 4 * 256 * 2
