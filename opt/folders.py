"""Where files are kept from one run to the next."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """``$TILEWRIGHT_CACHE``, else ``tilewright`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; ``None`` where it is empty."""
    named = os.environ.get("TILEWRIGHT_CACHE")
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "tilewright" if os.path.isabs(base) else None  # no home, no cache
