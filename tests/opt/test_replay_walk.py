"""Every leaf of a schedule's JSON is changed in turn: unsealed nothing passes, resealed only what is equally true."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest

from instances.documents import parse
from instances.errors import InputError
from instances.graph import Graph
from instances.instance import Instance
from instances.kernels import KernelKind, Rule
from instances.machine import MemoryName
from instances.schedule import MoveKind, Schedule, Source, Status
from opt.replay import replay

Place = tuple[str | int, ...]
"""Keys and indices from the top of the document to a field."""

SAMPLES = 3
"""Places at which each distinct field is changed, at least (all of them where there are fewer)."""

DICTS = ("tile", "parts", "bounds_ns")
"""Fields whose keys are data and not names of fields."""

WORDS: dict[str, type[StrEnum]] = {
    "kernels.*.kind": KernelKind,
    "kernels.*.rule": Rule,
    "kernels.*.buffers.*.memory": MemoryName,
    "kernels.*.reads.*.source": Source,
    "moves.*.kind": MoveKind,
    "proof.status": Status,
}
"""Fields with a closed list of values."""


def fields(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every scalar, list and free dict of a JSON value with its place; lists and dicts before what is in them."""
    if isinstance(value, dict):
        if place and place[-1] in DICTS:
            yield place, value
        for key, item in value.items():
            yield from fields(item, (*place, key))
    else:
        yield place, value
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from fields(item, (*place, index))


def pattern(place: Place) -> str:
    """The name of a field: its place with indices and free keys starred."""
    named = ["*" if isinstance(key, int) or before in DICTS else str(key) for before, key in zip((0, *place), place)]
    return ".".join(named)


def alternatives(place: Place, value: Any, graph: Graph, buffers: list[str]) -> Iterator[Any]:
    """Other values for a field, of its own type wherever there is one."""
    name = pattern(place)
    if value is None:
        yield 0
        yield 1
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
        if name in ("kernels.*.hbm_start_ns", "kernels.*.workspace_offset_bytes"):
            yield None
    elif isinstance(value, str):
        if name in WORDS:
            others = [word.value for word in WORDS[name]]
        elif name.endswith(".tensor"):
            others = [tensor.name for tensor in graph.tensors]
        elif name == "kernels.*.operators.*":
            others = [operator.name for operator in graph.operators]
        elif name == "kernels.*.buffers.*.name":
            others = buffers
        else:
            others = [f"{value}x", value[:-1]]
        at = others.index(value) if value in others else 0
        yield from [*others[at + 1 :], *others[:at]][:4]
    elif isinstance(value, list):
        yield value[:-1]
        yield [*value, *value[-1:]]
        yield value[::-1]
    else:
        yield {f"{key}x": item for key, item in value.items()}
        yield dict(list(value.items())[1:])
        yield {**value, "another": 1}


def changes(
    schedule: Schedule, graph: Graph, samples: int = SAMPLES
) -> Iterator[tuple[str, Place, Any, dict[str, Any]]]:
    """Field, place, new value and the whole changed document, for evenly spread places of every field."""
    data = schedule.model_dump(mode="json")
    buffers = sorted({buffer.name for kernel in schedule.kernels for buffer in kernel.buffers})
    by_field: dict[str, list[tuple[Place, Any]]] = {}
    for place, value in fields(data):
        by_field.setdefault(pattern(place), []).append((place, value))
    for name, found in by_field.items():
        tried = 0
        for place, value in spread(found, samples):
            options = [other for other in alternatives(place, value, graph, buffers) if other != value]
            tried += bool(options)
            for other in options:
                yield name, place, other, with_value(data, place, other)
            if tried == samples:
                break


def spread(found: list[tuple[Place, Any]], samples: int) -> list[tuple[Place, Any]]:
    """The places in an order that starts with evenly spaced ones."""
    chosen = sorted({round(i * (len(found) - 1) / max(1, samples - 1)) for i in range(samples)})
    return [found[i] for i in chosen if i < len(found)] + [f for i, f in enumerate(found) if i not in chosen]


def with_value(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy of the document with another value at a place."""
    changed = copy.deepcopy(data)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def accepted(instance: Instance, data: dict[str, Any], seal: bool) -> bool:
    """Whether a document is read and passes the replay."""
    try:
        schedule = parse(Schedule, data, "changed")
    except InputError:
        return False
    return replay(instance, schedule.sealed() if seal else schedule).valid

