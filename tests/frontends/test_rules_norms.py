"""Norms: each spelling becomes one operator that computes the same, and what is nearly a norm stays what it is."""

from __future__ import annotations

import pytest

from tests.frontends.handmade import Drawn, ops

WIDTH = 8


def drawn() -> tuple[Drawn, str]:
    g = Drawn()
    return g, g.input("x", 2, WIDTH, WIDTH)


def inverse_root(g: Drawn, of: str, how: str, exponent: float = 2, axis: int = -1, eps: bool = True) -> str:
    """``1 / sqrt(mean(of**2) + eps)`` in one of its spellings."""
    if "times" in how:
        square = g.node("mul.Tensor", of, of)
    elif "square" in how:
        square = g.node("square", of)
    else:
        square = g.node("pow.Tensor_Scalar", of, exponent)
    inner = g.node("mean.dim", square, [axis], True)
    if eps:
        inner = g.node("add.Tensor", inner, 1e-6)
    if "reciprocal" in how:
        return g.node("reciprocal", g.node("sqrt", inner))
    if "power" in how:
        return g.node("pow.Tensor_Scalar", inner, -0.5)
    return g.node("sqrt" if "root" in how else "rsqrt", inner)


@pytest.mark.parametrize("how", ["rsqrt", "times rsqrt", "square rsqrt", "reciprocal", "power", "root"])
@pytest.mark.parametrize("learned", [True, False])
def test_spelled_rms_norm(how: str, learned: bool) -> None:
    g, x = drawn()
    scale = inverse_root(g, x, how)
    y = g.node("div.Tensor", x, scale) if how == "root" else g.node("mul.Tensor", x, scale)
    if learned:
        y = g.node("mul.Tensor", g.weight("w", WIDTH), y)
    count, program = g.rewritten("spelled_norm", y)
    assert count == 1
    assert ops(program) == ["norm"]
    assert program.steps[-1].kwargs == {"rms": True}
    assert len(program.steps[-1].args) == (2 if learned else 1)


@pytest.mark.parametrize("bias", [True, False])
def test_spelled_layer_norm(bias: bool) -> None:
    g, x = drawn()
    centred = g.node("sub.Tensor", x, g.node("mean.dim", x, [-1], True))
    y = g.node("mul.Tensor", centred, inverse_root(g, centred, "rsqrt"))
    y = g.node("mul.Tensor", y, g.weight("w", WIDTH))
    y = g.node("add.Tensor", y, g.weight("b", WIDTH)) if bias else y
    count, program = g.rewritten("spelled_norm", y)
    assert (count, ops(program)) == (1, ["norm"])
    assert program.steps[-1].kwargs == {"rms": False}
    assert [value.name for value in program.steps[-1].args] == ["x", "w", "b"][: 3 if bias else 2]


def test_casts_between_do_not_hide_a_norm() -> None:
    g, x = drawn()
    wide = g.node("_to_copy", x, dtype="float32")
    y = g.node("mul.Tensor", wide, inverse_root(g, wide, "rsqrt"), label="float32")
    y = g.node("mul.Tensor", g.weight("w", WIDTH), g.node("_to_copy", y, dtype="bfloat16"))
    count, program = g.rewritten("spelled_norm", y)
    assert (count, ops(program)) == (1, ["norm"])


def test_another_exponent_is_no_norm() -> None:
    g, x = drawn()
    four = g.node("pow.Tensor_Scalar", g.node("pow.Tensor_Scalar", x, 2), 2)
    scale = g.node("rsqrt", g.node("add.Tensor", g.node("mean.dim", four, [-1], True), 1e-6))
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", x, scale))[0] == 0
    g, x = drawn()
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", x, inverse_root(g, x, "rsqrt", exponent=4)))[0] == 0


@pytest.mark.parametrize("axis", [1, -2])
def test_a_mean_over_another_axis_of_the_same_size_is_no_norm(axis: int) -> None:
    g, x = drawn()
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", x, inverse_root(g, x, "rsqrt", axis=axis)))[0] == 0


def test_a_mean_over_all_is_no_norm() -> None:
    g, x = drawn()
    scale = g.node("rsqrt", g.node("add.Tensor", g.node("mean", g.node("pow.Tensor_Scalar", x, 2)), 1e-6))
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", x, scale))[0] == 0


@pytest.mark.parametrize(("op", "how"), [("div.Tensor", "rsqrt"), ("mul.Tensor", "root"), ("div.Tensor", "power")])
def test_the_root_multiplied_instead_of_divided_by_is_no_norm(op: str, how: str) -> None:
    g, x = drawn()
    assert g.rewritten("spelled_norm", g.node(op, x, inverse_root(g, x, how)))[0] == 0


def test_the_root_over_the_tensor_is_no_norm() -> None:
    g, x = drawn()
    assert g.rewritten("spelled_norm", g.node("div.Tensor", inverse_root(g, x, "root"), x))[0] == 0


def test_another_tensor_scaled_is_no_norm() -> None:
    g, x = drawn()
    y = g.input("y", 2, WIDTH, WIDTH)
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", y, inverse_root(g, x, "rsqrt")))[0] == 0


