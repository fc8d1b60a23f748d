"""Ctrl-C and SIGTERM while a solver runs.

``KeyboardInterrupt`` does not get through there: compiled modules that are being imported turn it into an
``ImportError``, PuLP then takes HiGHS for missing, HiGHS aborts the process over its own threads. So a search runs in a
thread of its own and is asked to stop, which leaves its best answer so far; one that cannot be asked, or does not stop,
ends with the process, with the sentence and the exit code of an interrupt. No file is open for writing at that time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from opt.cli.display import is_dumb

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

SHOW_CURSOR = "\x1b[?25h"
"""Undoes what a live display does to a terminal."""

GRACE_S = 10.0
"""Seconds that a search has for its answer after it was asked to stop."""

TICK_S = 0.1
"""How often the main thread looks up while it waits: only there do signals get through."""

Answer = TypeVar("Answer")

own_process = threading.Event()
"""Set where the process is the command line's own and may be ended."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process inside; no change where the process is somebody else's or ignores Ctrl-C."""
    if not own_process.is_set() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_until_told(search: Callable[[Callable[[], bool]], Answer]) -> Answer:
    """What a search answers; the first Ctrl-C or SIGTERM makes the question it is given true, the second ends all.

    Without signals of its own (see :func:`ending_at_once`) the search just runs, and is never told to stop.
    """
    if not own_process.is_set() or threading.current_thread() is not threading.main_thread():
        return search(lambda: False)
    asked: list[float] = []

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked:
            _end(signum, frame)
        asked.append(time.monotonic())

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in ours:
        signal.signal(number, ask)
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(search, lambda: bool(asked))
            while not wait((running,), TICK_S).done:
                if asked and time.monotonic() > asked[0] + GRACE_S:
                    _end(signal.SIGINT, None)
            return running.result()
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _end(signum: int, frame: FrameType | None) -> None:
    restore = SHOW_CURSOR if sys.stderr.isatty() and not is_dumb() else ""
    os.write(2, f"{restore}tilewright: interrupted\n".encode())
    os._exit(INTERRUPTED)
