"""What a search has found so far, and whether it should go on."""

from __future__ import annotations

import threading

from solvers.interface import Event, Options
from solvers.memory import held_mib


class Progress:
    """Monotone record of objective and bound; callbacks come from several threads.

    :attr:`stopped` is true from when one of the options' stop rules holds: gap, first schedule, no better schedule for
    a while, too much memory, a listener or ``should_stop`` that says so.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._objective: int | None = None
        self._improved_s = 0.0
        self._bound = 0
        self._asked = False
        self.events: list[Event] = []

    @property
    def gap(self) -> float:
        """Relative distance of the best latency from the best bound; 1 before there is a schedule."""
        return 1.0 if self._objective is None else (self._objective - self._bound) / max(1, self._objective)

    @property
    def stopped(self) -> bool:
        """Whether the search should end."""
        options = self._options
        told = options.should_stop is not None and options.should_stop()
        full = options.memory_limit_mib is not None and held_mib() > options.memory_limit_mib
        if self._asked or told or full:
            self._asked = True
        elif self._objective is not None:
            waited = options.elapsed_s - self._improved_s
            self._asked = (
                options.first_feasible
                or self.gap <= options.gap
                or (options.patience_s is not None and waited > options.patience_s)
            )
        return self._asked

    def objective(self, value_ns: int, source: str) -> None:
        """A schedule was found."""
        with self._lock:
            if self._objective is None or value_ns < self._objective:
                self._objective = value_ns
                self._improved_s = self._options.elapsed_s
                self._emit(source)

    def bound(self, value_ns: int, source: str) -> None:
        """A bound was proven."""
        with self._lock:
            if value_ns > self._bound:
                self._bound = value_ns
                self._emit(source)

    def bounds(self, bounds_ns: dict[str, int]) -> None:
        """Several bounds were proven, by argument."""
        best = max(bounds_ns, key=lambda argument: bounds_ns[argument])
        self.bound(bounds_ns[best], best)

    def _emit(self, source: str) -> None:
        event = Event(self._options.elapsed_s, self._objective, self._bound, source)
        self.events.append(event)
        if self._options.on_event and self._options.on_event(event):
            self._asked = True
