"""Operator graphs of catalogue models: prefill or decode, any batch and length, one rank of tensor parallelism.

Sizes are those of one rank: with ``tp`` ranks each holds ``1/tp`` of the heads, of every feed-forward width and
of the vocabulary, and adds its part in an all-reduce after the attention's and the feed-forward's last
projection (Megatron-LM, arXiv 1909.08053). Key and value heads are repeated where there are fewer than ranks;
norms, router and latent down-projections are on every rank. Biases behind an all-reduce are added by the rank
shown. Weights read in part (embedding rows, experts) say so in bytes: all tokens are taken to be distinct and
all experts to be equally likely.

An encoder-decoder has two lengths: ``source`` positions of the encoder, and ``tokens`` new ones of the decoder. Its
prefill runs the encoder, then the decoder over its first tokens, and writes the keys and values of both attentions to
caches; its decode runs the decoder for one token, which reads them there and does not run the encoder again.
"""

from __future__ import annotations

from typing import Literal, get_args

from instances.attention import Scope
from instances.catalogue import ModelConfig
from instances.encoder_decoder import add_stacks
from instances.ends import FRAMES_PER_POSITION, TOKENS, embed, final_norm, finish, top_queries
from instances.errors import InputError
from instances.graph import DType, Graph, Role
from instances.graph_builder import GraphBuilder
from instances.layers import add_block

Phase = Literal["prefill", "decode"]
Precision = Literal["bfloat16", "float16", "w8a8"]


def build_graph(
    model: ModelConfig,
    phase: Phase,
    batch: int,
    tokens: int,
    context: int | None = None,
    layers: int | None = None,
    tp: int = 1,
    dtype: Precision = "bfloat16",
    ends: bool | None = None,
    *,
    absorbed: bool | None = None,
    source: int | None = None,
) -> Graph:
    """The operators that one rank runs for one forward pass.

    Parameters
    ----------
    model
        What to build.
    phase
        ``prefill``: ``tokens`` new tokens per sequence. ``decode``: one new token per sequence. Of an encoder-decoder,
        prefill is the encoder and the decoder's first tokens, decode one step of the decoder alone.
    batch
        Sequences (images for vision).
    tokens
        New tokens per sequence; of an encoder-decoder, the decoder's.
    context
        Positions attended to per sequence, the new ones included; more than ``tokens`` means that the earlier
        ones lie in a cache. ``None``: as many as ``tokens``; decode wants it.
    layers
        How many of the model's blocks, from the first; ``None``: all. Of an encoder-decoder, of each stack.
    tp
        Ranks of tensor parallelism.
    dtype
        Element type of weights, activations and caches; ``w8a8``: int8 weights and projections' inputs, the
        rest in bfloat16.
    ends
        Whether embedding, final norm and head (or pooler) are there; ``None``: when all blocks are.
    absorbed
        Latent attention: whether the up-projections of keys and values are multiplied into queries and results, so
        that attention runs over the cached latents, or keys and values are expanded per head, as Hugging Face's
        code does in both phases. ``None``: absorbed in decode, expanded in prefill.
    source
        Positions of the encoder of an encoder-decoder; ``None``: the model's own, where it has a fixed number.

    Returns
    -------
    Graph
        Activations are ``[batch*seq, features]``, attention scores ``[batch, heads, seq, context]``, weights
        ``[in, out]``. Without ends the hidden states come in as tensor ``x`` and leave as an output.

    Raises
    ------
    InputError
        Where the request contradicts itself or the model; one sentence with the value and the remedy.

    Notes
    -----
    Causal attention counts the pairs of a position and those it sees: new token ``i`` of ``T`` sees
    ``S - T + i`` of ``S`` positions, a share ``(S - (T-1)/2) / S`` of the square, which is the operators' density.
    A learned or tied head has a weight tensor of its own.
    """
    _check(model, phase, batch, tokens, context, layers, tp, dtype)
    positions = _source(model, source)
    if absorbed is not None and not model.latent_attention:
        raise InputError(
            f"absorbed {absorbed} is a choice of latent attention, which {model.name} has not; leave it out"
        )
    decode = phase == "decode"
    folded = decode if absorbed is None else absorbed
    span = tokens if context is None else context
    count = model.depth if layers is None else layers
    whole = count == model.depth if ends is None else ends
    if tp > 1:
        _check_split(model, tp, whole)
    builder = GraphBuilder(
        _loops(model, batch, tokens, span, positions, tp, folded),
        DType.FLOAT16 if dtype == "float16" else DType.BFLOAT16,
        quantized=dtype == "w8a8",
        tp=tp,
    )
    if model.family == "encoder_decoder":
        add_stacks(builder, model, count, decode=decode, ends=whole)
    else:
        _add_blocks(builder, model, count, past=span > tokens, absorbed=folded, ends=whole)
    size = f"b{batch}-t{tokens}-s{span}-l{count}-tp{tp}-{dtype}"
    if positions:
        size = f"x{positions}-{size}"
    if folded != decode:
        size += "-absorbed" if folded else "-expanded"
    return builder.graph(f"{model.name[:120]}-{phase}-{size}{'' if whole else '-blocks'}")


