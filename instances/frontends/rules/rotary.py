"""Rotary position embedding: as one operator, by rotated halves, by interleaved pairs, by complex numbers."""

from __future__ import annotations

from typing import Any

from instances.frontends.program import Program, Step, Value
from instances.frontends.rules.matching import behind, made_by, two


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
            if match is not None:
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
        if whole is None or not isinstance(whole.args[0], list) or len(whole.args[0]) != 2:
            continue
        back, front = whole.args[0]
        negated = made_by(back, "neg") or made_by(back, "mul")
        second = made_by(negated.args[0], "slice", "split", "chunk") if negated is not None else None
        first = made_by(front, "slice", "split", "chunk")
        if first is None or second is None or first.args[0] is not second.args[0]:
            continue
        x = first.args[0]
        for other, cos in (by_cos.args[:2], by_cos.args[1::-1]):
            if other is x and isinstance(cos, Value) and isinstance(sin, Value) and negated is not None:
                gone = [by_cos, by_sin, whole, negated]
                return x, cos, sin, gone
    return None


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
        if any(p is None for p in products):
            continue
        muls = [p for p in products if p is not None]
        stretches = {id(s.producer.args[0]): s.producer.args[0] for m in muls for s in m.args[:2] if _stretch(s)}
        tables = [v for m in muls[:2] for v in m.args[:2] if isinstance(v, Value) and not _stretch(v)]
        if len(stretches) != 1 or len(tables) != 2:
            continue
        (x,) = stretches.values()
        if x.shape != step.out.shape:
            continue
        gone = [real, imaginary, *{id(m): m for m in muls}.values(), step]
        program.rewrite(gone, Step("rope", (x, tables[0], tables[1]), {}, [step.out], step.module))
        count += 1
    return count


def _stretch(value: Any) -> bool:
    """Whether a value of the device is a stretch, or every other element, of another."""
    step = made_by(value, "slice", "split", "select", "unbind")
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
        for number, table in (pair, pair[::-1]):
            paired = made_by(number, "view_as_complex")
            if paired is not None and isinstance(table, Value):
                source = behind(paired.args[0])
                last = step.out
                new = Step("rope", (paired.args[0], table, table), {}, [last], step.module)
                if source.shape[-1] == last.shape[-1] * last.shape[-2]:
                    program.rewrite([paired, turned, step], new)
                    count += 1
                break
    return count
