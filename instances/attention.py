"""Attention of one block: projections, positions, caches, scores, softmax, values.

Axes of activations are ``("batch*seq", features)``; ``seq`` counts the new positions of a sequence, ``context`` all
positions they look at. In an encoder-decoder the encoder's loops are called ``source`` and ``source_context``.
"""

from __future__ import annotations

from dataclasses import dataclass

from instances.catalogue import ModelConfig
from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import GraphBuilder, indexed, work

Q = "kv_heads*group*head_dim"
KV = "kv_heads*head_dim"
HEADS = "kv_heads*group"


@dataclass(frozen=True)
class Scope:
    """What the attentions of one stack of blocks have in common.

    Parameters
    ----------
    past
        Whether keys and values of earlier positions come from a cache.
    causal
        Whether a new position sees earlier ones alone, and its keys and values go to a cache.
    absorbed
        Latent attention: whether the up-projections are multiplied into queries and results.
    cos, sin
        Rotary tables of the new positions, ``[batch*seq, rotated dims]``; ``None`` where nothing is rotated.
    bias
        Relative position bias that is added to the scores, ``[heads, seq, context]``.
    seq, context
        Loop dimensions of the new positions and of those they look at.
    """

    model: ModelConfig
    past: bool
    causal: bool
    absorbed: bool = False
    cos: Access | None = None
    sin: Access | None = None
    bias: Access | None = None
    seq: str = "seq"
    context: str = "context"

    @property
    def tokens(self) -> str:
        """Axis of the new positions of all sequences."""
        return f"batch*{self.seq}"


def attention(b: GraphBuilder, scope: Scope, p: str, x: Access, queries: Access | None = None) -> Access:
    """Multi-head or grouped-query attention; returns the output projection.

    Queries are made of ``x``, or of ``queries`` where they are given.
    """
    model = scope.model
    q = b.project(p, "q", x if queries is None else queries, Q, bias=model.qkv_bias)
    k = b.project(p, "k", x, KV, bias=model.key_bias)
    v = b.project(p, "v", x, KV, bias=model.qkv_bias)
    if model.qk_norm:
        q = b.norm(p, "q_norm", q, rms=model.norm == "rms", whole=("head_dim",))
        k = b.norm(p, "k_norm", k, rms=model.norm == "rms", whole=("head_dim",))
    q = rope(b, scope, p, "q", q, "head_dim")
    k = rope(b, scope, p, "k", k, "head_dim")
    if scope.causal:
        k_reads = cached(b, scope, p, "k", k)
        v_reads = cached(b, scope, p, "v", v)
    else:
        k_reads = (_of_context(scope, k),)
        v_reads = (_of_context(scope, v),)
    return _attend(b, scope, p, q, k_reads, v_reads)


def cross_attention(b: GraphBuilder, scope: Scope, p: str, x: Access, source: Access | None) -> Access:
    """Attention to the encoder; returns the output projection.

    Keys and values are made of ``source``, the encoder's states, and written to a cache; ``None``: they come from it.
    """
    model = scope.model
    q = b.project(p, "q", x, Q, bias=model.qkv_bias)
    if source is None:
        k, v = (b.tensor(f"{p}cache_{what}", ("batch", scope.context, KV), Role.CACHE) for what in "kv")
        return _attend(b, scope, p, q, (k,), (v,))
    k = b.project(p, "k", source, KV, bias=model.key_bias)
    v = b.project(p, "v", source, KV, bias=model.qkv_bias)
    return _attend(b, scope, p, q, cached(b, scope, p, "k", k), cached(b, scope, p, "v", v))


def _attend(
    b: GraphBuilder, scope: Scope, p: str, q: Access, k_reads: tuple[Access, ...], v_reads: tuple[Access, ...]
) -> Access:
    probs = softmax(b, scope, p, (q, *k_reads), b.extent("head_dim"))
    attn = values(b, scope, p, (probs, *v_reads), Q)
    return b.project(p, "o", attn, "hidden", bias=scope.model.o_bias)


