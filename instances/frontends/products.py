"""Handlers of what the cube computes: products of matrices, convolutions, attention, and experts."""

from __future__ import annotations

import math
from fractions import Fraction

from instances.errors import InputError
from instances.feed_forward import active_experts
from instances.frontends.axes import Atom, Axis, View, extent, hint, keep_apart, leaves, unifiable
from instances.frontends.lowering import Lowering, Use, contract, handles, product
from instances.frontends.program import Step, Value
from instances.graph import OpKind
from instances.graph_builder import work


@handles("linear")
def linear(low: Lowering, step: Step) -> None:
    """``x @ weight.T + bias``, weight ``[out, in]``."""
    weight = low.view(step.args[1])
    bias = step.arg(2, "bias")
    _matmul(low, step, step.args[0], weight.permuted([1, 0]), bias)


@handles("mm", "bmm", "matmul", "baddbmm")
def matmul(low: Lowering, step: Step) -> None:
    """``left @ right``, axes before the last two in common or repeated."""
    left, right = (step.args[1], step.args[2]) if step.op == "baddbmm" else (step.args[0], step.args[1])
    bias = step.args[0] if step.op == "baddbmm" else step.kwargs.get("bias")
    _matmul(low, step, left, low.view(right), bias)


@handles("addmm")
def addmm(low: Lowering, step: Step) -> None:
    """``bias + left @ right``."""
    _matmul(low, step, step.args[1], low.view(step.args[2]), step.args[0])


def _matmul(low: Lowering, step: Step, x: Value, right: View, bias: Value | None) -> None:
    left = low.view(x)
    if len(right.axes) == 1:  # matrix times vector
        right = View(right.base, [*right.axes, []], right.parts)
    rows, depth = left.axes[:-1], left.axes[-1]
    renamed = contract(low, depth, right.axes[-2])
    batch = right.axes[:-2]
    for place in range(1, len(batch) + 1):
        own = batch[-place]
        mine = rows[-1 - place] if len(rows) > place else None
        if mine is not None and extent(own) == extent(mine) and not unifiable(mine, own):
            renamed.append((own, mine))
    columns = list(right.axes[-1])
    if set(leaves(columns)) & set(leaves(atom for axis in left.axes for atom in axis)):  # a tensor by itself
        columns = [Atom(extent(columns))]
        renamed.insert(0, (right.axes[-1], columns))
    lead = rows[:-1]
    padded = max(len(lead), len(batch))
    lead, batch = ([[]] * (padded - len(own)) + own for own in (lead, batch))
    lead = [_wider(own, other) for own, other in zip(lead, batch, strict=True)]
    axes = [*[list(axis) for axis in lead], list(rows[-1]) if rows else [], columns]
    if len(step.out.shape) < len(axes):
        axes = [axis for axis in axes if leaves(axis)]
        axes = [[] for _ in range(len(step.out.shape) - len(axes))] + axes
    keep_apart(columns, depth)
    for axis in rows:
        keep_apart(columns, axis)
    uses = [Use(left), Use(right, renamed)]
    if bias is not None:
        seen = Use(low.view(bias))
        for own, mine in zip(reversed(seen.view.axes), reversed(axes), strict=False):
            if extent(own) == extent(mine) and not unifiable(mine, own):
                seen.renamed.append((own, mine))
        uses.append(seen)
    macs = product(axes) * extent(depth)
    uses += low.after(left)
    low.draft(step, OpKind.MATMUL, uses, [(step.out, axes)], macs=macs)


def _wider(one: Axis, other: Axis) -> Axis:
    return list(one) if extent(one) >= extent(other) else list(other)


