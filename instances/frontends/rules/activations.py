"""Activation functions spelled out, and their multiplication by the other branch (SwiGLU and its kin)."""

from __future__ import annotations

from typing import Any

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
    return _gelu(program, "tanh")


def erf_gelu(program: Program) -> int:
    """``0.5 * x * (1 + erf(x / sqrt(2)))``, with its factors in any order."""
    return _gelu(program, "erf")


def _gelu(program: Program, curve: str) -> int:
    count = 0
    for step in list(program.steps):
        if step.op != curve:
            continue
        x = _argument(step.args[0])
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


def _argument(value: Any) -> Value | None:
    """``x`` where a value is ``c * x`` or ``c * (x + k * x**3)``."""
    factor = scaled(value)
    inner = factor[0] if factor else value
    plus = made_by(inner, "add")
    if plus is None:
        return inner if factor and isinstance(inner, Value) else None
    for x, cubic in (plus.args[:2], plus.args[1::-1]):
        scaled_cube = scaled(cubic)
        cube = made_by(scaled_cube[0], "pow", "mul") if scaled_cube else None
        if cube is not None and isinstance(x, Value) and (cube.args[0] is x or x in cube.reads or _power(cube, x)):
            return x
    return None


def _power(cube: Step, x: Value) -> bool:
    """Whether a product is of ``x`` and its square."""
    return any(isinstance(v, Value) and v.producer is not None and x in v.producer.reads for v in cube.args[:2])


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
        if other is x:
            seen_x = True
        elif number(other) == 0.5:
            seen_half = True
        elif halved and halved[0] is x and halved[1] == 0.5:
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
