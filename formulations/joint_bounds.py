"""Redundant constraints of the joint model: they cut off no schedule, they carry what bounds it into the propagation.

Each function is one family; its docstring is the formula, in the symbols of ``formulations.joint_core``. The spans and
cuts they speak of come from ``formulations.facts``, shared with ``formulations.relaxation``.
"""

from __future__ import annotations

from formulations.joint_core import JointCore, Linear
from instances.kernels import KernelKind


def span(joint: JointCore, u: str | None, v: str | None) -> Linear:
    """Time from the end of u's kernel to the start of v's; 0 if one kernel holds both."""
    until = joint.latency if v is None else joint.start[v]
    if u is None:
        return until
    holders = joint.instance.candidates_of
    of_u = [joint.duration[g] for g in holders[u] if v is None or g not in holders[v]]
    return until - joint.start[u] - sum(of_u)


def bound_by_energy(joint: JointCore) -> None:
    """Capacity times the span between any u and v >= work of the kernels that run wholly between them.

    For cube cores, vector cores and L2 rate, with least durations by implementation; over the whole schedule
    with actual durations times the group's least demand as well. Collectives likewise on the link.
    """
    machine, model = joint.instance.machine, joint.model
    for label, capacity in (
        ("aic", machine.aic_count),
        ("aiv", machine.aiv_count),
        ("l2_permille", 1000),
    ):
        work: list[list[Linear]] = []
        stretched: list[Linear] = []
        for g, candidate in enumerate(joint.instance.candidates):
            ways = joint.instance.implementations(candidate)
            amounts = [getattr(way.tiling, label) for way in ways]
            work.append(
                [joint.x[g, i] * (amount * ways[i].cost.least_ns) for i, amount in enumerate(amounts) if amount]
            )
            if min(amounts):
                stretched.append(joint.duration[g] * min(amounts))
        for u, v, between in joint.facts.spans:
            energy = [term for g in between for term in work[g]]
            if energy:
                model.add(sum(energy) <= capacity * span(joint, u, v))
        if stretched:
            model.add(sum(stretched) <= capacity * joint.latency)
    linked = [
        joint.duration[g]
        for g, candidate in enumerate(joint.instance.candidates)
        if joint.facts.kind(candidate) is KernelKind.LINK
    ]
    if linked:
        model.add(sum(linked) <= joint.latency)


def bound_by_traffic(joint: JointCore) -> None:
    """C >= all phases and moves on the channel; every reader of a source streams it or has it moved."""
    facts = joint.facts
    moves = [flag * facts.move_ns(t) for t, flag in (*joint.spill.items(), *joint.fill.items())]
    joint.model.add(sum(joint.phase_length.values()) + sum(moves) <= joint.latency)
    for t in facts.sources:
        for reader in facts.graph.consumers[t]:
            ways = [joint.stream[g, t] for g in joint.instance.candidates_of[reader] if (g, t) in joint.stream]
            if t in joint.fill:
                ways.append(joint.fill[t])
            if ways:
                joint.model.add(sum(ways) >= 1)


def bound_by_precedence(joint: JointCore) -> None:
    """Along an edge from p to c, without a big constant:

    ``S[c] >= S[p] + sum of d[g] over g that hold p and not c``, and
    ``E[c] >= E[p] + sum of d[g] over g that hold c and not p``.
    If one kernel holds both, the sums are 0 and the times equal. Chained along a path, each kernel that meets
    the path counts once.
    """
    facts, model = joint.facts, joint.model
    holders = {name: set(groups) for name, groups in joint.instance.candidates_of.items()}
    for p, c in dict.fromkeys((edge.producer, edge.consumer) for edge in facts.edges):
        leaving = sum(joint.duration[g] for g in sorted(holders[p] - holders[c]))
        entering = sum(joint.duration[g] for g in sorted(holders[c] - holders[p]))
        model.add(joint.start[c] >= joint.start[p] + leaving)
        model.add(joint.end[c] >= joint.end[p] + entering)


def bound_by_cuts(joint: JointCore) -> None:
    """What the channel must do before each operator v and between any u and v.

    Before ``S[v]``: the phases of all kernels that hold an ancestor of v and not v, and the moves that these
    kernels or v's own read from. Between u and v (or the end): the phases of all kernels wholly between them.
    """
    facts, model = joint.facts, joint.model
    for name, (before, _) in facts.cuts.items():
        moved = [
            joint.far[g, t] * facts.move_ns(t)
            for t, groups in facts.moves_before(name, before).items()
            for g in groups
            if (g, t) in joint.far
        ]
        model.add(sum(joint.group_phase[g] for g in before) + sum(moved) <= joint.start[name])
    for u, v, between in facts.spans:
        if between and u is not None:
            model.add(sum(joint.group_phase[g] for g in between) <= span(joint, u, v))


def bound_by_crowding(joint: JointCore) -> None:
    """Two prefetches that together exceed L2: the later reader's waits for the end of the earlier reader."""
    for one, reader, other, _ in joint.facts.crowded:
        if one not in joint.fill or other not in joint.fill:
            continue
        joint.model.add(joint.fill_start[other] >= joint.end[reader]).only_enforce_if(
            joint.fill[one], joint.fill[other]
        )


BOUNDING = {
    "energy": bound_by_energy,
    "traffic": bound_by_traffic,
    "precedence": bound_by_precedence,
    "cuts": bound_by_cuts,
    "crowding": bound_by_crowding,
}
"""The families by name."""
