"""Vector operators of captured graphs: their loops, work and the bytes they touch; names of loops and operators."""

from __future__ import annotations

import math
from typing import Any

import pytest

from instances.graph import Graph, OpKind, Role, VectorClass
from tests.frontends.handmade import Drawn, only
from tests.frontends.test_lowering_products import merged, single, touched

V = VectorClass


# ---------------------------------------------------------------------------------- vector


@pytest.mark.parametrize(
    ("op", "args", "vector"),
    [
        ("sum.dim_IntList", ([-1],), {V.REDUCE: 96}),
        ("sum.dim_IntList", ([0, 2], True), {V.REDUCE: 96}),
        ("mean.dim", ([1],), {V.REDUCE: 96}),
        ("sum", (), {V.REDUCE: 96}),
    ],
)
def test_reductions(op: str, args: tuple[Any, ...], vector: dict[V, int]) -> None:
    g = Drawn()
    y = g.node(op, g.node("neg", g.input("x", 3, 4, 8)), *args)
    reduced = g.imported(g.node("exp", y)).graph.operators[1]
    assert dict(reduced.vector) == vector
    over = {0: [0, 2], 1: [1], -1: [2]}[(args[0] if args else [0])[0]] if args else [0, 1, 2]
    assert sorted(reduced.dims[loop] for loop in reduced.whole) == sorted((3, 4, 8)[place] for place in over)


def test_the_larger_of_two_is_no_reduction() -> None:
    g = Drawn()
    y = g.node("max.other", g.input("x", 1, 8), g.input("y", 4, 8), shape=(4, 8))
    assert single(g.imported(y)).vector == {V.TWO_SOURCE: 32}
    g = Drawn()
    y = g.node("max.dim", g.input("x", 4, 8), 1, shape=[(4,), (4,)])
    assert single(g.imported(g.item(y, 0))).vector == {V.MAXIMUM: 32}


@pytest.mark.parametrize("op", ["cumsum", "softmax.int"])
@pytest.mark.parametrize("axis", [1, -1])
def test_functions_along_an_axis_hold_it_whole(op: str, axis: int) -> None:
    g = Drawn()
    y = g.node(op, g.input("x", 3, 4, 8), axis)
    made = single(g.imported(y))
    assert [made.dims[loop] for loop in made.whole] == [4 if axis == 1 else 8]


def test_the_largest_of_each_row() -> None:
    g = Drawn()
    top = g.node("topk", g.input("x", 3, 16), 4, -1)
    imported = g.imported(g.item(top, 0), g.item(top, 1))
    op = single(imported)
    assert (op.kind, dict(op.vector)) == (OpKind.TOPK, {V.SORT: 48})
    assert [imported.graph.tensor[access.tensor].dtype.value for access in op.writes] == ["bfloat16", "int64"]
    assert [imported.graph.tensor[access.tensor].shape for access in op.writes] == [(1, 3, 4)] * 2
    assert sorted(op.dims[loop] for loop in op.whole) == [4, 16]


@pytest.mark.parametrize("tokens", [4, 400])
def test_embedding(tokens: int) -> None:
    g = Drawn()
    y = g.node("embedding", g.weight("table", 100, 16), g.input("ids", 2, tokens, dtype="int64"))
    imported = g.imported(y)
    op = single(imported)
    assert op.kind is OpKind.GATHER
    assert op.dims == {"batch": 2, "seq": tokens, "hidden": 16}
    rows = min(100, 2 * tokens)
    assert touched(imported.graph, op) == {"ids": 2 * tokens * 8, "table": rows * 32, y[1:]: 2 * tokens * 32}


