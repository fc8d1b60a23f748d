"""The static pool in HBM: one offset for each made tensor that goes there, over its life."""

from __future__ import annotations

from typing import Any

from instances.costs.terms import round_up
from instances.instance import Instance
from instances.lifetimes import HbmLife, hbm_lives
from instances.machine import MemoryName
from instances.packing import Buffer, greatest_load
from instances.plan import Place, Plan, Pool
from instances.schedule import Schedule
from opt.packing import pack_lowest

ALIGNMENT_BYTES = 512
"""Of offsets in the pool: global memory is fastest where accesses start at multiples of this (Ascend C guide)."""

PACKING_S = 10.0
"""Seconds for a lower packing, where the first is not at the bound."""


def plan_pool(instance: Instance, schedule: Schedule) -> Pool:
    """Offsets for all made tensors that reach HBM, as low as can be found."""
    alignment = max(ALIGNMENT_BYTES, instance.machine.alignment(MemoryName.HBM))
    lives = hbm_lives(instance.graph, schedule)
    buffers = [buffer_of(life) for life in lives]
    lowest = pack_lowest(buffers, alignment, time_limit=PACKING_S)
    places = tuple(
        Place(
            tensor=life.tensor,
            offset_bytes=offset,
            size_bytes=round_up(life.size_bytes, alignment),
            start_ns=life.start_ns,
            end_ns=life.end_ns,
        )
        for life, offset in zip(lives, lowest.offsets, strict=True)
    )
    total = max((place.offset_bytes + place.size_bytes for place in places), default=0)
    load = greatest_load(buffers, alignment)[0]
    bound = max(load, lowest.bound if places else 0)
    return Pool(
        alignment_bytes=alignment,
        total_bytes=total,
        load_bytes=load,
        bound_bytes=min(total, bound),
        places=places,
    )


def buffer_of(life: HbmLife) -> Buffer:
    """A life as the packing sees it."""
    return Buffer(id=life.tensor, lower=life.start_ns, upper=life.end_ns, size=life.size_bytes)


def pool_table(plan: Plan) -> dict[str, Any]:
    """The pool with what it was made for, ready for JSON; sizes in bytes, times in ns."""
    return {"graph": plan.graph.model_dump(), "machine": plan.machine.model_dump(), **plan.pool.model_dump(mode="json")}
