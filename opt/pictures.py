"""The picture that a result shows of itself in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from instances.instance import Instance
from instances.schedule import Schedule

MOST_KERNELS = 300
"""Longer schedules have no picture: a notebook would carry megabytes in which nothing can be told apart."""

WIDTH_PX = 960
"""Width of the picture."""


def picture_of(instance: Instance, schedule: Schedule) -> Callable[[], str] | None:
    """What draws the timeline of a schedule as SVG once it is asked to; ``None`` where it would be too long."""
    return partial(_timeline, instance, schedule) if len(schedule.kernels) <= MOST_KERNELS else None


def _timeline(instance: Instance, schedule: Schedule) -> str:
    from reports.figures import timeline_svg

    return timeline_svg(instance, schedule, WIDTH_PX)
