"""Ways to pack buffers, side by side: our own, their parts, and the allocators of omnimalloc where it is installed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instances.errors import InputError
from instances.packing import Buffer, faults, greatest_load, height

METHODS = ("packing", "skyline", "first-fit")
"""Our own: all that there is; the skyline with learnt priorities alone; the best of four orders of first fit."""

RIVALS = "omnimalloc:"
"""How the name of a method begins that is an allocator of that package."""


@dataclass(frozen=True)
class PackingRun:
    """What one method did: ``height`` in bytes (``None``: no packing), a bound that it proved, and seconds.

    With a capacity, ``packing`` looks for any packing within it; all else packs as low as it can.
    """

    method: str
    height: int | None
    bound: int
    runtime_s: float


def check_method(name: str) -> None:
    """:class:`InputError` where there is no such method here."""
    if name in METHODS:
        return
    if not name.startswith(RIVALS):
        raise InputError(f"packing method {name!r} is unknown; choose {', '.join(METHODS)} or {RIVALS}NAME")
    try:
        from omnimalloc import available_allocators
    except ImportError:
        raise InputError(f"packing method {name!r} needs the package omnimalloc; install it beside this one") from None
    if name.removeprefix(RIVALS) not in available_allocators():
        raise InputError(f"omnimalloc has no {name.removeprefix(RIVALS)!r}; it has {', '.join(available_allocators())}")


def run_method(
    name: str, buffers: Sequence[Buffer], capacity: int | None, time_limit: float, workers: int, seed: int
) -> PackingRun:
    """Pack with one method; what comes out is checked, and counts as no packing where it is wrong."""
    load = greatest_load(buffers)[0]
    started = time.monotonic()
    if name.startswith(RIVALS):
        offsets, bound = _rival(name.removeprefix(RIVALS), buffers, time_limit), load
    else:
        offsets, bound = _own(name, buffers, load, capacity, started + time_limit, workers, seed)
    runtime = time.monotonic() - started
    if offsets is None or faults(buffers, offsets):
        return PackingRun(name, None, bound, runtime)
    return PackingRun(name, height(buffers, offsets), bound, runtime)


def _own(
    name: str, buffers: Sequence[Buffer], load: int, capacity: int | None, deadline: float, workers: int, seed: int
) -> tuple[list[int] | None, int]:
    from formulations.packing import blocks_of, find_lowest, find_packing
    from formulations.packing.heuristics import learn, lowest_fit

    blocks = blocks_of(buffers)
    if name == "first-fit":
        return lowest_fit(blocks), load
    if name == "skyline":
        return learn(blocks, load if capacity is None else capacity, None, deadline), load
    if capacity is not None:
        return find_packing(blocks, capacity, 1, deadline, workers, seed).offsets, load
    found = find_lowest(blocks, 1, load, deadline, workers, seed)
    return found.offsets, found.bound


def _rival(name: str, buffers: Sequence[Buffer], time_limit: float) -> list[int] | None:
    """Offsets by an allocator of omnimalloc, which knows neither alignment nor gaps; ``None`` where it gives up."""
    import omnimalloc
    from omnimalloc.allocators import BaseAllocator

    allocator: Any = BaseAllocator.resolve(name)
    if "timeout" in inspect.signature(type(allocator)).parameters:
        allocator = type(allocator)(timeout=time_limit)
    asked = [omnimalloc.Allocation(id=b.id, size=b.size, start=b.lower, end=b.upper) for b in buffers]
    try:
        placed = omnimalloc.allocate(asked, allocator=allocator)
    except (RuntimeError, ValueError, ImportError):  # what it raises where it finds nothing, or lacks a part
        return None
    offsets: dict[Any, Any] = {each.id: each.offset for each in placed}
    return [int(offsets[buffer.id]) for buffer in buffers]
