"""Operators of one transformer block: attention, latent attention, feed-forward, mixture of experts.

Axes of activations are ``("batch*seq", features)``; ``seq`` counts the new tokens of a sequence, ``context``
all positions they look at, themselves included. Nothing is merged by hand: fusing is the optimizer's work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from instances.catalogue import ModelConfig
from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import GraphBuilder, indexed, work

TOKENS = "batch*seq"
Q = "kv_heads*group*head_dim"
KV = "kv_heads*head_dim"
HEADS = "kv_heads*group"


@dataclass(frozen=True)
class Scope:
    """What the blocks of one graph have in common.

    Parameters
    ----------
    past
        Whether keys and values of earlier positions come from a cache.
    absorbed
        Latent attention: whether the up-projections are multiplied into queries and results (decode).
    cos, sin
        Rotary tables of the new positions, ``[batch*seq, rotated dims]``; ``None`` with learned positions.
    """

    model: ModelConfig
    past: bool
    absorbed: bool
    cos: Access | None = None
    sin: Access | None = None


def add_block(b: GraphBuilder, scope: Scope, layer: int, x: Access, role: Role) -> Access:
    """One transformer block.

    Parameters
    ----------
    b
        Where tensors and operators are collected; their names start with ``l{layer}.``.
    scope
        What the blocks of the graph have in common.
    layer
        Index of the block in the model, from 0.
    x
        Hidden states, ``[batch*seq, hidden]``.
    role
        Role of the result: intermediate, or output where it is the last.

    Returns
    -------
    Access
        Hidden states after the block, ``[batch*seq, hidden]``.
    """
    model = scope.model
    p = f"l{layer}."
    pre = model.norm_position == "pre"
    rms = model.norm == "rms"
    inner = b.norm(p, "input_norm", x, rms=rms, whole=("hidden",)) if pre else x
    attend = _latent_attention if model.latent_attention else _attention
    partial = attend(b, scope, p, inner)
    h = b.add(f"{p}attn_add", x, b.all_reduce(f"{p}attn_all_reduce", partial, f"{p}o_reduced"), f"{p}h")
    h_norm = b.norm(p, "post_norm" if pre else "attn_norm", h, rms=rms, whole=("hidden",))
    residual = h if pre else h_norm
    partial = _experts(b, model, p, h_norm) if model.is_expert_layer(layer) else _mlp(b, model, p, h_norm)
    reduced = b.all_reduce(f"{p}mlp_all_reduce", partial, f"{p}mlp_reduced")
    out = b.add(f"{p}mlp_add", residual, reduced, f"{p}out", role if pre else Role.INTERMEDIATE)
    return out if pre else b.norm(p, "mlp_norm", out, rms=rms, whole=("hidden",), role=role)


# -------------------------------------------------------------------------- attention


def _attention(b: GraphBuilder, scope: Scope, p: str, x: Access) -> Access:
    """Multi-head or grouped-query attention; returns the output projection."""
    model = scope.model
    q = b.project(p, "q", x, Q, bias=model.qkv_bias)
    k = b.project(p, "k", x, KV, bias=model.qkv_bias)
    v = b.project(p, "v", x, KV, bias=model.qkv_bias)
    if model.qk_norm:
        q = b.norm(p, "q_norm", q, rms=model.norm == "rms", whole=("head_dim",))
        k = b.norm(p, "k_norm", k, rms=model.norm == "rms", whole=("head_dim",))
    q = _rope(b, scope, p, "q", q, "head_dim")
    k = _rope(b, scope, p, "k", k, "head_dim")
    if model.causal:
        k_reads = _cached(b, scope, p, "k", k, KV)
        v_reads = _cached(b, scope, p, "v", v, KV)
    else:
        k_reads = (indexed(k, ("batch*context", KV)),)
        v_reads = (indexed(v, ("batch*context", KV)),)
    probs = _softmax(b, scope, p, (q, *k_reads), b.extent("head_dim"))
    attn = _values(b, scope, p, (probs, *v_reads), Q)
    return b.project(p, "o", attn, "hidden", bias=model.o_bias)


def _latent_attention(b: GraphBuilder, scope: Scope, p: str, x: Access) -> Access:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); returns the output projection.

    The columns of the published ``q_proj``, ``kv_a_proj`` and ``kv_b_proj`` stand as separate weights: with and
    without rotation, latent and rotated key, keys and values. Expanded (prefill), the latent is projected up to
    keys and values per head. Absorbed (decode), queries are brought into the latent space and attend to the
    cached latents themselves, all heads to one, and the result is projected up.
    """
    model = scope.model
    nope, rotated, per_head = "kv_heads*group*nope_dim", "kv_heads*group*rope_dim", "kv_heads*group*v_dim"
    q_in = x
    if model.q_latent:
        q_in = b.norm(p, "q_a_norm", b.project(p, "q_a", x, "q_latent"), rms=True, whole=("q_latent",))
    q_nope = b.project(p, "q_nope", q_in, nope, note="columns of q_proj without rotation")
    q_rope = b.project(p, "q_rope", q_in, rotated, note="columns of q_proj that are rotated")
    latent = b.project(p, "kv_a", x, "latent", note="columns of kv_a_proj_with_mqa for the latent")
    k_rope = b.project(p, "k_rope", x, "rope_dim", note="columns of kv_a_proj_with_mqa for the rotated key")
    latent = b.norm(p, "kv_norm", latent, rms=True, whole=("latent",))
    q_rope = _rope(b, scope, p, "q", q_rope, "rope_dim")
    k_rope = _rope(b, scope, p, "k", k_rope, "rope_dim")
    latents = _cached(b, scope, p, "latent", latent, "latent")
    k_ropes = _cached(b, scope, p, "rope", k_rope, "rope_dim")
    up_k = b.weight(f"{p}w_k_up", ("latent", nope))
    up_v = b.weight(f"{p}w_v_up", ("latent", per_head))
    note = "reads[0] @ reads[1] over nope_dim or latent, plus the rotated part over rope_dim"
    if scope.absorbed:
        q_latent = b.tensor(f"{p}q_latent", (TOKENS, f"{HEADS}*latent"))
        b.matmul(f"{p}q_absorb", (q_nope, up_k), q_latent, note="per head: query times its part of kv_b_proj")
        depth = b.extent("latent") + b.extent("rope_dim")
        probs = _softmax(b, scope, p, (q_latent, *latents, q_rope, *k_ropes), depth, note)
        mixed = _values(b, scope, p, (probs, *latents), f"{HEADS}*latent")
        attn = b.tensor(f"{p}attn_up", (TOKENS, per_head))
        b.matmul(f"{p}v_up_proj", (mixed, up_v), attn, note="per head: latent result times its part of kv_b_proj")
    else:
        # with a past, the latents of all positions come from the cache and are expanded again
        source = latents[0] if scope.past else indexed(latents[0], ("batch*context", "latent"))
        after = latents[1:]
        k_nope = b.tensor(f"{p}k_nope", ("batch*context", nope))
        v = b.tensor(f"{p}v", ("batch*context", per_head))
        b.matmul(f"{p}k_up_proj", (source, up_k, *after), k_nope, note="columns of kv_b_proj for keys")
        b.matmul(f"{p}v_up_proj", (source, up_v, *after), v, note="columns of kv_b_proj for values")
        depth = b.extent("nope_dim") + b.extent("rope_dim")
        probs = _softmax(b, scope, p, (q_nope, k_nope, q_rope, *k_ropes), depth, note)
        attn = _values(b, scope, p, (probs, v), per_head)
    return b.project(p, "o", attn, "hidden", bias=model.o_bias)


