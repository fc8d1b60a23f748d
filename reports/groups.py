"""Core groups: each cube core with its vector cores, and which groups do the same all along."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.facts import Facts, KernelFacts


@dataclass(frozen=True)
class Lane:
    """Cores of one kind in a group that run the same kernels: ``name`` such as ``AIC`` or ``AIV x2``."""

    name: str
    kernels: tuple[KernelFacts, ...]


@dataclass(frozen=True)
class Band:
    """Groups that do the same: their numbers, the cores of each, and what every one of them runs."""

    groups: tuple[int, ...]
    cores: str
    lanes: tuple[Lane, ...]

    @property
    def name(self) -> str:
        """The numbers as people write them, ``0–7, 12``."""
        return spans(self.groups)


def bands(facts: Facts) -> tuple[Band, ...]:
    """All core groups, those that run the same kernels on the same of their cores together, in order of number.

    Group ``g`` is cube core ``g`` with the vector cores of its share; vector cores beyond the last cube core's share
    are groups of their own. Groups that idle throughout are a band without kernels.
    """
    machine = facts.instance.machine
    per = machine.aiv_per_aic
    aic = max([machine.aic_count, *(max(row.aic_ids) + 1 for row in facts.kernels if row.aic_ids)])
    aiv = max([machine.aiv_count, *(max(row.aiv_ids) + 1 for row in facts.kernels if row.aiv_ids)])
    on_aic: list[list[int]] = [[] for _ in range(aic)]
    on_aiv: list[list[int]] = [[] for _ in range(aiv)]
    for row in facts.kernels:
        for core in row.aic_ids:
            on_aic[core].append(row.number)
        for core in row.aiv_ids:
            on_aiv[core].append(row.number)
    found: dict[tuple[object, ...], list[int]] = {}
    for group in range(max(aic, -(-aiv // per))):
        cube = tuple(on_aic[group]) if group < aic else None
        vector = tuple(tuple(numbers) for numbers in on_aiv[group * per : (group + 1) * per])
        found.setdefault((cube, vector), []).append(group)
    row_of = {row.number: row for row in facts.kernels}

    def rows(numbers: Iterable[int]) -> tuple[KernelFacts, ...]:
        return tuple(row_of[number] for number in numbers)

    result = []
    for groups in found.values():
        first = groups[0]
        lanes = [Lane("AIC", rows(on_aic[first]))] if first < aic else []
        vectors: dict[tuple[int, ...], int] = {}
        for numbers in on_aiv[first * per : (first + 1) * per]:
            vectors[tuple(numbers)] = vectors.get(tuple(numbers), 0) + 1
        lanes += [Lane("AIV" if many == 1 else f"AIV ×{many}", rows(numbers)) for numbers, many in vectors.items()]
        count = sum(vectors.values())
        cores = " + ".join([*(["1 AIC"] if first < aic else []), *([f"{count} AIV"] if count else [])])
        result.append(Band(tuple(groups), cores, tuple(lanes)))
    return tuple(result)


def spans(numbers: Iterable[int]) -> str:
    """Numbers in rising order, neighbours drawn together: ``0–7, 12``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs)
