"""Generated graphs: counts, work and bytes against figures worked out by hand."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import pytest

from instances.catalogue import ModelConfig, load_model, model_names
from instances.documents import canonical_json
from instances.errors import InputError
from instances.feed_forward import active_experts
from instances.generate import build_graph
from instances.graph import DType, Engine, Graph, Operator, OpKind, Role, VectorClass

DECODERS = [name for name in model_names() if load_model(name).family == "decoder"]


def build(name: str | ModelConfig, phase: str = "prefill", tokens: int = 128, **options: Any) -> Graph:
    model = load_model(name) if isinstance(name, str) else name
    options = {"batch": 1, "context": None, "layers": 1, "tp": 1, "dtype": "bfloat16", "ends": None} | options
    return build_graph(model, phase, tokens=tokens, **options)  # type: ignore[arg-type]


def decode(name: str, context: int = 4096, **options: Any) -> Graph:
    return build(name, "decode", 1, context=context, **options)


def lengths(name: str, tokens: int) -> dict[str, int]:
    """Tokens of a prefill, and the encoder's length where the model does not fix it."""
    if name == "vit-b-16":
        return {"tokens": 197}
    return {"tokens": tokens} | ({"source": 32} if name.startswith("t5") else {})


def without_tokens(given: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in given.items() if key != "tokens"}


def names(graph: Graph, layer: int = 0) -> list[str]:
    prefix = f"l{layer}."
    return [op.name.removeprefix(prefix) for op in graph.operators if op.name.startswith(prefix)]


def weights(graph: Graph) -> dict[str, int]:
    return {tensor.name: tensor.size_bytes for tensor in graph.tensors if tensor.role is Role.WEIGHT}


def square_macs(operator: Operator) -> int:
    """Multiply-accumulates with attention counted on the full square."""
    return round(operator.macs / operator.density)


# ------------------------------------------------------------------------- structure

LLAMA_LAYER = [
    "input_norm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope_q",
    "rope_k",
    "cache_write_k",
    "cache_write_v",
    "attn_scores",
    "softmax",
    "attn_values",
    "o_proj",
    "attn_add",
    "post_norm",
    "gate_proj",
    "up_proj",
    "act",
    "down_proj",
    "mlp_add",
]
MOE_BLOCK = [
    "router_proj",
    "router_softmax",
    "router_topk",
    "permute",
    "expert_gate",
    "expert_up",
    "expert_act",
    "expert_down",
    "combine",
]


def test_llama_layer_operators() -> None:
    graph = decode("llama-3-8b", layers=2)
    assert names(graph, 0) == names(graph, 1) == LLAMA_LAYER
    assert len(graph.operators) == 2 * len(LLAMA_LAYER)


@pytest.mark.parametrize(
    ("name", "layer", "count"),
    [
        ("llama-2-7b", 0, 19),
        ("qwen2.5-7b", 0, 19),
        ("qwen3-8b", 0, 21),  # q_norm and k_norm
        ("mixtral-8x7b", 0, 24),  # router, its softmax, top-k, permute, combine; four experts' for the dense four
        ("qwen3-30b-a3b", 0, 26),
        ("deepseek-v2-lite", 0, 23),  # absorbed or expanded: two more projections either way
        ("deepseek-v2-lite", 1, 33),  # and shared experts with their addition
        ("gpt2", 0, 16),
        ("gpt2-xl", 0, 16),
        ("opt-6.7b", 0, 16),
        ("pangu-alpha-2.6b", 0, 16),
        ("qwen2.5-72b", 0, 19),
        ("qwen3-235b-a22b", 0, 26),
        ("pangu-pro-moe", 0, 29),  # mixtral's 24, shared experts with their addition
        ("deepseek-v3", 0, 25),  # queries through a latent of their own and its norm
        ("deepseek-v3", 3, 37),  # and shared experts, the correction of scores, the choice of groups
    ],
)
def test_operators_per_layer(name: str, layer: int, count: int) -> None:
    for graph in (decode(name, 512, layers=layer + 1), build(name, layers=layer + 1, context=512)):
        assert len(names(graph, layer)) == count


def test_encoder_layers_have_no_cache() -> None:
    assert names(build("bert-base")) == [
        "q_proj",
        "k_proj",
        "v_proj",
        "attn_scores",
        "softmax",
        "attn_values",
        "o_proj",
        "attn_add",
        "attn_norm",
        "fc1",
        "act",
        "fc2",
        "mlp_add",
        "mlp_norm",
    ]
    for graph in (build("bert-base", layers=None), build("vit-b-16", tokens=197, layers=None)):
        kinds = {operator.kind for operator in graph.operators}
        assert OpKind.CACHE_WRITE not in kinds and OpKind.ROPE not in kinds
        assert all(operator.density == 1.0 for operator in graph.operators)
        assert not any(tensor.role is Role.CACHE for tensor in graph.tensors)
        pooled = graph.tensor["pooled"]
        assert pooled.role is Role.OUTPUT and pooled.shape == (1, 768)


