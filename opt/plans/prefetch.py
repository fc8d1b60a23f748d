"""Prefetches and fills in the terms in which the Ascend stack issues them.

``torch_npu.npu_prefetch(input, dependency, max_size, offset)`` copies up to ``max_size`` bytes of ``input`` from
``offset`` on into L2, once ``dependency`` is there; in graph mode it must not be ``None`` (torch_npu documentation).
The dependency here is what the last kernel makes that has ended, as planned, when the move is to begin.
"""

from __future__ import annotations

from typing import Any

from instances.graph import Role
from instances.plan import Plan, PlannedKernel, PlannedMove
from instances.schedule import MoveKind


def prefetch_list(plan: Plan) -> dict[str, Any]:
    """Moves from HBM into L2 in the order in which to issue them, ready for JSON; times in ns."""
    moves = [move for move in plan.moves if move.kind is not MoveKind.SPILL]
    return {
        "call": "torch_npu.npu_prefetch(input, dependency, max_size, offset)",
        "graph": plan.graph.model_dump(),
        "machine": plan.machine.model_dump(),
        "prefetches": [_entry(plan, move) for move in moves],
    }


def _entry(plan: Plan, move: PlannedMove) -> dict[str, Any]:
    kernels = {kernel.id: kernel for kernel in plan.kernels}
    role = next(tensor.role for tensor in plan.tensors if tensor.name == move.tensor)
    after = _last_ended(plan, move.start_ns)
    reader = kernels.get(move.first_reader or "")
    return {
        "id": move.id,
        "kind": move.kind.value,
        "input": move.tensor,
        "role": role.value,
        "dependency": _dependency(plan, after),
        "max_size": move.size_bytes,
        "offset": 0,
        "after_kernel": None if after is None else after.id,
        "anchor": None if move.anchor is None else move.anchor.model_dump(),
        "planned_start_ns": move.start_ns,
        "planned_end_ns": move.end_ns,
        "first_reader": None if reader is None else reader.id,
        "needed_by_ns": None if reader is None else reader.times.start_ns,
    }


def _last_ended(plan: Plan, time_ns: int) -> PlannedKernel | None:
    """The kernel that ends last of those that have ended by a time."""
    ended = [kernel for kernel in plan.kernels if kernel.times.end_ns <= time_ns]
    return max(ended, key=lambda kernel: (kernel.times.end_ns, kernel.times.start_ns), default=None)


def _dependency(plan: Plan, after: PlannedKernel | None) -> dict[str, str] | None:
    """A tensor that is there when the move is to begin: a result of the kernel before it, or an input of the plan."""
    if after is not None:
        last = max(after.outputs, key=lambda result: after.operators.index(result.operator))
        return {"tensor": last.tensor, "operator": last.operator}
    given = next((tensor.name for tensor in plan.tensors if tensor.role is Role.INPUT), None)
    return None if given is None else {"tensor": given}
