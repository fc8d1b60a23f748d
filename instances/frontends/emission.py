"""From drafted operators to a checked graph: tensors cut where only stretches of them are read, loops named.

Two things wait until all operators are drafted. A product of which everybody reads only stretches of the columns (a
merged query-key-value projection, gate and up in one) becomes one product per stretch, each with its columns of the
weight: the optimizer may merge them again, and knows them apart. And loops get names, the same in every layer: what a
rule suggested, or the extent, told apart by a number where one operator runs over two of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from pydantic import ValidationError

from instances.documents import first_problem
from instances.errors import InputError
from instances.frontends.axes import Atom, Axis, Base, UnalignedError, View, extent, leaves, refine
from instances.frontends.lowering import DTYPES, Draft, Lowering, Use
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor

BATCH = "batch"
"""Name of the loop over sequences. Where there is one sequence it is kept all the same, with an extent of one: rows of
different operators are cut together along it."""

CUTTABLE = frozenset({OpKind.MATMUL})
"""Operators that are cut where only stretches of their result are read."""


def emit(low: Lowering, name: str) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """The graph of all drafts, and the captured nodes that each operator stands for."""
    drafts = _cut(low)
    _settle(drafts)
    names = _loop_names(drafts)
    single = BATCH not in names.values()
    tensors: dict[Base, Tensor] = {}
    labels: dict[str, int] = {}

    def tensor(base: Base) -> Tensor:
        if base not in tensors:
            label = base.name[:190]
            labels[label] = labels.get(label, 0) + 1
            if labels[label] > 1:
                label = f"{label}#{labels[label]}"
            shape = tuple(size for size in map(extent, base.axes) if size > 1)
            shape = (1, *shape) if single and base.role != "weight" else shape or (1,)
            tensors[base] = Tensor(name=label, shape=shape, dtype=_dtype(low, base), role=Role(base.role))
        return tensors[base]

    operators = []
    sources: dict[str, tuple[str, ...]] = {}
    try:
        for item in drafts:
            reads = [_access(tensor(use.view.base), use, names, single) for use in item.reads]
            reads = reads if item.macs else list(dict.fromkeys(reads))  # a product is of two operands, even if equal
            writes = [_access(tensor(base), Use(Lowering.whole(base)), names, single) for base in item.writes]
            operators.append(_operator(item, reads, writes, names))
            sources[item.name] = item.sources
        graph = Graph(name=name[:190], tensors=tuple(tensors.values()), operators=tuple(operators))
    except ValidationError as error:
        raise InputError(f"graph {name}: {first_problem(error)}; capture it at another size") from None
    return graph, sources


def _dtype(low: Lowering, base: Base) -> DType:
    if base.dtype not in DTYPES:
        raise InputError(
            f"graph {low.program.name}: tensor {base.name!r} has element type {base.dtype!r}, which is not modelled; "
            f"use one of {', '.join(DTYPES)}"
        )
    return DType(DTYPES[base.dtype])


def _operator(item: Draft, reads: list[Access], writes: list[Access], names: dict[Atom, str]) -> Operator:
    dims = {leaf_name: size for use in item.reads for leaf_name, size in _loops(use, names)}
    for base in item.writes:
        dims |= {names[leaf]: leaf.extent for axis in base.axes for leaf in leaves(axis)}
    dims[BATCH] = dims.get(BATCH, 1)
    indexed = {loop for access in (*reads, *writes) for loop in access.loops}
    kept = {loop: dims[loop] for loop in dims if loop in indexed}
    whole = dict.fromkeys(names[leaf] for axis in item.whole for leaf in leaves(axis) if names[leaf] in kept)
    return Operator(
        name=item.name,
        kind=item.kind,
        dims=kept,
        reads=tuple(reads),
        writes=tuple(writes),
        macs=item.macs,
        vector={klass: count for klass, count in item.vector.items() if count},
        whole=tuple(whole),
        density=item.density,
        note=item.note[:300],
    )


# ------------------------------------------------------------------------------ accesses


def _seen(use: Use) -> tuple[list[Axis], Fraction]:
    """The base's axes as an operator runs over them, and the share of the tensor that it touches."""
    view = use.view
    share = use.share
    parts = {key.root(): part for key, part in view.parts.items()}

    def walk(atom: Atom) -> Iterable[Atom]:
        nonlocal share
        top = atom.root()
        if top in parts:
            share *= Fraction(max(1, parts[top].extent), top.extent)
            yield from walk(parts[top])
        elif top._factors is not None:
            for factor in top._factors:
                yield from walk(factor)
        elif top.extent > 1:
            yield top

    axes = [[leaf for atom in axis for leaf in walk(atom)] for axis in view.base.axes]
    for old, new in use.renamed:
        axes = _replaced(axes, leaves(old), leaves(new))
    for old, new in use.looked_up:
        axes = _looked_up(axes, leaves(old), leaves(new))
    return axes, share