def test_matmul_operands() -> None:
    """Left operand first, weight [in, out] second, bias last."""
    for graph in (build("gpt2"), build("bert-base"), build("qwen2.5-7b"), decode("mixtral-8x7b")):
        for operator in graph.operators:
            if operator.kind is not OpKind.MATMUL:
                continue
            left, right, out = operator.reads[0], operator.reads[1], operator.writes[0]
            assert graph.tensor[right.tensor].role is Role.WEIGHT
            assert right.dims[-2:] == (left.dims[-1], out.dims[-1])
            assert left.dims[:-1] == out.dims[:-1]
            for bias in operator.reads[2:]:
                assert bias.dims == (out.dims[-1],)
    assert [len(build("gpt2").operator[f"l0.{op}"].reads) for op in ("q_proj", "o_proj", "fc1", "fc2")] == [3] * 4
    assert [len(build("qwen2.5-7b").operator[f"l0.{op}"].reads) for op in ("q_proj", "o_proj")] == [3, 2]


def test_attention_with_and_without_a_past() -> None:
    past = decode("llama-3-8b", 4096, batch=2)
    scores, values = past.operator["l0.attn_scores"], past.operator["l0.attn_values"]
    assert [access.tensor for access in scores.reads] == ["l0.q_rotated", "l0.cache_k", "l0.cache_k_rows"]
    assert [access.tensor for access in values.reads] == ["l0.probs", "l0.cache_v", "l0.cache_v_rows"]
    assert scores.reads[1].dims == ("batch", "context", "kv_heads*head_dim")
    assert past.tensor["l0.cache_k"].shape == (2, 4096, 1024)
    assert past.tensor["l0.cache_k"].role is Role.CACHE
    assert past.tensor["l0.cache_k_rows"].shape == (2, 1024)
    assert past.tensor["l0.cache_k_rows"].role is Role.OUTPUT
    assert past.tensor["l0.scores"].shape == (2, 32, 1, 4096)
    fresh = build("llama-3-8b", tokens=256)
    scores, values = fresh.operator["l0.attn_scores"], fresh.operator["l0.attn_values"]
    assert [access.tensor for access in scores.reads] == ["l0.q_rotated", "l0.k_rotated"]
    assert [access.tensor for access in values.reads] == ["l0.probs", "l0.v"]
    assert scores.reads[1].dims == ("batch*context", "kv_heads*head_dim")
    assert fresh.consumers["l0.cache_k_rows"] == ()  # a side branch


def test_ends_follow_the_layers() -> None:
    blocks = decode("llama-3-8b", layers=2)
    assert blocks.tensor["x"].role is Role.INPUT and blocks.tensor["l1.out"].role is Role.OUTPUT
    assert blocks.tensor["l0.out"].role is Role.INTERMEDIATE
    whole = decode("llama-3-8b", layers=None)
    assert "x" not in whole.tensor
    assert whole.operators[0].name == "embed" and whole.operators[-1].name == "lm_head"
    assert whole.tensor["logits"].role is Role.OUTPUT and whole.tensor["logits"].shape == (1, 128256)
    assert len(whole.operators) == 32 * 19 + 3
    bare = decode("llama-3-8b", layers=32, ends=False)
    assert len(bare.operators) == 32 * 19
    assert "last_token" not in whole.operator
    prefill = build("llama-3-8b", tokens=64, batch=3, ends=True)
    last = prefill.operator["last_token"]
    assert last.kind is OpKind.GATHER and last.reads[0].touched_bytes == 3 * 4096 * 2
    assert prefill.tensor["logits"].shape == (3, 128256)


@pytest.mark.parametrize("name", model_names())
def test_weights_are_the_parameters(name: str) -> None:
    """The weights of a whole model hold its parameters, each once; a tied head stands twice."""
    model = load_model(name)
    tied = model.vocab * model.hidden if model.tied_head and model.vocab else 0
    graphs = [build(name, layers=None, **lengths(name, 16))]
    if name in DECODERS:
        graphs.append(decode(name, 64, layers=None))
    for graph in graphs:
        assert sum(weights(graph).values()) == 2 * (model.parameters + tied)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("dtype", ["bfloat16", "w8a8"])
@pytest.mark.parametrize("tp", [1, 2])
def test_loops_have_one_extent_per_graph(name: str, dtype: str, tp: int) -> None:
    some: dict[str, Any] = {"layers": 2, "dtype": dtype, "tp": 1 if name == "gpt2-xl" else tp}  # 25 heads
    ends = tp == 1
    graphs = [build(name, ends=ends, batch=2, **some, **lengths(name, 48))]
    if name in DECODERS:
        graphs += [build(name, tokens=16, context=64, **some)]
    if load_model(name).causal:
        graphs += [decode(name, 64, ends=ends, batch=3, **some, **without_tokens(lengths(name, 1)))]
    for graph in graphs:
        extents: dict[str, int] = {}
        for operator in graph.operators:
            for loop, extent in operator.dims.items():
                assert extents.setdefault(loop, extent) == extent
            assert (operator.engine is Engine.CUBE) == (operator.macs > 0)
        assert Graph.model_validate_json(canonical_json(graph)) == graph


