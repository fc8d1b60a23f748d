"""Reading decisions off a solution of the joint model, and writing an answer down as a complete hint of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ortools.sat.python import cp_model

from formulations.intracore.decisions import (
    BACK,
    OPERATION,
    OUT,
    Decisions,
    Stay,
    Step,
    decisions_of,
    in_order,
    residency_of,
    starts_of,
    traffic_of,
)
from formulations.intracore.model import StayVars, TileModel
from instances.intracore import TileAnswer

Value = Callable[[cp_model.LinearExprT], int]


def read(m: TileModel, value: Value) -> Decisions:
    """The decisions of a solution; steps in order of their starts."""
    offsets = _offsets(m, value)
    starts = {node: value(start) for node, start in m.starts.items()}
    stays: dict[int, tuple[Stay, ...]] = {}
    moves: list[tuple[int, Step]] = []
    for buffer, listed in m.stays.items():
        found = []
        for k, stay in enumerate(listed):
            if stay.present is not None and not value(stay.present):
                break
            users = [u for u, flag in stay.users.items() if value(flag)] if stay.users else m.task.users[buffer]
            found.append(Stay(frozenset(users), offsets.get((buffer, k), 0)))
            if k:
                moves.append((value(listed[k - 1].end) - m.length((OUT, buffer, k - 1)), (OUT, buffer, k - 1)))
                moves.append((value(stay.begin), (BACK, buffer, k)))
        stays[buffer] = tuple(found)
    order = sorted(m.task.order, key=starts.__getitem__)
    if m.problem < 3:
        return in_order(m.task, order, stays)
    timed = [(starts[node], (OPERATION, node, 0)) for node in order] + moves
    timed.sort(key=lambda item: item[0])  # stable: what starts together keeps the order of operations
    return Decisions(tuple(step for _, step in timed), stays)


def _offsets(m: TileModel, value: Value) -> dict[tuple[int, int], int]:
    """Offsets of all stays: the model's, or the first free slot where all buffers of a memory have one size."""
    found: dict[tuple[int, int], int] = {}
    for place, unit in m.unit.items():
        there: list[tuple[int, int, int, int, StayVars]] = []
        for buffer, listed in m.stays.items():
            if m.task.buffer[buffer].place is place:
                for k, stay in enumerate(listed):
                    if stay.present is None or value(stay.present):
                        there.append((value(stay.begin), value(stay.end), buffer, k, stay))
        there.sort(key=lambda item: item[:4])
        until = [0] * m.fits[place]
        for begin, end, buffer, k, stay in there:
            if stay.address is not None:
                found[buffer, k] = value(stay.address) * unit
                continue
            slot = next(slot for slot, free in enumerate(until) if free <= begin)
            until[slot] = end
            found[buffer, k] = slot * unit
    return found


def hint(m: TileModel, answer: TileAnswer) -> bool:
    """Hint every variable from a legal answer; false, and nothing hinted, where the model has no room for it.

    That is so where the answer has more spills of a buffer than the model, more traffic than it allows, or offsets that
    are no multiple of what all sizes of a memory are multiples of.
    """
    known = values_of(m, decisions_of(m.task, answer))
    if known is None:
        return False
    m.model.clear_hints()  # type: ignore[no-untyped-call]
    for index, value in known.items():
        m.model.add_hint(m.model.get_int_var_from_proto_index(index), value)
    return True


def values_of(m: TileModel, decisions: Decisions) -> dict[int, int] | None:
    """Values of all variables, by index."""
    if m.problem < 3:
        whole = {b: (Stay(frozenset(m.task.users[b])),) for b in m.used}
        decisions = in_order(m.task, decisions.operations, whole if m.problem == 1 else decisions.stays)
    if any(len(listed) > m.stay_count[buffer] for buffer, listed in decisions.stays.items()):
        return None
    traffic = traffic_of(m.task, decisions.stays)
    if m.most_traffic is not None and traffic > m.most_traffic:
        return None
    at = _axis(m, decisions)
    known = {start.index: at[OPERATION, node, 0] for node, start in m.starts.items()}
    for buffer, listed in m.stays.items():
        chosen = decisions.stays[buffer]
        place = m.task.buffer[buffer].place
        for k, stay in enumerate(listed):
            there = k < len(chosen)
            for user, flag in stay.users.items():
                known[flag.index] = int(there and user in chosen[k].users)
            if stay.present is not None:
                known[stay.present.index] = int(there)
            begin = end = 0
            if there:
                steps: Sequence[Step] = [(OPERATION, node, 0) for node in chosen[k].users]
                begin = at[BACK, buffer, k] if k else min(at[step] for step in steps)
                end = max(at[step] + m.length(step) for step in steps)
                if k + 1 < len(chosen):
                    end = at[OUT, buffer, k] + m.length((OUT, buffer, k))
            known[stay.begin.index], known[stay.end.index] = begin, end
            if stay.address is not None:
                slot, rest = divmod(chosen[k].offset if there else 0, m.unit[place])
                if rest:
                    return None
                if there and _turned(m, buffer, decisions):
                    slot = m.fits[place] - m.task.buffer[buffer].size // m.unit[place] - slot
                known[stay.address.index] = slot
    for variable, follows in m.follow:
        known[variable.index] = follows(known)
    if m.peak is not None:
        known[m.peak.index] = residency_of(m.task, decisions.operations)
    if m.makespan is not None:
        known[m.makespan.index] = max(start + m.length(step) for step, start in at.items())
    return known


def _axis(m: TileModel, decisions: Decisions) -> dict[Step, int]:
    """Where each step lies on the model's axis: its earliest time, or its place among the operations."""
    if m.problem == 3:
        return starts_of(m.task, decisions, lambda _, step: m.length(step))
    found: dict[Step, int] = {}
    done = 0
    for step in decisions.steps:
        found[step] = done
        done += step[0] == OPERATION
    return found


def _turned(m: TileModel, buffer: int, decisions: Decisions) -> bool:
    """Whether the memory of a buffer has to be turned over, so that a certain one lies in its lower half."""
    place = m.task.buffer[buffer].place
    one = m.low_half[place]
    unit = m.unit[place]
    return 2 * (decisions.stays[one][0].offset // unit) > m.fits[place] - m.task.buffer[one].size // unit
