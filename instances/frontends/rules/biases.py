"""The bias of a product, where an exporter adds it as an operator of its own."""

from __future__ import annotations

import math

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import made_by, two

PRODUCTS = ("matmul", "mm", "linear")


def added_bias(program: Program) -> int:
    """``x @ weight + bias`` as one product with a bias."""
    count = 0
    for step in list(program.steps):
        pair = two(step) if step.op == "add" else None
        for product, bias in (pair, pair[::-1]) if pair else ():
            made = made_by(product, *PRODUCTS)
            if made is None or not isinstance(bias, Value) or bias.side != "weight":
                continue
            learned = isinstance(made.args[1], Value) and made.args[1].side == "weight"
            if not learned or len(made.args) > 2 or made.kwargs or program.only_user(made.out) is not step:
                continue
            if math.prod(bias.shape) != step.out.shape[-1] or bias.shape[-1] != step.out.shape[-1]:
                continue
            new = Step(made.op, made.args[:2], {"bias": bias}, [step.out], made.module)
            program.rewrite([made, step], new)
            count += 1
            break
    return count
