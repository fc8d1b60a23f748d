"""Exported graphs of real models: against each other, against the catalogue, and planned."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

import opt
from instances.catalogue import load_model
from instances.frontends.captured import read_captured
from instances.frontends.importing import Imported, import_graph
from instances.generate import build_graph
from instances.graph import Graph, Operator, OpKind, Role
from instances.repetition import find_layers
from tests.frontends.handmade import EXPORTS

FUNCTIONAL = "llama3_8b_prefill2048_L2"
NAMES = (
    "bert_base_512_L2",
    "deepseek_v3_decode4096_L2",
    "gpt2_prefill1024_L2",
    "llama3_8b_decode4096_L2",
    "llama3_8b_prefill2048_L1_core",
    "llama3_8b_prefill2048_L2",
    "llama3_8b_prefill2048_L2_composite",
    "mamba2_2b7_prefill2048_L1",
    "qwen3_30b_a3b_prefill2048_L1",
    "t5_base_enc512_dec128_L1",
)

pytestmark = pytest.mark.skipif(not EXPORTS.is_dir(), reason="no exported graphs beside the repository")


@cache
def imported(name: str) -> Imported:
    return import_graph(read_captured(EXPORTS / f"{name}.json"))


def macs(graph: Graph, *kinds: OpKind) -> int:
    """On the full square."""
    return sum(round(op.macs / op.density) for op in graph.operators if op.kind in kinds)


ATTENTION = (OpKind.ATTENTION_SCORES, OpKind.ATTENTION_VALUES)


@pytest.mark.parametrize("name", NAMES)
def test_all_are_planned(name: str) -> None:
    instance = opt.from_exported(EXPORTS / f"{name}.json")
    assert instance.graph == imported(name).graph
    result = opt.solve(instance, 10, "greedy")
    assert opt.replay(instance, result.schedule).valid


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_over(name: str) -> None:
    """Every captured node is in an operator, or set aside, or a view or a cast: none of those that compute is lost."""
    found = imported(name)
    assert found.unknown == {}
    stood_for = {source for sources in found.sources.values() for source in sources} | set(found.set_aside)
    captured = read_captured(EXPORTS / f"{name}.json")
    products = ("linear", "mm", "bmm", "addmm", "_grouped_mm", "einsum", "silu", "topk", "convolution")
    for node in captured.nodes:
        if node.op.split(".")[1:2] in [[op] for op in products]:
            assert node.name in stood_for, node.name


@pytest.mark.parametrize("name", NAMES)
def test_no_loop_stands_twice(name: str) -> None:
    extents: dict[str, int] = {}
    for op in imported(name).graph.operators:
        for access in (*op.reads, *op.writes):
            loops = [loop for axis in access.axes for loop in axis]
            assert len(loops) == len(set(loops)), (op.name, access)
        for loop, size in op.dims.items():
            assert extents.setdefault(loop, size) == size


def test_work_of_two_layers_of_llama() -> None:
    """The figures that torch's own counter gives."""
    graph = imported("llama3_8b_prefill2048_L2").graph
    assert 2 * macs(graph, OpKind.MATMUL) == 1_787_757_068_288
    assert 2 * macs(graph, *ATTENTION) == 137_438_953_472


def test_what_stands_for_a_layer_of_llama() -> None:
    graph = imported("llama3_8b_decode4096_L2").graph
    kinds = [op.kind.value for op in graph.operators if ".layers.0." in op.name]
    assert Counter(kinds) == {
        "norm": 2,
        "matmul": 7,
        "rope": 2,
        "cache_write": 2,
        "attention_scores": 1,
        "softmax": 1,
        "attention_values": 1,
        "elementwise": 2,
        "activation": 1,
    }


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (FUNCTIONAL, 2),
        (f"{FUNCTIONAL}_composite", 2),
        ("gpt2_prefill1024_L2", 2),
        ("bert_base_512_L2", 2),
        ("deepseek_v3_decode4096_L2", 1),
        ("qwen3_30b_a3b_prefill2048_L1", 1),
    ],
)
def test_equal_layers(name: str, layers: int) -> None:
    found = find_layers(imported(name).graph)
    assert (found.count if found is not None else 1) == layers


