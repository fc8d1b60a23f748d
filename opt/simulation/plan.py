"""A plan in the simulator: which activity waits for which, and what came out beside what the plan says.

The plan's times are not used, only its decisions: cores, tiles, addresses, where tensors lie, the order on each core,
on the link and among moves. A kernel starts when its tensors are there, its cores are free, and whatever lay at its
addresses in L2 is not read any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from instances.costs import Misfit, draft
from instances.costs.terms import launch_ns
from instances.errors import InvalidScheduleError
from instances.fusion import Fuser
from instances.instance import Instance
from instances.kernels import KernelKind
from instances.schedule import Kernel, Move, MoveKind, Schedule, Source
from opt.replay.timeline import Traffic
from opt.simulation.engine import Activity, Corruption, Engine
from opt.simulation.kernels import programs
from opt.simulation.sharing import Flow


@dataclass(frozen=True)
class Simulated:
    """One kernel or move: what the plan says and what the simulation shows (ns), and what held it up most."""

    name: str
    kind: str
    plan_ns: int
    simulated_ns: int
    plan_start_ns: int
    start_ns: int
    stall: str

    @property
    def ratio(self) -> float:
        """Simulated over planned duration."""
        return self.simulated_ns / max(1, self.plan_ns)


@dataclass(frozen=True)
class Simulation:
    """A simulated plan; ``corruptions`` are addresses in a core that were used again too early."""

    plan_ns: int
    latency_ns: int
    activities: tuple[Simulated, ...]
    corruptions: tuple[Corruption, ...]


def simulate(instance: Instance, schedule: Schedule) -> Simulation:
    """Run a schedule tile by tile.

    ``instance`` must be the schedule's own. A plan that is not valid may stand still: :class:`InvalidScheduleError`.
    """
    return _Stage(instance, schedule).run()


class _Stage:
    def __init__(self, instance: Instance, schedule: Schedule) -> None:
        self._machine, self._graph, self._schedule = instance.machine, instance.graph, schedule
        self._traffic = Traffic(instance)
        self._fuser = Fuser(instance.graph)
        self._kernels = [(kernel, self._kernel(kernel)) for kernel in sorted(schedule.kernels, key=_order)]
        self._moves = [(move, self._move(move)) for move in sorted(schedule.moves, key=lambda m: m.start_ns)]
        self._maker = {write.tensor: activity for kernel, activity in self._kernels for write in kernel.writes}

    def run(self) -> Simulation:
        """Tie the activities together, run them, and put them beside the plan."""
        self._queue_up()
        self._follow_tensors()
        self._reuse_addresses()
        engine = Engine(self._machine.l2.rate_gb_s.value, self._machine.hbm.rate_gb_s.value)
        both = [activity for _, activity in (*self._kernels, *self._moves)]
        engine.run(both)
        found = [self._beside(a, k.start_ns, k.end_ns, k.kind.value) for k, a in self._kernels]
        found += [self._beside(a, m.start_ns, m.end_ns, m.kind.value) for m, a in self._moves]
        latency = round(max(activity.end_ns for activity in both))
        return Simulation(self._schedule.latency_ns, latency, tuple(found), tuple(engine.corruptions))

    def _beside(self, activity: Activity, start_ns: int, end_ns: int, kind: str) -> Simulated:
        worst = max(activity.stalls, key=lambda reason: activity.stalls[reason], default="")
        simulated = round(activity.end_ns - activity.start_ns)
        return Simulated(activity.name, kind, end_ns - start_ns, simulated, start_ns, round(activity.start_ns), worst)

    # ---------------------------------------------------------------- activities

    def _kernel(self, kernel: Kernel) -> Activity:
        fusion = self._fuser.judge(kernel.operators)
        if fusion is None:
            raise InvalidScheduleError(f"{kernel.label} may not run as one kernel; see 'tilewright validate'")
        machine = self._machine
        try:
            price = draft(fusion, machine, kernel.tiling)
        except Misfit as misfit:
            raise InvalidScheduleError(f"{kernel.label}: its tiling does not fit ({misfit})") from None
        head = launch_ns(machine, kernel.kind, price.steps)
        if kernel.kind is KernelKind.LINK:
            return Activity(kernel.label, head_ns=head, fixed_ns=sum(stage.total_ns for stage in price.stages))
        crossing = {**self._traffic.streamed_bytes(kernel), **self._traffic.written_bytes(kernel)}
        return Activity(
            kernel.label,
            head_ns=head,
            programs=programs(fusion, machine, kernel.tiling, kernel.buffers, crossing),
            buffers=kernel.buffers,
        )

    def _move(self, move: Move) -> Activity:
        machine, size = self._machine, self._graph.tensor[move.tensor].size_bytes
        rate = machine.hbm.rate_gb_s.value
        flow = Flow(float(size), rate, 1, hbm_share=1.0, l2_share=0.0)
        return Activity(f"{move.kind.value} of {move.tensor}", head_ns=machine.hbm.move_startup_ns.value, flow=flow)

    # ---------------------------------------------------------------- who waits for whom

    def _queue_up(self) -> None:
        """Kernels on one core, collectives on the link, and moves, in the order of the plan."""
        last: dict[tuple[str, int], Activity] = {}
        for kernel, activity in self._kernels:
            held = [("aic", core) for core in kernel.aic_ids] + [("aiv", core) for core in kernel.aiv_ids]
            if kernel.kind is KernelKind.LINK:
                held.append(("link", 0))
            activity.wait_for(last.get(core) for core in held)
            last.update(dict.fromkeys(held, activity))
        for (_, before), (_, after) in zip(self._moves, self._moves[1:], strict=False):
            after.wait_for([before])
        drawing = sorted(
            (k for k in self._kernels if k[0].hbm_start_ns is not None), key=lambda k: k[0].hbm_start_ns or 0
        )
        for move, activity in self._moves:  # issued when the traffic before it is through by the plan
            earlier = [k for k in drawing if (k[0].hbm_start_ns or 0) < move.start_ns]
            if earlier:
                kernel, before = earlier[-1]
                activity.wait_since(before, (kernel.hbm_start_ns or 0) + kernel.hbm_ns - kernel.start_ns)

    def _follow_tensors(self) -> None:
        """Readers after makers and after the moves that bring what they read; spills after makers."""
        arrivals = {m.tensor: activity for m, activity in self._moves if m.kind is not MoveKind.SPILL}
        spills = {m.tensor: activity for m, activity in self._moves if m.kind is MoveKind.SPILL}
        for kernel, activity in self._kernels:
            for read in kernel.reads:
                before = [self._maker.get(read.tensor)]
                if read.source is Source.L2:
                    before.append(arrivals.get(read.tensor))
                elif read.tensor in self._maker:
                    before.append(spills.get(read.tensor))
                activity.wait_for(before)
        for move, activity in self._moves:
            activity.wait_for([self._maker.get(move.tensor)])
            if move.kind is MoveKind.FILL:
                activity.wait_for([spills.get(move.tensor)])

    def _reuse_addresses(self) -> None:
        """What takes addresses in L2 waits for the last users of what the plan had there before."""
        stays = []
        for r in self._schedule.residencies:
            stays.append((r.start_ns, r.end_ns, r.offset_bytes, r.offset_bytes + r.size_bytes, r.tensor))
        begins = {(move.tensor, move.start_ns): activity for move, activity in self._moves}
        for kernel, activity in self._kernels:
            begins |= {(write.tensor, kernel.start_ns): activity for write in kernel.writes if write.l2}
        uses: dict[str, list[tuple[int, Activity]]] = {}
        for kernel, activity in self._kernels:
            for read in kernel.reads:
                if read.source is Source.L2:
                    uses.setdefault(read.tensor, []).append((kernel.end_ns, activity))
        for move, activity in self._moves:
            if move.kind is MoveKind.SPILL:
                uses.setdefault(move.tensor, []).append((move.end_ns, activity))
        stays.sort()
        for start, _, low, high, tensor in stays:
            taker = begins.get((tensor, start))
            if taker is None:
                continue
            for _, end, other_low, other_high, other in stays:
                if end <= start and low < other_high and other_low < high:
                    taker.wait_for(activity for when, activity in uses.get(other, ()) if when <= end)


def _order(kernel: Kernel) -> tuple[int, int]:
    return kernel.start_ns, kernel.end_ns
