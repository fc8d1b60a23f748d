"""Kernels as loops: a body of tile operations on in-order pipes, and a modulo schedule of it."""

from instances.pipelines.derive import derive
from instances.pipelines.loop import Dependence, Held, KernelLoop, LoopKernel, PipelineSchedule, Ring, TileOp, Use

__all__ = [
    "Dependence",
    "Held",
    "KernelLoop",
    "LoopKernel",
    "PipelineSchedule",
    "Ring",
    "TileOp",
    "Use",
    "derive",
]
