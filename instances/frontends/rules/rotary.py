"""Rotary position embedding: as one operator, by rotated halves, by interleaved pairs, by complex numbers."""

from __future__ import annotations

from typing import Any

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import RESHAPES, behind, closed, made_by, number, two


def rotary_ops(program: Program) -> int:
    """Rotary embedding that the exporter left as one operator."""
    count = 0
    for step in program.steps:
        if step.op == "asc.rope.default":
            step.op, step.args, step.kwargs = "rope", tuple(step.args[:3]), {}
            count += 1
    return count


def rotated_halves(program: Program) -> int:
    """``x * cos + rotate(x) * sin``, where ``rotate`` puts the negated second half before the first."""
    count = 0
    for step in list(program.steps):
        if step.op != "add" or (pair := two(step)) is None:
            continue
        for plain, turned in (pair, pair[::-1]):
            match = _halves(plain, turned)
            if match is not None and closed(program, [*match[3], step], [step.out]):
                x, cos, sin, gone = match
                program.rewrite([*gone, step], Step("rope", (x, cos, sin), {}, [step.out], step.module))
                count += 1
                break
    return count


def _halves(plain: Any, turned: Any) -> tuple[Value, Value, Value, list[Step]] | None:
    by_cos, by_sin = made_by(plain, "mul"), made_by(turned, "mul")
    if by_cos is None or by_sin is None:
        return None
    for rotated, sin in (by_sin.args[:2], by_sin.args[1::-1]):
        whole = made_by(rotated, "cat")
        pieces = _pair_along_last(whole)
        if whole is None or pieces is None:
            continue
        negated = made_by(pieces[0], "neg", "mul")
        if negated is None:
            continue
        minus = negated.op == "neg" or any(number(v) == -1 for v in negated.args[:2])
        second = next((half_of(v) for v in negated.args[:2] if half_of(v)), None)
        first = half_of(pieces[1])
        if not minus or first is None or second is None or first[0] is not second[0] or (first[1], second[1]) != (0, 1):
            continue
        x = first[0]
        for other, cos in (by_cos.args[:2], by_cos.args[1::-1]):
            if other is x and isinstance(cos, Value) and isinstance(sin, Value):
                return x, cos, sin, [by_cos, by_sin, whole, negated]
    return None


def _pair_along_last(whole: Step | None) -> tuple[Value, Value] | None:
    """The two values that are put behind each other along the last axis."""
    pieces = whole.args[0] if whole is not None else None
    if whole is None or not isinstance(pieces, list) or len(pieces) != 2:
        return None
    rank = len(whole.out.shape)
    return (pieces[0], pieces[1]) if int(whole.arg(1, "dim", 0)) in (-1, rank - 1) else None


def half_of(value: Any) -> tuple[Value, int] | None:
    """``x, 0`` or ``x, 1`` where a value is the first or second half of ``x`` along the last axis."""
    step = made_by(value, "slice", "split", "split_with_sizes", "chunk")
    if step is None or not isinstance(step.args[0], Value):
        return None
    x, size = step.args[0], value.shape[-1]
    if 2 * size != x.shape[-1] or value.shape[:-1] != x.shape[:-1]:
        return None
    if step.op != "slice":
        return x, step.outputs.index(value)
    start = int(step.arg(2, "start", 0) or 0)
    start += x.shape[-1] if start < 0 else 0
    return (x, start // size) if start in (0, size) and int(step.arg(4, "step", 1) or 1) == 1 else None


def interleaved_rotary(program: Program) -> int:
    """``cat(a * cos - b * sin, b * cos + a * sin)`` of the even and odd elements, or of the halves, ``a`` and ``b``."""
    count = 0
    for step in list(program.steps):
        if step.op not in ("cat", "stack") or not isinstance(step.args[0], list) or len(step.args[0]) != 2:
            continue
        real, imaginary = made_by(behind(step.args[0][0]), "sub"), made_by(behind(step.args[0][1]), "add")
        if real is None or imaginary is None:
            continue
        products = [made_by(v, "mul") for v in (*real.args[:2], *imaginary.args[:2])]
        muls = [p for p in products if p is not None]
        factors = [_stretch_and_table(p) for p in muls]
        if len(muls) != 4 or None in factors:
            continue
        (a, cos), (b, sin), *crossed = [pair for pair in factors if pair is not None]
        if {(id(one), id(table)) for one, table in crossed} != {(id(b), id(cos)), (id(a), id(sin))} or a is b:
            continue
        x = a.producer.args[0] if a.producer is not None else a
        if b.producer is None or b.producer.args[0] is not x or x.shape != step.out.shape:
            continue
        views = [s for piece in step.args[0] for s in _views_behind(piece)]
        gone = [real, imaginary, *{id(m): m for m in muls}.values(), *views, step]
        if not closed(program, gone, [step.out]):
            continue
        program.rewrite(gone, Step("rope", (x, cos, sin), {}, [step.out], step.module))
        count += 1
    return count


def _views_behind(value: Value) -> list[Step]:
    """The views between a value and what it is a view of."""
    found = []
    while value.producer is not None and value.producer.op in RESHAPES:
        found.append(value.producer)
        value = value.producer.args[0]
    return found


def _stretch_and_table(product: Step) -> tuple[Value, Value] | None:
    """A stretch of a value of the device, and what it is multiplied by."""
    for one, other in (product.args[:2], product.args[1::-1]):
        if _stretch(one) and isinstance(other, Value) and not _stretch(other):
            return one, other
    return None


def _stretch(value: Any) -> bool:
    """Whether a value of the device is a stretch, or every other element, of another."""
    step = made_by(value, "slice", "split", "split_with_sizes", "chunk", "select", "unbind")
    return step is not None and step.args[0].side == "device"


def complex_rotary(program: Program) -> int:
    """``view_as_real(view_as_complex(x) * table)``."""
    count = 0
    for step in list(program.steps):
        if step.op != "view_as_real":
            continue
        turned = made_by(step.args[0], "mul")
        pair = two(turned)
        if turned is None or pair is None:
            continue
        for turning, table in (pair, pair[::-1]):
            paired = made_by(turning, "view_as_complex")
            if paired is not None and paired.out.side == "device" and isinstance(table, Value):
                source = behind(paired.args[0])
                last = step.out
                new = Step("rope", (paired.args[0], table, table), {}, [last], step.module)
                gone = [paired, turned, step]
                if source.shape[-1] == last.shape[-1] * last.shape[-2] and closed(program, gone, [last]):
                    program.rewrite(gone, new)
                    count += 1
                break
    return count
