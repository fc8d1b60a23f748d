"""Kernels that compute scores, softmax and weighted values in one go."""

from __future__ import annotations

from instances.graph import Access, OpKind, Role
from instances.graph_builder import work
from instances.library.request import Call, Draftsman, Request, Shape, Unmodelled
from instances.machine import Machine


def attention(request: Request, machine: Machine) -> Call:
    """``q [b, s, heads, dim]``, ``k [b, context, kv_heads, dim]``, ``v``: multi-head, grouped-query or one key head.

    With layout BNSD heads come before positions, with BSH they are one axis with their elements. Causal attention
    aligns the last query with the last key.
    """
    q_heads, k_heads = _head_counts(request)
    b, s, heads, dim = _positions(request, request.shape(0, "query", 3, 4), q_heads)
    keys = _positions(request, request.shape(1, "key", 3, 4), k_heads)
    values = _positions(request, request.shape(2, "value", 3, 4), k_heads)
    _, context, kv_heads, k_dim = keys
    value_dim = values[3]
    if dim != k_dim:
        raise Unmodelled(f"heads of queries have {dim} elements, those of keys {k_dim}")
    _require_alike(b, keys, values)
    d = _draftsman(request, machine, b, s, context, heads, kv_heads, head_dim=dim, v_dim=value_dim)
    q = d.build.tensor("q", ("batch", "seq", "kv_heads*group", "head_dim"), Role.INPUT)
    k = d.build.tensor("k", ("batch", "context", "kv_heads", "head_dim"), _cached(request))
    v = d.build.tensor("v", ("batch", "context", "kv_heads", "v_dim"), _cached(request))
    return _attend(d, (q, k), v, dim)


def mla(request: Request, machine: Machine) -> Call:
    """Latent attention: ``q_nope``, ``q_rope``, ``k_nope``, ``k_rope``, ``v``, one key head for all queries."""
    b, s, heads, latent = _positions(request, request.shape(0, "query", 4))
    rope = request.shape(1, "rotated query", 4)[-1]
    held = _positions(request, request.shape(2, "key", 4))
    values = _positions(request, request.shape(4, "value", 4))
    _, context, kv_heads, _ = held
    value_dim = values[3]
    _require_alike(b, held, _positions(request, request.shape(3, "rotated key", 4)))
    _require_alike(b, held, values)
    d = _draftsman(request, machine, b, s, context, heads, kv_heads, latent=latent, rope_dim=rope, v_dim=value_dim)
    lead, keys = ("batch", "seq", "kv_heads*group"), ("batch", "context", "kv_heads")
    q = d.build.tensor("q_nope", (*lead, "latent"), Role.INPUT)
    q_rope = d.build.tensor("q_rope", (*lead, "rope_dim"), Role.INPUT)
    k = d.build.tensor("k_nope", (*keys, "latent"), _cached(request))
    k_rope = d.build.tensor("k_rope", (*keys, "rope_dim"), _cached(request))
    v = d.build.tensor("v", (*keys, "v_dim"), _cached(request))
    return _attend(d, (q, k, q_rope, k_rope), v, latent + rope)


def _attend(d: Draftsman, reads: tuple[Access, ...], v: Access, depth: int) -> Call:
    loops = d.build.loops
    seq, context = loops["seq"], loops["context"]
    causal = d.request.flag("is_causal", "causal") and seq > 1 and context >= seq
    pairs = seq * (2 * context - seq + 1) // 2 if causal else seq * context
    density = pairs / (seq * context)
    rows = loops["batch"] * loops["kv_heads"] * loops["group"]
    dims = ("batch", "kv_heads*group", "seq", "context")
    scores, probs = d.build.tensor("scores", dims), d.build.tensor("probs", dims)
    d.build.op("scores", OpKind.ATTENTION_SCORES, reads, (scores,), macs=rows * pairs * depth, density=density)
    vector = work("softmax", rows * pairs, div=rows * seq)
    d.build.op("softmax", OpKind.SOFTMAX, (scores,), (probs,), vector=vector, whole=("context",), density=density)
    out = d.build.tensor("out", ("batch", "seq", "kv_heads*group", "v_dim"), Role.OUTPUT)
    macs = rows * pairs * loops["v_dim"]
    d.build.op("values", OpKind.ATTENTION_VALUES, (probs, v), (out,), macs=macs, density=density)
    return d.call()


def _require_alike(batch: int, keys: tuple[int, ...], values: tuple[int, ...]) -> None:
    if keys[:3] != values[:3] or keys[0] != batch:
        raise Unmodelled("queries, keys and values differ in sequences, positions or heads")


def _draftsman(
    request: Request, machine: Machine, b: int, s: int, context: int, heads: int, kv_heads: int, **dims: int
) -> Draftsman:
    if heads % kv_heads:
        raise Unmodelled(f"{heads} query heads are no multiple of {kv_heads} key heads")
    return Draftsman(
        request, machine, batch=b, seq=s, context=context, kv_heads=kv_heads, group=heads // kv_heads, **dims
    )


def _positions(request: Request, shape: Shape, heads: int = 0) -> tuple[int, int, int, int]:
    """Batch, positions, heads and elements, whatever the layout; ``heads`` where the shape joins them with elements."""
    layout = request.attributes.get("layout", request.attributes.get("inputlayout", "BSND")).upper()
    if len(shape) == 3 and layout in ("BSH", "SBH", "BSND"):
        batch, positions = (shape[1], shape[0]) if layout == "SBH" else shape[:2]
        if heads < 1 or shape[2] % heads:
            raise Unmodelled(f"heads of {shape[2]} elements are not told apart: give num_heads and num_kv_heads")
        return batch, positions, heads, shape[2] // heads
    if len(shape) == 3:
        raise Unmodelled(f"layout {layout} does not go with 3 axes")
    if layout in ("BNSD", "BHSD"):
        return shape[0], shape[2], shape[1], shape[3]
    if layout in ("BSND", "BSHD"):
        return shape[0], shape[1], shape[2], shape[3]
    raise Unmodelled(f"layout {layout} is not BSND, BNSD, BSH or SBH")


def _head_counts(request: Request) -> tuple[int, int]:
    """Heads of queries and of keys by attribute; 0 where there is none."""
    names = ("num_heads", "head_num", "numheads", "n_heads"), ("num_kv_heads", "numkvheads", "num_key_value_heads")
    q, kv = (
        next((int(request.attributes[n]) for n in group if request.attributes.get(n, "").isdecimal()), 0)
        for group in names
    )
    return q, kv or q


def _cached(request: Request) -> Role:
    """Keys and values: a cache in a network, an input like any other where the kernel is alone."""
    return Role.CACHE if request.network else Role.INPUT
