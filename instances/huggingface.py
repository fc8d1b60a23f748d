"""A Hugging Face ``config.json`` as a :class:`ModelConfig`.

Keys and their defaults are those of transformers 5.23.0 ``models/*/configuration_*.py``. What does not change
shapes (norm epsilon, rotary base, dropout ...) is not read. Those of ``PanguProMoE``, which transformers has not, are
Huawei's ``configuration_pangu_moe.py``. Layers for multi-token prediction are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instances.architecture import MAX_LAYERS, MAX_SIZE, ModelConfig
from instances.documents import parse
from instances.errors import InputError

Entry = tuple[Any, str]
"""A value and the key it came from."""

Fields = dict[str, Entry]

_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", **dict.fromkeys(_GELU, "gelu")}
_MISSING = object()


def from_huggingface(data: Any, path: str | Path) -> ModelConfig:
    """The model that a parsed ``config.json`` describes.

    Parameters
    ----------
    data
        The parsed JSON.
    path
        Where it came from, for messages; the model is called after the file, or after its folder where the file
        is called ``config.json``.

    Raises
    ------
    InputError
        Where a key is missing, a value makes no sense, or the model is of a type that is not supported; the
        sentence names file, key, value and remedy.
    """
    path = Path(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a {type(data).__name__}, not a JSON object; give a Hugging Face config.json")
    reader = _Reader(data, path)
    model_type = reader.text("model_type")
    if model_type not in _FAMILIES:
        raise InputError(f"{path}: model_type {model_type!r} is not supported; use one of {', '.join(MODEL_TYPES)}")
    fields = _FAMILIES[model_type](reader)
    _check_groups(fields, path)
    name = path.stem if path.stem != "config" else path.resolve().parent.name or path.stem
    document: dict[str, Any] = {field: value for field, (value, _) in fields.items()}
    document["name"] = name[:200]
    document["sources"] = {field: f"{path.name}: {key}" for field, (_, key) in fields.items()}
    return parse(ModelConfig, document, path)


class _Reader:
    """Looks keys up and complains in one sentence."""

    def __init__(self, data: dict[str, Any], path: Path) -> None:
        self.data = data
        self.path = path

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if value is None:
            raise self._missing(key)
        if not isinstance(value, str):
            raise InputError(f"{self.path}: {key} is {value!r}, not a text; give it as a JSON string")
        return value

    def integer(self, *keys: str, default: Any = _MISSING, limit: int = MAX_SIZE, least: int = 1) -> Entry:
        """A whole number under the first of ``keys`` that is there; null and absent both mean ``default``."""
        key = next((key for key in keys if self.data.get(key) is not None), keys[0])
        value = self.data.get(key)
        if value is None:
            if default is _MISSING:
                raise self._missing(" or ".join(keys))
            return default, f"{key} (absent)"
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= limit:
            raise InputError(f"{self.path}: {key} is {value!r}; give a whole number from {least} to {limit}")
        return value, key

    def flag(self, key: str, default: bool) -> Entry:
        value = self.data.get(key)
        if value is None:
            return default, f"{key} (absent)"
        if not isinstance(value, bool):
            raise InputError(f"{self.path}: {key} is {value!r}; give true or false")
        return value, key

    def activation(self, key: str, default: str, allowed: Sequence[str]) -> Entry:
        value = self.text(key, default)
        known = [name for name, ours in _ACTIVATIONS.items() if ours in allowed]
        if value not in known:
            raise InputError(f"{self.path}: {key} {value!r} is not supported here; use one of {', '.join(known)}")
        return _ACTIVATIONS[value], key

    def demand(self, key: str, *accepted: Any) -> None:
        """``key`` absent or of a value that the generator models."""
        value = self.data.get(key)
        if value is not None and value not in accepted:
            raise InputError(f"{self.path}: {key} {value!r} is not supported; only {accepted[0]!r} is modelled")

    def heads(self, hidden: str, heads: str, kv_heads: str | None, head_dim: str | None) -> Fields:
        """Width, heads and elements per head, which must agree."""
        width, q = self.integer(hidden), self.integer(heads)
        kv = self.integer(kv_heads, default=q[0]) if kv_heads else (q[0], heads)
        if q[0] % kv[0]:
            raise InputError(f"{self.path}: {heads} {q[0]} is not a multiple of {kv_heads} {kv[0]}; mend one of them")
        size: Entry = self.integer(head_dim, default=None) if head_dim else (None, "")
        if size[0] is None:
            if width[0] % q[0]:
                remedy = f"give {head_dim}" if head_dim else "mend one of them"
                raise InputError(f"{self.path}: {hidden} {width[0]} is not a multiple of {heads} {q[0]}; {remedy}")
            size = (width[0] // q[0], f"{hidden} / {heads}")
        return {"hidden": width, "heads": q, "kv_heads": kv, "head_dim": size}

    def experts(self, count: Entry, width: Entry) -> Fields:
        """Routed experts and how many a token visits."""
        visited = self.integer("num_experts_per_tok")
        if visited[0] > count[0]:
            raise InputError(
                f"{self.path}: num_experts_per_tok {visited[0]} exceeds {count[1]} {count[0]}; lower the former"
            )
        return {"experts": count, "experts_per_token": visited, "expert_ffn": width}

    def _missing(self, key: str) -> InputError:
        return InputError(f"{self.path}: {key} is missing; add it as the model's published config.json has it")


def _check_groups(fields: Fields, path: Path) -> None:
    """Groups of experts must hold as many each, and those that a token visits."""
    groups, key = fields.get("expert_groups", (None, ""))
    if groups is None:
        return
    (experts, experts_key), (visited, visited_key) = fields["experts"], fields["experts_per_token"]
    if experts % groups:
        raise InputError(f"{path}: {experts_key} {experts} is not a multiple of {key} {groups}; mend one of them")
    chosen, chosen_key = fields.get("groups_per_token", (groups, key))
    if chosen > groups:
        raise InputError(f"{path}: {chosen_key} {chosen} exceeds {key} {groups}; lower the former")
    if visited > chosen * (experts // groups):
        raise InputError(
            f"{path}: {visited_key} {visited} exceeds the {chosen * (experts // groups)} experts of {chosen_key} "
            f"{chosen}; mend one of them"
        )


def _fixed(**values: Any) -> Fields:
    """Values that follow from the model's type alone."""
    return {field: (value, "model_type") for field, value in values.items()}


