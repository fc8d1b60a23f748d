"""Encoder-decoders: shapes, order and work against figures worked out by hand, and against exports of real models."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from instances.catalogue import load_model
from instances.generate import build_graph
from instances.graph import DType, Engine, Graph, Operator, OpKind, Role, VectorClass

EXPORTS = Path(__file__).parents[3] / "shared" / "data" / "exported_graphs"
"""Operator graphs that torch.export made of Hugging Face's models."""


def prefill(name: str = "t5-base", tokens: int = 128, source: int | None = 512, **options: Any) -> Graph:
    options = {"layers": 1} | options
    return build_graph(load_model(name), "prefill", options.pop("batch", 1), tokens, source=source, **options)


def decode(name: str = "t5-base", context: int = 128, source: int | None = 512, **options: Any) -> Graph:
    options = {"layers": 1} | options
    return build_graph(load_model(name), "decode", options.pop("batch", 1), 1, context, source=source, **options)


def names(graph: Graph, prefix: str) -> list[str]:
    return [op.name.removeprefix(prefix) for op in graph.operators if op.name.startswith(prefix)]


def macs(graph: Graph, *prefixes: str) -> int:
    return sum(op.macs for op in graph.operators if op.kind is OpKind.MATMUL and op.name.startswith(prefixes))


ENCODER_BLOCK = [
    "input_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "attn_scores",
    "softmax",
    "attn_values",
    "o_proj",
    "attn_add",
    "post_norm",
    "fc1",
    "act",
    "fc2",
    "mlp_add",
]
CROSS = [
    "cross_norm",
    "cross_q_proj",
    "cross_k_proj",
    "cross_v_proj",
    "cross_cache_write_k",
    "cross_cache_write_v",
    "cross_attn_scores",
    "cross_softmax",
    "cross_attn_values",
    "cross_o_proj",
    "cross_add",
]
DECODER_BLOCK = [
    *ENCODER_BLOCK[:4],
    "cache_write_k",
    "cache_write_v",
    *ENCODER_BLOCK[4:9],
    *CROSS,
    *ENCODER_BLOCK[9:],
]
MADE_ONCE = {"cross_k_proj", "cross_v_proj", "cross_cache_write_k", "cross_cache_write_v"}
"""What a decode step does not do again."""


# ------------------------------------------------------------------------- structure


@pytest.mark.parametrize(("name", "source"), [("t5-base", 512), ("t5-large", 64), ("whisper-large-v3", None)])
def test_blocks(name: str, source: int | None) -> None:
    graph = prefill(name, source=source, layers=2)
    assert names(graph, "e0.") == names(graph, "e1.") == ENCODER_BLOCK
    assert names(graph, "d0.") == names(graph, "d1.") == DECODER_BLOCK
    step = decode(name, source=source, layers=2)
    assert names(step, "e") == []
    assert names(step, "d1.") == [what for what in DECODER_BLOCK if what not in MADE_ONCE]


def test_whole_models() -> None:
    """Twelve blocks each side; two embeddings, two biases, two norms, last token, scale and head of T5."""
    graph = prefill(layers=None)
    assert len(graph.operators) == 12 * (14 + 27) + 9
    assert names(graph, "")[-4:] == ["final_norm", "last_token", "head_scale", "lm_head"]
    assert len(decode(layers=None).operators) == 12 * 23 + 5
    # of Whisper: two convolutions of three operators, two tables of positions, one embedding, no bias and no scale
    whisper = prefill("whisper-large-v3", source=None, layers=None)
    assert len(whisper.operators) == 32 * (14 + 27) + 6 + 3 + 4
    assert graph.tensor["logits"].shape == (1, 32128)
    assert whisper.tensor["logits"].shape == (1, 51866)


