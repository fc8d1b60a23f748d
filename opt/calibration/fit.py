"""The few constants of a pipeline that no data sheet gives, fitted to measured kernels.

One set per architecture: chips that share it share the constants, rates and clocks stay their own. There is no
constant per op, per shape or per row. Robust least squares (soft L1) on ln(predicted / measured), so that a kernel
the model does not understand pulls little; SciPy's trust-region solver with a coarse numerical Jacobian, since the
best tiling, and with it the prediction, changes in steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from instances.errors import InputError
from instances.machine import Machine, load_machine, machine_names
from opt.calibration.predictions import Prediction, predict
from opt.calibration.rows import MeasuredRow

SOFT = 0.25
"""Errors above this (in ln) count linearly, not squared."""


@dataclass(frozen=True)
class Constant:
    """A fitted constant: where it stands in a machine file, and between what it may lie."""

    place: tuple[str, ...]
    low: float
    high: float
    digits: int = 0

    @property
    def name(self) -> str:
        """Dotted place."""
        return ".".join(self.place)


CONSTANTS = (
    Constant(("launch", "vector_ns"), 1300, 2900),  # smallest whole vector kernels: 1.3 us warm to 2.9 us alone
    Constant(("launch", "cube_ns"), 1900, 5000),  # a 64 x 64 x 64 product alone; msmodeling's static cost
    Constant(("launch", "mix_ns"), 2900, 10000),  # 1 to 5 us above a pure kernel (CATLASS)
    Constant(("launch", "step_ns"), 0, 1000),
    Constant(("launch", "cold_step_ns"), 0, 5000),
    Constant(("exposed", "vector"), 0, 1, digits=3),
    Constant(("exposed", "mix"), 0, 1, digits=3),
    Constant(("sync_ns",), 20, 500),  # half of the least that CATLASS finds a mixed kernel to cost more
    Constant(("hbm", "miss_bytes_per_cycle"), 26, 150),  # one core of AutoFuse's model; the port on L2 hits
)
"""All that is fitted. Cube kernels are not given an exposed share: large products match their slowest pipe alone."""

FITTED_OPS = frozenset(
    {
        "matmul",
        "quant_matmul",
        "weight_quant_batch_matmul",
        "flash_attention",
        "mha",
        "gqa",
        "rms_norm",
        "add_rms_norm",
        "swi_glu",
        "softmax",
        "dynamic_quant",
        "maximum",
        "add",
        "copy",
    }
)
"""Ops whose rows are fitted to. Grouped products, latent attention and its projections, fused norms and quantisation,
rotary embedding and transposes never are: they show what carries over."""


@dataclass(frozen=True)
class Fit:
    """Constants fitted for one architecture.

    ``values`` holds those that the rows tell something about; a constant without influence on any row stays as it was.
    ``cost`` before and after is the robust sum of squares; ``rows`` is how many rows it was fitted to.
    """

    architecture: str
    values: Mapping[str, float]
    rows: int
    cost_before: float
    cost_after: float
    evaluations: int


def fit(
    rows: Sequence[MeasuredRow],
    machine_of: Callable[[str], Machine] = load_machine,
    on_progress: Callable[[str], None] | None = None,
) -> list[Fit]:
    """Fit the constants of every architecture that has modelled rows of :data:`FITTED_OPS`.

    Raises
    ------
    InputError
        Where SciPy is not installed, or there is no such row.
    """
    groups: dict[str, list[MeasuredRow]] = {}
    for prediction in predict(rows, machine_of):
        if prediction.predicted_us is not None and prediction.row.op in FITTED_OPS:
            groups.setdefault(machine_of(prediction.row.chip).architecture, []).append(prediction.row)
    if not groups:
        raise InputError("no row can be both modelled and fitted to; give rows of " + ", ".join(sorted(FITTED_OPS)))
    return [_fit_one(name, group, machine_of, on_progress) for name, group in sorted(groups.items())]


def _fit_one(
    architecture: str,
    rows: list[MeasuredRow],
    machine_of: Callable[[str], Machine],
    on_progress: Callable[[str], None] | None,
) -> Fit:
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting needs SciPy; install the extra: pip install 'tilewright[fit]'") from None
    documents = {chip: machine_of(chip).model_dump(mode="json") for chip in {row.chip for row in rows}}
    first = documents[rows[0].chip]
    spans = [constant.high - constant.low for constant in CONSTANTS]
    evaluations = 0

    def values(point: Sequence[float]) -> dict[str, float]:
        return {
            c.name: round(c.low + (float(x) - 1) * span, c.digits)
            for c, x, span in zip(CONSTANTS, point, spans, strict=True)
        }

    def residuals(point: Sequence[float]) -> list[float]:
        nonlocal evaluations
        evaluations += 1
        machines = {chip: with_constants(data, values(point)) for chip, data in documents.items()}
        found = [prediction.log_error for prediction in predict(rows, machines.__getitem__)]
        if on_progress is not None:
            on_progress(f"{architecture}: evaluation {evaluations}, cost {_robust(found):.3f}")
        return found

    # from 1 to 2, so that the solver's relative steps are as large at one end as at the other
    start = [
        1 + min(0.999, max(0.001, (_value(first, constant) - constant.low) / span))
        for constant, span in zip(CONSTANTS, spans, strict=True)
    ]
    solution = least_squares(
        residuals, start, bounds=(1.0, 2.0), loss="soft_l1", f_scale=SOFT, diff_step=0.02, max_nfev=12, x_scale="jac"
    )
    told = {c.name for c, column in zip(CONSTANTS, solution.jac.T, strict=True) if abs(column).max() > 0}
    return Fit(
        architecture=architecture,
        values={name: value for name, value in values(solution.x).items() if name in told},
        rows=len(rows),
        cost_before=_robust([prediction.log_error for prediction in predict(rows, machine_of)]),
        cost_after=_robust(residuals(solution.x)),
        evaluations=evaluations,
    )


def halves(rows: Sequence[MeasuredRow]) -> tuple[list[MeasuredRow], list[MeasuredRow]]:
    """Two halves of a table with as many rows of every op and chip, shapes in turn."""
    ordered = sorted(rows, key=lambda row: (row.op, row.chip, row.us, row.line))
    return ordered[::2], ordered[1::2]


def cross_validate(
    rows: Sequence[MeasuredRow],
    machine_of: Callable[[str], Machine] = load_machine,
    on_progress: Callable[[str], None] | None = None,
) -> list[Prediction]:
    """Every row predicted with constants that were fitted without it: on the other half of the table."""
    found = []
    one, other = halves(rows)
    for learned, held_out in ((one, other), (other, one)):
        fitted = {each.architecture: each.values for each in fit(learned, machine_of, on_progress)}
        found += predict(held_out, changed(machine_of, fitted))
    return found


def changed(
    machine_of: Callable[[str], Machine], fitted: Mapping[str, Mapping[str, float]]
) -> Callable[[str], Machine]:
    """``machine_of`` with the constants of each architecture replaced."""

    @cache
    def find(chip: str) -> Machine:
        machine = machine_of(chip)
        values = fitted.get(machine.architecture)
        return with_constants(machine.model_dump(mode="json"), values) if values else machine

    return find


def _robust(errors: Sequence[float]) -> float:
    return sum(math.sqrt(1 + (error / SOFT) ** 2) - 1 for error in errors)


def with_constants(
    document: dict[str, Any], values: Mapping[str, float], source: str = "fitted to measured kernels"
) -> Machine:
    """A machine with other constants, graded as fitted."""
    changed = dict(document)
    for constant in CONSTANTS:
        if constant.name in values:
            _replace(changed, constant.place, {"value": values[constant.name], "grade": "fitted", "source": source})
    return Machine.model_validate(changed)


def _replace(document: dict[str, Any], place: tuple[str, ...], figure: dict[str, Any]) -> None:
    for key in place[:-1]:
        document[key] = dict(document[key])
        document = document[key]
    document[place[-1]] = figure


def _value(document: Mapping[str, Any], constant: Constant) -> float:
    found: Any = document
    for key in constant.place:
        found = found[key]
    return float(found["value"])


def machines_of(architecture: str) -> list[Machine]:
    """The machines of the package with an architecture."""
    return [machine for name in machine_names() if (machine := load_machine(name)).architecture == architecture]
