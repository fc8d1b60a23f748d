"""Experts: dispatch, grouped products, the weighted sum, the router before them."""

from __future__ import annotations

import pytest

from instances.frontends.program import Program
from instances.frontends.rules import RULES
from instances.graph import OpKind
from tests.frontends.handmade import Drawn, ops

TOKENS, HIDDEN, EXPERTS, CHOSEN, FFN = 6, 8, 4, 2, 16
ROWS = TOKENS * CHOSEN


def layer(
    g: Drawn, curve: str = "softmax", normed: bool = True, correction: bool = False, groups: bool = False
) -> dict[str, str]:
    """A layer of experts as it is exported: tokens are sorted by expert, multiplied in groups, sorted back."""
    x = g.input("x", TOKENS, HIDDEN)
    scores = logits = g.node("linear", x, g.weight("router", EXPERTS, HIDDEN))
    if curve:
        scores = g.node("softmax.int", logits, -1) if curve == "softmax" else g.node("sigmoid", logits)
    ranked = g.node("add.Tensor", scores, g.weight("correction", EXPERTS)) if correction else scores
    if groups:
        best = g.node("topk", g.node("view", ranked, [TOKENS, 2, 2]), 1, -1)
        mask = g.node("expand", g.node("ge.Scalar", g.item(best, 0), 0.0), [TOKENS, 2, 2])
        mask = g.node("view", mask, [TOKENS, EXPERTS])
        best_groups = g.node("topk", g.node("sum.dim_IntList", g.node("view", ranked, [TOKENS, 2, 2]), [-1]), 1, -1)
        mask = g.node("where.self", mask, g.node("expand", g.item(best_groups, 0), [TOKENS, EXPERTS]), ranked)
        ranked = g.node("where.self", g.node("ge.Scalar", mask, 0.0), ranked, 0.0)
    top = g.node("topk", ranked, CHOSEN, -1)
    weights, choice = g.item(top, 0), g.item(top, 1)
    if normed:
        weights = g.node("div.Tensor", weights, g.node("sum.dim_IntList", weights, [-1], True))
    flat = g.node("view", choice, [ROWS])
    order = g.item(g.node("sort", flat, shape=[(ROWS,), (ROWS,)], label="int64"), 1)
    token = g.node("floor_divide", order, CHOSEN, shape=(ROWS,), label="int64")
    rows = g.node("index.Tensor", x, [token], shape=(ROWS, HIDDEN))
    ends = g.node("cumsum", g.node("histc", flat, EXPERTS, shape=(EXPERTS,), label="int64"), 0)
    up = g.node("_grouped_mm", rows, g.weight("up", EXPERTS, HIDDEN, FFN), ends, shape=(ROWS, FFN))
    done = g.node("_grouped_mm", g.node("silu", up), g.weight("down", EXPERTS, FFN, HIDDEN), ends, shape=(ROWS, HIDDEN))
    share = g.node("unsqueeze", g.node("index.Tensor", g.node("view", weights, [ROWS]), [order], shape=(ROWS,)), 1)
    weighted = g.node("mul.Tensor", done, share)
    back = g.node("index.Tensor", weighted, [order], shape=(ROWS, HIDDEN))
    y = g.node("sum.dim_IntList", g.node("view", back, [TOKENS, CHOSEN, HIDDEN]), [1])
    return {"y": y, "logits": logits, "scores": scores, "weights": weights, "weighted": weighted, "top": top}


def applied(g: Drawn, *outputs: str) -> tuple[int, int, Program]:
    program = g.program(*outputs)
    counts = []
    for name in ("balanced_experts", "router"):
        counts.append(RULES[name](program))
        program.sweep()
    return counts[0], counts[1], program


@pytest.mark.parametrize("curve", ["softmax", "sigmoid", ""])
@pytest.mark.parametrize("normed", [True, False])
def test_a_layer_of_experts(curve: str, normed: bool) -> None:
    g = Drawn()
    experts, routers, program = applied(g, layer(g, curve, normed)["y"])
    scored = {"softmax": ["router_scores"], "sigmoid": ["router_sigmoid"], "": []}[curve]
    assert ops(program) == [
        "linear",
        *scored,
        "choose",
        "dispatch",
        "grouped_matmul",
        "silu",
        "grouped_matmul",
        "combine",
    ]
    assert (experts, routers) == (3, 1)
    assert all(step.kwargs["per_token"] == CHOSEN for step in program.steps if step.op == "grouped_matmul")