def test_stacks_of_different_depth() -> None:
    model = load_model("t5-base").model_copy(update={"layers": 3, "decoder_layers": 2})
    whole = build_graph(model, "prefill", 1, 8, source=16)
    assert {name.partition(".")[0] for name in whole.operator if name[1:2].isdigit()} == {"e0", "e1", "e2", "d0", "d1"}
    assert "lm_head" in whole.operator
    assert "lm_head" not in build_graph(model, "prefill", 1, 8, source=16, layers=2).operator


def test_states_feed_every_block() -> None:
    graph = prefill(layers=2)
    assert graph.producer["source_final_normed"] == "source_final_norm"
    assert graph.consumers["source_final_normed"] == tuple(f"d{i}.cross_{what}_proj" for i in (0, 1) for what in "kv")
    assert graph.tensor["source_x"].role is Role.INPUT and graph.tensor["x"].role is Role.INPUT
    assert graph.tensor["d1.out"].role is Role.OUTPUT
    assert graph.tensor["e1.out"].role is Role.INTERMEDIATE


def test_caches() -> None:
    """Prefill writes what decode reads: keys and values of both attentions, the encoder's over all its positions."""
    graph = prefill(batch=2)
    written = {tensor.name: tensor.shape for tensor in graph.tensors if tensor.role is Role.OUTPUT}
    assert written == {
        "d0.cache_k_rows": (256, 768),
        "d0.cache_v_rows": (256, 768),
        "d0.cross_cache_k_rows": (1024, 768),
        "d0.cross_cache_v_rows": (1024, 768),
        "d0.out": (256, 768),
    }
    assert not any(tensor.role is Role.CACHE for tensor in graph.tensors)
    step = decode(batch=2)
    caches = {tensor.name: tensor.shape for tensor in step.tensors if tensor.role is Role.CACHE}
    assert caches == {
        "d0.cache_k": (2, 128, 768),
        "d0.cache_v": (2, 128, 768),
        "d0.cross_cache_k": (2, 512, 768),
        "d0.cross_cache_v": (2, 512, 768),
    }
    assert step.operator["d0.cross_attn_scores"].reads[1].tensor == "d0.cross_cache_k"
    # the first step attends to itself alone, and to the encoder
    first = {tensor.name for tensor in decode(context=1).tensors if tensor.role is Role.CACHE}
    assert first == {"d0.cross_cache_k", "d0.cross_cache_v"}


def test_decode_weights() -> None:
    """What is left of T5-base: 12 blocks of 2 attentions, less the encoder's keys and values, and the ends."""
    graph = decode(layers=None)
    held = sum(tensor.size_bytes for tensor in graph.tensors if tensor.role is Role.WEIGHT)
    block = 6 * 768 * 768 + 2 * 768 * 3072 + 3 * 768
    assert held == 2 * (12 * block + 2 * 32128 * 768 + 768 + 32 * 12)


# ------------------------------------------------------------------------- work


def test_work_of_a_block() -> None:
    """T5-base, 128 new tokens after 512 of the source; causal attention sees 128 x 129 / 2 pairs."""
    graph = prefill()
    assert macs(graph, "e0.") == 512 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert macs(graph, "d0.cross_") == 2 * 128 * 768 * 768 + 2 * 512 * 768 * 768
    assert macs(graph, "d0.") - macs(graph, "d0.cross_") == 128 * (4 * 768 * 768 + 2 * 768 * 3072)
    for stack, pairs, square in (("e0.", 512**2, 512**2), ("d0.", 8256, 128**2), ("d0.cross_", 128 * 512, 128 * 512)):
        for what in ("attn_scores", "attn_values"):
            operator = graph.operator[stack + what]
            assert operator.macs == 768 * pairs
            assert operator.density == pytest.approx(pairs / square)
    step = decode()
    assert macs(step, "d0.") == 6 * 768 * 768 + 2 * 768 * 3072
    assert step.operator["d0.cross_attn_scores"].macs == 768 * 512
    assert step.operator["d0.attn_scores"].macs == 768 * 128