@handles("einsum")
def einsum(low: Lowering, step: Step) -> None:
    """A product of two tensors in Einstein's notation; a sum of products along each letter that the result lacks."""
    equation = str(step.args[0]).replace(" ", "")
    operands: list[Value] = list(step.args[1]) if isinstance(step.args[1], list) else list(step.args[1:])
    terms, arrow, result = equation.partition("->")
    if not arrow:  # every letter that comes once, in their order
        result = "".join(sorted(letter for letter in set(terms) - {","} if terms.count(letter) == 1))
    if "." in equation:
        raise InputError(f"operator {step.place}: equation {equation!r} leaves axes out; name all of them")
    letters: dict[str, Axis] = {}
    uses = []
    for term, value in zip(terms.split(","), operands, strict=True):
        use = low.use(value)
        for letter, axis in zip(term, use.view.axes, strict=True):
            if letter not in letters:
                taken = {leaf for known in letters.values() for leaf in leaves(known)}
                letters[letter] = list(axis)
                if taken & set(leaves(axis)):  # two letters for one loop
                    letters[letter] = [Atom(extent(axis))]
                    keep_apart(letters[letter], taken)
                    use.renamed.append((axis, letters[letter]))
            elif extent(axis) == extent(letters[letter]) and not unifiable(letters[letter], axis):
                use.renamed.append((axis, letters[letter]))
        uses.append(use)
    for one in letters:
        for other in letters:
            if one < other:
                keep_apart(letters[one], letters[other])
    axes = [list(letters[letter]) for letter in result]
    macs = math.prod(extent(axis) for axis in letters.values())
    if len(operands) == 2:
        low.draft(step, OpKind.MATMUL, uses, [(step.out, axes)], macs=macs)
        return
    vector = work("combine", macs)
    low.draft(step, OpKind.ELEMENTWISE, uses, [(step.out, axes)], vector=vector)


@handles("convolution", "conv1d", "conv2d", "conv3d")
def convolution(low: Lowering, step: Step) -> None:
    """A convolution: a product over channels and taps, or, one channel at a time, a sum of shifted vectors."""
    x, weight = step.args[0], step.args[1]
    bias = step.arg(2, "bias")
    if step.op == "convolution" and step.arg(6, "transposed"):
        raise InputError(
            f"graph {low.program.name}: {step.place} is a transposed convolution, which is not modelled; "
            "register it with opt.register_op under a name of its own"
        )
    groups = int(step.args[8] if step.op == "convolution" else step.arg(6, "groups", 1) or 1)
    seen, kernel = low.view(x), low.view(weight)
    out_spatial = low.fresh(step.out.shape[2:])
    taps = product(kernel.axes[2:])
    inner = extent(kernel.axes[1])
    if groups > 1 and inner == 1:
        channels = list(kernel.axes[0])
        axes = [list(seen.axes[0]), channels, *out_spatial]
        use = Use(seen)
        if extent(seen.axes[1]) == extent(channels) and not unifiable(channels, seen.axes[1]):
            use.renamed.append((seen.axes[1], channels))
        use.looked_up += list(zip(seen.axes[2:], out_spatial, strict=True))
        uses = [use, Use(kernel)]
        if isinstance(bias, Value):
            uses.append(_rowwise(low, bias, channels))
        vector = work("combine", taps * math.prod(step.out.shape))
        whole = [axis for axis in out_spatial if leaves(axis)]
        low.draft(step, OpKind.ELEMENTWISE, uses, [(step.out, axes)], vector=vector, whole=whole)
        return
    columns = list(kernel.axes[0])
    axes = [list(seen.axes[0]), columns, *out_spatial]
    depth = [atom for axis in kernel.axes[1:] for atom in axis]
    keep_apart(columns, depth)
    use = Use(seen, looked_up=[(seen.axes[1], depth), *zip(seen.axes[2:], out_spatial, strict=True)])
    uses = [use, Use(kernel)]
    if isinstance(bias, Value):
        uses.append(_rowwise(low, bias, columns))
    macs = math.prod(step.out.shape) * inner * taps
    low.draft(step, OpKind.MATMUL, uses, [(step.out, axes)], macs=macs, note="rows are patches of the input")


def _rowwise(low: Lowering, value: Value, axis: Axis) -> Use:
    use = low.use(value)
    if not unifiable(axis, use.view.axes[-1]):
        use.renamed.append((use.view.axes[-1], axis))
    return use


