"""The format of captured graphs: what is read, what is refused, in one sentence, and that nothing else escapes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from instances.errors import InputError
from instances.frontends import captured as format_of
from instances.frontends.captured import CapturedGraph, read_captured, references, write_captured
from instances.frontends.elementwise import elementwise
from instances.frontends.importing import Imported, import_graph, register_op
from instances.frontends.lowering import HANDLERS
from instances.frontends.program import load_program, short_name
from instances.graph import VectorClass
from tests.frontends.handmade import Drawn, ops


def layer() -> dict[str, Any]:
    """A small decoder layer: norm, merged projection, rotation, cache, attention, gate, and some glue."""
    g = Drawn("layer")
    at = g.module("model.layers.0.attn", "Attention")
    x = g.input("x", 2, 6, 16)
    scale = g.node(
        "rsqrt", g.node("add.Tensor", g.node("mean.dim", g.node("pow.Tensor_Scalar", x, 2), [-1], True), 1e-6)
    )
    normed = g.node("mul.Tensor", g.weight("norm", 16), g.node("mul.Tensor", x, scale))
    qkv = g.node("linear", normed, g.weight("qkv", 48, 16), g.weight("qkv_bias", 48), module=at)
    parts = g.node("split.Tensor", qkv, 16, -1)
    q, k, v = (g.node("transpose.int", g.node("view", g.item(parts, i), [2, 6, 2, 8]), 1, 2) for i in range(3))
    low, high = g.node("slice.Tensor", q, 3, 0, 4), g.node("slice.Tensor", q, 3, 4, 8)
    turned = g.node("cat", [g.node("neg", high), low], -1)
    cos, sin = (g.node(f, g.input(f"angle_{f}", 6, 8, kind="buffer", dtype="float32")) for f in ("cos", "sin"))
    q = g.node("add.Tensor", g.node("mul.Tensor", q, cos), g.node("mul.Tensor", turned, sin))
    k = g.node("cat", [g.input("past", 2, 2, 3, 8), k], 2)
    v = g.node("cat", [g.input("past_v", 2, 2, 3, 8), v], 2)
    y = g.node("scaled_dot_product_attention", q, k, v, module=at)
    y = g.node("view", g.node("transpose.int", y, 1, 2), [2, 6, 16])
    y = g.node("add.Tensor", x, g.node("linear", y, g.weight("out", 16, 16)))
    gate = g.node("linear", y, g.weight("gate", 32, 16))
    act = g.node("mul.Tensor", g.node("silu", gate), g.node("linear", y, g.weight("up", 32, 16)))
    y = g.node("add.Tensor", y, g.node("linear", act, g.weight("down", 16, 32)))
    ids = g.node("embedding", g.weight("table", 10, 16), g.input("ids", 2, 6, dtype="int64"))
    y = g.node("add.Tensor", y, ids)
    last = g.node("select.int", y, 1, -1)
    best = g.node("topk", g.node("softmax.int", last, -1), 3)
    return g.document(y, k, v, g.item(best, 0), g.item(best, 1))


LAYER = layer()
LAYER_TEXT = json.dumps(LAYER)


def sentence(document: Any, tmp_path: Path) -> str:
    """What reading and importing a document ends in."""
    path = tmp_path / "graph.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        import_graph(read_captured(path))
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 1000
    return text


def changed(**top: Any) -> dict[str, Any]:
    return {**copy.deepcopy(LAYER), **top}


def with_node(place: int, **fields: Any) -> dict[str, Any]:
    document = copy.deepcopy(LAYER)
    document["nodes"][place] |= fields
    return document


# -------------------------------------------------------------------------------- the file


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    graph = CapturedGraph.model_validate(LAYER)
    write_captured(graph, tmp_path / "graph.json")
    assert read_captured(tmp_path / "graph.json") == graph
    text = (tmp_path / "graph.json").read_text()
    assert text.count("\n") > len(graph.nodes)  # one record a line
    assert '"region"' not in text


def test_the_layer_is_understood() -> None:
    imported = import_graph(CapturedGraph.model_validate(LAYER))
    assert dict(imported.rules) == {"spelled_norm": 1, "rotated_halves": 1, "gate": 1, "append": 2, "attention_ops": 1}
    assert set(imported.set_aside) == {
        node["name"] for node in LAYER["nodes"] if node["op"] in ("aten.cos.default", "aten.sin.default")
    }


def test_references_at_any_depth() -> None:
    assert list(references(["%a", 1, {"k": ["%b", None]}, ("x", "%c")])) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], ("format is 'list'", "exported-graph/1")),
        ({"format": "exported-graph/2"}, ("exported-graph/2", "capture the graph again")),
        ({}, ("format is None",)),
        ("{", ("is not JSON",)),
        (changed(inputs=[*LAYER["inputs"], LAYER["inputs"][0]]), ("two inputs are called 'x'", "rename")),
        (changed(nodes=[]), ("nodes",)),
        (changed(outputs=[]), ("outputs",)),
        (changed(outputs=[{"name": "nothing"}]), ("output 'nothing' is made by no node",)),
        (changed(surprise=1), ("surprise",)),
        (changed(nodes=[*LAYER["nodes"], LAYER["nodes"][0]]), ("two inputs or nodes are called",)),
        (changed(nodes=LAYER["nodes"][::-1]), ("which no input or earlier node makes",)),
        (with_node(0, inputs=["pow_0"]), ("node 'pow_0' reads 'pow_0'",)),
        (with_node(0, args=["%ghost", 2]), ("reads 'ghost'",)),
        (with_node(0, args=[[[{"deep": ["%ghost"]}]], 2]), ("reads 'ghost'",)),
        (with_node(0, outputs=[]), ("outputs",)),
        (with_node(0, outputs=[[[-1, 6], "bfloat16"]]), ("greater than or equal to 0", "-1")),
        (with_node(0, outputs=[[[2**60], "bfloat16"]]), ("less than or equal to",)),
        (with_node(0, outputs=[[[1.5], "bfloat16"]]), ("nodes.0.outputs",)),
        (with_node(0, outputs=[["s0", "bfloat16"]]), ("nodes.0.outputs",)),
        (with_node(0, module=7), ("names module 7, but there are 1",)),
        (with_node(0, module=-1), ("names module -1",)),
        (with_node(0, name=""), ("nodes.0.name",)),
        (with_node(0, op=""), ("nodes.0.op",)),
        (changed(inputs=[{**LAYER["inputs"][0], "kind": "weights"}, *LAYER["inputs"][1:]]), ("inputs.0.kind",)),
    ],
)
def test_files_that_are_no_captured_graph(document: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    text = sentence(document, tmp_path)
    for word in words:
        assert word in text, text
    assert "graph.json" in text


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(format_of, "MAX_NODES", 5)
    assert f"{len(LAYER['nodes'])} nodes are above the limit of 5" in sentence(LAYER, tmp_path)


@pytest.mark.parametrize("depth", [21, 200, 900, 5000, 100_000])
def test_arguments_nested_without_end(depth: int, tmp_path: Path) -> None:
    text = LAYER_TEXT.replace('"args": ["%x", 2]', '"args": ["%x", ' + "[" * depth + "2" + "]" * depth + "]")
    assert len(text) > len(LAYER_TEXT)
    sentence(text, tmp_path)


# ------------------------------------------------------------------- what cannot be scheduled


def unary(op: str, shape: tuple[int, ...] = (2, 8), dtype: str = "bfloat16", times: int = 1, **how: Any) -> Drawn:
    g = Drawn("short")
    at = g.module("model.block", "Block")
    g.module("model.other", "Block")
    x = g.input("x", *shape, dtype=dtype)
    for _ in range(times):
        x = g.node(op, x, shape=shape, label=dtype, module=at, **how)
    g.node("neg", x, shape=shape, label=dtype, module=g.module("model.other"))
    return g


def test_an_operator_that_is_not_mapped_is_named_with_place_and_count() -> None:
    g = unary("mylib.swish2.default", times=3)
    with pytest.raises(InputError) as caught:
        g.imported(f"%{g.nodes[-1]['name']}")
    assert str(caught.value) == (
        "graph short: 1 operators are not mapped: mylib.swish2.default (3 times, first swish2_0 in block); "
        "register them with opt.register_op, or allow unknown ones (--allow-unknown), priced as elementwise"
    )


def test_unknown_operators_are_priced_as_elementwise_where_allowed() -> None:
    g = unary("mylib.swish2.default", times=2)
    imported = g.imported(f"%{g.nodes[-1]['name']}", allow_unknown=True)
    assert dict(imported.unknown) == {"mylib.swish2.default": ["swish2_0 in block", "swish2_1 in block"]}
    first = imported.graph.operators[0]
    assert first.vector == {VectorClass.TWO_SOURCE: 16}
    assert first.note == "unknown operator mylib.swish2.default, priced as elementwise"


def test_an_operator_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mylib.swish2.default", "swish3"):
        monkeypatch.delitem(HANDLERS, name, raising=False)
    monkeypatch.setitem(HANDLERS, "mylib.swish2.default", elementwise({}))  # to be taken back with the rest
    register_op("mylib.swish2.default", elementwise({VectorClass.TRANSCENDENTAL: 3}))
    g = unary("mylib.swish2.default")
    graph = g.imported(f"%{g.nodes[-1]['name']}").graph
    assert graph.operators[0].vector == {VectorClass.TRANSCENDENTAL: 48}
    monkeypatch.setitem(HANDLERS, "swish3", elementwise({}))
    register_op("aten.swish3.default", elementwise({VectorClass.ONE_SOURCE: 1}))
    g = unary("swish3")
    assert g.imported(f"%{g.nodes[-1]['name']}").graph.operators[0].vector == {VectorClass.ONE_SOURCE: 16}


def test_nothing_on_the_device() -> None:
    g = Drawn()
    y = g.node("add.Tensor", g.node("arange", 5), 1)
    with pytest.raises(InputError, match="holds no operator on the device; capture a graph with float inputs"):
        g.imported(y)


def test_an_element_type_that_is_not_modelled() -> None:
    g = unary("neg", dtype="complex256")
    g.inputs[0]["dtype"] = "complex256"
    g.inputs.append({"name": "y", "kind": "user_input", "shape": [2, 8], "dtype": "bfloat16", "target": None})
    g.nodes[0]["args"] = ["%y"]
    with pytest.raises(InputError, match=r"element type 'complex256', which is not modelled; use one of float64,"):
        g.imported(f"%{g.nodes[-1]['name']}")


def test_an_input_that_is_no_tensor() -> None:
    g = unary("neg")
    g.inputs.append({"name": "flag", "kind": "user_input", "shape": None, "dtype": None, "target": None})
    g.nodes[0] |= {"op": "aten.add.Tensor", "args": ["%x", "%flag"], "inputs": ["x", "flag"]}
    imported = g.imported(f"%{g.nodes[-1]['name']}")
    assert imported.graph.operators[0].reads[0].tensor == "x"


@pytest.mark.parametrize("shape", [(0,), (2, 0, 8)])
def test_tensors_of_no_elements(shape: tuple[int, ...]) -> None:
    g = unary("neg", shape=shape)
    with pytest.raises(InputError, match="no elements"):
        g.imported(f"%{g.nodes[-1]['name']}")


def test_an_empty_piece_put_before_others_is_no_work() -> None:
    g = Drawn()
    y = g.node("cat", [g.input("none", 2, 0, 8), g.input("x", 2, 3, 8), g.input("y", 2, 1, 8)], 1)
    graph = g.imported(g.node("exp", y)).graph
    assert [access.tensor for access in graph.operators[0].reads] == ["x", "y"]
    g = Drawn()
    old = g.node("cat", [g.input("none", 0), g.node("neg", g.input("x", 2, 3))], shape=(2, 3))
    assert [op.name for op in g.imported(g.node("exp", old)).graph.operators] == ["neg_0", "exp_2"]


def test_a_cache_that_starts_empty() -> None:
    g = Drawn()
    past = g.input("past", 1, 2, 0, 8)
    k = g.node("cat", [past, g.node("neg", g.input("k", 1, 2, 5, 8))], 2)
    y = g.node("scaled_dot_product_attention", g.input("q", 1, 2, 5, 8), k, k)
    graph = g.imported(y, k).graph
    assert [op.kind.value for op in graph.operators][:2] == ["elementwise", "cache_write"]
    assert graph.operators[1].writes[0].tensor.endswith(".rows")


def test_scalars_of_the_device_keep_their_order() -> None:
    g = Drawn()
    x = g.input("x", 4, 8)
    total = g.node("sum", x)
    assert g.values[total[1:]].shape == ()
    y = g.node("div.Tensor", x, g.node("add.Tensor", total, 1.0))
    graph = g.imported(y).graph
    assert [op.name for op in graph.operators] == ["sum_0", "add_1", "div_2"]
    assert [access.tensor for access in graph.operators[2].reads] == ["x", "add_1"]
    assert graph.tensor["add_1"].elements == 1


def test_scalars_of_the_host_are_no_operands() -> None:
    g = Drawn()
    y = g.node("mul.Tensor", g.input("x", 4, 8), g.node("constant", 0.5))
    (op,) = g.imported(y).graph.operators
    assert [access.tensor for access in op.reads] == ["x"]


@pytest.mark.parametrize("size", [2**47, 2**40])
def test_huge_shapes(size: int) -> None:
    g = Drawn()
    x = g.input("x", 1, kind="user_input")
    g.inputs[0]["shape"] = [size, size]
    g.nodes.append(
        {
            "name": "y",
            "op": "aten.exp.default",
            "inputs": ["x"],
            "args": ["%x"],
            "outputs": [[[size, size], "bfloat16"]],
        }
    )
    with pytest.raises(InputError, match="another size"):
        g.imported("%y")
    assert x == "%x"


# ------------------------------------------------------------------------------- mutations


def outcome(document: Any) -> None:
    """Either a checked graph or one sentence."""
    try:
        graph = CapturedGraph.model_validate(document)
    except ValidationError:
        return
    for allow in (False, True):
        try:
            assert isinstance(import_graph(graph, allow_unknown=allow), Imported)
        except InputError as error:
            said = str(error)
        else:
            said = ""
        assert "\n" not in said


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.sampled_from(
        [2**31, -(2**63), 10**400, 0.0, -0.5, 1e300, "", "%", "%x", "%past", "%qkv", "abc", "->", "ij,jk->ik"]
    ),
    st.lists(st.one_of(st.none(), st.integers(-4, 9), st.sampled_from(["%x", "%qkv", "a"])), max_size=4),
    st.dictionaries(st.sampled_from(["a", "dim"]), st.integers(-3, 3), max_size=2),
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 8, 16, 48, 2**20, 2**48]), max_size=5)
MUTATIONS = 300
FOUND = (Phase.explicit, Phase.reuse, Phase.generate)
"""What is found is not made smaller: a document of a hundred fields takes minutes, and its error names the place."""
OPS = sorted(
    {f"aten.{name}.default" for name in HANDLERS} | {"getitem", "nonsense", "aten", "onnx::Thing", "a..b", "."}
)


@settings(max_examples=MUTATIONS, deadline=None, phases=FOUND, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutations_of_a_layer(data: st.DataObject) -> None:
    """Arguments, shapes, operators, references and types are replaced by others."""
    document = json.loads(LAYER_TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(document["nodes"]))
        what = data.draw(st.sampled_from(["arg", "args", "op", "shape", "dtype", "outputs", "kwargs", "drop", "input"]))
        if what == "arg" and node["args"]:
            node["args"][data.draw(st.integers(0, len(node["args"]) - 1))] = data.draw(JUNK)
        elif what == "args":
            node["args"] = data.draw(st.lists(JUNK, max_size=5))
        elif what == "op":
            node["op"] = data.draw(st.sampled_from(OPS))
        elif what == "shape":
            node["outputs"][0] = [data.draw(SHAPES), node["outputs"][0][1]]
        elif what == "dtype":
            node["outputs"][0] = [
                node["outputs"][0][0],
                data.draw(st.sampled_from(["int64", "bool", "float8", "none", ""])),
            ]
        elif what == "outputs":
            node["outputs"] = [[data.draw(SHAPES), "bfloat16"] for _ in range(data.draw(st.integers(1, 3)))]
        elif what == "kwargs":
            node["kwargs"] = data.draw(
                st.dictionaries(
                    st.sampled_from(["dim", "start", "end", "step", "bias", "attn_mask", "is_causal"]), JUNK
                )
            )
        elif what == "drop" and node["args"]:
            node["args"].pop()
        elif what == "input":
            tensor = data.draw(st.sampled_from(document["inputs"]))
            tensor["shape"] = data.draw(st.one_of(st.none(), SHAPES))
            tensor["dtype"] = data.draw(st.sampled_from(["bfloat16", "int64", "float64", None, "odd"]))
    outcome(document)


@settings(max_examples=MUTATIONS, deadline=None, phases=FOUND)
@given(st.sampled_from(OPS), st.lists(JUNK, max_size=5), st.lists(SHAPES, min_size=1, max_size=2))
def test_any_operator_with_any_arguments(op: str, args: list[Any], shapes: list[list[int]]) -> None:
    inputs = [
        {"name": name, "kind": "user_input", "shape": shape, "dtype": "bfloat16"}
        for name, shape in (("x", [2, 6, 16]), ("past", [2, 6, 1, 4]), ("qkv", [16, 16]))
    ]
    node = {"name": "y", "op": op, "args": ["%x", *args], "outputs": [[shape, "bfloat16"] for shape in shapes]}
    last = {"name": "z", "op": "aten.neg.default", "args": ["%y"], "outputs": [[shapes[0], "bfloat16"]]}
    outcome(
        {"format": "exported-graph/1", "name": "g", "inputs": inputs, "nodes": [node, last], "outputs": [{"name": "z"}]}
    )


# ---------------------------------------------------------------------------------- loading


def test_casts_and_copies_are_dropped() -> None:
    g = Drawn()
    x = g.node("clone", g.node("_to_copy", g.input("x", 2, 8), dtype="float32"))
    y = g.node("exp", g.node("dropout", x, 0.0, False), label="float32")
    y = g.node("add.Tensor", g.node("mul.Tensor", y, 1.0, label="float32"), 0, label="float32")
    program = g.program(g.node("_to_copy", y, dtype="bfloat16"))
    assert ops(program) == ["exp"]
    assert program.steps[0].out.stored_dtype == "bfloat16"
    assert g.imported(y, g.node("neg", g.node("_to_copy", y, dtype="float16"))).graph.tensor["exp_3"].dtype == "float32"


def test_integers_made_floats_are_no_cast_of_storage() -> None:
    g = Drawn()
    ids = g.input("ids", 2, 8, dtype="int64")
    program = g.program(g.node("_to_copy", ids, dtype="float32"))
    assert ops(program) == ["_to_copy"]
    assert [step.out.side for step in program.steps] == ["host"]


@pytest.mark.parametrize(("args", "kept"), [((2.0,), 1), ((1,), 0), ((True,), 1)])
def test_products_by_one(args: tuple[Any, ...], kept: int) -> None:
    g = Drawn()
    x = g.node("exp", g.input("x", 2, 8))
    assert ops(g.program(g.node("mul.Tensor", x, *args))).count("mul") == kept


def test_sides() -> None:
    g = Drawn()
    w = g.node("neg", g.weight("w", 8))
    angles = g.node("cos", g.input("freq", 8, kind="buffer"))
    both = g.node("mul.Tensor", w, angles)
    y = g.node("mul.Tensor", g.input("x", 2, 8), both)
    row = g.node("embedding", g.weight("table", 4, 8), g.input("ids", 2, dtype="int64"))
    program = g.program(y, row)
    assert [step.out.side for step in program.steps] == ["weight", "host", "weight", "device", "device"]
    imported = g.imported(y, row)
    assert imported.set_aside == (w[1:], angles[1:], both[1:])
    assert imported.graph.tensor[both[1:]].role == "weight"


@pytest.mark.parametrize(
    ("op", "short"),
    [
        ("aten.add.Tensor", "add"),
        ("aten._unsafe_view.default", "view"),
        ("aten.reshape.default", "view"),
        ("aten::softmax", "softmax"),
        ("mylib.add.default", "mylib.add.default"),
        ("getitem", "getitem"),
    ],
)
def test_short_names(op: str, short: str) -> None:
    assert short_name(op) == short


def scattered(
    starts: tuple[int, ...], step: int = 1, base: str = "new_empty", axes: tuple[int, ...] = (1, 1)
) -> tuple[Drawn, str]:
    g = Drawn()
    x, y = g.input("x", 2, 4), g.input("y", 2, 4)
    made = g.node("new_empty", x, [2, 8]) if base == "new_empty" else g.input("base", 2, 8)
    for piece, start, axis in zip((x, y), starts, axes, strict=True):
        filled = g.node("copy", g.node("slice.Tensor", made, axis, start, start + 4 * step, step), piece)
        made = g.node("slice_scatter", made, filled, axis, start, start + 4 * step, step)
    return g, made


@pytest.mark.parametrize("starts", [(0, 4), (4, 0)])
def test_stretches_written_behind_each_other_are_put_together(starts: tuple[int, int]) -> None:
    g, made = scattered(starts)
    (cat,) = load_program(g.graph(made)).steps
    assert cat.op == "cat"
    assert [value.name for value in cat.args[0]] == (["x", "y"] if starts == (0, 4) else ["y", "x"])
    assert cat.sources[-1] == made[1:]


@pytest.mark.parametrize(
    ("starts", "step", "base"), [((0, 1), 2, "new_empty"), ((0, 4), 1, "input"), ((4, 4), 1, "new_empty")]
)
def test_what_is_not_filled_in_stretches_stays(starts: tuple[int, int], step: int, base: str) -> None:
    g, made = scattered(starts, step, base)
    assert "cat" not in ops(g.program(made))


def test_half_a_scatter_that_somebody_else_reads_stays() -> None:
    g, made = scattered((0, 4))
    half = next(node["name"] for node in g.nodes if node["op"] == "aten.slice_scatter.default")
    program = g.program(made, g.node("exp", f"%{half}"))
    assert sorted(ops(program)) == ["cat", "copy", "exp", "new_empty", "slice_scatter"]


def test_paths_lose_what_all_share() -> None:
    g = Drawn()
    x = g.input("x", 2, 8)
    for path in ("model.model.layers.0.mlp", "model.model.layers.1.mlp"):
        x = g.node("exp", x, module=g.module(path))
    assert [step.module[0] for step in g.program(x).steps] == ["0.mlp", "1.mlp"]
    assert math.prod(g.values[x[1:]].shape) == 16


def test_what_is_cast_down_behind_a_view_is_stored_narrow() -> None:
    g = Drawn()
    y = g.node("bmm", g.input("x", 2, 4, 8), g.input("w", 2, 8, 4), label="float32")
    turned = g.node("transpose.int", g.node("view", y, [2, 2, 2, 4], label="float32"), 1, 2, label="float32")
    z = g.node("exp", g.node("_to_copy", turned, dtype="bfloat16"))
    assert g.imported(z).graph.tensor["bmm_0"].dtype == "bfloat16"
    assert g.imported(z, turned).graph.tensor["bmm_0"].dtype == "float32"
    assert g.imported(z, g.node("exp", turned)).graph.tensor["bmm_0"].dtype == "float32"
