"""The price of a kernel from the modulo schedule of its loop, in place of the estimate by its bottleneck."""

from __future__ import annotations

import math
from collections.abc import Mapping

from instances.costs.terms import Draft, l2_ns, launch_ns, miss_ns_per_mib, place_buffers, round_up
from instances.kernels import Cost
from instances.machine import Machine, MemoryName
from instances.pipelines.course import Uncertified, course
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from instances.pipelines.writing import PS_PER_NS


def certificate(loop: KernelLoop, schedules: Mapping[str, PipelineSchedule]) -> PipelineSchedule:
    """The schedule of a kernel's loop; :class:`Uncertified` where it is missing or names other operations."""
    found = schedules.get(loop.body.fingerprint)
    if found is None:
        raise Uncertified("missing")
    if len(found.start_ps) != len(loop.body.ops) or set(found.slots) != {ring.key for ring in loop.body.rings}:
        raise Uncertified("of another loop")
    return found


def scheduled_cost(machine: Machine, draft: Draft, permille: int, loop: KernelLoop, schedule: PipelineSchedule) -> Cost:
    """Price of a kernel whose loop runs as its schedule says.

    The time from the first operation to the last end (``instances.pipelines.course``) is cut where the pipe with most
    work takes up its first operation and lays down its last: what lies before is fill and belongs to the head, what
    comes after is drain and belongs to the tail, as in ``instances.costs.terms.assemble``; between them lies the body,
    in which the HBM phase falls. Bytes of L2 at the tiling's share of the chip's rate remain a floor of the body, for
    cores share that rate as a fluid and no one pipe has it. Buffers are those of the tiling, of the same sizes, with
    as many slots as the schedule uses: plans and the judge see the slots that the kernel runs with. The workspace in
    L2 keeps the stages of the cost model, of which the schedule uses as many or fewer.
    """
    body = loop.body
    work = loop.work_ps()
    busiest = max(work, key=lambda pipe: (work[pipe], pipe))
    run = course(loop, schedule)
    fill, drain = run.fill_ps(busiest), run.drain_ps(busiest)
    between = run.end_ps - fill - drain
    slots = {ring.key: schedule.slots[ring.key] for ring in body.rings}
    demands = [
        (name, memory, size, slots.get(f"{name}@{memory.value}", count)) for name, memory, size, count in draft.demands
    ]
    l2 = math.ceil(l2_ns(machine, draft.l2_bytes, permille))
    engines = {"l2": l2} if l2 else {}
    engines |= {pipe: math.ceil(ps / PS_PER_NS) for pipe, ps in work.items() if ps}
    return Cost(
        head_ns=math.ceil(launch_ns(machine, draft.kind, draft.steps) + fill / PS_PER_NS + draft.extra_head_ns),
        busy_ns=max(math.ceil(between / PS_PER_NS), l2),
        tail_ns=math.ceil(drain / PS_PER_NS + draft.extra_tail_ns),
        engines_ns=engines,
        l2_bytes=math.ceil(draft.l2_bytes),
        workspace_bytes=round_up(draft.workspace_bytes, machine.alignment(MemoryName.L2)),
        miss_ns_per_mib=math.ceil(miss_ns_per_mib(machine, draft.cores)),
        buffers=place_buffers(machine, demands),
    )
