"""A kernel's modulo schedule as programs: its loop unrolled, each pipe in the order of the schedule.

Of the schedule's times the programs hold none, only orders, slots and flags: how long everything takes with L2 shared
by all cores comes out of the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from instances.costs import attention, cube, vector
from instances.fusion import Fusion
from instances.kernels import KernelKind, Rule, Tiling
from instances.pipelines.course import waits
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from opt.simulation.parts import dealt
from opt.simulation.program import Op, Program

PS_PER_NS = 1000


def pipeline_programs(
    fusion: Fusion, tiling: Tiling, loop: KernelLoop, schedule: PipelineSchedule
) -> Iterator[Program]:
    """What the cores of a kernel run, that of the busiest first; all that is loaded lies in L2."""
    most = 0
    for items, cores in dealt(_items(fusion, tiling), tiling.aic or tiling.aiv):
        most = most or items
        yield Program(tuple(_unrolled(loop, schedule, loop.iterations * items / most)), cores)


def _items(fusion: Fusion, tiling: Tiling) -> int:
    """What is dealt out to the cores: tiles of the result, blocks of query rows, tiles of rows."""
    if fusion.kind is KernelKind.VECTOR:
        return -(-vector.row_count(fusion) // tiling.tile[vector.key(fusion)])
    if fusion.rule is Rule.ATTENTION:
        shape = attention.attention_shape(fusion)
        return shape.batch * -(-shape.m // tiling.tile[shape.m_key]) * tiling.parts.get(shape.n_key, 1)
    return cube.cut_blocks(fusion, tiling).items


def _unrolled(loop: KernelLoop, schedule: PipelineSchedule, iterations: float) -> Iterator[Op]:
    """All operations in order of the schedule; iterations that are not whole are all shorter by the same share."""
    body, ii, begins = loop.body, schedule.ii_ps, schedule.start_ps
    count, turns = len(body.ops), max(1, math.ceil(iterations))
    part = min(1.0, iterations / turns)
    nodes = sorted(
        ((k, op) for k in range(turns) for op in range(count)), key=lambda node: (begins[node[1]] + node[0] * ii, node)
    )
    entry = 1 if loop.entry_ps else 0
    place = {node: number + entry for number, node in enumerate(nodes)}
    into: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for source, target, latency in waits(body, schedule, 0, turns, pipes=False):
        into.setdefault(target, []).append((place[source], latency))
    if entry:
        yield _moved("mte2", loop.entry_ps, loop.entry_bytes, 1.0, (), ())
    for k, number in nodes:
        op = body.ops[number]
        ended = [0] if entry and not k and op.pipe == "mte1" else []
        begun = []
        for at, latency in into.get((k, number), ()):
            other = body.ops[nodes[at - entry][1]]
            if latency == other.busy_ps:
                ended.append(at)
            elif other.busy_ps:
                begun.append((at, latency / other.busy_ps))
        if op.l2_bytes and op.work_ps:
            yield _moved(op.pipe, op.work_ps, op.l2_bytes, part, tuple(ended), tuple(begun))
        else:
            yield Op(op.pipe, part * op.busy_ps / PS_PER_NS, waits=tuple(ended), after=tuple(begun))


def _moved(
    pipe: str, port_ps: int, moved: int, part: float, waits: tuple[int, ...], after: tuple[tuple[int, float], ...]
) -> Op:
    """A move at the rate of its port, its start-up counted as a lower rate."""
    rate = moved * PS_PER_NS / port_ps
    return Op(pipe, 0.0, moved_bytes=part * moved, rate=rate, waits=waits, after=after)
