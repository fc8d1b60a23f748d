"""What a kernel takes on its own: the best tiling that the cost model finds, and why it takes that long.

The same terms price kernels inside schedules; here there is no schedule, so what lies in L2 when the kernel starts
is said by rule:

* a kernel that is timed *alone* finds nothing in L2, neither data nor its own program (benchmarks clear the caches
  between runs, or go through more data than fits);
* a kernel *in a network* streams weights and caches from HBM and finds activations in L2, if all that it touches
  fits there; its program is warm.

Results stay in L2 as far as they fit beside what was read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from instances.costs import Misfit, draft, tilings
from instances.costs.terms import MIB, Draft, assemble, hbm_ns, launch_ns
from instances.fusion import Fuser, Fusion
from instances.graph import Role
from instances.kernels import Cost, KernelKind, Tiling
from instances.library import Call, Request, Unmodelled, build_call
from instances.machine import Machine, MemoryName


@dataclass(frozen=True)
class Traffic:
    """Bytes between HBM and L2 of one part of a call, by tensor."""

    read: dict[str, int]
    written: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Both ways."""
        return sum(self.read.values()) + sum(self.written.values())


@dataclass(frozen=True)
class Part:
    """One part of a call under its best tiling."""

    fusion: Fusion
    tiling: Tiling
    cost: Cost
    launch_ns: int
    steps: int  # vector steps of its program
    traffic: Traffic
    phase_ns: int  # its time on the HBM channel, or at its cores' ports where these are tighter

    @property
    def fill_ns(self) -> int:
        """From the first move to the body: first pieces of the stages before the slowest."""
        return self.cost.head_ns - self.launch_ns

    @property
    def body_ns(self) -> int:
        """Body: engines, or the stream from HBM."""
        return max(self.cost.busy_ns, self.phase_ns)

    @property
    def bound_by(self) -> str:
        """What sets the body."""
        return "hbm" if self.phase_ns > self.cost.busy_ns else self.cost.bound_by


@dataclass(frozen=True)
class Estimate:
    """The predicted time of one call.

    ``launch_ns`` is the time from start to first move of a warm program, ``cold_ns`` what a cold one adds.
    """

    call: Call
    parts: tuple[Part, ...]
    kind: KernelKind
    launch_ns: int
    cold_ns: int
    total_ns: int

    @property
    def bound_by(self) -> str:
        """What most of the time goes to: the longest part's engine, or the launch."""
        longest = max(self.parts, key=lambda part: part.body_ns)
        return "launch" if 2 * longest.body_ns < self.total_ns and len(self.parts) == 1 else longest.bound_by


def estimate(request: Request, machine: Machine) -> Estimate:
    """Predict a kernel; :class:`Unmodelled` with the reason where it cannot be."""
    call = build_call(request, machine)
    fuser = Fuser(call.graph)
    fusions = []
    for names in call.parts:
        fusion = fuser.judge(names)
        if fusion is None:
            raise Unmodelled(f"{'+'.join(names)} may not run as one kernel")
        fusions.append(fusion)
    warm = request.network and _fits(machine, fusions)
    return combine(machine, call, [_best(machine, fusion, warm) for fusion in fusions], request.network)


