"""Caches and tables of positions: what is appended in place, what is read in place, what is written."""

from __future__ import annotations

import numpy as np
import pytest

from instances.frontends.rules import RULES
from instances.graph import OpKind, Role
from tests.frontends.handmade import Drawn, ops


def grown(
    g: Drawn, order: str = "past new", kind: str = "user_input", past_shape: tuple[int, ...] = (1, 2, 7, 4)
) -> str:
    """``cat`` of a cache and a new row."""
    past = g.input("past", *past_shape, kind=kind)
    new = g.node("neg", g.input("new", 1, 2, 1, 4))
    return g.node("cat", [past, new] if order == "past new" else [new, past], 2)


def test_rows_appended_to_a_cache() -> None:
    g = Drawn()
    whole = grown(g)
    count, program = g.rewritten("append", whole, g.node("exp", whole))
    assert (count, ops(program)) == (1, ["neg", "cache_append", "exp"])


def test_a_cache_that_nobody_reads_is_written_all_the_same() -> None:
    g = Drawn()
    graph = g.imported(grown(g)).graph
    written = [op for op in graph.operators if op.kind is OpKind.CACHE_WRITE]
    assert [graph.tensor[op.writes[0].tensor].elements for op in written] == [8]
    assert [graph.tensor[op.writes[0].tensor].role for op in written] == [Role.OUTPUT]


def test_readers_of_a_cache_wait_for_its_new_rows() -> None:
    g = Drawn()
    whole = grown(g)
    query = g.input("query", 1, 2, 1, 4)
    read = g.node("scaled_dot_product_attention", query, whole, whole)
    graph = g.imported(read, whole).graph
    scores = next(op for op in graph.operators if op.kind is OpKind.ATTENTION_SCORES)
    roles = {graph.tensor[access.tensor].role: graph.touched_bytes(access) for access in scores.reads}
    assert roles == {Role.INPUT: 16, Role.CACHE: 2 * 8 * 4 * 2, Role.OUTPUT: 16}
    assert scores.dims["context"] == 8


@pytest.mark.parametrize("fault", ["order", "no output", "weight", "computed", "integers", "three", "features"])
def test_what_is_no_cache(fault: str) -> None:
    g = Drawn()
    if fault == "features":
        whole = g.node("cat", [g.input("past", 1, 2, 7, 4), g.input("new", 1, 2, 7, 1)], 3)
        assert g.rewritten("append", whole, whole)[0] == 0
        return
    if fault == "computed":
        past = g.node("neg", g.input("past", 1, 2, 7, 4))
        whole = g.node("cat", [past, g.input("new", 1, 2, 1, 4)], 2)
    elif fault == "integers":
        whole = g.node("cat", [g.input("past", 1, 7, dtype="int64"), g.input("new", 1, 1, dtype="int64")], 1)
    elif fault == "three":
        past, new = g.input("past", 1, 2, 7, 4), g.input("new", 1, 2, 1, 4)
        whole = g.node("cat", [past, new, new], 2)
    else:
        whole = grown(
            g, "new past" if fault == "order" else "past new", "parameter" if fault == "weight" else "user_input"
        )
    outputs = [g.node("neg", whole)] if fault == "no output" else [whole]
    assert g.rewritten("append", *outputs)[0] == 0


def looked_up(g: Drawn, ids: str, rows: int = 16) -> str:
    return g.node("embedding", g.weight("table", rows, 8), ids)


@pytest.mark.parametrize("source", ["arange", "buffer", "input", "shifted"])
def test_positions_in_order_are_no_lookup(source: str) -> None:
    g = Drawn()
    if source == "buffer":
        g.input("position_ids", 1, 10, kind="buffer", dtype="int64")
        g.values["position_ids"] = g.values["position_ids"] * 0 + range(10)
        ids = g.node("slice.Tensor", "%position_ids", 1, 0, 6)
    elif source == "input":
        ids = g.input("position_ids", 1, 6, dtype="int64")
        g.values["position_ids"] = g.values["position_ids"] * 0 + range(6)
    else:
        ids = g.node("unsqueeze", g.node("arange", 6), 0)
        ids = g.node("add.Tensor", ids, 0) if source == "shifted" else ids
    y = g.node("add.Tensor", looked_up(g, ids), g.input("x", 1, 6, 8))
    count, program = g.rewritten("known_positions", y)
    assert (count, ops(program)) == (1, ["positions", "add"])