@handles("attention")
def attention(low: Lowering, step: Step) -> None:
    """Scores, softmax and values.

    ``args``: query, keys, values, and what is added to the scores by the device (biases). ``kwargs``: ``causal``;
    ``query_parts`` and ``key_parts``: the stretches of the head that query and key were put together from, if so;
    ``keys_turned``: keys are ``[..., dim, context]``; ``heads_last``: the result is ``[batch, seq, heads, dim]``;
    ``exposed``: the second result is the ``"scores"`` or the ``"probs"``.
    """
    queries: list[Value] = step.kwargs.get("query_parts") or [step.args[0]]
    keys: list[Value] = step.kwargs.get("key_parts") or [step.args[1]]
    values: Value = step.args[2]
    biases: list[Value] = list(step.args[3:])
    seen = [low.view(q) for q in queries]
    first = seen[0]
    lead, seq = first.axes[:-2], first.axes[-2]
    turned = bool(step.kwargs.get("keys_turned"))
    context: Axis = [Atom(keys[0].shape[-1 if turned else -2], "context")]
    keep_apart(context, seq)
    for axis in lead:
        keep_apart(context, axis)
    uses: list[Use] = []
    after: list[Use] = []
    for view, key in zip(seen, keys, strict=True):
        own = Use(view)
        _same_axes(own, [*lead, seq], view.axes[:-1])
        other = _operand(low, key, lead, context, turned)
        other.renamed += contract(low, view.axes[-1], other.view.axes[-1])
        keep_apart(view.axes[-1], seq)
        keep_apart(view.axes[-1], context)
        uses += [own, other]
        after += low.after(other.view)
    _hint_heads(lead, seq, first.axes[-1])
    causal = bool(step.kwargs.get("causal"))
    rows, columns = extent(seq), extent(context)
    pairs = rows * (2 * columns - rows + 1) // 2 if causal and columns >= rows else rows * columns
    density = pairs / (rows * columns)
    batch = product(lead)
    depth = sum(extent(view.axes[-1]) for view in seen)
    shape = tuple(extent(axis) for axis in [*lead, seq, context])
    stored = first.base.dtype
    scores, probs = (Value(f"{step.out.name}.{what}", shape, stored) for what in ("scores", "probs"))
    axes = [*[list(axis) for axis in lead], list(seq), context]
    note = "" if len(seen) == 1 else "parts of the head, each query with its key, added up"
    # the first two reads are those whose product the cost model takes the shape from
    low.draft(
        step,
        OpKind.ATTENTION_SCORES,
        [*uses[:2], *after, *uses[2:]],
        [(scores, axes)],
        suffix="scores",
        macs=batch * pairs * depth,
        density=density,
        note=note,
    )
    reads = [Use(low.view(scores))]
    pair_count, row_count = batch * pairs, batch * rows
    extra = {"div": row_count}
    for bias in biases:
        reads.append(_biased(low, bias, axes))
        extra["two"] = len(biases) * pair_count
    if step.kwargs.get("capped"):  # a tanh between two scales
        extra = {**extra, "one": 5 * pair_count, "exp": pair_count, "div": row_count + pair_count}
    vector = work("softmax", pair_count, **extra)
    low.draft(
        step,
        OpKind.SOFTMAX,
        reads,
        [(probs, [list(axis) for axis in axes])],
        suffix="softmax",
        vector=vector,
        whole=[context],
        density=density,
    )
    if step.kwargs.get("exposed"):
        low.views[step.outputs[1]] = low.views[probs if step.kwargs["exposed"] == "probs" else scores]
    weighted = _operand(low, values, lead, context)
    width = list(weighted.view.axes[-1])
    keep_apart(width, context)
    keep_apart(width, seq)
    hint(width, "head_dim")
    result = [*[list(axis) for axis in lead], list(seq), width]
    if step.kwargs.get("heads_last"):  # [batch, seq, heads, dim]
        result = [*result[:-3], result[-2], result[-3], width]
    low.draft(
        step,
        OpKind.ATTENTION_VALUES,
        [Use(low.view(probs)), weighted, *low.after(weighted.view)],
        [(step.out, result)],
        suffix="values",
        macs=batch * pairs * extent(width),
        density=density,
    )


