"""Operators of one transformer block. Nothing is merged by hand: fusing is the optimizer's work."""

from __future__ import annotations

from dataclasses import dataclass

from instances.attention import Scope, attention, cross_attention
from instances.feed_forward import experts, mlp
from instances.graph import Access, Role
from instances.graph_builder import GraphBuilder
from instances.latent_attention import latent_attention


@dataclass(frozen=True)
class Crossing:
    """What the blocks of a decoder look at beside their own positions: an encoder.

    Parameters
    ----------
    scope
        Of the attention to the encoder.
    states
        What the encoder makes, ``[batch*source, hidden]``; ``None``: its keys and values lie in a cache.
    """

    scope: Scope
    states: Access | None


def add_block(
    b: GraphBuilder,
    scope: Scope,
    layer: int,
    x: Access,
    role: Role,
    *,
    stack: str = "l",
    queries: Access | None = None,
    crossing: Crossing | None = None,
) -> Access:
    """One transformer block.

    Parameters
    ----------
    b
        Where tensors and operators are collected; their names start with ``{stack}{layer}.``.
    scope
        What the blocks of the stack have in common.
    layer
        Index of the block in its stack, from 0.
    x
        Hidden states, ``[batch*seq, hidden]``.
    role
        Role of the result: intermediate, or output where it is the last.
    stack
        First letter of the names.
    queries
        What queries are made of, ``[batch*seq, hidden]``; ``None``: hidden states.
    crossing
        The encoder that the block looks at after its own positions; ``None``: none.

    Returns
    -------
    Access
        Hidden states after the block, ``[batch*seq, hidden]``.
    """
    model = scope.model
    p = f"{stack}{layer}."
    pre = model.norm_position == "pre"
    rms = model.norm == "rms"
    inner = b.norm(p, "input_norm", x, rms=rms, whole=("hidden",)) if pre else x
    partial = latent_attention(b, scope, p, inner) if model.latent_attention else attention(b, scope, p, inner, queries)
    h = b.add(f"{p}attn_add", x, b.all_reduce(f"{p}attn_all_reduce", partial, f"{p}o_reduced"), f"{p}h")
    if crossing is not None:
        inner = b.norm(p, "cross_norm", h, rms=rms, whole=("hidden",))
        partial = cross_attention(b, crossing.scope, f"{p}cross_", inner, crossing.states)
        reduced = b.all_reduce(f"{p}cross_all_reduce", partial, f"{p}cross_o_reduced")
        h = b.add(f"{p}cross_add", h, reduced, f"{p}cross_h")
    h_norm = b.norm(p, "post_norm" if pre else "attn_norm", h, rms=rms, whole=("hidden",))
    residual = h if pre else h_norm
    partial = experts(b, model, p, h_norm) if model.is_expert_layer(layer) else mlp(b, model, p, h_norm)
    reduced = b.all_reduce(f"{p}mlp_all_reduce", partial, f"{p}mlp_reduced")
    out = b.add(f"{p}mlp_add", residual, reduced, f"{p}out", role if pre else Role.INTERMEDIATE)
    return out if pre else b.norm(p, "mlp_norm", out, rms=rms, whole=("hidden",), role=role)
