"""The joint model: what ``formulations.joint_core`` decides, with the redundant families that bound it.

The linear relaxation inside CP-SAT does not get far with variable demands and conditional precedence: without help
its bound stays at about 60 % of the optimum. The redundant families (energy, traffic, precedence, cuts, crowding)
carry what ``formulations.relaxation`` proves into the propagation; the proof itself is mostly that programme's.
"""

from __future__ import annotations

from collections.abc import Iterable

from formulations.joint_bounds import BOUNDING
from formulations.joint_core import DECIDING, JointCore
from instances.instance import Instance

FAMILIES = (*DECIDING, *BOUNDING)
"""Constraint families that can be left out by name."""

REDUNDANT = frozenset(BOUNDING)
"""Families without which the optimum is the same."""


class JointModel(JointCore):
    """The CP-SAT model of one instance, minimising the latency.

    Parameters
    ----------
    instance
        The question.
    horizon_ns
        Latest end considered; the latency of any known schedule.
    leave_out
        Names out of :data:`FAMILIES`. Without a family that is not redundant the optimum is a lower bound of the full
        model's.
    routed
        See :class:`JointCore`: a condensed model, whose optimum is a lower bound of the full model's.
    """

    def __init__(
        self, instance: Instance, horizon_ns: int, leave_out: Iterable[str] = (), routed: frozenset[str] | None = None
    ) -> None:
        left_out = frozenset(leave_out)
        if unknown := left_out - set(FAMILIES):
            raise ValueError(f"unknown constraint families {sorted(unknown)}; choose from {FAMILIES}")
        super().__init__(instance, horizon_ns, left_out, routed)
        for family, bound in BOUNDING.items():
            if family not in left_out:
                bound(self)
        self.model.minimize(self.latency)
