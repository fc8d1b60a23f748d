"""From graph and machine to an instance: what is kept, what is priced once, and what cannot be built."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from instances.build import build_instance, keep_best, structure
from instances.catalogue import load_model
from instances.documents import parse, write_document
from instances.errors import InfeasibleError, InputError, TilewrightError
from instances.fusion import Fuser
from instances.generate import build_graph
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor, VectorClass
from instances.graph_builder import GraphBuilder, work
from instances.instance import Instance
from instances.kernels import Cost, Implementation, KernelKind, Rule, Tiling
from instances.machine import Machine, MemoryName, load_machine
from tests.conftest import llama_graph

B2 = load_machine("ascend910b2")


# ------------------------------------------------------------------------------- equal groups are priced once


def test_equal_layers_are_priced_once(llama: Instance) -> None:
    """Two layers have twice the groups of one and those across the border, but no structure more: the residual add
    with the next layer's norm looks like the attention's residual add with its norm."""
    two = build_instance(llama_graph(layers=2), B2)
    three = build_instance(llama_graph(layers=3), B2)
    assert llama.census.groups == len(llama.candidates) == 40
    across = [c for c in two.candidates if len({name.split(".")[0] for name in c.operators}) > 1]
    assert [c.operators for c in across] == [("l0.mlp_add", "l1.input_norm")]
    assert two.census.groups == 2 * 40 + 1
    assert three.census.groups == 3 * 40 + 2
    assert llama.census.structures == two.census.structures == three.census.structures == len(two.templates)
    assert llama.census.kept_tilings == two.census.kept_tilings == three.census.kept_tilings
    assert two.census.priced_tilings == three.census.priced_tilings
    inner = next(c for c in two.candidates if c.operators == ("l0.attn_add", "l0.post_norm"))
    assert across[0].template == inner.template


def test_same_place_in_every_layer_shares_a_template() -> None:
    two = build_instance(llama_graph(layers=2), B2)
    template = {c.operators: c.template for c in two.candidates}
    for operators, number in template.items():
        if all(name.startswith("l0.") for name in operators):
            assert template[tuple(f"l1.{name[3:]}" for name in operators)] == number


def test_structure_tells_apart_what_costs_differently() -> None:
    """q and k differ in width, k and v in nothing but names; rope_q with its result read once or kept inside."""
    fuser = Fuser(llama_graph())

    def of(*names: str) -> str:
        fusion = fuser.judge([f"l0.{name}" for name in names])
        assert fusion is not None
        return structure(fusion)

    assert of("k_proj") == of("v_proj")
    assert of("gate_proj") == of("up_proj")
    assert of("q_proj") != of("k_proj")
    assert of("input_norm") == of("post_norm")
    assert of("rope_k", "cache_write_k") != of("rope_k")
    assert len({of("gate_proj"), of("down_proj"), of("o_proj"), of("q_proj")}) == 4


def test_census(llama: Instance) -> None:
    census = llama.census
    assert census.structures == len(llama.templates)
    assert census.kept_tilings == sum(len(template.implementations) for template in llama.templates)
    assert census.priced_tilings > census.kept_tilings
    assert census.max_group == 6
    used = {candidate.template for candidate in llama.candidates}
    assert used == set(range(len(llama.templates)))


def test_group_size_is_a_choice() -> None:
    small = build_instance(llama_graph(), B2, max_group=1)
    assert {len(candidate.operators) for candidate in small.candidates} == {1}
    assert small.census.max_group == 1
    assert small.fingerprint == build_instance(llama_graph(), B2, max_group=2).fingerprint  # of graph and machine


def test_every_operator_can_run_alone(llama: Instance) -> None:
    alone = {c.operators[0] for c in llama.candidates if len(c.operators) == 1}
    assert alone == {operator.name for operator in llama.graph.operators}
    rules = {c.operators: llama.templates[c.template].rule for c in llama.candidates}
    assert all((rule is Rule.SINGLE) == (len(operators) == 1) for operators, rule in rules.items())


def test_building_twice_gives_the_same(llama: Instance) -> None:
    assert build_instance(llama_graph(), B2) == llama


# ------------------------------------------------------------------------------- what is kept


def way(busy: int, aic: int = 0, aiv: int = 0, permille: int = 0, head: int = 0, tail: int = 0) -> Implementation:
    return Implementation(
        tiling=Tiling(tile={"b": busy}, aic=aic, aiv=aiv, l2_permille=permille),
        cost=Cost(head_ns=head, busy_ns=busy, tail_ns=tail, engines_ns={"cube": busy}, l2_bytes=0),
    )


def test_fastest_and_most_modest_are_kept() -> None:
    """All 24 cores at 100 ns; half of them at 180; at the share that keeps up with HBM (350) 150; both 250."""
    ways = [way(100, 24, permille=1000), way(150, 24, permille=350), way(180, 12, permille=1000), way(250, 12)]
    assert keep_best(ways[::-1], B2, 0) == ways


def test_dominated_ways_are_dropped() -> None:
    """Slower and no more modest: never kept, in whatever order they come."""
    good, bad = way(100, 12, permille=300), way(120, 12, permille=300)
    assert keep_best([bad, good], B2, 0) == [good]
    assert keep_best([good, bad, way(100, 24, permille=300)], B2, 0) == [good]


def test_streaming_prefers_a_short_head_and_tail() -> None:
    """In a body of 1000 ns of HBM traffic, 100 or 200 ns of engine time are the same; what lies around it counts."""
    quick, slim = way(100, 12, head=500), way(200, 12, head=300)
    assert keep_best([quick, slim], B2, 1000) == [slim]
    assert set(map(str, keep_best([quick, slim], B2, 0))) == {str(slim)}  # 500 against 600: slim is better alone, too
    assert len(keep_best([way(100, 12, head=350), slim], B2, 1000)) == 2  # 450 alone, 1350 against 1300 streaming


# ------------------------------------------------------------------------------- large models


def test_eighty_layers(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    """llama-3-70b on one rank of eight: as many structures as a single layer with its ends, below 20 MB as JSON."""
    graph = build_graph(load_model("llama-3-70b"), "decode", 16, 1, 4096, tp=8)
    begin = time.monotonic()
    instance = build_instance(graph, B2)
    took = time.monotonic() - begin
    path = tmp_path / "instance.json"
    write_document(instance, path)
    with capsys.disabled():
        print(f"\n80 layers: {instance.census.groups} groups, {path.stat().st_size / 1e6:.1f} MB, {took:.1f} s")
    assert path.stat().st_size < 20e6
    assert instance.census.structures < 50
    assert instance.census.groups > 80 * 30
    again = parse(Instance, json.loads(path.read_text(encoding="utf-8")), path)
    assert again.fingerprint == instance.fingerprint
    assert again.census == instance.census


# ------------------------------------------------------------------------------- what cannot be built


def row_sum(rows: int, columns: int) -> Graph:
    """The sum of each row; nothing says that a row may be cut."""
    builder = GraphBuilder({"rows": rows, "columns": columns}, DType.FLOAT16)
    x = builder.tensor("x", ("rows", "columns"), Role.INPUT)
    y = builder.tensor("y", ("rows",), Role.OUTPUT)
    builder.op("sum_rows", OpKind.COMBINE, (x,), (y,), vector={VectorClass.REDUCE: rows * columns})
    return builder.graph("sums")


def test_operator_that_fits_nowhere() -> None:
    """A row of 200000 elements: 400000 bytes, 32 for the sum, and two of 800000 for work in 32 bits are 2000032 bytes
    with single buffers; UB has 188416, so 1811616 are over."""
    with pytest.raises(InfeasibleError) as caught:
        build_instance(row_sum(4, 200_000), B2)
    sentence = str(caught.value)
    assert "operator 'sum_rows' fits nowhere on ascend910b2" in sentence
    assert "its smallest tile (" in sentence
    assert "needs 2000032 bytes of UB, 1811616 over" in sentence
    assert caught.value.exit_code == 3


def test_a_shorter_row_fits() -> None:
    """18832 elements: 37664 + 32 + 2 * 75328 = 188352 of UB's 188416 bytes; with 16 elements more it is 96 over."""
    build_instance(row_sum(4, 18_832), B2)
    with pytest.raises(InfeasibleError, match="bytes of UB, 96 over"):
        build_instance(row_sum(4, 18_848), B2)