def test_a_correction_of_the_scores() -> None:
    g = Drawn()
    _, _, program = applied(g, layer(g, "sigmoid", correction=True)["y"])
    assert ops(program)[1:4] == ["router_sigmoid", "add", "choose"]
    choose = next(step for step in program.steps if step.op == "choose")
    assert [value.name.split("_")[0] for value in choose.args] == ["add", "sigmoid"]


def test_groups_of_experts() -> None:
    g = Drawn()
    _, routers, program = applied(g, layer(g, "sigmoid", correction=True, groups=True)["y"])
    assert routers == 1
    assert ops(program)[1:5] == ["router_sigmoid", "add", "choose_groups", "choose"]


@pytest.mark.parametrize("wanted", ["logits", "scores", "weights"])
def test_what_the_router_makes_may_be_a_result(wanted: str) -> None:
    g = Drawn()
    made = layer(g)
    _, routers, program = applied(g, made["y"], made[wanted])
    assert routers == 1
    known = {value for step in program.steps for value in step.outputs}
    assert all(value in known for value in program.outputs)


def test_scores_inside_the_choice_that_are_results_keep_the_router_apart() -> None:
    g = Drawn()
    made = layer(g)
    _, routers, program = applied(g, made["y"], g.item(made["top"], 0))
    assert routers == 0
    known = {value for step in program.steps for value in step.outputs}
    assert all(value in known for value in program.outputs)


def test_weighted_rows_that_somebody_else_reads_stay() -> None:
    g = Drawn()
    made = layer(g)
    _, _, program = applied(g, made["y"], made["weighted"])
    assert "combine" not in ops(program)
    known = {value for step in program.steps for value in step.outputs}
    assert all(value in known for value in program.outputs)


def test_grouped_products_of_rows_that_no_router_chose_stay() -> None:
    g = Drawn()
    rows, ends = g.input("rows", ROWS, HIDDEN), g.input("ends", EXPERTS, dtype="int64")
    y = g.node("_grouped_mm", rows, g.weight("up", EXPERTS, HIDDEN, FFN), ends, shape=(ROWS, FFN))
    assert applied(g, y)[:2] == (0, 0)


def test_the_graph_of_a_layer_of_experts() -> None:
    g = Drawn()
    graph = g.imported(layer(g)["y"]).graph
    kinds = [op.kind for op in graph.operators]
    assert kinds == [
        OpKind.MATMUL,
        OpKind.SOFTMAX,
        OpKind.TOPK,
        OpKind.PERMUTE,
        OpKind.MATMUL,
        OpKind.ACTIVATION,
        OpKind.MATMUL,
        OpKind.COMBINE,
    ]
    router, up, down = (op for op in graph.operators if op.kind is OpKind.MATMUL)
    assert router.macs == TOKENS * HIDDEN * EXPERTS
    assert up.macs == down.macs == ROWS * HIDDEN * FFN
    combine = graph.operators[-1]
    assert combine.dims == {"batch": 1, "d6": 6, "topk": 2, "d8": 8}
    assert {graph.tensor[access.tensor].shape for access in combine.reads} == {(1, ROWS, HIDDEN), (1, TOKENS, CHOSEN)}


@pytest.mark.parametrize(("tokens", "touched"), [(1, 2), (6, 4)])
def test_experts_that_balanced_routing_touches(tokens: int, touched: int) -> None:
    g = Drawn()
    x, choice = g.input("x", tokens, HIDDEN), g.input("choice", tokens, CHOSEN)
    top = g.node("topk", choice, CHOSEN, -1)
    rows = g.node(
        "index.Tensor", x, [g.node("view", g.item(top, 1), [tokens * CHOSEN])], shape=(tokens * CHOSEN, HIDDEN)
    )
    y = g.node("_grouped_mm", rows, g.weight("up", EXPERTS, HIDDEN, FFN), shape=(tokens * CHOSEN, FFN))
    graph = g.imported(y).graph
    product = graph.operators[-1]
    assert graph.touched_bytes(product.reads[1]) == touched * HIDDEN * FFN * 2
