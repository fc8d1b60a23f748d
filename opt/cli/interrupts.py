"""Ctrl-C while a solver runs.

``KeyboardInterrupt`` does not get through there: compiled modules that are being imported turn it into an
``ImportError``, PuLP then takes HiGHS for missing, HiGHS aborts the process over its own threads. So the process ends
at once, with the sentence and the exit code that it would have had. No file is open for writing at that time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

SHOW_CURSOR = "\x1b[?25h"
"""Undoes what a live display does to a terminal."""

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


def _end(signum: int, frame: FrameType | None) -> None:
    restore = SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{restore}tilewright: interrupted\n".encode())
    os._exit(INTERRUPTED)
