"""Compiled functions, kept between processes under a name that depends on all their sources.

The library's own cache asks whether the file of a function changed, not whether another one did whose code was built
in, so functions of several files need a name of their own for each state of the whole folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """``numba.njit`` that lets other threads run and is kept between processes where a folder can be written."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = _folder()
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except (OSError, RuntimeError):  # no folder can be written: it compiles in every process
        return cast(Function, numba.njit(nogil=True)(function))
    finally:
        config.CACHE_DIR = before


def _folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "tilewright", f"compiled-{_DIGEST}")


_DIGEST = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
