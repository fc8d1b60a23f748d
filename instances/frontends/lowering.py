"""From the steps of a program to the operators of a graph: every step's handler, and what they share.

A handler gets a :class:`Lowering` and a step, looks at the step's operands as views (:mod:`instances.frontends.axes`),
says which axes are the same loop, and drafts one operator or several. Nothing is named or sized until all steps are
drafted, because a later view may still split a loop: :mod:`instances.frontends.emission` then writes the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from instances.errors import InputError
from instances.frontends.axes import (
    Atom,
    Axis,
    Base,
    UnalignedError,
    View,
    extent,
    keep_apart,
    leaves,
    unifiable,
    unify,
)
from instances.frontends.program import Program, Step, Value, well_formed
from instances.graph import OpKind
from instances.graph_builder import Work, work

DTYPES = {
    "float64": "float32",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint8": "int8",
    "bool": "int8",
    "float8_e4m3fn": "int8",
    "float8_e5m2": "int8",
    "complex64": "int64",
}
"""Element type of a captured tensor -> the type it is modelled in, of the same size (float64: computed in 32 bits)."""


@dataclass
class Use:
    """How an operator reads a tensor.

    Parameters
    ----------
    view
        What it sees of it.
    renamed
        Axes that this operator runs over by other loops than their own: pairs of old and new atoms of equal extent.
    looked_up
        Axes whose elements are chosen by data: old atoms, and the loops that do the choosing.
    share
        Part of the tensor that is touched where not all of it is.
    """

    view: View
    renamed: list[tuple[Axis, Axis]] = field(default_factory=list)
    looked_up: list[tuple[Axis, Axis]] = field(default_factory=list)
    share: Fraction = Fraction(1)


@dataclass
class Draft:
    """An operator in the making; ``whole`` are axes that a tile must hold entirely."""

    name: str
    kind: OpKind
    reads: list[Use]
    writes: list[Base]
    macs: int = 0
    vector: Work = field(default_factory=dict)
    whole: list[Axis] = field(default_factory=list)
    density: float = 1.0
    note: str = ""
    sources: tuple[str, ...] = ()


Handler = Callable[["Lowering", Step], None]

HANDLERS: dict[str, Handler] = {}
"""Operator name, without namespace ``aten`` and overload -> what drafts it."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operators by name."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


