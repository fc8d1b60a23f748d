"""The commands that look at the cost model: cost of one kernel, and calibrate against measured ones."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from instances.documents import write_text
from instances.errors import InputError
from instances.estimate import Estimate, Part
from instances.machine import Machine, load_machine, machine_names
from opt import api
from opt.calibration import Accuracy, Errors, MeasuredRow, Prediction, cross_validate, fit, measure, predict, read_rows
from opt.calibration.page import accuracy_page, reasons
from opt.calibration.scatter import scatter
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.cli.files import check_outputs
from opt.words import microseconds, percent, size

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def cost(
    op: Annotated[str, typer.Argument(help="Kernel, such as matmul, flash_attention or rms_norm.")],
    shapes: Annotated[str, typer.Option(help="Operands, as JSON or as 1024x4096,4096x4096.")],
    dtype: Annotated[str, typer.Option(help="Element type of the first operand.")] = "bfloat16",
    machine: Annotated[str, typer.Option(help="Name or path of a machine file.")] = api.DEFAULT_MACHINE,
    attributes: Annotated[str, typer.Option(help="Such as '{is_causal: True, layout: BSND}'.")] = "",
    network: Annotated[
        bool, typer.Option("--network/--alone", help="Inside a network, or timed alone with cold caches.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explain what a kernel costs: time per pipe, what bounds it, traffic, tile, cores, buffers.

    \b
    Example:
      tilewright cost matmul --shapes 1024x4096,4096x4096 --dtype float16 --machine ascend910b2
    """
    chip = load_machine(machine)
    found = api.cost(op, _shapes(shapes), dtype=dtype, machine=chip, attributes=attributes, network=network)
    if as_json:
        typer.echo(json.dumps(_estimate(found, chip)))
        return
    lines = [
        ("kernel", f"{op} {shapes} {dtype} on {chip.name}, {'in a network' if network else 'alone, caches cold'}"),
        ("time", f"{microseconds(found.total_ns)} us, bound by {found.bound_by}"),
        ("launch", f"{microseconds(found.launch_ns)} us, and {microseconds(found.cold_ns)} us for a cold program"),
    ]
    show_lines(lines, err=False)
    for number, part in enumerate(found.parts, 1):
        _show_part(part, chip, f" {number} of {len(found.parts)}" if len(found.parts) > 1 else "")


def _show_part(part: Part, chip: Machine, which: str) -> None:
    tile = ", ".join(f"{loop} {extent}" for loop, extent in part.tiling.tile.items())
    split = ", ".join(f"{loop} in {count}" for loop, count in part.tiling.parts.items())
    moved = part.traffic
    typer.echo()
    show_lines(
        [
            (f"part{which}" if which else "part", f"{'+'.join(part.fusion.names)} ({part.fusion.kind.value} kernel)"),
            ("tile", tile + (f"; split {split}" if split else "") or "whole"),
            ("cores", f"{part.tiling.aic} cube, {part.tiling.aiv} vector"),
            ("fill, drain", f"{microseconds(part.fill_ns)} us, {microseconds(part.cost.tail_ns)} us"),
            ("body", f"{microseconds(part.body_ns)} us, bound by {part.bound_by}"),
            ("HBM", f"{size(sum(moved.read.values()))} read, {size(sum(moved.written.values()))} written"),
            ("L2", f"{size(part.cost.l2_bytes)} to and from cores, {size(part.cost.workspace_bytes)} workspace"),
        ],
        err=False,
    )
    engines = {**part.cost.engines_ns, "hbm": part.phase_ns}
    rows = [(name, microseconds(ns), percent(ns / max(1, part.body_ns))) for name, ns in engines.items()]
    show_table(("pipe", "us", "of the body"), rows, right=("us", "of the body"))
    buffers = [
        (
            b.memory.value,
            b.name,
            f"{b.slots} x {b.size_bytes:,}",
            percent(b.slots * b.size_bytes / chip.capacity(b.memory)),
        )
        for b in part.cost.buffers
    ]
    show_table(("memory", "buffer", "bytes", "of it"), buffers, right=("bytes", "of it"))


