"""The best schedule so far, on disk while the search goes on."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from instances.documents import write_document
from instances.errors import TilewrightError
from instances.instance import Instance
from instances.schedule import Schedule
from opt.replay import replay

_log = logging.getLogger(__name__)


class Checkpoint:
    """Writes each better schedule to a file, whole and replayed, in a thread of its own.

    A schedule that is better still while one is being written takes the place of those in between. What cannot be
    written is logged once; the search goes on. Used as a context: leaving it waits for the last one. ``start`` is what
    the search starts from: what is slower is not written, as the file may be where that was read.
    """

    def __init__(self, instance: Instance, path: Path, start: Schedule | None = None) -> None:
        self._instance, self._path = instance, path
        self._best_ns = None if start is None else start.latency_ns
        self._changed = threading.Condition()
        self._next: Schedule | None = None
        self._closed = False
        self._failed = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Checkpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __call__(self, schedule: Schedule) -> None:
        """Write this schedule as soon as the one before is written; returns at once."""
        with self._changed:
            if self._best_ns is None or schedule.latency_ns <= self._best_ns:
                self._best_ns, self._next = schedule.latency_ns, schedule
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closed)
                schedule, self._next = self._next, None
            if schedule is None:
                return
            try:
                replay(self._instance, schedule).require_valid("the schedule to be kept")
                write_document(schedule, self._path)
            except TilewrightError as error:
                if not self._failed:
                    _log.warning("no checkpoint: %s", error)
                self._failed = True