def _add_blocks(b: GraphBuilder, model: ModelConfig, count: int, *, past: bool, absorbed: bool, ends: bool) -> None:
    """The first ``count`` blocks of a model of one stack, with what stands before and after them."""
    x = embed(b, model) if ends else b.tensor("x", (TOKENS, "hidden"), Role.INPUT)
    cos = sin = None
    if model.rotary:
        rotated = "rope_dim" if model.latent_attention else "head_dim"
        cos, sin = (b.tensor(f"rope_{name}", (TOKENS, rotated), Role.INPUT) for name in ("cos", "sin"))
    scope = Scope(model, past=past, causal=model.causal, absorbed=absorbed, cos=cos, sin=sin)
    for layer in range(count):
        last = layer == count - 1 and not (ends and (model.causal or model.norm_position == "pre"))
        queries = None
        if model.query_layer and layer == model.layers - 1:
            # what is the final norm elsewhere stands before the query layer
            x, queries = final_norm(b, model, x), top_queries(b, model)
        x = add_block(b, scope, layer, x, Role.OUTPUT if last else Role.INTERMEDIATE, queries=queries)
    if ends:
        finish(b, model, x, normed=model.query_layer and count == model.layers)


def _check(
    model: ModelConfig,
    phase: str,
    batch: int,
    tokens: int,
    context: int | None,
    layers: int | None,
    tp: int,
    dtype: str,
) -> None:
    """Whether the request makes sense."""
    name = model.name
    for what, chosen, known in (("phase", phase, get_args(Phase)), ("dtype", dtype, get_args(Precision))):
        if chosen not in known:
            raise InputError(f"{what} {chosen!r} is unknown; choose {' or '.join(known)}")
    numbers = {"batch": batch, "tokens": tokens, "context": context, "layers": layers, "tp": tp}
    for what, number in numbers.items():
        if number is None and what in ("context", "layers"):
            continue
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(f"{what} {number!r} is not a positive whole number; give at least 1")
    if layers is not None and layers > model.depth:
        raise InputError(f"layers {layers} exceeds the {model.depth} of {name}; ask for at most {model.depth}")
    if phase == "decode":
        if not model.causal:
            raise InputError(f"{name} is an encoder and has no decode phase; use prefill")
        if tokens != 1:
            raise InputError(f"tokens {tokens} in decode, which makes one per sequence; use tokens 1, or prefill")
        if context is None:
            raise InputError("decode without a context; give the positions attended to, the new one included")
    if context is not None and context < tokens:
        raise InputError(f"context {context} is less than the {tokens} new tokens it includes; raise it")
    span = tokens if context is None else context
    if model.family == "encoder_decoder" and phase == "prefill" and span != tokens:
        raise InputError(
            f"context {span} in prefill of the encoder-decoder {name}, whose decoder starts with the {tokens} new "
            "tokens; leave it out"
        )
    if not model.causal and span != tokens:
        raise InputError(f"{name} is an encoder without a cache: context {span} must equal tokens {tokens}")
    if model.family == "vision" and tokens != model.positions:
        raise InputError(f"tokens {tokens}: an image of {name} has {model.positions} (patches and a class token)")
    if model.positions is not None and span > model.positions:
        raise InputError(f"context {span} exceeds the {model.positions} learned positions of {name}; shorten it")
    if model.sliding_window is not None and span > model.sliding_window:
        raise InputError(
            f"context {span} exceeds the sliding window {model.sliding_window} of {name}, "
            "which is not modelled beyond that; shorten it"
        )