def test_heads_wider_than_the_stream() -> None:
    model = load_model("t5-base").model_copy(update={"head_dim": 128})
    graph = build_graph(model, "prefill", 1, 8, layers=1, source=16)
    assert graph.tensor["e0.w_q"].shape == (768, 1536) and graph.tensor["d0.cross_w_o"].shape == (1536, 768)
    assert graph.tensor["e0.out"].shape == (16, 768)


def test_relative_bias_is_made_once_and_added_in_every_block() -> None:
    graph = prefill(layers=3)
    assert graph.tensor["e.relative_bias"].shape == (12, 512, 512)
    assert graph.tensor["d.relative_bias"].shape == (12, 128, 128)
    for stack in "ed":
        lookup = graph.operator[f"{stack}.relative_bias"]
        assert lookup.kind is OpKind.GATHER
        assert graph.tensor[f"{stack}.w_relative"].shape == (32, 12)
        assert graph.tensor[f"{stack}.relative_buckets"].dtype is DType.INT32
        readers = graph.consumers[f"{stack}.relative_bias"]
        assert readers == tuple(f"{stack}{layer}.softmax" for layer in range(3))
    assert graph.operator["e0.softmax"].vector[VectorClass.TWO_SOURCE] == 12 * 512 * 512
    assert VectorClass.TWO_SOURCE not in graph.operator["d0.cross_softmax"].vector
    assert graph.operator["d0.softmax"].vector[VectorClass.TWO_SOURCE] == 12 * 8256
    assert decode().tensor["d.relative_bias"].shape == (12, 1, 128)
    assert prefill(tp=4).tensor["e.relative_bias"].shape == (3, 512, 512)


def test_whisper_speech() -> None:
    """3000 frames of 128 elements, three at a time, to 1280; then every other of three times 1280 to 1280."""
    graph = prefill("whisper-large-v3", source=None, layers=None, batch=2)
    assert graph.tensor["mel"].shape == (6000, 128) and graph.tensor["mel"].role is Role.INPUT
    assert graph.tensor["conv1_windows"].shape == (6000, 384)
    assert graph.operator["conv1"].macs == 6000 * 384 * 1280
    assert graph.tensor["conv2_windows"].shape == (3000, 3840)
    assert graph.operator["conv2"].macs == 3000 * 3840 * 1280
    assert graph.operator["conv2_act"].vector[VectorClass.DIVIDE] == 3000 * 1280
    assert graph.tensor["w_source_positions"].shape == (1500, 1280)
    assert graph.tensor["w_positions"].shape == (448, 1280)
    assert graph.tensor["e31.out"].shape == (3000, 1280)
    # keys alone have no bias
    for prefix in ("e0.", "d0.", "d0.cross_"):
        assert [len(graph.operator[f"{prefix}{what}_proj"].reads) for what in "qkvo"] == [3, 2, 3, 3]


def test_one_table_of_embeddings() -> None:
    graph = prefill(layers=None)
    assert graph.consumers["w_embed"] == ("source_embed", "embed")
    assert graph.tensor["source_token_ids"].shape == (512,) and graph.tensor["token_ids"].shape == (128,)
    assert graph.operator["source_embed"].reads[1].touched_bytes == 512 * 768 * 2


def test_gated_feed_forward() -> None:
    """T5 1.1: GELU of one projection times another; its head is not scaled."""
    model = load_model("t5-base").model_copy(update={"gated": True, "activation": "gelu", "scaled_head": False})
    graph = build_graph(model, "prefill", 1, 8, source=16)
    act = graph.operator["d0.act"]
    assert len(act.reads) == 2 and act.vector[VectorClass.TWO_SOURCE] == 4 * 8 * 3072
    assert "head_scale" not in graph.operator


def test_tensor_parallel() -> None:
    one, two = (
        prefill("whisper-large-v3", source=None, layers=None),
        prefill("whisper-large-v3", source=None, layers=None, tp=2),
    )
    assert names(two, "d0.")[-1] == "mlp_add" and "d0.cross_all_reduce" in two.operator
    assert two.operator["d0.cross_all_reduce"].link_bytes == 128 * 1280 * 2
    for block in ("e0.", "d31."):
        assert macs(one, block) == 2 * macs(two, block)
    assert two.operator["conv1"].macs == one.operator["conv1"].macs


