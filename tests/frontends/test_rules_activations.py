"""Activations: each spelling becomes one operator that computes the same; near misses stay what they are."""

from __future__ import annotations

import math

import pytest

from tests.frontends.handmade import Drawn, ops

ROOT = math.sqrt(2 / math.pi)


def drawn() -> tuple[Drawn, str]:
    g = Drawn()
    return g, g.input("x", 3, 16)


@pytest.mark.parametrize("swapped", [True, False])
def test_x_by_its_sigmoid(swapped: bool) -> None:
    g, x = drawn()
    curve = g.node("sigmoid", x)
    count, program = g.rewritten("sigmoid_silu", g.node("mul.Tensor", *((curve, x) if swapped else (x, curve))))
    assert (count, ops(program)) == (1, ["silu"])


def test_the_sigmoid_of_another_value_is_no_silu() -> None:
    g, x = drawn()
    y = g.node("mul.Tensor", x, g.node("sigmoid", g.input("y", 3, 16)))
    assert g.rewritten("sigmoid_silu", y)[0] == 0
    g, x = drawn()
    y = g.node("mul.Tensor", x, g.node("sigmoid", g.node("mul.Tensor", x, 1.702)))
    assert g.rewritten("sigmoid_silu", y)[0] == 0


def test_a_sigmoid_that_somebody_else_reads_stays() -> None:
    g, x = drawn()
    curve = g.node("sigmoid", x)
    y = g.node("mul.Tensor", x, curve)
    assert g.rewritten("sigmoid_silu", y, curve)[0] == 0
    assert g.rewritten("sigmoid_silu", y, g.node("neg", curve))[0] == 0


def cubed(g: Drawn, x: str, how: str) -> str:
    """``0.044715 * x**3``."""
    if how == "pow":
        return g.node("mul.Tensor", g.node("pow.Tensor_Scalar", x, 3), 0.044715)
    if how == "products":
        return g.node("mul.Tensor", 0.044715, g.node("mul.Tensor", g.node("mul.Tensor", x, x), x))
    if how == "chain":
        return g.node("mul.Tensor", g.node("mul.Tensor", g.node("mul.Tensor", x, 0.044715), x), x)
    assert how == "square"
    return g.node("mul.Tensor", g.node("mul.Tensor", x, g.node("pow.Tensor_Scalar", x, 2)), 0.044715)


def finished(g: Drawn, x: str, curve: str, order: str = "half x", one: float = 1) -> str:
    """``0.5 * x * (1 + curve)``."""
    plus = g.node("add.Tensor", curve, one)
    if order == "half x":
        return g.node("mul.Tensor", g.node("mul.Tensor", x, 0.5), plus)
    if order == "divided":
        return g.node("mul.Tensor", plus, g.node("div.Tensor", x, 2.0))
    if order == "x first":
        return g.node("mul.Tensor", g.node("mul.Tensor", x, plus), 0.5)
    assert order == "half first"
    return g.node("mul.Tensor", x, g.node("mul.Tensor", plus, 0.5))


@pytest.mark.parametrize("how", ["pow", "products", "chain", "square"])
@pytest.mark.parametrize("order", ["half x", "divided", "x first", "half first"])
def test_tanh_gelu(how: str, order: str) -> None:
    g, x = drawn()
    inner = g.node("mul.Tensor", g.node("add.Tensor", x, cubed(g, x, how)), ROOT)
    count, program = g.rewritten("tanh_gelu", finished(g, x, g.node("tanh", inner), order))
    assert (count, ops(program)) == (1, ["gelu"])


@pytest.mark.parametrize("order", ["half x", "divided", "x first", "half first"])
@pytest.mark.parametrize("by", ["div", "mul", "constant"])
def test_erf_gelu(order: str, by: str) -> None:
    g, x = drawn()
    if by == "div":
        inner = g.node("div.Tensor", x, math.sqrt(2))
    else:
        inner = g.node("mul.Tensor", x, math.sqrt(0.5) if by == "mul" else g.node("constant", math.sqrt(0.5)))
    count, program = g.rewritten("erf_gelu", finished(g, x, g.node("erf", inner), order))
    assert count == 1
    assert ops(program) == ["gelu"]


