"""Operator graphs of catalogue models: prefill or decode, any batch and length, one rank of tensor parallelism.

Sizes are those of one rank: with ``tp`` ranks each holds ``1/tp`` of the heads, of every feed-forward width and
of the vocabulary, and adds its part in an all-reduce after the attention's and the feed-forward's last
projection (Megatron-LM, arXiv 1909.08053). Key and value heads are repeated where there are fewer than ranks;
norms, router and latent down-projections are on every rank. Biases behind an all-reduce are added by the rank
shown. Weights read in part (embedding rows, experts) say so in bytes: all tokens are taken to be distinct and
all experts to be equally likely.
"""

from __future__ import annotations

from typing import Literal, get_args

from instances.catalogue import ModelConfig
from instances.errors import InputError
from instances.graph import Access, DType, Graph, OpKind, Role
from instances.graph_builder import GraphBuilder, work
from instances.layers import TOKENS, Scope, add_block

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
) -> Graph:
    """The operators that one rank runs for one forward pass.

    Parameters
    ----------
    model
        What to build.
    phase
        ``prefill``: ``tokens`` new tokens per sequence. ``decode``: one new token per sequence.
    batch
        Sequences (images for vision).
    tokens
        New tokens per sequence.
    context
        Positions attended to per sequence, the new ones included; more than ``tokens`` means that the earlier
        ones lie in a cache. ``None``: as many as ``tokens``; decode wants it.
    layers
        How many of the model's blocks, from the first; ``None``: all.
    tp
        Ranks of tensor parallelism.
    dtype
        Element type of weights, activations and caches; ``w8a8``: int8 weights and projections' inputs, the
        rest in bfloat16.
    ends
        Whether embedding, final norm and head (or pooler) are there; ``None``: when all blocks are.

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
    span = tokens if context is None else context
    count = model.layers if layers is None else layers
    whole = count == model.layers if ends is None else ends
    if tp > 1:
        _check_split(model, tp, whole)
    absorbed = phase == "decode"
    builder = GraphBuilder(
        _loops(model, batch, tokens, span, tp, absorbed),
        DType.FLOAT16 if dtype == "float16" else DType.BFLOAT16,
        quantized=dtype == "w8a8",
        tp=tp,
    )
    x = _embed(builder, model) if whole else builder.tensor("x", (TOKENS, "hidden"), Role.INPUT)
    cos = sin = None
    if model.positions is None:
        rotated = "rope_dim" if model.latent_attention else "head_dim"
        cos, sin = (builder.tensor(f"rope_{name}", (TOKENS, rotated), Role.INPUT) for name in ("cos", "sin"))
    scope = Scope(model, past=span > tokens, absorbed=absorbed, cos=cos, sin=sin)
    for layer in range(count):
        last = layer == count - 1 and not (whole and (model.causal or model.norm_position == "pre"))
        x = add_block(builder, scope, layer, x, Role.OUTPUT if last else Role.INTERMEDIATE)
    if whole:
        _finish(builder, model, x)
    size = f"b{batch}-t{tokens}-s{span}-l{count}-tp{tp}-{dtype}"
    return builder.graph(f"{model.name[:120]}-{phase}-{size}{'' if whole else '-blocks'}")


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
    if layers is not None and layers > model.layers:
        raise InputError(f"layers {layers} exceeds the {model.layers} of {name}; ask for at most {model.layers}")
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


def _loops(model: ModelConfig, batch: int, tokens: int, context: int, tp: int, absorbed: bool) -> dict[str, int]:
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
        "expert_ffn": model.expert_ffn and model.expert_ffn // tp,
    }
    if model.experts_per_token and model.expert_ffn:
        loops["rows"] = batch * tokens * model.experts_per_token
        loops["shared_ffn"] = model.shared_experts * model.expert_ffn // tp
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


# ------------------------------------------------------------------------------- ends


def _embed(b: GraphBuilder, model: ModelConfig) -> Access:
    """Hidden states ``[batch*seq, hidden]`` of token ids or of image patches."""
    if model.family == "vision":
        x = _embed_patches(b)
    else:
        ids = b.tensor("token_ids", (TOKENS,), Role.INPUT, DType.INT32)
        rows = -(-b.extent(TOKENS) // b.tp)  # each rank looks up the tokens of its share of the vocabulary
        table = b.picked(b.weight("w_embed", ("vocab", "hidden")), (TOKENS, "hidden"), rows)
        x = b.tensor("embedded", (TOKENS, "hidden"))
        b.op("embed", OpKind.GATHER, (ids, table), (x,), vector=work("move", b.elements(x)), note="distinct tokens")
        x = b.all_reduce("embed_all_reduce", x, "embedded_reduced")
    if model.positions is not None:
        shape = (model.positions, model.hidden)
        positions = b.tensor("w_positions", ("seq", "hidden"), Role.WEIGHT, shape=shape)
        x = b.add("embed_positions", x, b.rows_of(positions, b.extent("seq")), "positioned")
    if model.token_types:
        types = b.picked(b.weight("w_types", ("types", "hidden")), ("1", "hidden"), 1)
        x = b.add("embed_types", x, types, "typed")
    if model.norm_position == "post":
        x = b.norm("", "embed_norm", x, rms=model.norm == "rms", whole=("hidden",))
    return x


def _embed_patches(b: GraphBuilder) -> Access:
    """Patches through a convolution whose kernel equals its stride, a matmul, behind a class token."""
    pixels = b.tensor("pixels", ("batch*patches", "pixels"), Role.INPUT)
    patches = b.project("", "patches", pixels, "hidden", bias=True, quantize=False, op="patch_embed")
    token = b.weight("w_class", ("hidden",))
    x = b.tensor("embedded", (TOKENS, "hidden"))
    shifted = b.picked(patches, x.dims, b.extent("batch*patches"))
    b.op("prepend_class", OpKind.PERMUTE, (shifted, token), (x,), note="class token before the patches")
    return x


def _finish(b: GraphBuilder, model: ModelConfig, x: Access) -> None:
    """Final norm, then logits of each sequence's last token, or the pooled first position."""
    if model.norm_position == "pre":
        role = Role.INTERMEDIATE if model.causal else Role.OUTPUT
        x = b.norm("", "final_norm", x, rms=model.norm == "rms", whole=("hidden",), role=role)
    if model.causal:
        x = _one_position(b, x, "last_token")
        split = b.tp > 1
        logits = b.tensor("logits", (x.dims[0], "vocab"), Role.INTERMEDIATE if split else Role.OUTPUT)
        b.matmul("lm_head", (x, b.weight("w_lm_head", ("hidden", "vocab"))), logits)
        if split:
            gathered = b.tensor("gathered_logits", ("ranks", *logits.dims), Role.OUTPUT)
            note = f"all-gather of {b.tp} ranks, each sending its part"
            size = b.size_bytes(logits)
            b.op("lm_head_all_gather", OpKind.COLLECTIVE, (logits,), (gathered,), link_bytes=size, note=note)
    elif model.pooler:
        first = _one_position(b, x, "first_token")
        pooled = b.project("", "pooler", first, "pooled", bias=True, quantize=False, op="pooler")
        out = b.tensor("pooled", pooled.dims, Role.OUTPUT)
        b.op("pooler_tanh", OpKind.ACTIVATION, (pooled,), (out,), vector=work("tanh", b.elements(out)))


def _one_position(b: GraphBuilder, x: Access, name: str) -> Access:
    """One row per sequence of ``x``: ``[batch, hidden]``; ``x`` itself where it has no more."""
    if b.extent("seq") == 1:
        return x
    out = b.tensor(f"{name}_rows", ("batch", "hidden"))
    b.op(name, OpKind.GATHER, (b.picked(x, out.dims, b.extent("batch")),), (out,))
    return out
