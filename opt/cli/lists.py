"""The commands that list what there is: models, machines, solvers and document schemas."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from instances.catalogue import load_model, model_names
from instances.documents import Frozen
from instances.errors import InputError
from instances.graph import Graph
from instances.instance import Instance
from instances.machine import Machine, MemoryName, load_machine, machine_names
from instances.plan import Plan as CompilerPlan
from instances.replacement import MemoryMap, Plan, Problem
from instances.schedule import Schedule
from opt.cli.app import app
from opt.cli.display import show_lines, show_table
from opt.words import size
from solvers.registry import REGISTRY

SCHEMAS: dict[str, type[Frozen]] = {
    "graph": Graph,
    "machine": Machine,
    "instance": Instance,
    "schedule": Schedule,
    "problem": Problem,
    "plan": Plan,
    "map": MemoryMap,
    "compiler-plan": CompilerPlan,
}
"""Documents by name."""


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Name or config.json of the model to print in full.")] = None,
) -> None:
    """List the models, or all of one with sources.

    \b
    Example:
      tilewright models llama-3-8b
    """
    if name is not None:
        model = load_model(name)
        values = [(field, getattr(model, field)) for field in type(model).model_fields if field != "sources"]
        show_table(
            ("value", model.name, "source"),
            [(field, str(value), model.sources.get(field, "")) for field, value in values if value is not None],
            right=(model.name,),
        )
        return
    counts = ("layers", "hidden", "heads", "kv heads", "parameters")
    rows: list[tuple[str, ...]] = []
    for known in model_names():
        model = load_model(known)
        layers = f"{model.layers}" if model.decoder_layers is None else f"{model.layers} + {model.decoder_layers}"
        numbers = (model.hidden, model.heads, model.kv_heads, model.parameters)
        place = model.sources.get("hidden", "").partition(":")[0]
        rows.append((known, model.family, layers, *(f"{number:,}" for number in numbers), place))
    show_table(("model", "family", *counts, "source"), rows, right=counts)


@app.command()
def machines(
    name: Annotated[str | None, typer.Argument(help="Name or file of the machine to print in full.")] = None,
) -> None:
    """List the chips, or all figures of one with sources.

    \b
    Example:
      tilewright machines ascend910b2
    """
    if name is not None:
        from reports.facts import machine_rows

        machine = load_machine(name)
        show_lines([("machine", machine.name), ("title", machine.title), ("notes", machine.notes)], err=False)
        rows = [(row.name, row.value, row.grade, row.source) for row in machine_rows(machine)]
        show_table(("figure", "value", "grade", "source"), rows, right=("value",))
        return
    show_table(
        ("machine", "title", "cores", "clock", "HBM", "L2", "direct path", "source of the cores"),
        [_machine_row(load_machine(known)) for known in machine_names()],
    )


def _machine_row(machine: Machine) -> tuple[str, ...]:
    hbm, l2 = (size(machine.capacity(memory)) for memory in (MemoryName.HBM, MemoryName.L2))
    return (
        machine.name,
        machine.title,
        f"{machine.aic_count} AIC, {machine.aiv_count} AIV",
        f"{machine.clock_mhz.value:.0f} MHz",
        f"{hbm}, {machine.hbm.rate_gb_s.value:.0f} GB/s",
        f"{l2}, {machine.l2.rate_gb_s.value:.0f} GB/s",
        "yes" if machine.direct else "no",
        f"{machine.aic.grade.value}: {machine.aic.source}",
    )


@app.command()
def solvers() -> None:
    """List the solvers, the default first.

    \b
    Example:
      tilewright solvers
    """
    rows = [(entry.name, entry.description, entry.source) for entry in REGISTRY.values()]
    show_table(("solver", "what it does", "source"), rows)


@app.command()
def schema(
    document: Annotated[
        str, typer.Argument(metavar="[graph|machine|instance|schedule|problem|plan|map|compiler-plan]")
    ] = "instance",
) -> None:
    """Print the JSON Schema of a document.

    \b
    Example:
      tilewright schema schedule
    """
    if document not in SCHEMAS:
        raise InputError(f"document {document!r} is unknown; choose one of {', '.join(SCHEMAS)}")
    typer.echo(json.dumps(SCHEMAS[document].model_json_schema(), indent=2))