def _shapes(text: str) -> tuple[tuple[int, ...], ...]:
    """Operand shapes out of JSON or ``AxB,CxD``; :class:`InputError` otherwise."""
    if text.strip().startswith("["):
        row = MeasuredRow(0, "", "", "", text, "", 1.0, "")
        try:
            return row.operands()
        except ValueError as error:
            raise InputError(f"--shapes {text[:60]!r}: {error}; write [[1024, 4096], [4096, 4096]]") from None
    shape = r"\d{1,15}(x\d{1,15})*"
    if not re.fullmatch(rf"{shape}([,; ]+{shape})*", text.strip()):
        raise InputError(f"--shapes {text[:60]!r} is no list of shapes; write 1024x4096,4096x4096")
    return tuple(tuple(map(int, part.split("x"))) for part in re.split(r"[,; ]+", text.strip()))


def _estimate(found: Estimate, chip: Machine) -> dict[str, Any]:
    return {
        "op": found.call.graph.name,
        "machine": chip.name,
        "total_us": found.total_ns / 1000,
        "bound_by": found.bound_by,
        "launch_us": found.launch_ns / 1000,
        "cold_us": found.cold_ns / 1000,
        "parts": [
            {
                "operators": list(part.fusion.names),
                "kind": part.fusion.kind.value,
                "bound_by": part.bound_by,
                "tile": part.tiling.tile,
                "split": part.tiling.parts,
                "aic": part.tiling.aic,
                "aiv": part.tiling.aiv,
                "fill_us": part.fill_ns / 1000,
                "body_us": part.body_ns / 1000,
                "drain_us": part.cost.tail_ns / 1000,
                "engines_us": {name: ns / 1000 for name, ns in part.cost.engines_ns.items()},
                "hbm_us": part.phase_ns / 1000,
                "hbm_read_bytes": part.traffic.read,
                "hbm_written_bytes": part.traffic.written,
                "l2_bytes": part.cost.l2_bytes,
                "workspace_bytes": part.cost.workspace_bytes,
                "buffers": [buffer.model_dump(mode="json") for buffer in part.cost.buffers],
            }
            for part in found.parts
        ],
    }


