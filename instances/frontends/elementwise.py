"""Handlers of vector operators: elementwise, reductions, scans, moves, and what a network is glued together with."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from instances.frontends.axes import Atom, Axis, View, extent, hint, unifiable
from instances.frontends.lowering import HANDLERS, Handler, Lowering, Use, handles, product
from instances.frontends.program import Step, Value
from instances.frontends.rules.matching import behind
from instances.graph import OpKind, VectorClass
from instances.graph_builder import Work, work

V = VectorClass


def _table(rows: dict[str, Work]) -> dict[str, Work]:
    """A row per operator, from rows under several names each."""
    return {name: per_element for names, per_element in rows.items() for name in names.split()}


PER_RESULT = _table(
    {
        "add sub mul maximum minimum where masked_fill copy addcmul rsub fmod": {V.TWO_SOURCE: 1},
        "bitwise_and bitwise_or logical_and logical_or eq ne lt le gt ge min max": {V.TWO_SOURCE: 1},
        "index_put scatter scatter_add index_add select_scatter slice_scatter": {V.TWO_SOURCE: 1},
        "neg abs clamp clamp_min clamp_max threshold bitwise_not logical_not sign": {V.ONE_SOURCE: 1},
        "round floor ceil trunc isnan isinf tril triu hardtanh relu6 square": {V.ONE_SOURCE: 1},
        "exp exp2 log log2 log1p expm1 cos sin sqrt": {V.TRANSCENDENTAL: 1},
        "rsqrt reciprocal": {V.TRANSCENDENTAL: 1, V.DIVIDE: 1},
        "div floor_divide remainder": {V.DIVIDE: 1},
        "pow": {V.TWO_SOURCE: 2},
        "softplus": {V.TRANSCENDENTAL: 2, V.ONE_SOURCE: 1},
        "sigmoid": {V.ONE_SOURCE: 2, V.TRANSCENDENTAL: 1, V.DIVIDE: 1},
        "hardsigmoid": {V.ONE_SOURCE: 3},
        "hardswish": {V.ONE_SOURCE: 3, V.TWO_SOURCE: 1},
        "leaky_relu": {V.ONE_SOURCE: 1, V.TWO_SOURCE: 1},
        "elu": {V.TRANSCENDENTAL: 1, V.ONE_SOURCE: 2},
        "mish": {V.TRANSCENDENTAL: 3, V.ONE_SOURCE: 3, V.DIVIDE: 1, V.TWO_SOURCE: 1},
        "_to_copy to cast type_as": {V.CONVERT: 1},
        "erf tanh": {V.ONE_SOURCE: 3, V.TRANSCENDENTAL: 1, V.DIVIDE: 1},
    }
)
"""Vector instructions per element of the result, by operator."""

ACTIVATIONS = {"silu": "silu_gated", "gelu": "gelu", "relu": "relu"}
"""Activation functions -> their row of :data:`instances.graph_builder.PER_ELEMENT`."""


def elementwise(per_element: Work, kind: OpKind = OpKind.ELEMENTWISE) -> Handler:
    """A handler for an operator that computes each element of its result from those in its place."""

    def handler(low: Lowering, step: Step) -> None:
        given = list(dict.fromkeys(step.reads))
        reads = [value for value in given if value.shape or value.side == "device"] or given
        axes, uses = low.broadcast(step.out.shape, reads)
        elements = math.prod(step.out.shape)
        low.draft(step, kind, uses, [(step.out, axes)], vector={c: n * elements for c, n in per_element.items()})

    return handler


for _name, _per_element in PER_RESULT.items():
    HANDLERS[_name] = elementwise(_per_element)
HANDLERS["router_sigmoid"] = elementwise(PER_RESULT["sigmoid"], OpKind.ACTIVATION)
HANDLERS["tanh"] = elementwise(PER_RESULT["tanh"], OpKind.ACTIVATION)


@handles("silu", "gelu", "relu")
def activation(low: Lowering, step: Step) -> None:
    """An activation function of one operand."""
    axes, uses = low.broadcast(step.out.shape, [step.args[0]])
    elements = math.prod(step.out.shape)
    vector = work(ACTIVATIONS[step.op], elements)
    hint(axes[-1], "ffn")
    low.draft(step, OpKind.ACTIVATION, uses, [(step.out, axes)], vector=vector)


@handles("gated_activation")
def gated_activation(low: Lowering, step: Step) -> None:
    """``act(gate) * up``, as one operator."""
    gate, up = step.args
    axes, uses = low.broadcast(step.out.shape, [gate, up])
    elements = math.prod(step.out.shape)
    if step.kwargs["function"] == "silu":
        vector = work("silu_gated", elements)
    else:
        vector = work("gelu", elements)
        vector[V.TWO_SOURCE] = vector.get(V.TWO_SOURCE, 0) + elements
    for axis in axes[-1:]:
        hint(axis, "ffn")
    low.draft(step, OpKind.ACTIVATION, uses, [(step.out, axes)], vector=vector)


@handles("norm")
def norm(low: Lowering, step: Step) -> None:
    """RMS or layer norm over the last axis, with its learned scale and bias."""
    x, *learned = step.args
    axes, uses = low.broadcast(step.out.shape, [x, *learned])
    elements, width = math.prod(step.out.shape), step.out.shape[-1]
    rows = elements // max(1, width)
    vector = work("rms_norm" if step.kwargs["rms"] else "layer_norm", elements, exp=rows, div=rows)
    low.draft(step, OpKind.NORM, uses, [(step.out, axes)], vector=vector, whole=[axes[-1]])


@handles("rope")
def rope(low: Lowering, step: Step) -> None:
    """Rotary position embedding over the last axis."""
    x, cos, sin = step.args
    axes, uses = low.broadcast(step.out.shape, [x])
    hint(axes[-1], "head_dim")
    for table in (cos, sin):
        view = low.view(table)
        use = Use(view)
        for place in range(1, min(len(view.axes), len(axes)) + 1):
            own, mine = view.axes[-place], axes[-place]
            if extent(own) == extent(mine):
                use = _along(use, own, mine)
            elif place == 1 and extent(own) > 1:  # half a head, each entry for two elements
                use.looked_up.append((own, mine))
        uses.append(use)
    vector = work("rope", math.prod(step.out.shape))
    low.draft(step, OpKind.ROPE, uses, [(step.out, axes)], vector=vector, whole=[axes[-1]])


def _along(use: Use, own: Axis, mine: Axis) -> Use:
    if not unifiable(mine, own):
        use.renamed.append((own, mine))
    return use


REDUCTIONS = _table(
    {
        "sum mean prod all any nansum": {V.REDUCE: 1},
        "amax amin max min argmax argmin": {V.MAXIMUM: 1},
        "var std": {V.REDUCE: 2, V.TWO_SOURCE: 2},
        "logsumexp": {V.MAXIMUM: 1, V.REDUCE: 1, V.ONE_SOURCE: 1, V.TRANSCENDENTAL: 1},
        "linalg_vector_norm": {V.REDUCE: 1, V.TWO_SOURCE: 1},
    }
)
"""Vector instructions per element of the operand, by reduction."""


@handles(*(name for name in REDUCTIONS if name not in ("max", "min")))
def reduction(low: Lowering, step: Step) -> None:
    """A reduction over some axes, or all."""
    x: Value = step.args[0]
    view = low.view(x)
    over = _reduced_axes(step, len(view.axes))
    keeps = len(step.out.shape) == len(view.axes)
    axes: list[Axis] = []
    for place, axis in enumerate(view.axes):
        if place not in over:
            axes.append(list(axis))
        elif keeps:
            axes.append([])
    axes += [[] for _ in range(len(step.out.shape) - len(axes))]
    elements = math.prod(x.shape)
    vector = {c: n * elements for c, n in REDUCTIONS[step.op].items()}
    writes = [(value, axes if value is step.out else [list(a) for a in axes]) for value in step.outputs]
    low.draft(step, OpKind.ELEMENTWISE, [Use(view)], writes, vector=vector, whole=[view.axes[p] for p in over])


HANDLERS["max"] = HANDLERS["min"] = lambda low, step: (
    reduction(low, step) if len(step.reads) == 1 else elementwise({V.TWO_SOURCE: 1})(low, step)
)


def _reduced_axes(step: Step, rank: int) -> list[int]:
    given: Any = step.arg(1, "dim")
    if given is None or given == []:
        return list(range(rank))
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = [given]
    return [int(axis) % rank for axis in given if isinstance(axis, int)]


SCANS = _table(
    {"cumsum cumprod logcumsumexp": {V.TWO_SOURCE: 1}, "sort argsort": {V.SORT: 1}, "flip roll": {}},
)
"""Vector instructions per element, by operator that works along an axis."""


@handles(*SCANS)
def scan(low: Lowering, step: Step) -> None:
    """An operator along one axis, which a tile must hold whole."""
    view = low.view(step.args[0])
    elements = math.prod(step.out.shape)
    axis = step.arg(1, "dim", -1)
    place = int(axis[0] if isinstance(axis, list) else axis) % max(1, len(view.axes))
    writes = [(value, [list(own) for own in view.axes]) for value in step.outputs]
    vector = {c: n * elements for c, n in SCANS[step.op].items()}
    low.draft(step, OpKind.ELEMENTWISE, [Use(view)], writes, vector=vector, whole=[view.axes[place]])


@handles("softmax", "log_softmax", "_log_softmax", "router_scores")
def softmax(low: Lowering, step: Step) -> None:
    """Softmax along one axis."""
    view = low.view(step.args[0])
    place = int(step.arg(1, "dim", -1)) % len(view.axes)
    elements = math.prod(step.out.shape)
    rows = elements // max(1, step.out.shape[place])
    vector = work("softmax", elements, div=rows)
    axes = [list(axis) for axis in view.axes]
    low.draft(step, OpKind.SOFTMAX, [Use(view)], [(step.out, axes)], vector=vector, whole=[axes[place]])


@handles("topk")
def topk(low: Lowering, step: Step) -> None:
    """The largest of each row, and where they stand."""
    x: Value = step.args[0]
    view = low.view(x)
    place = int(step.arg(2, "dim", -1)) % len(view.axes)
    chosen = [Atom(step.out.shape[place], "topk")]
    axes = [chosen if p == place else list(axis) for p, axis in enumerate(view.axes)]
    writes = [(value, [list(axis) for axis in axes]) for value in step.outputs]
    vector = work("sort", math.prod(x.shape))
    low.draft(step, OpKind.TOPK, [Use(view)], writes, vector=vector, whole=[view.axes[place], chosen])


@handles("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices", "local_response_norm")
def pool(low: Lowering, step: Step) -> None:
    """A window of each channel brought down to one element."""
    use = low.use(step.args[0])
    axes = [list(axis) for axis in use.view.axes[:2]] + low.fresh(step.out.shape[2:])
    for own, mine in zip(use.view.axes[2:], axes[2:], strict=True):
        if extent(own) == extent(mine):
            _along(use, own, mine)
        else:
            use.looked_up.append((own, mine))
    window = step.arg(1, "kernel_size", 1)
    taps = math.prod(window) if isinstance(window, list) else int(window) ** 2
    vector = {V.TWO_SOURCE: max(1, taps) * math.prod(step.out.shape)}
    low.draft(step, OpKind.ELEMENTWISE, [use], [(step.out, axes)], vector=vector, whole=axes[2:])


@handles("batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(low: Lowering, step: Step) -> None:
    """Scale and shift of each channel, by what was learned."""
    axes, uses = low.broadcast(step.out.shape, [step.args[0]])
    for value in step.reads[1:]:
        use = low.use(value)
        if len(use.view.axes) == 1 and extent(use.view.axes[0]) == extent(axes[1]):
            uses.append(_along(use, use.view.axes[0], axes[1]))
    elements = math.prod(step.out.shape)
    low.draft(step, OpKind.ELEMENTWISE, uses, [(step.out, axes)], vector={V.TWO_SOURCE: 2 * elements})


@handles("choose", "choose_groups")
def choose(low: Lowering, step: Step) -> None:
    """The experts of each token and their weights (or the groups to choose them from), from the scores of all."""
    view = low.view(step.args[0])
    tokens = [atom for axis in view.axes[:-1] for atom in axis]
    hint(view.axes[-1], "experts")
    chosen = [Atom(step.out.shape[-1], "topk" if step.op == "choose" else "topk_groups")]
    lead: list[Axis] = [list(axis) for axis in view.axes[:-1]]
    if tuple(map(extent, lead)) != step.out.shape[:-1]:
        lead = [*([] for _ in step.out.shape[:-2]), tokens]
    writes = [(value, [*map(list, lead), list(chosen)]) for value in step.outputs]
    reads = [low.use(value) for value in step.args]
    vector = work("sort", product(view.axes))
    low.draft(step, OpKind.TOPK, reads, writes, vector=vector, whole=[view.axes[-1], chosen])


@handles("cache_rows")
def cache_rows(low: Lowering, step: Step) -> None:
    """Rows of a cache, written as they were computed."""
    write_rows(low, step, low.view(step.args[0]), step.out)


@handles("cat", "stack")
def concatenate(low: Lowering, step: Step) -> None:
    """Tensors put behind each other: a move of all of them."""
    pieces: list[Value] = list(step.args[0])
    rank = len(step.out.shape)
    place = int(step.arg(1, "dim", 0)) % rank
    axes = low.fresh(step.out.shape)
    uses = []
    for piece in pieces:
        view = low.view(piece)
        own = view.axes if step.op == "cat" else [*view.axes[:place], [], *view.axes[place:]]
        use = Use(view)
        for p, axis in enumerate(own):
            if p != place and extent(axis) == extent(axes[p]):
                _along(use, axis, axes[p])
            elif p == place:
                use.looked_up.append((axis, axes[p]))
        uses.append(use)
    low.draft(step, OpKind.PERMUTE, uses, [(step.out, axes)], vector=work("move", 0), note="put behind each other")


@handles("pad", "constant_pad_nd", "unfold", "upsample_nearest2d", "pixel_shuffle")
def pad(low: Lowering, step: Step) -> None:
    """A tensor with a rim of constants, or its elements spread out: a move."""
    axes = low.fresh(step.out.shape)
    use = low.use(step.args[0])
    for p, axis in enumerate(use.view.axes):
        if p < len(axes) and extent(axis) == extent(axes[p]):
            _along(use, axis, axes[p])
        elif p < len(axes):
            use.looked_up.append((axis, axes[p]))
    low.draft(step, OpKind.PERMUTE, [use], [(step.out, axes)], vector=work("move", 0), note="padded")


@handles("embedding", "index", "index_select", "gather", "take_along_dim")
def lookup(low: Lowering, step: Step) -> None:
    """Rows of a table, by indices: along its first axis, or the one that is named."""
    table: Value = step.args[0]
    indices = [value for value in step.reads if value is not table]
    seen = low.view(table)
    along = _looked_up_axis(step) % max(1, len(seen.axes))
    each = step.op in ("gather", "take_along_dim")  # an index for each element of the result
    axes = low.fresh(step.out.shape)
    first = 0 if each else along  # axis of the result from which the indices are found
    uses: list[Use] = []
    for value in indices:
        use = low.use(value)
        for own, mine in zip(use.view.axes, axes[first:], strict=False):
            if extent(own) == extent(mine):
                _along(use, own, mine)
        uses.append(use)
    choosing = axes[along : along + 1] if each else axes[along : len(axes) - (len(seen.axes) - 1 - along)]
    reading = Use(seen)
    if len(indices) == 1:
        before, after = (axes[:along], axes[along + 1 :]) if each else (axes[:along], axes[along + len(choosing) :])
        for own, mine in zip([*seen.axes[:along], *seen.axes[along + 1 :]], [*before, *after], strict=True):
            if extent(own) == extent(mine):
                _along(reading, own, mine)
            else:
                reading.looked_up.append((own, mine))
    rows = product(axes) if each else product(choosing)
    reading.share = min(Fraction(1), Fraction(rows, max(1, product(seen.axes) if each else extent(seen.axes[along]))))
    reading.looked_up.append((seen.axes[along], [atom for axis in choosing for atom in axis]))
    if step.op == "embedding":
        hint(seen.axes[0], "vocab")
        _hint_tokens(low, indices[0], axes)
    note = "distinct rows"
    low.draft(step, OpKind.GATHER, [*uses, reading], [(step.out, axes)], vector=work("move", 0), note=note)


def _looked_up_axis(step: Step) -> int:
    if step.op == "index":  # a list with a place for each axis that is looked up along, or passed by
        places = step.args[1] if isinstance(step.args[1], list) else step.args[1:]
        return next((axis for axis, value in enumerate(places) if isinstance(value, Value)), 0)
    if step.op == "take_along_dim":
        return int(step.arg(2, "dim", 0))
    return 0 if step.op == "embedding" else int(step.arg(1, "dim", 0))


def _hint_tokens(low: Lowering, ids: Value, axes: list[Axis]) -> None:
    """Names for the axes of embedded tokens."""
    if len(ids.shape) == 2 and behind(ids).kind == "user_input":
        hint(axes[0], "batch")
        hint(axes[1], "seq")
        hint(axes[-1], "hidden")


@handles("positions")
def positions(low: Lowering, step: Step) -> None:
    """Rows of a table of positions in their order: they are read in place by whoever adds them."""
    table: Value = step.args[0]
    seen = low.view(table)
    rows = extent(seen.axes[0])
    wanted = step.out.shape[-2] if len(step.out.shape) > 1 else 1
    view = seen if wanted >= rows else seen.sliced(0, 0, wanted, 1)
    axes: list[Axis] = [[] for _ in step.out.shape[:-2]]
    low.views[step.out] = View(view.base, [*axes, *view.axes], view.parts)


@handles("cache_append")
def cache_append(low: Lowering, step: Step) -> None:
    """New rows behind those of a cache: only they are written; readers see the whole cache once they are there."""
    past, new = step.args
    written = low.view(new)
    rows = Value(f"{step.out.name}.rows", new.shape, new.stored_dtype)
    write_rows(low, step, written, rows)
    axes = [
        list(axis) if size == extent(axis) else [Atom(size, "context")]
        for axis, size in zip(written.axes, step.out.shape, strict=True)
    ]
    cache = Value(past.target or past.name, step.out.shape, past.dtype)
    whole = low.base(cache.name, cache, axes, "cache")
    low.appended[whole] = [low.views[rows].base]
    low.views[step.out] = low.whole(whole)


def write_rows(low: Lowering, step: Step, written: View, rows: Value) -> None:
    """An operator that writes new rows of a cache, an output."""
    axes = [list(axis) for axis in written.axes]
    note = "appended to the cache in place"
    vector = work("move", 0)
    made = low.draft(
        step, OpKind.CACHE_WRITE, [Use(written)], [(rows, axes)], suffix="cache_write", vector=vector, note=note
    )
    made[0].base.role = "output"
