"""Every address of a plan as tables in MiniMalloc's form, so that any checker of packings can judge them.

``l2.csv`` and ``hbm.csv`` have times in ns; ``k0.ub.csv`` and the like, one per kernel and in-core memory, count the
operations of the kernel's program. ``tilewright validate TABLE.csv TABLE.csv --capacity BYTES`` checks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instances.documents import digest, made_folder
from instances.machine import Machine, MemoryName
from instances.packing import Buffer, write_buffers
from instances.plan import Plan, PlannedBuffer
from opt.plans.cores import check_machine

LONGEST_ID = 200
"""Characters of an id in a table of buffers."""


def allocations(plan: Plan, machine: Machine) -> dict[str, tuple[MemoryName, int, list[Buffer]]]:
    """Name of a table -> memory, its capacity (bytes; of the pool: its own size), and the buffers with offsets."""
    check_machine(plan, machine)
    found: dict[str, tuple[MemoryName, int, list[Buffer]]] = {}
    if l2 := _l2(plan, machine):
        found["l2"] = (MemoryName.L2, machine.capacity(MemoryName.L2), l2)
    if plan.pool.places:
        unit = plan.pool.alignment_bytes
        places = [_buffer(p.tensor, p.start_ns, p.end_ns, p.size_bytes, unit, p.offset_bytes) for p in plan.pool.places]
        found["hbm"] = (MemoryName.HBM, plan.pool.total_bytes, places)
    for kernel in plan.kernels:
        for memory in MemoryName:
            inside = [buffer for buffer in kernel.buffers if buffer.memory is memory]
            if inside:
                found[f"{kernel.id}.{memory.value}"] = (memory, machine.capacity(memory), _slots(inside))
    return found


def write_allocations(plan: Plan, machine: Machine, folder: str | Path) -> list[Path]:
    """Write the tables into a folder, which is made where it is not there; the paths written."""
    folder = made_folder(folder)
    paths = []
    for name, (_, _, buffers) in allocations(plan, machine).items():
        path = folder / f"{name}.csv"
        write_buffers(buffers, [buffer.offset or 0 for buffer in buffers], path)
        paths.append(path)
    return paths


def _l2(plan: Plan, machine: Machine) -> list[Buffer]:
    unit = machine.alignment(MemoryName.L2)
    stays = [
        _buffer(f"{stay.tensor}@{stay.start_ns}", stay.start_ns, stay.end_ns, stay.size_bytes, unit, stay.offset_bytes)
        for stay in plan.l2
    ]
    workspaces = [
        _buffer(
            f"workspace of {kernel.id}",
            kernel.times.start_ns,
            kernel.times.end_ns,
            kernel.workspace.size_bytes,
            unit,
            kernel.workspace.offset_bytes,
        )
        for kernel in plan.kernels
        if kernel.workspace is not None
    ]
    return [*stays, *workspaces]


def _slots(buffers: Sequence[PlannedBuffer]) -> list[Buffer]:
    """Each slot of in-core buffers."""
    return [
        _buffer(
            f"{buffer.name}[{slot}]",
            buffer.first_step,
            buffer.last_step + 1,
            buffer.size_bytes,
            buffer.alignment_bytes,
            buffer.offset_bytes + slot * buffer.size_bytes,
        )
        for buffer in buffers
        for slot in range(buffer.slots)
    ]


def _buffer(name: str, lower: int, upper: int, size: int, alignment: int, offset: int) -> Buffer:
    return Buffer(id=_id(name), lower=lower, upper=upper, size=size, alignment=alignment, offset=offset)


def _id(name: str) -> str:
    """A name that fits into a table; a long one is cut and told from others by its digest."""
    return name if len(name) <= LONGEST_ID else f"{name[: LONGEST_ID - 9]}~{digest(name)[:8]}"
