"""torch.export programs and FX graphs as captured graphs. Torch is imported when one is read, not before.

A program is brought to functional form (``run_decompositions({})``: nothing mutates, ``linear``, attention and the
norms stay whole). A graph that torch.compile hands to a backend holds Python functions instead: it is traced once more
with tensors that have no data, before dispatch, so that the same operators come out. Regions that are called many
times (``invoke_subgraph``) are read where they are called.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instances.errors import InputError
from instances.frontends.captured import CapturedGraph, CapturedInput, CapturedNode, CapturedOutput
from instances.frontends.extras import need

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

_log = logging.getLogger(__name__)

CHECKS = ("_assert", "sym_constrain", "_check", "Assert")
"""Beginnings of operators that only look."""

CALLS = frozenset(
    ["invoke_subgraph", "wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap", "tag_activation_checkpoint"]
)
"""Higher-order operators that run the graph they are given once, on what follows it."""


def read_torch(path: str | Path) -> ExportedProgram:
    """A program that ``torch.export.save`` wrote (``.pt2``); :class:`InputError` where it is none."""
    torch = need("torch", "torch")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        program: ExportedProgram = torch.export.load(str(path))
    except Exception as error:  # whatever an archive of another kind brings to the surface
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is no exported program ({reason}); write it with torch.export.save") from None
    return program


def capture_torch(
    program: ExportedProgram | GraphModule, name: str = "", inputs: Sequence[Any] | None = None
) -> CapturedGraph:
    """The captured graph of an exported program or of an FX graph.

    Parameters
    ----------
    program
        What ``torch.export.export`` returned, or a graph module of ``torch.compile`` or ``make_fx``. Weights may lie on
        the meta device or be fake.
    name
        Name of the graph.
    inputs
        Inputs of a graph module whose placeholders do not know their shapes.

    Raises
    ------
    InputError
        Where it is neither, or a shape is not a number.
    """
    torch = need("torch", "torch")
    if isinstance(program, torch.export.ExportedProgram):
        return _capture_program(program, name or "exported")
    if isinstance(program, torch.fx.GraphModule):
        return _capture_module(program, name or "graph", inputs)
    raise InputError(
        f"from_torch got a {type(program).__name__}; give a torch.export.ExportedProgram or a torch.fx.GraphModule"
    )


def _capture_program(program: ExportedProgram, name: str) -> CapturedGraph:
    try:
        functional = program.run_decompositions({})
    except Exception as error:  # some caches cannot be made functional; their graph is readable all the same
        _log.warning("graph %s could not be made functional (%s); reading it as it is", name, type(error).__name__)
        functional = program
    signature = functional.graph_signature
    kinds: dict[str, tuple[str, str]] = {}
    for spec in signature.input_specs:
        kind = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant"}.get(
            spec.kind.name, "user_input"
        )
        kinds[spec.arg.name] = kind, str(spec.target or "")
    walker = _Walker(kinds)
    results = walker.walk(functional.graph_module, "", {})
    return walker.graph(name, results)


def _capture_module(module: GraphModule, name: str, inputs: Sequence[Any] | None) -> CapturedGraph:
    import torch

    kinds = placeholder_kinds(module, inputs)
    aten = all(
        isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
        or node.target is operator.getitem
        for node in module.graph.nodes
        if node.op == "call_function"
    ) and not any(node.op in ("call_method", "call_module") for node in module.graph.nodes)
    traced = module if aten else _retrace(module, [given for _, given in _placeholders(module, inputs)])
    renamed = [node.name for node in traced.graph.nodes if node.op == "placeholder"]
    walker = _Walker(dict(zip(renamed, kinds, strict=False)))
    results = walker.walk(traced, "", {})
    return walker.graph(name, results)


def _placeholders(module: GraphModule, inputs: Sequence[Any] | None) -> Iterator[tuple[Node, Any]]:
    """Placeholders, each with an example: of the caller, or what its metadata keep."""
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    for index, node in enumerate(nodes):
        given = inputs[index] if inputs is not None and index < len(inputs) else None
        known = node.meta.get("example_value", node.meta.get("val"))
        yield node, given if given is not None else known


def placeholder_kinds(module: GraphModule, inputs: Sequence[Any] | None = None) -> list[tuple[str, str]]:
    """Whether each placeholder is a parameter, a buffer or an input, and its name in the model."""
    import torch

    given = list(_placeholders(module, inputs))
    # torch.export calls parameters p_, buffers b_; make_fx numbers all arguments: one called b is b_1, and no buffer
    exported = any(not re.search(r"_\d+$", str(node.target)) for node, _ in given)
    kinds = []
    for node, example in given:
        text = str(node.target)
        if isinstance(example, torch.nn.Parameter) or "_parameters" in text or (exported and text.startswith("p_")):
            kinds.append(("parameter", _plain(text)))
        elif "_buffers" in text or (exported and text.startswith("b_")):
            kinds.append(("buffer", _plain(text)))
        else:
            kinds.append(("user_input", ""))
    return kinds


def _plain(path: str) -> str:
    """A path in a model as its author writes it: ``L['self']._modules['layers']._modules['0']`` is ``layers.0``."""
    path = re.sub(r"^[Ll]_self_|_$", "", re.sub(r"_(modules|parameters|buffers)", "", path))
    parts = re.findall(r"[A-Za-z0-9_]+", path)
    while parts and parts[0] in ("L", "self", "l", "l_self", "L_self"):
        parts.pop(0)
    return ".".join(part for part in parts if part != "orig_mod") or path


def _retrace(module: GraphModule, examples: list[Any]) -> GraphModule:
    """A graph of Python functions traced into one of operators, with tensors without data."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: list[Any] = []
    with mode:
        for example in examples:
            if isinstance(example, torch.Tensor):
                shape = [_integer(size, "an input") for size in example.shape]
                fakes.append(torch.empty(shape, dtype=example.dtype, device=example.device))
            else:
                fakes.append(_integer(example, "an input") if isinstance(example, torch.SymInt) else example)

        def run(*given: Any) -> Any:
            return _Annotating(module).run(*given)

        try:
            with torch.fx.traceback.preserve_node_meta(), torch.no_grad():
                traced: GraphModule = make_fx(run, pre_dispatch=True)(*fakes)
        except Exception as error:  # whatever the operators of the graph say of what they were given
            reason = " ".join(str(error).split())[:200]
            advice = "give inputs of the shapes that it is to run with"
            raise InputError(f"the graph module cannot be traced ({reason}); {advice}") from error
    return traced


