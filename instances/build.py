"""From graph and machine to an instance: all legal groups, each with the tilings worth keeping.

Structurally equal groups (layers, heads of different layers) are recognised by a signature and priced once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from instances.costs import Misfit, draft, hbm_ns, l2_ns, tilings
from instances.costs.terms import Draft, assemble
from instances.errors import InfeasibleError
from instances.fusion import Fuser, Fusion
from instances.graph import Access, Graph
from instances.instance import Census, Instance
from instances.kernels import Candidate, Implementation, Template, Tiling
from instances.machine import Machine, MemoryName

MAX_GROUP = 6
"""Largest number of operators in a group."""

MOST_PER_OPERATOR = 2000
"""Sets of operators looked at around one operator before the search for groups moves on."""

SHARE_STEP = 25
"""L2 shares are multiples of this many thousandths."""


def build_instance(
    graph: Graph,
    machine: Machine,
    max_group: int = MAX_GROUP,
    origin: dict[str, str | int | float | bool | None] | None = None,
) -> Instance:
    """Enumerate and price the kernel candidates of a graph on a machine.

    Raises
    ------
    InfeasibleError
        If the tensors exceed HBM, or an operator fits nowhere: the message says which buffer, the smallest
        tile tried and how many bytes it is over.
    """
    _check_hbm(graph, machine)
    templates: list[Template] = []
    known: dict[str, int | None] = {}
    candidates: list[Candidate] = []
    priced = 0
    fuser = Fuser(graph)
    for fusion in fuser.groups(max_group, MOST_PER_OPERATOR):
        signature = structure(fusion)
        if signature not in known:
            implementations, tried, misfit = _implementations(fusion, machine)
            priced += tried
            if implementations:
                known[signature] = len(templates)
                templates.append(Template(kind=fusion.kind, rule=fusion.rule, implementations=implementations))
            else:
                known[signature] = None
                if len(fusion.operators) == 1:
                    raise _fits_nowhere(fusion, machine, misfit)
        template = known[signature]
        if template is not None:
            candidates.append(
                Candidate(
                    operators=fusion.names,
                    template=template,
                    reads=tuple(access.tensor for access in fusion.reads),
                    writes=tuple(access.tensor for access in fusion.writes),
                )
            )
    census = Census(
        groups=len(candidates),
        structures=len(templates),
        priced_tilings=priced,
        kept_tilings=sum(len(template.implementations) for template in templates),
        max_group=max_group,
        cut_short=fuser.cut_short,
    )
    return Instance(
        name=f"{graph.name} on {machine.name}",
        origin=origin or {},
        graph=graph,
        machine=machine,
        templates=tuple(templates),
        candidates=tuple(candidates),
        census=census,
    )


def ways_to_run(fusion: Fusion, machine: Machine) -> tuple[tuple[Implementation, ...], Misfit | None]:
    """The tilings that an instance keeps of a group, and the mildest misfit among those that do not fit."""
    implementations, _, misfit = _implementations(fusion, machine)
    return implementations, misfit


def structure(fusion: Fusion) -> str:
    """What the price of a group depends on, with tensors renamed in order of first use."""
    graph = fusion.graph
    alias: dict[str, int] = {}

    def describe(access: Access) -> str:
        number = alias.setdefault(access.tensor, len(alias))
        tensor = graph.tensor[access.tensor]
        return f"{number}:{tensor.shape}:{tensor.dtype.value}:{access.dims}:{access.touched_bytes}"

    parts = []
    for operator in fusion.operators:
        reads = ",".join(describe(access) for access in operator.reads)
        writes = ",".join(describe(access) for access in operator.writes)
        parts.append(
            f"{operator.kind.value}|{sorted(operator.dims.items())}|{operator.macs}|{sorted(operator.vector.items())}"
            f"|{operator.link_bytes}|{operator.whole}|{operator.density}|{reads}|{writes}"
        )
    border = [alias[access.tensor] for access in fusion.writes]
    return ";".join(parts) + f">{border}"


def _implementations(fusion: Fusion, machine: Machine) -> tuple[tuple[Implementation, ...], int, Misfit | None]:
    """The kept tilings of a group, how many were priced, and the mildest misfit where none fits."""
    mildest: Misfit | None = None
    found: list[Implementation] = []
    tried = 0
    for tiling in tilings(fusion, machine):
        tried += 1
        try:
            drafted = draft(fusion, machine, tiling)
            found.extend(_with_shares(machine, tiling, drafted))
        except Misfit as misfit:
            if mildest is None or (
                misfit.needed_bytes and (not mildest.needed_bytes or misfit.over_bytes < mildest.over_bytes)
            ):
                mildest = misfit
                mildest.tile = tiling.tile
    streamed = sum(hbm_ns(machine, fusion.graph.touched_bytes(access)) for access in fusion.reads)
    return tuple(keep_best(found, machine, streamed)), tried, mildest


def _with_shares(machine: Machine, tiling: Tiling, drafted: Draft) -> Iterable[Implementation]:
    """A tiling at each share of the L2 rate worth having.

    As little as leaves another engine the slowest; where L2 itself is slowest, all of it, or as little as keeps up
    with HBM, which is enough for a kernel that streams.
    """
    slowest = max((stage.total_ns for stage in drafted.stages), default=0.0)
    full = l2_ns(machine, drafted.l2_bytes, 1000)
    shares: set[int] = set()
    if full == 0:
        shares.add(0)
    elif full <= slowest:
        shares.add(min(1000, _step_up(1000 * full / slowest)))
    else:
        shares |= {1000, _streaming_share(machine)}
    for share in shares:
        cost = assemble(machine, drafted, share)
        if cost.workspace_bytes <= machine.capacity(MemoryName.L2):
            yield Implementation(tiling=tiling.model_copy(update={"l2_permille": share}), cost=cost)


def _streaming_share(machine: Machine) -> int:
    """The share of the L2 rate that keeps up with HBM, in thousandths."""
    return min(1000, _step_up(1000 * machine.hbm.rate_gb_s.value / machine.l2.rate_gb_s.value))


def _step_up(permille: float) -> int:
    return max(SHARE_STEP, math.ceil(permille / SHARE_STEP) * SHARE_STEP)


def keep_best(found: list[Implementation], machine: Machine, streamed_ns: int) -> list[Implementation]:
    """The best tiling for each situation a kernel can find itself in; dominated ones are dropped.

    Situations: alone with everything in L2; alone and streaming all it reads from HBM; and both again on at most
    half of the cores, on the share of the L2 rate that keeps up with HBM, or on both. Nothing else on the chip
    rewards a tiling, so a tiling that is best in none of these differs from a kept one by less than the steps of
    cores and shares between them.
    """
    quiet = _streaming_share(machine)
    kept: list[Implementation] = []
    for half in (False, True):
        for share in (1000, quiet):
            fitting = [
                item
                for item in found
                if item.tiling.l2_permille <= share
                and (
                    not half or (item.tiling.aic <= machine.aic_count / 2 and item.tiling.aiv <= machine.aiv_count / 2)
                )
            ]
            for floor_ns in (0, streamed_ns):
                best = min(fitting, key=lambda item: _rank(item, floor_ns), default=None)
                if best is not None and best not in kept:
                    kept.append(best)
    return [item for item in kept if not any(_dominates(other, item) for other in kept if other is not item)]


def _rank(item: Implementation, floor_ns: int) -> tuple[float, ...]:
    """Duration if the body lasts at least ``floor_ns``, then what it holds while it runs."""
    cost, tiling = item.cost, item.tiling
    duration = cost.head_ns + max(cost.busy_ns, floor_ns) + cost.tail_ns
    return (duration, tiling.l2_permille, tiling.aic, tiling.aiv, cost.workspace_bytes, cost.least_ns)


def _dominates(one: Implementation, other: Implementation) -> bool:
    """Whether one implementation is no worse in anything a schedule can notice (ties go to the earlier)."""

    def measures(item: Implementation) -> tuple[float, ...]:
        cost, tiling = item.cost, item.tiling
        return (
            cost.head_ns,
            cost.least_ns,
            cost.tail_ns,
            cost.head_ns + cost.tail_ns,
            tiling.aic,
            tiling.aiv,
            tiling.l2_permille,
            cost.workspace_bytes,
            cost.miss_ns_per_mib,
        )

    mine, theirs = measures(one), measures(other)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _check_hbm(graph: Graph, machine: Machine) -> None:
    capacity = machine.capacity(MemoryName.HBM)
    largest = max(graph.tensors, key=lambda tensor: tensor.size_bytes)
    if largest.size_bytes > capacity:
        raise InfeasibleError(
            f"tensor {largest.name!r} needs {largest.size_bytes} bytes, {largest.size_bytes - capacity} more than the "
            f"HBM of {machine.name} ({capacity} bytes); raise --tp, or lower --batch or --context"
        )
    standing = sum(tensor.size_bytes for tensor in graph.tensors if tensor.role.value != "intermediate")
    if standing > capacity:
        raise InfeasibleError(
            f"weights, caches, inputs and outputs need {standing} bytes, {standing - capacity} more than the HBM of "
            f"{machine.name} ({capacity} bytes); raise --tp, or lower --layers, --batch or --context"
        )


def _fits_nowhere(fusion: Fusion, machine: Machine, misfit: Misfit | None) -> InfeasibleError:
    operator = fusion.operators[0]
    if misfit is None:
        return InfeasibleError(f"operator {operator.name!r} has no way to run on {machine.name}: no tiling applies")
    if misfit.needed_bytes == 0:
        return InfeasibleError(f"operator {operator.name!r} cannot run on {machine.name}: it lacks a {misfit.memory}")
    tile = ", ".join(f"{loop} {size}" for loop, size in misfit.tile.items())
    return InfeasibleError(
        f"operator {operator.name!r} fits nowhere on {machine.name}: its smallest tile ({tile}) needs "
        f"{misfit.needed_bytes} bytes of {misfit.memory.upper()}, {misfit.over_bytes} over; "
        f"shorten {'*'.join(operator.whole) or 'the row'}"
    )
