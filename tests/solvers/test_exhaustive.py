"""The oracle by itself, and against the joint model and the replay on random tiny instances."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from ortools.sat.python import cp_model
from tiny import (
    Fused,
    Op,
    Way,
    best,
    joint_optimum,
    priced_instances,
    random_examples,
    tiny_instance,
    tiny_instances,
    tiny_machine,
)

from formulations.facts import Facts
from formulations.joint import JointModel
from formulations.joint_answers import hint
from formulations.plan import build_schedule
from instances.errors import InputError, NoScheduleError
from instances.graph import Role
from instances.instance import Instance
from instances.kernels import KernelKind
from instances.schedule import Status
from opt.replay import replay
from solvers import conflicts, exhaustive
from solvers.bounds import prove, quick_bounds, relaxation_bound
from solvers.conflicts import Activity, Demand, Network, Resource, place
from solvers.exhaustive import ARGUMENT, Search, covers, optimum, solve_exhaustive
from solvers.interface import Event, Options
from solvers.sequential import solve_unfused

VECTOR = KernelKind.VECTOR
INPUT, INNER, OUTPUT = Role.INPUT, Role.INTERMEDIATE, Role.OUTPUT

JAMMED = [(0, 1, 3), (3, 6, 3), (1, 5, 1), (2, 4, 1), (0, 2, 2), (5, 6, 2), (1, 3, 2)]
"""Blocks A to G (start, end, bytes), never more than 5 bytes at a time, that 5 bytes cannot hold.