class Lowering:
    """What handlers work with: views of values, drafted operators, tensors."""

    def __init__(self, program: Program, extra: dict[str, Handler] | None = None, allow_unknown: bool = False) -> None:
        self.program = program
        self.handlers = {**HANDLERS, **(extra or {})}
        self.allow_unknown = allow_unknown
        self.drafts: list[Draft] = []
        self.views: dict[Value, View] = {}
        self.bases: list[Base] = []
        self.appended: dict[Base, list[Base]] = {}
        self.unknown: dict[str, list[str]] = {}
        self.set_aside: list[str] = []
        self._names: dict[str, int] = {}

    def run(self) -> None:
        """Draft all steps; :class:`InputError` that counts operators which have no handler."""
        missing: dict[str, list[Step]] = {}
        for step in self.program.steps:
            if all(value.side != "device" for value in step.outputs):
                self.set_aside += step.sources
                continue
            handler = self.handlers.get(step.op)
            if handler is None:
                missing.setdefault(step.full_op or step.op, []).append(step)
            with well_formed(f"graph {self.program.name}: node {step.place} ({step.full_op or step.op})"):
                try:
                    (handler or generic)(self, step)
                except UnalignedError:
                    raise ValueError("axes of different extents") from None
        if missing and not self.allow_unknown:
            raise unmapped(self.program.name, missing)
        self.unknown = {op: [step.place for step in steps] for op, steps in missing.items()}

    # ------------------------------------------------------------------ values

    def view(self, value: Value) -> View:
        """How a value is seen; what comes from outside becomes a tensor on first sight."""
        if value not in self.views:
            self.views[value] = self._outside(value)
        return self.views[value]

    def _outside(self, value: Value) -> View:
        step = value.producer
        if step is not None and step.op in VIEWS and step.args and isinstance(step.args[0], Value):
            try:
                return VIEWS[step.op](self.view(step.args[0]), step, step.outputs.index(value))
            except UnalignedError:
                pass
        if value.dtype == "none":
            raise InputError(f"graph {self.program.name}: input {value.name!r} is no tensor but is read as one")
        role = "weight" if value.side == "weight" else "input"
        if step is None and value.kind == "buffer" and value.side == "host":
            role = "weight"
        return self.whole(self.base(value.target or value.name, value, [[Atom(size)] for size in value.shape], role))

    def base(self, name: str, value: Value, axes: list[Axis], role: str = "intermediate") -> Base:
        """A new tensor in memory for a value."""
        if 0 in value.shape:
            raise InputError(
                f"graph {self.program.name}: tensor {value.name!r} has no elements (shape {list(value.shape)}); "
                "capture it at sizes above zero"
            )
        made = Base(name, axes, self.program.stored_dtype(value), role)
        for index, axis in enumerate(axes):
            for other in axes[index + 1 :]:
                keep_apart(axis, other)
        self.bases.append(made)
        return made

    @staticmethod
    def whole(base: Base) -> View:
        """All of a tensor, axis by axis."""
        return View(base, [list(axis) for axis in base.axes])

    def use(self, value: Value) -> Use:
        """A plain read of a value."""
        return Use(self.view(value))

    def after(self, view: View) -> list[Use]:
        """What must be there before a view is read: rows that were appended to a cache."""
        return [Use(self.whole(rows)) for rows in self.appended.get(view.base, [])]

    def name_of(self, step: Step, suffix: str = "") -> str:
        """A name for an operator: where its module says it all, the module's path; else path and node."""
        path = step.module[0]
        own = step.sources[-1] if step.sources else step.op
        leaf = step.op in NAMED_BY_MODULE and path
        name = path if leaf else (f"{path}.{own}" if path else own)
        name = (name + (f".{suffix}" if suffix else ""))[:190]
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else f"{name}#{count + 1}"

    # --------------------------------------------------------------- operators

    def draft(
        self,
        step: Step,
        kind: OpKind,
        reads: Sequence[Use],
        writes: Sequence[tuple[Value, list[Axis]]],
        *,
        suffix: str = "",
        macs: int = 0,
        vector: Work | None = None,
        whole: Sequence[Axis] = (),
        density: float = 1.0,
        note: str = "",
    ) -> list[View]:
        """One operator for a step; its results, also noted as the values' views."""
        made = []
        for value, axes in writes:
            view = self.whole(self.base(value.name, value, axes))
            self.views[value] = view
            made.append(view)
        self.drafts.append(
            Draft(
                self.name_of(step, suffix),
                kind,
                list(reads),
                [view.base for view in made],
                macs,
                vector or {},
                list(whole),
                density,
                note,
                step.sources,
            )
        )
        return made

    def fresh(self, shape: Sequence[int]) -> list[Axis]:
        """Axes of their own."""
        return [[Atom(size)] for size in shape]

    def broadcast(self, shape: Sequence[int], values: Sequence[Value]) -> tuple[list[Axis], list[Use]]:
        """The axes of an elementwise result, and the reads that run over them.

        An axis is that of the first operand that spans it; the others' are made the same loop, or, where an operator
        must tell the two apart, renamed in this operator alone.
        """
        views = [self.view(value) for value in values]
        axes: list[Axis] = []
        for place, size in enumerate(shape):
            spanning = (self._axis(view, place - len(shape)) for view in views)
            axes.append(
                next((list(axis) for axis in spanning if axis is not None and extent(axis) == size), [Atom(size)])
            )
        uses = []
        for view in views:
            use = Use(view)
            for place, axis in enumerate(axes):
                own = self._axis(view, place - len(shape))
                if own is not None and extent(own) == extent(axis) and not unifiable(axis, own):
                    use.renamed.append((own, axis))
            uses.append(use)
        return axes, uses

    @staticmethod
    def _axis(view: View, from_right: int) -> Axis | None:
        return view.axes[from_right] if len(view.axes) >= -from_right else None


NAMED_BY_MODULE = frozenset(["linear", "addmm", "matmul", "norm", "embedding", "grouped_matmul", "convolution"])
"""Operators that are all their module does."""


def unmapped(graph: str, missing: dict[str, list[Step]]) -> InputError:
    """One sentence on operators without a handler: each with its count and first place."""
    found = "; ".join(f"{op} ({len(steps)} times, first {steps[0].place})" for op, steps in sorted(missing.items()))
    return InputError(
        f"graph {graph}: {len(missing)} operators are not mapped: {found}; "
        "register them with opt.register_op, or allow unknown ones (--allow-unknown), priced as elementwise"
    )


def generic(low: Lowering, step: Step) -> None:
    """An operator nobody knows: reads all it reads, writes all it writes, one two-source instruction per element."""
    reads = [value for value in step.reads if value.side == "device"] or step.reads
    outs = step.outputs
    same = [value for value in reads if value.shape == outs[0].shape]
    axes, uses = low.broadcast(outs[0].shape, same)
    others = [low.use(value) for value in reads if value not in same]
    writes = [(outs[0], axes)] + [(value, low.fresh(value.shape)) for value in outs[1:]]
    elements = sum(math.prod(value.shape) for value in outs)
    note = f"unknown operator {step.full_op or step.op}, priced as elementwise"
    low.draft(step, OpKind.ELEMENTWISE, uses + others, writes, vector=work("add", elements), note=note)


