"""Answers corrupted in many ways: the judge and the rules written out plainly agree on each, to the cycle."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from instances.intracore import TileAnswer, TileTask
from instances.intracore_samples import flash_attention, matmul
from opt.intracore import solve_tiles
from opt.replay.intracore import Rules, judge_tiles
from tests.intracore.handmade import CHAIN, CHAIN_ANSWER, TWICE, TWICE_ANSWER
from tests.intracore.naive import is_legal, makespan

Corruption = Callable[[TileTask, TileAnswer, random.Random], TileAnswer]

ROUNDS = 14
"""Draws of each kind on each answer."""

OFTEN_LEGAL = ("swap of neighbours", "node elsewhere", "other offset", "other offset of a spill", "spills exchanged")
"""Kinds that may well leave an answer legal."""


def _ordered(given: TileAnswer, order: list[int]) -> TileAnswer:
    return given.model_copy(update={"order": tuple(order)})


def _elsewhere(given: TileAnswer, node: int, draw: random.Random) -> TileAnswer:
    order = [one for one in given.order if one != node]
    order.insert(draw.randrange(len(order) + 1), node)
    return _ordered(given, order)


def _spill(given: TileAnswer, number: int, **change: int) -> TileAnswer:
    spills = list(given.spills)
    spills[number] = spills[number].model_copy(update=change)
    return given.model_copy(update={"spills": tuple(spills)})


def _dropped(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    order = list(given.order)
    del order[draw.randrange(len(order))]
    return _ordered(given, order)


def _doubled(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    order = list(given.order)
    order.insert(draw.randrange(len(order)), draw.choice(order))
    return _ordered(given, order)


def _replaced(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    order = list(given.order)
    order[draw.randrange(len(order))] = draw.choice([*order[:3], len(order), 10**6])
    return _ordered(given, order)


def _swapped(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    order = list(given.order)
    place = draw.randrange(len(order) - 1)
    order[place : place + 2] = order[place + 1], order[place]
    return _ordered(given, order)


def _node_elsewhere(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _elsewhere(given, draw.choice(given.order), draw)


def _alloc_elsewhere(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _elsewhere(given, draw.choice(task.buffers).alloc, draw)


def _free_elsewhere(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _elsewhere(given, draw.choice(task.buffers).free, draw)


def _out_elsewhere(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _elsewhere(given, task.count + 2 * draw.randrange(len(given.spills)), draw)


def _back_elsewhere(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _elsewhere(given, task.count + 2 * draw.randrange(len(given.spills)) + 1, draw)


def _offset(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    one = draw.choice(task.buffers)
    offset = draw.randrange(-1, task.capacity[one.place] - one.size + 2)
    return given.model_copy(update={"offsets": {**given.offsets, one.id: offset}})


def _no_offset(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    gone = draw.choice(list(given.offsets))
    return given.model_copy(update={"offsets": {b: o for b, o in given.offsets.items() if b != gone}})


def _outside(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    one = draw.choice(task.buffers)
    offset = draw.choice([-1, -one.size, task.capacity[one.place] - one.size + 1, task.capacity[one.place], 10**9])
    return given.model_copy(update={"offsets": {**given.offsets, one.id: offset}})


def _spill_offset(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    number = draw.randrange(len(given.spills))
    one = task.buffer[given.spills[number].buffer]
    return _spill(given, number, offset=draw.randrange(-1, task.capacity[one.place] - one.size + 2))


def _spill_buffer(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return _spill(given, draw.randrange(len(given.spills)), buffer=draw.randrange(len(task.buffers) + 1))


def _spills_exchanged(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    spills = list(given.spills)
    draw.shuffle(spills)
    return given.model_copy(update={"spills": tuple(spills)})


def _spill_forgotten(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return given.model_copy(update={"spills": given.spills[:-1]})


def _spill_without_nodes(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    return given.model_copy(update={"spills": (*given.spills, given.spills[0])})


def _spilled_twice(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    number = len(given.spills)
    order = list(given.order)
    place = order.index(task.count)
    order[place + 1 : place + 1] = [task.count + 2 * number, task.count + 2 * number + 1]
    return _ordered(given.model_copy(update={"spills": (*given.spills, given.spills[0])}), order)


def _ways_back_exchanged(task: TileTask, given: TileAnswer, draw: random.Random) -> TileAnswer:
    one, other = (task.count + 2 * draw.randrange(len(given.spills)) + 1 for _ in range(2))
    return _ordered(given, [{one: other, other: one}.get(node, node) for node in given.order])


KINDS: dict[str, Corruption] = {
    "node dropped": _dropped,
    "node doubled": _doubled,
    "node replaced": _replaced,
    "swap of neighbours": _swapped,
    "node elsewhere": _node_elsewhere,
    "ALLOC elsewhere": _alloc_elsewhere,
    "FREE elsewhere": _free_elsewhere,
    "way out elsewhere": _out_elsewhere,
    "way back elsewhere": _back_elsewhere,
    "other offset": _offset,
    "no offset": _no_offset,
    "offset outside": _outside,
    "other offset of a spill": _spill_offset,
    "spill of another buffer": _spill_buffer,
    "spills exchanged": _spills_exchanged,
    "spill forgotten": _spill_forgotten,
    "spill without nodes": _spill_without_nodes,
    "spilled while out": _spilled_twice,
    "ways back exchanged": _ways_back_exchanged,
}

ALWAYS_ILLEGAL = (
    *("node dropped", "node doubled", "no offset", "offset outside", "spill forgotten", "spill without nodes"),
    "spilled while out",
)


def tight(task: TileTask, **capacity: int) -> TileTask:
    """The task in smaller memories."""
    room = {place.value: size for place, size in task.capacity.items()} | capacity
    return TileTask.model_validate({**task.model_dump(), "capacity": room})


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[TileTask, TileAnswer]]:
    """Legal answers with spills: by hand, and of a solver in memories that are too small to keep all."""
    attention, product = tight(flash_attention(2, 3), L1=512), tight(matmul(2, 2, 2), L1=512)
    found = {"chain": (CHAIN, CHAIN_ANSWER), "two": (TWICE, TWICE_ANSWER)}
    for task in (attention, product):
        result, verdict = solve_tiles(task, 2, time_limit=0.5, seed=1)
        assert verdict.valid
        if result.answer.spills:
            found[task.name] = (task, result.answer)
    return found


def agree(task: TileTask, given: TileAnswer) -> bool:
    """That the judge and the plain rules say the same; whether they say that the answer is legal."""
    for problem, single in ((2, False), (2, True), (1, False)):
        verdict = judge_tiles(task, given, Rules(problem=problem, single_l0=single))  # type: ignore[arg-type]
        assert verdict.valid == is_legal(task, given, problem, single), (given, verdict.faults)
    verdict, letter = judge_tiles(task, given), judge_tiles(task, given, Rules(reuse="literal"))
    if verdict.valid:
        assert verdict.makespan == makespan(task, given, literal=False)
        assert letter.makespan == makespan(task, given, literal=True)
        assert letter.makespan <= verdict.makespan
        sizes = [task.buffer[spill.buffer].size * (2 - (spill.buffer in task.backed)) for spill in given.spills]
        assert verdict.traffic == sum(sizes)
    return verdict.valid


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_are_seen(kind: str, answers: dict[str, tuple[TileTask, TileAnswer]]) -> None:
    seen: Counter[bool] = Counter()
    for name, (task, given) in answers.items():
        assert agree(task, given), name
        draw = random.Random(f"{kind} {name}")
        for _ in range(ROUNDS):
            seen[agree(task, KINDS[kind](task, given, draw))] += 1
    if kind in ALWAYS_ILLEGAL:
        assert not seen[True]
    if kind not in OFTEN_LEGAL:
        assert seen[False]


def test_orders_of_the_first_kind() -> None:
    """Sub-problem 1: an order alone, in which each L0 holds one buffer at a time."""
    task = matmul(1, 2, 2)
    result, verdict = solve_tiles(task, 1, time_limit=0.5)
    draw = random.Random(0)
    legal = 0
    assert verdict.residency == result.objective
    for _ in range(200):
        changed = _swapped(task, result.answer, draw)
        verdict = judge_tiles(task, changed, Rules(problem=1))
        assert verdict.valid == is_legal(task, changed, 1)
        legal += verdict.valid
    assert 0 < legal < 200
