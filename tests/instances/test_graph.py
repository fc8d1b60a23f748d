"""Graphs: what is refused, with a sentence that names operator, tensor and axis, and what is put in order."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from instances.documents import parse, read_document, write_document
from instances.errors import InputError
from instances.graph import CUBE_KINDS, Access, DType, Engine, Graph, Operator, OpKind, Role, Tensor


def tensor(name: str, *shape: int, role: str = "intermediate", dtype: str = "float16") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype, "role": role}


def access(name: str, *dims: str, touched: int | None = None) -> dict[str, Any]:
    return {"tensor": name, "dims": list(dims)} | ({} if touched is None else {"touched_bytes": touched})


def operator(
    name: str, reads: list[dict[str, Any]], writes: list[dict[str, Any]], kind: str = "elementwise", **more: Any
) -> dict[str, Any]:
    """An operator over ``i`` = 4 and ``j`` = 8 unless its dims are given."""
    return {"name": name, "kind": kind, "dims": {"i": 4, "j": 8}, "reads": reads, "writes": writes} | more


def chain(*names: str) -> dict[str, Any]:
    """``x`` -> one operator after the other -> output; operator ``n`` writes tensor ``t.n``."""
    made = [f"t.{name}" for name in names]
    tensors = [tensor("x", 4, 8, role="input"), *(tensor(name, 4, 8) for name in made)]
    tensors[-1]["role"] = "output"
    operators = [
        operator(name, [access(source, "i", "j")], [access(target, "i", "j")])
        for name, source, target in zip(names, ["x", *made], made, strict=False)
    ]
    return {"schema_version": 1, "name": "chain", "tensors": tensors, "operators": operators}


def refusal(data: dict[str, Any]) -> str:
    """The sentence with which a graph is refused."""
    with pytest.raises(InputError) as caught:
        parse(Graph, data, "graph.json")
    sentence = str(caught.value)
    assert sentence.startswith("graph.json: ")
    return sentence


# ------------------------------------------------------------------------------- sizes and look-ups


def test_sizes() -> None:
    """4 x 8 float16: 32 elements, 64 bytes; 1 MiB of int8 is 2**20 bytes."""
    small = Tensor(name="a", shape=(4, 8), dtype=DType.FLOAT16, role=Role.INPUT)
    assert (small.elements, small.size_bytes) == (32, 64)
    assert Tensor(name="b", shape=(1024, 1024), dtype=DType.INT8, role=Role.INPUT).size_bytes == 2**20
    assert [d.size_bytes for d in DType] == [4, 2, 2, 8, 4, 2, 1]


def test_lookups() -> None:
    graph = parse(Graph, chain("a", "b", "c"), "g")
    assert graph.producer == {"t.a": "a", "t.b": "b", "t.c": "c"}
    assert graph.consumers == {"x": ("a",), "t.a": ("b",), "t.b": ("c",), "t.c": ()}
    assert graph.operator["b"].engine is Engine.VECTOR
    assert [r.starts_in_hbm for r in Role] == [True, True, True, False, False]


def test_a_tensor_read_twice_has_one_consumer() -> None:
    data = chain("a")
    data["operators"][0]["reads"].append(access("x", "i", "j"))
    assert parse(Graph, data, "g").consumers["x"] == ("a",)


def test_axes() -> None:
    found = Access(tensor="t", dims=("batch*seq", "1", "hidden"))
    assert found.axes == (("batch", "seq"), (), ("hidden",))
    assert found.loops == {"batch", "seq", "hidden"}


def test_engines_by_kind() -> None:
    assert {OpKind.MATMUL, OpKind.ATTENTION_SCORES, OpKind.ATTENTION_VALUES} == CUBE_KINDS
    for kind in OpKind:
        work: dict[str, int] = {"macs": 1} if kind in CUBE_KINDS else {"link_bytes": 1}
        reads = [access("x", "i"), access("w", "i")]
        made = Operator.model_validate(operator("o", reads, [access("y", "i")], kind.value, **work))
        link = Engine.LINK if kind is OpKind.COLLECTIVE else Engine.VECTOR
        assert made.engine is (Engine.CUBE if kind in CUBE_KINDS else link)


def test_touched_bytes() -> None:
    """All of it, unless a part is given."""
    data = chain("a")
    data["operators"][0]["reads"] = [access("x", "i", "j", touched=16)]
    graph = parse(Graph, data, "g")
    assert graph.touched_bytes(graph.operator["a"].reads[0]) == 16
    assert graph.touched_bytes(graph.operator["a"].writes[0]) == 64


# ------------------------------------------------------------------------------- round trip and order


def test_round_trip(tmp_path: Path) -> None:
    graph = parse(Graph, chain("a", "b", "c"), "g")
    write_document(graph, tmp_path / "g.json")
    assert read_document(Graph, tmp_path / "g.json") == graph


def test_operators_are_put_in_order() -> None:
    data = chain("a", "b", "c", "d")
    data["operators"].reverse()
    graph = parse(Graph, data, "g")
    assert [o.name for o in graph.operators] == ["a", "b", "c", "d"]
    assert graph == parse(Graph, chain("a", "b", "c", "d"), "g")
    assert graph.fingerprint == parse(Graph, chain("a", "b", "c", "d"), "g").fingerprint


def test_given_order_is_kept_where_it_may_be() -> None:
    """Two chains: what comes first in the file comes first, as long as its producer has."""
    left, right = chain("z", "y"), chain("m", "k")
    data = {
        "name": "two",
        "tensors": [*left["tensors"], *right["tensors"][1:]],
        "operators": [left["operators"][1], right["operators"][0], left["operators"][0], right["operators"][1]],
    }
    assert [o.name for o in parse(Graph, data, "g").operators] == ["m", "z", "y", "k"]


def test_order_survives_the_file(tmp_path: Path) -> None:
    data = chain("a", "b", "c")
    data["operators"].reverse()
    (tmp_path / "g.json").write_text(json.dumps(data), encoding="utf-8")
    graph = read_document(Graph, tmp_path / "g.json")
    write_document(graph, tmp_path / "again.json")
    assert read_document(Graph, tmp_path / "again.json").operators == graph.operators


# ------------------------------------------------------------------------------- cycles


def ring(*names: str) -> dict[str, Any]:
    """A chain whose first operator also reads what the last one writes."""
    data = chain(*names)
    data["operators"][0]["reads"].append(access(f"t.{names[-1]}", "i", "j"))
    return data


def cycle_in(sentence: str) -> list[str]:
    return re.search(r"the graph has a cycle: (.*?)(?:$| \()", sentence)[1].split(" -> ")  # type: ignore[index]


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), tuple("hgfedcba")])
def test_cycle_is_named(names: tuple[str, ...]) -> None:
    """The operators on it, in the direction of the data, the first again at the end."""
    found = cycle_in(refusal(ring(*names)))
    assert found[0] == found[-1]
    assert sorted(found[:-1]) == sorted(names)
    follows = dict(zip(names, (*names[1:], names[0]), strict=True))
    assert all(follows[a] == b for a, b in pairwise(found))


def test_only_the_cycle_is_named() -> None:
    """Not what leads into it or hangs on it."""
    data = chain("before", "a", "b", "c", "after")
    data["operators"][1]["reads"].append(access("t.c", "i", "j"))
    assert sorted(set(cycle_in(refusal(data)))) == ["a", "b", "c"]


def test_operator_that_reads_its_own_result() -> None:
    data = chain("a", "b")
    data["operators"][1]["reads"].append(access("t.b", "i", "j"))
    assert "operator 'b' reads what it writes: the graph has a cycle" in refusal(data)


def test_long_cycle_is_found_without_recursion() -> None:
    names = tuple(f"o{i}" for i in range(3000))
    assert len(cycle_in(refusal(ring(*names)))) == 3001


# ------------------------------------------------------------------------------- tensors


def test_dangling_tensor() -> None:
    data = chain("a")
    data["tensors"].append(tensor("nobody", 4, 8, role="weight"))
    assert "tensor 'nobody' is touched by no operator; remove it" in refusal(data)


@pytest.mark.parametrize("role", ["intermediate", "output"])
def test_tensor_without_producer(role: str) -> None:
    data = chain("a")
    data["tensors"].append(tensor("ghost", 4, 8, role=role))
    data["operators"][0]["reads"].append(access("ghost", "i", "j"))
    assert f"tensor 'ghost' ({role}) is read but nothing writes it" in refusal(data)


@pytest.mark.parametrize("place", ["reads", "writes"])
def test_unknown_tensor(place: str) -> None:
    data = chain("a", "b")
    data["operators"][1][place].append(access("ghost", "i", "j"))
    assert "operator 'b' touches tensor 'ghost', which is not in the graph" in refusal(data)


@pytest.mark.parametrize("role", ["input", "weight", "cache"])
def test_written_source(role: str) -> None:
    data = chain("a")
    data["tensors"][1]["role"] = role
    assert f"operator 'a' writes 't.a', which has role '{role}'; only intermediates and outputs" in refusal(data)


def test_two_producers() -> None:
    data = chain("a", "b")
    data["operators"][1]["writes"].append(access("t.a", "i", "j"))
    data["operators"][1]["reads"] = [access("x", "i", "j")]
    assert "tensor 't.a' is written by 'a' and 'b'; each tensor has one producer" in refusal(data)


def test_one_operator_writes_a_tensor_twice() -> None:
    data = chain("a")
    data["operators"][0]["writes"] *= 2
    assert "tensor 't.a' is written by 'a' and 'a'" in refusal(data)


# ------------------------------------------------------------------------------- dimensions


def test_extent_mismatch_names_operator_and_axis() -> None:
    """The loop runs over 8, the axis over 9."""
    data = chain("a", "b")
    data["tensors"][2]["shape"] = [4, 9]
    assert "operator 'b' spans 8 along axis 1 of 't.b' (j), whose extent is 9" in refusal(data)


def test_product_of_loops_must_match() -> None:
    """i * j = 32 along an axis of 33."""
    data = chain("a")
    data["tensors"][0]["shape"] = [33]
    data["operators"][0]["reads"] = [access("x", "i*j")]
    assert "operator 'a' spans 32 along axis 0 of 'x' (i*j), whose extent is 33" in refusal(data)


def test_axis_of_one() -> None:
    data = chain("a")
    data["tensors"][0]["shape"] = [4, 1]
    data["operators"][0]["reads"] = [access("x", "i", "1")]
    assert parse(Graph, data, "g").operator["a"].reads[0].loops == {"i"}
    data["tensors"][0]["shape"] = [4, 2]
    assert "operator 'a' spans 1 along axis 1 of 'x' (1), whose extent is 2" in refusal(data)


def test_number_of_axes() -> None:
    data = chain("a")
    data["operators"][0]["reads"] = [access("x", "i")]
    assert "operator 'a' indexes 'x' by 1 axes, but its shape [4, 8] has 2" in refusal(data)


def test_unknown_loop() -> None:
    data = chain("a")
    data["operators"][0]["reads"] = [access("x", "i", "k")]
    assert "operator 'a' indexes 'x' by 'k', which is not among its dims ['i', 'j']" in refusal(data)


def test_unknown_whole_loop() -> None:
    data = chain("a")
    data["operators"][0]["whole"] = ["k"]
    assert "operator 'a': whole dimension 'k' is not among its dims" in refusal(data)


def test_touching_more_than_there_is() -> None:
    data = chain("a")
    data["operators"][0]["reads"] = [access("x", "i", "j", touched=65)]
    assert "operator 'a' touches 65 bytes of 'x', which has 64" in refusal(data)


def test_part_of_a_tensor_may_be_looked_up_by_other_loops() -> None:
    """4 of 1000 rows of 8 elements, found by the loop i."""
    data = chain("a")
    data["tensors"][0]["shape"] = [1000, 8]
    data["operators"][0]["reads"] = [access("x", "i", "j", touched=4 * 8 * 2)]
    assert parse(Graph, data, "g").operator["a"].reads[0].touched_bytes == 64


# ------------------------------------------------------------------------------- duplicates and sizes


def test_two_operators_of_one_name() -> None:
    data = chain("a", "b")
    data["operators"][1]["name"] = "a"
    assert "operators: two operators are called 'a'; rename one" in refusal(data)


def test_two_tensors_of_one_name() -> None:
    data = chain("a", "b")
    data["tensors"].append(data["tensors"][0])
    assert "tensors: two tensors are called 'x'; rename one" in refusal(data)


@pytest.mark.parametrize("size", [0, -1, -(2**60), 2**49, 1.5, "many", None])
def test_impossible_extents_of_a_tensor(size: Any) -> None:
    data = chain("a")
    data["tensors"][0]["shape"] = [4, size]
    assert "tensors.0.shape.1: " in refusal(data)


@pytest.mark.parametrize("size", [0, -8, 2**49])
def test_impossible_extents_of_a_loop(size: int) -> None:
    data = chain("a")
    data["operators"][0]["dims"]["j"] = size
    assert "operators.0.dims.j: " in refusal(data)


@pytest.mark.parametrize("axes", [0, 9])
def test_number_of_axes_is_limited(axes: int) -> None:
    assert "tensors.0.shape: Tuple should have" in refusal({**chain("a"), "tensors": [tensor("x", *[1] * axes)]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("macs", -1),
        ("link_bytes", -1),
        ("vector", {"two_source": -1}),
        ("vector", {"three_source": 1}),
        ("density", 0),
        ("density", -0.5),
        ("density", 1.01),
        ("reads", []),
        ("writes", []),
        ("kind", "convolution"),
        ("name", ""),
    ],
)
def test_impossible_values_of_an_operator(field: str, value: Any) -> None:
    data = chain("a")
    data["operators"][0][field] = value
    assert f"operators.0.{field}" in refusal(data)


def test_touching_nothing() -> None:
    data = chain("a")
    data["operators"][0]["reads"] = [access("x", "i", "j", touched=0)]
    assert "operators.0.reads.0.touched_bytes" in refusal(data)


def test_graph_without_operators() -> None:
    assert "operators: Tuple should have at least 1 item" in refusal({"name": "g", "tensors": [], "operators": []})


def test_work_without_amount() -> None:
    data = chain("a")
    data["operators"][0]["kind"] = "matmul"
    assert "operator 'a' is a matmul with one operand; give it two" in refusal(data)
    data["operators"][0]["reads"] *= 2
    assert "operator 'a' is a matmul without macs; give its work" in refusal(data)
    data["operators"][0]["kind"] = "collective"
    assert "operator 'a' is a collective without link_bytes; give its message" in refusal(data)


def test_graphs_made_in_python_are_checked_alike() -> None:
    """Not only files: the constructor refuses as well."""
    with pytest.raises(ValidationError, match="is touched by no operator"):
        Graph(
            name="g",
            tensors=tuple(
                Tensor(name=name, shape=(4,), dtype=DType.INT8, role=role)
                for name, role in (("x", Role.INPUT), ("y", Role.OUTPUT), ("z", Role.INPUT))
            ),
            operators=(
                Operator(
                    name="a",
                    kind=OpKind.ELEMENTWISE,
                    dims={"i": 4},
                    reads=(Access(tensor="x", dims=("i",)),),
                    writes=(Access(tensor="y", dims=("i",)),),
                ),
            ),
        )
