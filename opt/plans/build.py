"""From a schedule that has passed its replay to the plan of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from instances.build import structure
from instances.errors import InvalidScheduleError
from instances.fusion import Fuser, Fusion
from instances.instance import Instance
from instances.kernels import Buffer, Cost, KernelKind, Tiling
from instances.plan import (
    Anchor,
    Blocks,
    Cores,
    Feature,
    Made,
    Operand,
    Plan,
    PlannedBuffer,
    PlannedKernel,
    PlannedMove,
    Result,
    Stay,
    Stream,
    Times,
    Verdict,
    Workspace,
)
from instances.pricing import price_in
from instances.repetition import find_repetition
from instances.schedule import Kernel, Move, MoveKind, Schedule, Source
from opt.plans.handovers import Inside, look_inside
from opt.plans.order import Activity, Order
from opt.plans.pool import plan_pool
from opt.plans.shapes import Shape, fusion_kind, shape_of
from opt.replay.timeline import Traffic
from opt.version import __version__

LEAST_BLOCKS = 2
"""Blocks of one form that a plan speaks of as repeated."""


def build_plan(instance: Instance, schedule: Schedule) -> Plan:
    """The plan of a schedule. ``schedule`` must be valid: whoever calls has replayed it."""
    return _Builder(instance, schedule).plan()


class _Builder:
    def __init__(self, instance: Instance, schedule: Schedule) -> None:
        self._instance, self._schedule = instance, schedule
        self._graph, self._machine = instance.graph, instance.machine
        self._fuser, self._traffic = Fuser(instance.graph), Traffic(instance)
        self._costs: dict[tuple[str, str], Cost] = {}
        self._insides: dict[tuple[str, str, tuple[Buffer, ...]], Inside] = {}
        self._pool = plan_pool(instance, schedule)
        self._in_pool = {place.tensor: place.offset_bytes for place in self._pool.places}
        kernels = sorted(schedule.kernels, key=lambda kernel: (kernel.start_ns, kernel.end_ns, kernel.operators))
        self._fusions = {kernel.operators: self._fusion(kernel) for kernel in kernels}
        workspaces = [self._cost(kernel).workspace_bytes for kernel in kernels]
        self._order = Order(instance, schedule, workspaces)
        self._order.reuse_pool(self._pool)

    def plan(self) -> Plan:
        """Everything put together."""
        instance, schedule, proof = self._instance, self._schedule, self._schedule.proof
        streams = self._order.streams()
        on = {name: stream.id for stream in streams for name in stream.activities}
        kernels = tuple(
            self._kernel(activity, activity.kernel, on)
            for activity in self._order.kernels
            if activity.kernel is not None
        )
        moves = tuple(
            self._move(activity, activity.move, on) for activity in self._order.moves if activity.move is not None
        )
        l2 = tuple(self._stays())
        repeat = instance.origin.get("repeat")
        return Plan(
            required_features=tuple(self._features(kernels, moves, l2, streams)),
            tool=f"tilewright {__version__}",
            graph=Made(name=self._graph.name, fingerprint=self._graph.fingerprint),
            machine=Made(name=self._machine.name, fingerprint=self._machine.fingerprint),
            schedule=schedule.seal,
            verdict=Verdict(
                status=proof.status,
                solver=proof.solver,
                latency_ns=schedule.latency_ns,
                bound_ns=proof.bound_ns,
                bound_by=proof.bound_by,
                gap=schedule.gap,
                covers=proof.covers,
            ),
            repeat=repeat if isinstance(repeat, int) and not isinstance(repeat, bool) and repeat > 0 else 1,
            blocks=_blocks(instance),
            tensors=self._graph.tensors,
            kernels=kernels,
            moves=moves,
            l2=l2,
            pool=self._pool,
            streams=streams,
            events=self._order.events(streams),
        )

    def _fusion(self, kernel: Kernel) -> Fusion:
        fusion = self._fuser.judge(kernel.operators)
        if fusion is None:
            raise InvalidScheduleError(f"{kernel.label} may not run as one kernel; see 'tilewright validate'")
        return fusion

    def _cost(self, kernel: Kernel) -> Cost:
        """The price of a kernel, worked out once per structure and tiling."""
        fusion = self._fusions[kernel.operators]
        key = (structure(fusion), kernel.tiling.model_dump_json())
        if key not in self._costs:
            self._costs[key] = price_in(self._instance, fusion, kernel.tiling)
        return self._costs[key]

    def _inside(self, kernel: Kernel) -> Inside:
        fusion = self._fusions[kernel.operators]
        key = (structure(fusion), kernel.tiling.model_dump_json(), kernel.buffers)
        if key not in self._insides:
            self._insides[key] = look_inside(fusion, self._machine, kernel.tiling, kernel.buffers)
        return self._insides[key]

    def _kernel(self, activity: Activity, kernel: Kernel, on: dict[str, int]) -> PlannedKernel:
        fusion, cost, inside = self._fusions[kernel.operators], self._cost(kernel), self._inside(kernel)
        shape = shape_of(fusion, self._machine, kernel.tiling, kernel.buffers)
        offset = kernel.workspace_offset_bytes
        return PlannedKernel(
            id=activity.id,
            operators=kernel.operators,
            kind=kernel.kind,
            rule=kernel.rule,
            fusion_kind=fusion_kind(fusion),
            stream=on[activity.id],
            tiles=shape.tiles,
            loops=shape.loops,
            joined=shape.joined,
            held=shape.held,
            steps=inside.steps,
            buffers=tuple(
                PlannedBuffer(
                    name=buffer.name,
                    memory=buffer.memory,
                    offset_bytes=buffer.offset_bytes,
                    size_bytes=buffer.size_bytes,
                    alignment_bytes=self._machine.alignment(buffer.memory),
                    slots=buffer.slots,
                    first_step=first,
                    last_step=last,
                )
                for buffer, (first, last) in zip(kernel.buffers, inside.lives, strict=True)
            ),
            cores=_cores(kernel, kernel.tiling, shape),
            inputs=tuple(self._operand(activity, kernel, read.tensor, read.source) for read in kernel.reads),
            outputs=tuple(
                Result(
                    tensor=write.tensor,
                    operator=self._graph.producer[write.tensor],
                    size_bytes=self._graph.tensor[write.tensor].size_bytes,
                    l2_offset_bytes=self._left_at(write.tensor, kernel.start_ns) if write.l2 else None,
                    hbm_offset_bytes=self._in_pool[write.tensor] if write.hbm else None,
                )
                for write in kernel.writes
            ),
            workspace=Workspace(offset_bytes=offset, size_bytes=cost.workspace_bytes)
            if offset is not None and cost.workspace_bytes
            else None,
            times=Times(
                start_ns=kernel.start_ns,
                body_ns=kernel.start_ns + cost.head_ns,
                end_ns=kernel.end_ns,
                hbm_start_ns=kernel.hbm_start_ns,
                hbm_ns=kernel.hbm_ns,
                engines_ns=cost.engines_ns,
            ),
            handovers=inside.handovers,
        )

    def _operand(self, activity: Activity, kernel: Kernel, tensor: str, source: Source) -> Operand:
        stay = self._order.stay_at(tensor, activity.start_ns, activity.end_ns) if source is Source.L2 else None
        return Operand(
            tensor=tensor,
            source=source,
            touched_bytes=self._traffic.read_bytes(kernel.operators, tensor),
            l2_offset_bytes=None if stay is None else stay[0].offset_bytes,
            hbm_offset_bytes=self._in_pool.get(tensor) if source is Source.HBM else None,
        )

    def _left_at(self, tensor: str, start_ns: int) -> int:
        """Where in L2 a tensor lies that arrives from ``start_ns`` on."""
        return next(
            residency.offset_bytes
            for residency in self._schedule.residencies
            if (residency.tensor, residency.start_ns) == (tensor, start_ns)
        )

    def _stays(self) -> Iterable[Stay]:
        for residency, held, arrival_ns in sorted(self._order.stays, key=lambda one: (one[0].start_ns, one[0].tensor)):
            during = [k for k in self._order.kernels if k.start_ns < residency.end_ns and residency.start_ns < k.end_ns]
            yield Stay(
                first_kernel=during[0].id if during else None,
                last_kernel=during[-1].id if during else None,
                tensor=residency.tensor,
                offset_bytes=residency.offset_bytes,
                size_bytes=residency.size_bytes,
                start_ns=residency.start_ns,
                arrival_ns=arrival_ns,
                end_ns=residency.end_ns,
                made_by=held.maker.id,
                used_by=tuple(user.id for user in held.users),
            )

    def _move(self, activity: Activity, move: Move, on: dict[str, int]) -> PlannedMove:
        if move.kind is MoveKind.SPILL:
            found = self._order.stay_at(move.tensor, move.start_ns, move.end_ns)
            offset = 0 if found is None else found[0].offset_bytes
        else:
            offset = self._left_at(move.tensor, move.start_ns)
        readers = [
            kernel.id
            for kernel in self._order.kernels
            if activity.id in self._order.needs[kernel.id] and "data" in self._order.needs[kernel.id][activity.id]
        ]
        return PlannedMove(
            id=activity.id,
            kind=move.kind,
            tensor=move.tensor,
            size_bytes=self._graph.tensor[move.tensor].size_bytes,
            l2_offset_bytes=offset,
            hbm_offset_bytes=self._in_pool.get(move.tensor),
            stream=on[activity.id],
            start_ns=move.start_ns,
            end_ns=move.end_ns,
            anchor=self._anchor(move.start_ns),
            first_reader=readers[0] if readers else None,
        )

    def _anchor(self, time_ns: int) -> Anchor | None:
        """The last edge of a kernel up to a time; of a start and an end at one instant, the end."""
        edges = [(kernel.end_ns, 1, kernel) for kernel in self._order.kernels if kernel.end_ns <= time_ns]
        edges += [(kernel.start_ns, 0, kernel) for kernel in self._order.kernels if kernel.start_ns <= time_ns]
        if not edges:
            return None
        edge_ns, is_end, kernel = max(edges, key=lambda edge: edge[:2])
        return Anchor(kernel=kernel.id, edge="end" if is_end else "start", edge_ns=edge_ns, delay_ns=time_ns - edge_ns)

    def _features(
        self,
        kernels: tuple[PlannedKernel, ...],
        moves: tuple[PlannedMove, ...],
        l2: tuple[Stay, ...],
        streams: tuple[Stream, ...],
    ) -> Iterable[str]:
        """What a reader must understand in order to carry this plan out as it is meant."""
        scopes = {handover.scope for kernel in kernels for handover in kernel.handovers}
        used = {
            Feature.STREAMS: len(streams) > 1,
            Feature.MOVES: bool(moves),
            Feature.RESIDENCY: bool(l2),
            Feature.WORKSPACE: any(kernel.workspace for kernel in kernels),
            Feature.PARTS: any(kernel.cores.parts for kernel in kernels),
            Feature.HANDOVERS: "core" in scopes,
            Feature.FLAGS: bool(scopes & {"group", "all"}),
            Feature.COLLECTIVES: any(kernel.kind is KernelKind.LINK for kernel in kernels),
        }
        return [feature.value for feature, is_used in used.items() if is_used]


def _cores(kernel: Kernel, tiling: Tiling, shape: Shape) -> Cores:
    return Cores(
        aic_ids=kernel.aic_ids,
        aiv_ids=kernel.aiv_ids,
        l2_permille=tiling.l2_permille,
        split=shape.split,
        items=shape.items,
        most_items=shape.most_items,
        dealt=shape.dealt,
        parts=tiling.parts,
    )


def _blocks(instance: Instance) -> Blocks | None:
    """The graph's repetition, each operator of a later block with the one of the first that it repeats."""
    found = find_repetition(instance, LEAST_BLOCKS)
    if found is None:
        return None
    names = [operator.name for operator in instance.graph.operators]
    first = names[found.first : found.first + found.period]
    starts = range(found.first, found.end, found.period)
    return Blocks(
        first_operator=first[0],
        period=found.period,
        count=found.count,
        like=tuple(dict(zip(islice(names, start, None), first, strict=False)) for start in starts),
    )
