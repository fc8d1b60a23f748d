"""Programs of torch.export and graphs of make_fx and torch.compile: what they become, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_models import MODELS, Decoder, exported, flops, full_macs, on_meta  # noqa: E402
from transformers import LlamaConfig  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaDecoderLayer  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import opt  # noqa: E402
from instances.errors import InputError  # noqa: E402
from instances.frontends.captured import CapturedGraph, read_captured, write_captured  # noqa: E402
from instances.frontends.elementwise import elementwise  # noqa: E402
from instances.frontends.importing import import_graph  # noqa: E402
from instances.frontends.lowering import HANDLERS  # noqa: E402
from instances.frontends.torch_program import capture_torch, read_torch  # noqa: E402
from instances.graph import Graph, OpKind, Role, VectorClass  # noqa: E402
from opt.cli import app  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

captured_once: dict[str, tuple[Any, CapturedGraph]] = {}


def capture(name: str) -> tuple[Any, CapturedGraph]:
    """A model's exported program on meta, and its captured graph; made once."""
    if name not in captured_once:
        program = exported(*on_meta(name))
        captured_once[name] = program, capture_torch(program, name)
    return captured_once[name]


def forms(graph: Graph) -> list[dict[str, Any]]:
    """Operators in order, without names of operators, tensors and loops."""
    return [
        {
            "kind": op.kind,
            "extents": sorted(op.dims.values()),
            "macs": op.macs,
            "vector": op.vector,
            "density": op.density,
            "whole": sorted(op.dims[loop] for loop in op.whole),
            "reads": [(graph.tensor[a.tensor].shape, graph.tensor[a.tensor].role, a.touched_bytes) for a in op.reads],
            "writes": [(graph.tensor[a.tensor].shape, graph.tensor[a.tensor].role) for a in op.writes],
        }
        for op in graph.operators
    ]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_macs_of_a_model_are_those_that_torch_counts(name: str) -> None:
    program, captured = capture(name)
    found = import_graph(captured)
    assert not found.unknown
    with torch.device("meta"):
        counted = flops(lambda: program.module()(**MODELS[name].ids()))
    # torch does not count grouped products: per layer 64 rows by gate and up (64 x 2 * 32), and down (32 x 64)
    grouped = 2 * 2 * 64 * (64 * 64 + 32 * 64) if name == "qwen3_moe" else 0
    assert 2 * full_macs(found.graph) == counted + grouped


def test_experts_in_bfloat16_are_those_in_float32() -> None:
    model, ids = on_meta("qwen3_moe")
    captured = capture_torch(exported(model.bfloat16(), ids))
    assert "aten._grouped_mm.default" in {node.op for node in captured.nodes}  # else the test shows nothing
    narrow, wide = import_graph(captured).graph, import_graph(capture("qwen3_moe")[1]).graph
    assert [(op.kind, op.macs) for op in narrow.operators] == [(op.kind, op.macs) for op in wide.operators]


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_fake_weights_give_the_graph_that_meta_weights_give(name: str) -> None:
    with FakeTensorMode():
        program = exported(MODELS[name].build(), MODELS[name].ids())
    assert import_graph(capture_torch(program, name)).graph == import_graph(capture(name)[1]).graph


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_captured_graph_survives_being_written(name: str, tmp_path: Path) -> None:
    captured = capture(name)[1]
    write_captured(captured, tmp_path / "graph.json")
    again = read_captured(tmp_path / "graph.json")
    assert import_graph(again).graph == import_graph(captured).graph
    assert name != "llama" or opt.from_exported(tmp_path / "graph.json") == opt.from_captured(captured)