def _replaced(axes: list[Axis], old: list[Atom], new: list[Atom]) -> list[Axis]:
    """Axes with a run of loops replaced by others of the same extent, within one axis or along several."""
    if not old:
        return axes
    for place, axis in enumerate(axes):
        for start in range(len(axis) - len(old) + 1):
            if axis[start : start + len(old)] == old:
                return [*axes[:place], [*axis[:start], *new, *axis[start + len(old) :]], *axes[place + 1 :]]
    pairs = dict(_paired(old, new))
    return [[pairs.get(leaf, leaf) for leaf in axis] for axis in axes]


def _paired(old: list[Atom], new: list[Atom]) -> list[tuple[Atom, Atom]]:
    return list(zip(old, new, strict=True)) if len(old) == len(new) else []


def _looked_up(axes: list[Axis], old: list[Atom], new: list[Atom]) -> list[Axis]:
    """Axes with loops replaced by those that choose among their elements: in place of the first, the others vanish."""
    wanted = set(old)
    found: list[Axis] = []
    given = False
    for axis in axes:
        if not given and (any(leaf in wanted for leaf in axis)):
            kept = [leaf for leaf in axis if leaf not in wanted]
            found.append([*kept, *new])
            given = True
        else:
            found.append([leaf for leaf in axis if leaf not in wanted])
    return found


def _access(tensor: Tensor, use: Use, names: dict[Atom, str], single: bool) -> Access:
    axes, share = _seen(use)
    kept = [axis for axis, own in zip(axes, use.view.base.axes, strict=True) if extent(own) > 1]
    dims = tuple("*".join(dict.fromkeys(names[leaf] for leaf in axis)) or "1" for axis in kept)
    sizes = [math.prod(leaf.extent for leaf in axis) for axis in kept]
    if single and use.view.base.role != "weight":
        dims, sizes = (BATCH, *dims), [1, *sizes]
    elif not kept:
        dims, sizes = ("1",), [1]
    touched = None
    if use.looked_up or share < 1 or tuple(sizes) != tensor.shape:
        touched = min(tensor.size_bytes, max(1, math.ceil(tensor.size_bytes * share)))
    return Access(tensor=tensor.name, dims=dims, touched_bytes=touched)


def _loops(use: Use, names: dict[Atom, str]) -> list[tuple[str, int]]:
    return [(names[leaf], leaf.extent) for axis in _seen(use)[0] for leaf in axis]


def _settle(drafts: list[Draft]) -> None:
    """Split loops until those that were renamed pair up; every split may ask for another."""
    for _ in range(8):
        before = _census(drafts)
        for item in drafts:
            for use in item.reads:
                for old, new in use.renamed:
                    if extent(old) == extent(new) and len(leaves(old)) != len(leaves(new)):
                        try:
                            refine(old, new)
                        except UnalignedError:
                            continue
        if _census(drafts) == before:
            return


def _census(drafts: list[Draft]) -> int:
    return sum(len(leaves(axis)) for item in drafts for base in item.writes for axis in base.axes)


# ------------------------------------------------------------------------------ cutting


def _cut(low: Lowering) -> list[Draft]:
    """Products cut into the stretches that are read of them."""
    readers: dict[Base, list[Use]] = {}
    for item in low.drafts:
        for use in item.reads:
            readers.setdefault(use.view.base, []).append(use)
    results = {low.views[value].base for value in low.program.outputs if value in low.views}
    found: list[Draft] = []
    for item in low.drafts:
        stretches = _stretches(item, readers) if item.kind in CUTTABLE and len(item.writes) == 1 else None
        if stretches is None or item.writes[0] in results:
            found.append(item)
            continue
        found += _pieces(item, *stretches, readers)
    return found


