"""How auxiliary variables of a model follow from others, so that a hint can be completed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ortools.sat.python import cp_model

Known = Mapping[int, int]
"""Values of variables by index, while a hint is being completed."""


def any_of(flags: Iterable[cp_model.IntVar]) -> Callable[[Known], int]:
    """1 if any of the flags is set."""
    indices = [flag.index for flag in flags]
    return lambda known: int(any(known[index] for index in indices))


def itself_if(variable: cp_model.IntVar, flag: cp_model.IntVar) -> Callable[[Known], int]:
    """The value it has already if the flag is set, else 0."""
    return lambda known: known[variable.index] if known[flag.index] else 0


def difference_of(end: cp_model.IntVar, begin: cp_model.IntVar) -> Callable[[Known], int]:
    """End minus begin."""
    return lambda known: known[end.index] - known[begin.index]


def difference_if_of(end: cp_model.IntVar, begin: cp_model.IntVar, flag: cp_model.IntVar) -> Callable[[Known], int]:
    """End minus begin if the flag is set, else 0."""
    return lambda known: known[end.index] - known[begin.index] if known[flag.index] else 0


def weighted_of(terms: Iterable[tuple[cp_model.IntVar, int]]) -> Callable[[Known], int]:
    """Sum of flags times amounts."""
    listed = [(flag.index, amount) for flag, amount in terms]
    return lambda known: sum(known[index] * amount for index, amount in listed)


def sum_of(first: cp_model.IntVar, second: cp_model.IntVar) -> Callable[[Known], int]:
    """Sum of two variables."""
    return lambda known: known[first.index] + known[second.index]
