"""What the cube computes: products, convolutions, attention, and merged products that are cut."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.errors import InputError
from instances.frontends.importing import Imported
from instances.graph import Graph, Operator, OpKind, VectorClass
from tests.frontends.handmade import Drawn, only

V = VectorClass


def touched(graph: Graph, operator: Operator) -> dict[str, int]:
    return {access.tensor: graph.touched_bytes(access) for access in (*operator.reads, *operator.writes)}


def single(imported: Imported) -> Operator:
    (operator,) = imported.graph.operators
    return operator


# --------------------------------------------------------------------------------- products


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(batch: int, bias: bool) -> None:
    g = Drawn()
    more = [g.weight("b", 32)] if bias else []
    imported = g.imported(g.node("linear", g.input("x", batch, 6, 16), g.weight("w", 32, 16), *more))
    op = single(imported)
    assert (op.kind, op.macs) == (OpKind.MATMUL, batch * 6 * 16 * 32)
    sizes = {"x": batch * 6 * 16 * 2, "w": 32 * 16 * 2, "linear_0": batch * 6 * 32 * 2} | ({"b": 64} if bias else {})
    assert touched(imported.graph, op) == sizes
    assert sorted(op.dims.values()) == sorted([1, *([batch] if batch > 1 else []), 6, 16, 32])
    assert imported.graph.tensor["linear_0"].shape == ((1, batch, 6, 32) if batch > 1 else (1, 6, 32))
    assert imported.graph.tensor["w"].shape == (32, 16)


def test_a_square_product_has_rows_columns_and_depth() -> None:
    g = Drawn()
    op = single(g.imported(g.node("mm", g.input("x", 8, 8), g.weight("w", 8, 8))))
    assert sorted(op.dims) == ["batch", "d8", "d8_8", "d8_8_3"]
    assert op.macs == 512


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((6, 8), (8, 5)),
        ((2, 6, 8), (2, 8, 5)),
        ((2, 3, 6, 8), (2, 3, 8, 5)),
        ((2, 3, 6, 8), (8, 5)),
        ((2, 3, 6, 8), (3, 8, 5)),
        ((3, 6, 8), (2, 3, 8, 5)),
        ((6, 8), (2, 3, 8, 5)),
        ((2, 1, 6, 8), (3, 8, 5)),
        ((1, 3, 6, 8), (2, 1, 8, 5)),
        ((2, 6, 8), (8,)),
        ((6, 8), (8,)),
        ((8,), (8, 5)),
        ((1, 6, 8), (1, 8, 1)),
    ],
)
def test_products_and_their_broadcasting(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    g = Drawn()
    y = g.node("matmul", g.input("x", *left), g.input("y", *right))
    graph = g.imported(y).graph
    op = graph.operators[0]
    shape = g.values[y[1:]].shape
    assert op.macs == math.prod(shape) * 8
    assert graph.tensor[op.writes[0].tensor].elements == math.prod(shape)
    assert touched(graph, op) == {"x": 2 * math.prod(left), "y": 2 * math.prod(right), y[1:]: 2 * math.prod(shape)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 8]), min_size=3, max_size=3), st.data())
def test_products_of_any_batch(lead: list[int], data: st.DataObject) -> None:
    """Axes before the last two are repeated as numpy repeats them."""
    operands = []
    for matrix in ((4, 8), (8, 8)):
        own = [size if data.draw(st.booleans()) else 1 for size in lead]
        operands.append((*own[data.draw(st.integers(0, 3)) :], *matrix))
    g = Drawn()
    y = g.node("matmul", *(g.input(name, *shape) for name, shape in zip("xy", operands, strict=True)))
    graph = g.imported(y).graph
    shape = g.values[y[1:]].shape
    assert graph.operators[0].macs == math.prod(shape) * 8
    kept = tuple(size for size in shape if size > 1)
    assert graph.tensor[y[1:]].shape in (kept, (1, *kept))


@pytest.mark.parametrize("op", ["addmm", "baddbmm"])
def test_products_added_to_something(op: str) -> None:
    g = Drawn()
    lead = (3,) if op == "baddbmm" else ()
    y = g.node(op, g.input("c", *lead, 6, 5), g.input("x", *lead, 6, 8), g.input("w", *lead, 8, 5))
    product = single(g.imported(y))
    assert product.macs == math.prod(lead) * 6 * 8 * 5
    assert [access.tensor for access in product.reads] == ["x", "w", "c"]
    assert len(product.reads[2].loops - {"batch"}) == len(lead) + 2


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk->ik", ((4, 8), (8, 6)), 4 * 8 * 6),
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 8), (2, 3, 5, 8)), 2 * 3 * 4 * 5 * 8),
        ("bij,bjk->bik", ((1, 4, 8), (1, 8, 6)), 4 * 8 * 6),
        ("i,j->ij", ((4,), (6,)), 24),
        ("bcl h n -> bclhn", ((2, 3, 4, 5, 6),), 0),
        ("bc,bl,bh->bclh", ((2, 3), (2, 4), (2, 5)), 0),
    ],
)
def test_einstein_sums(equation: str, shapes: tuple[tuple[int, ...], ...], macs: int) -> None:
    g = Drawn()
    operands = [g.input(f"x{i}", *shape) for i, shape in enumerate(shapes)]
    y = g.node("einsum", equation, operands)
    op = single(g.imported(y))
    assert op.macs == macs
    assert op.kind is (OpKind.MATMUL if macs else OpKind.ELEMENTWISE)
    if not macs:
        assert op.vector[V.TWO_SOURCE] == 2 * math.prod(g.values[y[1:]].shape)


def test_two_letters_of_one_loop() -> None:
    g = Drawn()
    x = g.input("x", 2, 6, 8)
    graph = g.imported(g.node("exp", g.node("einsum", "bin,bjn->bij", [x, x]))).graph
    op = graph.operators[0]
    assert op.macs == 2 * 6 * 6 * 8
    assert sorted(op.dims.values()) == [1, 2, 6, 6, 8]
    assert len(set(op.writes[0].dims)) == len(op.writes[0].dims)
    assert op.reads[0].dims != op.reads[1].dims


@pytest.mark.parametrize("equation", ["i...,j...->ij", "ij,jk,kl->il", "ijk,jk->i"])
def test_other_einstein_sums_are_refused(equation: str) -> None:
    g = Drawn()
    y = g.node("einsum", equation, [g.input("x", 4, 8), g.input("y", 8, 6)], shape=(4, 6))
    with pytest.raises(InputError, match="einsum_0"):
        g.imported(y)


@pytest.mark.parametrize("op", ["conv1d", "convolution"])
def test_convolution_of_each_channel(op: str) -> None:
    g = Drawn()
    how = [[1], [3], [1], False, [0], 12] if op == "convolution" else [[1], [3], [1], 12]
    x = g.node("neg", g.input("x", 2, 12, 64))
    y = g.node(op, x, g.weight("w", 12, 1, 4), g.weight("b", 12), *how, shape=(2, 12, 67))
    imported = g.imported(g.node("exp", y))
    conv = imported.graph.operators[1]
    assert (conv.kind, conv.macs) == (OpKind.ELEMENTWISE, 0)
    assert conv.vector == {V.TWO_SOURCE: 2 * 4 * 2 * 12 * 67}
    assert [conv.dims[loop] for loop in conv.whole] == [67]
    assert touched(imported.graph, conv) == {"neg_0": 2 * 12 * 64 * 2, "w": 96, "b": 24, y[1:]: 2 * 12 * 67 * 2}


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_of_images(groups: int) -> None:
    g = Drawn()
    x = g.input("x", 2, 8, 16, 16)
    y = g.node(
        "conv2d", x, g.weight("w", 24, 8 // groups, 3, 3), g.weight("b", 24), 1, 1, 1, groups, shape=(2, 24, 16, 16)
    )
    op = single(g.imported(y))
    assert op.kind is OpKind.MATMUL
    assert op.macs == 2 * 24 * 16 * 16 * (8 // groups) * 9


def test_transposed_convolution_is_refused() -> None:
    g = Drawn()
    how = [None, [2], [0], [1], True, [0], 1]
    y = g.node("convolution", g.input("x", 2, 8, 16), g.weight("w", 8, 24, 2), *how, shape=(2, 24, 32))
    with pytest.raises(InputError, match="convolution_0 is a transposed convolution, which is not modelled"):
        g.imported(y)


# -------------------------------------------------------------------------------- attention


def attended(imported: Imported) -> tuple[Operator, Operator, Operator]:
    kinds = (OpKind.ATTENTION_SCORES, OpKind.SOFTMAX, OpKind.ATTENTION_VALUES)
    return tuple(only(imported, kind) for kind in kinds)  # type: ignore[return-value]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", ["expanded", "repeated", "as it is", "none"])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_groups(batch: int, how: str, causal: bool) -> None:
    """Four heads of queries to one of keys: however they are repeated, they are read once."""
    g = Drawn()
    kv = 8 if how == "none" else 2
    q, k, v = g.input("q", batch, 8, 6, 16), g.input("k", batch, kv, 6, 16), g.input("v", batch, kv, 6, 16)
    if how == "expanded":
        k, v = (
            g.node("view", g.node("expand", g.node("unsqueeze", x, 2), [batch, 2, 4, 6, 16]), [batch, 8, 6, 16])
            for x in (k, v)
        )
    elif how == "repeated":
        k, v = (g.node("repeat_interleave.self_int", x, 4, 1) for x in (k, v))
    y = g.node("scaled_dot_product_attention", q, k, v, None, 0.0, causal, shape=(batch, 8, 6, 16))
    imported = g.imported(y)
    scores, softmax, values = attended(imported)
    pairs = 21 if causal else 36
    assert scores.macs == values.macs == batch * 8 * pairs * 16
    assert scores.density == softmax.density == values.density == pairs / 36
    assert softmax.vector[V.TRANSCENDENTAL] == batch * 8 * pairs
    assert softmax.vector[V.DIVIDE] == batch * 8 * 6
    assert [softmax.dims[loop] for loop in softmax.whole] == [6]
    heads = {} if how == "none" else {"kv_heads": 2, "group": 4}
    expected = {"batch": batch, "seq": 6, "context": 6, "head_dim": 16} | (heads or {"heads": 8})
    assert scores.dims == values.dims == expected
    assert touched(imported.graph, scores)["k"] == batch * kv * 6 * 16 * 2
    assert touched(imported.graph, values)["v"] == batch * kv * 6 * 16 * 2
    keys = next(access for access in scores.reads if access.tensor == "k")
    assert keys.loops == {"batch", "context", "head_dim"} | ({"kv_heads"} if heads else {"heads"})


def test_queries_of_a_decoder_and_keys_of_an_encoder() -> None:
    g = Drawn()
    y = g.node(
        "scaled_dot_product_attention", g.input("q", 2, 4, 3, 8), g.input("k", 2, 4, 9, 8), g.input("v", 2, 4, 9, 8)
    )
    scores, _, values = attended(g.imported(y))
    assert scores.macs == values.macs == 2 * 4 * 3 * 9 * 8
    assert scores.density == 1
    assert {"seq": 3, "context": 9}.items() <= scores.dims.items()


def test_causal_queries_that_come_last() -> None:
    """Three queries behind six keys of a cache see seven, eight and nine."""
    g = Drawn()
    shapes = ((1, 4, 3, 8), (1, 4, 9, 8), (1, 4, 9, 8))
    q, k, v = (g.input(name, *shape) for name, shape in zip("qkv", shapes, strict=True))
    across, down = g.node("view", g.node("arange", 9), [1, 9]), g.node("view", g.node("arange", 3), [3, 1])
    mask = g.node("le.Tensor", across, g.node("add.Tensor", down, 6))
    scores, *_ = attended(g.imported(g.node("scaled_dot_product_attention", q, k, v, mask)))
    assert scores.macs == 4 * (7 + 8 + 9) * 8


@pytest.mark.parametrize("biases", [1, 2])
def test_biases_are_read_and_added(biases: int) -> None:
    g = Drawn()
    q, k, v = (g.input(name, 2, 4, 6, 8) for name in "qkv")
    scores = g.node("matmul", g.node("mul.Tensor", q, 8**-0.5), g.node("transpose.int", k, -2, -1))
    for i in range(biases):
        scores = g.node("add.Tensor", scores, g.node("neg", g.input(f"bias{i}", 1, 4, 6, 6)))
    imported = g.imported(g.node("matmul", g.node("softmax.int", scores, -1), v))
    _, softmax, _ = attended(imported)
    assert len(softmax.reads) == 1 + biases
    assert softmax.vector[V.TWO_SOURCE] == biases * 2 * 4 * 36
    assert all(access.loops >= {"heads", "seq", "context"} for access in softmax.reads)


def test_heads_of_two_parts_are_two_products_in_one_operator() -> None:
    """A latent head: the second part of the keys is the same for all heads."""
    g = Drawn()
    q = g.node("cat", [g.input("qn", 1, 4, 6, 12), g.input("qr", 1, 4, 6, 4)], -1)
    kr = g.node("expand", g.input("kr", 1, 1, 6, 4), [1, 4, 6, 4])
    k = g.node("cat", [g.input("kn", 1, 4, 6, 12), kr], -1)
    imported = g.imported(g.node("scaled_dot_product_attention", q, k, g.input("v", 1, 4, 6, 8), shape=(1, 4, 6, 8)))
    scores, _, values = attended(imported)
    assert [access.tensor for access in scores.reads] == ["qn", "kn", "qr", "kr"]
    assert scores.macs == 4 * 36 * 16
    assert values.macs == 4 * 36 * 8
    assert touched(imported.graph, scores)["kr"] == 6 * 4 * 2
    assert not any(op.kind is OpKind.PERMUTE for op in imported.graph.operators)


# ----------------------------------------------------------------------------- merged products


def merged(batch: int = 2, read_whole: bool = False, tied: bool = False) -> tuple[Drawn, list[str]]:
    """Queries, keys and values of one product, as GPT-2 has them."""
    g = Drawn()
    x, w = g.input("x", batch, 6, 16), g.weight("w", 48, 16)
    qkv = g.node("linear", x, w, g.weight("b", 48))
    parts = g.node("split.Tensor", qkv, 16, -1)
    q, k, v = (g.node("transpose.int", g.node("view", g.item(parts, i), [batch, 6, 2, 8]), 1, 2) for i in range(3))
    y = g.node("scaled_dot_product_attention", q, k, v)
    more = [g.node("exp", qkv)] if read_whole else [g.node("linear", x, w)] if tied else []
    return g, [y, *more]


@pytest.mark.parametrize("batch", [1, 2])
def test_merged_products_are_cut(batch: int) -> None:
    g, outputs = merged(batch)
    graph = g.imported(*outputs).graph
    products = [op for op in graph.operators if op.kind is OpKind.MATMUL]
    assert [op.name for op in products] == ["linear_0[0:16]", "linear_0[16:32]", "linear_0[32:48]"]
    for op in products:
        assert op.macs == batch * 6 * 16 * 16
        x, w, b = op.reads
        assert (graph.tensor[w.tensor].shape, graph.tensor[b.tensor].shape) == ((16, 16), (16,))
        assert {access.touched_bytes for access in (x, w, b)} == {None}
    scores = next(op for op in graph.operators if op.kind is OpKind.ATTENTION_SCORES)
    assert [access.touched_bytes for access in scores.reads] == [None, None]
    assert len({access.tensor for op in products for access in op.reads}) == 7


@pytest.mark.parametrize("reason", ["read_whole", "tied"])
def test_products_that_are_needed_whole_are_not_cut(reason: str) -> None:
    g, outputs = merged(**{reason: True})
    graph = g.imported(*outputs).graph
    products = [op for op in graph.operators if op.kind is OpKind.MATMUL]
    assert [op.macs for op in products] == [2 * 6 * 16 * 48] * (2 if reason == "tied" else 1)
    scores = next(op for op in graph.operators if op.kind is OpKind.ATTENTION_SCORES)
    assert {access.touched_bytes for access in scores.reads} == {2 * 6 * 16 * 2}


def test_a_product_that_is_a_result_is_not_cut() -> None:
    g, _ = merged()
    qkv = "%linear_0"
    parts = "%split_1"
    graph = g.imported(g.node("exp", g.item(parts, 0)), g.node("exp", g.item(parts, 1)), qkv).graph
    assert [op.macs for op in graph.operators if op.macs] == [2 * 6 * 16 * 48]


def test_overlapping_stretches_are_not_cut() -> None:
    g = Drawn()
    y = g.node("linear", g.input("x", 2, 6, 16), g.weight("w", 48, 16))
    one, other = g.node("slice.Tensor", y, 2, 0, 32), g.node("slice.Tensor", y, 2, 16, 48)
    graph = g.imported(g.node("exp", one), g.node("exp", other)).graph
    assert [op.macs for op in graph.operators if op.macs] == [2 * 6 * 16 * 48]
    assert [graph.touched_bytes(op.reads[0]) for op in graph.operators[1:]] == [2 * 6 * 32 * 2] * 2


def test_gate_and_up_in_one() -> None:
    g = Drawn()
    both = g.node("linear", g.input("x", 2, 6, 16), g.weight("w", 64, 16))
    parts = g.node("chunk", both, 2, -1)
    y = g.node("mul.Tensor", g.node("silu", g.item(parts, 0)), g.item(parts, 1))
    graph = g.imported(y).graph
    assert [op.kind for op in graph.operators] == [OpKind.MATMUL, OpKind.MATMUL, OpKind.ACTIVATION]
    gate, up, act = graph.operators
    assert gate.macs == up.macs == 2 * 6 * 16 * 32
    assert [access.tensor for access in act.reads] == [gate.writes[0].tensor, up.writes[0].tensor]
    assert gate.dims == up.dims


def test_stretches_of_each_head_are_cut() -> None:
    """Keys and values side by side in each head, as latent attention makes them of its cache."""
    g = Drawn()
    both = g.node("linear", g.input("x", 1, 6, 16), g.weight("w", 4 * 24, 16))
    heads = g.node("transpose.int", g.node("view", both, [1, 6, 4, 24]), 1, 2)
    parts = g.node("split_with_sizes", heads, [16, 8], -1)
    k, v = g.item(parts, 0), g.item(parts, 1)
    graph = g.imported(
        g.node("scaled_dot_product_attention", g.input("q", 1, 4, 6, 16), k, v, shape=(1, 4, 6, 8))
    ).graph
    products = [op for op in graph.operators if op.kind is OpKind.MATMUL]
    assert [op.macs for op in products] == [6 * 16 * 4 * 16, 6 * 16 * 4 * 8]
    assert [graph.tensor[op.reads[1].tensor].elements for op in products] == [4 * 16 * 16, 4 * 8 * 16]


def test_a_stretch_of_a_stretch_after_the_cut() -> None:
    g, _ = merged()
    heads = "%view_" + next(node["name"] for node in g.nodes if node["op"] == "aten.view.default").split("_")[1]
    half = g.node("exp", g.node("slice.Tensor", heads, 3, 0, 4))
    others = [g.node("exp", g.item("%split_1", i)) for i in (1, 2)]
    graph = g.imported(half, *others).graph
    assert [op.macs for op in graph.operators if op.macs] == [2 * 6 * 16 * 16] * 3
    reader = graph.operator[half[1:]]
    assert graph.touched_bytes(reader.reads[0]) == 2 * 6 * 2 * 4 * 2
    assert graph.tensor[reader.reads[0].tensor].size_bytes == 2 * 6 * 16 * 2