def _operand(low: Lowering, value: Value, lead: list[Axis], context: Axis, turned: bool = False) -> Use:
    """Keys or values: their positions are the context, whatever loop wrote them."""
    view = low.view(value)
    if turned:
        rank = len(view.axes)
        view = view.permuted([*range(rank - 2), rank - 1, rank - 2])
    use = Use(view, renamed=[(view.axes[-2], context)])
    own = view.axes[:-2]
    if len(own) == len(lead):
        _same_axes(use, lead, own)
        if lead and 1 < extent(own[-1]) < extent(lead[-1]):  # several heads of queries to one of keys
            unifiable(lead[-1], [*own[-1], Atom(extent(lead[-1]) // extent(own[-1]))])
    return use


def _same_axes(use: Use, mine: list[Axis], own: list[Axis]) -> None:
    for one, other in zip(mine, own, strict=True):
        if extent(one) == extent(other) and not unifiable(one, other):
            use.renamed.append((other, one))


def _biased(low: Lowering, bias: Value, axes: list[Axis]) -> Use:
    """A bias added to the scores, indexed as they are, whatever loops it was made over."""
    view = low.view(bias)
    use = Use(view)
    for own, mine in zip(reversed(view.axes), reversed(axes), strict=False):
        if extent(own) == extent(mine) and leaves(own):
            use.renamed.append((own, mine))
    return use


def _hint_heads(lead: list[Axis], seq: Axis, width: Axis) -> None:
    hint(width, "head_dim")
    hint(seq, "seq")
    if lead and leaves(lead[-1]):
        atoms = leaves(lead[-1])
        hint(atoms[:1], "kv_heads" if len(atoms) > 1 else "heads")
        hint(atoms[1:], "group")
    for axis in lead[:-1]:
        hint(axis, "batch")


# ------------------------------------------------------------------------------ experts


@handles("dispatch")
def dispatch(low: Lowering, step: Step) -> None:
    """A token's row once for each expert it visits, sorted by expert."""
    x, indices = step.args
    seen, chosen = low.view(x), low.view(indices)
    rows: Axis = [Atom(step.out.shape[0], "rows")]
    width = list(seen.axes[-1])
    tokens = [atom for axis in seen.axes[:-1] for atom in axis]
    picks = [atom for axis in chosen.axes for atom in axis]
    uses = [Use(seen, looked_up=[(tokens, rows)], share=Fraction(1)), Use(chosen, looked_up=[(picks, rows)])]
    note = "a token's row once per expert it visits, by expert"
    low.draft(step, OpKind.PERMUTE, uses, [(step.out, [rows, width])], note=note)


@handles("grouped_matmul")
def grouped_matmul(low: Lowering, step: Step) -> None:
    """Rows by the weight ``[experts, in, out]`` of the expert they belong to; balanced routing is assumed."""
    x, weight = step.args
    seen, kernel = low.view(x), low.view(weight)
    hint(kernel.axes[0], "experts")
    renamed = contract(low, seen.axes[-1], kernel.axes[-2])
    columns = list(kernel.axes[-1])
    keep_apart(columns, seen.axes[-1])
    experts, per_token = extent(kernel.axes[0]), int(step.kwargs["per_token"])
    rows = product(seen.axes[:-1])
    active = active_experts(experts, per_token, max(1, rows // per_token))
    uses = [Use(seen), Use(kernel, renamed, share=Fraction(active, experts))]
    axes = [*[list(axis) for axis in seen.axes[:-1]], columns]
    macs = product(axes) * extent(seen.axes[-1])
    note = f"grouped matmul, balanced routing assumed: {active} experts touched"
    low.draft(step, OpKind.MATMUL, uses, [(step.out, axes)], macs=macs, note=note)


@handles("combine")
def combine(low: Lowering, step: Step) -> None:
    """The rows of a token, weighted by the router and added up."""
    done, weights = step.args
    seen, router = low.view(done), low.view(weights)
    chosen = router.axes[-1]
    tokens = [atom for axis in router.axes[:-1] for atom in axis]
    rows = [atom for axis in seen.axes[:-1] for atom in axis]
    axes: list[Axis] = [list(tokens), list(seen.axes[-1])]
    use = Use(seen, renamed=[(rows, [*tokens, *chosen])])
    elements = product(seen.axes)
    note = "sum of a token's rows, weighted by the router"
    low.draft(step, OpKind.COMBINE, [use, Use(router)], [(step.out, axes)], vector=work("combine", elements), note=note)
