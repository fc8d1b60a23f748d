"""ONNX models: equal to what they are expanded to and to what torch exports, and refused with a reason."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import opt  # noqa: E402
from instances.errors import InputError, TilewrightError  # noqa: E402
from instances.frontends.importing import import_graph  # noqa: E402
from instances.frontends.onnx_model import capture_onnx, read_onnx  # noqa: E402
from instances.graph import Graph, OpKind, Role  # noqa: E402
from instances.repetition import _canonical  # noqa: E402
from opt.cli import app  # noqa: E402

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    """The node tests of the onnx package: name -> model."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {case.name: case.model for case in collect_testcases() if case.model is not None}


def graph_of(model: Any, learned: tuple[str, ...] = (), **options: Any) -> Graph:
    """The graph of a model; some of its inputs are made weights without data."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for item in list(made.graph.input):
        if item.name in learned:
            kind = item.type.tensor_type
            made.graph.input.remove(item)
            weight = TensorProto(name=item.name, data_type=kind.elem_type, dims=[d.dim_value for d in kind.shape.dim])
            weight.external_data.add(key="location", value="no such file")
            weight.data_location = TensorProto.EXTERNAL
            made.graph.initializer.append(weight)
    return import_graph(capture_onnx(made), **options).graph


def canonical(graph: Graph) -> list[str]:
    """What a graph is but for the names in it and the order of its operators."""
    return sorted(_canonical(graph, operator) for operator in graph.operators)


def pairs(cases: dict[str, Any], prefix: str) -> list[str]:
    return [name for name in cases if name.startswith(prefix) and f"{name}_expanded" in cases]


def test_attention_is_what_it_expands_to(cases: dict[str, Any]) -> None:
    names = pairs(cases, "test_attention_")
    assert len(names) >= 93
    kinds: Counter[OpKind] = Counter()
    for name in names:
        whole, expanded = graph_of(cases[name]), graph_of(cases[f"{name}_expanded"])
        assert canonical(whole) == canonical(expanded), name
        kinds.update(operator.kind for operator in whole.operators)
    assert kinds[OpKind.ATTENTION_SCORES] == kinds[OpKind.SOFTMAX] == kinds[OpKind.ATTENTION_VALUES] == len(names)


@pytest.mark.parametrize(("prefix", "count"), [("test_gelu_", 4), ("test_swish", 1)])
def test_activations_are_what_they_expand_to(cases: dict[str, Any], prefix: str, count: int) -> None:
    names = pairs(cases, prefix)
    assert len(names) == count
    for name in names:
        whole, expanded = graph_of(cases[name]), graph_of(cases[f"{name}_expanded"])
        assert canonical(whole) == canonical(expanded), name
        assert [operator.kind for operator in whole.operators] == [OpKind.ACTIVATION]


def test_rms_norms_of_the_last_axis_are_what_they_expand_to(cases: dict[str, Any]) -> None:
    found = 0
    for name in pairs(cases, "test_rms_normalization_"):
        weight = next(item for item in cases[name].graph.input if item.name == "W")
        if len(weight.type.tensor_type.shape.dim) > 1:
            continue  # over several axes: spelled out, it stays spelled out
        whole, expanded = graph_of(cases[name], ("W",)), graph_of(cases[f"{name}_expanded"], ("W",))
        assert canonical(whole) == canonical(expanded), name
        assert [operator.kind for operator in whole.operators] == [OpKind.NORM]
        found += 1
    assert found >= 7


def test_layer_norms_and_rotations_are_read(cases: dict[str, Any]) -> None:
    """Their expanded forms give mean and deviation as results, or look tables up: read, but not put together."""
    for name in pairs(cases, "test_layer_normalization_"):
        graph = graph_of(cases[name], ("W", "B"))
        assert [operator.kind for operator in graph.operators] == [OpKind.NORM], name
        assert len(graph_of(cases[f"{name}_expanded"], ("W", "B")).operators) > 1
    for name in pairs(cases, "test_rotary_embedding"):
        assert [operator.kind for operator in graph_of(cases[name]).operators] == [OpKind.ROPE], name


def test_no_node_of_the_standard_breaks_the_door(cases: dict[str, Any]) -> None:
    read = 0
    for model in cases.values():
        try:
            graph_of(model, allow_unknown=True)
            read += 1
        except TilewrightError:
            continue
    assert read > len(cases) // 2


LIGHT = {  # multiply-accumulates of products and convolutions, of 224 x 224 pixels
    "resnet50": 4_089_184_256,
    "vgg19": 19_632_062_464,
    "bvlc_alexnet": 654_560_384,
    "densenet121": 2_834_161_664,
    "squeezenet": 349_151_936,
}


@pytest.mark.parametrize("name", LIGHT)
def test_networks_whose_weights_are_made_up_in_the_file(name: str) -> None:
    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"
    found = import_graph(read_onnx(path))
    assert sum(operator.macs for operator in found.graph.operators) == LIGHT[name]
    assert not found.unknown


def model(nodes: Any, inputs: Any, outputs: Any, weights: Any = (), opset: int = 21, **others: int) -> Any:
    """A model of nodes; inputs and outputs as name and shape."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    versions = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **others}.items()]
    return helper.make_model(graph, opset_imports=versions)


