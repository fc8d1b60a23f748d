"""Multi-head latent attention: keys and values of a position compressed into one vector."""

from __future__ import annotations

from instances.attention import HEADS, Scope, cached, rope, softmax, values
from instances.graph import Access
from instances.graph_builder import GraphBuilder, indexed


def latent_attention(b: GraphBuilder, scope: Scope, p: str, x: Access) -> Access:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); returns the output projection.

    The columns of the published ``q_proj``, ``kv_a_proj`` and ``kv_b_proj`` stand as separate weights: with and
    without rotation, latent and rotated key, keys and values. Expanded, the latents of all positions are projected
    up to keys and values per head. Absorbed, queries are brought into the latent space and attend to the latents
    themselves, all heads to one, and the result is projected up: less to read and compute where new tokens are few.
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
    q_rope = rope(b, scope, p, "q", q_rope, "rope_dim")
    k_rope = rope(b, scope, p, "k", k_rope, "rope_dim")
    latents = cached(b, scope, p, "latent", latent)
    k_ropes = cached(b, scope, p, "rope", k_rope)
    up_k = b.weight(f"{p}w_k_up", ("latent", nope))
    up_v = b.weight(f"{p}w_v_up", ("latent", per_head))
    note = "reads[0] @ reads[1] over nope_dim or latent, plus the rotated part over rope_dim"
    if scope.absorbed:
        q_latent = b.tensor(f"{p}q_latent", (scope.tokens, f"{HEADS}*latent"))
        b.matmul(f"{p}q_absorb", (q_nope, up_k), q_latent, note="per head: query times its part of kv_b_proj")
        depth = b.extent("latent") + b.extent("rope_dim")
        probs = softmax(b, scope, p, (q_latent, *latents, q_rope, *k_ropes), depth, note)
        mixed = values(b, scope, p, (probs, *latents), f"{HEADS}*latent")
        attn = b.tensor(f"{p}attn_up", (scope.tokens, per_head))
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
        probs = softmax(b, scope, p, (q_nope, k_nope, q_rope, *k_ropes), depth, note)
        attn = values(b, scope, p, (probs, v), per_head)
    return b.project(p, "o", attn, "hidden", bias=model.o_bias)
