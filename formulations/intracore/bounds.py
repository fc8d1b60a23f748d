"""Proven lower bounds for the three sub-problems of tile operations, each with the name of its argument.

No legal answer goes below any of them, by the judge's default rules: L0A, L0B and L0C hold one live buffer at a time in
sub-problem 1, and whatever fits in the others.
"""

from __future__ import annotations

import time

from formulations.intracore.duration import energy_bound, heads_and_tails_of, path_bound, pipe_bounds, spill_bound
from formulations.intracore.parts import parts_bound
from formulations.intracore.residency import (
    NEVER,
    Lives,
    cut_bound,
    first_end_bound,
    watched_bound,
    watched_groups_bound,
)
from formulations.intracore.traffic import deficits, windows
from formulations.intracore.volume import volume
from instances.intracore import COUNTED, Place, TileTask

SECONDS = 20.0
"""Time of the bounds of a sub-problem where none is given; what is left out after that costs strength alone."""


def residency_bounds(task: TileTask, seconds: float = SECONDS, known: int | None = None) -> dict[str, int]:
    """Units of L1 and UB that every order of sub-problem 1 needs at some moment.

    ``known``: the residency of some order; no time goes into bounds beyond it.

    ``buffer``: the largest buffer. ``operation``: the buffers of one operation. ``cut``: the least that is live while
    one operation runs, by :func:`~formulations.intracore.residency.cut_bound`. ``ends``: what is live when buffers
    first end or last begin, by :func:`~formulations.intracore.residency.first_end_bound`. ``watched`` and ``groups``:
    the same by cuts, :func:`~formulations.intracore.residency.watched_bound` and
    :func:`~formulations.intracore.residency.watched_groups_bound`; where neither gets above the others, they say what
    the best of those says.
    """
    begun = time.monotonic()
    lives, backwards = Lives(task), Lives(task, backwards=True)
    found = {
        "buffer": max((one.size for one in task.buffers if one.place in COUNTED), default=0),
        "operation": max(lives.own(node) for node in task.order),
        "cut": cut_bound(lives, begun + seconds / 8),
        "ends": first_end_bound(lives, begun + seconds / 4),
    }
    best = max(found.values())
    for name, argument in (("watched", watched_bound), ("groups", watched_groups_bound)):
        for ahead in (backwards, lives):
            left = begun + seconds - time.monotonic()
            best = argument(ahead, best, time.monotonic() + 0.4 * left, NEVER if known is None else known)
        found[name] = best
    return found


def traffic_bounds(task: TileTask, seconds: float = SECONDS) -> dict[str, int]:
    """Units of extra traffic that every answer has.

    ``deficit``: what is live at one moment and does not fit, summed over the memories, by
    :func:`~formulations.intracore.traffic.deficits`. ``parts``: the same, or the sum over small parts of what each
    needs, by :func:`~formulations.intracore.parts.parts_bound`, whichever is larger for a memory. ``windows``: what a
    stretch of the operations works on and does not fit, by :func:`~formulations.intracore.traffic.windows`. ``volume``:
    the same where products of tiles are added up, which may leave a sum and come back to it, by
    :func:`~formulations.intracore.volume.volume`.
    """
    begun = time.monotonic()
    beyond = deficits(task, begun + seconds / 4)
    by_parts = 0
    for place in Place:
        least = beyond.get(place, 0)
        if place in COUNTED:
            left = begun + seconds - time.monotonic()
            least = max(least, parts_bound(task, place, time.monotonic() + left * (0.7 if place is Place.L1 else 1)))
        by_parts += least
    return {"deficit": sum(beyond.values()), "parts": by_parts, "windows": windows(task), "volume": volume(task)}


def time_bounds(task: TileTask, most_traffic: int | None = None, least_traffic: int = 0) -> dict[str, int]:
    """Cycles that every answer takes, of those with at most ``most_traffic`` units of extra traffic where it is given.

    ``least_traffic``: a proven bound on the extra traffic, such as the largest of :func:`traffic_bounds`.

    ``path``: longest path of operations. ``pipe MTE1`` and so on: operations of a pipe one at a time, each with what it
    waits for and what waits for it. ``spills``: MTE2 and MTE3 with the moves of the spills. ``energy``: sizes times
    stays of the buffers of one memory, over its capacity. See :mod:`formulations.intracore.duration`.
    """
    heads, tails = heads_and_tails_of(task)
    found = {"path": path_bound(task)}
    found |= {f"pipe {pipe.value}": value for pipe, value in pipe_bounds(task, heads, tails).items()}
    found["spills"] = spill_bound(task, heads, tails, least_traffic)
    found["energy"] = energy_bound(task, heads, tails, most_traffic)
    return found
