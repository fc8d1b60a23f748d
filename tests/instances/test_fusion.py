"""Fusion groups: which sets of operators may be one kernel, and which may not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from instances.build import MAX_GROUP, MOST_PER_OPERATOR
from instances.costs import Misfit, price
from instances.fusion import Fuser, Fusion, common_rows
from instances.graph import Access, DType, Graph, OpKind, Role
from instances.graph_builder import GraphBuilder, work
from instances.instance import Instance
from instances.kernels import KernelKind, Rule, Tiling
from instances.machine import load_machine
from tests.conftest import llama_graph

SINGLES = {
    "input_norm": KernelKind.VECTOR,
    "q_proj": KernelKind.CUBE,
    "k_proj": KernelKind.CUBE,
    "v_proj": KernelKind.CUBE,
    "rope_q": KernelKind.VECTOR,
    "rope_k": KernelKind.VECTOR,
    "cache_write_k": KernelKind.VECTOR,
    "cache_write_v": KernelKind.VECTOR,
    "attn_scores": KernelKind.CUBE,
    "softmax": KernelKind.VECTOR,
    "attn_values": KernelKind.CUBE,
    "o_proj": KernelKind.CUBE,
    "attn_add": KernelKind.VECTOR,
    "post_norm": KernelKind.VECTOR,
    "gate_proj": KernelKind.CUBE,
    "up_proj": KernelKind.CUBE,
    "act": KernelKind.VECTOR,
    "down_proj": KernelKind.CUBE,
    "mlp_add": KernelKind.VECTOR,
}

GROUPS = {
    Rule.VECTOR_CHAIN: {
        "rope_q rope_k",  # neighbours through the tables they share
        "rope_q rope_k cache_write_k",
        "rope_k cache_write_k",
        "attn_add post_norm",
    },
    Rule.SHARED_INPUT: {
        "q_proj k_proj",
        "q_proj v_proj",
        "k_proj v_proj",
        "q_proj k_proj v_proj",
        "gate_proj up_proj",
    },
    Rule.EPILOGUE: {
        "q_proj rope_q",
        "k_proj rope_k",
        "k_proj rope_k cache_write_k",
        "v_proj cache_write_v",
        "o_proj attn_add",
        "gate_proj act",
        "up_proj act",
        "down_proj mlp_add",
    },
    Rule.GATED: {
        "gate_proj up_proj act",
        "k_proj v_proj rope_k cache_write_v",
        "k_proj v_proj rope_k cache_write_k cache_write_v",
    },
    Rule.ATTENTION: {"attn_scores softmax attn_values"},
}
"""The groups of a llama decode layer that can be run, by rule: 4 + 5 + 8 + 3 + 1 = 21, with 19 operators 40."""

NEEDS_A_ROW = "o_proj attn_add post_norm"
"""Legal as a set, but the norm needs 4096 columns in one tile and L0C holds no such tile."""


def legal(graph: Graph) -> dict[str, Fusion]:
    """All legal groups by the names of their operators, without the layer's prefix."""
    found = {short(fusion.names): fusion for fusion in Fuser(graph).groups(MAX_GROUP, MOST_PER_OPERATOR)}
    assert all(len(fusion.operators) <= MAX_GROUP for fusion in found.values())
    return found


def short(names: Sequence[str]) -> str:
    return " ".join(name.removeprefix("l0.") for name in names)


# ------------------------------------------------------------------------------- a llama layer


def test_groups_of_a_llama_decode_layer() -> None:
    found = legal(llama_graph())
    fused = {name for names in GROUPS.values() for name in names}
    assert set(found) == set(SINGLES) | fused | {NEEDS_A_ROW}
    for rule, names in GROUPS.items():
        assert {name for name in names if found[name].rule is rule} == names
    assert all((found[name].kind, found[name].rule) == (kind, Rule.SINGLE) for name, kind in SINGLES.items())


def test_engines_of_fused_kernels() -> None:
    kinds = {
        Rule.VECTOR_CHAIN: KernelKind.VECTOR,
        Rule.SHARED_INPUT: KernelKind.CUBE,
        Rule.EPILOGUE: KernelKind.MIX,
        Rule.GATED: KernelKind.MIX,
        Rule.ATTENTION: KernelKind.MIX,
    }
    for fusion in legal(llama_graph()).values():
        assert fusion.rule is Rule.SINGLE or fusion.kind is kinds[fusion.rule]