def test_a_pt2_file_goes_through_the_command_line(tmp_path: Path) -> None:
    program, captured = capture("llama")
    torch.export.save(program, str(tmp_path / "llama.pt2"))
    given = ["import", "torch", str(tmp_path / "llama.pt2"), "-o", str(tmp_path / "made.json"), "--json"]
    result = CliRunner().invoke(app, [*given, "--captured", str(tmp_path / "captured.json")])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["unknown"], answer["layers"]) == ({}, 2)
    made = opt.load_instance(tmp_path / "made.json")
    assert answer["macs"] == sum(op.macs for op in made.graph.operators)
    assert forms(made.graph) == forms(import_graph(captured).graph)
    assert opt.from_exported(tmp_path / "captured.json").graph == made.graph
    assert opt.from_torch(tmp_path / "llama.pt2").graph == made.graph


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_torch(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(InputError, match=r"is no exported program .* torch\.export\.save"):
        read_torch(tmp_path / "text.pt2")
    with pytest.raises(InputError, match="got a Linear"):
        opt.from_torch(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_a_layer_of_llama_3_8b_at_its_real_size() -> None:
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        layer = LlamaDecoderLayer(config, 0).bfloat16().eval()
        x = torch.empty(1, 2048, 4096, dtype=torch.bfloat16)
        tables = torch.empty(1, 2048, 128, dtype=torch.bfloat16)
        program = exported(layer, {"hidden_states": x, "position_embeddings": (tables, tables)})
    graph = import_graph(capture_torch(program)).graph
    linear = 2048 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)
    square = 2 * 32 * 2048 * 2048 * 128
    assert sum(op.macs for op in graph.operators if op.kind is OpKind.MATMUL) == linear
    assert full_macs(graph) == linear + square
    weights = [tensor.elements for tensor in graph.tensors if tensor.role is Role.WEIGHT]
    assert sum(weights) == 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336) + 2 * 4096
    kinds = Counter(op.kind for op in graph.operators)
    assert (kinds[OpKind.NORM], kinds[OpKind.ROPE], kinds[OpKind.MATMUL], kinds[OpKind.SOFTMAX]) == (2, 2, 7, 1)


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Llama's layers are regions that are compiled once."""
    region = torch.compiler.nested_compile_region(LlamaDecoderLayer.forward)
    monkeypatch.setattr(LlamaDecoderLayer, "forward", region)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("nested")
def test_regions_that_are_called_are_read_where_they_are_called() -> None:
    model, ids = on_meta("llama")
    program = exported(model, ids, strict=True)
    calls = [node for node in program.graph_module.graph.nodes if str(node.target) == "invoke_subgraph"]
    assert len(calls) == 2  # else the test shows nothing
    plain = import_graph(capture("llama")[1]).graph
    assert forms(import_graph(capture_torch(program)).graph) == forms(plain)
    assert forms(import_graph(dynamo_capture(model, ids)).graph) == forms(plain)


def dynamo_capture(model: nn.Module, given: dict[str, Any]) -> CapturedGraph:
    """The captured graph of what torch.compile hands to a backend."""
    found = []

    def backend(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        found.append(capture_torch(module, "dynamo", inputs))
        return module.forward

    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(**given)
    (one,) = found
    return one


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "qwen3_moe"])
def test_dynamo_gives_the_operators_that_export_gives(name: str) -> None:
    torch._dynamo.reset()
    model, ids = on_meta(name)
    own, other = import_graph(capture(name)[1]), import_graph(dynamo_capture(model, ids))
    assert forms(other.graph) == forms(own.graph)
    assert [op.name for op in other.graph.operators if op.macs] == [op.name for op in own.graph.operators if op.macs]


def test_a_decoder_whose_cache_is_arguments() -> None:
    with torch.device("meta"):
        model = Decoder(MODELS["llama"].build())
        past = [(torch.empty(2, 2, 63, 16), torch.empty(2, 2, 63, 16)) for _ in range(2)]
        program = exported(model, {"ids": torch.zeros(2, 1, dtype=torch.long), "past": past})
    graph = import_graph(capture_torch(program)).graph
    writes = [op for op in graph.operators if op.kind is OpKind.CACHE_WRITE]
    assert len(writes) == 4  # of each layer, the new row of keys and of values
    assert all(graph.tensor[op.writes[0].tensor].elements == 2 * 2 * 16 for op in writes)
    (scores, _) = (op for op in graph.operators if op.kind is OpKind.ATTENTION_SCORES)
    assert round(scores.macs / scores.density) == 2 * 4 * 64 * 16  # 63 positions and one more


