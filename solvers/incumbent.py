"""The incumbent: the best schedule and the best bounds so far, from whatever finds them, and how long to go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

from formulations.facts import Facts
from formulations.plan import Decisions
from instances.errors import NoScheduleError
from instances.instance import Instance
from instances.schedule import Schedule
from solvers.bounds import instant_bounds, prove, proven_schedule, quick_bounds, relaxation_bound
from solvers.interface import Options, Result
from solvers.periodic import Periodic, find_periodic
from solvers.progress import Progress

RESERVE_S, RESERVE_S_PER_OPERATOR = 0.5, 0.0015
"""Seconds kept back for reading an answer back, replaying it and writing it: for any, and for each operator."""

TICK_S = 0.05
"""How often the rules that depend on a clock or on somebody else are looked at."""

RELAXATION_S = 5.0
"""Seconds that a heuristic waits for the relaxation's bound, at most."""

QUICK_SHARE, QUICK_MOST_S = 0.1, 5.0
"""Share of the remaining time for the bounds that take one argument each, and its most."""


class Incumbent:
    """What the stages of a solver share.

    A stage offers schedules and proves bounds; both are reported as they come. The clock and the other stop rules are
    asked through :attr:`over`.
    """

    def __init__(self, instance: Instance, options: Options) -> None:
        self.facts = Facts(instance)
        self.options = options
        self.progress = Progress(options)
        self.bounds = instant_bounds(self.facts)
        self._best: Schedule | None = None
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._beside: list[threading.Thread] = []
        self.progress.bounds(self.bounds)

    @cached_property
    def periodic(self) -> Periodic | None:
        """The repeated blocks of a large model, if there are any."""
        return find_periodic(self.facts) if self.facts.large else None

    @property
    def best(self) -> Schedule:
        """The best schedule so far; :class:`NoScheduleError` before the first."""
        if self._best is None:
            raise NoScheduleError("the search has found no schedule")
        return self._best

    @property
    def reserve_s(self) -> float:
        """Seconds to keep back at the end."""
        return RESERVE_S + RESERVE_S_PER_OPERATOR * len(self.facts.order)

    @property
    def spare_s(self) -> float:
        """Seconds left for searching."""
        return max(0.0, self.options.remaining_s - self.reserve_s)

    @property
    def over(self) -> bool:
        """Whether a stop rule holds, the time is up, or the answer is given."""
        return self.progress.stopped or self.spare_s <= 0 or self._finished.is_set()

    def run_beside(self, work: Callable[[], None]) -> threading.Thread:
        """Run something in a thread of its own, which is to end where :attr:`over` says so."""
        thread = threading.Thread(target=work, daemon=True)
        self._beside.append(thread)
        thread.start()
        return thread

    @contextmanager
    def watching(self, stop: Callable[[], None], idle: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Call ``stop`` once the search is :attr:`over`, or ``idle`` says so, while the block runs.

        A thread of its own keeps asking.
        """
        done = threading.Event()

        def watch() -> None:
            while not done.wait(TICK_S):
                if self.over or idle():
                    stop()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def offer(self, schedule: Schedule | None, source: str) -> bool:
        """Take a valid schedule if it is better than the best one."""
        with self._lock:
            if schedule is None or (self._best is not None and schedule.latency_ns >= self._best.latency_ns):
                return False
            self._best = schedule
        self.progress.objective(schedule.latency_ns, source)
        if self.options.on_schedule is not None:
            self.options.on_schedule(self._proven("incumbent", schedule))
        return True

    def offer_decisions(self, decisions: Decisions, source: str) -> bool:
        """The same for decisions; nothing happens where they cannot be packed into L2 or onto cores."""
        try:
            return self.offer(proven_schedule(self.facts, decisions, source, self.bounds), source)
        except NoScheduleError:
            return False

    def offer_warm_start(self) -> None:
        """Take the schedule that the caller gave, if any."""
        self.offer(self.options.warm_start, "warm start")

    def prove(self, bounds_ns: dict[str, int]) -> None:
        """Take lower bounds of the latency, by argument."""
        with self._lock:  # a new table each time: other threads may be reading the old one
            better = {name: value for name, value in bounds_ns.items() if value > self.bounds.get(name, 0)}
            self.bounds = {**self.bounds, **better}
        self.progress.bounds(self.bounds)

    @property
    def usable_bound_ns(self) -> int:
        """The best bound; under a deterministic limit only what no busier machine might have missed in time."""
        repeatable = self.options.deterministic_limit is not None
        return self.facts.compulsory_ns if repeatable else max(self.bounds.values())

    def prove_quickly(self) -> None:
        """Bounds by one argument at a time."""
        seconds = min(QUICK_MOST_S, QUICK_SHARE * self.options.remaining_s)
        if not self.over:
            self.prove(quick_bounds(self.facts, seconds))

    def prove_statically(self) -> None:
        """The bound of the static relaxation, for a few seconds."""
        if not self.over:
            Relaxing(self, None, RELAXATION_S).wait(min(RELAXATION_S, self.spare_s))

    def finish(self, solver: str) -> Result:
        """The best schedule with all bounds, as the answer of a solver; what still runs beside ends first."""
        self._finished.set()
        for thread in self._beside:  # a process that ends while HiGHS runs in it is aborted
            thread.join()
        schedule = self._proven(solver, self.best)
        self.progress.bound(schedule.proof.bound_ns, schedule.proof.bound_by)
        options = self.options
        return Result(schedule, options.elapsed_s, options.worker_count, options.seed, tuple(self.progress.events))

    def _proven(self, solver: str, schedule: Schedule) -> Schedule:
        """A schedule with the bounds of now, and a seal that fits."""
        with self._lock:
            proof = prove(self.facts, solver, schedule.latency_ns, self.bounds)
        return schedule.model_copy(update={"proof": proof}).sealed()


class Relaxing:
    """The relaxation's bound, computed in a thread of its own: HiGHS lets Python and CP-SAT go on meanwhile.

    ``horizon_ns`` is the latency of a schedule (see ``formulations.relaxation``) or ``None``.
    """

    def __init__(
        self, incumbent: Incumbent, horizon_ns: int | None, seconds: float, when_done: Callable[[], None] | None = None
    ) -> None:
        self._incumbent, self._horizon_ns, self._seconds, self._when_done = incumbent, horizon_ns, seconds, when_done
        self._thread = incumbent.run_beside(self._run)

    def _run(self) -> None:
        stopped = lambda: self._incumbent.over  # noqa: E731
        bound = relaxation_bound(self._incumbent.facts, self._horizon_ns, self._seconds, stopped)
        self._incumbent.prove({"relaxation": bound if self._horizon_ns is None else min(bound, self._horizon_ns)})
        if self._when_done:
            self._when_done()

    def wait(self, patience_s: float) -> None:
        """Wait so long for its end; it goes on after that, and its bound still counts where it comes in time."""
        self._thread.join(patience_s)
