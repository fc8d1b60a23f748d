"""Rotary embedding: by halves, by pairs, by complex numbers; near misses stay what they are."""

from __future__ import annotations

import pytest

from instances.frontends.rules import RULES
from tests.frontends.handmade import Drawn, ops

SHAPE = (1, 4, 6, 8)
HALF = (1, 4, 6, 4)


def drawn() -> tuple[Drawn, str, str, str]:
    """A head and tables that follow from positions."""
    g = Drawn()
    x = g.input("x", *SHAPE)
    angles = g.input("angles", 1, 1, 6, 8, kind="buffer")
    return g, x, g.node("cos", angles), g.node("sin", angles)


def halves(g: Drawn, x: str, how: str) -> tuple[str, str]:
    if how == "slice":
        return g.node("slice.Tensor", x, 3, 0, 4), g.node("slice.Tensor", x, 3, 4, 8)
    if how == "negative slice":
        return g.node("slice.Tensor", x, -1, 0, -4), g.node("slice.Tensor", x, -1, -4)
    if how == "chunk":
        both = g.node("chunk", x, 2, -1)
    else:
        sizes = [4, 4] if how == "split_with_sizes" else 4
        both = g.node("split_with_sizes" if how == "split_with_sizes" else "split.Tensor", x, sizes, -1)
    return g.item(both, 0), g.item(both, 1)


def turned(g: Drawn, x: str, how: str = "slice", minus: str = "neg") -> str:
    """``cat(-second half, first half)``."""
    low, high = halves(g, x, how)
    negative = g.node("neg", high) if minus == "neg" else g.node("mul.Tensor", high, -1)
    return g.node("cat", [negative, low], -1)


def rotated(g: Drawn, x: str, cos: str, sin: str, whole: str, order: int = 0) -> str:
    plain = g.node("mul.Tensor", *((x, cos) if order < 2 else (cos, x)))
    other = g.node("mul.Tensor", *((whole, sin) if order < 2 else (sin, whole)))
    return g.node("add.Tensor", *((plain, other) if order % 2 == 0 else (other, plain)))


@pytest.mark.parametrize("how", ["slice", "negative slice", "chunk", "split", "split_with_sizes"])
@pytest.mark.parametrize("minus", ["neg", "mul"])
@pytest.mark.parametrize("order", range(4))
def test_rotated_halves(how: str, minus: str, order: int) -> None:
    g, x, cos, sin = drawn()
    count, program = g.rewritten("rotated_halves", rotated(g, x, cos, sin, turned(g, x, how, minus), order))
    assert (count, ops(program)) == (1, ["cos", "sin", "rope"])
    assert [value.name for value in program.steps[-1].args] == ["x", cos[1:], sin[1:]]


@pytest.mark.parametrize("fault", ["order", "sign", "twice", "axis", "halves", "plain", "scale", "thirds"])
def test_nearly_rotated_halves(fault: str) -> None:
    g, x, cos, sin = drawn()
    low, high = halves(g, x, "slice")
    y = g.input("y", *SHAPE)
    if fault == "order":  # the first half before the second: nothing is turned
        whole = g.node("cat", [low, g.node("neg", high)], -1)
    elif fault == "sign":
        whole = g.node("cat", [g.node("neg", low), high], -1)
    elif fault == "twice":
        whole = g.node("cat", [g.node("neg", low), low], -1)
    elif fault == "axis":
        parts = g.node("slice.Tensor", x, 1, 0, 2), g.node("slice.Tensor", x, 1, 2, 4)
        whole = g.node("cat", [g.node("neg", parts[1]), parts[0]], 1)
    elif fault == "halves":
        whole = g.node("cat", [g.node("neg", halves(g, y, "slice")[1]), low], -1)
    elif fault == "scale":
        whole = g.node("cat", [g.node("mul.Tensor", high, 2), low], -1)
    elif fault == "thirds":
        whole = g.node(
            "cat", [g.node("neg", g.node("slice.Tensor", x, 3, 2, 8)), g.node("slice.Tensor", x, 3, 0, 2)], -1
        )
    else:
        whole = turned(g, x)
    assert g.rewritten("rotated_halves", rotated(g, y if fault == "plain" else x, cos, sin, whole))[0] == 0


