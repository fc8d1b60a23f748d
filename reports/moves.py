"""What is known of each explicit move: how much, when, for whom, and how much of the channel's idle time it took."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from instances.schedule import Move, MoveKind, Source
from reports.facts import Facts, KernelFacts, move_bytes


@dataclass(frozen=True)
class MoveFacts:
    """A move with what follows from it. Times in ns.

    Parameters
    ----------
    reader
        The first kernel that reads the tensor after the move where the move has put it; ``None`` where none does.
    fill
        The move that brings a spilled tensor back before any such reader.
    wait_ns
        From the end of the move to that reader or fill.
    idle_ns
        How long the channel has no kernel's phase around the move: the time that moves could use.
    under_ns
        How much of the move runs while some kernel does.
    """

    move: Move
    size_bytes: int
    reader: KernelFacts | None
    fill: Move | None
    wait_ns: int | None
    idle_ns: int
    under_ns: int

    @property
    def duration_ns(self) -> int:
        """Time on the channel."""
        return self.move.end_ns - self.move.start_ns


def move_key(move: Move) -> str:
    """What names a move among the reasons that a report is given: kind and tensor, ``prefetch l0.w_up``."""
    return f"{move.kind.value} {move.tensor}"


def move_facts(facts: Facts) -> tuple[MoveFacts, ...]:
    """All explicit moves in order of start."""
    phases = sorted((r.kernel.hbm_start_ns, r.hbm_end_ns) for r in facts.kernels if r.kernel.hbm_start_ns is not None)
    running = _union([(row.kernel.start_ns, row.kernel.end_ns) for row in facts.kernels])
    readers: dict[tuple[str, Source], list[KernelFacts]] = {}
    for row in facts.kernels:
        for read in row.kernel.reads:
            readers.setdefault((read.tensor, read.source), []).append(row)
    fills = [move for move in facts.schedule.moves if move.kind is MoveKind.FILL]
    found = []
    for move in sorted(facts.schedule.moves, key=lambda one: (one.start_ns, one.tensor)):
        spilled = move.kind is MoveKind.SPILL
        later = readers.get((move.tensor, Source.HBM if spilled else Source.L2), ())
        reader = next((row for row in later if row.kernel.start_ns >= move.end_ns), None)
        back = [one for one in fills if spilled and one.tensor == move.tensor and one.start_ns >= move.end_ns]
        fill = min(back, key=lambda one: one.start_ns, default=None)
        if fill is not None and reader is not None:
            fill, reader = (fill, None) if fill.start_ns < reader.kernel.start_ns else (None, reader)
        until = reader.kernel.start_ns if reader else fill.start_ns if fill else None
        found.append(
            MoveFacts(
                move,
                move_bytes(facts.instance, move),
                reader,
                fill,
                None if until is None else until - move.end_ns,
                _idle_ns(phases, move, facts.span_ns),
                sum(max(0, min(end, move.end_ns) - max(start, move.start_ns)) for start, end in running),
            )
        )
    return tuple(found)


def _idle_ns(phases: list[tuple[int, int]], move: Move, span_ns: int) -> int:
    """From the end of the kernel phase before a move to the begin of the one after it."""
    after = bisect_right(phases, (move.start_ns, move.start_ns))
    begin = phases[after - 1][1] if after else 0
    end = phases[after][0] if after < len(phases) else span_ns
    return max(0, end - begin)


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