def traced(function: Callable[..., Any], *inputs: Any, **options: Any) -> CapturedGraph:
    return capture_torch(make_fx(function, **options)(*inputs), "traced")


def ops(captured: CapturedGraph) -> list[tuple[str, tuple[Any, ...]]]:
    return [(node.op, node.args) for node in captured.nodes]


X, Z = torch.zeros(4, 8), torch.zeros(4, 8)


def test_arguments_of_a_traced_function_are_inputs_whatever_they_are_called() -> None:
    captured = traced(lambda b, p: torch.relu(b) + p, X, Z)
    assert {item.kind for item in captured.inputs} == {"user_input"}
    assert [op.kind for op in import_graph(captured).graph.operators] == [OpKind.ACTIVATION, OpKind.ELEMENTWISE]


def test_what_is_written_in_place_is_read_afterwards() -> None:
    def whole(a: Any, c: Any) -> Any:
        d = a * 2
        d.add_(c)
        return d * 3

    assert ops(traced(whole, X, Z))[1:] == [
        ("aten.add.Tensor", ("%mul", "%c_1")),
        ("aten.mul.Tensor", ("%add_", 3)),
    ]

    def part(a: Any, c: Any) -> Any:
        d = a * 2
        d[:, 2:6] = c[:, :4]
        return d * 3

    assert ops(traced(part, X, Z, pre_dispatch=True))[-3:] == [
        ("aten.copy.default", ("%slice_2", "%slice_1")),
        ("aten.slice_scatter.default", ("%mul", "%copy_", 1, 2, 6)),
        ("aten.mul.Tensor", ("%copy_.mul", 3)),
    ]

    def turned(a: Any) -> Any:
        d = a * 2
        d.split(4, 1)[1].t().mul_(2.0)
        return d - 1

    captured = traced(turned, X)
    assert ops(captured)[-1][1][0] == f"%{captured.nodes[-2].name}"
    assert [op.kind for op in import_graph(captured).graph.operators] == [OpKind.ELEMENTWISE] * 5


def test_an_input_that_is_written_is_a_result() -> None:
    captured = traced(lambda a, c: (a.mul_(c), c + 1)[1], X, Z)
    assert [item.name for item in captured.outputs] == ["add", "mul_"]


