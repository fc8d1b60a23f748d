"""Core limits per kernel, in the terms of torchair.

``with torchair.scope.limit_core_num(op_aicore_num, op_vectorcore_num):`` sets the most cube and vector cores that the
operators inside may take, from 1 to what the chip has; the second is 0 where a chip has no vector cores of its own
(torchair documentation, which names Atlas A2 and A3 as the chips that it is for). A limit says how many cores, not
which.
"""

from __future__ import annotations

from typing import Any

from instances.errors import InputError
from instances.kernels import KernelKind
from instances.machine import Machine
from instances.plan import Plan

SUPPORTED = frozenset({"dav-c220"})
"""Architectures for which the call is documented: Atlas A2 and A3."""


def core_limits(plan: Plan, machine: Machine) -> dict[str, Any]:
    """The limit of each kernel that holds cores, ready for JSON; collectives have none."""
    check_machine(plan, machine)
    return {
        "call": "torchair.scope.limit_core_num(op_aicore_num, op_vectorcore_num)",
        "graph": plan.graph.model_dump(),
        "machine": plan.machine.model_dump(),
        "supported": machine.architecture in SUPPORTED,
        "kernels": [
            {
                "kernel": kernel.id,
                "operators": list(kernel.operators),
                "stream": kernel.stream,
                **_limit(len(kernel.cores.aic_ids), len(kernel.cores.aiv_ids), machine),
            }
            for kernel in plan.kernels
            if kernel.kind is not KernelKind.LINK
        ],
    }


def _limit(aic: int, aiv: int, machine: Machine) -> dict[str, int]:
    """The numbers of one call; a kind of core that a kernel does not use is set to the least that the call takes."""
    if not machine.coupled:
        return {"op_aicore_num": max(1, aic), "op_vectorcore_num": max(1, aiv)}
    spare = machine.aiv_count - machine.aic_count  # vector cores without a cube unit
    return {"op_aicore_num": max(1, aic), "op_vectorcore_num": max(1, min(spare, aiv - aic)) if spare > 0 else 0}


def check_machine(plan: Plan, machine: Machine) -> None:
    """:class:`InputError` where a plan was made for another machine."""
    if plan.machine.fingerprint != machine.fingerprint:
        raise InputError(
            f"the plan was made for another machine ({plan.machine.name}) than {machine.name}; "
            "give the machine that it was made for"
        )
