"""``torch.compile(model, backend="tilewright")``: plans the graph that Dynamo captured and runs it unchanged.

The plan is put on the graph (``graph_module.meta["tilewright"]``, ``node.meta["tilewright"]``) and into a file; the
results are those of the inner backend. Nothing that goes wrong here reaches the build: it is warned of once, and the
model runs. Torch is there whenever this module is called, so it is imported inside of functions.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instances.errors import InputError
from opt.embedding import Planned, PlanOptions, plan_graph

if TYPE_CHECKING:
    from torch.fx import GraphModule

Compiled = Callable[..., Any]

_log = logging.getLogger(__name__)

META = "tilewright"
"""Key of the plan in the metadata of graph and nodes."""

_OURS = frozenset({"inner", "plan", "on_plan"})

_PLANNING = frozenset(field.name for field in fields(PlanOptions)) | {"time_limit"}

_warned: set[str] = set()
_warning = threading.Lock()


def backend(
    module: GraphModule,
    inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Compiled:
    """Plan a graph and return what runs it.

    Parameters
    ----------
    module, inputs
        What Dynamo hands over.
    options
        ``torch.compile(..., options={...})``: ``machine``, ``time_limit`` (s), ``solver``, ``workers``, ``seed``,
        ``gap``, ``max_group``, ``allow_unknown``, ``one_layer``, ``cache`` as for
        :class:`opt.embedding.PlanOptions`; ``inner``: name of the backend that runs the graph, or a function of graph
        and inputs (default: eager); ``plan``: file to write the plan to as well; ``on_plan``: called with the
        :class:`opt.embedding.Planned`.
    mode
        Passed by torch.compile; not used.

    Returns
    -------
    callable
        The graph, compiled by the inner backend.
    """
    given = dict(options or {})
    try:
        planned = _plan(module, inputs, given)
        _annotate(module, planned)
        _hand_over(planned, given)
    except Exception as error:  # whatever it is, the model must run
        _log.debug("where planning ended", exc_info=True)
        _warn(f"tilewright could not plan this graph ({type(error).__name__}: {error}); it runs unplanned")
    return _inner(module, inputs, given.get("inner"))


def _plan(module: GraphModule, inputs: Sequence[Any], given: dict[str, Any]) -> Planned:
    """The plan of a graph; from the greedy heuristic where what was asked for cannot be had."""
    known = _OURS | _PLANNING
    if strangers := sorted(set(given) - known):
        raise InputError(f"option {strangers[0]!r} is unknown; choose from {', '.join(sorted(known))}")
    asked = {key: value for key, value in given.items() if key in _PLANNING}
    if "time_limit" in asked:
        asked["time_limit_s"] = asked.pop("time_limit")
    options = PlanOptions(**asked)

    def capture() -> Any:
        from instances.frontends.torch_program import capture_torch

        return capture_torch(module, "dynamo", inputs)

    fingerprint = graph_fingerprint(module, inputs)
    try:
        planned = plan_graph(fingerprint, capture, options)
    except Exception as error:
        if options.solver == "greedy":
            raise
        _log.debug("where the search ended", exc_info=True)
        _warn(f"tilewright fell back to the greedy plan ({type(error).__name__}: {error})")
        simple = PlanOptions(
            machine=options.machine, solver="greedy", max_group=options.max_group, allow_unknown=True, cache=""
        )
        planned = plan_graph(fingerprint, capture, simple)
    for note in planned.notes:
        _warn(f"tilewright: {note}")
    return planned


def graph_fingerprint(module: GraphModule, inputs: Sequence[Any]) -> str:
    """SHA-256 of a graph as Dynamo captured it: operations, arguments, shapes and types; no weights and no names."""
    import torch

    number: dict[Any, int] = {}

    def describe(value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            return f"%{number[value]}"
        if isinstance(value, torch.Tensor):
            return f"{tuple(map(str, value.shape))}{value.dtype}"
        if isinstance(value, list | tuple):
            return f"[{','.join(map(describe, value))}]"
        if isinstance(value, dict):
            return f"{{{','.join(f'{key}:{describe(inner)}' for key, inner in value.items())}}}"
        if isinstance(value, slice):
            return f"slice({describe(value.start)},{describe(value.stop)},{describe(value.step)})"
        return repr(value)

    hasher = hashlib.sha256()
    places = iter(inputs)
    for index, node in enumerate(module.graph.nodes):
        number[node] = index
        target = node.target if isinstance(node.target, str) else _qualified(node.target)
        if node.op == "placeholder":
            # a parameter is told from an input by its name's path, which is the same in every process
            kind = "weight" if "_parameters_" in target or "_buffers_" in target else "input"
            known = next(places, None)
            text = f"{kind} {describe(node.meta.get('example_value', known))}"
        else:
            text = f"{node.op} {target} {describe(node.args)} {describe(node.kwargs)}"
            text += f" {describe(node.meta.get('example_value'))}"
        hasher.update(text.encode())
        hasher.update(b"\n")
    return hasher.hexdigest()


def _qualified(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', None) or target}"


def _annotate(module: GraphModule, planned: Planned) -> None:
    """The plan on the graph, and on each node the kernel that computes it."""
    module.meta[META] = planned
    kernels = {kernel.id: kernel for kernel in planned.plan.kernels}
    for node in module.graph.nodes:
        found = planned.nodes.get(node.name)
        if found is not None:
            node.meta[META] = kernels[found]


def _hand_over(planned: Planned, given: Mapping[str, Any]) -> None:
    verdict = planned.plan.verdict
    _log.info("planned %d kernels: %s", len(planned.plan.kernels), verdict)
    if given.get("plan") is not None:
        from opt.api import save

        save(planned.plan, Path(given["plan"]))
    if given.get("on_plan") is not None:
        given["on_plan"](planned)


def _inner(module: GraphModule, inputs: Sequence[Any], inner: Any) -> Compiled:
    """What runs the graph."""
    if inner is None or inner == "eager":
        return module.forward  # type: ignore[no-any-return]
    if callable(inner):
        return inner(module, inputs)  # type: ignore[no-any-return]
    from torch._dynamo.backends.registry import lookup_backend

    return lookup_backend(inner)(module, inputs)  # type: ignore[no-any-return]


def _warn(message: str) -> None:
    """Warn of something once in the life of the process."""
    with _warning:
        if message in _warned:
            return
        _warned.add(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)