def test_candidates_are_the_groups_that_can_be_run(llama: Instance) -> None:
    candidates = [short(candidate.operators) for candidate in llama.candidates]
    assert len(candidates) == len(set(candidates)) == 40
    assert set(candidates) == set(SINGLES) | {name for names in GROUPS.values() for name in names}


def test_epilogue_that_needs_a_whole_row_is_refused() -> None:
    """Each core has a tile of at most 512 columns of the result, the norm sums over 4096."""
    graph = llama_graph()
    fusion = legal(graph)[NEEDS_A_ROW]
    tiling = Tiling(
        tile={"batch*seq": 16, "hidden": 512, "kv_heads*group*head_dim": 32}, aic=8, aiv=16, l2_permille=1000
    )
    with pytest.raises(Misfit, match="must stay whole"):
        price(fusion, load_machine("ascend910b2"), tiling)


def test_what_crosses_the_border() -> None:
    """gate + up + act: the two halves stay inside. attn_add + norm: h is needed again by the second residual."""
    found = legal(llama_graph())

    def names(accesses: Sequence[Access]) -> list[str]:
        return [access.tensor.removeprefix("l0.") for access in accesses]

    gated = found["gate_proj up_proj act"]
    assert names(gated.reads) == ["post_normed", "w_gate", "w_up"]
    assert names(gated.writes) == ["act"]
    assert gated.made == {"l0.gate", "l0.up", "l0.act"}
    chain = found["attn_add post_norm"]
    assert names(chain.reads) == ["x", "o", "w_post_norm"]
    assert names(chain.writes) == ["h", "post_normed"]
    attention = found["attn_scores softmax attn_values"]
    assert names(attention.reads) == ["q_rotated", "cache_k", "cache_k_rows", "cache_v", "cache_v_rows"]
    assert names(attention.writes) == ["attn"]
    cache = found["k_proj rope_k cache_write_k"]  # an output leaves the kernel even where its readers are inside
    assert names(cache.writes) == ["cache_k_rows"]


def test_border_to_the_next_layer() -> None:
    """Of 41 sets per layer one more joins two layers: the residual add with the next layer's first norm, and with
    the projection before it (which then needs a row)."""
    one, two = legal(llama_graph(layers=1)), legal(llama_graph(layers=2))
    across = {name for name in two if "l1." in name and any(not n.startswith("l1.") for n in name.split())}
    assert across == {"mlp_add l1.input_norm", "down_proj mlp_add l1.input_norm"}
    assert len(two) == 2 * len(one) + 2


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("input_norm q_proj", "a vector operator before a matmul"),
        ("q_proj rope_q rope_k", "rope_k consumes no tile of q_proj"),
        ("q_proj k_proj rope_q", "matmuls of different widths under one epilogue"),
        ("gate_proj o_proj", "not connected"),
        ("attn_scores softmax", "a part of attention"),
        ("softmax attn_values", "a part of attention"),
        ("attn_values o_proj", "attention and a projection"),
        ("attn_add mlp_add", "not convex"),
        ("post_norm mlp_add", "not convex"),
        ("act mlp_add", "not convex"),
        ("down_proj mlp_add act", "a vector operator before a matmul"),
        ("cache_write_k cache_write_v", "not connected"),
    ],
)
def test_sets_that_may_not_be_one_kernel(names: str, why: str) -> None:
    assert Fuser(llama_graph()).judge([f"l0.{name}" for name in names.split()]) is None, why


def test_judge_and_enumeration_agree() -> None:
    """Every pair and every neighbouring triple of the layer: judged legal if and only if enumerated."""
    graph = llama_graph()
    fuser = Fuser(graph)
    found = {frozenset(fusion.names) for fusion in fuser.groups(MAX_GROUP, MOST_PER_OPERATOR)}
    names = [operator.name for operator in graph.operators]
    sets = [{a, b} for a in names for b in names if a < b]
    sets += [set(names[i : i + size]) for size in (3, 4, 5, 6) for i in range(len(names) - size + 1)]
    sets += [{a, b, c} for a in names for b in names for c in names if a < b < c]
    for members in sets:
        assert (fuser.judge(sorted(members)) is not None) == (frozenset(members) in found), sorted(members)