@pytest.mark.parametrize(
    ("op", "shape", "share"),
    [("index.first", (3, 6, 8), 3 / 4), ("index.second", (4, 3, 8), 3 / 6), ("index_select", (4, 6, 3), 3 / 8)],
)
def test_lookups_along_an_axis(op: str, shape: tuple[int, ...], share: float) -> None:
    g = Drawn()
    x, places = g.node("neg", g.input("x", 4, 6, 8)), g.input("places", 3, dtype="int64")
    if op == "index_select":
        y = g.node("index_select", x, 2, places)
    else:
        y = g.node("index.Tensor", x, [places] if op == "index.first" else [None, places])
    imported = g.imported(y)
    made = imported.graph.operators[1]
    assert g.values[y[1:]].shape == shape
    assert touched(imported.graph, made) == {
        "neg_0": int(4 * 6 * 8 * 2 * share),
        "places": 24,
        y[1:]: 2 * math.prod(shape),
    }
    assert sorted(size for loop, size in made.dims.items() if loop != "batch") == sorted(shape)


def test_elements_gathered() -> None:
    g = Drawn()
    y = g.node("gather", g.node("neg", g.input("x", 4, 16)), 1, g.input("places", 4, 2, dtype="int64"))
    imported = g.imported(y)
    made = imported.graph.operators[1]
    assert touched(imported.graph, made) == {"neg_0": 4 * 2 * 2, "places": 64, y[1:]: 16}
    assert sorted(made.dims.values()) == [1, 2, 4]


def test_pieces_put_behind_each_other_are_moved_whole() -> None:
    g = Drawn()
    x, y = (g.node("neg", g.input(name, 3, size, 8)) for name, size in (("x", 4), ("y", 2)))
    graph = g.imported(g.node("exp", g.node("cat", [x, y], 1))).graph
    cat = only(g.imported(g.node("exp", g.node("cat", [x, y], 1))), OpKind.PERMUTE)
    assert sorted(touched(graph, graph.operators[2]).values()) == [3 * 2 * 8 * 2, 3 * 4 * 8 * 2, 3 * 6 * 8 * 2]
    assert sorted(cat.dims.values()) == [1, 3, 6, 8]


def test_a_rim_of_constants() -> None:
    g = Drawn()
    y = g.node("constant_pad_nd", g.node("neg", g.input("x", 3, 8)), [1, 1], shape=(3, 10))
    imported = g.imported(g.node("exp", y))
    assert sorted(touched(imported.graph, imported.graph.operators[1]).values()) == [48, 60]
    assert (
        g.imported(g.node("exp", g.node("pad", "%neg_0", [0, 0], shape=(3, 8)))).graph.operators[-1].reads[0].tensor
        == "neg_0"
    )


def test_a_view_that_cuts_across_loops_is_a_copy() -> None:
    g = Drawn()
    x = g.node("neg", g.input("x", 6, 4))
    imported = g.imported(g.node("exp", g.node("view", x, [4, 6])))
    assert [op.kind.value for op in imported.graph.operators] == ["elementwise", "permute", "elementwise"]
    copy = imported.graph.operators[1]
    assert copy.note == "copied: the new shape cuts across the loops of the old"
    assert set(touched(imported.graph, copy).values()) == {48}


def test_views_are_no_operators() -> None:
    g = Drawn()
    x = g.node("neg", g.input("x", 6, 4, 8))
    view = g.node("view", g.node("permute", x, [1, 0, 2]), [4, 6, 2, 4])
    part = g.node("select.int", g.node("transpose.int", view, 1, 2), 0, 3)
    imported = g.imported(g.node("exp", part))
    assert [op.name for op in imported.graph.operators] == ["neg_0", g.nodes[-1]["name"]]
    assert touched(imported.graph, imported.graph.operators[1]) == {"neg_0": 96, g.nodes[-1]["name"]: 96}


@pytest.mark.parametrize("op", ["neg", "exp", "silu", "gelu", "relu", "sigmoid", "tanh", "rsqrt"])
@pytest.mark.parametrize("batch", [1, 2])
def test_elementwise_operators_touch_all_once(op: str, batch: int) -> None:
    g = Drawn()
    y = g.node(op, g.input("x", batch, 6, 8), shape=(batch, 6, 8))
    imported = g.imported(y)
    made = single(imported)
    assert set(touched(imported.graph, made).values()) == {batch * 96}
    assert made.vector and all(count % (batch * 48) == 0 for count in made.vector.values())
    assert imported.graph.tensor[y[1:]].shape == ((1, batch, 6, 8) if batch > 1 else (1, 6, 8))
    assert imported.graph.tensor[y[1:]].role is Role.OUTPUT