def test_other_lengths_have_other_names() -> None:
    assert prefill(source=512).name != prefill(source=256).name
    assert prefill(source=512).fingerprint == prefill(source=512).fingerprint


# ------------------------------------------------------------------------- beside exports of the real models


class Export:
    """Matmuls and attentions of an exported graph."""

    def __init__(self, name: str) -> None:
        path = EXPORTS / f"{name}.json"
        if not path.exists():
            pytest.skip(f"no {path.name} beside the repository")
        document = json.loads(path.read_text(encoding="utf-8"))
        shapes = {given["name"]: given["shape"] for given in document["inputs"]}
        self.linear: dict[str, int] = {}
        self.attention: list[tuple[int, int]] = []
        """Macs of scores and of values, on the full square."""
        for node in document["nodes"]:
            shape = node["outputs"][0][0]
            if node["op"] in ("aten.linear.default", "aten._grouped_mm.default"):
                place = document["modules"][node["module"]][0]
                self.linear[f"{place} {node['name']}"] = math.prod(shape) * shapes[node["inputs"][0]][-1]
            elif "scaled_dot_product_attention" in node["op"]:
                q, k, v = (shapes[operand] for operand in node["inputs"][:3])
                pairs = math.prod(q[:3]) * k[2]
                self.attention.append((pairs * q[-1], pairs * v[-1]))
            shapes[node["name"]] = shape


def on_the_square(operator: Operator) -> int:
    return round(operator.macs / operator.density)


def attention_macs(graph: Graph) -> list[tuple[int, int]]:
    scores, values = (
        [on_the_square(op) for op in graph.operators if op.kind is kind]
        for kind in (OpKind.ATTENTION_SCORES, OpKind.ATTENTION_VALUES)
    )
    return list(zip(scores, values, strict=True))


def test_t5_beside_its_export() -> None:
    """One block each side, 512 and 128 positions: the same matmuls; the export makes logits of all positions."""
    export = Export("t5_base_enc512_dec128_L1")
    graph = prefill(layers=1, ends=True)
    ours = Counter(op.macs for op in graph.operators if op.kind is OpKind.MATMUL and op.name != "lm_head")
    head = next(macs for place, macs in export.linear.items() if place.startswith("lm_head"))
    assert ours == Counter(export.linear.values()) - Counter([head])
    assert 128 * graph.operator["lm_head"].macs == head
    assert attention_macs(graph) == export.attention


def test_latent_decode_beside_its_export() -> None:
    """DeepSeek-V3 with one dense block and one of experts, a token at 4096 positions, as Hugging Face runs it."""
    export = Export("deepseek_v3_decode4096_L2")
    model = load_model("deepseek-v3").model_copy(update={"dense_layers": 1})
    graph = build_graph(model, "decode", 1, 1, 4096, layers=2, ends=True, absorbed=False)
    ours = {op.name: op.macs for op in graph.operators if op.kind is OpKind.MATMUL}
    parts = {
        "q_b_proj": ("q_nope_proj", "q_rope_proj"),
        "kv_a_proj_with_mqa": ("kv_a_proj", "k_rope_proj"),
        "kv_b_proj": ("k_up_proj", "v_up_proj"),
    }
    for layer in (0, 1):
        for what, columns in parts.items():
            theirs = next(macs for place, macs in export.linear.items() if f"{layer}.self_attn.{what} " in place)
            assert sum(ours[f"l{layer}.{column}"] for column in columns) == theirs
    assert sum(ours.values()) == sum(export.linear.values())
    assert attention_macs(graph) == export.attention
    assert all((op.engine is Engine.CUBE) == (op.macs > 0) for op in graph.operators)
