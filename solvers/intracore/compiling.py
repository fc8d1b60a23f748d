"""Compiled functions, kept between processes under a name that depends on all their sources.

The library's own cache asks whether the file of a function changed, not whether another one did whose code was built
in, so functions of several files need a name of their own for each state of the whole folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from instances.folders import user_folder

Function = TypeVar("Function", bound=Callable[..., Any])

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]


def compiled(function: Function) -> Function:
    """``numba.njit`` that lets other threads run and is kept between processes where a folder can be written."""
    folder = user_folder()
    if folder is None:
        return cast(Function, numba.njit(nogil=True)(function))
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder / f"compiled-{_DIGEST}")
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except (OSError, RuntimeError):  # no folder can be written: it compiles in every process
        return cast(Function, numba.njit(nogil=True)(function))
    finally:
        config.CACHE_DIR = before
