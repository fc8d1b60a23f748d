"""What a kernel costs in an instance: by the estimate, or by the modulo schedules that the instance carries."""

from __future__ import annotations

from instances.costs import draft
from instances.costs.terms import assemble
from instances.fusion import Fusion
from instances.instance import Instance, Pricing
from instances.kernels import Cost, Tiling
from instances.pipelines.derive import derive
from instances.pipelines.loop import KernelLoop, PipelineSchedule
from instances.pipelines.price import certificate, scheduled_cost


def price_in(instance: Instance, fusion: Fusion, tiling: Tiling) -> Cost:
    """Price of a group under a tiling, as the instance prices; :class:`Misfit` where it cannot run that way.

    In an instance with exact prices a kernel with a loop needs the schedule of that loop; without it, it cannot be
    priced (:class:`instances.pipelines.course.Uncertified`). Loops that are known to have none keep the estimate.
    """
    machine = instance.machine
    price = draft(fusion, machine, tiling)
    estimate = assemble(machine, price, tiling.l2_permille)
    if instance.price is Pricing.ESTIMATE:
        return estimate
    loop = derive(fusion, machine, tiling, price)
    if loop is None or loop.body.fingerprint in instance.unscheduled:
        return estimate
    return scheduled_cost(machine, price, tiling.l2_permille, loop, certificate(loop, instance.schedule_of))


def loop_in(instance: Instance, fusion: Fusion, tiling: Tiling) -> tuple[KernelLoop, PipelineSchedule] | None:
    """The loop that a kernel's price follows from, and the schedule of it; ``None`` where it is an estimate."""
    if instance.price is Pricing.ESTIMATE:
        return None
    loop = derive(fusion, instance.machine, tiling)
    if loop is None or loop.body.fingerprint in instance.unscheduled:
        return None
    return loop, certificate(loop, instance.schedule_of)
