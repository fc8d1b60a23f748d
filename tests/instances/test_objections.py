"""Why operators may not be one kernel: the objection speaks exactly where the judge refuses, and names the rule."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given

from instances.catalogue import load_model
from instances.fusion import Fuser
from instances.generate import build_graph
from instances.graph import DType, Graph, OpKind, Role
from instances.graph_builder import GraphBuilder, work
from instances.objections import Obstacle, objection
from tests.conftest import llama_graph
from tests.tiny import random_examples, tiny_graphs


def test_objects_exactly_where_the_judge_refuses() -> None:
    """All sets of two, and of three operators that stand close together, of five layers."""
    graphs = [
        llama_graph(),
        build_graph(load_model("gpt2"), "prefill", 1, 64, layers=1),
        build_graph(load_model("qwen3-32b"), "decode", 4, 1, 128, layers=1, tp=8, ends=True),
        build_graph(load_model("mixtral-8x7b"), "decode", 4, 1, 128, layers=1),
        build_graph(load_model("deepseek-v3"), "decode", 4, 1, 128, layers=1),
    ]
    seen: set[Obstacle] = set()
    legal = 0
    for graph in graphs:
        fuser = Fuser(graph)
        names = [operator.name for operator in graph.operators]
        sets = [*combinations(names, 2)]
        sets += [s for i in range(len(names)) for s in combinations(names[i : i + 6], 3)]
        for members in sets:
            found = objection(fuser, members)
            assert (found is None) == (fuser.judge(members) is not None), members
            legal += found is None
            if found is not None:
                seen.add(found.obstacle)
                assert found.words
    assert legal > 100
    assert len(seen) >= 9, seen


@random_examples
@given(tiny_graphs(most=6))
def test_objects_exactly_where_the_judge_refuses_random_graphs(graph: Graph) -> None:
    fuser = Fuser(graph)
    names = [operator.name for operator in graph.operators]
    for count in range(1, len(names) + 1):
        for members in combinations(names, count):
            assert (objection(fuser, members) is None) == (fuser.judge(members) is not None), members


CASES: dict[str, tuple[tuple[str, ...], Obstacle, str]] = {
    "norm before projection": (
        ("l0.input_norm", "l0.q_proj"),
        Obstacle.VECTOR_FIRST,
        "l0.q_proj reads l0.input_normed",
    ),
    "two matmuls": (("l0.o_proj", "l0.gate_proj", "l0.attn_add", "l0.post_norm"), Obstacle.LEFT_OPERAND, "no common"),
    "around": (("l0.attn_add", "l0.mlp_add"), Obstacle.NOT_CONVEX, "between: after l0.attn_add, before l0.mlp_add"),
    "half of attention": (("l0.attn_scores", "l0.softmax"), Obstacle.ATTENTION_SET, "l0.attn_scores"),
    "no vector joins": (("l0.q_proj", "l0.k_proj", "l0.rope_q"), Obstacle.WIDTHS, "of different form"),
    "far apart": (("l0.q_proj", "l0.down_proj"), Obstacle.NOT_CONVEX, "between"),
    "cache rows": (("l0.cache_write_k", "l0.cache_write_v"), Obstacle.NOT_CONNECTED, "joins"),
}


@pytest.mark.parametrize("case", CASES)
def test_names_the_rule(case: str) -> None:
    members, obstacle, words = CASES[case]
    found = objection(Fuser(llama_graph()), members)
    assert found is not None
    assert found.obstacle is obstacle
    assert words in found.words


def test_collective() -> None:
    graph = build_graph(load_model("qwen3-32b"), "decode", 4, 1, 128, layers=1, tp=8)
    found = objection(Fuser(graph), ("l0.o_proj", "l0.attn_all_reduce"))
    assert found is not None and found.obstacle is Obstacle.COLLECTIVE
    assert found.operators == ("l0.attn_all_reduce",)


@pytest.mark.parametrize(
    ("role", "extra", "obstacle"),
    [(Role.OUTPUT, False, Obstacle.ATTENTION_OUTPUT), (Role.INTERMEDIATE, True, Obstacle.ATTENTION_READ)],
)
def test_scores_seen_outside(role: Role, extra: bool, obstacle: Obstacle) -> None:
    """The scores of attention are an output of the graph, or read by somebody else: attention cannot be one kernel."""
    plain = llama_graph()
    scores = plain.operator["l0.attn_scores"].writes[0].tensor
    tensors = [t.model_copy(update={"role": role}) if t.name == scores else t for t in plain.tensors]
    operators = list(plain.operators)
    if extra:
        softmax = plain.operator["l0.softmax"]
        copy = plain.tensor[softmax.writes[0].tensor].model_copy(update={"name": "copy", "role": Role.OUTPUT})
        tensors.append(copy)
        write = softmax.writes[0].model_copy(update={"tensor": "copy"})
        operators.append(softmax.model_copy(update={"name": "reader", "writes": (write,)}))
    graph = Graph(name="seen", tensors=tuple(tensors), operators=tuple(operators))
    found = objection(Fuser(graph), ("l0.attn_scores", "l0.softmax", "l0.attn_values"))
    assert found is not None and found.obstacle is obstacle
    assert found.tensors == (scores,)


def test_rows() -> None:
    """One needs its row whole, the other the column: nothing is left to cut along."""
    b = GraphBuilder({"rows": 32, "a": 64}, DType.FLOAT16)
    x = b.tensor("x", ("rows", "a"), Role.INPUT)
    y, z = b.tensor("y", ("rows", "a"), Role.INTERMEDIATE), b.tensor("z", ("rows", "a"), Role.OUTPUT)
    b.op("across", OpKind.NORM, (x,), (y,), vector=work("add", 2048), whole=("a",))
    b.op("along", OpKind.NORM, (y,), (z,), vector=work("add", 2048), whole=("rows",))
    found = objection(Fuser(b.graph("rows")), ("across", "along"))
    assert found is not None and found.obstacle is Obstacle.NO_COMMON_ROWS
    assert "across needs a whole; along needs rows whole" in found.words