def test_judge_does_not_care_about_order() -> None:
    fuser = Fuser(llama_graph())
    names = ["l0.gate_proj", "l0.up_proj", "l0.act"]
    fusion = fuser.judge(names[::-1])
    assert fusion is not None
    assert fusion.names == tuple(names)  # topological


def test_collectives_run_alone(qwen: Instance) -> None:
    links = [c for c in qwen.candidates if any("all_reduce" in n or "all_gather" in n for n in c.operators)]
    assert sorted(c.operators for c in links) == [
        ("embed_all_reduce",),
        ("l0.attn_all_reduce",),
        ("l0.mlp_all_reduce",),
        ("lm_head_all_gather",),
    ]
    assert {qwen.templates[c.template].kind for c in links} == {KernelKind.LINK}


def test_group_size_is_bounded() -> None:
    graph = llama_graph()
    for most in (1, 2, 3):
        groups = list(Fuser(graph).groups(most, MOST_PER_OPERATOR))
        assert max(len(fusion.operators) for fusion in groups) == most
        wanted = (*SINGLES, *(name for names in GROUPS.values() for name in names), NEEDS_A_ROW)
        assert len(groups) == sum(len(name.split()) <= most for name in wanted)


# ------------------------------------------------------------------------------- graphs of one's own


def vector_graph(edges: dict[str, list[str]], outputs: tuple[str, ...], whole: tuple[str, ...] = ()) -> Graph:
    """Vector operators over [rows, columns]: name -> what it reads; operators in ``whole`` need whole columns."""
    builder = GraphBuilder({"rows": 64, "columns": 128}, DType.FLOAT16)
    made: dict[str, Access] = {"x": builder.tensor("x", ("rows", "columns"), Role.INPUT)}
    for name, reads in edges.items():
        role = Role.OUTPUT if name in outputs else Role.INTERMEDIATE
        made[name] = builder.tensor(f"t.{name}", ("rows", "columns"), role)
        builder.op(
            name,
            OpKind.ELEMENTWISE,
            [made[source] for source in reads],
            (made[name],),
            vector=work("add", 64 * 128),
            whole=("columns",) if name in whole else (),
        )
    return builder.graph("vector")