# ------------------------------------------------------------------------------ views


ViewOf = Callable[[View, Step, int], View]


def _reshape(view: View, step: Step, output: int) -> View:
    return view.reshaped(step.outputs[output].shape)


def _permute(view: View, step: Step, output: int) -> View:
    rank = len(view.axes)
    if step.op in ("transpose", "swapaxes"):
        one, other = (int(step.args[1]) % rank, int(step.args[2]) % rank)
        order = list(range(rank))
        order[one], order[other] = other, one
    elif step.op in ("t", "numpy_T"):
        order = list(range(rank))[::-1]
    else:
        order = [int(axis) % rank for axis in step.arg(1, "dims")]
    return view.permuted(order)


def _expand(view: View, step: Step, output: int) -> View:
    return view.expanded(step.outputs[output].shape)


def _slice(view: View, step: Step, output: int) -> View:
    axis = int(step.arg(1, "dim", 0)) % len(view.axes)
    size = extent(view.axes[axis])
    start = step.arg(2, "start", 0) or 0
    start = max(0, start + size) if start < 0 else min(start, size)
    return view.sliced(axis, int(start), step.outputs[output].shape[axis], int(step.arg(4, "step", 1) or 1))


def _select(view: View, step: Step, output: int) -> View:
    axis = int(step.arg(1, "dim", 0)) % len(view.axes)
    index = int(step.arg(2, "index", 0)) % max(1, extent(view.axes[axis]))
    seen = view.sliced(axis, index, 1, 1)
    return View(seen.base, [*seen.axes[:axis], *seen.axes[axis + 1 :]], seen.parts)


def _split(view: View, step: Step, output: int) -> View:
    default = 0
    axis = int(step.arg(2, "dim", default)) % len(view.axes)
    start = sum(value.shape[axis] for value in step.outputs[:output])
    return view.sliced(axis, start, step.outputs[output].shape[axis], 1)


def _unbind(view: View, step: Step, output: int) -> View:
    axis = int(step.arg(1, "dim", 0)) % len(view.axes)
    seen = view.sliced(axis, output, 1, 1)
    return View(seen.base, [*seen.axes[:axis], *seen.axes[axis + 1 :]], seen.parts)


def _repeat(view: View, step: Step, output: int) -> View:
    """Repetition of whole axes: each element (``repeat_interleave``) or each axis of one (``repeat``)."""
    shape = step.outputs[output].shape
    if step.op == "repeat_interleave":
        axis = int(step.arg(2, "dim")) % len(view.axes)
        times = shape[axis] // max(1, extent(view.axes[axis]))
        axes = [[*own, Atom(times)] if place == axis else own for place, own in enumerate(view.axes)]
        return View(view.base, axes, view.parts)
    padded: list[Axis] = [[] for _ in range(len(shape) - len(view.axes))] + view.axes
    axes = [[Atom(size // max(1, extent(own))), *own] for size, own in zip(shape, padded, strict=True)]
    return View(view.base, axes, view.parts)


VIEWS: dict[str, ViewOf] = {
    **dict.fromkeys(["view", "unsqueeze", "squeeze", "flatten", "unflatten", "_reshape_alias", "ravel"], _reshape),
    **dict.fromkeys(["transpose", "swapaxes", "t", "numpy_T", "permute"], _permute),
    **dict.fromkeys(("expand", "broadcast_to", "expand_as"), _expand),
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("repeat", "repeat_interleave"), _repeat),
}
"""Operations that only look at a tensor in another way."""


@handles(*VIEWS)
def view_step(low: Lowering, step: Step) -> None:
    """A view; a copy where the new shape does not go with the loops of the old."""
    source = step.args[0]
    for output, value in enumerate(step.outputs):
        try:
            low.views[value] = VIEWS[step.op](low.view(source), step, output)
        except UnalignedError:
            touched = Fraction(min(math.prod(value.shape), math.prod(source.shape)), max(1, math.prod(source.shape)))
            use = Use(low.view(source), share=touched)
            note = "copied: the new shape cuts across the loops of the old"
            low.draft(step, OpKind.PERMUTE, [use], [(value, low.fresh(value.shape))], vector=work("move", 0), note=note)


def contract(low: Lowering, one: Axis, other: Axis) -> list[tuple[Axis, Axis]]:
    """Pair two axes that a product sums over; the renaming of the second where they cannot be one loop."""
    try:
        unify(one, other)
    except UnalignedError:
        return [(other, one)]
    return []


def product(axes: Sequence[Axis]) -> int:
    """Elements of several axes."""
    return math.prod(leaf.extent for axis in axes for leaf in leaves(axis))
