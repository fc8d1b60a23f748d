"""Mixture of experts: grouped products with their dispatch, the weighted sum, and the router before them."""

from __future__ import annotations

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import RESHAPES, behind, between, closed, made_by

GROUPED = ("_grouped_mm", "grouped_mm", "transformers.grouped_mm_fallback.default")
"""Grouped products; the last is what Hugging Face's models call for weights that are not bfloat16."""

INDEXING = RESHAPES | {"sort", "argsort", "floor_divide", "div", "index", "index_put", "histc", "cumsum", "remainder"}
"""Operators by which tokens are put in the order of their experts."""


def balanced_experts(program: Program) -> int:
    """Grouped products between a lookup of tokens by expert and a weighted sum: dispatch, products, combine.

    The graph does not hold the routing: every expert is taken to be equally likely.
    """
    count = 0
    for step in list(program.steps):
        if step.op not in GROUPED:
            continue
        rows, weight = step.args[:2]
        index = made_by(rows, "index")
        chosen = _router_choice(index.reads[1:]) if index is not None else None
        if index is not None and chosen is not None:
            tokens = index.args[0]
            program.rewrite([index], Step("dispatch", (tokens, chosen), {}, [index.out], index.module))
        source = _dispatched(rows)
        if source is None:
            continue
        choice: Value = source.args[1]
        kwargs = {"per_token": choice.shape[-1]}
        program.rewrite([step], Step("grouped_matmul", (rows, weight), kwargs, [step.out], step.module))
        count += 1
    for step in list(program.steps):
        if step.op == "sum" and _combine(program, step):
            count += 1
    return count


def _router_choice(values: list[Value]) -> Value | None:
    """The result of ``topk`` that indices follow from by putting tokens in order alone."""
    stack = list(values)
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        if id(value) in seen or value.producer is None:
            continue
        seen.add(id(value))
        if value.producer.op == "topk":
            return value
        if value.producer.op in INDEXING:
            stack += value.producer.reads
    return None


def _dispatched(rows: Value) -> Step | None:
    """The dispatch that rows of experts come from, through products and functions of the rows."""
    for _ in range(12):
        step = rows.producer
        if step is None:
            return None
        if step.op == "dispatch":
            return step
        if not step.args or not isinstance(step.args[0], Value):
            return None
        rows = step.args[0]
    return None


def _combine(program: Program, total: Step) -> bool:
    """``sum`` over the experts of a token of their rows times the router's weights."""
    value = total.args[0]
    gone = [total]
    while value.producer is not None and value.producer.op in RESHAPES | {"index"}:
        gone.append(value.producer)
        value = value.producer.args[0]
    weighted = made_by(value, "mul")
    if weighted is None:
        return False
    for done, factor in (weighted.args[:2], weighted.args[1::-1]):
        if not (isinstance(done, Value) and isinstance(factor, Value)):
            continue
        source = _dispatched(done)
        if source is None or done.producer is None or done.producer.op not in ("grouped_matmul", "add"):
            continue
        weights = behind(factor, RESHAPES | {"index"})
        choice: Value = source.args[1]
        while weights.shape != choice.shape and weights.producer is not None and weights.producer.op in RESHAPES:
            weights = weights.producer.args[0]
        if weights.shape != choice.shape:
            continue
        if not closed(program, [*gone, weighted], [total.out]):
            continue
        new = Step("combine", (done, weights), {}, [total.out], total.module)
        program.rewrite([*gone, weighted], new)
        return True
    return False


def router(program: Program) -> int:
    """From the scores of the experts to the chosen ones and their weights: one function of scores and one choice.

    Limits by group, corrections of the scores and the scaling of the weights belong to the choice.
    """
    count = 0
    for step in list(program.steps):
        if step.op != "combine":
            continue
        weights = step.args[1]
        source = _dispatched(step.args[0])
        if source is None:
            continue
        choice: Value = source.args[1]
        scores = _scores(choice)
        if scores is None or scores.producer is None:
            continue
        inner = [s for s in between(program, scores, [weights, choice]) if s is not scores.producer]
        curve = next((s for s in inner if s.op in ("softmax", "sigmoid") and s.args[0] is scores), None)
        rest = [s for s in inner if s is not curve]
        if not rest or weights.producer is None or not closed(program, rest, [weights, choice]):
            continue
        start = curve.out if curve is not None else scores
        if curve is not None:
            curve.op = "router_scores" if curve.op == "softmax" else "router_sigmoid"
            curve.args, curve.kwargs = (scores,), {}
        correction = next(
            (s for s in rest if s.op == "add" and start in s.reads and _learned_per_expert(s, start)), None
        )
        ranked = correction.out if correction is not None else start
        reads = [ranked]
        groups = _group_choice(rest, choice)
        if groups is not None:
            chosen = groups.outputs[-1]
            before = [s for s in between(program, ranked, [chosen]) if s is not correction]
            program.rewrite(before, Step("choose_groups", (ranked,), {}, [chosen], groups.module))
            rest = [s for s in rest if s not in before]
            reads.append(chosen)
        if ranked is not start:
            reads.append(start)
        rest = [s for s in rest if s is not correction]
        program.rewrite(rest, Step("choose", tuple(reads), {}, [weights, choice], rest[-1].module))
        count += 1
    return count


def _learned_per_expert(step: Step, scores: Value) -> bool:
    """Whether a step adds one number per expert to their scores."""
    others = [value for value in step.reads if value is not scores]
    return len(others) == 1 and others[0].side != "device" and others[0].shape[-1:] == scores.shape[-1:]


def _group_choice(steps: list[Step], choice: Value) -> Step | None:
    """The choice of groups of experts, where experts are chosen within them: the last ``topk`` before the choice."""
    earlier = [step for step in steps if step.op == "topk" and choice not in step.outputs]
    return earlier[-1] if earlier else None


def _scores(choice: Value) -> Value | None:
    """The product that the choice of experts follows from."""
    stack, seen = [choice], set()
    while stack:
        value = stack.pop()
        if id(value) in seen or value.producer is None or value.side != "device":
            continue
        seen.add(id(value))
        if value.producer.op in ("linear", "mm", "addmm", "matmul"):
            return value
        stack += value.producer.reads
    return None