def _stretches(item: Draft, readers: dict[Base, list[Use]]) -> tuple[Atom, list[Atom]] | None:
    """The loop of a product's columns that is read in stretches alone, and the stretches; ``None``: it is not."""
    base = item.writes[0]
    uses = readers.get(base, [])
    whole: Atom | None = None
    parts: dict[tuple[int, int], Atom] = {}
    own = set().union(*map(_roots, base.axes))
    for use in uses:
        outer = [(key, part) for key, part in use.view.parts.items() if key.root() in own]
        if len(outer) != 1:
            return None
        ((key, part),) = outer
        if (whole is not None and key.root() is not whole.root()) or part.part_of is None or part.part_of[2] != 1:
            return None
        whole = key
        parts.setdefault((part.part_of[1], part.extent), part)
    spans = sorted(parts)
    if whole is None or len(spans) < 2 or any(a + n > b for (a, n), (b, _) in pairwise(spans)):
        return None
    operand = item.reads[1].view
    if operand.parts or not any(whole.root() in _roots(axis) for axis in operand.base.axes):
        return None
    if len(readers.get(operand.base, [])) != 1 or operand.base.role != "weight":
        return None
    return whole, [parts[span] for span in spans]


def _roots(axis: Axis) -> set[Atom]:
    """The representatives of an axis's atoms and of all their factors that are not leaves themselves."""
    found: set[Atom] = set()
    stack = list(axis)
    while stack:
        top = stack.pop().root()
        found.add(top)
        stack += top._factors or ()
    return found


def _pieces(item: Draft, whole: Atom, parts: list[Atom], readers: dict[Base, list[Use]]) -> list[Draft]:
    """One product per stretch: its columns of the weight and of the bias, its result; readers follow."""
    base, pieces = item.writes[0], []
    for part in parts:
        start = part.part_of[1] if part.part_of else 0
        label = f"[{start}:{start + part.extent}]"
        made = _stretch(base, whole, part, label)
        reads = []
        for use in item.reads:
            if any(whole.root() in _roots(axis) for axis in use.view.base.axes) and use.view.base.role == "weight":
                cut = _stretch(use.view.base, whole, part, label)
                reads.append(replace(use, view=View(cut, [_swapped(axis, whole, part) for axis in use.view.axes])))
            else:
                reads.append(use)
        macs = item.macs * part.extent // whole.root().extent
        pieces.append(replace(item, name=f"{item.name}{label}", reads=reads, writes=[made], macs=macs))
        for use in readers[base]:
            if any(seen is part for seen in use.view.parts.values()):
                inner = {key: seen for key, seen in use.view.parts.items() if seen is not part}
                use.view = View(made, use.view.axes, inner)
    return pieces


def _stretch(base: Base, whole: Atom, part: Atom, label: str) -> Base:
    """A tensor with one stretch of a loop in place of all of it."""
    axes = [_swapped(axis, whole, part) for axis in base.axes]
    return Base(f"{base.name}{label}", axes, base.dtype, base.role)


def _swapped(axis: Axis, whole: Atom, part: Atom) -> Axis:
    """An axis with a stretch in place of a loop, wherever that stands among its factors."""
    found: Axis = []
    for atom in axis:
        top = atom.root()
        if top is whole.root():
            found.append(part)
        elif top._factors is not None and whole.root() in _roots([top]):
            found += _swapped(list(top._factors), whole, part)
        else:
            found.append(atom)
    return found


# -------------------------------------------------------------------------------- names


def _loop_names(drafts: list[Draft]) -> dict[Atom, str]:
    """A name per loop: equal loops of different layers share it, two loops of one operator never do."""
    together: dict[Atom, dict[Atom, None]] = {}
    order: dict[Atom, None] = {}
    for item in drafts:
        mine: dict[Atom, None] = {}
        for use in item.reads:
            mine |= dict.fromkeys(leaf for axis in _seen(use)[0] for leaf in axis)
        mine |= dict.fromkeys(leaf for base in item.writes for axis in base.axes for leaf in leaves(axis))
        order |= mine
        for leaf in mine:
            together.setdefault(leaf, {}).update(mine)
    names: dict[Atom, str] = {}
    sizes: dict[str, int] = {}
    for leaf in order:
        base = leaf.hint or f"d{leaf.extent}"
        taken = {names[other] for other in together[leaf] if other in names and other is not leaf}
        candidates = [base, f"{base}_{leaf.extent}"]
        number = 2
        while True:
            name = candidates.pop(0) if candidates else f"{base}_{leaf.extent}_{number}"
            if not candidates and name in taken | {n for n in sizes if sizes[n] != leaf.extent}:
                number += 1
            if name not in taken and sizes.get(name, leaf.extent) == leaf.extent:
                break
        names[leaf] = name
        sizes.setdefault(name, leaf.extent)
    return names
