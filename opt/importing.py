"""Graphs of others as instances: captured JSON, torch.export programs and FX graphs, ONNX models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instances.build import MAX_GROUP, build_instance
from instances.frontends.captured import CapturedGraph, read_captured
from instances.frontends.importing import Imported, import_graph, register_op
from instances.instance import Instance
from instances.machine import Machine, load_machine
from instances.repetition import Repetition, find_layers, fold
from opt.api import DEFAULT_MACHINE

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

__all__ = ["Import", "from_captured", "from_exported", "from_onnx", "from_torch", "import_captured", "register_op"]


@dataclass(frozen=True)
class Import:
    """An instance, the graph it was made of, and what was found on the way."""

    instance: Instance
    imported: Imported
    layers: Repetition | None


def from_exported(path: str | Path, **options: Any) -> Instance:
    """The instance of a captured graph in a file (``exported-graph/1``); options as for :func:`from_captured`."""
    return from_captured(read_captured(path), **options)


def from_torch(program: ExportedProgram | GraphModule | str | Path, *, name: str = "", **options: Any) -> Instance:
    """The instance of a torch program; needs the extra ``torch``.

    Parameters
    ----------
    program
        What ``torch.export.export`` returned, a graph module, or the path of a ``.pt2`` file. Weights may be on the
        meta device or fake: they are never read.
    name
        Name of the graph.
    **options
        As for :func:`from_captured`.

    Raises
    ------
    InputError
        Where torch is not installed, it is no such program, or an operator is not mapped.
    """
    from instances.frontends.torch_program import capture_torch, read_torch

    if isinstance(program, str | Path):
        name = name or Path(program).name.removesuffix(".pt2")
        program = read_torch(program)
    return from_captured(capture_torch(program, name), **options)


def from_onnx(path: str | Path, *, dims: Mapping[str, int] | None = None, **options: Any) -> Instance:
    """The instance of an ONNX model; needs the extra ``onnx``. ``dims`` binds symbolic dimensions.

    Weights are never read and need not be there. Options as for :func:`from_captured`.
    """
    from instances.frontends.onnx_model import read_onnx

    return from_captured(read_onnx(path, dims), **options)


def from_captured(
    captured: CapturedGraph,
    *,
    machine: str | Path | Machine = DEFAULT_MACHINE,
    max_group: int = MAX_GROUP,
    allow_unknown: bool = False,
    one_layer: bool = False,
) -> Instance:
    """The instance of a captured graph.

    Parameters
    ----------
    captured
        The graph.
    machine
        Name of a chip, path of a machine file, or a machine.
    max_group
        Largest number of operators in a kernel.
    allow_unknown
        Whether an operator that is not mapped becomes a vector operator priced as elementwise, instead of an error; the
        instance's ``origin`` lists them under ``unknown``.
    one_layer
        Whether one of several equal layers stands for all; ``origin`` then says of how many, under ``repeat``.

    Raises
    ------
    InputError
        Where an operator is not mapped, or sizes are out of range.
    InfeasibleError
        Where the tensors exceed HBM or an operator fits nowhere.
    """
    return import_captured(
        captured, machine=machine, max_group=max_group, allow_unknown=allow_unknown, one_layer=one_layer
    ).instance


def import_captured(
    captured: CapturedGraph,
    *,
    machine: str | Path | Machine = DEFAULT_MACHINE,
    max_group: int = MAX_GROUP,
    allow_unknown: bool = False,
    one_layer: bool = False,
) -> Import:
    """:func:`from_captured`, with what was found on the way: rules, operators' sources, what was set aside, layers."""
    chip = machine if isinstance(machine, Machine) else load_machine(str(machine))
    imported = import_graph(captured, allow_unknown=allow_unknown)
    layers = find_layers(imported.graph)
    origin: dict[str, str | int | float | bool | None] = {
        "captured": captured.name,
        "nodes": len(captured.nodes),
        "max_group": max_group,
        "machine": chip.name,
    }
    if imported.unknown:
        origin["unknown"] = "; ".join(f"{op} ({len(places)} times)" for op, places in imported.unknown.items())
    if one_layer and layers is not None:
        folded = fold(imported.graph, layers)
        imported = replace(imported, graph=folded.graph)
        origin |= {"repeat": folded.repeat, "outside": folded.outside}
    return Import(build_instance(imported.graph, chip, max_group, origin), imported, layers)