@app.command()
def calibrate(
    path: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Rows op,chip,dtype,shapes,attributes,us,setting.")],
    machine: Annotated[
        str | None, typer.Option(help="Predict with this machine, and its chip's rows alone; name or file.")
    ] = None,
    fit_to: Annotated[
        Path | None, typer.Option("--fit", metavar="DIR", help="Fit the constants; write the machine files into DIR.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--cross-validate", help="Predict each half with constants fitted to the other.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the page with table and scatter plot (FILE.svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict measured kernels, and say how far off the model is and where.

    \b
    Example:
      tilewright calibrate measured.csv
    """
    picture = None if page is None else page.with_suffix(".svg")
    check_outputs([page, picture], [path])
    if fit_to is not None:
        if held_out or page is not None or as_json or machine not in (None, *machine_names()):
            raise InputError(
                "--fit writes the machines of the package and nothing else; "
                "leave out --cross-validate, --page, --json and --machine FILE"
            )
        if not fit_to.is_dir():
            raise InputError(f"{fit_to}: is no folder; make it or choose another")
    rows = read_rows(path)
    chips = _chips(machine)
    if fit_to is not None:
        _fit(rows, chips, fit_to, path)
        return
    progress = _progress if held_out else None
    predictions = cross_validate(rows, chips, progress) if held_out else predict(rows, chips)
    found = measure(predictions)
    if page is not None and picture is not None:
        _write_page(page, picture, path, predictions, found, held_out)
    if as_json:
        typer.echo(json.dumps(_accuracy(predictions, found)))
    else:
        _show(found)


def _chips(machine: str | None) -> Any:
    """The machine of a chip's name: the shipped ones, or the one given and no other."""
    if machine is None:
        return load_machine
    given = load_machine(machine)

    def find(chip: str) -> Machine:
        if chip != given.name:
            raise InputError(f"chip {chip} is not {given.name}, the machine asked for")
        return given

    return find


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _fit(rows: list[MeasuredRow], chips: Any, folder: Path, path: Path) -> None:
    from opt.calibration.machine_files import write_fitted

    for found in fit(rows, chips, _progress):
        written = write_fitted(found, folder, path.name)
        lines = [
            ("architecture", f"{found.architecture}, {found.rows} rows, {found.evaluations} evaluations"),
            ("cost", f"{found.cost_before:.2f} before, {found.cost_after:.2f} after"),
            *((name, f"{value:g}") for name, value in found.values.items()),
            ("files", ", ".join(str(file) for file in written)),
        ]
        show_lines(lines, err=False)


def _show(found: Accuracy) -> None:
    columns = ("rows of", "rows", "median", "90 % within", "bias", "rank correlation")
    table = [_row(op, errors) for op, errors in found.by_op.items()]
    for name, errors in (("all", found.overall), ("aligned", found.aligned), *found.yardsticks.items()):
        if errors is not None:
            table.append(_row(name, errors))
    show_table(columns, table, right=columns[1:])
    worst = [
        (p.row.op, p.row.chip, p.row.dtype, p.row.shapes[:60], f"{p.row.us:.2f}", f"{p.predicted_us:.2f}", p.bound_by)
        for p in found.worst
    ]
    typer.echo()
    show_table(("worst", "chip", "dtype", "shapes", "measured us", "predicted us", "bound by"), worst)
    typer.echo(f"\nnot modelled: {len(found.unmodelled)} rows")
    for op, why, count in reasons(found.unmodelled):
        typer.echo(f"  {count} of {op}: {why}")


def _row(name: str, errors: Errors) -> tuple[str, ...]:
    rank = "-" if errors.rank is None else f"{errors.rank:.3f}"
    factors = (f"x {errors.median_factor:.2f}", f"x {errors.p90_factor:.2f}", f"x {math.exp(errors.bias):.2f}")
    return (name, str(errors.rows), *factors, rank)


def _errors(errors: Errors | None) -> dict[str, Any] | None:
    if errors is None:
        return None
    return {
        "rows": errors.rows,
        "median_abs_log": errors.median,
        "p90_abs_log": errors.p90,
        "median_factor": errors.median_factor,
        "p90_factor": errors.p90_factor,
        "bias_log": errors.bias,
        "rank_correlation": errors.rank,
    }


def _accuracy(predictions: list[Prediction], found: Accuracy) -> dict[str, Any]:
    return {
        "rows": [_prediction(p) for p in predictions],
        "overall": _errors(found.overall),
        "aligned": _errors(found.aligned),
        "by_op": {op: _errors(errors) for op, errors in found.by_op.items()},
        "yardsticks": {name: _errors(errors) for name, errors in found.yardsticks.items()},
        "worst": [_prediction(p) for p in found.worst],
        "unmodelled": len(found.unmodelled),
        "why_not": [{"op": op, "why_not": why, "rows": count} for op, why, count in reasons(found.unmodelled)],
    }


def _prediction(p: Prediction) -> dict[str, Any]:
    row = p.row
    try:
        shapes: Any = [list(shape) for shape in row.operands()]
    except ValueError:
        shapes = row.shapes
    known = {"op": row.op, "chip": row.chip, "dtype": row.dtype, "shapes": shapes, "measured_us": row.us}
    if p.predicted_us is None:
        return {**known, "predicted_us": None, "why_not": p.why_not}
    return {
        **known,
        "predicted_us": p.predicted_us,
        "bound_by": p.bound_by,
        "roofline_us": p.roofline_us,
        "fixed_efficiency_us": p.fixed_us,
    }


def _write_page(
    page: Path, picture: Path, source: Path, predictions: list[Prediction], found: Accuracy, held_out: bool
) -> None:
    from opt.calibration.network import CHIP, check_step

    command = f"tilewright calibrate {source.name}{' --cross-validate' if held_out else ''} --page {page.name}"
    step = check_step(load_machine(CHIP))
    write_text(picture, scatter(predictions))
    write_text(page, accuracy_page(predictions, found, picture.name, command, held_out, step))
