"""From decisions to a schedule: end times, residency windows, addresses and core ids that follow from them.

Every solver hands its answer over as :class:`Decisions`; what can be derived is derived here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from formulations.cores import assign_cores
from formulations.facts import Facts
from formulations.packing import Block, pack
from instances.errors import NoScheduleError
from instances.schedule import Kernel, Move, MoveKind, Proof, Read, Residency, Schedule, Source, Write


@dataclass(frozen=True)
class KernelChoice:
    """One kernel: candidate and implementation by index, when it starts, where its tensors come from and go.

    ``writes`` maps a tensor to (left in L2, written to HBM in the phase); ``far`` are the tensors read from where an
    explicit move brought them.
    """

    candidate: int
    implementation: int
    start_ns: int
    hbm_start_ns: int | None
    reads: Mapping[str, Source]
    writes: Mapping[str, tuple[bool, bool]]
    far: frozenset[str] = frozenset()
    workspace_offset_bytes: int | None = None


@dataclass(frozen=True)
class MoveChoice:
    """An explicit move and when it starts."""

    tensor: str
    kind: MoveKind
    start_ns: int


@dataclass(frozen=True)
class ResidencyChoice:
    """A tensor in L2: left by its producer, or ``brought`` by a move. No address yet: ``None``."""

    tensor: str
    offset_bytes: int | None
    brought: bool


@dataclass(frozen=True)
class Decisions:
    """Everything a solver decides."""

    kernels: tuple[KernelChoice, ...]
    moves: tuple[MoveChoice, ...] = ()
    residencies: tuple[ResidencyChoice, ...] = ()


@dataclass
class Timing:
    """Times that follow from decisions (ns): end and phase length per kernel, ends of moves, windows per residency."""

    end: list[int] = field(default_factory=list)
    phase: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)

    @property
    def latency_ns(self) -> int:
        """End of the last activity."""
        return max([*self.end, *self.moved])


def time_decisions(facts: Facts, decisions: Decisions) -> Timing:
    """Shortest durations for the given starts, and the windows of what stays in L2."""
    timing = Timing()
    for choice in decisions.kernels:
        candidate = facts.instance.candidates[choice.candidate]
        cost = facts.instance.implementations(candidate)[choice.implementation].cost
        streamed = [t for t, source in choice.reads.items() if source is Source.HBM]
        phase = sum(facts.read_ns(candidate, t) for t in streamed)
        phase += sum(facts.write_ns(t) for t, (_, hbm) in choice.writes.items() if hbm)
        drawn = sum(facts.miss_ns(cost, facts.read_bytes(candidate, t)) for t in streamed)
        body = choice.start_ns + cost.head_ns
        done = max(body + cost.busy_ns, body + drawn)
        if choice.hbm_start_ns is not None:
            done = max(done, choice.hbm_start_ns + phase)
        timing.end.append(done + cost.tail_ns)
        timing.phase.append(phase)
    timing.moved += [move.start_ns + facts.move_ns(move.tensor) for move in decisions.moves]
    timing.windows += _windows(facts, decisions, timing)
    return timing


def _windows(facts: Facts, decisions: Decisions, timing: Timing) -> list[tuple[int, int]]:
    """From when to when each residency holds its addresses: from its producer or move to its last use."""
    fetched: dict[str, tuple[int, int]] = {}
    made: dict[str, tuple[int, int]] = {}
    until: dict[tuple[str, bool], int] = {}  # (tensor, brought): end of the last use

    def use(tensor: str, brought: bool, end_ns: int) -> None:
        until[tensor, brought] = max(until.get((tensor, brought), end_ns), end_ns)

    for move, end in zip(decisions.moves, timing.moved, strict=True):
        if move.kind is MoveKind.SPILL:
            use(move.tensor, False, end)
        else:
            fetched.setdefault(move.tensor, (move.start_ns, end))
    for choice, end in zip(decisions.kernels, timing.end, strict=True):
        made.update(dict.fromkeys(choice.writes, (choice.start_ns, end)))
        for tensor, source in choice.reads.items():
            if source is Source.L2:
                use(tensor, tensor in choice.far, end)
    windows = []
    for residency in decisions.residencies:
        begin, end = (fetched if residency.brought else made)[residency.tensor]
        windows.append((begin, max(end, until.get((residency.tensor, residency.brought), end))))
    return windows


def build_schedule(facts: Facts, decisions: Decisions, proof: Proof) -> Schedule:
    """The schedule of some decisions, sealed. Addresses that are missing are packed.

    Raises :class:`NoScheduleError` if the blocks in L2 cannot be packed or the cores not be assigned.
    """
    instance = facts.instance
    timing = time_decisions(facts, decisions)
    workspace, offsets = _addresses(facts, decisions, timing)
    order = sorted(range(len(decisions.kernels)), key=lambda i: (decisions.kernels[i].start_ns, timing.end[i]))
    ways = [instance.implementations(instance.candidates[k.candidate])[k.implementation] for k in decisions.kernels]
    cores = assign_cores(
        facts.machine,
        [
            (
                decisions.kernels[i].start_ns,
                timing.end[i],
                facts.kind(instance.candidates[decisions.kernels[i].candidate]),
                ways[i].tiling,
            )
            for i in order
        ],
    )
    kernels = []
    for i, (aic_ids, aiv_ids) in zip(order, cores, strict=True):
        choice = decisions.kernels[i]
        candidate = instance.candidates[choice.candidate]
        template = instance.templates[candidate.template]
        kernels.append(
            Kernel(
                operators=candidate.operators,
                kind=template.kind,
                rule=template.rule,
                tiling=ways[i].tiling,
                start_ns=choice.start_ns,
                end_ns=timing.end[i],
                hbm_start_ns=choice.hbm_start_ns if timing.phase[i] else None,
                hbm_ns=timing.phase[i],
                reads=tuple(Read(tensor=t, source=choice.reads[t]) for t in candidate.reads),
                writes=tuple(
                    Write(tensor=t, l2=choice.writes[t][0], hbm=choice.writes[t][1]) for t in candidate.writes
                ),
                aic_ids=aic_ids,
                aiv_ids=aiv_ids,
                buffers=ways[i].cost.buffers,
                workspace_offset_bytes=workspace[i],
            )
        )
    moves = tuple(
        Move(
            tensor=m.tensor,
            kind=m.kind,
            start_ns=m.start_ns,
            end_ns=m.start_ns + facts.move_ns(m.tensor),
        )
        for m in sorted(decisions.moves, key=lambda m: (m.start_ns, m.tensor))
    )
    residencies = tuple(
        Residency(
            tensor=r.tensor,
            offset_bytes=offset,
            size_bytes=facts.l2_size[r.tensor],
            start_ns=begin,
            end_ns=end,
        )
        for r, offset, (begin, end) in sorted(
            zip(decisions.residencies, offsets, timing.windows, strict=True), key=lambda item: (item[2], item[0].tensor)
        )
    )
    return Schedule(
        instance=instance.fingerprint,
        latency_ns=timing.latency_ns,
        kernels=tuple(kernels),
        moves=moves,
        residencies=residencies,
        proof=proof,
    ).sealed()


def _addresses(facts: Facts, decisions: Decisions, timing: Timing) -> tuple[list[int | None], list[int]]:
    """Addresses of workspaces (per kernel) and residencies; kept if all are given, else packed anew."""
    blocks: list[Block] = []
    given: list[int | None] = []
    for i, choice in enumerate(decisions.kernels):
        candidate = facts.instance.candidates[choice.candidate]
        cost = facts.instance.implementations(candidate)[choice.implementation].cost
        if cost.workspace_bytes:
            blocks.append(Block(choice.start_ns, timing.end[i], cost.workspace_bytes))
            given.append(choice.workspace_offset_bytes)
    for residency, (begin, end) in zip(decisions.residencies, timing.windows, strict=True):
        blocks.append(Block(begin, end, facts.l2_size[residency.tensor]))
        given.append(residency.offset_bytes)
    places: list[int]
    if any(offset is None for offset in given):
        packed = pack(blocks, facts.l2_capacity, facts.l2_unit)
        if packed is None:
            raise NoScheduleError("the tensors kept in L2 cannot be packed into its addresses")
        places = packed
    else:
        places = [offset for offset in given if offset is not None]
    remaining = iter(places)
    workspace: list[int | None] = []
    for choice in decisions.kernels:
        candidate = facts.instance.candidates[choice.candidate]
        cost = facts.instance.implementations(candidate)[choice.implementation].cost
        workspace.append(next(remaining) if cost.workspace_bytes else None)
    return workspace, list(remaining)
