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

from instances.errors import InputError, TilewrightError
from instances.frontends.captured import CapturedGraph
from opt.embedding import Planned, PlanOptions, plan_graph

if TYPE_CHECKING:
    from torch.fx import GraphModule

Compiled = Callable[..., Any]
Compiler = Callable[..., Compiled]

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
    given: dict[str, Any] = {}
    said: list[str] = []
    try:
        given.update(options or {})
        planned = _plan(module, inputs, given, said)
        _annotate(module, planned)
    except Exception as error:  # whatever it is, the model must run
        _log.debug("where planning ended", exc_info=True)
        said.append(f"{_reason(error)}; this graph runs without a plan")
    else:
        try:
            _hand_over(planned, given)
        except Exception as error:  # of a folder, or of the function that is to be called
            said.append(f"{_reason(error)}; the plan is on the graph alone")
    inner = _inner(given.get("inner"), said)
    _warn(said)
    return inner(module, inputs)


def _plan(module: GraphModule, inputs: Sequence[Any], given: Mapping[str, Any], said: list[str]) -> Planned:
    """The plan of a graph; from the greedy heuristic where what was asked for cannot be had, which is then said."""

    def capture() -> CapturedGraph:
        from instances.frontends.torch_program import capture_torch

        return capture_torch(module, "dynamo", inputs)

    fingerprint = graph_fingerprint(module, inputs)
    try:
        planned = plan_graph(fingerprint, capture, _options(given))
    except Exception as error:
        _log.debug("where the search ended", exc_info=True)
        found = {key: given[key] for key in ("machine", "max_group") if key in given}
        planned = plan_graph(fingerprint, capture, PlanOptions(**found, solver="greedy", allow_unknown=True, cache=""))
        said.append(f"{_reason(error)}; fell back to the greedy plan")
    said += planned.notes
    return planned


def _options(given: Mapping[str, Any]) -> PlanOptions:
    """How to plan; :class:`InputError` where an option is not one."""
    known = _OURS | _PLANNING
    if strangers := sorted(set(given) - known, key=str):
        raise InputError(f"option {strangers[0]!r} is unknown; choose from {', '.join(sorted(known))}")
    asked = {key: value for key, value in given.items() if key in _PLANNING}
    if "time_limit" in asked:
        asked["time_limit_s"] = asked.pop("time_limit")
    return PlanOptions(**asked)


def graph_fingerprint(module: GraphModule, inputs: Sequence[Any] | None = None) -> str:
    """SHA-256 of a graph as Dynamo captured it: operations with their names, arguments, shapes and types, regions that
    it calls. Neither weights nor their names are in it: equal layers of a model share a plan."""
    from instances.frontends.torch_program import placeholder_kinds

    kinds = placeholder_kinds(module, inputs)
    describe = _Describer()
    lines: list[str] = []
    for node in module.graph.nodes:
        value = node.meta.get("example_value", node.meta.get("val"))
        if node.op == "placeholder":
            place = len(lines)
            if value is None and inputs is not None and place < len(inputs):
                value = inputs[place]
            describe.names[node] = f"%{place}"
            lines.append(f"{kinds[place][0]} {describe(value)}")
            continue
        describe.names[node] = f"%{node.name}"
        called = node.target if isinstance(node.target, str) else _qualified(node.target)
        if node.op in ("get_attr", "call_module"):
            called = describe.attribute(module, called)
        lines.append(f"{node.name} {called} {describe(node.args)} {describe(node.kwargs)} {describe(value)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


PLAIN = frozenset([int, str, float, bool])
SEQUENCES = (list, tuple)


class _Describer:
    """Writes values as texts that are the same in every process; ``names`` are those of the nodes seen so far."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
        self.names: dict[Any, str] = {}

    def __call__(self, value: Any) -> str:
        if value is None or type(value) in PLAIN:
            return repr(value)
        if isinstance(value, self._torch.fx.Node):
            return self.names[value]
        if isinstance(value, SEQUENCES):
            return f"[{','.join([self(inner) for inner in value])}]"
        if isinstance(value, self._torch.Tensor):
            shape = value.shape
            fixed = {*map(type, shape)} <= PLAIN
            return f"{value.dtype}{shape if fixed else self(tuple(shape))}"
        if isinstance(value, dict):
            return f"{{{','.join([f'{key}:{self(inner)}' for key, inner in value.items()])}}}" if value else "{}"
        if isinstance(value, self._symbols):
            return str(value.node.hint)  # a plan is for the size that the graph was captured with
        if isinstance(value, slice):
            return f"slice{self((value.start, value.stop, value.step))}"
        return repr(value)

    def attribute(self, module: GraphModule, path: str) -> str:
        """What a graph keeps under a name: a region by its fingerprint, a module or a tensor by its form."""
        value: Any = module
        for part in path.split("."):
            value = getattr(value, part, None)
        if isinstance(value, self._torch.fx.GraphModule):
            return graph_fingerprint(value)
        if isinstance(value, self._torch.nn.Module):
            return f"{value!r} {self(list(value.state_dict().values()))}"
        return self(value)


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


def _inner(inner: Any, said: list[str]) -> Compiler:
    """What compiles the graph: eager where what was asked for is none. Errors of a compiler are its own."""
    if callable(inner):
        return inner  # type: ignore[no-any-return]
    if inner not in (None, "eager"):
        try:
            from torch._dynamo.backends.registry import lookup_backend

            found = lookup_backend(inner)  # which gives back what is no name
            if not callable(found):
                raise InputError(f"inner backend {inner!r} is neither a name nor a function")
            return found  # type: ignore[no-any-return]
        except Exception as error:
            said.append(f"inner backend {inner!r} cannot be had ({type(error).__name__}); the graph runs eagerly")
    return _eager


def _eager(module: GraphModule, inputs: Sequence[Any]) -> Compiled:
    return module.forward  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, TilewrightError) else f"{type(error).__name__}: {text}"


def _warn(said: list[str]) -> None:
    """Warn in one sentence of what did not go as asked, once in the life of the process."""
    message = f"tilewright: {'; '.join(said)}"
    with _warning:
        if not said or message in _warned:
            return
        _warned.add(message)
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:  # the user's filters make errors of warnings; the build goes on all the same
        _log.warning("%s", message)