@pytest.mark.parametrize("fault", ["square", "other cube", "no cube", "constant", "one", "half", "x twice", "other x"])
def test_nearly_tanh_gelu(fault: str) -> None:
    g, x = drawn()
    other = g.input("other", 3, 16)
    if fault == "square":
        cubic = g.node("mul.Tensor", g.node("pow.Tensor_Scalar", x, 2), 0.044715)
    elif fault == "other cube":
        cubic = g.node("mul.Tensor", g.node("mul.Tensor", x, g.node("mul.Tensor", x, other)), 0.044715)
    else:
        cubic = cubed(g, x, "pow")
    inner = x if fault == "no cube" else g.node("add.Tensor", x, cubic)
    curve = g.node("tanh", g.node("mul.Tensor", inner, 1.7 if fault == "constant" else ROOT))
    if fault == "half":
        y = g.node("mul.Tensor", g.node("mul.Tensor", x, 0.25), g.node("add.Tensor", curve, 1))
    elif fault == "x twice":
        y = g.node("mul.Tensor", g.node("mul.Tensor", g.node("add.Tensor", curve, 1), x), x)
        y = g.node("mul.Tensor", y, 0.5)
    else:
        y = finished(g, other if fault == "other x" else x, curve, one=2 if fault == "one" else 1)
    assert g.rewritten("tanh_gelu", y)[0] == 0


@pytest.mark.parametrize("fault", ["constant", "one", "other x"])
def test_nearly_erf_gelu(fault: str) -> None:
    g, x = drawn()
    curve = g.node("erf", g.node("mul.Tensor", x, 1.0001 if fault == "constant" else math.sqrt(0.5)))
    y = finished(g, g.input("y", 3, 16) if fault == "other x" else x, curve, one=-1 if fault == "one" else 1)
    assert g.rewritten("erf_gelu", y)[0] == 0


def test_a_curve_that_somebody_else_reads_stays() -> None:
    g, x = drawn()
    curve = g.node("erf", g.node("div.Tensor", x, math.sqrt(2)))
    assert g.rewritten("erf_gelu", finished(g, x, curve), curve)[0] == 0
    assert g.rewritten("erf_gelu", finished(g, x, curve), g.node("neg", curve))[0] == 0


@pytest.mark.parametrize("function", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("swapped", [True, False])
def test_gates(function: str, swapped: bool) -> None:
    g, x = drawn()
    act, up = g.node(function, x), g.input("up", 3, 16)
    count, program = g.rewritten("gate", g.node("mul.Tensor", *((up, act) if swapped else (act, up))))
    assert (count, ops(program)) == (1, ["gated_activation"])
    assert program.steps[0].kwargs == {"function": function}
    assert [value.name for value in program.steps[0].args] == ["x", "up"]


def test_two_gates_of_one_value_are_told_apart() -> None:
    g, x = drawn()
    up = g.input("up", 3, 16)
    y = g.node("add.Tensor", g.node("mul.Tensor", g.node("silu", x), up), g.node("mul.Tensor", up, g.node("relu", x)))
    count, program = g.rewritten("gate", y)
    assert count == 2
    assert [step.kwargs.get("function") for step in program.steps] == ["silu", "relu", None]


@pytest.mark.parametrize("up", ["weight", "row", "number"])
def test_a_scale_is_no_gate(up: str) -> None:
    g, x = drawn()
    other = {"weight": g.weight("w", 3, 16), "row": g.input("row", 1, 16), "number": 2.0}[up]
    assert g.rewritten("gate", g.node("mul.Tensor", g.node("silu", x), other))[0] == 0


def test_an_activation_that_somebody_else_reads_stays() -> None:
    g, x = drawn()
    act = g.node("silu", x)
    y = g.node("mul.Tensor", act, g.input("up", 3, 16))
    assert g.rewritten("gate", y, act)[0] == 0
    assert g.rewritten("gate", y, g.node("neg", act))[0] == 0