def test_eighty_layers_build_quickly() -> None:
    start = time.perf_counter()
    graph = decode("llama-3-70b", layers=None, tp=8)
    assert time.perf_counter() - start < 3.0
    assert len(graph.operators) == 80 * 21 + 5


# ------------------------------------------------------------------------- work


def test_llama_flops() -> None:
    """Two layers of Llama-3-8B on 2048 tokens, and a head on the last one.

    Linear macs per layer and token: q and o 4096 x 4096 each, k and v 4096 x 1024 each, three of 4096 x 14336:
    33,554,432 + 8,388,608 + 176,160,768 = 218,103,808. Attention on the full square per layer: 2 x 2048 x 2048 x
    4096 = 34,359,738,368. Head: 4096 x 128256 = 525,336,576. Two FLOPs per mac:
    2 x (2 x (2048 x 218,103,808 + 34,359,738,368) + 525,336,576) = 1,925,196,021,760, which is what torch's
    FlopCounterMode counts on the same model.
    """
    graph = build("llama-3-8b", tokens=2048, layers=2, ends=True)
    cubes = [operator for operator in graph.operators if operator.engine is Engine.CUBE]
    linear = sum(operator.macs for operator in cubes if operator.kind is OpKind.MATMUL)
    attention = sum(square_macs(operator) for operator in cubes if operator.kind is not OpKind.MATMUL)
    assert linear == 2 * 2048 * 218_103_808 + 525_336_576
    assert 2 * linear == 1_787_757_068_288
    assert 2 * attention == 137_438_953_472
    assert 2 * (linear + attention) == 1_925_196_021_760
    bare = build("llama-3-8b", tokens=2048, layers=2)
    assert sum(op.macs for op in bare.operators if op.kind is OpKind.MATMUL) == 2 * 2048 * 218_103_808


def test_causal_share() -> None:
    """Token i of T new ones sees S - T + i of S positions: T (2S - T + 1) / 2 pairs of T x S."""
    for tokens, context in ((256, 256), (3, 3), (1, 1), (7, 20), (128, 1024)):
        graph = build("llama-3-8b", tokens=tokens, context=context)
        pairs = sum(context - tokens + i for i in range(1, tokens + 1))
        for name in ("attn_scores", "softmax", "attn_values"):
            assert graph.operator[f"l0.{name}"].density == pytest.approx(pairs / (tokens * context))
            assert graph.operator[f"l0.{name}"].density == pytest.approx((context - (tokens - 1) / 2) / context)
        assert graph.operator["l0.attn_scores"].macs == graph.operator["l0.attn_values"].macs == 32 * 128 * pairs
        softmax = graph.operator["l0.softmax"].vector
        assert softmax[VectorClass.TRANSCENDENTAL] == 32 * pairs
        assert softmax[VectorClass.DIVIDE] == 32 * tokens
    assert decode("llama-3-8b").operator["l0.attn_scores"].density == 1.0


def test_vector_work() -> None:
    """Instructions per element, hidden 4096, ffn 14336, 10 tokens."""
    one, two, exp = VectorClass.ONE_SOURCE, VectorClass.TWO_SOURCE, VectorClass.TRANSCENDENTAL
    div, total, largest = VectorClass.DIVIDE, VectorClass.REDUCE, VectorClass.MAXIMUM
    operator = build("llama-3-8b", tokens=10).operator
    x, f = 10 * 4096, 10 * 14336
    assert operator["l0.input_norm"].vector == {two: 2 * x, total: x, one: x, exp: 10, div: 10}
    assert operator["l0.input_norm"].whole == ("hidden",)
    assert operator["l0.rope_q"].vector == {two: 3 * x, one: x}
    assert operator["l0.rope_k"].whole == ("head_dim",)
    assert operator["l0.act"].vector == {one: 2 * f, exp: f, div: f, two: f}
    assert operator["l0.attn_add"].vector == {two: x}
    assert operator["l0.cache_write_k"].vector == {}
    pairs = 32 * 55
    assert operator["l0.softmax"].vector == {largest: pairs, total: pairs, one: 3 * pairs, exp: pairs, div: 320}
    assert operator["l0.softmax"].whole == ("context",)
    operator = build("gpt2", tokens=10).operator
    x, f = 7680, 30720
    assert operator["l0.input_norm"].vector == {two: 3 * x, total: 2 * x, one: 2 * x, exp: 10, div: 10}
    assert operator["l0.act"].vector == {two: 3 * f, one: 4 * f, exp: f, div: f}


