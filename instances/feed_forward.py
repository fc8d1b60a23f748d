"""Feed-forward part of one block: dense, gated, mixture of experts."""

from __future__ import annotations

import math

from instances.catalogue import ModelConfig
from instances.graph import Access, DType, OpKind, Role
from instances.graph_builder import GraphBuilder, indexed, work

TOKENS = "batch*seq"


def mlp(b: GraphBuilder, model: ModelConfig, p: str, x: Access) -> Access:
    """Dense feed-forward block, gated or not; returns the (partial) down projection."""
    if model.gated:
        return gated(b, p, "", x, "ffn", activation=model.activation, bias=model.mlp_bias)
    inner = b.project(p, "fc1", x, "ffn", bias=model.mlp_bias, op="fc1")
    act = b.tensor(f"{p}act", inner.dims)
    kind = "relu" if model.activation == "relu" else "gelu"
    b.op(f"{p}act", OpKind.ACTIVATION, (inner,), (act,), vector=work(kind, b.elements(act)))
    return b.project(p, "fc2", act, "hidden", bias=model.mlp_bias, op="fc2")


def gated(
    b: GraphBuilder,
    p: str,
    group: str,
    x: Access,
    width: str,
    *,
    activation: str = "silu",
    bias: bool = False,
    experts: int | None = None,
) -> Access:
    """``down(activation(gate(x)) * up(x))``; operators are called ``group`` + gate, up, act, down."""
    suffix = "" if group else "_proj"
    note = f"grouped matmul, balanced routing assumed: {experts} experts touched" if experts else ""

    def project(what: str, source: Access, columns: str) -> Access:
        name = group + what
        return b.project(p, name, source, columns, bias=bias, experts=experts, op=name + suffix, note=note)

    gate, up = project("gate", x, width), project("up", x, width)
    act = b.tensor(f"{p}{group}act", gate.dims)
    b.op(f"{p}{group}act", OpKind.ACTIVATION, (gate, up), (act,), vector=work(f"{activation}_gated", b.elements(act)))
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


def experts(b: GraphBuilder, model: ModelConfig, p: str, x: Access) -> Access:
    """Mixture of experts, with the shared ones beside it; returns the (partial) sum."""
    router = b.project(p, "router", x, "experts", quantize=False, dtype=DType.FLOAT32)
    weights, indices = _route(b, model, p, router)
    rows = b.tensor(f"{p}rows", ("rows", "hidden"))
    tokens = b.extent(TOKENS)
    sources = b.picked(x, ("rows", "hidden"), tokens), b.picked(indices, ("rows", "1"), tokens)
    b.op(f"{p}permute", OpKind.PERMUTE, sources, (rows,), note="a token's row once per expert it visits, by expert")
    active = active_experts(b.extent("experts"), b.extent("topk"), tokens)
    done = gated(b, p, "expert_", rows, "expert_ffn", experts=active)
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
    shared = gated(b, p, "shared_", x, "shared_ffn")
    return b.add(f"{p}shared_add", out, shared, f"{p}moe")


def _route(b: GraphBuilder, model: ModelConfig, p: str, router: Access) -> tuple[Access, Access]:
    """Weights and indices ``[tokens, topk]`` of the experts that each token visits."""
    scores = b.tensor(f"{p}router_probs", router.dims, dtype=DType.FLOAT32)
    elements = b.elements(router)
    if model.router == "softmax":
        b.op(
            f"{p}router_softmax",
            OpKind.SOFTMAX,
            (router,),
            (scores,),
            vector=work("softmax", elements, div=b.extent(TOKENS)),
            whole=("experts",),
        )
    else:
        b.op(f"{p}router_sigmoid", OpKind.ACTIVATION, (router,), (scores,), vector=work("sigmoid", elements))
    choice = scores if model.router == "softmax" else _corrected(b, p, scores)
    reads, ranking, note = [choice], work("sort", elements), ""
    if model.groups_per_token and model.expert_groups:
        if model.groups_per_token < model.expert_groups:
            reads.append(_best_groups(b, model, p, choice))
            note = "best experts of the chosen groups"
    elif model.expert_groups:
        note = f"best experts of each of {model.expert_groups} groups"
        if model.expert_groups == model.experts_per_token:
            ranking = work("largest", elements)
    if choice is not scores:
        reads.append(scores)
    if model.router_scale:
        reads.append(b.weight(f"{p}w_router_scale", ("experts",)))
    weights = b.tensor(f"{p}router_weights", (TOKENS, "topk"), dtype=DType.FLOAT32)
    indices = b.tensor(f"{p}router_indices", (TOKENS, "topk"), dtype=DType.INT32)
    b.op(
        f"{p}router_topk",
        OpKind.TOPK,
        reads,
        (weights, indices),
        vector=ranking,
        whole=("experts", "topk"),
        note=note,
    )
    return weights, indices


def _corrected(b: GraphBuilder, p: str, scores: Access) -> Access:
    """Scores after a correction that balances the load, for the choice alone (DeepSeek-V3, arXiv 2412.19437)."""
    # one value per expert that training adjusts without a gradient: no parameter
    correction = b.tensor(f"{p}router_correction", ("experts",), Role.INPUT, DType.FLOAT32)
    choice = b.tensor(f"{p}router_choice", scores.dims, dtype=DType.FLOAT32)
    vector = work("add", b.elements(scores))
    b.op(f"{p}router_correct", OpKind.ELEMENTWISE, (scores, correction), (choice,), vector=vector)
    return choice


def _best_groups(b: GraphBuilder, model: ModelConfig, p: str, choice: Access) -> Access:
    """Indices of a token's best groups: those with the best expert (DeepSeek-V2) or the best two together (V3)."""
    groups = b.tensor(f"{p}router_groups", (TOKENS, "topk_groups"), dtype=DType.INT32)
    b.op(
        f"{p}router_topk_groups",
        OpKind.TOPK,
        (choice,),
        (groups,),
        vector=work("sort", b.elements(choice)),
        whole=("experts", "topk_groups"),
        note=f"best {model.groups_per_token} of {model.expert_groups} groups",
    )
    return groups
