"""The catalogue agrees with published parameter counts, and a user's config.json is read or refused in a sentence."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from instances.catalogue import ModelConfig, load_model, model_names
from instances.documents import canonical_json
from instances.errors import InputError

PUBLISHED = {
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_404_352,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "mixtral-8x7b": 46_702_792_704,
    "opt-13b": 12_853_473_280,
    "opt-6.7b": 6_658_473_984,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-8b": 8_190_735_360,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "vit-b-16": 86_389_248,
    "whisper-large-v3": 1_543_490_560,
}
BY_FORMULA = {
    "pangu-alpha-13b": 12.9e9,
    "pangu-alpha-2.6b": 2.65e9,
    "pangu-alpha-200b": 208e9,
    "pangu-pro-moe": 71.99e9,
}
"""Totals that were worked out from the sizes and rounded, not counted."""

PLACES = (
    "huggingface.co/",
    "transformers 5.23.0",
    "checked:",
    "configuration_pangu_moe.py",
    "vllm-project/vllm-ascend",
    "mindspore-ai/models",
    "arXiv ",
)
"""What a source may name."""

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 4096,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
}
MLA = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
BERT_LARGE = {
    "model_type": "bert",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
GPT2_XL = {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257}
OPT = {
    "model_type": "opt",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "ffn_dim": 16384,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 4096,
    "do_layer_norm_before": True,
    "activation_function": "relu",
}
T5 = {
    "model_type": "t5",
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "vocab_size": 51866,
    "activation_function": "gelu",
}
PANGU = {
    "model_type": "PanguProMoE",
    "hidden_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 1344,
    "shared_expert_intermediate_size": 5376,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 153376,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 16,
}
QWEN2_72B = {
    "model_type": "qwen2",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29568,
    "vocab_size": 152064,
    "use_sliding_window": False,
    "sliding_window": 131072,
}


def write(folder: Path, data: Any, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def without(data: dict[str, Any], *keys: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys} | changes


def test_names() -> None:
    assert model_names() == tuple(sorted(PUBLISHED | BY_FORMULA))
    assert len(model_names()) == 26


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    model = load_model(name)
    assert model.parameters == PUBLISHED[name] == model.published_parameters


@pytest.mark.parametrize("name", BY_FORMULA)
def test_parameters_are_near_those_by_formula(name: str) -> None:
    model = load_model(name)
    assert model.parameters == pytest.approx(BY_FORMULA[name], rel=0.01)
    assert model.published_parameters == BY_FORMULA[name]
    assert model.sources["published_parameters"].startswith("by formula")


@pytest.mark.parametrize("name", model_names())
def test_every_value_has_a_source(name: str) -> None:
    """What a file gives, and nothing but, has a source; a changed value changes the model."""
    document = json.loads(files("instances").joinpath("models", f"{name}.json").read_text())
    model = load_model(name)
    assert set(model.sources) == set(document)
    for field, entry in document.items():
        assert getattr(model, field) == entry["value"]
        assert len(entry["source"]) > 20
        assert any(place in entry["source"] for place in PLACES)
    defaults = {field for field in ModelConfig.model_fields if getattr(model, field) is not None} - set(document)
    unset = {field for field in defaults - {"name", "sources"} if getattr(model, field)}
    assert unset <= {"norm_position", "router"}


def test_models_are_frozen_and_round_trip() -> None:
    model = load_model("qwen3-8b")
    with pytest.raises(ValueError, match="frozen"):
        model.hidden = 1  # type: ignore[misc]
    assert ModelConfig.model_validate_json(canonical_json(model)) == model


@pytest.mark.parametrize(
    ("data", "parameters"),
    [
        (LLAMA, PUBLISHED["llama-3-8b"]),
        (QWEN2_72B, 72_706_203_648),
        (MOE, 235_093_634_560),
        (MLA, 671_026_404_352),
        (GPT2_XL, 1_557_611_200),
        (BERT_LARGE, 335_141_888),
        (OPT, PUBLISHED["opt-6.7b"]),
        # without biases: five of the stream's width, one of the inner one
        (without(OPT, enable_bias=False), PUBLISHED["opt-6.7b"] - 32 * (5 * 4096 + 16384)),
        (T5, PUBLISHED["t5-base"]),
        # T5 1.1: a third matrix in each of 24 blocks, a head of its own
        (
            without(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
            PUBLISHED["t5-base"] + 24 * 768 * 3072 + 32128 * 768,
        ),
        # heads wider than the stream: four matrices in 36 attentions
        (without(T5, d_kv=128), PUBLISHED["t5-base"] + 36 * 4 * 768 * 768),
        (WHISPER, PUBLISHED["whisper-large-v3"]),
        (PANGU, 71_988_781_056),
        (without(PANGU, shared_expert_intermediate_size=0), 71_988_781_056 - 48 * 3 * 5120 * 5376),
        (VIT, PUBLISHED["vit-b-16"]),
        (without(LLAMA, tie_word_embeddings=True), PUBLISHED["llama-3-8b"] - 128256 * 4096),
        (without(LLAMA, attention_bias=True), PUBLISHED["llama-3-8b"] + 32 * (4096 + 2 * 1024 + 4096)),
    ],
)
def test_own_config(tmp_path: Path, data: dict[str, Any], parameters: int) -> None:
    """Configurations as their config pages have them give the totals that transformers counts."""
    assert load_model(write(tmp_path, data)).parameters == parameters


def test_own_config_names_and_sources(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    path = write(folder, LLAMA, "config.json")
    for given in (path, str(path), folder):
        model = load_model(given)
        assert model.name == "my-llama"
        assert model.sources["hidden"] == "config.json: hidden_size"
        assert model.sources["head_dim"] == "config.json: hidden_size / num_attention_heads"
    assert load_model(write(tmp_path, LLAMA, "other.json")).name == "other"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("llama-3-8b", LLAMA),
        ("deepseek-v3", MLA),
        ("qwen3-235b-a22b", MOE),
        ("bert-large", BERT_LARGE),
        ("opt-6.7b", OPT),
        ("t5-base", T5),
        ("whisper-large-v3", WHISPER),
        ("pangu-pro-moe", PANGU),
    ],
)
def test_own_config_agrees_with_the_catalogue(tmp_path: Path, name: str, data: dict[str, Any]) -> None:
    ours, theirs = load_model(name), load_model(write(tmp_path, data))
    skip = {"name", "sources", "published_parameters"}
    assert ours.model_dump(exclude=skip) == theirs.model_dump(exclude=skip)


def test_routing_in_groups(tmp_path: Path) -> None:
    """DeepSeek-V3 has groups unless told otherwise; V2 where it names the method that has them."""
    model = load_model(write(tmp_path, without(MLA, "n_group", "topk_group")))
    assert (model.router, model.expert_groups, model.groups_per_token) == ("sigmoid", 8, 4)
    groups = without(MLA, model_type="deepseek_v2", n_group=8, topk_group=3)
    model = load_model(write(tmp_path, groups))
    assert (model.router, model.expert_groups, model.groups_per_token) == ("softmax", None, None)
    model = load_model(write(tmp_path, without(groups, topk_method="group_limited_greedy")))
    assert (model.router, model.expert_groups, model.groups_per_token) == ("softmax", 8, 3)


def test_mistral_window(tmp_path: Path) -> None:
    mistral = without(LLAMA, model_type="mistral", vocab_size=32000)
    assert load_model(write(tmp_path, mistral)).sliding_window == 4096
    assert load_model(write(tmp_path, without(mistral, sliding_window=None))).sliding_window is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (without(LLAMA, "hidden_size"), ("hidden_size", "missing", "add")),
        (without(LLAMA, "model_type"), ("model_type", "missing")),
        (without(LLAMA, model_type="mamba2"), ("'mamba2'", "not supported", "qwen3_moe")),
        (without(LLAMA, model_type=3), ("model_type", "3", "JSON string")),
        (without(LLAMA, hidden_size=0), ("hidden_size", "0", "whole number")),
        (without(LLAMA, hidden_size=-4096), ("hidden_size", "-4096")),
        (without(LLAMA, hidden_size=4096.0), ("hidden_size", "4096.0")),
        (without(LLAMA, hidden_size="4096"), ("hidden_size", "'4096'")),
        (without(LLAMA, hidden_size=True), ("hidden_size", "True")),
        (without(LLAMA, hidden_size=10**30), ("hidden_size", str(10**30))),
        (without(LLAMA, num_hidden_layers=10**6), ("num_hidden_layers", "1000000", "10000")),
        (without(LLAMA, hidden_size=4097), ("hidden_size 4097", "num_attention_heads 32", "head_dim")),
        (without(LLAMA, num_key_value_heads=5), ("num_attention_heads 32", "num_key_value_heads 5")),
        (without(LLAMA, hidden_act="xielu"), ("hidden_act", "'xielu'", "silu")),
        (without(LLAMA, tie_word_embeddings="no"), ("tie_word_embeddings", "'no'", "true or false")),
        (without(MOE, mlp_only_layers=[0]), ("mlp_only_layers", "[0]", "not supported")),
        (without(MOE, num_experts_per_tok=129), ("num_experts_per_tok 129", "num_experts 128")),
        (without(MOE, "num_experts"), ("num_experts or num_local_experts", "missing")),
        (without(MLA, attention_bias=True), ("attention_bias", "True")),
        (without(MLA, "kv_lora_rank"), ("kv_lora_rank", "missing")),
        (without(MLA, n_group=7), ("n_routed_experts 256", "n_group 7")),
        (without(MLA, topk_group=9), ("topk_group 9", "n_group 8", "lower")),
        (without(MLA, n_group=256, topk_group=4), ("num_experts_per_tok 8", "topk_group 4")),
        (without(MLA, scoring_func="softmax"), ("scoring_func", "'softmax'", "sigmoid")),
        (without(MLA, model_type="deepseek_v2", topk_method="best"), ("topk_method", "'best'")),
        (without(PANGU, shared_expert_intermediate_size=5377), ("5377", "moe_intermediate_size 1344")),
        (without(PANGU, num_experts_per_tok=7), ("num_experts 64", "num_experts_per_tok 7")),
        (without(OPT, word_embed_proj_dim=512), ("word_embed_proj_dim", "512", "4096")),
        (without(OPT, do_layer_norm_before=False), ("do_layer_norm_before", "False")),
        (without(T5, feed_forward_proj="gated-xielu"), ("feed_forward_proj", "'gated-xielu'", "gated-gelu")),
        (without(T5, feed_forward_proj="silu"), ("feed_forward_proj", "'silu'")),
        (without(T5, "d_kv"), ("d_kv", "missing")),
        (without(WHISPER, decoder_attention_heads=16), ("decoder_attention_heads", "16", "20")),
        (without(WHISPER, decoder_ffn_dim=4096), ("decoder_ffn_dim", "4096", "5120")),
        (without(WHISPER, encoder_attention_heads=19, decoder_attention_heads=19), ("d_model 1280", "19", "mend")),
        (without(GPT2_XL, n_head=24), ("n_embd 1600", "n_head 24", "mend")),
        (without(BERT_LARGE, is_decoder=True), ("is_decoder", "True")),
        (without(VIT, patch_size=15), ("image_size 224", "patch_size 15")),
        (without(VIT, image_size=[224, 224]), ("image_size", "[224, 224]")),
        ([1, 2], ("list", "not a JSON object")),
        ("{", ("line 1", "not JSON")),
        ("", ("not JSON",)),
    ],
)
def test_nonsense_is_refused_in_a_sentence(tmp_path: Path, data: Any, words: tuple[str, ...]) -> None:
    path = write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(InputError) as caught:
        load_model("llama-3-9b")
    assert "'llama-3-9b'" in str(caught.value)
    for name in model_names():
        assert name in str(caught.value)


def test_missing_file_and_bare_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "absent.json")
    with pytest.raises(InputError, match="is a directory"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kv_heads": 5}, "kv_heads 5"),
        ({"experts": 8}, "all three"),
        ({"experts": 4, "experts_per_token": 5, "expert_ffn": 64}, "exceeds experts 4"),
        ({"ffn": None}, "ffn is missing"),
        ({"kv_latent": 512}, "all four"),
        ({"vocab": None}, "vocab is missing"),
        ({"family": "vision"}, "image_size, patch_size and channels"),
        ({"hidden": 2**30}, "less than or equal"),
        ({"family": "encoder_decoder"}, "decoder_layers belongs"),
        ({"decoder_layers": 2}, "decoder_layers belongs"),
        ({"family": "encoder_decoder", "decoder_layers": 2}, "max_positions or relative_buckets"),
        ({"family": "encoder_decoder", "decoder_layers": 2, "max_positions": 8}, "give mel_bins"),
        ({"mel_bins": 80}, "mel_bins and source_positions"),
        ({"mel_bins": 80, "source_positions": 1500}, "those of an encoder_decoder"),
        ({"relative_buckets": 32, "max_positions": 8}, "exclude each other"),
        ({"query_layer": True}, "query_layer wants"),
        ({"experts": 8, "experts_per_token": 2, "expert_ffn": 64, "expert_groups": 3}, "not a multiple"),
        ({"experts": 8, "experts_per_token": 3, "expert_ffn": 64, "expert_groups": 2}, "give groups_per_token"),
        (
            {"experts": 8, "experts_per_token": 2, "expert_ffn": 64, "expert_groups": 4, "groups_per_token": 5},
            "exceeds expert_groups 4",
        ),
        (
            {"experts": 8, "experts_per_token": 3, "expert_ffn": 64, "expert_groups": 4, "groups_per_token": 1},
            "1 groups of 2 experts",
        ),
    ],
)
def test_contradictory_models_are_refused(changes: dict[str, Any], word: str) -> None:
    data = load_model("llama-3-8b").model_dump() | changes
    with pytest.raises(ValueError, match=word):
        ModelConfig.model_validate(data)