def test_decode_bytes() -> None:
    """One decode step of a Llama-3-8B layer at 4096 positions: its weights, its cache."""
    graph = decode("llama-3-8b", 4096)
    assert sum(weights(graph).values()) == 2 * (218_103_808 + 2 * 4096)
    cache = sum(tensor.size_bytes for tensor in graph.tensors if tensor.role is Role.CACHE)
    assert cache == 2 * 4096 * 1024 * 2
    assert decode("llama-3-8b", dtype="float16").tensor["l0.q"].dtype is DType.FLOAT16


def test_embedding_touches_the_rows_it_uses() -> None:
    embed = build("llama-3-8b", tokens=100, ends=True).operator["embed"]
    assert embed.reads[1].tensor == "w_embed" and embed.reads[1].touched_bytes == 100 * 4096 * 2
    gpt2 = build("gpt2", tokens=100, ends=True)
    assert gpt2.operator["embed_positions"].reads[1].touched_bytes == 100 * 768 * 2
    assert build("gpt2", tokens=1024, ends=True).operator["embed_positions"].reads[1].touched_bytes is None


def test_vit_patches() -> None:
    """196 patches of 16 x 16 x 3 pixels through a matmul, then a class token in front."""
    graph = build("vit-b-16", tokens=197, layers=None, batch=2)
    assert graph.tensor["pixels"].shape == (392, 768)
    assert graph.operator["patch_embed"].macs == 392 * 768 * 768
    assert graph.tensor["embedded"].shape == (394, 768)
    assert graph.tensor["final_normed"].role is Role.OUTPUT


# ------------------------------------------------------------------------- tensor parallelism


