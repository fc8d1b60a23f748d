"""From an order and evictions to a plan: stays in the scratchpad, their addresses, the traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from formulations.packing import Block, find_packing
from formulations.replacement.facts import Facts, members
from instances.replacement import Part, Plan, Stay


@dataclass(frozen=True)
class Lying:
    """A tensor (by number) in the scratchpad over steps ``first`` to ``last``, ``fetched`` or made."""

    tensor: int
    first: int
    last: int
    fetched: bool


def lyings(facts: Facts, order: Sequence[int], evicted: Sequence[int]) -> list[Lying]:
    """Stays that follow from an order and from what is evicted before each step, none longer than its uses."""
    found: list[Lying] = []
    open_: dict[int, list[int]] = {}  # tensor -> first, last, fetched

    def close(t: int) -> None:
        first, last, fetched = open_.pop(t)
        found.append(Lying(t, first, last, bool(fetched)))

    for step, (i, gone) in enumerate(zip(order, evicted, strict=True)):
        for t in members(gone):
            if t in open_:
                close(t)
        for t in members(facts.touched[i]):
            if t in open_:
                open_[t][1] = step
            else:
                open_[t] = [step, step, not facts.writes[i] >> t & 1]
    for t in list(open_):
        close(t)
    return sorted(found, key=lambda one: (one.first, one.tensor))


def placed(
    facts: Facts, lying: Sequence[Lying], capacity_bytes: int, deadline: float, workers: int = 1, seed: int = 0
) -> list[int] | None:
    """Addresses of stays, ``None`` where none are found until then (``time.monotonic``)."""
    blocks = [Block(one.first, one.last + 1, facts.room[one.tensor]) for one in lying]
    until = max(deadline, time.monotonic() + 0.1)
    return find_packing(blocks, capacity_bytes, facts.problem.unit_bytes, until, workers, seed).offsets


def traffic(facts: Facts, lying: Sequence[Lying]) -> tuple[int, list[int]]:
    """Bytes beyond the compulsory, and the tensors that are written back for it."""
    fetched = [one.tensor for one in lying if one.fetched]
    inner = {t for t in fetched if facts.problem.tensors[t].part is Part.INNER}
    total = sum(facts.size[t] for t in fetched) + sum(facts.size[t] for t in inner)
    return total - facts.bytes_moved_in, sorted(inner)


def written_plan(
    facts: Facts, order: Sequence[int], lying: Sequence[Lying], offsets: Sequence[int], solver: str
) -> Plan:
    """The plan in names, without a bound yet."""
    extra, spilled = traffic(facts, lying)
    return Plan(
        problem=facts.problem.fingerprint,
        solver=solver,
        order=tuple(facts.problem.operators[i].name for i in order),
        stays=tuple(
            Stay(tensor=facts.names[one.tensor], first=one.first, last=one.last, offset_bytes=at, fetched=one.fetched)
            for one, at in zip(lying, offsets, strict=True)
        ),
        spilled=tuple(facts.names[t] for t in spilled),
        extra_bytes=extra,
    )


def bounded(plan: Plan, solver: str, bounds: dict[str, int]) -> Plan:
    """The plan as the answer of a solver, with its bounds (bytes) by argument."""
    by = max(bounds, key=lambda argument: bounds[argument])
    return plan.model_copy(update={"solver": solver, "bound_bytes": bounds[by], "bound_by": by, "bounds_bytes": bounds})
