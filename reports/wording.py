"""A reason: one sentence with the facts it was made of; and how sentences write numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from instances.kernels import Tiling

Facts = dict[str, Any]
"""Numbers and names of a sentence, as JSON has them; the unit ends the name (``_ns``, ``_bytes``)."""


@dataclass(frozen=True)
class Reason:
    """One sentence about a part of a schedule.

    ``topic`` says what kind of sentence it is, ``subject`` what it speaks of.
    """

    topic: str
    subject: str
    words: str
    facts: Facts = field(default_factory=dict)

    def __str__(self) -> str:
        return self.words


def ns(value: int) -> str:
    """A time."""
    return f"{value:,} ns"


def amount(size_bytes: int) -> str:
    """A number of bytes, exactly."""
    return plural(size_bytes, "byte")


def plural(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    all_names = list(names)
    if len(all_names) <= most + 1:
        head, last = all_names[:-1], all_names[-1:]
        return " and ".join(part for part in (", ".join(head), *last) if part)
    return f"{', '.join(all_names[:most])} and {len(all_names) - most} more"


def cores_words(tiling: Tiling) -> str:
    """The cores that a tiling holds."""
    held = [f"{count} {name}" for count, name in ((tiling.aic, "AIC"), (tiling.aiv, "AIV")) if count]
    return " and ".join(held) or "no core"