def test_rows_of_positions_are_read_in_place() -> None:
    g = Drawn()
    ids = g.node("unsqueeze", g.node("arange", 6), 0)
    graph = g.imported(g.node("add.Tensor", looked_up(g, ids), g.input("x", 1, 6, 8))).graph
    (add,) = graph.operators
    touched = {access.tensor: graph.touched_bytes(access) for access in add.reads}
    assert touched == {"table": 6 * 8 * 2, "x": 6 * 8 * 2}


@pytest.mark.parametrize("fault", ["tokens", "from tokens", "buckets", "too few", "batch", "table"])
def test_what_is_looked_up_stays_a_lookup(fault: str) -> None:
    g = Drawn()
    rows = 16
    if fault == "tokens":
        ids = g.input("input_ids", 1, 6, dtype="int64")
    elif fault == "from tokens":
        ids = g.node("add.Tensor", g.input("input_ids", 1, 6, dtype="int64"), g.node("arange", 6))
    elif fault == "buckets":  # far positions share a row
        ids = g.node("unsqueeze", g.node("div.Tensor_mode", g.node("arange", 6), 2, shape=(6,), label="int64"), 0)
        g.values[ids[1:]] = np.array([[0, 0, 1, 1, 2, 2]])
    elif fault == "too few":
        ids, rows = g.node("zeros", [1, 6], label="int64"), 2
        g.values[ids[1:]] = g.values[ids[1:]].astype(int)
    elif fault == "batch":
        ids = g.input("position_ids", 3, 6, dtype="int64")
    else:
        ids = g.node("unsqueeze", g.node("arange", 6), 0)
    table = g.input("table", rows, 8, kind="user_input" if fault == "table" else "parameter")
    y = g.node("embedding", table, ids)
    program = g.program(y)
    assert RULES["known_positions"](program) == 0


def keys_and_values(g: Drawn) -> tuple[str, str, str]:
    """Attention over keys and values that were just made."""
    q, k, v = (g.node("neg", g.input(name, 2, 4, 6, 8)) for name in "qkv")
    return g.node("scaled_dot_product_attention", q, k, v), k, v


def test_keys_and_values_that_are_results_are_written_as_rows_of_a_cache() -> None:
    g = Drawn()
    y, k, v = keys_and_values(g)
    count, program = g.rewritten("write_cache_rows", y, k, v, after=["attention_ops"])
    assert count == 2
    assert ops(program).count("cache_rows") == 2
    g = Drawn()
    graph = g.imported(*keys_and_values(g)).graph
    rows = [op for op in graph.operators if op.kind is OpKind.CACHE_WRITE]
    assert [graph.tensor[op.writes[0].tensor].role for op in rows] == [Role.OUTPUT] * 2
    made = {access.tensor: graph.tensor[access.tensor].role for op in rows for access in op.reads}
    assert set(made.values()) == {Role.INTERMEDIATE}


def test_results_that_are_no_keys_are_not() -> None:
    g = Drawn()
    y, k, _ = keys_and_values(g)
    z = g.node("exp", g.node("view", k, [2, 4, 48]))
    assert g.rewritten("write_cache_rows", y, z, after=["attention_ops"])[0] == 0


def test_a_cache_that_was_appended_to_is_not_written_again() -> None:
    g = Drawn()
    whole = grown(g)
    read = g.node("scaled_dot_product_attention", g.input("query", 1, 2, 1, 4), whole, whole)
    graph = g.imported(read, whole).graph
    assert sum(op.kind is OpKind.CACHE_WRITE for op in graph.operators) == 1