def rope(b: GraphBuilder, scope: Scope, p: str, what: str, x: Access, dim: str) -> Access:
    """Rotary position embedding over ``dim``; ``x`` itself where nothing is rotated."""
    if scope.cos is None or scope.sin is None:
        return x
    out = b.tensor(f"{p}{what}_rotated", x.dims)
    reads = (x, scope.cos, scope.sin)
    b.op(f"{p}rope_{what}", OpKind.ROPE, reads, (out,), vector=work("rope", b.elements(x)), whole=(dim,))
    return out


def cached(b: GraphBuilder, scope: Scope, p: str, what: str, x: Access) -> tuple[Access, ...]:
    """Writes the new rows of a cache; returns what attention reads in their place.

    With a past that is the whole cache, and the appended rows, so that they are there in time; without, ``x``
    as it was computed.
    """
    appended = b.tensor(f"{p}cache_{what}_rows", x.dims, Role.OUTPUT)
    b.op(
        f"{p}cache_write_{what}",
        OpKind.CACHE_WRITE,
        (x,),
        (appended,),
        vector=work("move", b.elements(x)),
        note="appended to the cache in place",
    )
    if not scope.past:
        return (_of_context(scope, x),)
    return b.tensor(f"{p}cache_{what}", ("batch", scope.context, x.dims[-1]), Role.CACHE), appended


def _of_context(scope: Scope, x: Access) -> Access:
    """Keys or values, as the positions that are looked at index them."""
    return indexed(x, (f"batch*{scope.context}", x.dims[-1]))


def _pairs(b: GraphBuilder, scope: Scope) -> int:
    """Pairs of a new position and a position it sees, per head and sequence: the causal share of the square."""
    seq, context = b.extent(scope.seq), b.extent(scope.context)
    return seq * (2 * context - seq + 1) // 2 if scope.causal else seq * context


def _density(b: GraphBuilder, scope: Scope) -> float:
    return _pairs(b, scope) / (b.extent(scope.seq) * b.extent(scope.context))


def softmax(b: GraphBuilder, scope: Scope, p: str, reads: tuple[Access, ...], depth: int, note: str = "") -> Access:
    """Scores over ``depth`` elements per pair, and their softmax ``[batch, heads, seq, context]``."""
    dims = ("batch", HEADS, scope.seq, scope.context)
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
    added = {} if scope.bias is None else {"two": pairs}
    b.op(
        f"{p}softmax",
        OpKind.SOFTMAX,
        (scores,) if scope.bias is None else (scores, scope.bias),
        (probs,),
        vector=work("softmax", pairs, div=rows * b.extent(scope.seq), **added),
        whole=(scope.context,),
        density=density,
        note="" if scope.bias is None else "of scores plus relative position bias",
    )
    return probs


def values(b: GraphBuilder, scope: Scope, p: str, reads: tuple[Access, ...], features: str) -> Access:
    """Values weighted by the probabilities, ``[batch*seq, features]``."""
    attn = b.tensor(f"{p}attn", (scope.tokens, features))
    macs = b.extent("batch") * b.extent(features) * _pairs(b, scope)
    b.op(f"{p}attn_values", OpKind.ATTENTION_VALUES, reads, (attn,), macs=macs, density=_density(b, scope))
    return attn


def relative_bias(b: GraphBuilder, p: str, seq: str, context: str) -> Access:
    """Relative position bias ``[heads, seq, context]``, looked up once for all blocks of a stack (T5).

    Which bucket a distance falls into follows from the positions alone; it comes in as a table of indices.
    """
    buckets = b.tensor(f"{p}relative_buckets", (seq, context), Role.INPUT, DType.INT32)
    table = b.weight(f"{p}w_relative", ("buckets", HEADS))
    bias = b.tensor(f"{p}relative_bias", (HEADS, seq, context))
    pairs = b.extent(seq) * b.extent(context)
    b.op(
        f"{p}relative_bias",
        OpKind.GATHER,
        (buckets, b.picked(table, (f"{seq}*{context}", HEADS), pairs)),
        (bias,),
        vector=work("transpose", b.elements(bias)),
        note="a row of heads per pair of positions, heads brought to the front",
    )
    return bias
