"""The page that says where the model is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from instances.machine import load_machine, machine_names
from opt.calibration.accuracy import Accuracy, Errors, errors
from opt.calibration.fit import CONSTANTS
from opt.calibration.network import BATCH, CONTEXT, MEASURED_LAYER_US, MEASURED_STEP_US, MODEL, TP, StepCheck
from opt.calibration.predictions import Prediction
from opt.words import markdown_table

MOST_SHAPES = 70
"""Characters of a row's shapes that a table shows."""

PLAIN = frozenset(
    {
        "matmul",
        "quant_matmul",
        "flash_attention",
        "mha",
        "gqa",
        "rms_norm",
        "add_rms_norm",
        "swi_glu",
        "softmax",
        "dynamic_quant",
        "maximum",
    }
)
"""Kernels of one idea each, which the summary counts by themselves."""

LEFT_OUT = (
    "Int8 grouped products with SwiGLU on 910B2 are measured to stream their weights at 0.21 to 0.28 TB/s (one of "
    "six at 0.47); the model is bound by the channel or by MTE2, mostly near 1 TB/s, and knows no reason for less.",
    "Rows that are no multiple of 32 bytes, and reductions along an axis that is not the last, are priced like "
    "others but for whole sectors of global memory. Most rows of the first sort are met as well as others, "
    "a few on 910B2 are not; softmax along the middle axis takes over twice its price there.",
    "A transpose is priced as a copy and one pass of the vector unit; measured ones take about twice that.",
    "AddRmsNorm, alone or with quantisation, works row by row with barriers between steps; the model overlaps rows.",
    "Rotary embedding in 16 bits takes longer than its traffic and its arithmetic, in 32 bits hardly: the halves of "
    "a head are short runs, which may be why.",
    "A 64 x 64 x 64 product alone takes 1.9 us on 910B2, less than the launch fitted for its architecture.",
    "Four queries against a causal mask on 950PR (gqa, 128 sequences of 512) take four times the stream of their "
    "cache, which binds the model; one query does stream at that rate.",
    "Projections of latent attention for hundreds of tokens are priced part by part, each at its best; the "
    "shipped kernel has one tiling for all.",
    "What lies in L2 when a kernel starts is a rule (instances/estimate.py), not a simulation: nothing where it "
    "is timed alone; activations, if they fit, inside a network.",
    "Measured times of like shapes differ as well: decode attention over a cache of 503 MB takes 345 to 494 us on "
    "910B2, by number of heads, with no law to be seen.",
    "Three constants lie at the edge of the range that publications leave them: launch.vector_ns on 910B, "
    "launch.cube_ns and sync_ns on 950. The ranges are in opt/calibration/fit.py, each with its reason.",
    "Chips without measured kernels (910B1, 910B3, 910B4, 950DT) carry the constants fitted for their architecture. "
    "The first generation (910A, 310P3) was never fitted: it carries figures inferred from 910B or published.",
)
"""What is known to be missing, in sentences."""


