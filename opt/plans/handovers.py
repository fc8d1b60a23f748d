"""Flags between the pipes of a kernel, and lives of its buffers, read off the program of its busiest core.

The simulator writes a kernel out as operations on pipes with the slots of buffers that each reads and writes
(``opt.simulation``). Where one pipe reads what another wrote, the second waits until the content is ready; where it
overwrites what another read, it waits until the place is free. Between a cube core and its vector cores the same is
said by flags that count, one for both stages of a hand-over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from instances.costs.cube import WORKSPACE_STAGES
from instances.errors import TilewrightError
from instances.fusion import Fusion
from instances.kernels import Buffer, KernelKind, Rule, Tiling
from instances.machine import Machine, MemoryName
from instances.pipes import CROSS_CORE_FLAGS, EVENT_IDS, Core, HardwarePipe, pipe_of
from instances.plan import Handover
from opt.simulation.kernels import busiest_program
from opt.simulation.program import Op, Slot

Place = tuple[Core, HardwarePipe]
Means = Literal["ready", "free"]
Key = tuple[Means, Place, Place]


@dataclass(frozen=True)
class Inside:
    """What goes on in a kernel: its hand-overs, the first and last operation on each buffer, and how many there are."""

    handovers: tuple[Handover, ...] = ()
    lives: tuple[tuple[int, int], ...] = ()
    steps: int = 0


def look_inside(fusion: Fusion, machine: Machine, tiling: Tiling, buffers: tuple[Buffer, ...]) -> Inside:
    """Hand-overs of a kernel and lives of its buffers, in the order of ``buffers``; nothing for a collective."""
    if fusion.kind is KernelKind.LINK:
        return Inside()
    ops = busiest_program(fusion, machine, tiling, buffers).ops
    found = _found(ops, fusion.kind, machine.coupled)
    slots = _slots(ops, buffers)
    if machine.direct and fusion.rule in (Rule.EPILOGUE, Rule.GATED):
        # the program loads what the epilogue works on in one go; with a direct path the sums come out of L0C instead
        found = {key: groups for key, old in found.items() if (groups := _without(frozenset({"ub.sum"}), key, old))}
    events = _with_event_ids(found, slots)
    flags = () if machine.coupled or fusion.kind is not KernelKind.MIX else _flags(fusion, machine, slots)
    joined = (_join(len(flags)),) if fusion.rule is Rule.ATTENTION and tiling.parts else ()
    return Inside((*events, *flags, *joined), _lives(ops, buffers), len(ops))


def _found(ops: Sequence[Op], kind: KernelKind, coupled: bool) -> dict[Key, set[frozenset[str]]]:
    """Pairs of pipes of one core that hand slots over, with the buffers that go together in one operation."""
    filled: dict[Slot, tuple[int, Place]] = {}
    used: dict[Slot, list[tuple[int, Place]]] = {}
    found: dict[Key, set[frozenset[str]]] = {}
    known: dict[str, Place | None] = {}

    def place(engine: str) -> Place | None:
        if engine not in known:
            known[engine] = pipe_of(engine, kind, coupled=coupled)
        return known[engine]

    def note(means: Means, here: Place, others: Sequence[tuple[int, Place, Slot]]) -> None:
        together: dict[tuple[int, Place], set[str]] = {}
        for number, there, slot in others:
            if there != here and there[0] is here[0]:
                together.setdefault((number, there), set()).add(f"{slot[1].value}.{slot[0]}")
        for (_, there), names in together.items():
            found.setdefault((means, there, here), set()).add(frozenset(names))

    for number, op in enumerate(ops):
        here = place(op.pipe)
        if here is None:
            continue
        note("ready", here, [(*filled[slot], slot) for slot, _ in op.reads if slot in filled])
        note("free", here, [(*by, slot) for slot, _ in op.writes for by in used.get(slot, ())])
        for slot, _ in op.reads:
            used.setdefault(slot, []).append((number, here))
        for slot, _ in op.writes:
            used.pop(slot, None)
            filled[slot] = (number, here)
    return {key: _largest(groups) for key, groups in found.items()}


def _largest(groups: set[frozenset[str]]) -> set[frozenset[str]]:
    """Groups that lie in no other."""
    return {group for group in groups if not any(group < other for other in groups)}


def _without(names: frozenset[str], key: Key, groups: set[frozenset[str]]) -> set[frozenset[str]]:
    """Groups that MTE2 hands over, or gets back, without some of their buffers."""
    if HardwarePipe.MTE2 not in (key[1][1], key[2][1]):
        return groups
    return {group - names for group in groups} - {frozenset()}


def _with_event_ids(found: dict[Key, set[frozenset[str]]], slots: dict[str, int]) -> list[Handover]:
    """Hand-overs within a core, each slot with an event id of its pair of pipes; one for all where ids run out."""
    ordered = sorted(
        (
            (means, before, after, tuple(sorted(group)))
            for (means, before, after), groups in found.items()
            for group in groups
        ),
        key=lambda item: (item[1], item[2], item[0] == "free", item[3]),
    )
    wanted: dict[tuple[Place, Place], int] = {}
    for _, before, after, group in ordered:
        wanted[before, after] = wanted.get((before, after), 0) + max(slots[name] for name in group)
    taken: dict[tuple[Place, Place], int] = {}
    result = []
    for means, before, after, group in ordered:
        count = max(slots[name] for name in group) if wanted[before, after] <= EVENT_IDS else 1
        first = taken.get((before, after), 0)
        if first + count > EVENT_IDS:
            raise TilewrightError(f"{before[1]} hands more to {after[1]} than there are event ids ({EVENT_IDS})")
        taken[before, after] = first + count
        result.append(
            Handover(
                scope="core",
                means=means,
                set_core=before[0],
                set_pipe=before[1],
                wait_core=after[0],
                wait_pipe=after[1],
                buffers=group,
                ids=tuple(range(first, first + count)),
            )
        )
    return result


def _flags(fusion: Fusion, machine: Machine, slots: dict[str, int]) -> list[Handover]:
    """Flags between a cube core and its vector cores, with the place freed again behind each hand-over."""
    cube_out = (Core.AIC, HardwarePipe.FIX)
    vector_in = (Core.AIV, HardwarePipe.V if machine.direct else HardwarePipe.MTE2)
    pairs: list[tuple[Place, Place, str]] = []
    if fusion.rule is Rule.ATTENTION:
        cube_in = (Core.AIC, HardwarePipe.MTE1 if machine.direct_back else HardwarePipe.MTE2)
        pairs += [
            (cube_out, vector_in, "ub.scores_in"),
            ((Core.AIV, HardwarePipe.MTE3), cube_in, "l1.probabilities"),
            (cube_out, vector_in, "ub.result_in"),
        ]
    else:
        pairs.append((cube_out, vector_in, "ub.sum"))
    result: list[Handover] = []
    for before, after, buffer in pairs:
        depth = (
            slots[buffer] if (machine.direct_back if before[0] is Core.AIV else machine.direct) else WORKSPACE_STAGES
        )
        ways: list[tuple[Means, Place, Place]] = [("ready", before, after), ("free", after, before)]
        for means, one, other in ways:
            number = len(result)
            if number >= CROSS_CORE_FLAGS:
                raise TilewrightError(f"more hand-overs between cores than the {CROSS_CORE_FLAGS} flags there are")
            result.append(
                Handover(
                    scope="group",
                    means=means,
                    set_core=one[0],
                    set_pipe=one[1],
                    wait_core=other[0],
                    wait_pipe=other[1],
                    buffers=(buffer,),
                    ids=(number,),
                    depth=depth,
                )
            )
    return result


def _join(number: int) -> Handover:
    """All vector cores wait for each other before they add up the parts of a split context."""
    return Handover(
        scope="all",
        means="join",
        set_core=Core.AIV,
        set_pipe=HardwarePipe.MTE3,
        wait_core=Core.AIV,
        wait_pipe=HardwarePipe.MTE2,
        ids=(number,),
    )


def _slots(ops: Sequence[Op], buffers: tuple[Buffer, ...]) -> dict[str, int]:
    """How many slots of each buffer the program uses: one where it has but one turn; all where it is not seen to."""
    seen: dict[str, set[int]] = {}
    for op in ops:
        for (name, memory, slot), _ in (*op.reads, *op.writes):
            seen.setdefault(f"{memory.value}.{name}", set()).add(slot)
    names = {f"{buffer.memory.value}.{buffer.name}": buffer.slots for buffer in buffers}
    return {name: len(seen.get(name, range(count))) for name, count in names.items()}


def _lives(ops: Sequence[Op], buffers: tuple[Buffer, ...]) -> tuple[tuple[int, int], ...]:
    """First and last operation that touches each buffer; all of them for one that none does."""
    first: dict[tuple[str, MemoryName], int] = {}
    last: dict[tuple[str, MemoryName], int] = {}
    for number, op in enumerate(ops):
        for (name, memory, _), _ in (*op.reads, *op.writes):
            first.setdefault((name, memory), number)
            last[name, memory] = number
    end = max(0, len(ops) - 1)
    return tuple((first.get((b.name, b.memory), 0), last.get((b.name, b.memory), end)) for b in buffers)
