"""From when to when a made tensor must have a place in HBM."""

from __future__ import annotations

from dataclasses import dataclass

from instances.graph import Graph, Role
from instances.schedule import MoveKind, Schedule, Source


@dataclass(frozen=True)
class HbmLife:
    """A made tensor in HBM over ``[start_ns, end_ns)``: from who writes it first to who reads it last."""

    tensor: str
    size_bytes: int
    start_ns: int
    end_ns: int


def hbm_lives(graph: Graph, schedule: Schedule) -> tuple[HbmLife, ...]:
    """Made tensors that reach HBM, by start and name.

    A life begins with the kernel or the spill that writes, and ends with the last kernel or fill that reads; outputs
    live until the schedule ends. Tensors that were in HBM before keep the place that they have.
    """
    begin: dict[str, int] = {}
    end: dict[str, int] = {}

    def held(tensor: str, start_ns: int, end_ns: int, writes: bool) -> None:
        if graph.tensor[tensor].role.starts_in_hbm:
            return
        if writes:
            begin[tensor] = min(begin.get(tensor, start_ns), start_ns)
        end[tensor] = max(end.get(tensor, end_ns), end_ns)

    for kernel in schedule.kernels:
        for write in kernel.writes:
            if write.hbm:
                held(write.tensor, kernel.start_ns, kernel.end_ns, writes=True)
        for read in kernel.reads:
            if read.source is Source.HBM:
                held(read.tensor, kernel.start_ns, kernel.end_ns, writes=False)
    for move in schedule.moves:
        if move.kind is not MoveKind.PREFETCH:
            held(move.tensor, move.start_ns, move.end_ns, writes=move.kind is MoveKind.SPILL)
    lives = []
    for tensor, start in begin.items():
        last = schedule.latency_ns if graph.tensor[tensor].role is Role.OUTPUT else end[tensor]
        lives.append(HbmLife(tensor, graph.tensor[tensor].size_bytes, start, max(last, end[tensor])))
    return tuple(sorted(lives, key=lambda life: (life.start_ns, life.tensor)))