def _rope(b: GraphBuilder, scope: Scope, p: str, what: str, x: Access, dim: str) -> Access:
    """Rotary position embedding over ``dim``; ``x`` itself with learned positions."""
    if scope.cos is None or scope.sin is None:
        return x
    out = b.tensor(f"{p}{what}_rotated", x.dims)
    reads = (x, scope.cos, scope.sin)
    b.op(f"{p}rope_{what}", OpKind.ROPE, reads, (out,), vector=work("rope", b.elements(x)), whole=(dim,))
    return out


def _cached(b: GraphBuilder, scope: Scope, p: str, what: str, x: Access, features: str) -> tuple[Access, ...]:
    """Writes the new rows of a cache; returns what attention reads in their place.

    With a past that is the whole cache, and the appended rows, so that they are there in time; without, ``x``
    as it was computed.
    """
    appended = b.tensor(f"{p}cache_{what}_rows", (TOKENS, features), Role.OUTPUT)
    b.op(
        f"{p}cache_write_{what}",
        OpKind.CACHE_WRITE,
        (x,),
        (appended,),
        vector=work("move", b.elements(x)),
        note="appended to the cache in place",
    )
    if not scope.past:
        return (indexed(x, ("batch*context", features)),)
    return b.tensor(f"{p}cache_{what}", ("batch", "context", features), Role.CACHE), appended


def _pairs(b: GraphBuilder, scope: Scope) -> int:
    """Pairs of a new position and a position it sees, per head and sequence: the causal share of the square."""
    seq, context = b.extent("seq"), b.extent("context")
    return seq * (2 * context - seq + 1) // 2 if scope.model.causal else seq * context


def _density(b: GraphBuilder, scope: Scope) -> float:
    return _pairs(b, scope) / (b.extent("seq") * b.extent("context"))


def _softmax(b: GraphBuilder, scope: Scope, p: str, reads: tuple[Access, ...], depth: int, note: str = "") -> Access:
    """Scores over ``depth`` elements per pair, and their softmax ``[batch, heads, seq, context]``."""
    dims = ("batch", HEADS, "seq", "context")
    scores, probs = b.tensor(f"{p}scores", dims), b.tensor(f"{p}probs", dims)
    density = _density(b, scope)
    rows = b.extent("batch") * b.extent(HEADS)
    pairs = rows * _pairs(b, scope)
    b.op(
        f"{p}attn_scores",
        OpKind.ATTENTION_SCORES,
        reads,
        (scores,),
        macs=pairs * depth,
        density=density,
        note=note,
    )
    b.op(
        f"{p}softmax",
        OpKind.SOFTMAX,
        (scores,),
        (probs,),
        vector=work("softmax", pairs, div=rows * b.extent("seq")),
        whole=("context",),
        density=density,
    )
    return probs


