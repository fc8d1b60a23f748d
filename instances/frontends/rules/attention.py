"""Attention: as one operator, spelled out as products and softmax, with heads put together from two parts."""

from __future__ import annotations

from typing import Any

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import REARRANGES, ahead, behind, between, closed, made_by, number, scaled, two

PRODUCTS = ("matmul", "bmm", "mm", "baddbmm")

FUSED = {
    "scaled_dot_product_attention": 3,
    "_scaled_dot_product_flash_attention": None,
    "_scaled_dot_product_efficient_attention": 3,
    "_scaled_dot_product_flash_attention_for_cpu": None,
    "_scaled_dot_product_cudnn_attention": 3,
}
"""Fused attention operators -> the place of their mask."""


def attention_ops(program: Program) -> int:
    """Attention that the exporter left as one operator."""
    count = 0
    for step in program.steps:
        if step.op in FUSED:
            place = FUSED[step.op]
            mask = step.arg(place, "attn_mask") if place is not None else step.kwargs.get("attn_mask")
            causal = bool(step.arg(5, "is_causal", False)) or (isinstance(mask, Value) and is_causal(mask))
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
            if pair and all(isinstance(v, Value) and number(v) is None and len(v.shape) > 1 for v in pair):
                return True
        stack += step.reads
    return False


def spelled_attention(program: Program) -> int:
    """``softmax(q @ k.T * scale + mask) @ v``, scale and mask wherever they stand."""
    count = 0
    for step in list(program.steps):
        if step.op != "softmax":
            continue
        found = _before(step)
        if found is None:
            continue
        mask, capped, product = found
        after = _after(program, step)
        if after is None:
            continue
        first = product.producer
        gone = between(program, product, [after.out])
        exposed = _exposed(program, product, gone, after)
        if first is None or len(exposed) > 1 or not closed(program, [first, *gone], [after.out, *exposed]):
            continue
        for operand in first.args[:2]:
            _unscale(program, operand)
        query, key = first.args[:2]
        causal = mask is not None and is_causal(mask)
        bias = _bias(mask)
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


def _before(softmax: Step) -> tuple[Value | None, bool, Value] | None:
    """The mask, whether a cap is put on the scores, and the result of the product of queries and keys."""
    value: Any = softmax.args[0]
    mask: Value | None = None
    capped = False
    for _ in range(12):
        value = behind(value)
        step = value.producer
        if step is None:
            return None
        if step.op in PRODUCTS:
            return mask, capped, value
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
            others = [v for v in given if v is not inner[0] and number(v) is None]
            mask = others[0] if others and mask is None else mask
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
        if step.op in PRODUCTS and step.args[0] is tail:
            return step
        if step.op not in ("where", "mul", "masked_fill"):
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
