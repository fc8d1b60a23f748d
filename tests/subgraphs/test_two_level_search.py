"""Price, models and search of the two-level problem: against the judge, against enumeration, on published instances."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from formulations.subgraphs.bounds import bounds
from formulations.subgraphs.master import Master, columns_of
from formulations.subgraphs.pricing import Pricer, snake
from formulations.subgraphs.sequence import Sequences
from instances.subgraphs import SubgraphProblem, SubgraphStep, read_subgraph_problem
from opt.replay.subgraphs import Rules, judge_solution, judge_step
from opt.subgraphs import solve_subgraphs
from solvers.subgraphs.chain import cut_order
from solvers.subgraphs.exact import is_chain, solve_chain, solve_exactly
from solvers.subgraphs.search import Annealer, starts
from solvers.subgraphs.steps import as_solution
from tests.subgraphs.contest import CHAINED, DIAMOND, PRODUCT, TWO, problem, random_problem

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mlsys2026"

MOST_TILES = 1500


def connected_set(p: SubgraphProblem, draw: random.Random) -> frozenset[int]:
    """Operators that hang together, drawn."""
    ops = {draw.randrange(p.count)}
    for _ in range(draw.randrange(6)):
        near = [o for op in ops for o in (*p.before[op], *p.after[op])]
        near += [o for op in ops for t in p.inputs[op] for o in p.readers[t]]
        ops |= {draw.choice(near)}
    return frozenset(ops)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_price_is_what_the_judge_finds(seed: int) -> None:
    """The closed form agrees with the walk over all tiles, whatever is resident or retained."""
    p = random_problem(seed, 12, 1 + seed % 4)
    draw = random.Random(seed)
    pricer = Pricer(p)
    for _ in range(6):
        ops = connected_set(p, draw)
        made = {p.out(op) for op in ops}
        reads = sorted({t for op in ops for t in p.inputs[op] if t not in made and t in p.maker})
        resident = frozenset(draw.sample(reads, min(len(reads), draw.randrange(2))))
        retained = frozenset(draw.sample(sorted(made), draw.randrange(2)))
        price = pricer.price(ops, resident, retained)
        if price is None:
            continue
        used = {t for op in ops for t in p.inputs[op]}
        width, height = p.shape(next(p.out(op) for op in ops if p.out(op) not in used))
        w, h, _ = price.granularity
        nx, ny = -(-width // w), -(-height // h)
        if nx * ny > MOST_TILES:
            continue
        step = SubgraphStep(
            ops=tuple(op for op in p.order if op in ops),
            granularity=price.granularity,
            retain=tuple(retained),
            traversal=snake(nx, ny, price.along_rows),
        )
        verdict = judge_step(p, step, resident, Rules())
        assert verdict.faults == ()
        assert verdict.latency == pytest.approx(price.latency, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_search_against_enumeration(seed: int) -> None:
    """On small graphs annealing finds what enumeration proves, and nothing below it."""
    p = random_problem(seed, 4 + seed % 3, 1 + seed % 3, most=256)
    sequences = Sequences(p)
    exact = solve_exactly(sequences)
    found = starts(sequences, seed, lambda: False)
    assert (exact is None) == (not found)
    if exact is None:
        return
    turns = iter(range(1500, -1, -1))
    best = Annealer(sequences, seed, lambda: next(turns) / 1500).run(found[0], lambda chosen: None)
    assert best.latency >= exact.latency * (1 - 1e-9)
    assert best.latency <= exact.latency * 1.02
    for chosen in (exact, best):
        verdict = judge_solution(p, as_solution(sequences, chosen))
        assert verdict.valid
        assert verdict.latency == pytest.approx(chosen.latency)
    assert max(bounds(p).values()) <= exact.latency


@pytest.mark.parametrize("seed", range(6))
def test_chains_are_solved_exactly(seed: int) -> None:
    draw = random.Random(seed)
    sizes, inputs, kinds = [(draw.choice([64, 128, 256]), draw.choice([64, 128, 256]))], [], ""
    last = 0
    for _ in range(6):
        w, h = sizes[last]
        if draw.random() < 0.5:
            sizes.append((draw.choice([64, 128, 256]), w))
            inputs.append([last, len(sizes) - 1])
            sizes.append((sizes[-1][0], h))
            kinds += "M"
        else:
            inputs.append([last])
            sizes.append((w, h))
            kinds += "P"
        last = len(sizes) - 1
    outputs = [inputs[i + 1][0] for i in range(5)] + [last]
    p = problem(sizes, inputs, outputs, [draw.choice([100, 1000, 5000]) for _ in kinds], kinds, 60000)
    assert is_chain(p)
    sequences = Sequences(p)
    walked, enumerated, cut = solve_chain(sequences), solve_exactly(sequences), cut_order(sequences, p.order)
    assert walked is not None and enumerated is not None and cut is not None
    assert walked.latency == pytest.approx(enumerated.latency)
    assert cut.latency >= walked.latency * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_bounds_hold_for_whatever_is_legal(seed: int) -> None:
    """No sequence that the judge accepts moves or computes less than the bounds say."""
    p = random_problem(seed, 10, 1 + seed % 3, most=640)
    sequences = Sequences(p)
    proven = bounds(p)
    found = starts(sequences, seed, lambda: False)
    for chosen in found:
        verdict = judge_solution(p, as_solution(sequences, chosen))
        assert verdict.valid
        moved = sum(step.traffic for step in verdict.steps) / p.slow_memory_bandwidth
        assert max(proven["traffic"], proven["streaming"]) <= moved * (1 + 1e-9)
        assert proven["compute"] <= verdict.latency * (1 + 1e-9)


def test_streaming_counts_what_is_loaded_again() -> None:
    """One product deeper and larger than a tile: both operands once per tile of the other side."""
    p = problem([(256, 256), (512, 256), (512, 256)], [[0, 1]], [2], [10], "M", 60000)
    loads = 256 * 256 * 4 + 512 * 256 * 2
    assert bounds(p)["streaming"] == pytest.approx((loads + 512 * 256) / 10)
    found = starts(Sequences(p), 0, lambda: False)
    assert found[0].latency == pytest.approx((loads + 512 * 256) / 10)


def test_graphs_that_are_no_chains() -> None:
    assert is_chain(TWO) and is_chain(PRODUCT)
    assert is_chain(CHAINED)
    assert not is_chain(DIAMOND)


def test_the_model_recombines_steps() -> None:
    """From the halves of two sequences the model makes the better whole, and its hint is a solution."""
    p = random_problem(5, 8, 2)
    sequences = Sequences(p)
    found = starts(sequences, 0, lambda: False)
    master = Master(sequences, columns_of(sequences, found[:4], 40))
    master.hint(found[0])
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = 20
    solver.parameters.num_workers = 2
    assert solver.solve(master.model) == cp_model.OPTIMAL
    best = sequences.evaluate(master.read(solver))
    assert best is not None
    assert best.latency <= min(chosen.latency for chosen in found[:4]) + 1e-6
    assert solver.objective_value / 1000 == pytest.approx(best.latency, abs=0.05) or (
        best.latency < solver.objective_value / 1000
    )


KNOWN = {1: (2.0, 367_001.6), 5: (5.0, 646_034), 9: (3.0, 44_963_000), 13: (30.0, 11_577_000), 17: (8.0, 4_966_400)}
"""Instance -> seconds, and the latency to reach."""


@pytest.mark.skipif(not DATA.is_dir(), reason="the published instances are not part of the repository")
@pytest.mark.parametrize("number", KNOWN)
def test_published_instances(number: int) -> None:
    seconds, target = KNOWN[number]
    result, verdict = solve_subgraphs(DATA / f"mlsys-2026-{number}.json", time_limit=seconds, seed=1)
    assert verdict.valid
    assert verdict.latency <= target * (1 + 1e-9)
    if number in (1, 17):
        assert result.optimal
    if number == 9:
        assert result.bound_by == "streaming" and result.gap < 0.01


@pytest.mark.skipif(not DATA.is_dir(), reason="the published instances are not part of the repository")
def test_one_operator_per_step_costs_what_others_publish() -> None:
    known = {1: 419_430.4, 9: 48_318_382.08, 13: 22_165_913.6, 17: 5_081_850.88}
    for number, latency in known.items():
        p = read_subgraph_problem(DATA / f"mlsys-2026-{number}.json")
        pricer = Pricer(p)
        none: frozenset[int] = frozenset()
        prices = [pricer.price(frozenset((op,)), none, none) for op in range(p.count)]
        assert sum(price.latency for price in prices if price is not None) == pytest.approx(latency)


@pytest.mark.parametrize(("operators", "width"), [(1, 1), (20, 1), (60, 8), (110, 40), (152, 12)])
def test_any_graph_gets_legal_steps_in_time(operators: int, width: int) -> None:
    p = random_problem(operators, operators, width)
    result, verdict = solve_subgraphs(p, time_limit=2.0)
    assert verdict.valid
    assert result.bound <= result.latency * (1 + 1e-9)
    alone = Pricer(p)
    none: frozenset[int] = frozenset()
    singles = [alone.price(frozenset((op,)), none, none) for op in range(p.count)]
    assert result.latency <= sum(price.latency for price in singles if price is not None) * (1 + 1e-9)
