"""Small loops for tests, and their least interval by trying everything."""

from __future__ import annotations

from itertools import product

from hypothesis import strategies as st

from instances.machine import MemoryName
from instances.pipelines.loop import Dependence, LoopKernel, Ring, TileOp, Use

ROOM = 6
"""Bytes of the one memory that the loops have."""


def loop_of(
    ops: list[tuple[str, int]],
    waits: list[tuple[int, int, int, int]],
    rings: list[tuple[int, int, int]] = (),  # type: ignore[assignment]
    cyclic: bool = True,
    room: int = ROOM,
) -> LoopKernel:
    """Operations as (pipe, length), waits as (source, target, latency, distance), rings as (fill, reader, size)."""
    return LoopKernel(
        cyclic=cyclic,
        ops=tuple(TileOp(name=f"op{n}", pipe=pipe, busy_ps=ps, work_ps=ps) for n, (pipe, ps) in enumerate(ops)),
        dependences=tuple(Dependence(source=s, target=t, latency_ps=latency, distance=w) for s, t, latency, w in waits),
        rings=tuple(
            Ring(
                name=f"ring{n}",
                memory=MemoryName.UB,
                size_bytes=size,
                uses=(Use(fill=fill, readers=(reader,)),),
                most=max(1, min(4, (room - sum(s for k, (_, _, s) in enumerate(rings) if k != n)) // size)),
            )
            for n, (fill, reader, size) in enumerate(rings)
        ),
        held=(),
        room_bytes={MemoryName.UB: room} if rings else {},
    )


@st.composite
def small_loops(draw: st.DrawFn) -> LoopKernel:
    """Two to four operations on up to two pipes, in a chain with a wait around, and up to two buffers."""
    count = draw(st.integers(2, 4))
    ops = [(draw(st.sampled_from(["in", "work"])), draw(st.integers(1, 3))) for _ in range(count)]
    waits = [(n, n + 1, ops[n][1], 0) for n in range(count - 1) if draw(st.booleans())]
    if draw(st.booleans()):
        back, to = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        waits.append((back, to, draw(st.integers(1, 4)), draw(st.integers(1, 2))))
    rings = []
    for _ in range(draw(st.integers(0, 2))):
        fill = draw(st.integers(0, count - 2))
        reader = draw(st.integers(fill + 1, count - 1))
        rings.append((fill, reader, draw(st.integers(1, 3))))
        waits.append((fill, reader, ops[fill][1], 0))
    return loop_of(ops, waits, rings)


def least_by_trying(loop: LoopKernel, most: int = 40) -> int | None:
    """The least interval: every number of slots, every place of every operation on the circle."""
    for ii in range(1, most):
        if _runs(loop, ii):
            return ii
    return None


def _runs(loop: LoopKernel, ii: int) -> bool:
    count = len(loop.ops)
    free = [places for places in product(range(ii), repeat=count) if places[0] == 0 and not _clash(loop, places, ii)]
    for slots in product(*(range(1, ring.most + 1) for ring in loop.rings)):
        held = sum(ring.size_bytes * n for ring, n in zip(loop.rings, slots, strict=True))
        if loop.rings and held > loop.room_bytes[MemoryName.UB]:
            continue
        waits = [(d.source, d.target, d.latency_ps, d.distance) for d in loop.dependences]
        for ring, n in zip(loop.rings, slots, strict=True):
            (use,) = ring.uses
            waits += [(reader, use.fill, loop.ops[reader].busy_ps, n) for reader in use.readers]
        if any(_stages(places, waits, ii) for places in free):
            return True
    return False


def _clash(loop: LoopKernel, places: tuple[int, ...], ii: int) -> bool:
    """Whether a pipe is held twice at some instant of the circle."""
    taken = set()
    for op, place in zip(loop.ops, places, strict=True):
        for instant in range(op.busy_ps):
            key = (op.pipe, (place + instant) % ii)
            if key in taken:
                return True
            taken.add(key)
    return False


def _stages(places: tuple[int, ...], waits: list[tuple[int, int, int, int]], ii: int) -> bool:
    """Whether whole intervals can be added to the places so that every wait is kept."""
    stage = [0] * len(places)
    for _ in range(len(places) + 1):
        changed = False
        for source, target, latency, distance in waits:
            least = stage[source] + -((places[target] - places[source] - latency) // ii) - distance
            if least > stage[target]:
                stage[target], changed = least, True
        if not changed:
            return True
    return False
