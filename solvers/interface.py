"""What all solvers share: options in, events on the way, a result out."""

from __future__ import annotations

import base64
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from instances.errors import InputError
from instances.instance import Instance
from instances.notebook import html_table
from instances.schedule import Schedule, Status

CGROUP_FILES = (
    ("/sys/fs/cgroup/cpu.max", ""),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Where quota and period of CPU time are, by version of control groups: both in one file, or one each."""

MOST_WORKERS = 1024
"""Largest number of threads; more would only swap."""


@dataclass(frozen=True)
class Event:
    """Progress: the best latency and bound so far (ns), after ``time_s`` seconds, and who found it."""

    time_s: float
    objective_ns: int | None
    bound_ns: int
    source: str

    @property
    def gap(self) -> float:
        """Relative distance of objective and bound; 1 where there is no objective."""
        return 1.0 if self.objective_ns is None else (self.objective_ns - self.bound_ns) / max(1, self.objective_ns)


Listener = Callable[[Event], bool | None]
"""Hears of improvements; says true to stop the search."""


def available_workers() -> int:
    """CPUs that this process may use: its affinity, cut down to the CPU time that its control group grants."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _granted_cpus())))


def _granted_cpus() -> float:
    """CPU time per time that the control group grants, by version 2 or 1 of its files; infinite without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (``cpu.max``: quota or ``max``, period) and
    https://docs.kernel.org/scheduler/sched-bwc.html (``cpu.cfs_quota_us``: -1 without a limit).
    """
    for quota_file, period_file in CGROUP_FILES:
        try:
            words = " ".join(Path(name).read_text() for name in (quota_file, period_file) if name).split()
            quota, period = float(words[0].replace("max", "inf")), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        return quota / period if quota > 0 < period else math.inf
    return math.inf


@dataclass(frozen=True)
class Options:
    """How to solve; every number is checked, :class:`InputError` on one that makes no sense or would overflow.

    Parameters
    ----------
    time_limit_s
        Seconds from ``started`` to the answer, model building included.
    workers
        Threads of the search; 0 takes the CPUs that the process may use.
    seed
        Seed of the search.
    gap
        Stop when the relative gap is at most this.
    first_feasible
        Stop at the first schedule.
    patience_s
        Stop when no better schedule was found for so many seconds; ``None``: never for that reason.
    should_stop
        Asked several times a second, from any thread; the search stops where it says so.
    warm_start
        A valid schedule of the same instance to start from; the answer is never worse.
    deterministic_limit
        Bound of the search in CP-SAT's deterministic time instead of seconds; with one worker and a seed the
        answer is the same on every run.
    leave_out
        Constraint families of the joint model to leave out (the answer is then a relaxation and not a schedule
        unless they are redundant).
    started
        ``time.monotonic()`` at which the clock of the time limit started.
    on_event
        Called with each improvement of objective or bound, from any thread; the search stops where it returns true.
    on_schedule
        Called with each better schedule, complete and sealed, from any thread.
    memory_limit_mib
        Stop when the process holds more memory than this (MiB), with the best so far; ``None``: without a limit.
    log
        Called with each line of the solver's own log.
    """

    time_limit_s: float = 60.0
    workers: int = 0
    seed: int = 0
    gap: float = 0.0
    first_feasible: bool = False
    patience_s: float | None = None
    should_stop: Callable[[], bool] | None = None
    warm_start: Schedule | None = None
    deterministic_limit: float | None = None
    leave_out: frozenset[str] = frozenset()
    started: float = field(default_factory=time.monotonic)
    on_event: Listener | None = None
    on_schedule: Callable[[Schedule], None] | None = None
    memory_limit_mib: int | None = None
    log: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_limit_s):
            raise InputError(
                f"time limit {self.time_limit_s} is not a number of seconds; give the seconds you can spare"
            )
        if not self.time_limit_s > 0:
            raise InputError(f"time limit {self.time_limit_s} is not above zero; give the seconds you can spare")
        if self.workers < 0:
            raise InputError(f"workers {self.workers} is negative; give a count, or 0 for all CPUs")
        if self.workers > MOST_WORKERS:
            raise InputError(f"workers {self.workers} is above {MOST_WORKERS}; give a count, or 0 for all CPUs")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed} is not in 0 to {2**31 - 1}; give another")
        if not 0 <= self.gap < 1:
            raise InputError(f"gap {self.gap} is not in [0, 1); give a fraction such as 0.01")
        if self.patience_s is not None and not (math.isfinite(self.patience_s) and self.patience_s > 0):
            raise InputError(f"patience {self.patience_s} is not above zero; give seconds, such as 10")
        if self.memory_limit_mib is not None and self.memory_limit_mib < 1:
            raise InputError(f"memory limit {self.memory_limit_mib} is not above zero; give MiB, such as 4096")
        limit = self.deterministic_limit
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise InputError(f"deterministic limit {limit} is not above zero; give a number such as 10")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the clock started."""
        return time.monotonic() - self.started

    @property
    def remaining_s(self) -> float:
        """Seconds left, not below zero."""
        return max(0.0, self.time_limit_s - self.elapsed_s)

    @property
    def worker_count(self) -> int:
        """Threads to use."""
        return self.workers or available_workers()


@dataclass(frozen=True)
class Result:
    """A schedule with its bound. Times in ns.

    ``bounds_ns`` has one entry per argument; ``bound_by`` names the best. ``covers`` says in which decision space
    the bound holds. ``events`` are the improvements on the way. ``picture`` draws the schedule as SVG where whoever
    made the result knows how to; notebooks show it.
    """

    schedule: Schedule
    runtime_s: float
    workers: int
    seed: int
    events: tuple[Event, ...] = ()
    picture: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        search = ("search", f"{self.runtime_s:.2f} s, {self.workers} workers, seed {self.seed}")
        table = html_table("Result", [*self.schedule.rows(), search])
        if self.picture is None:
            return table
        # as an image, so that its style stays its own
        drawn = base64.b64encode(self.picture().encode()).decode()
        return f'{table}<img alt="Timeline of the schedule" src="data:image/svg+xml;base64,{drawn}">'

    @property
    def objective_ns(self) -> int:
        """Latency of the schedule."""
        return self.schedule.latency_ns

    @property
    def bound_ns(self) -> int:
        """Best proven lower bound."""
        return self.schedule.proof.bound_ns

    @property
    def bound_by(self) -> str:
        """Name of the argument that gave the bound."""
        return self.schedule.proof.bound_by

    @property
    def bounds_ns(self) -> dict[str, int]:
        """All bounds by argument."""
        return self.schedule.proof.bounds_ns

    @property
    def covers(self) -> str:
        """Decision space in which the bound holds."""
        return self.schedule.proof.covers

    @property
    def gap(self) -> float:
        """Relative distance of latency and bound."""
        return self.schedule.gap

    @property
    def status(self) -> Status:
        """Optimal where bound and latency are the same integer."""
        return self.schedule.proof.status

    @property
    def solver(self) -> str:
        """Name of the solver."""
        return self.schedule.proof.solver

    def __str__(self) -> str:
        return (
            f"latency {self.objective_ns} ns ({self.status.value}, {self.solver})\n"
            f"bound   {self.bound_ns} ns by {self.bound_by}, gap {100 * self.gap:.2f} %\n"
            f"kernels {len(self.schedule.kernels)}, moves {len(self.schedule.moves)}\n"
            f"time    {self.runtime_s:.2f} s, {self.workers} workers, seed {self.seed}"
        )


class Solver(Protocol):
    """A way to answer an instance."""

    def __call__(self, instance: Instance, options: Options) -> Result:
        """A valid schedule with its bound."""
        ...
