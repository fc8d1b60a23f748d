"""Predictions for measured rows, with two yardsticks beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from instances.errors import InputError
from instances.estimate import Estimate, estimate
from instances.graph import DType
from instances.library import DTYPES, Request, Unmodelled, parse_attributes
from instances.machine import Machine, load_machine
from opt.calibration.rows import MeasuredRow

YARDSTICK_HBM_GB_S = 1600.0
"""HBM rate of both yardsticks: what data sheets give."""


@dataclass(frozen=True)
class Prediction:
    """A measured row with what the model says, or why it says nothing.

    ``roofline_us`` and ``fixed_us`` are the yardsticks: the bare roofline (peak of the cube, 1.6 TB/s), and the
    roofline at fixed efficiencies (0.7 of the peak, 0.6 of HBM, plus 2 us for vector and 5 us for cube kernels; the
    form of Ascend/msmodeling's analytic model).
    """

    row: MeasuredRow
    predicted_us: float | None = None
    bound_by: str = ""
    why_not: str = ""
    roofline_us: float | None = None
    fixed_us: float | None = None

    @property
    def log_error(self) -> float:
        """ln(predicted / measured)."""
        return math.log((self.predicted_us or math.nan) / self.row.us)


def request_of(row: MeasuredRow) -> Request:
    """The row as a request; :class:`Unmodelled` where it cannot be read as one."""
    dtype = DTYPES.get(row.dtype.lower())
    if dtype is None:
        raise Unmodelled(f"element type {row.dtype} is not modelled")
    try:
        operands = row.operands()
    except ValueError as error:
        raise Unmodelled(str(error)) from None
    return Request(row.op, dtype, operands, parse_attributes(row.attributes), row.network)


def predict(rows: Iterable[MeasuredRow], machine_of: Callable[[str], Machine] = load_machine) -> list[Prediction]:
    """Predict every row on its chip; rows that cannot be modelled carry the reason.

    Parameters
    ----------
    machine_of
        The machine of a chip's name; an :class:`InputError` from it makes a row unmodelled.
    """
    return [_predict(row, machine_of) for row in rows]


def _predict(row: MeasuredRow, machine_of: Callable[[str], Machine]) -> Prediction:
    try:
        machine = machine_of(row.chip)
        found = estimate(request_of(row), machine)
    except Unmodelled as reason:
        return Prediction(row, why_not=str(reason))
    except InputError as error:
        return Prediction(row, why_not=str(error))
    bare, fixed = rooflines(found, machine)
    return Prediction(row, found.total_ns / 1000, found.bound_by, roofline_us=bare, fixed_us=fixed)


def rooflines(found: Estimate, machine: Machine) -> tuple[float, float]:
    """The two yardsticks for a call (us): bare, and at fixed efficiencies."""
    graph = found.call.graph
    border = {access.tensor: graph.touched_bytes(access) for part in found.parts for access in part.fusion.reads}
    border = {name: size for name, size in border.items() if name not in graph.producer}
    moved = sum(border.values()) + sum(t.size_bytes for t in graph.tensors if t.role.value == "output")
    work_us = 0.0
    for operator in graph.operators:
        if operator.macs:
            rate = machine.cube.macs_per_cycle.get(graph.tensor[operator.reads[0].tensor].dtype)
            rate = rate or machine.cube.macs_per_cycle[DType.FLOAT16]
            work_us += operator.macs / rate.value / machine.aic_count * machine.ns_per_cycle / 1000
    stream_us = moved / YARDSTICK_HBM_GB_S / 1000
    start_us = 5.0 if work_us else 2.0
    return max(work_us, stream_us), max(work_us / 0.7, stream_us / 0.6) + start_us
