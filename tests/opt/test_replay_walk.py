"""Every leaf of a schedule's JSON is changed in turn: unsealed nothing passes, resealed only what is equally true."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from instances.documents import parse, read_document, write_document
from instances.errors import InputError
from instances.graph import Graph
from instances.instance import Instance
from instances.kernels import KernelKind, Rule
from instances.machine import MemoryName
from instances.schedule import MoveKind, Schedule, Source, Status
from opt.replay import replay
from solvers.interface import Options
from solvers.sequential import solve_greedy

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
    before = (None, *place[:-1])
    return ".".join(
        "*" if isinstance(key, int) or parent in DICTS else key for parent, key in zip(before, place, strict=True)
    )


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


@pytest.fixture(scope="module")
def greedy(llama: Instance) -> Schedule:
    """A second schedule to walk over: tensors kept in L2 and workspaces, no moves."""
    return solve_greedy(llama, Options(time_limit_s=1)).schedule


def test_no_unsealed_change_passes(qwen: Instance, scripted: Schedule) -> None:
    refuse_all(qwen, scripted)


def test_no_unsealed_change_of_a_solvers_schedule_passes(llama: Instance, greedy: Schedule) -> None:
    refuse_all(llama, greedy)


def refuse_all(instance: Instance, schedule: Schedule) -> None:
    """Every change at the sampled places of every field is refused, by the reader or by the replay."""
    places: dict[str, set[Place]] = {}
    for name, place, other, data in changes(schedule, instance.graph):
        assert not accepted(instance, data, seal=False), f"{place} = {other!r} passes"
        places.setdefault(name, set()).add(place)
    occurrences: dict[str, list[Any]] = {}
    for place, value in fields(schedule.model_dump(mode="json")):
        occurrences.setdefault(pattern(place), []).append(value)
    for name, values in occurrences.items():
        # an empty or uniform list has nothing to shorten or reorder
        possible = sum(not isinstance(value, list | dict) or len(value) > 0 for value in values)
        assert len(places.get(name, ())) >= min(SAMPLES, possible), name


EQUALLY_TRUE = {
    "kernels": "order of the list",
    "moves": "order of the list",
    "residencies": "order of the list",
    "kernels.*.buffers": "order of the list",
    "kernels.*.aic_ids": "order of the list",
    "kernels.*.aiv_ids": "order of the list",
    "kernels.*.aiv_ids.*": "another vector core that is free",
    "kernels.*.tiling.tile.*": "a tile of the same price and buffers",
    "kernels.*.tiling.l2_permille": "a share at which something else still sets the end",
    "kernels.*.hbm_start_ns": "a later phase that still ends within the body",
    "proof.solver": "a name",
    "proof.covers": "prose",
    "proof.bounds_ns": "an argument more that is not the best",
    "proof.bounds_ns.*": "an argument that is not the best and that needs a search to check",
    "seal": "made anew",
}
"""Fields that can be changed alone, with a new seal, and leave a true schedule: why."""


def test_resealed_changes_pass_only_where_they_are_true(qwen: Instance, scripted: Schedule) -> None:
    """A forger who seals anew gets past the replay with nothing that matters."""
    passed = set()
    before = scripted.model_dump(mode="json")
    for name, place, other, data in changes(scripted, qwen.graph, samples=4):
        if not accepted(qwen, data, seal=True):
            continue
        passed.add(name)
        assert name in EQUALLY_TRUE, f"{place} = {other!r} passes once resealed"
        if EQUALLY_TRUE[name] == "order of the list":
            assert sorted(map(str, other)) == sorted(map(str, value_at(before, place)))
    assert {"kernels", "kernels.*.hbm_start_ns", "proof.covers"} <= passed  # the replay is not a check of form


def value_at(data: Any, place: Place) -> Any:
    """What stands at a place."""
    for key in place:
        data = data[key]
    return data


def test_no_changed_digit_of_the_file_passes(tmp_path: Path, qwen: Instance, scripted: Schedule) -> None:
    """Digits all over the written file, each raised by one."""
    path = tmp_path / "schedule.json"
    write_document(scripted, path)
    text = path.read_text(encoding="utf-8")
    digits = [i for i, letter in enumerate(text) if letter.isdigit()]
    for i in digits[:: len(digits) // 150]:
        path.write_text(f"{text[:i]}{(int(text[i]) + 1) % 10}{text[i + 1 :]}", encoding="utf-8")
        try:
            schedule = read_document(Schedule, path)
        except InputError:
            continue
        assert not replay(qwen, schedule).valid, f"digit {i}: {text[i - 30 : i + 10]}"
