"""Caches and tables of positions: what is appended in place, what is read in place."""

from __future__ import annotations

from instances.frontends.program import FLOATS, Program, Step, Value
from instances.frontends.rules.matching import RESHAPES, behind


def append(program: Program) -> int:
    """``cat(past, new)`` of a graph input, along positions, whose result is an output: only new rows are written."""
    count = 0
    for step in list(program.steps):
        pieces = step.args[0] if step.op == "cat" else None
        if not isinstance(pieces, list) or len(pieces) != 2:
            continue
        past, new = pieces
        if int(step.arg(1, "dim", 0)) % len(step.out.shape) == len(step.out.shape) - 1:
            continue  # features behind each other are no positions
        if past.producer is None and past.kind == "user_input" and past.dtype in FLOATS and step.out in program.outputs:
            step.op, step.args, step.kwargs = "cache_append", (past, new), {}
            count += 1
    program.changed()
    return count


def known_positions(program: Program) -> int:
    """A table looked up at positions in their order (a buffer, a constant, an input of positions): no lookup at all."""
    count = 0
    for step in program.steps:
        if step.op != "embedding":
            continue
        table, ids = step.args[:2]
        if not isinstance(table, Value) or table.side != "weight" or ids.side != "host":
            continue
        rows = len(step.out.shape) == len(table.shape) + 1 and step.out.shape[0] == 1
        if rows and _in_order(ids) and step.out.shape[-2] <= table.shape[0]:
            step.op, step.args, step.kwargs = "positions", (table,), {}
            count += 1
    program.changed()
    return count


ORDERLY = RESHAPES | {"arange", "add", "sub", "mul", "cumsum", "expand", "slice", "select", "copy", "_to_copy", "to"}
ORDERLY |= {"ones", "ones_like", "constant", "full"}
"""Operators by which positions follow from each other; functions of distances, or of tokens, need others."""


def _in_order(ids: Value) -> bool:
    """Whether indices are positions: an input of them, a buffer, a constant, or what is counted."""
    stack, seen = [behind(ids)], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.producer is not None:
            if value.producer.op not in ORDERLY:
                return False
            stack += value.producer.reads
        elif value.kind == "user_input" and not any(word in value.name for word in ("position", "mask")):
            return False
    return True


def cache_results(program: Program) -> list[Value]:
    """Results that are keys or values of an attention, or laid out like them: rows of a cache, written as they are."""
    read_as_cache: set[int] = set()
    for step in program.steps:
        if step.op == "attention":
            for value in (*step.args[1:3], *(step.kwargs.get("key_parts") or ())):
                read_as_cache |= {id(value), id(behind(value, EXPANSIONS))}
    return [
        value
        for place, value in enumerate(program.outputs)
        if value.dtype in FLOATS
        and value.producer is not None
        and value.producer.op != "cache_append"
        and (id(value) in read_as_cache or (place > 0 and len(value.shape) == 4 and program.users(value)))
    ]


EXPANSIONS = frozenset(["view", "unsqueeze", "squeeze", "expand", "repeat_interleave"])
"""Views between rows of a cache and the heads that read them."""


def write_cache_rows(program: Program) -> int:
    """An output that is rows of a cache gets a step of its own that writes it."""
    count = 0
    for value in cache_results(program):
        rows = Value(f"{value.name}.rows", value.shape, value.stored_dtype)
        step = Step("cache_rows", (value,), {}, [rows], value.producer.module if value.producer else ("", ""))
        step.sources = value.producer.sources if value.producer else ()
        rows.producer = step
        place = 1 + max(i for i, s in enumerate(program.steps) if value in s.outputs)
        program.steps.insert(place, step)
        program.outputs = [rows if other is value else other for other in program.outputs]
        program.changed()
        count += 1
    return count