Turn the addresses over, if need be, so that B lies at 0. Beside it C and D (from 3 to 4 with B) take 3 and 4. A fills
time 0 together with E, so E begins at 0 or 3; C meets E, so E lies at 0 to 2. C, E and G fill time 1: G is left with 2
to 4 or, were C at 3, with no 2 bytes in one piece. So G lies at 2 to 4 and meets D, which is left with 3.
"""


def chain(count: int, busy: int = 100, size: int = 10, l2_bytes: int = 1000) -> Instance:
    """Vector kernels one after the other on all cores, ``size`` bytes from each to the next."""
    tensors = {"t0": (INPUT, size), f"t{count}": (OUTPUT, size)}
    tensors |= {f"t{n}": (INNER, size) for n in range(1, count)}
    ways = (Way(busy=busy, aiv=4),)
    operators = [Op(f"o{n}", VECTOR, (f"t{n}",), (f"t{n + 1}",), ways) for n in range(count)]
    return tiny_instance(tiny_machine(l2_bytes), tensors, operators)


def side_by_side() -> Instance:
    """Two kernels of 100 ns on half the vector cores, with nothing in common; 10 bytes in, 10 out."""
    ways = (Way(busy=100, aiv=2),)
    return tiny_instance(
        tiny_machine(),
        {"u": (INPUT, 10), "v": (INPUT, 10), "y": (OUTPUT, 10), "z": (OUTPUT, 10)},
        [Op("a", VECTOR, ("u",), ("y",), ways), Op("b", VECTOR, ("v",), ("z",), ways)],
    )


def as_blocks(spans: list[tuple[int, int, int]]) -> tuple[list[Demand], list[int]]:
    """Blocks over events of their own, and the times of these."""
    times = [time for start, end, _ in spans for time in (start, end)]
    return [(Activity(2 * n, 2 * n + 1), size) for n, (_, _, size) in enumerate(spans)], times


@settings(random_examples, max_examples=9)
@given(tiny_instances(most=4))
def test_agrees_with_the_joint_model_and_the_replay(instance: Instance) -> None:
    """Same optimum; the schedule passes the replay, completes a hint, and is not below any bound."""
    facts = Facts(instance)
    latency, decisions = optimum(instance)
    assert joint_optimum(instance)[0] == latency
    bounds = quick_bounds(facts)
    assert max(bounds.values()) <= latency
    assert relaxation_bound(facts, None, 10.0) <= latency
    assert relaxation_bound(facts, latency, 10.0) <= latency
    schedule = build_schedule(facts, decisions, prove(facts, "exhaustive", latency, {ARGUMENT: latency, **bounds}))
    assert schedule.latency_ns == latency
    assert [str(violation) for violation in replay(instance, schedule).violations] == []
    model = JointModel(instance, latency)
    hint(model, schedule)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.fix_variables_to_their_hinted_value = True
    assert solver.solve(model.model) == cp_model.OPTIMAL


@settings(random_examples, max_examples=40)
@given(priced_instances(most=4))
def test_agrees_with_the_joint_model_at_any_price(instance: Instance) -> None:
    """Same optimum where kernels ask for anything, and the decisions of both are schedules of that latency."""
    facts = Facts(instance)
    latency, decisions = best(instance)
    for answer in (decisions, optimum(instance)[1]):
        assert build_schedule(facts, answer, prove(facts, "any", latency, {ARGUMENT: latency})).latency_ns == latency


def test_solver_entry() -> None:
    """Two kernels of 100 ns, one after the other: 200, optimal by enumeration, with the other bounds beside it."""
    seen: list[Event] = []
    result = solve_exhaustive(chain(2), Options(on_event=seen.append))
    assert (result.objective_ns, result.bound_ns, result.bounds_ns[ARGUMENT]) == (200, 200, 200)
    assert result.status is Status.OPTIMAL
    assert result.solver == "exhaustive"
    assert {"hbm_traffic", "critical_path"} <= set(result.bounds_ns)
    assert (seen[-1].objective_ns, seen[-1].bound_ns) == (200, 200)


def out_of_time() -> Options:
    """Options whose time limit passed before the solver was called."""
    return Options(time_limit_s=1, started=time.monotonic() - 2)


def test_time_limit() -> None:
    """Without time the answer is the start of the search: each kernel takes 60 ns in and 60 ns out, 240 in all.

    No enumeration, no optimum: the bound is at most the 200 ns that are possible with the tensor between them in L2.
    """
    instance = chain(2, size=60)
    result = solve_exhaustive(instance, out_of_time())
    assert (result.objective_ns, result.status) == (240, Status.FEASIBLE)
    assert 0 < result.bound_ns <= optimum(instance)[0] == 200
    assert ARGUMENT not in result.bounds_ns
    assert {"hbm_traffic", "critical_path"} <= set(result.bounds_ns)


@random_examples
@given(tiny_instances(most=3))
def test_time_limit_gives_valid_schedules_and_bounds(instance: Instance) -> None:
    """Cut short at once, the schedule is as good as without fusion and valid, the bound below the optimum."""
    result = solve_exhaustive(instance, out_of_time())
    assert [str(violation) for violation in replay(instance, result.schedule).violations] == []
    assert result.objective_ns == solve_unfused(instance, Options()).objective_ns
    assert 0 < result.bound_ns <= optimum(instance)[0] <= result.objective_ns


def test_best_so_far() -> None:
    """Cut short after ever more nodes, the search of a chain never answers worse, and keeps the best before its end."""
    facts = Facts(chain(3, size=60, l2_bytes=200))

    def cut_short(limit: int) -> Search:
        return Search(facts, lambda nodes: nodes >= limit)

    found = []
    for limit in range(1000):
        search = cut_short(limit)
        complete = search.run()
        schedule = build_schedule(facts, search.best, prove(facts, "any", search.best_ns, {ARGUMENT: 1}))
        assert schedule.latency_ns == search.best_ns
        found.append(search.best_ns)
        if complete:
            break
    assert complete
    assert found[0] == 360  # everything through HBM
    assert found[-2:] == [300, 300]  # the optimum, first without and then with its proof
    assert found == sorted(found, reverse=True)


def test_too_many_operators() -> None:
    """Seven operators are one too many; six are not."""
    with pytest.raises(InputError, match="7 operators"):
        optimum(chain(7))
    assert optimum(chain(6))[0] == 600


def test_node_limit() -> None:
    """A search that may look at next to nothing says so."""
    with pytest.raises(InputError, match="limit of 3 nodes"):
        optimum(chain(3, size=60), limit_nodes=3)


def test_kernel_without_duration() -> None:
    """The argument for completeness takes activities that last."""
    with pytest.raises(InputError, match="0 ns"):
        optimum(chain(2, busy=0))


def test_covers() -> None:
    """Three operators, of which the first two or the last two may be fused: three covers."""
    instance = chain(3)
    fused = tiny_instance(
        instance.machine,
        {tensor.name: (tensor.role, tensor.size_bytes) for tensor in instance.graph.tensors},
        [Op(f"o{n}", VECTOR, (f"t{n}",), (f"t{n + 1}",), (Way(busy=100, aiv=4),)) for n in range(3)],
        [Fused((f"o{n}", f"o{n + 1}"), VECTOR, (Way(busy=150, aiv=4),)) for n in range(2)],
    )
    assert sorted(covers(fused)) == [(0, 1, 2), (0, 4), (3, 2)]
    assert best(fused)[0] == 250


def test_longest_paths_come_and_go() -> None:
    """Event 2 waits 5 for event 1, which waits 3 for event 0; without the first it waits for nobody."""
    network = Network(3)
    network.require([(0, 1, 3)])
    mark = network.require([(1, 2, 5)])
    assert network.earliest([0, 0, 0], 0, 100) == [0, 3, 8]
    assert network.earliest([0, 0, 0], 0, 8) is None
    network.withdraw(mark)
    assert network.earliest([0, 0, 0], 0, 100) == [0, 3, 0]
    network.require([(1, 0, 1)])
    assert network.earliest([0, 3, 0], 0, 100) is None  # a cycle


def test_conflict_sets_are_minimal() -> None:
    """Of 3, 1 and 2 units alive at once under a capacity of 4, those of 3 and 2 clash; they do not before time 2."""
    demands = [(Activity(0, 3), 3), (Activity(1, 3), 1), (Activity(2, 3), 2)]
    resource = Resource(4, demands)
    assert resource.conflict([0, 1, 2, 9]) == [demands[2][0], demands[0][0]]
    assert resource.conflict([0, 1, 9, 9]) == []


def test_place() -> None:
    """Addresses without overlap where there are any; none for blocks that fit by bytes alone."""
    blocks, times = as_blocks(JAMMED)
    assert place(blocks, times, 5) is None
    offsets = place(blocks, times, 6)
    assert offsets is not None
    for i, (one, size) in enumerate(blocks):
        assert 0 <= offsets[i] <= 6 - size
        for j, (other, other_size) in enumerate(blocks[:i]):
            apart = offsets[i] + size <= offsets[j] or offsets[j] + other_size <= offsets[i]
            assert apart or not one.meets(other, times)


def test_jammed_blocks_are_a_conflict_set_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All seven blocks are needed for the jam: without any one of them the rest finds addresses."""
    blocks, times = as_blocks(JAMMED)
    case = exhaustive.Case(Facts(chain(1, l2_bytes=5)), [(0, 0)])
    monkeypatch.setattr(exhaustive.Leaf, "blocks", property(lambda _: blocks))
    leaf = exhaustive.Leaf(case, [])
    monkeypatch.setattr(exhaustive.Leaf, "_has_cores", lambda _, times: True)
    leaf.resources = leaf.resources[-1:]
    assert leaf.clashes(times) == [[activity for activity, _ in blocks]]
    for left_out in range(len(blocks)):
        assert place(blocks[:left_out] + blocks[left_out + 1 :], times, 5) is not None