def _source(model: ModelConfig, source: int | None) -> int | None:
    """Positions of the encoder of an encoder-decoder; ``None`` for any other model."""
    name, own = model.name, model.source_positions
    if model.family != "encoder_decoder":
        if source is not None:
            raise InputError(f"source {source} is the encoder's length, but {name} is one stack; give tokens instead")
        return None
    if source is None and own is None:
        raise InputError(f"{name} without a source; give the encoder's positions per sequence")
    if source is not None and (not isinstance(source, int) or isinstance(source, bool) or source < 1):
        raise InputError(f"source {source!r} is not a positive whole number; give at least 1")
    if source is not None and own is not None and source != own:
        raise InputError(f"source {source}: the encoder of {name} always has {own} positions; leave it out")
    return own if source is None else source


def _check_split(model: ModelConfig, tp: int, ends: bool) -> None:
    """Whether ``tp`` ranks can share the model evenly."""
    widths = {"heads": model.heads, "ffn": model.ffn, "expert_ffn": model.expert_ffn}
    for what, width in widths.items():
        if width is not None and width % tp:
            raise InputError(f"tp {tp} does not divide the {what} {width} of {model.name}; choose a divisor")
    if not model.latent_attention and model.kv_heads % tp and tp % model.kv_heads:
        raise InputError(
            f"tp {tp} neither divides nor is a multiple of the {model.kv_heads} kv_heads of {model.name}; mend it"
        )
    if ends and model.vocab is not None and model.vocab % tp:
        raise InputError(
            f"tp {tp} does not divide the vocabulary {model.vocab} of {model.name}; choose a divisor, or leave "
            "embedding and head out (fewer layers, or ends=False)"
        )


def _loops(
    model: ModelConfig, batch: int, tokens: int, context: int, source: int | None, tp: int, absorbed: bool
) -> dict[str, int]:
    """Extent of every loop dimension on one rank."""
    heads = model.heads // tp
    kv_heads = max(1, model.kv_heads // tp)
    if model.latent_attention:
        kv_heads = 1 if absorbed else heads
    loops: dict[str, int | None] = {
        "batch": batch,
        "seq": tokens,
        "context": context,
        "hidden": model.hidden,
        "kv_heads": kv_heads,
        "group": heads // kv_heads,
        "head_dim": model.head_dim,
        "ffn": model.ffn and model.ffn // tp,
        "latent": model.kv_latent,
        "q_latent": model.q_latent,
        "nope_dim": model.nope_dim,
        "rope_dim": model.rope_dim,
        "v_dim": model.v_dim,
        "experts": model.experts,
        "topk": model.experts_per_token,
        "topk_groups": model.groups_per_token,
        "expert_ffn": model.expert_ffn and model.expert_ffn // tp,
    }
    if model.experts_per_token and model.expert_ffn:
        loops["rows"] = batch * tokens * model.experts_per_token
        loops["shared_ffn"] = model.shared_experts * model.expert_ffn // tp
    if source:
        loops |= {"source": source, "source_context": source, "buckets": model.relative_buckets}
    if source and model.mel_bins:
        frames = FRAMES_PER_POSITION * source
        loops |= {"frames": frames, "mel_bins": model.mel_bins, "window": 3, "channels": model.hidden}
    if model.token_types:
        loops["types"] = model.token_types
    if model.family == "vision":
        loops["patches"] = model.patches
        loops["pixels"] = (model.channels or 0) * (model.patch_size or 0) ** 2
    if model.vocab is not None:
        loops["vocab"] = model.vocab // tp
        loops["ranks"] = tp
    if model.pooler:
        loops["pooled"] = model.hidden
    return {loop: extent for loop, extent in loops.items() if extent}
