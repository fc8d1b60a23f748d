"""The commands that read graphs of others."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from instances.build import MAX_GROUP
from instances.errors import InputError
from instances.frontends.captured import CapturedGraph, read_captured, write_captured
from instances.instance import Pricing
from opt import api
from opt.cli.app import app
from opt.cli.display import show_lines
from opt.cli.files import check_outputs
from opt.cli.pipelining import Price, with_prices
from opt.importing import import_captured
from opt.words import size

MOST_SHOWN = 5
"""Unknown operators that the summary names."""

MOST_DIGITS = 15
"""Of a size: what is longer is beyond every shape."""


@app.command(name="import")
def import_command(
    door: Annotated[str, typer.Argument(metavar="json|torch|onnx", help="What kind of file it is.")],
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="Captured graph (.json), torch.export program (.pt2) or ONNX model.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Instance file to write.")],
    dim: Annotated[
        list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension (ONNX).")
    ] = None,
    one_layer: Annotated[
        bool, typer.Option("--one-layer", help="Of equal layers, take one that stands for all.")
    ] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Price operators that are not mapped as elementwise.")
    ] = False,
    captured: Annotated[
        Path | None, typer.Option(help="Also write the graph as captured, to be imported without torch or onnx.")
    ] = None,
    max_group: Annotated[int, typer.Option(help="Most operators in a kernel.")] = MAX_GROUP,
    machine: Annotated[
        str, typer.Option(help="Name (see 'tilewright machines') or path of a machine file.")
    ] = api.DEFAULT_MACHINE,
    price: Price = Pricing.ESTIMATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Make an instance of a graph that was captured elsewhere.

    \b
    Example:
      tilewright import onnx model.onnx --dim batch=8 -o model-instance.json

    Views and casts are dropped, masks and positions set aside; norms, rotary embedding, attention, activations, experts
    and caches are put together. An operator that is not mapped is an error with its name, place and count.
    """
    started = time.monotonic()
    check_outputs([output, captured], [path])
    graph = _read(door, path, _dims(dim or []))
    found = import_captured(
        graph, machine=machine, max_group=max_group, allow_unknown=allow_unknown, one_layer=one_layer
    )
    if captured is not None:
        write_captured(graph, captured)
    instance, imported, layers = with_prices(found.instance, price), found.imported, found.layers
    api.save(instance, output)
    if as_json:
        answer = {
            "instance": instance.name,
            "nodes": len(graph.nodes),
            "operators": len(instance.graph.operators),
            "macs": sum(operator.macs for operator in instance.graph.operators),
            "rules": dict(imported.rules),
            "unknown": dict(imported.unknown),
            "set_aside": len(imported.set_aside),
            "layers": layers.count if layers else 1,
            "repeat": instance.origin.get("repeat", 1),
        }
        typer.echo(json.dumps(answer))
    lines = [
        ("instance", instance.name),
        ("graph", f"{len(graph.nodes)} nodes became {len(instance.graph.operators)} operators"),
        ("rules", ", ".join(f"{name} {count}" for name, count in imported.rules.items()) or "none applied"),
        ("set aside", f"{len(imported.set_aside)} nodes of masks, positions and weights"),
        ("layers", f"{layers.count} equal ones of {layers.period} operators" if layers else "none repeat"),
    ]
    if "repeat" in instance.origin:
        lines.append(("one layer", f"stands for {instance.origin['repeat']}"))
    unknown = [f"{op} ({len(places)} times, first {places[0]})" for op, places in imported.unknown.items()]
    if unknown:
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        lines.append(("unknown", "; ".join(unknown[:MOST_SHOWN]) + more))
    lines += [
        ("kernels", f"{instance.census.groups} groups, {instance.census.structures} structures"),
        ("time", f"{time.monotonic() - started:.2f} s"),
        ("file", f"{output}, {size(output.stat().st_size)}"),
    ]
    show_lines(lines, err=True)


def _read(door: str, path: Path, dims: dict[str, int]) -> CapturedGraph:
    if dims and door != "onnx":
        raise InputError(f"--dim binds dimensions of ONNX models, not of {door}; leave it out")
    if door == "json":
        return read_captured(path)
    if door == "torch":
        from instances.frontends.torch_program import capture_torch, read_torch

        return capture_torch(read_torch(path), path.name.removesuffix(".pt2"))
    if door == "onnx":
        from instances.frontends.onnx_model import read_onnx

        return read_onnx(path, dims)
    raise InputError(f"door {door!r} is unknown; choose json, torch or onnx")


def _dims(given: list[str]) -> dict[str, int]:
    """``NAME=SIZE`` as a mapping."""
    found: dict[str, int] = {}
    for text in given:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal() or len(number) > MOST_DIGITS or int(number) < 1:
            raise InputError(f"--dim {text[:60]!r} is not NAME=SIZE; give for example batch=8")
        if name in found:
            raise InputError(f"--dim binds {name!r} twice; give it one size")
        found[name] = int(number)
    return found
