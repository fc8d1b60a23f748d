"""Packing of buffers as library functions; what comes out is checked by `instances.packing`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from instances.errors import InfeasibleError, InputError, NoScheduleError, TilewrightError
from instances.packing import Buffer, faults, greatest_load
from solvers.interface import available_workers

if TYPE_CHECKING:
    from formulations.packing import Lowest

SECONDS_FOR_A_CONFLICT = 5.0
"""How long fewer buffers are looked for that do not fit, once it is proven that all do not."""


def pack(
    buffers: Iterable[Buffer],
    capacity: int,
    alignment: int = 1,
    *,
    time_limit: float = 60.0,
    workers: int = 0,
    seed: int = 0,
) -> list[int]:
    """Offsets for buffers with known lifetimes, none overlapping another in address and time.

    Parameters
    ----------
    buffers
        What is to be placed (``instances.packing.Buffer``); their own alignments and given offsets are kept.
    capacity, alignment
        Bytes that there are, and a multiple that every offset is of; a buffer takes whole multiples of it.
    workers
        Threads; 0 takes all CPUs.

    Raises
    ------
    InfeasibleError
        Where it is proven that they do not fit; the sentence names the instant of greatest load where that is why.
    NoScheduleError
        Where no packing was found in time, and none is proven not to be.
    """
    from formulations.packing import blocks_of, fewer_in_conflict, find_packing

    asked = list(buffers)
    if capacity < 1 or alignment < 1:
        raise InputError(f"capacity {capacity} and alignment {alignment}: give positive numbers of bytes")
    load, instant = greatest_load(asked, alignment)
    if load > capacity:
        raise InfeasibleError(
            f"the buffers that live at time {instant} take {load} bytes, {load - capacity} more than {capacity}"
        )
    blocks = blocks_of(asked)
    deadline = time.monotonic() + time_limit
    found = find_packing(blocks, capacity, alignment, deadline, workers or available_workers(), seed)
    if found.offsets is None:
        if found.proven:
            conflict = list(range(len(asked))) if found.conflict is None else found.conflict
            until = min(deadline, time.monotonic() + SECONDS_FOR_A_CONFLICT)
            fewer = fewer_in_conflict(blocks, capacity, alignment, conflict, until)
            raise InfeasibleError(_conflict(asked, [asked[i] for i in fewer], capacity, load))
        raise NoScheduleError(f"no packing into {capacity} bytes was found in {time_limit:g} s; give more time")
    _require_sound(asked, found.offsets, capacity)
    return found.offsets


def pack_lowest(
    buffers: Iterable[Buffer], alignment: int = 1, *, time_limit: float = 60.0, workers: int = 0, seed: int = 0
) -> Lowest:
    """The lowest packing found in time, with a bound below which there is none.

    Parameters are those of :func:`pack`. Raises :class:`InfeasibleError` where given places contradict each other.
    """
    from formulations.packing import blocks_of, find_lowest

    asked = list(buffers)
    if alignment < 1:
        raise InputError(f"alignment {alignment}: give a positive number of bytes")
    blocks = blocks_of(asked)
    deadline = time.monotonic() + time_limit
    try:
        found = find_lowest(
            blocks, alignment, greatest_load(asked, alignment)[0], deadline, workers or available_workers(), seed
        )
    except ValueError as error:
        raise InfeasibleError(f"the buffers cannot be packed at all: {error}") from None
    _require_sound(asked, found.offsets, found.height)
    return found


def _conflict(buffers: list[Buffer], members: list[Buffer], capacity: int, load: int) -> str:
    """Why buffers that fit at every instant cannot be packed: those that exclude each other."""
    named = ", ".join(repr(buffer.id) for buffer in members[:12])
    more = f" and {len(members) - 12} more" if len(members) > 12 else ""
    since, until = min(buffer.lower for buffer in members), max(buffer.upper for buffer in members)
    return (
        f"{len(members)} of {len(buffers)} buffers do not fit into {capacity} bytes, though no more than {load} live "
        f"at one time; proven for these, which live from {since} to {until}: {named}{more}"
    )


def _require_sound(buffers: list[Buffer], offsets: list[int], capacity: int) -> None:
    """That a packing breaks no rule, whoever made it."""
    wrong = faults(buffers, offsets, capacity)
    if wrong:
        raise TilewrightError(f"the packing is wrong, which is our mistake: {wrong[0]}")
