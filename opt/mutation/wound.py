"""What a corruption works on, what it leaves behind, and the list of all kinds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from instances.documents import parse
from instances.fusion import Fuser
from instances.instance import Instance
from instances.schedule import Schedule

Data = dict[str, Any]
"""A schedule, or a part of it, as JSON."""

T = TypeVar("T")


class NoPlaceError(Exception):
    """A schedule has no place for a kind of mistake."""


@dataclass(frozen=True)
class Wound:
    """What a replay must find: one of ``rules``, at ``place``, by ``amount`` (``None``: it depends)."""

    rules: tuple[str, ...]
    place: str
    amount: float | None = None


class Scene:
    """A valid schedule as JSON, to be changed in place, with the instance and a source of random places."""

    def __init__(self, instance: Instance, schedule: Schedule, chance: random.Random) -> None:
        self.instance = instance
        self.graph = instance.graph
        self.machine = instance.machine
        self.chance = chance
        self.data: Data = schedule.model_dump(mode="json")
        self.fuser = Fuser(instance.graph)
        self.maker = {t: kernel for kernel in self.kernels for t in _tensors(kernel["writes"])}

    @property
    def kernels(self) -> list[Data]:
        """Kernels of the schedule."""
        return list(self.data["kernels"])

    @property
    def moves(self) -> list[Data]:
        """Explicit moves of the schedule."""
        return list(self.data["moves"])

    @property
    def stays(self) -> list[Data]:
        """Residencies of the schedule."""
        return list(self.data["residencies"])

    @property
    def readers(self) -> list[tuple[Data, Data]]:
        """Each kernel with each of its reads."""
        return [(kernel, read) for kernel in self.kernels for read in kernel["reads"]]

    def one_of(self, places: Iterable[T]) -> T:
        """A random one of some places; :class:`NoPlaceError` where there is none, and this kind does not apply."""
        found = list(places)
        if not found:
            raise NoPlaceError("no place for this kind of mistake")
        return self.chance.choice(found)

    def either(self, *values: int) -> int:
        """A random one of some numbers."""
        return self.chance.choice(values)

    def stay_of(self, move: Data) -> Data:
        """The residency that a prefetch or fill begins."""
        return next(s for s in self.stays if (s["tensor"], s["start_ns"]) == (move["tensor"], move["start_ns"]))

    def stays_with(self, tensor: str, kernel: Data) -> Data:
        """The residency that serves a read of a kernel."""
        return next(
            s
            for s in self.stays
            if s["tensor"] == tensor and s["start_ns"] <= kernel["start_ns"] and kernel["end_ns"] <= s["end_ns"]
        )

    def corrupted(self) -> Schedule:
        """The schedule as it is now, with a seal of its own."""
        return parse(Schedule, self.data, "corrupted").sealed()


Corruption = Callable[[Scene], Wound]
"""Changes a scene; :class:`NoPlaceError` where the schedule has no place for it."""

KINDS: dict[str, Corruption] = {}
"""All kinds of mistakes, by name."""


def kind(corruption: Corruption) -> Corruption:
    """Register a kind under its function's name."""
    KINDS[corruption.__name__] = corruption
    return corruption


def label(kernel: Data) -> str:
    """A kernel's name in reports."""
    return "+".join(kernel["operators"])


def shift(item: Data, by_ns: int, fields: Sequence[str] = ("start_ns", "end_ns", "hbm_start_ns")) -> None:
    """Move a kernel, a move or a residency in time."""
    for field in fields:
        if item.get(field) is not None:
            item[field] += by_ns


def _tensors(accesses: Iterable[Data]) -> list[str]:
    return [access["tensor"] for access in accesses]