node = helper.make_node


def linear(batch: Any = "batch", tokens: Any = "tokens") -> Any:
    weight = np.zeros((8, 4), np.float32)
    return model([node("MatMul", ["x", "w"], ["y"])], [("x", (batch, tokens, 8))], [("y", None)], [("w", weight)])


def test_symbolic_sizes_are_bound(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "linear.onnx")
    instance = opt.from_onnx(tmp_path / "linear.onnx", dims={"batch": 2, "tokens": 16})
    assert instance.graph.operators[0].macs == 2 * 16 * 8 * 4
    given = ["import", "onnx", str(tmp_path / "linear.onnx"), "-o", str(tmp_path / "made.json"), "--json"]
    result = CliRunner().invoke(app, [*given, "--dim", "batch=2", "--dim", "tokens=16"])
    assert result.exit_code == 0 and json.loads(result.stdout)["macs"] == 1024
    assert opt.load_instance(tmp_path / "made.json").graph == instance.graph
    with pytest.raises(
        InputError, match=r"axis 0 of 'x' has the symbolic size 'batch'; bind it with --dim batch=N \(and t"
    ):
        opt.from_onnx(tmp_path / "linear.onnx")
    with pytest.raises(InputError, match=r"'tokens'; bind it with --dim tokens=N$"):
        opt.from_onnx(tmp_path / "linear.onnx", dims={"batch": 2})
    with pytest.raises(InputError, match="dimension 'heads' does not occur"):
        opt.from_onnx(tmp_path / "linear.onnx", dims={"batch": 2, "tokens": 16, "heads": 4})
    for size in (0, -1):
        with pytest.raises(InputError, match=f"dimension 'batch' is to be {size}"):
            opt.from_onnx(tmp_path / "linear.onnx", dims={"batch": size, "tokens": 16})
    with pytest.raises(InputError, match=r"x\[0\]"):
        capture_onnx(linear(None, 16))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        opt.from_onnx(tmp_path / "none.onnx")
    onnx.save(linear(1, 4), tmp_path / "whole.onnx")
    (tmp_path / "half.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes()[:60])
    (tmp_path / "text.onnx").write_text("this is no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("half", "text", "empty"):
        with pytest.raises(InputError, match=name):
            opt.from_onnx(tmp_path / f"{name}.onnx")


def test_weights_beside_the_file_are_not_missed(tmp_path: Path) -> None:
    big = model([node("MatMul", ["x", "w"], ["y"])], [("x", (4, 512))], [("y", None)])
    big.graph.initializer.append(numpy_helper.from_array(np.zeros((512, 1024), np.float32), "w"))
    onnx.save(big, tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin")
    whole = opt.from_onnx(tmp_path / "big.onnx")
    (tmp_path / "weights.bin").unlink()
    assert opt.from_onnx(tmp_path / "big.onnx") == whole
    assert [(t.name, t.role) for t in whole.graph.tensors if t.role is Role.WEIGHT] == [("w", Role.WEIGHT)]


def test_what_is_not_tensors_is_refused() -> None:
    shapeless = model([node("Relu", ["x"], ["y"])], [("x", None)], [("y", None)])
    with pytest.raises(InputError, match="input 'x' is no tensor of a known shape"):
        capture_onnx(shapeless)
    constant = model([node("Relu", ["w"], ["y"])], [("x", (2,))], [("y", None)], [("w", np.ones(2, np.float32))])
    with pytest.raises(InputError, match="holds no operation on its inputs"):
        capture_onnx(constant)
    clash = model([node("Relu", ["%x"], ["x"])], [("%x", (4, 8))], [("x", None)])
    with pytest.raises(InputError, match="two inputs or nodes are called 'x'"):
        capture_onnx(clash)


def test_operators_of_other_domains_are_not_taken_for_standard_ones() -> None:
    other = model(
        [node("Attention", ["x", "w"], ["a"], domain="com.microsoft"), node("Relu", ["a"], ["y"])],
        [("x", (4, 8)), ("w", (8, 24))],
        [("y", (4, 8))],
        **{"com.microsoft": 1},
    )
    with pytest.raises(InputError, match=r"shape of 'a' .* is not static"):
        capture_onnx(other)
    other.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, (4, 8)))
    with pytest.raises(InputError, match=r"com\.microsoft\.Attention \(1 times, first a\)"):
        import_graph(capture_onnx(other))
    found = import_graph(capture_onnx(other), allow_unknown=True)
    assert list(found.unknown) == ["com.microsoft.Attention"] and len(found.graph.operators) == 2


def test_functions_of_the_model_are_read_where_they_are_called() -> None:
    called = model([node("Gate", ["x"], ["y"], domain="own")], [("x", (4, 8))], [("y", (4, 8))], own=1)
    body = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])]
    called.functions.append(helper.make_function("own", "Gate", ["a"], ["b"], body, [helper.make_opsetid("", 21)]))
    assert [operator.kind for operator in graph_of(called).operators] == [OpKind.ACTIVATION]


