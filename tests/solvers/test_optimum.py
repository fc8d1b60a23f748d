"""What must hold of every optimum: more of anything never hurts, names mean nothing, less said is no higher bound."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model
from tiny import joint_optimum, priced_instances, random_examples, tiny_instances

from formulations.joint import FAMILIES, REDUNDANT, JointModel
from instances.instance import Instance
from instances.machine import Machine

MORE = {
    "memory": (("memories", "l2", "capacity_bytes", "value"),),
    "cube cores": (("aic", "value"), ("aiv", "value")),
    "vector cores": (("aiv", "value"),),
    "bandwidth": (("hbm", "rate_gb_s", "value"),),
    "quicker moves": (("hbm", "move_startup_ns", "value"),),
}
"""What there is more of: places in a machine that are doubled, or halved where less is more."""


def better(instance: Instance, what: str) -> Instance:
    """The same kernels at the same prices on a machine with more of something."""
    data = instance.machine.model_dump(mode="json")
    for *parents, last in MORE[what]:
        node = data
        for key in parents:
            node = node[key]
        node[last] = node[last] / 2 if what == "quicker moves" else node[last] * 2
    return instance.model_copy(update={"machine": Machine.model_validate(data)})


@pytest.mark.parametrize("what", [what for what in MORE if what != "vector cores"])
@random_examples
@given(instance=st.one_of(tiny_instances(most=3), priced_instances(most=4)))
def test_more_never_hurts(what: str, instance: Instance) -> None:
    assert joint_optimum(better(instance, what))[0] <= joint_optimum(instance)[0]


def renamed(node: Any, names: dict[str, str]) -> Any:
    """JSON with some names replaced, keys too."""
    if isinstance(node, dict):
        return {names.get(key, key): renamed(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value, names) for value in node]
    return names.get(node, node) if isinstance(node, str) else node


@random_examples
@given(instance=priced_instances(most=4), order=st.randoms(use_true_random=False))
def test_names_and_orders_mean_nothing(instance: Instance, order: Any) -> None:
    """Other names for operators and tensors, tensors and candidates in another order."""
    graph = instance.graph
    old = [*(tensor.name for tensor in graph.tensors), *(operator.name for operator in graph.operators)]
    new = [f"n{number}" for number in range(len(old))]
    order.shuffle(new)
    data = renamed(instance.model_dump(mode="json"), dict(zip(old, new, strict=True)))
    order.shuffle(data["graph"]["tensors"])
    order.shuffle(data["candidates"])
    other = Instance.model_validate(data)
    assert joint_optimum(other)[0] == joint_optimum(instance)[0]


@settings(random_examples, max_examples=8)
@given(instance=priced_instances(most=4))
def test_without_a_family_no_bound_is_above_the_optimum(instance: Instance) -> None:
    """And without a redundant one the optimum is the same."""
    best, _ = joint_optimum(instance)
    for family in FAMILIES:
        model = JointModel(instance, 2 * best, {family})
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        assert solver.solve(model.model) == cp_model.OPTIMAL
        found = round(solver.objective_value)
        assert found == best if family in REDUNDANT else found <= best, family