class Mixed(nn.Module):
    """Results of all kinds, a buffer that changes, a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(4, 8))

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> Any:
        y = self.map(x) * scale
        self.seen.add_(y)
        top = torch.topk(y, 2)
        return {"y": y, "none": None, "both": (top.values + 1, top.indices), "number": 3}


def test_keywords_tuples_none_and_buffers() -> None:
    program = exported(Mixed(), {"x": X, "scale": Z})
    captured = capture_torch(program)
    assert {(item.kind, item.target) for item in captured.inputs} == {
        ("parameter", "map.weight"),
        ("parameter", "map.bias"),
        ("buffer", "seen"),
        ("user_input", None),
    }
    made = {node.name: node.op for node in captured.nodes}
    results = [made[item.name] for item in captured.outputs]
    assert sorted(results) == ["aten.add.Tensor", "aten.add.Tensor", "aten.mul.Tensor", "getitem"]
    assert forms(import_graph(capture_torch(program.module(), inputs=[X, Z])).graph)[0]["kind"] is OpKind.MATMUL


def test_a_module_that_was_traced_by_name_alone_wants_inputs() -> None:
    module = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU()))
    with pytest.raises(InputError, match="give inputs"):
        opt.from_torch(module)
    graph = import_graph(capture_torch(module, inputs=[X])).graph
    assert [(op.kind, op.macs) for op in graph.operators] == [(OpKind.MATMUL, 4 * 8 * 16), (OpKind.ACTIVATION, 0)]


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.view(x.shape[0], 2, 4) * 2).reshape(-1, 8)[: x.shape[0] // 2]


def test_symbolic_sizes_are_those_of_the_example(tmp_path: Path) -> None:
    rows = 2 * torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Halves(), (X,), dynamic_shapes=({0: rows},))
    torch.export.save(program, str(tmp_path / "halves.pt2"))
    for one in (program, read_torch(tmp_path / "halves.pt2")):
        captured = capture_torch(one)
        first, *_, last = captured.nodes
        assert first.args == ("%x", [4, 2, 4])
        assert (last.args[3], last.outputs[0][0]) == (2, (2, 8))
        assert CapturedGraph.model_validate_json(captured.model_dump_json()) == captured


def test_results_that_are_no_tensors_do_not_move_the_others() -> None:
    class Flash(nn.Module):
        def forward(self, q: torch.Tensor) -> Any:
            # out, logsumexp, and of the rest some numbers before the state of the generator
            found = torch.ops.aten._scaled_dot_product_flash_attention(q, q, q)
            return found[0], found[6] + 1

    with torch.device("meta"):
        program = exported(Flash(), {"q": torch.empty(1, 2, 16, 8, dtype=torch.float16)})
    captured = capture_torch(program)
    whole = next(node for node in captured.nodes if "flash" in node.op)
    picked = [node for node in captured.nodes if node.op == "getitem"]
    assert [whole.outputs[int(node.args[1])] for node in picked] == [node.outputs[0] for node in picked]


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, (x,)) + 1


def test_a_choice_of_graphs_is_not_taken_for_one_of_them() -> None:
    captured = capture_torch(exported(Branches(), {"x": X}))
    with pytest.raises(InputError, match=r"cond \(1 times, first cond\)"):
        import_graph(captured)
    assert list(import_graph(captured, allow_unknown=True).unknown) == ["cond"]


class Modes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x * 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return y @ y.T


def test_regions_with_gradients_or_casts_switched_are_read() -> None:
    captured = capture_torch(exported(Modes().train(), {"x": X}))
    assert [op.kind for op in import_graph(captured).graph.operators] == [OpKind.ELEMENTWISE, OpKind.MATMUL]


@pytest.fixture
def custom() -> Iterator[str]:
    """An operator that nobody knows."""
    library = torch.library.Library("tilewright_tests", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("tilewright_tests::twice", torch.empty_like, lib=library)
    yield "tilewright_tests.twice.default"
    HANDLERS.pop("tilewright_tests.twice.default", None)
    library._destroy()


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        twice = torch.ops.tilewright_tests.twice
        return twice(self.inner(twice(x)))


def test_an_operator_that_is_not_mapped(custom: str) -> None:
    program = exported(Strange(), {"x": X})
    with pytest.raises(
        InputError, match=r"1 operators are not mapped: tilewright_tests\.twice\.default \(2 times"
    ) as e:
        opt.from_torch(program)
    assert "first twice" in str(e.value) and "register_op" in str(e.value) and "--allow-unknown" in str(e.value)
    allowed = opt.from_torch(program, allow_unknown=True)
    assert allowed.origin["unknown"] == f"{custom} (2 times)"
    assert sum("unknown operator" in op.note for op in allowed.graph.operators) == 2
    opt.register_op(custom, elementwise({VectorClass.ONE_SOURCE: 3}, OpKind.ACTIVATION))
    known = opt.from_torch(program)
    assert "unknown" not in known.origin
    assert [op.vector.get(VectorClass.ONE_SOURCE) for op in known.graph.operators] == [96, None, 96]