def test_products_with_single_numbers() -> None:
    one = np.ones((1, 1), np.float32)
    nodes = [
        (node("MatMul", ["x", "w"], ["y"]), (8, 1), one, 8),
        (node("Gemm", ["x", "w"], ["y"], transB=1), (8, 1), one, 8),
        (node("Einsum", ["x", "w"], ["y"], equation="ij,jk"), (8, 1), one, 8),
        (node("Conv", ["x", "w"], ["y"]), (1, 1, 4, 4), one[None, None], 16),
    ]
    for made, shape, weight, macs in nodes:
        graph = graph_of(model([made], [("x", shape)], [("y", None)], [("w", weight)]))
        assert [(operator.kind, operator.macs) for operator in graph.operators] == [(OpKind.MATMUL, macs)]


@pytest.mark.parametrize("kind", ["truth", "added"])
@pytest.mark.parametrize("masked", ["causal", "padded"])
def test_a_causal_mask_that_was_worked_out_is_told_by_its_elements(kind: str, masked: str) -> None:
    seen = np.tri(16, 20, 4, dtype=bool)
    if masked == "padded":
        seen[0, 19] = True
    mask = seen if kind == "truth" else np.where(seen, 0, -3e38).astype(np.float32)
    heads = [("q", (1, 2, 16, 8)), ("k", (1, 2, 20, 8)), ("v", (1, 2, 20, 8))]
    made = model([node("Attention", ["q", "k", "v", "m"], ["y"])], heads, [("y", None)], [("m", mask)], opset=23)
    (scores,) = (op for op in graph_of(made).operators if op.kind is OpKind.ATTENTION_SCORES)
    assert (scores.density < 1) is (masked == "causal")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "opset"), [("llama", 18), ("gpt2", 23)])
def test_what_torch_exports_to_onnx_is_what_it_exports(name: str, opset: int) -> None:
    for package in ("torch", "transformers", "onnxscript"):
        pytest.importorskip(package)
    import torch
    from torch_models import MODELS, exported

    from instances.frontends.torch_program import capture_torch

    built, ids = MODELS[name].build(), MODELS[name].ids()
    own = import_graph(capture_torch(exported(built, ids))).graph
    with torch.no_grad():
        made = torch.onnx.export(built, (), kwargs=ids, opset_version=opset, dynamo=True, verbose=False).model_proto
    found = import_graph(capture_onnx(made))
    assert not found.unknown
    assert Counter(map(work, found.graph.operators)) == Counter(map(work, own.operators))


def work(operator: Any) -> tuple[Any, ...]:
    """What an operator does."""
    extents = tuple(sorted(size for size in operator.dims.values() if size > 1))
    return operator.kind, extents, operator.macs, tuple(sorted(operator.vector.items())), operator.density
