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
            learned = (step.arg(2, "weight"), step.arg(3, "bias"))
        else:
            continue
        if any(value in program.outputs or program.users(value) for value in step.outputs[1:]):
            continue  # mean and root are wanted too
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
        # a root is divided by, its reciprocal multiplied by, from either side
        pair = two(scale) if scale.op == ("div" if step.op == "sqrt" else "mul") else None
        if pair is None or (step.op == "sqrt" and pair[1] is not step.out):
            continue
        if not any(isinstance(v, Value) and behind(v) is behind(centred) for v in pair):
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
        if any(isinstance(v, Value) and v.side == "device" for v in plus.args[:2] if v is not inner):
            return none
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
    if not _over_last_axis(mean):
        return none
    less = made_by(squared, "sub")
    taken = made_by(less.args[1], "mean") if less is not None else None
    if less is not None and taken is not None and taken.args[0] is less.args[0] and _over_last_axis(taken):
        return less.args[0], squared
    return squared, squared


def _over_last_axis(mean: Step) -> bool:
    """Whether a mean is over the last axis, and over no other of more than one element."""
    shape = mean.args[0].shape
    axes = mean.arg(1, "dim")
    if isinstance(axes, int):
        axes = [axes]
    over = {axis % len(shape) for axis in axes} if axes and shape else set(range(len(shape)))
    return len(shape) - 1 in over and all(shape[axis] == 1 for axis in over if axis != len(shape) - 1)


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