def test_tensor_larger_than_hbm() -> None:
    """2**36 bytes of HBM; a tensor of 2**36 + 2 bytes is 2 over."""
    builder = GraphBuilder({"i": 2**35 + 1}, DType.FLOAT16)
    x = builder.tensor("giant", ("i",), Role.INPUT)
    y = builder.tensor("y", ("i",), Role.OUTPUT)
    builder.op("copy", OpKind.ACTIVATION, (x,), (y,), vector=work("relu", 2**35 + 1))
    message = (
        "tensor 'giant' needs 68719476738 bytes, 2 more than the HBM of ascend910b2 "
        r"\(68719476736 bytes\); raise --tp"
    )
    with pytest.raises(InfeasibleError, match=message):
        build_instance(builder.graph("giant"), B2)


def test_tensors_that_together_exceed_hbm() -> None:
    """llama-3-70b in 16 bits is 141 GB of weights, on 64 GiB."""
    graph = build_graph(load_model("llama-3-70b"), "decode", 1, 1, 128)
    standing = sum(tensor.size_bytes for tensor in graph.tensors if tensor.role is not Role.INTERMEDIATE)
    with pytest.raises(InfeasibleError, match=rf"need {standing} bytes, {standing - 2**36} more than the HBM"):
        build_instance(graph, B2)