def test_a_mean_to_which_data_are_added_is_no_norm() -> None:
    g, x = drawn()
    squares = g.node("mean.dim", g.node("pow.Tensor_Scalar", x, 2), [-1], True)
    more = g.node("pow.Tensor_Scalar", g.input("more", 2, WIDTH, 1), 2)
    scale = g.node("rsqrt", g.node("add.Tensor", squares, more))
    assert g.rewritten("spelled_norm", g.node("mul.Tensor", x, scale))[0] == 0


def test_the_mean_of_something_else_taken_off_makes_no_layer_norm() -> None:
    g, x = drawn()
    centred = g.node("sub.Tensor", x, g.node("mean.dim", g.input("y", 2, WIDTH, WIDTH), [-1], True))
    y = g.node("mul.Tensor", centred, inverse_root(g, centred, "rsqrt"))
    count, program = g.rewritten("spelled_norm", y)
    assert count == 1  # the difference is what is normalised
    assert program.steps[-1].kwargs == {"rms": True}
    assert ops(program) == ["mean", "sub", "norm"]


def test_a_scale_that_somebody_else_reads_stays() -> None:
    g, x = drawn()
    scale = inverse_root(g, x, "rsqrt")
    y = g.node("mul.Tensor", x, scale)
    assert g.rewritten("spelled_norm", y, g.node("neg", scale))[0] == 0
    assert g.rewritten("spelled_norm", y, scale)[0] == 0


def test_an_unscaled_result_that_somebody_else_reads_keeps_its_weight_apart() -> None:
    g, x = drawn()
    y = g.node("mul.Tensor", x, inverse_root(g, x, "rsqrt"))
    z = g.node("mul.Tensor", y, g.weight("w", WIDTH))
    count, program = g.rewritten("spelled_norm", z, g.node("neg", y))
    assert (count, ops(program)) == (1, ["norm", "mul", "neg"])


def test_a_weight_that_is_computed_from_data_is_not_learned() -> None:
    g, x = drawn()
    y = g.node("mul.Tensor", x, inverse_root(g, x, "rsqrt"))
    z = g.node("mul.Tensor", y, g.input("gain", WIDTH))
    count, program = g.rewritten("spelled_norm", z)
    assert (count, ops(program)) == (1, ["norm", "mul"])


@pytest.mark.parametrize(
    ("op", "shaped", "learned", "rms"),
    [
        ("layer_norm", True, 2, False),
        ("layer_norm", True, 0, False),
        ("native_layer_norm", True, 2, False),
        ("rms_norm", True, 1, True),
    ],
)
def test_norms_of_one_operator(op: str, shaped: bool, learned: int, rms: bool) -> None:
    g, x = drawn()
    y = g.node(op, x, [WIDTH], *[g.weight(f"w{i}", WIDTH) for i in range(learned)])
    y = g.item(y, 0) if op == "native_layer_norm" else y
    count, program = g.rewritten("norm_ops", y)
    assert (count, ops(program)) == (1, ["norm"])
    assert len(program.steps[0].args) == 1 + learned
    assert program.steps[0].kwargs == {"rms": rms}


def test_learned_vectors_by_name() -> None:
    g, x = drawn()
    y = g.node("layer_norm", x, [WIDTH], weight=g.weight("w", WIDTH), bias=g.weight("b", WIDTH))
    count, program = g.rewritten("norm_ops", y)
    assert (count, len(program.steps[0].args)) == (1, 3)


def test_statistics_of_a_norm_that_somebody_reads_keep_it_apart() -> None:
    g, x = drawn()
    y = g.node("native_layer_norm", x, [WIDTH], g.weight("w", WIDTH), g.weight("b", WIDTH), 1e-6)
    g.rewritten("norm_ops", g.item(y, 0), g.item(y, 1))


def test_a_module_called_norm_is_one() -> None:
    g, x = drawn()
    at = g.module("layers.0.norm", "MyNorm")
    g.module("layers.0", "Layer")
    size = g.node("sum.dim_IntList", g.node("mul.Tensor", x, x, module=at), [-1], True, module=at)
    scaled = g.node("div.Tensor", size, float(WIDTH), module=at)
    y = g.node("mul.Tensor", x, g.node("rsqrt", scaled, module=at), module=at)
    y = g.node("mul.Tensor", y, g.weight("w", WIDTH), module=at)
    z = g.node("neg", y, module=g.module("layers.0", "Layer"))
    count, program = g.rewritten("norm_by_module", z)
    assert (count, ops(program)) == (1, ["norm", "neg"])
    assert [value.name for value in program.steps[0].args] == ["x", "w"]


@pytest.mark.parametrize("fault", ["another class", "two inputs", "two results", "another shape"])
def test_a_module_that_is_no_function_of_one_tensor_is_no_norm(fault: str) -> None:
    g, x = drawn()
    at = g.module("a.norm", "Layer" if fault == "another class" else "MyNorm")
    y = g.node("neg", x, module=at)
    y = g.node("mul.Tensor", y, g.input("z", 2, WIDTH, WIDTH) if fault == "two inputs" else y, module=at)
    if fault == "another shape":
        y = g.node("mean.dim", y, [-1], True, module=at)
    outputs = [y, g.node("exp", x, module=at)] if fault == "two results" else [y]
    assert g.rewritten("norm_by_module", *outputs)[0] == 0
