"""Docstrings as mkdocstrings takes them: roles such as ``:func:`opt.solve``` become plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|data|mod|attr|meth):`~?([^`]+)`")


class PlainRoles(griffe.Extension):  # type: ignore[misc]
    """Takes the roles out of every docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
