"""Why a tensor lies where it lies: its stays in L2, its copies in HBM, and the moves between the two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from instances import costs
from instances.errors import InputError
from instances.graph import Role
from instances.schedule import Move, MoveKind, Source
from reports.facts import Block, KernelFacts
from reports.view import Stay, View, source_of
from reports.wording import Facts, Reason, amount, listed, ns


@dataclass(frozen=True)
class Crowd:
    """L2 over a time at its fullest: the first such instant, bytes held by others, and what lies there."""

    at_ns: int
    used_bytes: int
    blocks: tuple[Block, ...]


def crowd(view: View, tensor: str, start_ns: int, end_ns: int) -> Crowd:
    """L2 at its fullest in ``[start, end)``, without the tensor itself."""
    others = [b for b in view.facts.blocks if not (b.kind == "residency" and b.name == tensor)]
    times = {start_ns, *(b.start_ns for b in others if start_ns < b.start_ns < end_ns)}

    def at(time_ns: int) -> tuple[Block, ...]:
        return tuple(b for b in others if b.start_ns <= time_ns < b.end_ns)

    when = max(sorted(times), key=lambda time_ns: sum(b.size_bytes for b in at(time_ns)))
    blocks = tuple(sorted(at(when), key=lambda b: (-b.size_bytes, b.name)))
    return Crowd(when, sum(b.size_bytes for b in blocks), blocks)


def move(view: View, moved: Move) -> tuple[Reason, ...]:
    """What a move is for.

    Raises
    ------
    InputError
        Where the move is not in the schedule.
    """
    if moved not in view.schedule.moves:
        raise InputError(f"{moved.kind.value} of {moved.tensor} is not in the schedule; give one of its moves")
    return (_spilled(view, moved),) if moved.kind is MoveKind.SPILL else tuple(_brought(view, moved))


def _brought(view: View, moved: Move) -> Iterator[Reason]:
    """A prefetch or a fill: who reads it, what the channel would do else, what streaming would cost."""
    tensor, subject = moved.tensor, f"{moved.kind.value} of {moved.tensor}"
    stay = next(
        (s for s in view.stays.get(tensor, ()) if s.move is not None and s.move.start_ns == moved.start_ns), None
    )
    readers = () if stay is None else stay.readers
    idle_from, idle_to = _gap(view, moved)
    size = view.graph.tensor[tensor].size_bytes
    running = [row for row in view.rows if row.kernel.start_ns < moved.end_ns and moved.start_ns < row.kernel.end_ns]
    facts: Facts = {
        "kind": moved.kind.value,
        "tensor": tensor,
        "size_bytes": size,
        "start_ns": moved.start_ns,
        "end_ns": moved.end_ns,
        "readers": [row.number for row in readers],
        "idle_from_ns": idle_from,
        "idle_to_ns": idle_to,
        "idle_ns": idle_to - idle_from,
        "beside": [row.number for row in running],
    }
    words = (
        f"The {subject} brings {amount(size)} to L2 from {ns(moved.start_ns)} to {ns(moved.end_ns)}. Without it the "
        f"HBM channel would be idle for {ns(idle_to - idle_from)}, from {ns(idle_from)} to {ns(idle_to)}"
    )
    words += f", while {_kernels(running)} {'runs' if len(running) == 1 else 'run'}." if running else "."
    if not readers:
        words += " No kernel reads it there."
    yield Reason("move", subject, words, facts)
    for row in readers:
        yield _streamed_instead(view, moved, row)


def _streamed_instead(view: View, moved: Move, row: KernelFacts) -> Reason:
    """What a reader would take at least that reads the tensor in its own phase: one that begins with the body."""
    tensor, terms = moved.tensor, view.terms(row)
    read = view.read_bytes(row.kernel.operators, tensor)
    extra = costs.hbm_ns(view.machine, read)
    drawn = -(-view.cost(row).miss_ns_per_mib * read // 2**20)
    longer = replace(terms, phase_ns=terms.phase_ns + extra, drawn_ns=terms.drawn_ns + drawn)
    duration = longer.alone_ns
    early = row.kernel.start_ns - moved.end_ns
    facts: Facts = {
        "tensor": tensor,
        "number": row.number,
        "phase_ns": terms.phase_ns,
        "longer_phase_ns": longer.phase_ns,
        "duration_ns": row.duration_ns,
        "longer_duration_ns": duration,
        "costs_ns": duration - row.duration_ns,
        "early_ns": early,
    }
    words = (
        f"Kernel {row.label} reads it, {ns(early)} after it has come. Read in the kernel's own HBM phase, that phase "
        f"would take {ns(longer.phase_ns)} instead of {ns(terms.phase_ns)}, and with the channel free from the body on "
        f"the kernel {ns(duration)} instead of {ns(row.duration_ns)}"
    )
    words += f": {ns(duration - row.duration_ns)} more." if duration > row.duration_ns else ": no more."
    body = row.kernel.start_ns + terms.head_ns
    later = [
        entry
        for entry in view.channel
        if entry[0] < body + longer.phase_ns and body < entry[1] and entry[2] != f"the phase of kernel {row.number}"
    ]
    if later:
        facts["in_the_way"] = later[0][2]
        words += f" In that time the channel carries {later[0][2]} (from {ns(later[0][0])}), which would have to move."
    return Reason("move", f"{moved.kind.value} of {tensor}", words, facts)


def _gap(view: View, moved: Move) -> tuple[int, int]:
    """From when to when the channel would be idle around a move without it."""
    others = [entry for entry in view.channel if entry[:2] != (moved.start_ns, moved.end_ns)]
    before = max((end for _, end, _ in others if end <= moved.start_ns), default=0)
    after = min((start for start, _, _ in others if start >= moved.end_ns), default=view.schedule.latency_ns)
    return before, after


def _spilled(view: View, moved: Move) -> Reason:
    """A spill: because the tensor is an output, or because L2 could not hold it until its next reader ends."""
    tensor, subject = moved.tensor, f"spill of {moved.tensor}"
    stay = next((s for s in view.stays.get(tensor, ()) if moved in s.spills), None)
    left = moved.end_ns if stay is None else stay.residency.end_ns
    later = [row for row in view.readers.get(tensor, ()) if row.kernel.start_ns >= moved.end_ns]
    away = [row for row in later if stay is None or row not in stay.readers]
    facts: Facts = {
        "kind": "spill",
        "tensor": tensor,
        "start_ns": moved.start_ns,
        "end_ns": moved.end_ns,
        "output": view.is_output(tensor),
        "readers": [row.number for row in away],
    }
    words = (
        f"The {subject} writes {amount(view.graph.tensor[tensor].size_bytes)} to HBM from {ns(moved.start_ns)} to "
        f"{ns(moved.end_ns)}."
    )
    if view.is_output(tensor):
        words += " It is an output of the graph, which must reach HBM, and its maker does not write it there."
    if away:
        words += f" It leaves L2 at {ns(left)}, before {_kernels(away)} read{'s' * (len(away) == 1)} it again"
        words += _room(view, tensor, left, max(row.kernel.end_ns for row in away), facts)
    return Reason("move", subject, words, facts)


def _room(view: View, tensor: str, start_ns: int, end_ns: int, facts: Facts) -> str:
    """Whether L2 could have held a tensor over a time; continues a sentence and adds to ``facts``."""
    full = crowd(view, tensor, start_ns, end_ns)
    room, capacity = view.room_bytes(tensor), view.l2_bytes
    over = full.used_bytes + room - capacity
    facts |= {
        "from_ns": start_ns,
        "to_ns": end_ns,
        "fullest_ns": full.at_ns,
        "used_bytes": full.used_bytes,
        "room_bytes": room,
        "over_bytes": max(0, over),
        "there": [block.name for block in full.blocks],
    }
    if over > 0:
        names = listed(f"{block.name} ({amount(block.size_bytes)})" for block in full.blocks)
        return (
            f": kept until {ns(end_ns)}, L2 would be {amount(over)} over its {amount(capacity)} at {ns(full.at_ns)}: "
            f"{names or 'nothing'} lie{'s' * (len(full.blocks) <= 1)} there, and it takes {amount(room)}."
        )
    return (
        f"; capacity does not force that: until {ns(end_ns)} others hold at most {amount(full.used_bytes)} of "
        f"{amount(capacity)}, and it takes {amount(room)}."
    )


def place(view: View, tensor: str) -> tuple[Reason, ...]:
    """Where a tensor lies over its life, and why.

    Raises
    ------
    InputError
        Where the graph has no such tensor.
    """
    if tensor not in view.graph.tensor:
        raise InputError(f"tensor {tensor!r} is not in the graph of {view.instance.name}; give another name")
    return tuple(_life(view, tensor))


def _life(view: View, tensor: str) -> Iterator[Reason]:
    known, maker = view.graph.tensor[tensor], view.maker(tensor)
    readers, stays = view.readers.get(tensor, []), view.stays.get(tensor, [])
    facts: Facts = {"role": known.role.value, "size_bytes": known.size_bytes}
    words = f"{tensor} has {amount(known.size_bytes)} and role {known.role.value}"
    if maker is None:
        yield Reason("place", tensor, f"{words}; it lies in HBM from the start.", facts)
    else:
        facts["maker"] = maker.number
        yield Reason(
            "place", tensor, f"{words}; kernel {maker.label} makes it, done at {ns(maker.kernel.end_ns)}.", facts
        )
        if all(write.tensor != tensor for write in maker.kernel.writes):
            inside = listed(view.graph.consumers[tensor])
            words = f"It never leaves kernel {maker.label}: all its readers ({inside}) are inside."
            yield Reason("inside", tensor, words, {"number": maker.number})
            return
    for stay in stays:
        yield _stay(view, tensor, stay)
    if maker is not None:
        yield from _copied(view, tensor, maker, readers)
    for row in readers:
        if source_of(row.kernel, tensor) is Source.HBM:
            yield _streams(view, tensor, row)


def _stay(view: View, tensor: str, stay: Stay) -> Reason:
    residency = stay.residency
    came = "its maker leaves it there" if stay.move is None else f"a {stay.move.kind.value} brings it"
    facts: Facts = {
        "start_ns": residency.start_ns,
        "arrival_ns": stay.arrival_ns,
        "end_ns": residency.end_ns,
        "offset_bytes": residency.offset_bytes,
        "size_bytes": residency.size_bytes,
        "readers": [row.number for row in stay.readers],
        "came_by": "maker" if stay.move is None else stay.move.kind.value,
    }
    words = (
        f"In L2 from {ns(residency.start_ns)} to {ns(residency.end_ns)}, {amount(residency.size_bytes)} at address "
        f"{residency.offset_bytes:,}: {came}, whole at {ns(stay.arrival_ns)}"
    )
    if stay.readers:
        last = max(stay.readers, key=lambda row: row.kernel.end_ns)
        words += f", for {_kernels(stay.readers)}"
        if last.kernel.end_ns == residency.end_ns:
            words += (
                "; it stays until the last of them has ended" if len(stay.readers) > 1 else "; it stays until that ends"
            )
    if any(m.end_ns == residency.end_ns for m in stay.spills):
        words += "; it stays until its spill to HBM is done"
    if not stay.readers and not stay.spills:
        words += "; nobody reads it there"
    return Reason("l2", tensor, words + ".", facts)


def _copied(view: View, tensor: str, maker: KernelFacts, readers: list[KernelFacts]) -> Iterator[Reason]:
    """Why a made tensor is in HBM, or that it never is."""
    there = view.in_hbm_ns(tensor)
    if there is None:
        yield Reason("hbm", tensor, "It is never written to HBM: all its readers find it in L2.", {"written": False})
        return
    by_maker = any(write.tensor == tensor and write.hbm for write in maker.kernel.writes)
    who = "its maker, in its HBM phase" if by_maker else "a spill"
    words = f"It is in HBM from {ns(there)} on, written by {who}"
    facts: Facts = {"written": True, "in_hbm_ns": there, "by": "maker" if by_maker else "spill"}
    role = view.graph.tensor[tensor].role
    fills = [m for m in view.schedule.moves if m.tensor == tensor and m.kind is MoveKind.FILL]
    away = [row for row in readers if source_of(row.kernel, tensor) is Source.HBM]
    whys = []
    if role is Role.OUTPUT:
        whys.append("it is an output")
    if away:
        whys.append(f"{_kernels(away)} {'reads' if len(away) == 1 else 'read'} it there, because it is not kept in L2")
    if fills:
        whys.append("a fill brings it back")
    facts["output"] = role is Role.OUTPUT
    words += f": {' and '.join(whys)}" if whys else "; nobody needs it there"
    back = [row.kernel.end_ns for row in away] + [
        end for s in view.stays.get(tensor, ()) if s.move is not None for end in (s.residency.end_ns,)
    ]
    kept = [s.residency.end_ns for s in view.stays.get(tensor, ()) if s.move is None]
    left = max(kept, default=maker.kernel.end_ns)
    if back and left < max(back):
        words += _room(view, tensor, left, max(back), facts)
        yield Reason("hbm", tensor, words, facts)
    else:
        yield Reason("hbm", tensor, words + ".", facts)


def _streams(view: View, tensor: str, row: KernelFacts) -> Reason:
    read, size = view.read_bytes(row.kernel.operators, tensor), view.graph.tensor[tensor].size_bytes
    held = costs.hbm_ns(view.machine, read)
    longer = row.duration_ns - view.terms(row).own_ns
    facts: Facts = {"number": row.number, "read_bytes": read, "channel_ns": held, "longer_ns": longer}
    words = f"Kernel {row.label} reads {amount(read)} of it from HBM in its own phase, {ns(held)} of the channel"
    words += "; the phase does not lengthen the kernel" if longer == 0 else f"; the phase makes it {ns(longer)} longer"
    if read < size and view.graph.tensor[tensor].role.starts_in_hbm:
        words += "; it could not be prefetched, since which part is read is known too late"
    return Reason("streamed", tensor, words + ".", facts)


def _kernels(rows: list[KernelFacts] | tuple[KernelFacts, ...]) -> str:
    return f"kernel{'s' * (len(rows) > 1)} {listed(str(row.number) for row in rows)}"
