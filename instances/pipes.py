"""The hardware queues that a kernel's engines stand for, by the names that Ascend C and its compilers use.

Sources: Ascend C guide, synchronisation (one in-order queue per pipe; order across pipes by set_flag and wait_flag,
event ids 0 to 7 per pair of pipes, of which the high-level library keeps 6 and 7 for itself; flags between a cube core
and its vector cores with ids 0 to 10, counting up to 15).
"""

from __future__ import annotations

from enum import StrEnum

from instances.kernels import KernelKind

EVENT_IDS = 8
"""Event ids of one ordered pair of pipes."""

CROSS_CORE_FLAGS = 11
"""Flag ids between a cube core and its vector cores."""


class Core(StrEnum):
    """The core that a pipe belongs to; on a coupled chip the two are one."""

    AIC = "aic"
    AIV = "aiv"


class HardwarePipe(StrEnum):
    """An in-order queue of a core."""

    MTE1 = "MTE1"
    MTE2 = "MTE2"
    MTE3 = "MTE3"
    M = "M"
    V = "V"
    FIX = "FIX"


_CUBE_SIDE = {
    "mte2": (Core.AIC, HardwarePipe.MTE2),
    "mte1": (Core.AIC, HardwarePipe.MTE1),
    "cube": (Core.AIC, HardwarePipe.M),
    "fixp": (Core.AIC, HardwarePipe.FIX),
    "mte3": (Core.AIC, HardwarePipe.MTE3),
}
_VECTOR_SIDE = {
    "mte2": (Core.AIV, HardwarePipe.MTE2),
    "vector_mte2": (Core.AIV, HardwarePipe.MTE2),
    "vector": (Core.AIV, HardwarePipe.V),
    "mte3": (Core.AIV, HardwarePipe.MTE3),
}


def pipe_of(engine: str, kind: KernelKind, *, coupled: bool = False) -> tuple[Core, HardwarePipe] | None:
    """Core and pipe of one of a kernel's engines; ``None`` for what is no pipe (L2, link, waiting).

    On a ``coupled`` chip there is one core, and its vector unit moves results out of L0C (Ascend C guide: PIPE_V).
    """
    vector = kind is KernelKind.VECTOR or (kind is KernelKind.MIX and engine in ("vector_mte2", "vector", "mte3"))
    place = (_VECTOR_SIDE if vector else _CUBE_SIDE).get(engine)
    if place is None or not coupled:
        return place
    return (Core.AIC, HardwarePipe.V if place[1] is HardwarePipe.FIX else place[1])