# ----------------------------------------------------------------------------- four of one model


def form(graph: Graph, op: Operator) -> tuple[Any, ...]:
    """An operator without names of tensors."""
    reads = sorted((access.dims, graph.touched_bytes(access)) for access in op.reads)
    writes = [(access.dims, graph.touched_bytes(access)) for access in op.writes]
    return op.kind, op.dims, op.macs, dict(op.vector), op.whole, op.density, reads, writes


def one_layer(graph: Graph) -> list[Operator]:
    return [op for op in graph.operators if ".layers.1." not in op.name]


def test_composite_operators_and_functional_ones_give_the_same() -> None:
    """Only the layout of the result of attention differs: the composite operator puts heads last."""
    one, other = imported(FUNCTIONAL).graph, imported(f"{FUNCTIONAL}_composite").graph
    turned = set()
    for a, b in zip(one.operators, other.operators, strict=True):
        assert (a.kind, a.dims, a.macs, a.vector, a.whole, a.density) == (
            b.kind,
            b.dims,
            b.macs,
            b.vector,
            b.whole,
            b.density,
        )
        assert sorted(map(one.touched_bytes, a.reads)) == sorted(map(other.touched_bytes, b.reads))
        if form(one, a) != form(other, b):
            turned.add((a.kind, a.name.rpartition(".")[2]))
    assert turned == {(OpKind.ATTENTION_VALUES, "values"), (OpKind.MATMUL, "o_proj")}


def test_core_operators_and_functional_ones_give_the_same() -> None:
    one, other = imported(FUNCTIONAL).graph, imported("llama3_8b_prefill2048_L1_core").graph
    mine, theirs = ([form(g, op) for op in ops] for g, ops in ((one, one_layer(one)), (other, other.operators)))
    assert len(mine) == len(theirs)
    assert all(shape in theirs for shape in mine)
    assert all(shape in mine for shape in theirs)


def test_onnx_and_torch_give_the_same() -> None:
    """Only the rotary tables differ: ONNX has them without an axis for the batch, as constants."""
    pytest.importorskip("onnx")
    from instances.frontends.onnx_model import read_onnx

    captured = read_onnx(EXPORTS / "llama3_8b_prefill2048_L1.opset23.onnx", None)
    one, other = imported(FUNCTIONAL).graph, import_graph(captured).graph
    mine, theirs = ([form(g, op) for op in ops] for g, ops in ((one, one_layer(one)), (other, other.operators)))
    assert len(mine) == len(theirs)
    differ = [shape for shape in mine if shape not in theirs]
    assert {kind for kind, *_ in differ} == {OpKind.ROPE}
    for kind, dims, count, vector, whole, density, reads, writes in differ:
        flat = sorted((axes[1:] if axes == ("batch", "seq", "head_dim") else axes, size) for axes, size in reads)
        assert (kind, dims, count, vector, whole, density, flat, writes) in theirs


# --------------------------------------------------------------------------------- the catalogue


def census(graph: Graph) -> tuple[Counter[tuple[str, int]], Counter[str], Counter[str]]:
    """Operators by kind and work, vector work by kind and class, bytes that are read of weights and caches."""
    operators = Counter((op.kind.value, op.macs) for op in graph.operators)
    vector: Counter[str] = Counter()
    bytes_read: Counter[str] = Counter()
    for op in graph.operators:
        for klass, count in op.vector.items():
            vector[f"{op.kind.value} {klass.value}"] += count
        for access in op.reads:
            role = graph.tensor[access.tensor].role
            if role in (Role.WEIGHT, Role.CACHE):
                bytes_read[role.value] += graph.touched_bytes(access)
    return operators, vector, bytes_read


