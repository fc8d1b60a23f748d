"""RMS and layer norm: as one operator, spelled out, or by the name of their module."""

from __future__ import annotations

import math
from typing import Any

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import ahead, behind, made_by, number, two


def norm_ops(program: Program) -> int:
    """``layer_norm``, ``rms_norm`` and their kin as exporters name them."""
    count = 0
    for step in program.steps:
        rms = step.op in ("rms_norm", "_fused_rms_norm", "asc.rms_norm.default")
        if step.op == "asc.rms_norm.default":
            learned = step.args[1:2]
        elif step.op in ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"):
            learned = step.args[2:4]
        else:
            continue
        step.args = (step.args[0], *(value for value in learned if isinstance(value, Value)))
        step.kwargs = {"rms": rms}
        step.op = "norm"
        step.outputs = step.outputs[:1]
        count += 1
    program.changed()
    return count


def spelled_norm(program: Program) -> int:
    """``x * rsqrt(mean(x**2) + eps) [* weight] [+ bias]``; a layer norm where the mean is subtracted first."""
    count = 0
    for step in list(program.steps):
        x, centred = _root_of_squares(step)
        if x is None or not (scale := program.only_user(step.out)):
            continue
        pair = two(scale) if scale.op in ("mul", "div") else None
        if pair is None or not any(isinstance(v, Value) and behind(v) is behind(centred) for v in pair):
            continue
        last, learned = scale.out, []
        gone = [step, scale]
        for op in ("mul", "add"):
            tail, chain = ahead(program, last)
            user = program.only_user(tail)
            partner = _learned(user, tail, op)
            if user is None or partner is None:
                break
            last, gone = user.out, [*gone, *chain, user]
            learned.append(partner)
        if last.shape != x.shape and math.prod(last.shape) != math.prod(x.shape):
            continue
        source = x if x.shape == last.shape else behind(x)
        new = Step("norm", (source, *learned), {"rms": centred is x}, [last], step.module)
        if source.shape != last.shape:
            continue
        program.rewrite(gone, new)
        count += 1
    return count


def _root_of_squares(step: Step) -> tuple[Value | None, Value]:
    """``x`` and what is squared where a step is ``1 / sqrt(mean(square) + eps)``; the two differ in a layer norm."""
    none = None, step.out
    if step.op == "rsqrt":
        inner: Any = step.args[0]
    elif step.op == "reciprocal":
        root = made_by(step.args[0], "sqrt")
        if root is None:
            return none
        inner = root.args[0]
    elif (step.op == "pow" and number(step.args[1]) == -0.5) or step.op == "sqrt":
        inner = step.args[0]
    else:
        return none
    plus = made_by(inner, "add")
    if plus is not None:
        inner = next((v for v in plus.args[:2] if isinstance(v, Value) and number(v) is None), None)
    mean = made_by(inner, "mean")
    square = made_by(mean.args[0], "pow", "mul", "square") if mean is not None else None
    if square is None or mean is None:
        return none
    squared = square.args[0]
    if not isinstance(squared, Value):
        return none
    if square.op == "mul" and square.args[1] is not squared:
        return none
    if square.op == "pow" and number(square.args[1]) != 2:
        return none
    if squared.shape[-1] != math.prod(squared.shape) // max(1, math.prod(mean.out.shape)):
        return none
    less = made_by(squared, "sub")
    if less is not None and made_by(less.args[1], "mean") is not None:
        return less.args[0], squared
    return squared, squared


def _learned(user: Step | None, value: Value, op: str) -> Value | None:
    """The learned vector that a value is multiplied by, or that is added to it."""
    if user is None or user.op != op:
        return None
    pair = two(user)
    if pair is None:
        return None
    other = pair[1] if pair[0] is value else pair[0]
    if not isinstance(other, Value) or other.side != "weight":
        return None
    return other if math.prod(other.shape) == value.shape[-1] else None


def norm_by_module(program: Program) -> int:
    """Whatever a module computes whose class is called ``...Norm``, from one tensor to one of the same shape."""
    count = 0
    groups: dict[str, list[Step]] = {}
    for step in program.steps:
        path, cls = step.module
        if cls.endswith("Norm") and path and step.op != "norm":
            groups.setdefault(path, []).append(step)
    for steps in groups.values():
        members = set(map(id, steps))
        made = {id(value): value for step in steps for value in step.outputs}
        outside = [v for step in steps for v in step.reads if id(v) not in made]
        inputs = list(dict.fromkeys(v for v in outside if v.side == "device"))
        results = [
            v for v in made.values() if v in program.outputs or any(id(u) not in members for u in program.users(v))
        ]
        if len(inputs) != 1 or len(results) != 1 or results[0].shape != inputs[0].shape or len(steps) < 2:
            continue
        learned = list(dict.fromkeys(v for v in outside if v.side == "weight"))
        rms = not any(step.op == "sub" for step in steps)
        program.rewrite(steps, Step("norm", (inputs[0], *learned), {"rms": rms}, results, steps[-1].module))
        count += 1
    return count
