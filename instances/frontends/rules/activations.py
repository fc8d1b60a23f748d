"""Activation functions spelled out, and their multiplication by the other branch (SwiGLU and its kin)."""

from __future__ import annotations

import math
from collections.abc import Callable

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import between, closed, made_by, number, scaled, two


def sigmoid_silu(program: Program) -> int:
    """``x * sigmoid(x)``."""
    count = 0
    for step in list(program.steps):
        pair = two(step) if step.op == "mul" else None
        for x, curve in (pair, pair[::-1]) if pair else ():
            sigmoid = made_by(curve, "sigmoid")
            if sigmoid is not None and sigmoid.args[0] is x and program.only_user(sigmoid.out):
                program.rewrite([sigmoid, step], Step("silu", (x,), {}, [step.out], step.module))
                count += 1
                break
    return count


def tanh_gelu(program: Program) -> int:
    """``0.5 * x * (1 + tanh(c * (x + k * x**3)))``, with its factors in any order."""
    return _gelu(program, "tanh", _tanh_argument)


def erf_gelu(program: Program) -> int:
    """``0.5 * x * (1 + erf(x / sqrt(2)))``, with its factors in any order."""
    return _gelu(program, "erf", _erf_argument)


def _gelu(program: Program, curve: str, argument: Callable[[Value], Value | None]) -> int:
    count = 0
    for step in list(program.steps):
        if step.op != curve:
            continue
        x = argument(step.args[0])
        plus = program.only_user(step.out)
        if x is None or plus is None or plus.op != "add" or not any(number(v) == 1 for v in plus.args[:2]):
            continue
        last = _factors(program, plus.out, x)
        if last is None:
            continue
        gone = between(program, x, [last.out])
        if not closed(program, gone, [last.out]):
            continue
        program.rewrite(gone, Step("gelu", (x,), {}, [last.out], step.module))
        count += 1
    return count


def _tanh_argument(value: Value) -> Value | None:
    """``x`` where a value is ``sqrt(2 / pi) * (x + 0.044715 * x**3)``."""
    scale, powers = _monomial(value)
    plus = made_by(powers[0], "add") if len(powers) == 1 else None
    if plus is None or not _near(scale, math.sqrt(2 / math.pi)):
        return None
    for x, cubic in (plus.args[:2], plus.args[1::-1]):
        if isinstance(x, Value) and isinstance(cubic, Value):
            factor, powers = _monomial(cubic, x)
            if _near(factor, 0.044715) and len(powers) == 3 and all(power is x for power in powers):
                return x
    return None


def _erf_argument(value: Value) -> Value | None:
    """``x`` where a value is ``x / sqrt(2)``."""
    found = scaled(value)
    return found[0] if found is not None and _near(found[1], math.sqrt(0.5)) else None


def _near(found: float, wanted: float) -> bool:
    """Whether a constant is another one, as rounded to 16 bit."""
    return abs(found - wanted) <= 0.01 * wanted


def _monomial(value: Value, of: Value | None = None, depth: int = 4) -> tuple[float, list[Value]]:
    """A product as a constant and the values multiplied, powers written out; ``of`` is not taken apart."""
    step = None if value is of or depth == 0 else value.producer
    pair = two(step) if step is not None and step.op in ("mul", "pow", "div") else None
    if step is None or pair is None or not isinstance(pair[0] if step.op != "mul" else value, Value):
        return 1.0, [value]
    if step.op == "div":
        by = number(pair[1])
        factor, powers = _monomial(pair[0], of, depth - 1)
        return (factor / by, powers) if by else (1.0, [value])
    if step.op == "pow":
        exponent = number(pair[1])
        if exponent not in (2.0, 3.0):
            return 1.0, [value]
        factor, powers = _monomial(pair[0], of, depth - 1)
        return factor**exponent, powers * int(exponent)
    scale = 1.0
    found: list[Value] = []
    for operand in pair:
        constant = number(operand)
        if constant is not None:
            scale *= constant
        elif isinstance(operand, Value):
            factor, powers = _monomial(operand, of, depth - 1)
            scale, found = scale * factor, found + powers
    return scale, found


def _factors(program: Program, value: Value, x: Value) -> Step | None:
    """The last of the multiplications by ``x`` and by one half that follow ``1 + curve``."""
    seen_x = seen_half = False
    step: Step | None = None
    while not (seen_x and seen_half):
        user = program.only_user(value)
        pair = two(user)
        if user is None or user.op != "mul" or pair is None:
            return None
        other = pair[1] if pair[0] is value else pair[0]
        halved = scaled(other) if isinstance(other, Value) else None
        if other is x and not seen_x:
            seen_x = True
        elif number(other) == 0.5 and not seen_half:
            seen_half = True
        elif halved and halved[0] is x and halved[1] == 0.5 and not (seen_x or seen_half):
            seen_x = seen_half = True
        else:
            return None
        step, value = user, user.out
    return step


def gate(program: Program) -> int:
    """``act(gate) * up`` as one operator."""
    count = 0
    for step in list(program.steps):
        pair = two(step) if step.op == "mul" else None
        for curved, up in (pair, pair[::-1]) if pair else ():
            act = made_by(curved, "silu", "gelu", "relu")
            if act is None or not isinstance(up, Value) or up.side != "device" or up.shape != act.out.shape:
                continue
            if program.only_user(act.out) is not step:
                continue
            new = Step("gated_activation", (act.args[0], up), {"function": act.op}, [step.out], step.module)
            program.rewrite([act, step], new)
            count += 1
            break
    return count