def _annotating_class() -> Any:
    import torch

    class Annotating(torch.fx.Interpreter):  # type: ignore[misc]
        """Runs a graph so that what is traced of each node remembers the node."""

        def run_node(self, node: Node) -> Any:
            before = node.meta.get("custom")
            node.meta["custom"] = {**(before or {}), "tilewright_source": node.name}
            try:
                with torch.fx.traceback.set_current_meta(node):
                    return super().run_node(node)
            finally:  # the graph is the caller's
                del node.meta["custom"]
                if before is not None:
                    node.meta["custom"] = before

    return Annotating


def _Annotating(module: GraphModule) -> Any:  # noqa: N802 - a class that needs torch to be defined
    return _annotating_class()(module)


def _integer(size: Any, what: str) -> int:
    """A size as a number; a symbol is taken at the value it was captured with."""
    try:
        hint = getattr(getattr(size, "node", None), "hint", None)
        return int(hint if hint is not None else size)
    except Exception:
        raise InputError(
            f"{what} has the size {size}, which is not a number; capture with static shapes, or bind it"
        ) from None


class _Walker:
    """Collects nodes of a graph and of the regions it calls, under names of their own."""

    def __init__(self, kinds: dict[str, tuple[str, str]]) -> None:
        self.kinds = kinds
        self.inputs: list[CapturedInput] = []
        self.nodes: list[CapturedNode] = []
        self.modules: dict[tuple[str, str], int] = {}
        self.changed: list[str] = []  # what inputs were set to: like a result, it has to be in memory at the end

    def graph(self, name: str, results: list[Any]) -> CapturedGraph:
        """What was collected, as a captured graph."""
        names = [result[1:] for result in (*results, *self.changed) if _is_reference(result)]
        outputs = tuple(CapturedOutput(name=result) for result in dict.fromkeys(names))
        if not self.nodes or not outputs:
            raise InputError(f"graph {name}: holds no operation with a result; capture the model's forward pass")
        modules = tuple(self.modules)
        return CapturedGraph(
            name=name, inputs=tuple(self.inputs), nodes=tuple(self.nodes), outputs=outputs, modules=modules
        )

    def walk(self, module: GraphModule, prefix: str, env: dict[str, Any]) -> list[Any]:
        """Read a graph; ``env`` names what its placeholders stand for. Returns its results."""
        results: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                if node.name not in env:
                    self._input(node)
                    env[node.name] = f"%{node.name}"
            elif node.op == "get_attr":
                self._attribute(module, node, prefix, env)
            elif node.op == "call_function":
                self._call(module, node, prefix, env)
            elif node.op == "output":
                results = list(_flat(self._argument(node.args[0], env)))
        given = [node.name for node in module.graph.nodes if node.op == "placeholder"] if not prefix else []
        self.changed += [env[name] for name in given if env[name] != f"%{name}"]
        return results

    def _input(self, node: Node) -> None:
        kind, target = self.kinds.get(node.name, ("user_input", ""))
        results = _results(node)
        shape, dtype = results[0] if results else (None, None)
        self.inputs.append(
            CapturedInput.model_validate(
                {"name": node.name, "kind": kind, "shape": shape, "dtype": dtype, "target": target or None}
            )
        )

    def _attribute(self, module: GraphModule, node: Node, prefix: str, env: dict[str, str]) -> None:
        import torch

        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, torch.Tensor):
            label = f"{prefix}{node.name}"
            kind = "parameter" if isinstance(value, torch.nn.Parameter) else "buffer"
            shape = tuple(_integer(size, label) for size in value.shape)
            self.inputs.append(
                CapturedInput.model_validate(
                    {"name": label, "kind": kind, "shape": shape, "dtype": _dtype(value), "target": str(node.target)}
                )
            )
            env[node.name] = f"%{label}"

    def _call(self, module: GraphModule, node: Node, prefix: str, env: dict[str, Any]) -> None:
        import torch

        label = f"{prefix}{node.name}"
        region = self._region(module, node)
        if region is not None:
            inner, operands = region
            given = [self._argument(operand, env) for operand in operands]
            names = [n.name for n in inner.graph.nodes if n.op == "placeholder"]
            results = self.walk(inner, f"{label}.", dict(zip(names, given, strict=False)))
            for user in node.users:
                if user.target is operator.getitem:
                    env[user.name] = results[int(user.args[1])]
            if len(results) == 1:
                env[node.name] = results[0]
            return
        if node.name in env:  # an item of a region's results
            return
        op = "getitem" if node.target is operator.getitem else str(node.target)
        if any(op.removeprefix("aten.").startswith(check) for check in CHECKS):
            return
        results = _results(node)
        if not results:
            value = node.meta.get("val", node.meta.get("example_value"))
            if isinstance(value, int | float | torch.SymInt):
                env[node.name] = value if isinstance(value, float) else _integer(value, f"node {node.name}")
            return
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            op = op.replace("_.", ".", 1)  # an in-place operator's result, read as one of its own
        args = tuple(self._argument(argument, env) for argument in node.args)
        if op == "getitem":  # results that are no tensors are left out
            args = (args[0], len(_results(node.args[0], int(node.args[1]))))
        kwargs = {key: self._argument(value, env) for key, value in node.kwargs.items() if value is not None}
        module_index, region_name = self._module(node)
        reads = tuple(dict.fromkeys(name[1:] for name in _flat([args, kwargs]) if _is_reference(name)))
        self.nodes.append(
            CapturedNode.model_validate(
                {
                    "name": label,
                    "op": op,
                    "inputs": reads,
                    "args": args,
                    "kwargs": kwargs,
                    "outputs": results,
                    "module": module_index,
                    "region": region_name,
                }
            )
        )
        env[node.name] = f"%{label}"
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            for argument, declared in zip(node.args, node.target._schema.arguments, strict=False):
                written = declared.alias_info is not None and declared.alias_info.is_write
                if written and isinstance(argument, torch.fx.Node):
                    self._written(argument, f"%{label}", env)

    def _written(self, node: Node, new: str, env: dict[str, Any]) -> None:
        """Let later readers of what was written in place see the new elements, through the views it was seen by."""
        env[node.name] = new
        base: Any = node.args[0] if node.op == "call_function" and node.args else None
        if node.target is operator.getitem:
            base = base.args[0]
        elif not getattr(node.target, "is_view", False):
            return
        if base is None or env.get(base.name) is None:
            return
        place = {"aten.slice.Tensor": "slice_scatter", "aten.select.int": "select_scatter"}.get(str(node.target))
        rest = [self._argument(argument, env) for argument in node.args[1:]] if place else []
        label = f"{new[1:]}.{base.name}"
        before = env[base.name]
        self.nodes.append(
            CapturedNode.model_validate(
                {
                    "name": label,
                    "op": f"aten.{place or 'copy'}.default",
                    "inputs": (before[1:], new[1:]),
                    "args": (before, new, *rest),
                    "outputs": _results(base),
                }
            )
        )
        self._written(base, f"%{label}", env)

    def _region(self, module: GraphModule, node: Node) -> tuple[GraphModule, list[Any]] | None:
        """The graph that a higher-order operator calls, and what it gives it."""
        import torch

        if not isinstance(node.target, torch._ops.HigherOrderOperator) or str(node.target) not in CALLS:
            return None
        for index, argument in enumerate(node.args):
            if isinstance(argument, torch.fx.Node) and argument.op == "get_attr":
                inner = getattr(module, str(argument.target), None)
                if isinstance(inner, torch.fx.GraphModule):
                    operands = node.args[index + 1 :]
                    if str(node.target) == "invoke_subgraph":  # the first is a name
                        operands = operands[1:]
                    return inner, list(operands)
        return None

    def _argument(self, argument: Any, env: dict[str, Any]) -> Any:
        import torch

        if isinstance(argument, torch.fx.Node):
            return env.get(argument.name)
        if isinstance(argument, list | tuple):
            return [self._argument(inner, env) for inner in argument]
        if isinstance(argument, dict):
            return {str(key): self._argument(inner, env) for key, inner in argument.items()}
        if isinstance(argument, torch.SymInt | torch.SymBool):
            return _integer(argument, "an argument")
        if isinstance(argument, torch.SymFloat):
            return float(argument.node.hint)
        if isinstance(argument, torch.dtype):
            return str(argument).removeprefix("torch.")
        if isinstance(argument, bool | int | float | str) or argument is None:
            return argument
        return str(argument)

    def _module(self, node: Node) -> tuple[int | None, str | None]:
        stack = node.meta.get("nn_module_stack") or {}
        source = (node.meta.get("custom") or {}).get("tilewright_source")
        if not stack:
            return None, source
        path, cls = list(stack.values())[-1]
        name = cls.__name__ if isinstance(cls, type) else str(cls).split(".")[-1].rstrip("'>")
        key = (_plain(str(path)) if not str(path).replace(".", "").replace("_", "").isalnum() else str(path), name)
        return self.modules.setdefault(key, len(self.modules)), source


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("%")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _flat(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _flat(inner)
    else:
        yield value


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _results(node: Node, before: int | None = None) -> list[tuple[tuple[int, ...], str]]:
    """Shape and element type of each tensor that a node makes; of those before a place alone, where one is given."""
    import torch

    value = node.meta.get("val", node.meta.get("example_value"))
    found = []
    for item in value[:before] if isinstance(value, list | tuple) else [value]:
        if isinstance(item, torch.Tensor):
            found.append((tuple(_integer(size, f"node {node.name}") for size in item.shape), _dtype(item)))
    return found
