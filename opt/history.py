"""The course of a search as a schedule carries it: few points, and none that the answer contradicts."""

from __future__ import annotations

from collections.abc import Sequence

from instances.schedule import SearchPoint
from solvers.interface import Result

MOST_POINTS = 200
"""Points that are kept of a search: more than a picture can show apart."""

END = "end of the search"
"""Who is named for the last point."""


def search_points(result: Result) -> tuple[SearchPoint, ...]:
    """Objective and bound over time (s, ns) from a result's events, at most :data:`MOST_POINTS`, to the end.

    Objectives never rise and bounds never fall, also where a second solver had to begin anew. A latency below the
    answer's, or a bound above, belonged to what failed its replay and is not told.
    """
    objective_ns: int | None = None
    bound_ns = 0
    points: list[SearchPoint] = []
    for event in result.events:
        found = event.objective_ns
        if found is not None and found >= result.objective_ns:
            objective_ns = found if objective_ns is None else min(found, objective_ns)
        bound_ns = max(bound_ns, event.bound_ns if event.bound_ns <= result.bound_ns else 0)
        point = _point(event.time_s, objective_ns, bound_ns, event.source)
        if not points or (points[-1].objective_ns, points[-1].bound_ns) != (objective_ns, bound_ns):
            points.append(point)
    last_s = max(result.runtime_s, points[-1].time_s if points else 0.0)
    return (*_thinned(points, MOST_POINTS - 1), _point(last_s, result.objective_ns, result.bound_ns, END))


def _point(time_s: float, objective_ns: int | None, bound_ns: int, source: str) -> SearchPoint:
    return SearchPoint(time_s=round(time_s, 3), objective_ns=objective_ns, bound_ns=bound_ns, source=source)


def _thinned(points: Sequence[SearchPoint], most: int) -> list[SearchPoint]:
    """Evenly spread ones, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]
