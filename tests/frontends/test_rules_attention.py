"""Attention: fused and spelled out, with masks and biases; near misses stay what they are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from instances.frontends.program import Program, Step
from instances.frontends.rules import RULES
from instances.frontends.rules.attention import is_causal
from tests.frontends.handmade import Drawn, ops

SHAPE = (2, 4, 6, 8)


def drawn() -> tuple[Drawn, str, str, str]:
    g = Drawn()
    return g, g.input("q", *SHAPE), g.input("k", *SHAPE), g.input("v", *SHAPE)


def attention_of(program: Program) -> Step:
    (found,) = (step for step in program.steps if step.op == "attention")
    return found


def comparison(g: Drawn, rows: int = 6, columns: int = 6, op: str = "le.Tensor") -> str:
    """Which keys each query may see."""
    across = g.node("view", g.node("arange", columns), [1, 1, 1, columns])
    down = g.node("add.Tensor", g.node("view", g.node("arange", rows), [1, 1, rows, 1]), columns - rows)
    return g.node(op, across, down)


# ------------------------------------------------------------------------------ one operator


@pytest.mark.parametrize(
    ("op", "args", "causal"),
    [
        ("scaled_dot_product_attention", (None, 0.0, True), True),
        ("scaled_dot_product_attention", (None, 0.0, False), False),
        ("scaled_dot_product_attention", (), False),
        ("_scaled_dot_product_flash_attention", (0.0, True), True),
        ("_scaled_dot_product_flash_attention", (0.0, False, True), False),
        ("_scaled_dot_product_flash_attention_for_cpu", (0.0, True), True),
        ("_scaled_dot_product_flash_attention_for_cpu", (0.0, False), False),
        ("_scaled_dot_product_efficient_attention", (None, False, 0.0, True), True),
        ("_scaled_dot_product_efficient_attention", (None, True, 0.5, False), False),
        ("_scaled_dot_product_cudnn_attention", (None, False, 0.0, True), True),
        ("_scaled_dot_product_cudnn_attention", (None, True, 0.5, False), False),
    ],
)
def test_fused_attention(op: str, args: tuple[Any, ...], causal: bool) -> None:
    g, q, k, v = drawn()
    program = g.program(g.node(op, q, k, v, *args, shape=[SHAPE, (2, 4, 6)] if op.startswith("_") else SHAPE))
    assert RULES["attention_ops"](program) == 1
    assert attention_of(program).kwargs == {"causal": causal}
    assert [value.name for value in attention_of(program).args] == ["q", "k", "v"]
    assert len(attention_of(program).outputs) == 1


def test_fused_attention_by_name() -> None:
    g, q, k, v = drawn()
    mask = comparison(g)
    count, program = g.rewritten("attention_ops", g.node("scaled_dot_product_attention", q, k, v, causal=False))
    assert (count, attention_of(program).kwargs) == (1, {"causal": False})
    program = g.program(g.node("scaled_dot_product_attention", q, k, v, attn_mask=mask, shape=SHAPE))
    assert RULES["attention_ops"](program) == 1
    assert attention_of(program).kwargs == {"causal": True}


def test_a_mask_of_positions_is_causal_and_set_aside() -> None:
    g, q, k, v = drawn()
    count, program = g.rewritten("attention_ops", g.node("scaled_dot_product_attention", q, k, v, comparison(g)))
    assert count == 1
    assert ops(program) == ["attention"]
    assert attention_of(program).kwargs == {"causal": True}


def test_a_mask_of_tokens_is_not_causal() -> None:
    g, q, k, v = drawn()
    padding = g.node("ge.Scalar", g.input("attention_mask", 2, 1, 1, 6, dtype="int64"), 1, shape=(2, 1, 1, 6))
    y = g.node("scaled_dot_product_attention", q, k, v, g.node("expand", padding, [2, 1, 6, 6]), shape=SHAPE)
    program = g.program(y)
    assert RULES["attention_ops"](program) == 1
    assert attention_of(program).kwargs == {"causal": False}


def test_what_is_a_causal_mask() -> None:
    def judged(draw: Any) -> bool:
        g = Drawn()
        (value,) = g.program(draw(g)).outputs
        return is_causal(value)

    assert judged(comparison)
    assert judged(lambda g: g.node("where.self", comparison(g), 0.0, -1e9))
    assert judged(lambda g: g.node("tril", g.node("ones", [6, 6])))
    assert judged(lambda g: comparison(g, rows=1))
    assert not judged(lambda g: g.node("ones", [6, 6]))
    assert not judged(lambda g: g.node("gt.Scalar", g.input("attention_mask", 2, 6, dtype="int64"), 0))

    def lengths(g: Drawn) -> str:  # of two lists of the same tokens
        one, other = (g.input(name, 2, 6, dtype="int64") for name in ("tokens", "limits"))
        return g.node("le.Tensor", one, other)

    assert not judged(lengths)


def test_a_bias_computed_by_the_device_is_read() -> None:
    g, q, k, v = drawn()
    bias = g.input("bias", 1, 4, 6, 6)
    count, program = g.rewritten("attention_ops", g.node("scaled_dot_product_attention", q, k, v, bias))
    assert count == 1
    assert [value.name for value in attention_of(program).args] == ["q", "k", "v", "bias"]


def test_composite_attention() -> None:
    g, q, k, v = drawn()
    y = g.node("asc.attention.default", q, k, v, 0.35, True, shape=(2, 6, 4, 8))
    program = g.program(y)
    assert RULES["attention_ops"](program) == 1
    assert attention_of(program).kwargs == {"causal": True, "heads_last": True}


# ------------------------------------------------------------------------------- spelled out


def spelled(
    g: Drawn,
    q: str,
    k: str,
    v: str,
    scale: str = "after",
    mask: str = "",
    product: str = "matmul",
    axis: int = -1,
    inner: tuple[str, ...] = (),
) -> str:
    """``softmax(q @ k.T * scale + mask) @ v``; ``inner`` are more masks and biases."""
    root = math.sqrt(SHAPE[-1])
    if scale == "query":
        q = g.node("mul.Tensor", q, 1 / root)
    if scale == "both":
        q, k = (g.node("mul.Tensor", x, root**-0.5) for x in (q, k))
    k = g.node("transpose.int", k, -2, -1)
    if product == "bmm":
        q, k, v = (g.node("view", x, [8, *g.values[x[1:]].shape[2:]]) for x in (q, k, v))
    scores = g.node(product, q, k)
    scores = g.node("view", scores, [2, 4, 6, 6]) if product == "bmm" else scores
    if scale == "after":
        scores = g.node("mul.Tensor", scores, 1 / root)
    if scale == "divided":
        scores = g.node("div.Tensor", scores, root)
    for more in inner:
        scores = g.node("add.Tensor", scores, more)
    if mask == "added":
        scores = g.node("add.Tensor", scores, g.node("where.self", comparison(g), 0.0, -1e9))
    elif mask == "chosen":
        scores = g.node("where.self", comparison(g), scores, -1e9)
    elif mask == "filled":
        scores = g.node("masked_fill.Scalar", scores, g.node("logical_not", comparison(g)), -1e9)
    probs = g.node("softmax.int", scores, axis)
    if product == "bmm":
        return g.node("view", g.node("bmm", g.node("view", probs, [8, 6, 6]), v), list(SHAPE))
    return g.node(product, probs, v)


@pytest.mark.parametrize("scale", ["after", "divided", "query", "both"])
@pytest.mark.parametrize("mask", ["", "added", "chosen", "filled"])
@pytest.mark.parametrize("product", ["matmul", "bmm"])
def test_spelled_attention(scale: str, mask: str, product: str) -> None:
    g, q, k, v = drawn()
    count, program = g.rewritten("spelled_attention", spelled(g, q, k, v, scale, mask, product))
    assert (count, ops(program)) == (1, ["attention"])
    assert attention_of(program).kwargs["causal"] == bool(mask)


def test_biases_and_a_mask_are_all_kept() -> None:
    g, q, k, v = drawn()
    biases = g.input("one", 1, 4, 6, 6), g.input("other", 2, 1, 6, 6)
    count, program = g.rewritten("spelled_attention", spelled(g, q, k, v, mask="added", inner=biases))
    assert count == 1
    assert [value.name for value in attention_of(program).args[3:]] == ["one", "other"]
    assert attention_of(program).kwargs["causal"] is True


def test_a_bias_within_the_product() -> None:
    g = Drawn()
    q, k, v = (g.input(name, 4, 6, 8) for name in "qkv")
    q = g.node("mul.Tensor", q, 8**-0.5)
    scores = g.node("baddbmm", g.input("bias", 4, 6, 6), q, g.node("transpose.int", k, 1, 2))
    y = g.node("bmm", g.node("softmax.int", scores, -1), v)
    count, program = g.rewritten("spelled_attention", y)
    assert (count, ops(program)) == (1, ["attention"])
    assert [value.name for value in attention_of(program).args[2:]] == ["v", "bias"]


@pytest.mark.parametrize("axis", [1, 2])
def test_softmax_along_another_axis_is_no_attention(axis: int) -> None:
    g, q, k, v = drawn()
    assert g.rewritten("spelled_attention", spelled(g, q, k, v, axis=axis))[0] == 0


@pytest.mark.parametrize("fault", ["no product before", "no product after", "on the right", "weighted", "data scale"])
def test_nearly_attention(fault: str) -> None:
    g, q, k, v = drawn()
    scores = g.node("matmul", q, g.node("transpose.int", k, -2, -1))
    if fault == "no product before":
        scores = g.node("exp", g.input("scores", 2, 4, 6, 6))
    if fault == "data scale":
        scores = g.node("mul.Tensor", scores, g.input("temperature", 2, 4, 6, 1))
    probs = g.node("softmax.int", scores, -1)
    if fault == "weighted":
        probs = g.node("mul.Tensor", probs, g.input("gain", 2, 4, 6, 6))
    if fault == "no product after":
        y = g.node("exp", probs)
    elif fault == "on the right":
        y = g.node("matmul", g.node("transpose.int", v, -2, -1), probs)
    else:
        y = g.node("matmul", probs, v)
    assert g.rewritten("spelled_attention", y)[0] == 0


@pytest.mark.parametrize("what", ["scores", "probs"])
def test_scores_or_probabilities_that_are_results_are_exposed(what: str) -> None:
    g, q, k, v = drawn()
    scores = g.node("matmul", g.node("mul.Tensor", q, 8**-0.5), g.node("transpose.int", k, -2, -1))
    probs = g.node("softmax.int", scores, -1)
    y = g.node("matmul", probs, v)
    program = g.program(y, scores if what == "scores" else probs)
    assert RULES["spelled_attention"](program) == 1
    assert attention_of(program).kwargs["exposed"] == what
    both = g.program(y, scores, probs)
    assert RULES["spelled_attention"](both) == 0


def test_scores_that_somebody_else_reads_stay() -> None:
    g, q, k, v = drawn()
    scores = g.node("matmul", g.node("mul.Tensor", q, 8**-0.5), g.node("transpose.int", k, -2, -1))
    y = g.node("matmul", g.node("softmax.int", scores, -1), v)
    assert g.rewritten("spelled_attention", y, g.node("exp", scores))[0] == 0


def test_a_cap_on_the_scores() -> None:
    g, q, k, v = drawn()
    scores = g.node("matmul", q, g.node("transpose.int", k, -2, -1))
    capped = g.node("mul.Tensor", g.node("tanh", g.node("div.Tensor", scores, 50.0)), 50.0)
    program = g.program(g.node("matmul", g.node("softmax.int", capped, -1), v))
    assert RULES["spelled_attention"](program) == 1
    assert attention_of(program).kwargs["capped"] is True


# --------------------------------------------------------------------------- heads of two parts


def parted(g: Drawn, axis: int = -1, sizes: tuple[int, int] = (6, 2), swapped: bool = False) -> str:
    shapes = [[2, 4, 6, size] if axis == -1 else [2, 4, 3, 8] for size in sizes]
    q = g.node("cat", [g.input(f"q{i}", *shape) for i, shape in enumerate(shapes)], axis)
    if swapped:
        shapes = shapes[::-1]
    k = g.node("cat", [g.input(f"k{i}", *shape) for i, shape in enumerate(shapes)], axis)
    return g.node("scaled_dot_product_attention", q, k, g.input("v", 2, 4, 6, 8))


def test_heads_of_two_parts() -> None:
    g = Drawn()
    count, program = g.rewritten("split_heads", parted(g), after=["attention_ops"])
    assert (count, ops(program)) == (1, ["attention"])
    parts = attention_of(program).kwargs
    assert [value.name for value in parts["query_parts"] + parts["key_parts"]] == ["q0", "q1", "k0", "k1"]


def test_other_parts_stay_put_together() -> None:
    g = Drawn()
    assert g.rewritten("split_heads", parted(g, swapped=True), after=["attention_ops"])[0] == 0
    g = Drawn()
    assert g.rewritten("split_heads", parted(g, axis=2), after=["attention_ops"])[0] == 0
    g, q, k, v = drawn()
    y = g.node("scaled_dot_product_attention", g.node("cat", [q, q], -1), g.node("neg", g.node("cat", [k, k], -1)), v)
    assert g.rewritten("split_heads", y, after=["attention_ops"])[0] == 0
