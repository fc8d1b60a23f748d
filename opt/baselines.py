"""What the schedules of today take on the same question, to hold an answer against: seconds, not a search."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from instances.errors import NoScheduleError
from instances.instance import Instance
from opt import api

BASELINES = ("stack", "unfused")
"""Solvers that say what runs today: the fused kernels that stacks ship, and one kernel per operator."""

TIME_LIMIT_S = 60.0
"""Most seconds for each; they take one or two on a whole model."""

_log = logging.getLogger(__name__)


def baseline_latencies(instance: Instance, names: Sequence[str] = BASELINES) -> dict[str, int]:
    """Latencies of the baselines in ns by name; one that has no schedule for the instance is left out.

    Their bounds are not asked for: what is known of the answer's bound is known of theirs.
    """
    found = {}
    for name in names:
        try:
            found[name] = api.solve(instance, TIME_LIMIT_S, name, workers=1, first_feasible=True).objective_ns
        except NoScheduleError as error:
            _log.info("no baseline %s: %s", name, error)
    return found