def test_blocks_that_find_no_addresses_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were no two blocks placed that meet, a chain of three would have to send one of its results through HBM.

    Kernels of 100 hand on 60 bytes. With both results in L2 they take 300. The second kernel needs the first result
    while it makes the second, so one of these goes through HBM, and the kernel at its end of the chain has 60 bytes in
    and 60 out: 120, in all 320. (L2 must not hold all four tensors, or nothing but L2 is tried.)
    """
    instance = chain(3, size=60, l2_bytes=200)
    assert optimum(instance)[0] == 300

    def lonely(blocks: list[Demand], times: list[int], capacity: int) -> list[int] | None:
        meet = any(one.meets(other, times) for i, (one, _) in enumerate(blocks) for other, _ in blocks[:i])
        return None if meet else conflicts.place(blocks, times, capacity)

    monkeypatch.setattr(exhaustive, "place", lonely)
    latency, decisions = optimum(instance)
    assert latency == 320
    assert len(decisions.residencies) == 1


def test_kernels_that_find_no_core_numbers_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels that could run side by side run one after the other where no two find core numbers together."""
    assert optimum(side_by_side())[0] == 100

    def one_at_a_time(_: object, jobs: list[tuple[int, int, object, object]]) -> None:
        if jobs[1][0] < jobs[0][1]:
            raise NoScheduleError("no core numbers")

    monkeypatch.setattr(exhaustive, "assign_cores", one_at_a_time)
    assert optimum(side_by_side())[0] == 200
