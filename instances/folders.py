"""Where files are kept from one run to the next."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder() -> Path | None:
    """``tilewright`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; ``None`` without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "tilewright" if os.path.isabs(base) else None


def cache_folder() -> Path | None:
    """``$TILEWRIGHT_CACHE``, else :func:`user_folder`; ``None`` where it is empty, or there is neither."""
    named = os.environ.get("TILEWRIGHT_CACHE")
    if named is not None:
        return Path(named) if named else None
    return user_folder()
