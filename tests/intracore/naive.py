"""The rules of tile operations once more, straight from the statement: every edge written out, every pair looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

from instances.intracore import COUNTED, Pipe, TileAnswer, TileTask, spill_cycles


@dataclass(frozen=True)
class Stay:
    """A buffer at an offset, from the node that claims it to the node that releases it."""

    buffer: int
    offset: int | None
    claim: int
    release: int


def stays(task: TileTask, answer: TileAnswer, position: dict[int, int]) -> list[Stay]:
    """Where every buffer lies, in the order of its spills in the schedule."""
    found = []
    for one in task.buffers:
        moves = [k for k, spill in enumerate(answer.spills) if spill.buffer == one.id]
        moves.sort(key=lambda k: position[task.count + 2 * k])
        claim, offset = one.alloc, answer.offsets.get(one.id)
        for k in moves:
            found.append(Stay(one.id, offset, claim, task.count + 2 * k))
            claim, offset = task.count + 2 * k + 1, answer.spills[k].offset
        found.append(Stay(one.id, offset, claim, one.free))
    return found


def spill_edges(task: TileTask, answer: TileAnswer, position: dict[int, int]) -> Iterator[tuple[int, int]]:
    """ALLOC, out, back, FREE; users and other spill nodes before out, or after back."""
    for k, spill in enumerate(answer.spills):
        one = task.buffer[spill.buffer]
        out, back = task.count + 2 * k, task.count + 2 * k + 1
        yield from ((one.alloc, out), (out, back), (back, one.free))
        others = [
            task.count + 2 * j + side
            for j, other in enumerate(answer.spills)
            if other.buffer == one.id and j != k
            for side in (0, 1)
        ]
        for node in (*task.users[one.id], *others):
            yield (node, out) if position[node] < position[out] else (back, node)


def touches(task: TileTask, a: Stay, b: Stay) -> bool:
    """Whether two stays have a cell in common at whatever time."""
    first, second = task.buffer[a.buffer], task.buffer[b.buffer]
    if first.place != second.place or a.offset is None or b.offset is None:
        return False
    return a.offset < b.offset + second.size and b.offset < a.offset + first.size


def is_legal(task: TileTask, answer: TileAnswer, problem: int, single_l0: bool = False) -> bool:
    """Whether no rule is broken."""
    known = {one.id for one in task.buffers}
    if {spill.buffer for spill in answer.spills} - known or set(answer.offsets) - known:
        return False
    if sorted(answer.order) != list(range(task.count + 2 * len(answer.spills))):
        return False
    position = {node: place for place, node in enumerate(answer.order)}
    edges = [*task.edges, *spill_edges(task, answer, position)]
    edges += [(one.alloc, node) for one in task.buffers for node in (*task.users[one.id], one.free)]
    edges += [(node, one.free) for one in task.buffers for node in task.users[one.id]]
    if any(position[a] > position[b] for a, b in edges):
        return False
    if problem == 1 or single_l0:
        for a, b in combinations([one for one in task.buffers if one.place not in COUNTED], 2):
            if a.place == b.place and not (
                position[a.free] < position[b.alloc] or position[b.free] < position[a.alloc]
            ):
                return False
    if problem == 1:
        return not answer.spills
    found = stays(task, answer, position)
    for stay in found:
        one = task.buffer[stay.buffer]
        if stay.offset is None or not 0 <= stay.offset <= task.capacity[one.place] - one.size:
            return False
    return not any(
        touches(task, a, b) and position[a.claim] < position[b.release] and position[b.claim] < position[a.release]
        for a, b in combinations(found, 2)
    )


def makespan(task: TileTask, answer: TileAnswer, literal: bool) -> int:
    """Longest path through the graph of a legal answer."""
    position = {node: place for place, node in enumerate(answer.order)}
    edges = [*task.edges, *spill_edges(task, answer, position)]
    found = stays(task, answer, position)
    claims, frees = {one.alloc for one in task.buffers}, {one.free for one in task.buffers}
    for a, b in permutations(found, 2):
        counts = not literal or (a.release in frees and b.claim in claims)
        if counts and touches(task, a, b) and position[a.release] < position[b.claim]:
            edges.append((a.release, b.claim))
    cycles = {op.id: (op.pipe, op.cycles) for op in task.operations}
    for k, spill in enumerate(answer.spills):
        whole = spill_cycles(task.buffer[spill.buffer].size)
        cycles[task.count + 2 * k] = (Pipe.MTE3, 0 if spill.buffer in task.backed else whole)
        cycles[task.count + 2 * k + 1] = (Pipe.MTE2, whole)
    for pipe in Pipe:
        queue = [node for node in answer.order if cycles.get(node, (None, 0))[0] is pipe]
        edges += pairwise(queue)
    before: dict[int, list[int]] = {}
    for a, b in edges:
        before.setdefault(b, []).append(a)
    end: dict[int, int] = {}
    for node in answer.order:
        end[node] = max((end[other] for other in before.get(node, ())), default=0) + cycles.get(node, (None, 0))[1]
    return max(end.values())
