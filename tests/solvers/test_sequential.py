"""The heuristics that run kernels one after the other, on an instance small enough to follow by hand."""

from __future__ import annotations

import math

from formulations.facts import Facts
from formulations.plan import time_decisions
from instances.build import build_instance
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor, VectorClass
from instances.instance import Instance
from instances.machine import Machine, MemoryName, load_machine
from instances.schedule import Source
from opt.replay import replay
from solvers.interface import Options
from solvers.sequential import choose_by_bytes_saved, greedy_decisions, solve_greedy, solve_unfused, unfused_decisions

ROWS = 48 * 1024
SIZE = ROWS * 4


def chain(length: int) -> Graph:
    """x0 -> op0 -> x1 -> op1 -> ..., each doubling a float32 vector of 48 Ki elements."""

    def tensor(i: int) -> Tensor:
        role = Role.INPUT if i == 0 else Role.OUTPUT if i == length else Role.INTERMEDIATE
        return Tensor(name=f"x{i}", shape=(ROWS,), dtype=DType.FLOAT32, role=role)

    return Graph(
        name="chain",
        tensors=tuple(tensor(i) for i in range(length + 1)),
        operators=tuple(
            Operator(
                name=f"op{i}",
                kind=OpKind.ELEMENTWISE,
                dims={"rows": ROWS},
                reads=(Access(tensor=f"x{i}", dims=("rows",)),),
                writes=(Access(tensor=f"x{i + 1}", dims=("rows",)),),
                vector={VectorClass.ONE_SOURCE: ROWS},
            )
            for i in range(length)
        ),
    )


def small_l2(machine: Machine, capacity: int) -> Machine:
    """The machine with another capacity of L2."""
    memory = machine.memories[MemoryName.L2]
    figure = memory.capacity_bytes.model_copy(update={"value": float(capacity)})
    memories = {**machine.memories, MemoryName.L2: memory.model_copy(update={"capacity_bytes": figure})}
    return machine.model_copy(update={"memories": memories})


def instance_of(length: int, l2: int = 2**27, max_group: int = 6) -> Instance:
    """The chain on 910B2 with so much L2."""
    return build_instance(chain(length), small_l2(load_machine("ascend910b2"), l2), max_group)


def test_unfused_pays_for_every_trip() -> None:
    """Three kernels, each reading and writing 192 KiB over HBM at 1190 B/ns: 2 x ceil(196608 / 1190) = 2 x 166 ns.

    Latency is the sum over kernels of head + max(busy, 332) + tail.
    """
    instance = instance_of(3)
    facts = Facts(instance)
    decisions = unfused_decisions(facts)
    assert all(choice.reads[t] is Source.HBM for choice in decisions.kernels for t in choice.reads)
    phase = 2 * math.ceil(SIZE / 1190)
    expected = 0
    for choice in decisions.kernels:
        cost = instance.implementations(instance.candidates[choice.candidate])[choice.implementation].cost
        expected += cost.head_ns + max(cost.busy_ns, phase) + cost.tail_ns
    result = solve_unfused(instance, Options())
    assert result.objective_ns == expected == time_decisions(facts, decisions).latency_ns
    assert not replay(instance, result.schedule).violations


def test_greedy_fuses_the_whole_chain() -> None:
    """Each edge inside a group saves a write and a read, so all three operators end up in one kernel."""
    instance = instance_of(3)
    groups = choose_by_bytes_saved(Facts(instance))
    assert [instance.candidates[g].operators for g in groups] == [("op0", "op1", "op2")]
    result = solve_greedy(instance, Options())
    assert not replay(instance, result.schedule).violations
    assert result.objective_ns < solve_unfused(instance, Options()).objective_ns


def test_greedy_keeps_results_in_l2() -> None:
    """With groups of one operator, the two intermediates never touch HBM."""
    instance = instance_of(3, max_group=1)
    schedule = solve_greedy(instance, Options()).schedule
    checked = replay(instance, schedule)
    assert not checked.violations
    assert checked.hbm_bytes == 2 * SIZE
    assert {residency.tensor for residency in schedule.residencies} == {"x1", "x2"}


def test_greedy_writes_out_what_does_not_fit() -> None:
    """L2 of one tensor: a kernel's input and output cannot both stay, so one of the two goes through HBM."""
    instance = instance_of(3, l2=SIZE, max_group=1)
    schedule = solve_greedy(instance, Options()).schedule
    checked = replay(instance, schedule)
    assert not checked.violations
    assert checked.l2_peak_bytes <= SIZE
    assert checked.hbm_bytes == 4 * SIZE
    assert greedy_decisions(Facts(instance)).residencies
