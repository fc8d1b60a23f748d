"""What rules look at: operands through reshapes, scalars and their partners."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from instances.frontends.program import Program, Step, Value

RESHAPES = frozenset(["view", "unsqueeze", "squeeze", "flatten", "unflatten"])
"""Views that keep the order of elements."""

REARRANGES = RESHAPES | frozenset(["transpose", "permute", "t", "expand", "swapaxes"])


def made_by(value: Any, *ops: str) -> Step | None:
    """The step that made a value, where it is one of these operators."""
    step = value.producer if isinstance(value, Value) else None
    return step if step is not None and step.op in ops else None


def behind(value: Value, ops: Iterable[str] = RESHAPES) -> Value:
    """What a value is a view of."""
    names = frozenset(ops)
    while value.producer is not None and value.producer.op in names and isinstance(value.producer.args[0], Value):
        value = value.producer.args[0]
    return value


def ahead(program: Program, value: Value, ops: Iterable[str] = RESHAPES) -> tuple[Value, list[Step]]:
    """The last of a chain of views that nobody else reads, and the chain."""
    names = frozenset(ops)
    chain: list[Step] = []
    user = program.only_user(value)
    while user is not None and user.op in names:
        chain.append(user)
        value = user.out
        user = program.only_user(value)
    return value, chain


def number(value: Any) -> float | None:
    """A scalar argument: a number, or a value made of one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Value) and value.producer is not None and math.prod(value.shape) == 1:
        step = behind(value).producer
        if step is not None and step.op in ("constant", "scalar_tensor", "full"):
            given = step.args[-1] if step.args else None
            return float(given) if isinstance(given, int | float) else None
    return None


def two(step: Step | None) -> tuple[Any, Any] | None:
    """The two operands of a step."""
    return (step.args[0], step.args[1]) if step is not None and len(step.args) >= 2 else None


def scaled(value: Any) -> tuple[Value, float, Step] | None:
    """``x, c, step`` where a value is ``x * c`` with a scalar ``c``."""
    step = made_by(value, "mul", "div")
    pair = two(step)
    if step is None or pair is None:
        return None
    for x, c in (pair, pair[::-1]):
        factor = number(c)
        if isinstance(x, Value) and factor is not None and (step.op == "mul" or (x is pair[0] and factor)):
            return x, factor if step.op == "mul" else 1 / factor, step
    return None


def between(program: Program, first: Value, last: Iterable[Value]) -> list[Step]:
    """All steps on ways from a value to others."""
    below = {id(first)}
    forward = []
    for step in program.steps:
        if any(id(value) in below for value in step.reads):
            below |= set(map(id, step.outputs))
            forward.append(step)
    needed = set(map(id, last))
    found = []
    for step in reversed(forward):
        if any(id(value) in needed for value in step.outputs):
            needed |= set(map(id, step.reads))
            found.append(step)
    return found[::-1]


def closed(program: Program, steps: Iterable[Step], results: Iterable[Value]) -> bool:
    """Whether nobody outside of some steps reads what they make, but for their results."""
    members = {id(step): step for step in steps}
    wanted = set(map(id, results))
    for step in members.values():
        for value in step.outputs:
            if id(value) in wanted:
                continue
            if value in program.outputs or any(id(user) not in members for user in program.users(value)):
                return False
    return True
