"""Broken and hostile files: whatever is read ends in a document or in one sentence, never in anything else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import opt
from instances.errors import TilewrightError
from instances.instance import Instance
from instances.machine import load_machine
from instances.packing import read_buffers
from opt.replay import replay
from solvers.interface import Result

Json = Any

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -0.0, 1e-320]),
    st.text(max_size=20),
    st.sampled_from(["", " ", "\x00", "\ud800", "<script>alert(1)</script>", "../../etc/passwd", "a" * 5000, "\u202e"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
"""Values that do not belong."""

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""The same examples on every run; ``max_examples`` of 2000 is a longer look."""


def places(node: Json, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths to everything in a document but the whole."""
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        found += places(child, (*path, key))
    return found


@st.composite
def broken(draw: st.DrawFn, document: Json) -> bytes:
    """A document with a few places changed, as bytes, sometimes cut short or with bytes that are no text."""
    whole = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        reachable = places(whole)
        if not reachable:
            break
        *parents, last = draw(st.sampled_from(reachable))
        node = whole
        for key in parents:
            node = node[key]
        change = draw(st.sampled_from(("set", "drop", "twice", "rename")))
        if change == "set" or (change == "rename" and isinstance(node, list)):
            node[last] = draw(ODD)
        elif change == "drop":
            del node[last]
        elif change == "twice" and isinstance(node, list):
            node.append(node[last])
        else:
            node[draw(st.text(max_size=8))] = node.pop(last)
    content = json.dumps(whole).encode("utf-8")
    if draw(st.integers(0, 4)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=4)) + content[at:]
    return content


def outcome(read: Callable[[], Any]) -> Any:
    """What a reader returns; ``None`` where it ends in one sentence. Anything else fails the test."""
    try:
        return read()
    except TilewrightError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence) < 2000
        return None


@SETTINGS
@given(data=st.data())
def test_instances(tmp_path: Path, instance: Instance, data: st.DataObject) -> None:
    """What still reads as an instance can be asked: it is answered, or refused in a sentence."""
    path = tmp_path / "odd.json"
    path.write_bytes(data.draw(broken(instance.model_dump(mode="json"))))
    found = outcome(lambda: opt.load_instance(path))
    if found is not None:
        outcome(lambda: opt.solve(found, 5, "unfused", workers=1))


@SETTINGS
@given(data=st.data())
def test_schedules(tmp_path: Path, instance: Instance, greedy: Result, data: st.DataObject) -> None:
    """What still reads as a schedule can be replayed, and is valid only if it says the same."""
    path = tmp_path / "odd.json"
    path.write_bytes(data.draw(broken(greedy.schedule.model_dump(mode="json"))))
    found = outcome(lambda: opt.load_schedule(path))
    if found is not None:
        judged = replay(instance, found)
        assert judged.valid == (found == greedy.schedule)
        for violation in judged.violations:
            assert str(violation)


@SETTINGS
@given(data=st.data())
def test_machines(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(data.draw(broken(load_machine("ascend910b2").model_dump(mode="json"))))
    outcome(lambda: load_machine(str(path)))


CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rope_scaling": {"type": "linear", "factor": 2.0},
}


@SETTINGS
@given(data=st.data())
def test_configurations(tmp_path: Path, data: st.DataObject) -> None:
    """A model's configuration that reads also makes an instance, or a sentence."""
    path = tmp_path / "config.json"
    path.write_bytes(data.draw(broken(CONFIG)))
    outcome(lambda: opt.generate(path, phase="decode", context=8, layers=1, ends=False, max_group=1))


@SETTINGS
@given(
    rows=st.lists(st.lists(st.one_of(ODD.map(str), st.integers(0, 50).map(str)), min_size=3, max_size=5), max_size=6),
    header=st.sampled_from(["id,lower,upper,size", "start,end,size", "id,lower,upper", "", "id,lower,lower,size"]),
)
def test_tables_of_buffers(tmp_path: Path, rows: list[list[str]], header: str) -> None:
    path = tmp_path / "odd.csv"
    text = "\n".join([header, *(",".join(row) for row in rows)])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    outcome(lambda: read_buffers(path))
