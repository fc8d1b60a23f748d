"""Equal layers of a graph, found by form alone, and one of them that stands for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.catalogue import load_model
from instances.frontends.captured import CapturedGraph
from instances.fusion import Fuser
from instances.generate import build_graph
from instances.graph import Graph, Role
from instances.repetition import Folded, Repetition, find_layers, fold, longest_repetition
from opt.importing import from_captured, import_captured
from tests.frontends.handmade import Drawn


def built(model: str, layers: int, phase: str = "decode", **options: Any) -> Graph:
    size = (2, 1, 512) if phase == "decode" else (1, 256)
    config = load_model(model)
    if "dense_layers" in options:
        config = config.model_copy(update={"dense_layers": options.pop("dense_layers")})
    return build_graph(config, phase, *size, layers=layers, **options)  # type: ignore[arg-type]


def place(graph: Graph, folded: Folded) -> int:
    """Where the layer that stands for all starts in the whole."""
    return [op.name for op in graph.operators].index(folded.graph.operators[0].name)


def severed(graph: Graph, cut: int) -> list[tuple[str, str]]:
    """Pairs of operators on either side of a cut that may run as one kernel."""
    fuser = Fuser(graph)
    before = {op.name for op in graph.operators[:cut]}
    return [
        (maker, reader)
        for tensor, maker in graph.producer.items()
        for reader in graph.consumers[tensor]
        if maker in before and reader not in before and fuser.judge([maker, reader]) is not None
    ]


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt2", "bert-base", "qwen3-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("layers", [2, 3, 8])
@pytest.mark.parametrize("ends", [True, False])
def test_layers_of_a_model(model: str, layers: int, ends: bool) -> None:
    phase = "prefill" if model == "bert-base" else "decode"
    graph = built(model, layers, phase, ends=ends)
    found = find_layers(graph)
    one = built(model, 1, phase, ends=False)
    assert found is not None
    assert (found.period, found.count) == (len(one.operators), layers)
    assert found.end <= len(graph.operators)


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt2", "qwen3-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("layers", [3, 8])
def test_the_cut_severs_no_pair_that_fuses(model: str, layers: int) -> None:
    """Models that normalise first: the module boundary would part an addition from the norm behind it."""
    graph = built(model, layers, ends=True)
    found = find_layers(graph)
    assert found is not None
    folded = fold(graph, found)
    start = place(graph, folded)
    assert severed(graph, start) == []
    assert severed(graph, start + found.period) == []
    assert any(severed(graph, found.first + turn + found.period) for turn in range(found.period))


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt2", "bert-base", "deepseek-v3", "mixtral-8x7b"])
@pytest.mark.parametrize("layers", [2, 3, 6, 8])
def test_one_layer_stands_for_all(model: str, layers: int) -> None:
    phase = "prefill" if model == "bert-base" else "decode"
    options = {"dense_layers": 0} if model == "deepseek-v3" else {}
    graph = built(model, layers, phase, ends=True, **options)
    found = find_layers(graph)
    assert found is not None
    folded = fold(graph, found)
    assert folded.repeat in (layers, layers - 1)
    assert folded.repeat * found.period + folded.outside == len(graph.operators)
    assert len(folded.graph.operators) == found.period
    start = place(graph, folded)
    assert graph.operators[start : start + found.period] == folded.graph.operators
    inside = {op.name for op in folded.graph.operators}
    for tensor in folded.graph.tensors:
        before = graph.tensor[tensor.name]
        assert (tensor.shape, tensor.dtype) == (before.shape, before.dtype)
        made = folded.graph.producer.get(tensor.name)
        if before.role is Role.INTERMEDIATE:
            outside = any(reader not in inside for reader in graph.consumers[tensor.name])
            expected = Role.INPUT if made is None else Role.OUTPUT if outside else Role.INTERMEDIATE
            assert tensor.role is expected
    work = [sum(op.macs for op in g.operators) for g in (folded.graph, built(model, 1, phase, ends=False, **options))]
    assert work[0] == work[1]


@pytest.mark.parametrize("layers", [3, 8])
def test_every_layer_is_the_one_that_stands_for_all(layers: int) -> None:
    """The stretch from its place on repeats as often as it says."""
    graph = built("llama-3-8b", layers, ends=True)
    found = find_layers(graph)
    assert found is not None
    folded = fold(graph, found)
    start = place(graph, folded) % found.period
    starts = [
        i
        for i in range(start, len(graph.operators), found.period)
        if i + found.period <= found.end and i >= found.first
    ]
    assert len(starts) == folded.repeat
    kinds = {tuple(op.kind for op in graph.operators[i : i + found.period]) for i in starts}
    assert len(kinds) == 1


def test_a_dense_layer_before_layers_of_experts() -> None:
    graph = built("deepseek-v3", 6, dense_layers=1, ends=True)
    found = find_layers(graph)
    assert found is not None
    assert found.count == 5
    dense = next(i for i, op in enumerate(graph.operators) if op.name.startswith("l1."))
    assert abs(found.first - dense) < found.period
    folded = fold(graph, found)
    assert folded.repeat in (4, 5)
    assert any(op.kind.value == "topk" for op in folded.graph.operators)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_layers_that_all_read_one_tensor_are_equal(phase: str) -> None:
    """Cross-attention of every decoder layer reads the same encoder states, each from further away."""
    decode = phase == "decode"
    size = (1, 1, 64) if decode else (1, 64)
    graph = build_graph(load_model("t5-base"), phase, *size, layers=4, source=128)  # type: ignore[arg-type]
    found = find_layers(graph)
    assert found is not None and found.count == 4
    names = [op.name for op in graph.operators[found.first : found.end]]
    assert names[:: found.period] == [f"d{layer}.{names[0].split('.')[1]}" for layer in range(4)]


def test_layers_do_not_depend_on_names() -> None:
    graph = built("gpt2", 4)
    document = graph.model_dump_json()
    for i in range(4):
        document = document.replace(f'"l{i}.', f'"{"xyzw"[i]}{"long" * i}')
    assert find_layers(Graph.model_validate_json(document)) == find_layers(graph)


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt2"])
def test_a_single_layer_does_not_repeat(model: str) -> None:
    assert find_layers(built(model, 1, ends=True)) is None


def test_layers_of_different_sizes_do_not_repeat() -> None:
    g = Drawn()
    x = g.input("x", 4, 16)
    for width in (32, 48, 64):
        up = g.node("gelu", g.node("linear", x, g.weight(f"up{width}", width, 16)))
        x = g.node("add.Tensor", x, g.node("linear", up, g.weight(f"down{width}", 16, width)))
    assert find_layers(g.imported(x).graph) is None
    instance = from_captured(g.graph(x), one_layer=True)  # nothing to fold: the whole
    assert "repeat" not in instance.origin
    assert len(instance.graph.operators) == 12


def drawn_layers(count: int) -> CapturedGraph:
    g = Drawn("layers")
    x = g.input("x", 4, 16)
    for i in range(count):
        normed = g.node("layer_norm", x, [16], g.weight(f"norm{i}", 16), g.weight(f"shift{i}", 16))
        up = g.node("gelu", g.node("linear", normed, g.weight(f"up{i}", 64, 16)))
        x = g.node("add.Tensor", x, g.node("linear", up, g.weight(f"down{i}", 16, 64)))
    return g.graph(x)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_layers_of_a_captured_graph(count: int) -> None:
    captured = drawn_layers(count)
    found = import_captured(captured)
    assert found.layers == Repetition(0, 5, count)
    assert len(found.instance.graph.operators) == 5 * count
    one = from_captured(captured, one_layer=True)
    assert len(one.graph.operators) == 5
    assert one.origin["repeat"] in (count, count - 1)
    assert one.origin["outside"] == 5 * (count - int(str(one.origin["repeat"])))
    assert one.graph.name == "layers-layer"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(1, 6),
    st.lists(st.integers(4, 6), max_size=3),
)
def test_the_longest_repetition_of_a_sequence(
    before: list[int], block: list[int], count: int, after: list[int]
) -> None:
    forms = [*before, *block * count, *after]
    found = longest_repetition(forms, 2)
    if found is None:
        assert count * len(block) < max(2 * len(block), len(forms) / 2)
        return
    assert found.count >= 2
    assert found.first >= 0 and found.end <= len(forms)
    stretch = forms[found.first : found.end]
    assert stretch == stretch[: found.period] * found.count
    if count > 1 and 2 * count * len(block) >= len(forms):
        assert found.count * found.period >= count * len(block)
