"""Libraries that only some doors need: imported on first use, with a message that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from instances.errors import InputError


def need(module: str, extra: str) -> Any:
    """A module of an extra; :class:`InputError` that says how to install it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is there, and broken
        raise InputError(f"this needs the package {module}; install tilewright[{extra}]") from None
