"""Between the joint model and schedules: a schedule as a complete hint, a solution as decisions."""

from __future__ import annotations

from collections.abc import Callable

from ortools.sat.python import cp_model

from formulations.joint_core import JointCore
from formulations.plan import Decisions, KernelChoice, MoveChoice, ResidencyChoice
from instances.schedule import MoveKind, Schedule, Source

Value = Callable[[cp_model.IntVar], int]
"""Value of a variable in a solution."""


def hint(joint: JointCore, schedule: Schedule) -> None:
    """Hint every variable with its value in a schedule of this instance.

    Raises :class:`ValueError` if the schedule uses a kernel or tiling that is not among the candidates.
    """
    values = _values_of(joint, schedule)
    for variable, rule in joint.derived:
        values[variable.index] = rule(values)
    joint.model.clear_hints()  # type: ignore[no-untyped-call]
    for index, value in values.items():
        joint.model.add_hint(joint.model.get_int_var_from_proto_index(index), value)


def _values_of(joint: JointCore, schedule: Schedule) -> dict[int, int]:
    """Values of the variables that decide, from a schedule; all others at 0."""
    values = dict.fromkeys(range(len(joint.model.proto.variables)), 0)

    def put(variable: cp_model.IntVar, value: int) -> None:
        values[variable.index] = value

    number = {candidate.operators: g for g, candidate in enumerate(joint.instance.candidates)}
    put(joint.latency, schedule.latency_ns)
    brought = {(m.tensor, m.start_ns) for m in schedule.moves if m.kind is not MoveKind.SPILL}
    arrivals = {m.tensor: m.end_ns for m in schedule.moves if m.kind is not MoveKind.SPILL}
    for move in schedule.moves:
        flags, starts = (
            (joint.spill, joint.spill_start) if move.kind is MoveKind.SPILL else (joint.fill, joint.fill_start)
        )
        if move.tensor in flags:
            put(flags[move.tensor], 1)
            put(starts[move.tensor], move.start_ns)
    near_end: dict[str, int] = {}
    for residency in schedule.residencies:
        kind = "far" if (residency.tensor, residency.start_ns) in brought else "near"
        key = (kind, residency.tensor)
        if kind == "near":
            if residency.tensor in joint.keep:
                put(joint.keep[residency.tensor], 1)
            near_end[residency.tensor] = residency.end_ns
        if key in joint.block_end:
            put(joint.block_end[key], residency.end_ns)
        if key in joint.address:
            put(joint.address[key], residency.offset_bytes // joint.facts.l2_unit)
    for kernel in schedule.kernels:
        if kernel.operators not in number:
            raise ValueError(f"kernel {kernel.label} is not among the candidates")
        g = number[kernel.operators]
        ways = joint.instance.implementations(joint.instance.candidates[g])
        i = next((i for i, way in enumerate(ways) if way.tiling == kernel.tiling), None)
        if i is None:
            raise ValueError(f"the tiling of kernel {kernel.label} is not among its implementations")
        put(joint.y[g], 1)
        put(joint.x[g, i], 1)
        put(joint.duration[g], kernel.end_ns - kernel.start_ns)
        first = kernel.operators[0]
        for name in kernel.operators:
            put(joint.start[name], kernel.start_ns)
            put(joint.end[name], kernel.end_ns)
        if kernel.hbm_start_ns is not None:
            put(joint.phase_start[first], kernel.hbm_start_ns)
        for read in kernel.reads:
            t = read.tensor
            if (g, t) not in joint.stream:
                continue
            if read.source is Source.HBM:
                put(joint.stream[g, t], 1)
            elif near_end.get(t, -1) >= kernel.end_ns:
                put(joint.near[g, t], 1)
            elif arrivals.get(t, kernel.start_ns + 1) <= kernel.start_ns:
                put(joint.far[g, t], 1)
        for write in kernel.writes:
            if (g, write.tensor) in joint.back:
                put(joint.back[g, write.tensor], int(write.hbm))
        if kernel.workspace_offset_bytes is not None and ("work", first) in joint.address:
            put(joint.address["work", first], kernel.workspace_offset_bytes // joint.facts.l2_unit)
    return values


def read_back(joint: JointCore, value: Value) -> Decisions:
    """Decisions of a solution, given as the values of its variables.

    What a condensed model does not decide is what it stands for: made tensors stay in L2, sources are streamed. Such
    decisions are a schedule if the model routes every source and output, and L2 has room for what it leaves out.
    """
    kernels = []
    for g, candidate in enumerate(joint.instance.candidates):
        if not value(joint.y[g]):
            continue
        first = candidate.operators[0]
        ways = range(len(joint.instance.implementations(candidate)))
        i = next(i for i in ways if value(joint.x[g, i]))
        reads = {}
        for t in candidate.reads:
            if (g, t) in joint.stream:
                streamed = bool(value(joint.stream[g, t]))
            else:
                streamed = t not in joint.facts.graph.producer
            reads[t] = Source.HBM if streamed else Source.L2
        writes = {t: _written(joint, value, g, t) for t in candidate.writes}
        phase = value(joint.has_phase[first])
        kernels.append(
            KernelChoice(
                candidate=g,
                implementation=i,
                start_ns=value(joint.start[first]),
                hbm_start_ns=value(joint.phase_start[first]) if phase else None,
                reads=reads,
                writes=writes,
                far=frozenset(t for t in candidate.reads if (g, t) in joint.far and value(joint.far[g, t])),
                workspace_offset_bytes=_address(joint, value, "work", first),
            )
        )
    moves, residencies = [], []
    for t, flag in joint.spill.items():
        if value(flag):
            moves.append(MoveChoice(t, MoveKind.SPILL, value(joint.spill_start[t])))
    for t, flag in joint.fill.items():
        if value(flag):
            kind = MoveKind.PREFETCH if t in joint.facts.prefetchable else MoveKind.FILL
            moves.append(MoveChoice(t, kind, value(joint.fill_start[t])))
            residencies.append(ResidencyChoice(t, _address(joint, value, "far", t), brought=True))
    for t in joint.facts.made:
        if any(choice.writes.get(t, (False, False))[0] for choice in kernels):
            residencies.append(ResidencyChoice(t, _address(joint, value, "near", t), brought=False))
    return Decisions(tuple(kernels), tuple(moves), tuple(residencies))


def _written(joint: JointCore, value: Value, g: int, t: str) -> tuple[bool, bool]:
    """Whether a candidate leaves a tensor in L2, and whether it writes it to HBM in its phase."""
    back = bool(value(joint.back[g, t])) if (g, t) in joint.back else joint.facts.is_output(t)
    if joint.condensed:
        return bool(joint.facts.graph.consumers[t]) or (t in joint.spill and bool(value(joint.spill[t]))), back
    return t in joint.keep and bool(value(joint.keep[t])), back


def _address(joint: JointCore, value: Value, kind: str, name: str) -> int | None:
    place = joint.address.get((kind, name))
    return None if place is None else value(place) * joint.facts.l2_unit
