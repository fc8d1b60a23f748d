"""From a captured graph to an operator graph: clean up, apply the rules, draft the operators, write the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from instances.errors import InputError
from instances.frontends import elementwise, products
from instances.frontends.captured import CapturedGraph
from instances.frontends.emission import emit
from instances.frontends.lowering import HANDLERS, Handler, Lowering
from instances.frontends.program import load_program, short_name, well_formed
from instances.frontends.rules import normalise
from instances.graph import Graph

__all__ = ["Imported", "import_graph", "register_op"]

_ = elementwise, products  # their handlers register themselves


@dataclass(frozen=True)
class Imported:
    """An operator graph, and how it came about.

    Parameters
    ----------
    graph
        The operators.
    sources
        Operator -> the captured nodes that it stands for.
    rules
        Rule -> how often it applied.
    unknown
        Operator that no handler exists for -> the places it stands at; each is priced as elementwise.
    set_aside
        Captured nodes that follow from integer inputs, constants or weights alone: computed ahead of the schedule.
    """

    graph: Graph
    sources: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, int]
    unknown: Mapping[str, list[str]]
    set_aside: tuple[str, ...]


def import_graph(captured: CapturedGraph, *, allow_unknown: bool = False) -> Imported:
    """The operators of a captured graph.

    Parameters
    ----------
    captured
        Inputs, nodes and outputs with static shapes.
    allow_unknown
        Whether an operator without a handler becomes a vector operator that is priced as elementwise, instead of an
        error.

    Raises
    ------
    InputError
        Where an operator is not mapped (with its name, place and count), or nothing is left to schedule.
    """
    program = load_program(captured)
    rules = normalise(program)
    low = Lowering(program, allow_unknown=allow_unknown)
    low.run()
    if not low.drafts:
        raise InputError(f"graph {captured.name}: holds no operator on the device; capture a graph with float inputs")
    for value in program.outputs:
        view = low.views.get(value)
        if view is not None and view.base.role == "intermediate":
            view.base.role = "output"
    _finish_unread(low)
    with well_formed(f"graph {captured.name}: one of its operators"):
        graph, sources = emit(low, captured.name)
    return Imported(graph, sources, rules, low.unknown, tuple(low.set_aside))


def _finish_unread(low: Lowering) -> None:
    """A result that nobody reads is an output: its operator would otherwise write nothing."""
    read = {use.view.base for item in low.drafts for use in item.reads}
    for item in low.drafts:
        for base in item.writes:
            if base.role == "intermediate" and base not in read:
                base.role = "output"


def register_op(name: str, handler: Handler) -> None:
    """Let the importers understand an operator of one's own.

    Parameters
    ----------
    name
        As the exporter names it, with namespace and overload (``"mylib.swish2.default"``), or an ``aten`` operator.
    handler
        Drafts the operators for a step; :func:`instances.frontends.elementwise.elementwise` makes one for whatever
        computes each element of its result from those in its place.
    """
    HANDLERS[short_name(name)] = handler
