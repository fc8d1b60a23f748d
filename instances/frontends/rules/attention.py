"""Attention: as one operator, spelled out as products and softmax, with heads put together from two parts."""

from __future__ import annotations

from typing import Any

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import REARRANGES, ahead, behind, between, closed, made_by, number, scaled, two

PRODUCTS = ("matmul", "bmm", "mm", "baddbmm")

FUSED = {
    "scaled_dot_product_attention": (3, 5),
    "_scaled_dot_product_flash_attention": (None, 4),
    "_scaled_dot_product_efficient_attention": (3, 6),
    "_scaled_dot_product_flash_attention_for_cpu": (None, 4),
    "_scaled_dot_product_cudnn_attention": (3, 6),
}
"""Fused attention operators -> the place of their mask, and of whether they are causal."""


def attention_ops(program: Program) -> int:
    """Attention that the exporter left as one operator."""
    count = 0
    for step in program.steps:
        if step.op in FUSED:
            place, flag = FUSED[step.op]
            named = step.kwargs.get("attn_mask", step.kwargs.get("attn_bias"))
            mask = step.arg(place, "attn_mask", named) if place is not None else named
            causal = bool(step.arg(flag, "is_causal", False)) or (isinstance(mask, Value) and is_causal(mask))
            _as_attention(step, step.args[:3], mask, causal)
        elif step.op == "asc.attention.default":
            causal = bool(step.args[4]) if len(step.args) > 4 else False
            _as_attention(step, step.args[:3], None, causal)
            step.kwargs["heads_last"] = True
        else:
            continue
        count += 1
    program.changed()
    return count


def _as_attention(step: Step, operands: tuple[Any, ...], mask: Any, causal: bool) -> None:
    step.op = "attention"
    step.args = (*operands, *_bias(mask))
    kept = {key: value for key, value in step.kwargs.items() if key in ("exposed", "capped")}
    step.kwargs = {"causal": causal, **kept}
    step.outputs = step.outputs[: 2 if "exposed" in kept else 1]


COMPARISONS = frozenset(["le", "lt", "ge", "gt"])


def is_causal(mask: Value) -> bool:
    """Whether a mask comes of comparing two lists of positions, or of a triangle."""
    stack, seen = [mask], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        step = value.producer
        if step is None:
            continue
        if step.op in ("tril", "triu"):
            return True
        if step.op in COMPARISONS:
            pair = two(step)
            if pair and all(isinstance(v, Value) and len(v.shape) > 1 for v in pair) and _square(step, *pair):
                return True
        stack += step.reads
    return False


def _square(step: Step, one: Value, other: Value) -> bool:
    """Whether each element of a column is compared with each of a row: queries with keys, by their positions."""
    sizes = {one.shape[-2:], other.shape[-2:]}
    rows, columns = step.out.shape[-2:]
    return sizes == {(rows, 1), (1, columns)} if rows * columns > 1 else number(one) is None and number(other) is None


def spelled_attention(program: Program) -> int:
    """``softmax(q @ k.T * scale + mask) @ v``, scale and mask wherever they stand."""
    count = 0
    for step in list(program.steps):
        if step.op != "softmax" or int(step.arg(1, "dim", -1)) not in (-1, len(step.out.shape) - 1):
            continue
        found = _before(step)
        if found is None:
            continue
        masks, capped, product = found
        after = _after(program, step)
        if after is None:
            continue
        first = product.producer
        gone = between(program, product, [after.out])
        exposed = _exposed(program, product, gone, after)
        if first is None or len(exposed) > 1 or not closed(program, [first, *gone], [after.out, *exposed]):
            continue
        place = 1 if first.op == "baddbmm" else 0
        for operand in first.args[place : place + 2]:
            _unscale(program, operand)
        query, key = first.args[place : place + 2]
        masks += first.args[:place]
        causal = any(is_causal(mask) for mask in masks)
        bias = [added for mask in reversed(masks) for added in _bias(mask)]
        kwargs: dict[str, Any] = {"causal": causal, "capped": capped, "keys_turned": True}
        if exposed:
            below = {id(v) for s in between(program, step.out, [after.out]) for v in s.outputs} | {id(step.out)}
            kwargs["exposed"] = "probs" if id(exposed[0]) in below else "scores"
        results = [after.out, *exposed]
        new = Step("attention", (query, key, after.args[1], *bias), kwargs, results, step.module)
        program.rewrite([first, *gone], new)
        count += 1
    return count