def _values(b: GraphBuilder, scope: Scope, p: str, reads: tuple[Access, ...], features: str) -> Access:
    """Values weighted by the probabilities, ``[batch*seq, features]``."""
    attn = b.tensor(f"{p}attn", (TOKENS, features))
    macs = b.extent("batch") * b.extent(features) * _pairs(b, scope)
    b.op(f"{p}attn_values", OpKind.ATTENTION_VALUES, reads, (attn,), macs=macs, density=_density(b, scope))
    return attn


# -------------------------------------------------------------------------- feed-forward


def _mlp(b: GraphBuilder, model: ModelConfig, p: str, x: Access) -> Access:
    """Dense feed-forward block, gated or not; returns the (partial) down projection."""
    if model.gated:
        return _gated(b, p, "", x, "ffn", bias=model.mlp_bias)
    inner = b.project(p, "fc1", x, "ffn", bias=model.mlp_bias, op="fc1")
    act = b.tensor(f"{p}act", inner.dims)
    kind = "relu" if model.activation == "relu" else "gelu"
    b.op(f"{p}act", OpKind.ACTIVATION, (inner,), (act,), vector=work(kind, b.elements(act)))
    return b.project(p, "fc2", act, "hidden", bias=model.mlp_bias, op="fc2")


def _gated(
    b: GraphBuilder, p: str, group: str, x: Access, width: str, *, bias: bool = False, experts: int | None = None
) -> Access:
    """``down(silu(gate(x)) * up(x))``; operators are called ``group`` + gate, up, act, down."""
    suffix = "" if group else "_proj"
    note = f"grouped matmul, balanced routing assumed: {experts} experts touched" if experts else ""

    def project(what: str, source: Access, columns: str) -> Access:
        name = group + what
        return b.project(p, name, source, columns, bias=bias, experts=experts, op=name + suffix, note=note)

    gate, up = project("gate", x, width), project("up", x, width)
    act = b.tensor(f"{p}{group}act", gate.dims)
    b.op(f"{p}{group}act", OpKind.ACTIVATION, (gate, up), (act,), vector=work("silu_gated", b.elements(act)))
    return project("down", act, "hidden")


def active_experts(experts: int, per_token: int, tokens: int) -> int:
    """Expected number of distinct experts that ``tokens`` tokens visit, rounded up.

    ``E (1 - (1 - k/E)^T)``: every expert is equally likely and tokens choose independently (balanced routing).

    Parameters
    ----------
    experts, per_token, tokens
        ``E``, ``k`` and ``T``.
    """
    # the margin keeps a whole number, such as k for one token, from being rounded up past itself
    expected = experts * (1.0 - (1.0 - per_token / experts) ** tokens)
    return min(experts, max(1, math.ceil(expected - 1e-6)))


def _experts(b: GraphBuilder, model: ModelConfig, p: str, x: Access) -> Access:
    """Mixture of experts, with the shared ones beside it; returns the (partial) sum."""
    router = b.project(p, "router", x, "experts", quantize=False, dtype=DType.FLOAT32)
    scores = b.tensor(f"{p}router_probs", router.dims, dtype=DType.FLOAT32)
    elements = b.elements(router)
    b.op(
        f"{p}router_softmax",
        OpKind.SOFTMAX,
        (router,),
        (scores,),
        vector=work("softmax", elements, div=b.extent(TOKENS)),
        whole=("experts",),
    )
    weights = b.tensor(f"{p}router_weights", (TOKENS, "topk"), dtype=DType.FLOAT32)
    indices = b.tensor(f"{p}router_indices", (TOKENS, "topk"), dtype=DType.INT32)
    b.op(
        f"{p}router_topk",
        OpKind.TOPK,
        (scores,),
        (weights, indices),
        vector=work("sort", elements),
        whole=("experts", "topk"),
    )
    rows = b.tensor(f"{p}rows", ("rows", "hidden"))
    tokens = b.extent(TOKENS)
    sources = b.picked(x, ("rows", "hidden"), tokens), b.picked(indices, ("rows", "1"), tokens)
    b.op(f"{p}permute", OpKind.PERMUTE, sources, (rows,), note="a token's row once per expert it visits, by expert")
    active = active_experts(b.extent("experts"), b.extent("topk"), tokens)
    done = _gated(b, p, "expert_", rows, "expert_ffn", experts=active)
    out = b.tensor(f"{p}combined", (TOKENS, "hidden"))
    b.op(
        f"{p}combine",
        OpKind.COMBINE,
        (indexed(done, (f"{TOKENS}*topk", "hidden")), weights),
        (out,),
        vector=work("combine", b.elements(done)),
        note="sum of a token's rows, weighted by the router",
    )
    if not model.shared_experts:
        return out
    shared = _gated(b, p, "shared_", x, "shared_ffn")
    return b.add(f"{p}shared_add", out, shared, f"{p}moe")