def test_tensor_parallel_divides() -> None:
    one, four = decode("llama-3-8b"), decode("llama-3-8b", tp=4)
    assert [name for name in names(four) if name not in names(one)] == ["attn_all_reduce", "mlp_all_reduce"]
    for name, size in weights(one).items():
        assert weights(four)[name] == (size if "norm" in name else size // 4)
    assert four.tensor["l0.cache_k"].shape == (1, 4096, 256)
    assert four.operator["l0.q_proj"].dims["kv_heads"] == 2
    assert four.operator["l0.q_proj"].dims["group"] == 4
    reduce = four.operator["l0.attn_all_reduce"]
    assert reduce.kind is OpKind.COLLECTIVE and reduce.link_bytes == 4096 * 2
    assert reduce.reads[0].tensor == "l0.o" and four.consumers["l0.o"] == ("l0.attn_all_reduce",)
    assert sum(op.macs for op in one.operators) == 4 * sum(op.macs for op in four.operators)


def test_key_heads_are_repeated_beyond_their_number() -> None:
    graph = decode("llama-3-8b", tp=32)
    assert graph.operator["l0.q_proj"].dims["kv_heads"] == 1
    assert graph.operator["l0.q_proj"].dims["group"] == 1
    assert graph.tensor["l0.w_k"].shape == (4096, 128)


def test_tensor_parallel_ends() -> None:
    graph = decode("llama-3-8b", layers=None, tp=8, batch=2)
    assert graph.tensor["w_embed"].shape == (16032, 4096)
    assert graph.operator["embed"].reads[1].touched_bytes == 4096 * 2
    assert graph.operator["embed_all_reduce"].link_bytes == 2 * 4096 * 2
    gather = graph.operator["lm_head_all_gather"]
    assert gather.link_bytes == 2 * 16032 * 2
    assert graph.tensor["gathered_logits"].shape == (8, 2, 16032)
    assert graph.tensor["gathered_logits"].role is Role.OUTPUT
    assert graph.tensor["logits"].role is Role.INTERMEDIATE


# ------------------------------------------------------------------------- W8A8


def test_w8a8() -> None:
    """Int8 weights with a float32 scale per channel; one quantization per activation, however many read it."""
    graph = decode("llama-3-8b", dtype="w8a8", layers=None)
    kinds = Counter(operator.kind for operator in graph.operators if operator.name.startswith("l0."))
    assert kinds[OpKind.QUANTIZE] == 4  # of qkv, of o, of gate and up, of down
    assert kinds[OpKind.DEQUANTIZE] == 7
    sizes = weights(graph)
    for name, parts in {"q": (4096, 4096), "k": (4096, 1024), "down": (14336, 4096)}.items():
        assert sizes[f"l0.w_{name}"] == math.prod(parts)
        assert sizes[f"l0.w_{name}_scale"] == 4 * parts[1]
    assert graph.tensor["w_lm_head"].dtype is DType.BFLOAT16
    proj = graph.operator["l0.q_proj"]
    assert [graph.tensor[access.tensor].dtype for access in (*proj.reads, *proj.writes)] == [
        DType.INT8,
        DType.INT8,
        DType.INT32,
    ]
    back = graph.operator["l0.q_dequant"]
    assert [access.tensor for access in back.reads] == ["l0.q_acc", "l0.input_normed_scale", "l0.w_q_scale"]
    assert back.writes[0].tensor == "l0.q" and graph.tensor["l0.q"].dtype is DType.BFLOAT16
    assert back.vector == {VectorClass.CONVERT: 4096, VectorClass.TWO_SOURCE: 4096, VectorClass.ONE_SOURCE: 4096}
    quantize = graph.operator["l0.input_normed_quant"]
    assert quantize.whole == ("hidden",)
    assert [graph.tensor[access.tensor].dtype for access in quantize.writes] == [DType.INT8, DType.FLOAT32]
    assert graph.tensor["l0.cache_k"].dtype is DType.BFLOAT16
    plain = decode("llama-3-8b", layers=None)
    assert sum(op.macs for op in graph.operators) == sum(op.macs for op in plain.operators)


def test_w8a8_bias_is_added_after_scaling() -> None:
    graph = decode("qwen2.5-7b", dtype="w8a8")
    assert len(graph.operator["l0.q_proj"].reads) == 2
    assert graph.operator["l0.q_dequant"].reads[-1].tensor == "l0.b_q"
    assert graph.operator["l0.q_dequant"].vector[VectorClass.TWO_SOURCE] == 2 * 3584


def test_w8a8_experts() -> None:
    graph = decode("qwen3-30b-a3b", dtype="w8a8")
    assert graph.tensor["l0.w_router"].dtype is DType.BFLOAT16
    assert graph.tensor["l0.w_expert_up"].dtype is DType.INT8
    assert graph.operator["l0.expert_up"].reads[1].touched_bytes == 8 * 2048 * 768
    assert graph.operator["l0.expert_up_dequant"].reads[2].touched_bytes == 8 * 768 * 4
    assert set(graph.operator["l0.expert_up_dequant"].dims) == {"rows", "expert_ffn"}


# ------------------------------------------------------------------------- mixture of experts


def test_active_experts() -> None:
    """E (1 - (1 - k/E)^T), rounded up."""
    assert active_experts(128, 8, 1) == 8
    assert active_experts(8, 2, 1) == 2
    assert active_experts(64, 6, 1) == 6
    assert active_experts(8, 2, 2) == 4  # 3.5
    assert active_experts(128, 8, 4) == 30  # 29.13
    assert active_experts(8, 2, 2048) == 8
    assert active_experts(4, 4, 1) == 4
    for tokens in range(1, 50):
        assert active_experts(128, 8, tokens) <= min(128, 8 * tokens)


def test_mixtral_experts() -> None:
    graph = decode("mixtral-8x7b", batch=2)
    assert [name for name in names(graph) if name in MOE_BLOCK] == MOE_BLOCK
    for name in ("expert_gate", "expert_up", "expert_down"):
        operator = graph.operator[f"l0.{name}"]
        assert operator.macs == 4 * 4096 * 14336  # 2 tokens x 2 experts
        weight = operator.reads[1]
        assert weight.dims[0] == "experts" and "experts" not in operator.reads[0].loops | operator.writes[0].loops
        assert graph.tensor[weight.tensor].size_bytes == 8 * 4096 * 14336 * 2
        assert weight.touched_bytes == 4 * 4096 * 14336 * 2
    assert graph.tensor["l0.rows"].shape == (4, 4096)
    assert graph.tensor["l0.router_weights"].dtype is DType.FLOAT32
    assert graph.tensor["l0.router_indices"].dtype is DType.INT32
    assert graph.operator["l0.router_softmax"].whole == ("experts",)
    assert graph.operator["l0.router_topk"].vector == {VectorClass.SORT: 16}
    assert graph.operator["l0.combine"].vector == {VectorClass.TWO_SOURCE: 2 * 4 * 4096}
    full = build("mixtral-8x7b", tokens=2048).operator["l0.expert_gate"]
    assert full.reads[1].touched_bytes is None
    assert full.macs == 2048 * 2 * 4096 * 14336


def test_experts_in_parallel() -> None:
    graph = decode("deepseek-v2-lite", layers=2, tp=2)
    reduce = graph.operator["l1.mlp_all_reduce"]
    assert reduce.reads[0].tensor == "l1.moe"
    assert graph.tensor["l1.w_expert_gate"].shape == (64, 2048, 704)
    assert graph.tensor["l1.w_shared_gate"].shape == (2048, 1408)
    assert graph.tensor["l1.w_router"].shape == (2048, 64)


# ------------------------------------------------------------------------- latent attention


def test_latent_decode_is_absorbed() -> None:
    """DeepSeek-V2-Lite, one token over 4096 positions: 16 heads, latent 512, rotated 64.

    Scores 16 x 4096 x 576, values 16 x 4096 x 512, into and out of the latent space 16 x 128 x 512 each. The cache
    holds 576 elements per position, 4,718,592 bytes per layer.
    """
    graph = decode("deepseek-v2-lite")
    assert graph.operator["l0.attn_scores"].macs == 16 * 4096 * 576
    assert graph.operator["l0.attn_values"].macs == 16 * 4096 * 512
    assert graph.operator["l0.q_absorb"].macs == graph.operator["l0.v_up_proj"].macs == 16 * 128 * 512
    caches = {tensor.name: tensor for tensor in graph.tensors if tensor.role is Role.CACHE}
    assert {name: tensor.shape for name, tensor in caches.items()} == {
        "l0.cache_latent": (1, 4096, 512),
        "l0.cache_rope": (1, 4096, 64),
    }
    assert sum(tensor.size_bytes for tensor in caches.values()) == 4_718_592
    scores = graph.operator["l0.attn_scores"]
    assert scores.dims["kv_heads"] == 1 and scores.dims["group"] == 16
    assert [access.tensor.removeprefix("l0.") for access in scores.reads] == [
        "q_latent",
        "cache_latent",
        "cache_latent_rows",
        "q_rotated",
        "cache_rope",
        "cache_rope_rows",
    ]
    linear = sum(size for name, size in weights(graph).items() if "norm" not in name)
    attention = 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 2048 * 2048
    assert linear == 2 * (attention + 3 * 2048 * 10944)


def test_latent_prefill_is_expanded() -> None:
    graph = build("deepseek-v2-lite", tokens=256)
    pairs = 256 * 257 // 2
    assert graph.operator["l0.attn_scores"].macs == 16 * pairs * 192
    assert graph.operator["l0.attn_values"].macs == 16 * pairs * 128
    assert graph.operator["l0.k_up_proj"].macs == graph.operator["l0.v_up_proj"].macs == 256 * 512 * 16 * 128
    assert graph.operator["l0.attn_scores"].dims["kv_heads"] == 16
    past = build("deepseek-v2-lite", tokens=64, context=256)
    assert past.operator["l0.k_up_proj"].macs == 256 * 512 * 16 * 128
    assert past.operator["l0.k_up_proj"].reads[0].tensor == "l0.cache_latent"
    assert "l0.cache_write_latent" in past.operator


def test_latent_decode_expanded() -> None:
    """What Hugging Face's code runs: keys and values of all 4096 positions expanded at each step."""
    graph = decode("deepseek-v2-lite", absorbed=False)
    operator = graph.operator
    assert operator["l0.k_up_proj"].macs == operator["l0.v_up_proj"].macs == 4096 * 512 * 16 * 128
    assert operator["l0.k_up_proj"].reads[0].tensor == "l0.cache_latent"
    assert operator["l0.attn_scores"].macs == 16 * 4096 * 192
    assert operator["l0.attn_values"].macs == 16 * 4096 * 128
    assert graph.tensor["l0.k_nope"].shape == (4096, 16 * 128)
    assert "l0.q_absorb" not in operator
    default = decode("deepseek-v2-lite")
    assert weights(graph) == weights(default)
    assert decode("deepseek-v2-lite", absorbed=True) == default
    assert graph.name != default.name


def test_latent_prefill_absorbed() -> None:
    """All heads attend to the latents that were just made, 512 and 64 elements of them."""
    graph = build("deepseek-v2-lite", tokens=256, absorbed=True)
    pairs = 256 * 257 // 2
    assert graph.operator["l0.attn_scores"].macs == 16 * pairs * 576
    assert graph.operator["l0.attn_values"].macs == 16 * pairs * 512
    assert graph.operator["l0.q_absorb"].macs == graph.operator["l0.v_up_proj"].macs == 256 * 16 * 128 * 512
    assert "l0.k_up_proj" not in graph.operator
    assert not any(tensor.role is Role.CACHE for tensor in graph.tensors)
    assert build("deepseek-v2-lite", tokens=256, absorbed=False) == build("deepseek-v2-lite", tokens=256)


def test_latent_queries() -> None:
    """DeepSeek-V3: queries through a latent of 1536, normed, whose 128 heads are 128 + 64 wide."""
    graph = decode("deepseek-v3", 4096)
    macs = {name: graph.operator[f"l0.{name}"].macs for name in ("q_a_proj", "q_nope_proj", "q_rope_proj", "kv_a_proj")}
    assert macs == {
        "q_a_proj": 7168 * 1536,
        "q_nope_proj": 1536 * 128 * 128,
        "q_rope_proj": 1536 * 128 * 64,
        "kv_a_proj": 7168 * 512,
    }
    assert graph.operator["l0.q_nope_proj"].reads[0].tensor == "l0.q_a_normed"
    assert graph.operator["l0.attn_scores"].macs == 128 * 4096 * 576


def test_latent_tensor_parallel() -> None:
    """Heads are divided, the latent is on every rank."""
    graph = decode("deepseek-v2-lite", tp=4)
    assert graph.tensor["l0.cache_latent"].shape == (1, 4096, 512)
    assert graph.operator["l0.attn_scores"].macs == 4 * 4096 * 576
    assert graph.tensor["l0.w_q_nope"].shape == (2048, 4 * 128)
    assert graph.tensor["l0.w_kv_a"].shape == (2048, 512)


# ------------------------------------------------------------------------- routing in groups


def test_router_of_chosen_groups() -> None:
    """DeepSeek-V3: sigmoid scores of 256 experts, corrected, the best 4 of 8 groups, the best 8 of their experts."""
    graph = build("deepseek-v3", tokens=10, layers=4)
    router = [name for name in names(graph, 3) if name.startswith("router")]
    assert router == ["router_proj", "router_sigmoid", "router_correct", "router_topk_groups", "router_topk"]
    assert "l2.router_proj" not in graph.operator  # the first three blocks are dense
    assert graph.tensor["l3.router_groups"].shape == (10, 4)
    assert graph.tensor["l3.router_indices"].shape == (10, 8)
    assert graph.operator["l3.router_sigmoid"].vector[VectorClass.TRANSCENDENTAL] == 10 * 256
    for choice in ("router_topk_groups", "router_topk"):
        assert graph.operator[f"l3.{choice}"].vector == {VectorClass.SORT: 10 * 256}
    # the weights are scores as they were before the correction
    assert [access.tensor for access in graph.operator["l3.router_topk"].reads] == [
        "l3.router_choice",
        "l3.router_groups",
        "l3.router_probs",
    ]
    assert graph.operator["l3.expert_gate"].macs == 10 * 8 * 7168 * 2048
    assert graph.operator["l3.shared_gate"].macs == 10 * 7168 * 2048
    assert graph.operator["l0.gate_proj"].macs == 10 * 7168 * 18432


def test_one_expert_of_each_group() -> None:
    """Pangu Pro MoE: a softmax over 64 experts, the largest of each 8, times a learned scale."""
    graph = build("pangu-pro-moe", tokens=10)
    router = [name for name in names(graph) if name.startswith("router")]
    assert router == ["router_proj", "router_softmax", "router_topk"]
    topk = graph.operator["l0.router_topk"]
    assert topk.vector == {VectorClass.MAXIMUM: 10 * 64}
    assert [access.tensor for access in topk.reads] == ["l0.router_probs", "l0.w_router_scale"]
    assert graph.tensor["l0.router_indices"].shape == (10, 8)
    assert graph.operator["l0.expert_gate"].macs == 10 * 8 * 5120 * 1344
    assert graph.operator["l0.shared_gate"].macs == 10 * 5120 * 5376
    assert len(graph.operator["l0.q_proj"].reads) == 3  # with bias
    one = build("pangu-pro-moe", tokens=1).operator["l0.expert_gate"]
    assert one.reads[1].touched_bytes == 8 * 5120 * 1344 * 2


def test_a_single_group_is_no_choice() -> None:
    model = load_model("deepseek-v3").model_copy(
        update={"expert_groups": 1, "groups_per_token": 1, "dense_layers": 0, "ffn": None}
    )
    router = [name for name in names(build(model)) if name.startswith("router")]
    assert router == ["router_proj", "router_sigmoid", "router_correct", "router_topk"]


# ------------------------------------------------------------------------- positions


def test_offset_of_positions() -> None:
    """OPT: two rows stand before the first position; ReLU between the two matrices."""
    graph = build("opt-6.7b", tokens=2048, ends=True)
    assert graph.tensor["w_positions"].shape == (2050, 4096)
    assert graph.operator["embed_positions"].reads[1].touched_bytes == 2048 * 4096 * 2
    assert graph.operator["l0.act"].vector == {VectorClass.ONE_SOURCE: 2048 * 16384}
    assert [len(graph.operator[f"l0.{op}"].reads) for op in ("q_proj", "o_proj", "fc1", "fc2")] == [3] * 4


def test_query_layer() -> None:
    """PanGu-alpha: the last block asks with a row per position, behind the norm that is final elsewhere."""
    graph = build("pangu-alpha-2.6b", tokens=10, layers=None)
    assert graph.tensor["w_top_queries"].shape == (1024, 2560)
    lookup = graph.operator["embed_top_queries"]
    assert lookup.kind is OpKind.GATHER and lookup.reads[1].touched_bytes == 10 * 2560 * 2
    last, before = graph.operator["l31.q_proj"], graph.operator["l30.q_proj"]
    assert last.reads[0].tensor == "top_queries" and before.reads[0].tensor == "l30.input_normed"
    assert last.macs == before.macs == 10 * 2560 * 2560
    assert graph.operator["l31.k_proj"].reads[0].tensor == "l31.input_normed"
    assert graph.operator["l31.input_norm"].reads[0].tensor == "final_normed"
    assert graph.consumers["final_normed"] == ("l31.input_norm", "l31.attn_add")
    assert graph.operator["last_token"].reads[0].tensor == "l31.out"
    assert graph.producer["logits"] == "lm_head"
    assert len(graph.operators) == 32 * 16 + 6  # two embeddings, queries, norm, last token, head
    fewer = build("pangu-alpha-2.6b", layers=31, ends=True).operator
    assert "embed_top_queries" not in fewer and fewer["last_token"].reads[0].tensor == "final_normed"
    bare = build("pangu-alpha-2.6b", layers=None, ends=False)
    assert bare.operator["l31.q_proj"].reads[0].tensor == "top_queries"
    assert bare.tensor["l31.out"].role is Role.OUTPUT


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("llama-3-8b", {"phase": "train"}, ("phase 'train'", "prefill or decode")),
        ("llama-3-8b", {"dtype": "fp8"}, ("dtype 'fp8'", "w8a8")),
        ("llama-3-8b", {"batch": 0}, ("batch 0", "at least 1")),
        ("llama-3-8b", {"batch": 1.5}, ("batch 1.5",)),
        ("llama-3-8b", {"batch": True}, ("batch True",)),
        ("llama-3-8b", {"tokens": -3}, ("tokens -3",)),
        ("llama-3-8b", {"context": 0}, ("context 0",)),
        ("llama-3-8b", {"layers": 0}, ("layers 0",)),
        ("llama-3-8b", {"layers": 33}, ("layers 33", "32")),
        ("llama-3-8b", {"tp": 0}, ("tp 0",)),
        ("llama-3-8b", {"tp": 3}, ("tp 3", "heads 32")),
        ("llama-3-8b", {"tp": 64}, ("tp 64", "heads 32")),
        ("qwen2.5-7b", {"tp": 7}, ("tp 7", "ffn 18944")),
        ("qwen2.5-7b", {"tp": 14}, ("tp 14",)),
        ("gpt2", {"tp": 2, "layers": None}, ("tp 2", "vocabulary 50257", "ends=False")),
        ("llama-3-8b", {"tokens": 64, "context": 32}, ("context 32", "64")),
        ("llama-3-8b", {"phase": "decode", "tokens": 2, "context": 32}, ("tokens 2", "decode")),
        ("llama-3-8b", {"phase": "decode", "tokens": 1}, ("decode without a context",)),
        ("bert-base", {"phase": "decode", "tokens": 1, "context": 8}, ("bert-base", "no decode")),
        ("bert-base", {"tokens": 8, "context": 16}, ("bert-base", "context 16")),
        ("bert-base", {"tokens": 513}, ("513", "512 learned positions")),
        ("gpt2", {"tokens": 1, "context": 1025}, ("1025", "1024 learned positions")),
        ("opt-6.7b", {"tokens": 1, "context": 2049}, ("2049", "2048 learned positions")),
        ("t5-base", {}, ("t5-base", "source")),
        ("t5-base", {"source": 0}, ("source 0", "at least 1")),
        ("t5-base", {"source": True}, ("source True",)),
        ("t5-base", {"source": 8, "context": 256}, ("context 256", "128", "leave it out")),
        ("t5-base", {"source": 8, "layers": 13}, ("layers 13", "12")),
        ("t5-base", {"source": 2**50}, ("graph", "fewer tokens")),
        ("whisper-large-v3", {"source": 1499}, ("source 1499", "1500")),
        ("whisper-large-v3", {"tokens": 449}, ("449", "448")),
        ("llama-3-8b", {"source": 8}, ("source 8", "llama-3-8b", "tokens")),
        ("llama-3-8b", {"absorbed": True}, ("absorbed True", "llama-3-8b", "leave it out")),
        ("llama-3-8b", {"absorbed": False}, ("absorbed False", "latent attention")),
        ("vit-b-16", {"tokens": 196}, ("tokens 196", "197")),
        ("llama-3-8b", {"tokens": 2**50}, ("graph", "fewer tokens")),
        ("llama-3-8b", {"batch": 10**30}, ("graph", "smaller batch")),
        ("llama-3-8b", {"phase": "decode", "tokens": 1, "context": 2**40, "batch": 2**20}, ("graph",)),
    ],
)
def test_contradictions_are_refused_in_a_sentence(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        build(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_key_heads_must_divide() -> None:
    model = load_model("llama-3-8b").model_copy(update={"heads": 36, "kv_heads": 6, "ffn": 14400})
    with pytest.raises(InputError, match="6 kv_heads"):
        build(model, tp=4)


def test_sliding_window_is_not_exceeded() -> None:
    model = load_model("llama-3-8b").model_copy(update={"sliding_window": 256})
    assert build(model, tokens=256)
    with pytest.raises(InputError, match="sliding window 256"):
        build(model, tokens=257)


def test_other_dtypes_of_the_same_graph() -> None:
    assert decode("llama-3-8b").name != decode("llama-3-8b", dtype="float16").name
    assert decode("llama-3-8b").fingerprint == decode("llama-3-8b").fingerprint