def test_products_that_somebody_else_reads_stay() -> None:
    g, x, cos, sin = drawn()
    plain = g.node("mul.Tensor", x, cos)
    whole = turned(g, x)
    y = g.node("add.Tensor", plain, g.node("mul.Tensor", whole, sin))
    assert g.rewritten("rotated_halves", y, plain)[0] == 0
    assert g.rewritten("rotated_halves", y, g.node("exp", plain))[0] == 0
    assert g.rewritten("rotated_halves", y, whole)[0] == 0


def pairs(g: Drawn, x: str, how: str) -> tuple[str, str]:
    """The even and the odd elements."""
    if how == "slice":
        return g.node("slice.Tensor", x, 3, 0, 99, 2), g.node("slice.Tensor", x, 3, 1, 99, 2)
    return halves(g, x, "chunk")


def turned_pairs(g: Drawn, a: str, b: str, cos: str, sin: str, fault: str = "") -> str:
    real = g.node(
        "add.Tensor" if fault == "sign" else "sub.Tensor", g.node("mul.Tensor", a, cos), g.node("mul.Tensor", b, sin)
    )
    first, second = (sin, cos) if fault == "tables" else (cos, sin)
    c, d = (a, b) if fault == "operands" else (b, a)
    imaginary = g.node("add.Tensor", g.node("mul.Tensor", c, first), g.node("mul.Tensor", d, second))
    return g.node("cat", [imaginary, real] if fault == "order" else [real, imaginary], -1)


def tables(g: Drawn) -> tuple[str, str]:
    angles = g.input("angles_of_pairs", 1, 1, 6, 4, kind="buffer")
    return g.node("cos", angles), g.node("sin", angles)


@pytest.mark.parametrize("how", ["slice", "chunk"])
def test_pairs(how: str) -> None:
    g, x, _, _ = drawn()
    program = g.program(turned_pairs(g, *pairs(g, x, how), *tables(g)))
    assert RULES["interleaved_rotary"](program) == 1
    program.sweep()
    assert ops(program) == ["cos", "sin", "rope"]
    assert program.steps[-1].args[0].name == "x"


@pytest.mark.parametrize("fault", ["sign", "tables", "operands", "order"])
def test_nearly_pairs(fault: str) -> None:
    g, x, _, _ = drawn()
    assert g.rewritten("interleaved_rotary", turned_pairs(g, *pairs(g, x, "slice"), *tables(g), fault))[0] == 0


def test_pairs_of_two_tensors_are_no_rotation() -> None:
    g, x, _, _ = drawn()
    a, b = pairs(g, x, "slice")[0], pairs(g, g.input("y", *SHAPE), "slice")[1]
    assert g.rewritten("interleaved_rotary", turned_pairs(g, a, b, *tables(g)))[0] == 0


def test_pairs_that_somebody_else_reads_stay() -> None:
    g, x, _, _ = drawn()
    y = turned_pairs(g, *pairs(g, x, "slice"), *tables(g))
    inner = next(node["name"] for node in g.nodes if node["op"] == "aten.sub.Tensor")
    assert g.rewritten("interleaved_rotary", y, f"%{inner}")[0] == 0


def complex_numbers(g: Drawn, x: str, swapped: bool = False) -> tuple[str, str]:
    numbers = g.node("view_as_complex", g.node("view", x, [1, 4, 6, 4, 2]))
    table = g.node("view_as_complex", g.input("table", 1, 1, 6, 4, 2, kind="buffer"))
    turning = g.node("mul.Tensor", *((table, numbers) if swapped else (numbers, table)))
    return g.node("view", g.node("view_as_real", turning), list(SHAPE)), turning


@pytest.mark.parametrize("swapped", [True, False])
def test_complex_numbers(swapped: bool) -> None:
    g, x, _, _ = drawn()
    program = g.program(complex_numbers(g, x, swapped)[0])
    assert RULES["complex_rotary"](program) == 1
    program.sweep()
    assert ops(program) == ["view_as_complex", "rope"]  # the table's
    assert program.steps[-1].out.shape == SHAPE


def test_complex_numbers_that_somebody_else_reads_stay() -> None:
    g, x, _, _ = drawn()
    y, turning = complex_numbers(g, x)
    assert g.rewritten("complex_rotary", y, g.node("view_as_real", g.node("mul.Tensor", turning, turning)))[0] == 0


def test_rotation_of_one_operator() -> None:
    g, x, cos, sin = drawn()
    y = g.node("asc.rope.default", x, cos, sin, shape=SHAPE)
    program = g.program(y)
    assert RULES["rotary_ops"](program) == 1
    assert [value.name for value in program.steps[-1].args] == ["x", cos[1:], sin[1:]]