def test_convexity() -> None:
    """a -> b -> c and a -> c: a with c leaves b outside, which both needs a and is needed by c."""
    fuser = Fuser(vector_graph({"a": ["x"], "b": ["a"], "c": ["a", "b"]}, ("c",)))
    assert fuser.judge(["a", "c"]) is None
    for names in (["a", "b"], ["b", "c"], ["a", "b", "c"]):
        fusion = fuser.judge(names)
        assert fusion is not None
        assert fusion.rule is Rule.VECTOR_CHAIN
    assert {f.names for f in fuser.groups(3, 100)} == {("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "b", "c")}


def test_convexity_over_a_long_way_round() -> None:
    """a -> b -> ... -> f and a -> f: only the whole ring, or stretches of it, may be joined."""
    names = "abcdef"
    edges = {name: [names[i - 1] if i else "x"] for i, name in enumerate(names)}
    edges["f"].append("a")
    fuser = Fuser(vector_graph(edges, ("f",)))
    assert fuser.judge(["a", "f"]) is None
    assert fuser.judge(["a", "b", "f"]) is None
    assert fuser.judge(["a", "b", "c", "d", "f"]) is None
    assert fuser.judge(list(names)) is not None


def test_siblings_are_neighbours() -> None:
    """b and c read the same tensor: joined, it is loaded once."""
    fuser = Fuser(vector_graph({"b": ["x"], "c": ["x"]}, ("b", "c")))
    fusion = fuser.judge(["b", "c"])
    assert fusion is not None
    assert [access.tensor for access in fusion.reads] == ["x"]
    assert [access.tensor for access in fusion.writes] == ["t.b", "t.c"]


def test_distant_siblings_are_not() -> None:
    """Of five readers of x, each counts as a neighbour of the next three alone."""
    names = "abcde"
    fuser = Fuser(vector_graph({name: ["x"] for name in names}, tuple(names)))
    assert fuser.judge(["a", "d"]) is not None
    assert fuser.judge(["a", "e"]) is None


def test_common_rows() -> None:
    """A norm needs its columns whole, so rows alone are left to cut along; an add leaves both."""
    graph = vector_graph({"norm": ["x"], "add": ["x", "norm"]}, ("add",), whole=("norm",))
    norm, add = graph.operators
    assert common_rows([add]) == {"rows", "columns"}
    assert common_rows([norm]) == {"rows"}
    assert common_rows([norm, add]) == {"rows"}


def test_chain_without_common_rows_is_refused() -> None:
    """The first needs its columns whole, the second its rows: there is no way to cut both."""
    builder = GraphBuilder({"rows": 64, "columns": 128}, DType.FLOAT16)
    x = builder.tensor("x", ("rows", "columns"), Role.INPUT)
    y = builder.tensor("y", ("rows", "columns"))
    z = builder.tensor("z", ("rows", "columns"), Role.OUTPUT)
    builder.op("across", OpKind.SOFTMAX, (x,), (y,), vector=work("softmax", 64 * 128), whole=("columns",))
    builder.op("down", OpKind.SOFTMAX, (y,), (z,), vector=work("softmax", 64 * 128), whole=("rows",))
    assert Fuser(builder.graph("g")).judge(["across", "down"]) is None


def attention_graph(extra: str | None = None) -> Graph:
    """Scores, softmax and values over 2 x 64 queries and 256 keys of 64; ``extra`` reads one of the tensors between,
    ``"scores"`` or ``"probs"``."""
    builder = GraphBuilder({"batch": 2, "seq": 64, "context": 256, "dim": 64, "dim_v": 64}, DType.FLOAT16)
    q = builder.tensor("q", ("batch", "seq", "dim"), Role.INPUT)
    k = builder.tensor("k", ("batch", "context", "dim"), Role.CACHE)
    v = builder.tensor("v", ("batch", "context", "dim_v"), Role.CACHE)
    square = ("batch", "seq", "context")
    between = {name: builder.tensor(name, square) for name in ("scores", "probs")}
    out = builder.tensor("out", ("batch", "seq", "dim_v"), Role.OUTPUT)
    macs = math.prod((2, 64, 256, 64))
    builder.op("attn_scores", OpKind.ATTENTION_SCORES, (q, k), (between["scores"],), macs=macs)
    builder.op(
        "softmax",
        OpKind.SOFTMAX,
        (between["scores"],),
        (between["probs"],),
        vector=work("softmax", 2 * 64 * 256, div=128),
        whole=("context",),
    )
    builder.op("attn_values", OpKind.ATTENTION_VALUES, (between["probs"], v), (out,), macs=macs)
    if extra:
        copy = builder.tensor("copy", square, Role.OUTPUT)
        builder.op("look", OpKind.ELEMENTWISE, (between[extra],), (copy,), vector=work("relu", 2 * 64 * 256))
    return builder.graph("attention")


def test_attention_triple() -> None:
    fuser = Fuser(attention_graph())
    fusion = fuser.judge(["attn_scores", "softmax", "attn_values"])
    assert fusion is not None
    assert (fusion.kind, fusion.rule) == (KernelKind.MIX, Rule.ATTENTION)
    assert [access.tensor for access in fusion.reads] == ["q", "k", "v"]
    assert [operator.name for operator in fusion.cubes] == ["attn_scores", "attn_values"]
    assert [operator.name for operator in fusion.vectors] == ["softmax"]
    assert {len(f.operators) for f in fuser.groups(6, 100)} == {1, 3}


@pytest.mark.parametrize("between", ["scores", "probs"])
def test_attention_whose_inside_is_wanted_outside_is_refused(between: str) -> None:
    """Online softmax never holds a row of scores or probabilities, so nobody else can read them."""
    fuser = Fuser(attention_graph(extra=between))
    assert fuser.judge(["attn_scores", "softmax", "attn_values"]) is None


def test_search_for_groups_can_be_cut_short() -> None:
    """One set per operator: each alone, nothing else, and it is counted where there was more to look at."""
    graph = llama_graph()
    fuser = Fuser(graph)
    groups = list(fuser.groups(MAX_GROUP, 1))
    assert sorted(short(fusion.names) for fusion in groups) == sorted(SINGLES)
    assert fuser.cut_short > 0
    assert list(fuser.groups(MAX_GROUP, MOST_PER_OPERATOR))
    assert fuser.cut_short == 0