def _exposed(program: Program, product: Value, gone: list[Step], last: Step) -> list[Value]:
    """Scores or probabilities that are results of the graph."""
    inner = [product, *(value for step in gone if step is not last for value in step.outputs)]
    return [value for value in inner if value in program.outputs]


def _bias(mask: Any) -> tuple[Value, ...]:
    """What is added to the scores, where the device has it: a mask's own arithmetic with positions is set aside."""
    if not isinstance(mask, Value) or mask.side != "device":
        return ()
    value = mask
    while value.producer is not None and value.producer.op in MASK_ARITHMETIC:
        following = [read for read in value.producer.reads if read.side == "device"]
        if len(set(map(id, following))) != 1:
            return (mask,)
        value = following[0]
    return (value,) if value.producer is None else (mask,)


MASK_ARITHMETIC = REARRANGES | {"add", "sub", "mul", "where", "cat", "pad", "logical_not", "masked_fill", "slice"}
"""Operators between a mask that comes in and what is added to the scores."""


def _before(softmax: Step) -> tuple[list[Value], bool, Value] | None:
    """Masks and biases, whether a cap is put on the scores, and the result of the product of queries and keys."""
    value: Any = softmax.args[0]
    masks: list[Value] = []
    capped = False
    for _ in range(12):
        value = behind(value)
        step = value.producer
        if step is None:
            return None
        if step.op in PRODUCTS:
            return masks, capped, value
        factor = scaled(value)
        if factor is not None:
            value = factor[0]
        elif step.op == "tanh":
            value, capped = step.args[0], True
        elif step.op in ("add", "where", "masked_fill"):
            given = [v for v in step.reads if isinstance(v, Value)]
            inner = [v for v in given if _leads_to_product(v)]
            if len(inner) != 1:
                return None
            masks += [v for v in given if v is not inner[0] and number(v) is None]
            value = inner[0]
        else:
            return None
    return None


def _leads_to_product(value: Value) -> bool:
    for _ in range(10):
        value = behind(value)
        step = value.producer
        if step is None or value.side != "device":
            return False
        if step.op in PRODUCTS:
            return True
        following = [v for v in step.reads if v.side == "device"]
        if step.op not in ("mul", "div", "tanh", "add", "where", "masked_fill") or not following:
            return False
        value = following[-1] if step.op == "where" else following[0]
    return False


def _after(program: Program, softmax: Step) -> Step | None:
    """The product of probabilities and values."""
    value = softmax.out
    for _ in range(6):
        tail, _views = ahead(program, value, REARRANGES)
        users = [u for u in program.users(tail) if u.op not in ("eq", "isnan", "full_like", "zeros_like", "ne")]
        if not users:
            return None
        step = users[-1]
        if step.op in PRODUCTS and step.op != "baddbmm" and step.args[0] is tail:
            return step
        others = [v for v in step.reads if v is not tail]
        if step.op not in ("where", "mul", "masked_fill") or (
            step.op == "mul" and any(v.side == "device" for v in others)
        ):
            return None
        value = step.out
    return None


def _unscale(program: Program, value: Value) -> None:
    """Take scalar factors out of what leads to an operand of the product: they commute with it."""
    while value.producer is not None:
        step = value.producer
        factor = scaled(value)
        if factor is not None and program.only_user(value):
            program.replace_value(value, factor[0])
            program.steps = [other for other in program.steps if other is not step]
            program.changed()
            value = factor[0]
        elif step.op in REARRANGES and program.only_user(value):
            value = step.args[0]
        else:
            return


def split_heads(program: Program) -> int:
    """Query and key that are each two stretches put behind each other (with and without rotation)."""
    count = 0
    for step in program.steps:
        if step.op != "attention":
            continue
        query, key = made_by(step.args[0], "cat"), made_by(step.args[1], "cat")
        if query is None or key is None or step.kwargs.get("keys_turned"):
            continue
        if any(int(cat.arg(1, "dim", 0)) not in (-1, len(cat.out.shape) - 1) for cat in (query, key)):
            continue
        if [v.shape[-1] for v in query.args[0]] != [v.shape[-1] for v in key.args[0]]:
            continue
        step.kwargs["query_parts"], step.kwargs["key_parts"] = list(query.args[0]), list(key.args[0])
        step.args = (query.args[0][0], key.args[0][0], *step.args[2:])
        count += 1
    program.changed()
    return count