# ----------------------------------------------------------------------------------- names


def stack(layers: int, batch: int) -> Graph:
    """Layers of attention and feed-forward, as one graph."""
    g = Drawn()
    x = g.input("x", batch, 6, 16)
    for i in range(layers):
        at = g.module(f"layers.{i}.attn")
        q, k, v = (
            g.node(
                "transpose.int",
                g.node("view", g.node("linear", x, g.weight(f"{n}{i}", 16, 16), module=at), [batch, 6, 2, 8]),
                1,
                2,
            )
            for n in "qkv"
        )
        y = g.node("scaled_dot_product_attention", q, k, v, None, 0.0, True, module=at)
        y = g.node("view", g.node("transpose.int", y, 1, 2), [batch, 6, 16])
        x = g.node("add.Tensor", x, g.node("linear", y, g.weight(f"o{i}", 16, 16), module=at))
        up = g.node("gelu", g.node("linear", x, g.weight(f"up{i}", 64, 16)))
        x = g.node("add.Tensor", x, g.node("linear", up, g.weight(f"down{i}", 16, 64)))
    return g.imported(x).graph


@pytest.mark.parametrize("batch", [1, 2])
def test_loops_are_called_alike_in_every_layer(batch: int) -> None:
    graph = stack(3, batch)
    each = len(graph.operators) // 3
    layers = [[(op.kind, op.dims) for op in graph.operators[i * each : (i + 1) * each]] for i in range(3)]
    assert layers[0] == layers[1] == layers[2]
    assert len(layers[0]) * 3 == len(graph.operators)
    extents: dict[str, set[int]] = {}
    for op in graph.operators:
        for loop, size in op.dims.items():
            extents.setdefault(loop, set()).add(size)
    assert all(len(sizes) == 1 for sizes in extents.values())
    assert extents["batch"] == {batch}


def test_no_loop_indexes_a_tensor_twice() -> None:
    g = Drawn()
    x = g.input("x", 2, 8, 8)
    y = g.node("add.Tensor", x, g.node("transpose.int", x, 1, 2))
    y = g.node("bmm", y, g.node("transpose.int", y, 1, 2))
    y = g.node("bmm", y, y)
    y = g.node("mul.Tensor", y, g.node("softmax.int", y, 1))
    graph = g.imported(y).graph
    assert [op.macs for op in graph.operators if op.macs] == [2 * 8 * 8 * 8] * 2
    for op in graph.operators:
        for access in (*op.reads, *op.writes):
            loops = [loop for axis in access.axes for loop in axis]
            assert len(loops) == len(set(loops)), (op.name, access)


def test_names_of_operators_are_told_apart() -> None:
    g = Drawn()
    x = g.input("x", 4, 8)
    at = g.module("block.norm")
    for _ in range(2):
        x = g.node("linear", x, g.weight(f"w{len(g.nodes)}", 8, 8), module=at)
    assert [op.name for op in g.imported(x).graph.operators] == ["block.norm", "block.norm#2"]


def test_long_names_are_cut() -> None:
    g = Drawn("n" * 300)
    at = g.module("m" * 500)
    both = g.node("linear", g.input("x" * 400, 2, 16), g.weight("w" * 600, 64, 16), module=at)
    parts = g.node("chunk", both, 2, -1)
    y = g.node("mul.Tensor", g.item(parts, 0), g.item(parts, 1), module=at)
    graph = g.imported(y).graph
    assert len(graph.operators) == 3
    assert max(len(op.name) for op in graph.operators) <= 200


def test_sources_say_what_an_operator_stands_for() -> None:
    g, outputs = merged()
    imported = g.imported(*outputs)
    assert imported.sources["linear_0[16:32]"] == ("linear_0",)
    assert set(imported.sources) == set(imported.graph.operator)