def held(graph: Graph, role: Role) -> int:
    return sum(tensor.size_bytes for tensor in graph.tensors if tensor.role is role)


def catalogue(model: str, *args: Any, dense_layers: int | None = None, **options: Any) -> Graph:
    config = load_model(model)
    if dense_layers is not None:
        config = config.model_copy(update={"dense_layers": dense_layers})
    return build_graph(config, *args, ends=True, **options)


LAST_TOKEN = Counter({("gather", 0): 1})
"""The catalogue takes the last token of a prefill by an operator; in an export it is a view."""


@pytest.mark.parametrize(
    ("name", "known", "model", "args", "options"),
    [
        (FUNCTIONAL, LAST_TOKEN, "llama-3-8b", ("prefill", 1, 2048), {"layers": 2}),
        ("llama3_8b_decode4096_L2", Counter(), "llama-3-8b", ("decode", 1, 1, 4096), {"layers": 2}),
        ("gpt2_prefill1024_L2", LAST_TOKEN, "gpt2", ("prefill", 1, 1024), {"layers": 2}),
        ("bert_base_512_L2", Counter(), "bert-base", ("prefill", 1, 512), {"layers": 2}),
        ("qwen3_30b_a3b_prefill2048_L1", LAST_TOKEN, "qwen3-30b-a3b", ("prefill", 1, 2048), {"layers": 1}),
        (
            "deepseek_v3_decode4096_L2",
            Counter(),
            "deepseek-v3",
            ("decode", 1, 1, 4096),
            {"layers": 2, "dense_layers": 1, "absorbed": False},
        ),
    ],
)
def test_the_catalogue_builds_the_same(
    name: str, known: Counter[tuple[str, int]], model: str, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    graph, ours = imported(name).graph, catalogue(model, *args, **options)
    operators, vector, bytes_read = census(graph)
    expected, expected_vector, expected_bytes = census(ours)
    assert expected - operators == known
    assert operators - expected == Counter()
    assert vector == expected_vector
    if model == "bert-base":  # each token has a type, as far as the graph tells: the rows of both are read
        expected_bytes["weight"] += 2 * 768
    if model == "deepseek-v3":  # the correction of 256 scores is kept in 32 bits by the export
        expected_bytes["weight"] += 2 * 256
    assert bytes_read == expected_bytes
    assert held(graph, Role.CACHE) == held(ours, Role.CACHE)
    tied = 2 * 50257 * 768 if model == "gpt2" else 0  # the export has one tensor for embedding and head
    extra = 2 * 256 if model == "deepseek-v3" else 0
    assert held(graph, Role.WEIGHT) == held(ours, Role.WEIGHT) - tied + extra


def test_the_catalogue_builds_t5() -> None:
    """But for the ends: the export makes logits of all positions and writes no cache."""
    graph = imported("t5_base_enc512_dec128_L1").graph
    ours = catalogue("t5-base", "prefill", 1, 128, source=512, layers=1)
    operators, vector, bytes_read = census(graph)
    expected, expected_vector, expected_bytes = census(ours)
    head = 768 * 32128
    # the last token, rows of two caches, the logits of one token
    assert expected - operators == Counter({("gather", 0): 1, ("cache_write", 0): 4, ("matmul", head): 1})
    # what is masked in the two position biases, the logits of 128 tokens; their scaling is one operator on either side
    assert operators - expected == Counter({("elementwise", 0): 2, ("matmul", 128 * head): 1})
    biases = 12 * (512**2 + 128**2)
    masked_and_scaled = Counter({"elementwise two_source": biases + 128 * 768})
    assert vector - expected_vector == masked_and_scaled
    assert expected_vector - vector == Counter({"gather transpose": biases, "elementwise one_source": 768})
    assert (bytes_read - expected_bytes, expected_bytes - bytes_read) == (Counter(), Counter())
    assert held(ours, Role.WEIGHT) - held(graph, Role.WEIGHT) == 2 * head  # embedding and head are one tensor
