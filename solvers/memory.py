"""How much memory the process holds, for the stop rule on it."""

from __future__ import annotations

import os
from pathlib import Path

STATM = Path("/proc/self/statm")
"""Pages of the process on Linux; the second number is what it holds
(https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html)."""


def held_mib() -> int:
    """Memory that the process holds (MiB), in threads and compiled modules too; 0 where the system does not tell."""
    try:
        pages = int(STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