# ------------------------------------------------------------------------------ families


def _decoder(r: _Reader) -> Fields:
    """What all decoders with RMS norm, rotary positions and a gated feed-forward block share."""
    return {
        **_fixed(family="decoder", gated=True, norm="rms", norm_position="pre"),
        "layers": r.integer("num_hidden_layers", limit=MAX_LAYERS),
        "vocab": r.integer("vocab_size"),
        "activation": r.activation("hidden_act", "silu", ("silu",)),
        "tied_head": r.flag("tie_word_embeddings", False),
    }


def _grouped(r: _Reader) -> Fields:
    """A decoder with multi-head or grouped-query attention."""
    return {**_decoder(r), **r.heads("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")}


def _llama(r: _Reader) -> Fields:
    bias = r.flag("attention_bias", False)
    dense = {"ffn": r.integer("intermediate_size"), "mlp_bias": r.flag("mlp_bias", False)}
    return {**_grouped(r), **dense, "qkv_bias": bias, "o_bias": bias}


def _mistral(r: _Reader) -> Fields:
    window = r.integer("sliding_window", default=None if "sliding_window" in r.data else 4096)
    return {**_grouped(r), "ffn": r.integer("intermediate_size"), "sliding_window": window}


def _window(r: _Reader) -> Fields:
    """Qwen's sliding window, which must be switched on."""
    on, _ = r.flag("use_sliding_window", False)
    return {"sliding_window": r.integer("sliding_window", default=4096)} if on else {}


def _qwen2(r: _Reader) -> Fields:
    return {**_grouped(r), "ffn": r.integer("intermediate_size"), **_fixed(qkv_bias=True), **_window(r)}


def _qwen3_attention(r: _Reader) -> Fields:
    bias = r.flag("attention_bias", False)
    return {**_grouped(r), "qkv_bias": bias, "o_bias": bias, **_fixed(qk_norm=True), **_window(r)}


def _qwen3(r: _Reader) -> Fields:
    return {**_qwen3_attention(r), "ffn": r.integer("intermediate_size")}


def _qwen3_moe(r: _Reader) -> Fields:
    r.demand("mlp_only_layers", [])
    r.demand("decoder_sparse_step", 1)
    experts = r.experts(r.integer("num_experts", "num_local_experts"), r.integer("moe_intermediate_size"))
    return {**_qwen3_attention(r), **experts}


def _mixtral(r: _Reader) -> Fields:
    experts = r.experts(r.integer("num_local_experts", "num_experts"), r.integer("intermediate_size"))
    return {**_grouped(r), **experts, "sliding_window": r.integer("sliding_window", default=None)}