def combine(machine: Machine, call: Call, parts: list[Part], network: bool) -> Estimate:
    """Put the parts of a call together under one launch.

    In turn, each waits for all cores of the one before. Together, they overlap like the pipes of a mixed kernel, but
    draw on one L2 and one HBM.
    """
    kinds = {part.fusion.kind for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else KernelKind.MIX
    steps = sum(part.steps for part in parts)
    cold = 0 if network else math.ceil(steps * machine.launch.cold_step_ns.value)
    launch = math.ceil(launch_ns(machine, kind, steps))
    if len(parts) == 1:
        body = parts[0].fill_ns + parts[0].body_ns + parts[0].cost.tail_ns
    elif call.together:
        engines = [engine for part in parts for engine in _engines(machine, call, part).items()]
        shared = sum(ns for engine, ns in engines if engine == "l2")
        alone = max(ns for engine, ns in engines if engine != "l2")
        body = max(alone, shared, sum(part.phase_ns for part in parts))
        body += parts[0].fill_ns + math.ceil(machine.sync_ns.value) + parts[-1].cost.tail_ns
    else:
        body = sum(part.fill_ns + part.body_ns + part.cost.tail_ns for part in parts)
        body += math.ceil(machine.sync_ns.value) * (len(parts) - 1)
    return Estimate(call, tuple(parts), kind, launch, cold, cold + launch + body)


def _engines(machine: Machine, call: Call, part: Part) -> dict[str, int]:
    """Engine times of a part beside others; with direct paths, what they hand over does not pass through L2."""
    graph = call.graph
    made = sum(graph.touched_bytes(access) for access in part.fusion.writes if graph.consumers[access.tensor])
    read = sum(graph.touched_bytes(access) for access in part.fusion.reads if access.tensor in graph.producer)
    engines = dict(part.cost.engines_ns)
    if (made or read) and machine.direct and machine.direct_back:
        share = max(0.0, 1 - (made + read) / part.cost.l2_bytes)
        for engine in ("l2", "mte2") if read else ("l2",):
            engines[engine] = math.ceil(engines.get(engine, 0) * share)
    return engines


def traffic(machine: Machine, fusion: Fusion, warm: bool) -> Traffic:
    """What a kernel moves between HBM and L2. ``warm``: activations are in L2."""
    graph = fusion.graph
    read = {
        access.tensor: graph.touched_bytes(access)
        for access in fusion.reads
        if access.tensor not in graph.producer
        and not (warm and graph.tensor[access.tensor].role not in (Role.WEIGHT, Role.CACHE))
    }
    made = {
        access.tensor: graph.touched_bytes(access)
        for access in fusion.writes
        if graph.tensor[access.tensor].role is Role.OUTPUT
    }
    over = sum(made.values()) + sum(read.values()) - machine.capacity(MemoryName.L2)
    share = min(1.0, max(0.0, over / max(1, sum(made.values()))))
    return Traffic(read, {name: math.ceil(size * share) for name, size in made.items() if share})


def _fits(machine: Machine, fusions: list[Fusion]) -> bool:
    """Whether all that a call touches, weights and caches aside, fits in L2."""
    graph = fusions[0].graph
    return sum(t.size_bytes for t in graph.tensors if t.role not in (Role.WEIGHT, Role.CACHE)) <= machine.capacity(
        MemoryName.L2
    )


def _best(machine: Machine, fusion: Fusion, warm: bool) -> Part:
    """The part under the tiling with the least time, at the whole L2 rate."""
    moved = traffic(machine, fusion, warm)
    best: tuple[int, Part] | None = None
    misfit: Misfit | None = None
    for tiling in tilings(fusion, machine):
        whole = tiling.model_copy(update={"l2_permille": 1000})
        try:
            part = price_part(machine, fusion, whole, draft(fusion, machine, whole), moved)
        except Misfit as error:
            misfit = error
            continue
        total = part.cost.head_ns + part.body_ns + part.cost.tail_ns
        if best is None or total < best[0]:
            best = (total, part)
    if best is None:
        why = "" if misfit is None else f" ({misfit if misfit.over_bytes else misfit.memory})"
        raise Unmodelled(f"no tiling fits{why}")
    return best[1]


def price_part(machine: Machine, fusion: Fusion, tiling: Tiling, drafted: Draft, moved: Traffic) -> Part:
    """A part under a tiling; :class:`Misfit` where its buffers do not fit."""
    cost = assemble(machine, drafted, tiling.l2_permille)
    channel = sum(hbm_ns(machine, size) for size in (*moved.read.values(), *moved.written.values()))
    ports = math.ceil(cost.miss_ns_per_mib * sum(moved.read.values()) / MIB)
    launch = math.floor(launch_ns(machine, drafted.kind, drafted.steps))
    return Part(fusion, tiling, cost, launch, drafted.steps, moved, max(channel, ports))