class Table(NamedTuple):
    """A Markdown table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return markdown_table(self.columns, self.rows, self.columns[1:])


def accuracy_page(
    predictions: Sequence[Prediction],
    found: Accuracy,
    picture: str,
    command: str,
    held_out: bool,
    step: StepCheck | None = None,
) -> str:
    """The page as Markdown.

    Parameters
    ----------
    predictions, found
        Rows with what the model says, and the errors of all of them.
    picture
        Name of the scatter plot beside the page.
    command
        What writes the page again.
    held_out
        Whether each row was predicted with constants fitted without it.
    step
        The check against a whole decode step, where it was made.
    """
    modelled = [p for p in predictions if p.predicted_us is not None]
    network = sum(p.row.network for p in modelled)
    chips = sorted({p.row.chip for p in modelled})
    how = (
        "Each is predicted with constants that were fitted to the other half of the table."
        if held_out
        else "The constants in the machine files were fitted to some of them."
    )
    parts = [
        "# Where the model is wrong",
        f"{len(modelled)} measured kernels ({network} inside a network, {len(modelled) - network} alone) on "
        f"{', '.join(chips) or 'no chip'}. {how}",
        f"<!-- not run: needs data that is not in the repository -->\n```sh\n{command}\n```",
        f"![Predicted against measured times of {len(modelled)} kernels, log-log]({picture})",
        "Median and 90th percentile are factors, of |ln(predicted / measured)|; bias is the median of predicted over "
        "measured; rank is Spearman's correlation. Aligned rows have operands whose rows are whole 32-byte blocks; "
        f"plain kernels are {', '.join(sorted(PLAIN))}.",
        str(_summary(modelled, found, chips)),
        "## By kernel",
        str(Table(_columns("kernel"), [_row(op, each) for op, each in found.by_op.items()])),
        "## The worst rows",
        str(_worst(found.worst)),
        f"Not modelled: {len(found.unmodelled)} rows." + _reasons(found.unmodelled),
        *(_step(step) if step is not None else ()),
        "## What the model leaves out",
        "\n".join(f"- {sentence}" for sentence in LEFT_OUT),
        "## What is fitted",
        f"{len(CONSTANTS)} constants per architecture, the same for all its kernels and shapes: "
        + ", ".join(f"`{constant.name}`" for constant in CONSTANTS)
        + ". `tilewright calibrate FILE.csv --fit DIR` fits them (one that no row tells anything about stays as it "
        "was, chip by chip) and writes the machine files. Every other figure in those carries its grade (official, "
        "measured, fitted elsewhere, or inferred) and its source.",
    ]
    return "\n\n".join(parts) + "\n"


def _columns(first: str) -> tuple[str, ...]:
    return (first, "rows", "median", "90 % within", "bias", "rank")


def _row(name: str, each: Errors) -> tuple[str, ...]:
    rank = "" if each.rank is None else f"{each.rank:.3f}"
    return (
        name,
        str(each.rows),
        f"{each.median_factor:.2f}",
        f"{each.p90_factor:.2f}",
        f"{math.exp(each.bias):.2f}",
        rank,
    )


def _generations(chips: Iterable[str]) -> list[list[str]]:
    """Chips by architecture."""
    found: dict[str, list[str]] = {}
    for chip in chips:
        architecture = load_machine(chip).architecture if chip in machine_names() else chip
        found.setdefault(architecture, []).append(chip)
    return list(found.values())


def _summary(modelled: Sequence[Prediction], found: Accuracy, chips: Sequence[str]) -> Table:
    rows = [_row(name, each) for name, each in (("all", found.overall), ("aligned rows", found.aligned)) if each]
    for chips_of_one in _generations(chips):
        plain = [p for p in modelled if p.row.op in PLAIN and p.row.aligned and p.row.chip in chips_of_one]
        products = [p for p in plain if p.row.op == "matmul"]
        for name, group in (("plain kernels", plain), ("matmul", products)):
            if group:
                rows.append(
                    _row(f"{name}, aligned, {', '.join(chips_of_one)}", errors(group, lambda p: p.predicted_us))
                )
    for chip in chips:
        rows.append(_row(chip, errors([p for p in modelled if p.row.chip == chip], lambda p: p.predicted_us)))
    rows += [_row(f"yardstick: {name}", each) for name, each in found.yardsticks.items()]
    return Table(_columns("rows of"), rows)


def _worst(worst: Iterable[Prediction]) -> Table:
    rows = []
    for p in worst:
        shapes = p.row.shapes if len(p.row.shapes) <= MOST_SHAPES else p.row.shapes[: MOST_SHAPES - 1] + "…"
        rows.append(
            (f"{p.row.op}, {p.row.chip}", p.row.dtype, shapes, f"{p.row.us:.2f}", f"{p.predicted_us:.2f}", p.bound_by)
        )
    return Table(("kernel", "type", "shapes", "measured us", "predicted us", "bound by"), rows)


def reasons(predictions: Iterable[Prediction]) -> list[tuple[str, str, int]]:
    """Rows without a prediction: op, reason, how many."""
    counts: dict[tuple[str, str], int] = {}
    for p in predictions:
        counts[p.row.op, p.why_not] = counts.get((p.row.op, p.why_not), 0) + 1
    return [(op, why, count) for (op, why), count in sorted(counts.items())]


def _reasons(predictions: Iterable[Prediction]) -> str:
    return "".join(f"\n- {count} of {op}: {why}" for op, why, count in reasons(predictions))


def _step(step: StepCheck) -> tuple[str, ...]:
    """A decode step as the stack launches it, against the published times."""
    lines: list[tuple[str, str]] = [(name, f"{us:.1f}") for name, us in step.kernels.items()]
    lines.append(("**layer**", f"**{step.layer_us:.1f}**, measured {MEASURED_LAYER_US:g}"))
    return (
        "## A whole decode step",
        f"{MODEL}, {TP} ranks, batch {BATCH}, {CONTEXT} positions, one die of 910C: the kernels that the stack "
        f"launches (solver `stack`), communication apart. A layer is predicted at {step.layer_us:.0f} us against "
        f"{MEASURED_LAYER_US:g} measured ({step.layer_us / MEASURED_LAYER_US - 1:+.0%}), the step at "
        f"{step.step_us / 1000:.2f} ms against {MEASURED_STEP_US / 1000:g} "
        f"({step.step_us / MEASURED_STEP_US - 1:+.0%}).",
        str(Table(("kernel", "us"), lines)),
    )