def _pangu_pro_moe(r: _Reader) -> Fields:
    """Grouped experts: as many groups as a token visits experts, one of each."""
    experts = r.experts(r.integer("num_experts"), r.integer("moe_intermediate_size"))
    r.demand("mlp_only_layers", [])
    width, shared = experts["expert_ffn"][0], r.integer("shared_expert_intermediate_size", default=0, least=0)
    if shared[0] % width:
        raise InputError(
            f"{r.path}: shared_expert_intermediate_size {shared[0]} is not a multiple of "
            f"moe_intermediate_size {width}; mend one of them"
        )
    return {
        **_grouped(r),
        **experts,
        **_fixed(qkv_bias=True, o_bias=True, router_scale=True),
        "expert_groups": experts["experts_per_token"],
        "shared_experts": (shared[0] // width, f"{shared[1]} / moe_intermediate_size"),
    }


def _deepseek_v2(r: _Reader) -> Fields:
    r.demand("topk_method", "greedy", "group_limited_greedy")
    r.demand("scoring_func", "softmax")
    fields = _deepseek(r)
    if r.data.get("topk_method") != "group_limited_greedy" or "experts" not in fields:
        return fields
    return {**fields, "expert_groups": r.integer("n_group"), "groups_per_token": r.integer("topk_group")}


def _deepseek_v3(r: _Reader) -> Fields:
    r.demand("scoring_func", "sigmoid")
    fields = _deepseek(r)
    if "experts" not in fields:
        return fields
    groups = {"expert_groups": r.integer("n_group", default=8), "groups_per_token": r.integer("topk_group", default=4)}
    return {**fields, **_fixed(router="sigmoid"), **groups}


def _deepseek(r: _Reader) -> Fields:
    r.demand("attention_bias", False)
    r.demand("moe_layer_freq", 1)
    heads = r.integer("num_attention_heads")
    nope, rope = r.integer("qk_nope_head_dim"), r.integer("qk_rope_head_dim")
    fields: Fields = {
        **_decoder(r),
        "hidden": r.integer("hidden_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": (nope[0] + rope[0], "qk_nope_head_dim + qk_rope_head_dim"),
        "kv_latent": r.integer("kv_lora_rank"),
        "q_latent": r.integer("q_lora_rank", default=None),
        "nope_dim": nope,
        "rope_dim": rope,
        "v_dim": r.integer("v_head_dim"),
    }
    routed = r.integer("n_routed_experts", default=None)
    if routed[0] is not None:
        fields |= r.experts(routed, r.integer("moe_intermediate_size"))
        fields["shared_experts"] = r.integer("n_shared_experts", default=0, limit=1024, least=0)
        fields["dense_layers"] = r.integer("first_k_dense_replace", default=0, limit=MAX_LAYERS, least=0)
    if routed[0] is None or fields["dense_layers"][0]:
        fields["ffn"] = r.integer("intermediate_size")
    return fields


def _layer_norm(r: _Reader, act: str, default: str) -> Fields:
    """What GPT-2, OPT, BERT, ViT and Whisper share."""
    biased = _fixed(gated=False, norm="layer", o_bias=True, mlp_bias=True)
    return {**biased, "activation": r.activation(act, default, ("gelu", "relu"))}


def _gpt2(r: _Reader) -> Fields:
    fields = {
        **_layer_norm(r, "activation_function", "gelu_new"),
        **_fixed(family="decoder", norm_position="pre", qkv_bias=True),
        **r.heads("n_embd", "n_head", None, None),
        "layers": r.integer("n_layer", limit=MAX_LAYERS),
        "vocab": r.integer("vocab_size"),
        "max_positions": r.integer("n_positions"),
        "tied_head": r.flag("tie_word_embeddings", True),
    }
    fields["ffn"] = r.integer("n_inner", default=4 * fields["hidden"][0])
    return fields


def _opt(r: _Reader) -> Fields:
    r.demand("do_layer_norm_before", True)
    r.demand("_remove_final_layer_norm", False)
    r.demand("layer_norm_elementwise_affine", True)
    width = r.integer("hidden_size")
    r.demand("word_embed_proj_dim", width[0])
    bias = r.flag("enable_bias", True)
    return {
        **_layer_norm(r, "activation_function", "relu"),
        **_fixed(family="decoder", norm_position="pre", position_offset=2),
        **r.heads("hidden_size", "num_attention_heads", None, None),
        **dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias"), bias),
        "layers": r.integer("num_hidden_layers", limit=MAX_LAYERS),
        "ffn": r.integer("ffn_dim"),
        "vocab": r.integer("vocab_size"),
        "max_positions": r.integer("max_position_embeddings"),
        "tied_head": r.flag("tie_word_embeddings", True),
    }


def _t5(r: _Reader) -> Fields:
    """T5, or T5 1.1 with its gated feed-forward block and a head of its own that is not scaled."""
    layers = r.integer("num_layers", limit=MAX_LAYERS)
    heads = r.integer("num_heads")
    projection = r.text("feed_forward_proj", "relu")
    gate, _, function = projection.rpartition("-")
    known = _ACTIVATIONS.get(function)
    if gate not in ("", "gated") or known is None or (known == "silu" and not gate):
        raise InputError(
            f"{r.path}: feed_forward_proj {projection!r} is not supported; use relu, gelu, gated-relu, gated-gelu or "
            "gated-silu"
        )
    tied = r.flag("tie_word_embeddings", True)
    return {
        **_fixed(family="encoder_decoder", norm="rms", norm_position="pre"),
        "hidden": r.integer("d_model"),
        "layers": layers,
        "decoder_layers": r.integer("num_decoder_layers", default=layers[0], limit=MAX_LAYERS),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": r.integer("d_kv"),
        "ffn": r.integer("d_ff"),
        "vocab": r.integer("vocab_size"),
        "activation": (known, "feed_forward_proj"),
        "gated": (bool(gate), "feed_forward_proj"),
        "relative_buckets": r.integer("relative_attention_num_buckets", default=32),
        "tied_head": tied,
        "scaled_head": tied,
    }


def _whisper(r: _Reader) -> Fields:
    heads = r.heads("d_model", "encoder_attention_heads", None, None)
    r.demand("decoder_attention_heads", heads["heads"][0])
    ffn = r.integer("encoder_ffn_dim")
    r.demand("decoder_ffn_dim", ffn[0])
    return {
        **_layer_norm(r, "activation_function", "gelu"),
        **_fixed(family="encoder_decoder", norm_position="pre", qkv_bias=True, k_bias=False),
        **heads,
        "layers": r.integer("encoder_layers", limit=MAX_LAYERS),
        "decoder_layers": r.integer("decoder_layers", limit=MAX_LAYERS),
        "ffn": ffn,
        "vocab": r.integer("vocab_size"),
        "max_positions": r.integer("max_target_positions", default=448),
        "mel_bins": r.integer("num_mel_bins", default=80),
        "source_positions": r.integer("max_source_positions", default=1500),
        "tied_head": r.flag("tie_word_embeddings", True),
    }


def _encoder(r: _Reader) -> Fields:
    return {
        **_layer_norm(r, "hidden_act", "gelu"),
        **r.heads("hidden_size", "num_attention_heads", None, None),
        **_fixed(pooler=True),
        "layers": r.integer("num_hidden_layers", limit=MAX_LAYERS),
        "ffn": r.integer("intermediate_size"),
    }


def _bert(r: _Reader) -> Fields:
    r.demand("is_decoder", False)
    r.demand("position_embedding_type", "absolute")
    return {
        **_encoder(r),
        **_fixed(family="encoder", norm_position="post", qkv_bias=True),
        "vocab": r.integer("vocab_size"),
        "max_positions": r.integer("max_position_embeddings"),
        "token_types": r.integer("type_vocab_size", default=2),
    }


def _vit(r: _Reader) -> Fields:
    image, patch = r.integer("image_size"), r.integer("patch_size")
    if image[0] % patch[0]:
        raise InputError(f"{r.path}: image_size {image[0]} is not a multiple of patch_size {patch[0]}; mend one")
    return {
        **_encoder(r),
        **_fixed(family="vision", norm_position="pre"),
        "qkv_bias": r.flag("qkv_bias", True),
        "image_size": image,
        "patch_size": patch,
        "channels": r.integer("num_channels", default=3),
    }


_FAMILIES: dict[str, Callable[[_Reader], Fields]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "PanguProMoE": _pangu_pro_moe,
    "gpt2": _gpt2,
    "opt": _opt,
    "t5": _t5,
    "whisper": _whisper,
    "bert": _bert,
    "vit": _vit,
}

MODEL_TYPES = tuple(_FAMILIES)
"""Values of ``model_type`` that are understood."""