def test_matmul_of_a_type_that_the_chip_lacks() -> None:
    with pytest.raises(InfeasibleError, match=r"cannot run on ascend310p3: .*bfloat16"):
        build_instance(llama_graph(), load_machine("ascend310p3"))


def test_l2_too_small_for_a_workspace() -> None:
    """With 4 KiB of L2 no mixed kernel is kept on 910B, but every operator still runs alone."""
    data = B2.model_dump(mode="json")
    data["memories"]["l2"]["capacity_bytes"]["value"] = 4096
    instance = build_instance(llama_graph(), Machine.model_validate(data))
    assert KernelKind.MIX not in {template.kind for template in instance.templates}
    assert all(instance.candidates_of[operator.name] for operator in instance.graph.operators)
    assert instance.machine.capacity(MemoryName.L2) == 4096


def lonely(kind: OpKind, **amount: object) -> Graph:
    """One operator from [16, 16] to [16, 16]."""
    dims = ("i", "j")
    return Graph(
        name="lonely",
        tensors=(
            Tensor(name="x", shape=(16, 16), dtype=DType.FLOAT16, role=Role.INPUT),
            Tensor(name="y", shape=(16, 16), dtype=DType.FLOAT16, role=Role.OUTPUT),
        ),
        operators=(
            Operator(
                name="alone",
                kind=kind,
                dims={"i": 16, "j": 16},
                reads=(Access(tensor="x", dims=dims),),
                writes=(Access(tensor="y", dims=dims),),
                **amount,  # type: ignore[arg-type]
            ),
        ),
    )


def test_matmul_of_one_operand_is_refused_in_a_sentence() -> None:
    """A user's file may say so; whoever reads or builds it answers with the operator's name and no traceback."""
    with pytest.raises((TilewrightError, ValueError), match="alone"):
        build_instance(lonely(OpKind.MATMUL, macs=4096), B2)


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        (OpKind.ELEMENTWISE, {"vector": {VectorClass.DIVIDE: 2**62}}),
        (OpKind.COLLECTIVE, {"link_bytes": 2**62}),
    ],
)
def test_absurd_work_is_refused_in_a_sentence(kind: OpKind, amount: dict[str, object]) -> None:
    """Months on one kernel: the graph refuses such work, so that no price overflows later."""
    with pytest.raises(ValidationError, match="less than or equal to"):
        build_instance(lonely(kind, **amount), B2)


# ------------------------------------------------------------------------------- instances are checked when read


def test_candidates_are_checked(llama: Instance) -> None:
    """Templates, operators and tensors that are not there, and an operator left out."""
    data = llama.model_dump(mode="json")

    def refusal(change: dict[str, object]) -> str:
        changed = {**data, "candidates": [{**data["candidates"][0], **change}, *data["candidates"][1:]]}
        with pytest.raises(InputError) as caught:
            parse(Instance, changed, "i.json")
        return str(caught.value)

    assert "candidate 0 names template 99, but there are" in refusal({"template": 99})
    assert "candidate 0 names operator 'ghost', which is not in the graph" in refusal({"operators": ["ghost"]})
    assert "candidate 0 names tensor 'ghost', which is not in the graph" in refusal({"reads": ["ghost"]})
    short = {**data, "candidates": [c for c in data["candidates"] if "l0.softmax" not in c["operators"]]}
    with pytest.raises(InputError, match=r"operator 'l0\.softmax' is in no candidate; rebuild the instance"):
        parse(Instance, short, "i.json")


def test_fingerprint_is_of_graph_and_machine(llama: Instance) -> None:
    other = build_instance(llama_graph(), load_machine("ascend910b1"))
    assert other.graph.fingerprint == llama.graph.fingerprint
    assert other.fingerprint != llama.fingerprint
    assert build_instance(llama_graph(layers=2), B2).fingerprint != llama.fingerprint
    assert llama.model_copy(update={"candidates": ()}).fingerprint == llama.fingerprint
