"""A captured graph as a list of steps that rules can rewrite: casts, copies and the mask side taken out.

A step is one operation with the values it reads and writes. :func:`load_program` drops what moves no data of its own
(casts between float types, clones, dropouts, additions of nothing), remembers in which type a value is stored, and
marks the *host side*: whatever follows from integer inputs and constants alone (positions, masks, rotary tables) is
computed ahead of a kernel schedule, and what follows from weights alone is folded into them when they are loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from instances.errors import InputError
from instances.frontends.captured import CapturedGraph, CapturedNode

FLOATS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
"""Bytes of the floating-point types."""


@dataclass(eq=False)
class Value:
    """One tensor: an input, or a result of a step.

    ``side`` tells what it follows from: ``"device"``, ``"host"`` (integer inputs and constants alone) or ``"weight"``
    (parameters, and constants, alone).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    producer: Step | None = None
    kind: str = ""  # of an input: parameter, buffer, constant, user_input
    side: str = "device"
    cast_to: list[str] = field(default_factory=list)  # types that readers cast it to
    straight: bool = False  # whether somebody reads it as it is
    target: str = ""  # of a parameter or buffer: its name in the model

    @property
    def stored_dtype(self) -> str:
        """The type it is stored in: narrower than computed where every reader casts it down to the same."""
        narrow = set(self.cast_to)
        if self.straight or len(narrow) != 1 or self.dtype not in FLOATS:
            return self.dtype
        (cast,) = narrow
        return cast if FLOATS.get(cast, 99) < FLOATS[self.dtype] else self.dtype


@dataclass(eq=False)
class Step:
    """One operation: ``op`` without namespace and overload, arguments with values in place of names."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value]
    module: tuple[str, str] = ("", "")
    sources: tuple[str, ...] = ()  # the captured nodes that it stands for
    full_op: str = ""
    order: int = 0  # where it stood in the captured graph

    @property
    def reads(self) -> list[Value]:
        """All values among the arguments, in order."""
        return list(values_in((self.args, self.kwargs)))

    @property
    def out(self) -> Value:
        """The first result."""
        return self.outputs[0]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        path, _ = self.module
        return f"{self.sources[0] if self.sources else self.op}{f' in {path}' if path else ''}"


def values_in(argument: Any) -> Iterator[Value]:
    """The values in an argument, at any depth."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, dict):
        for inner in argument.values():
            yield from values_in(inner)
    elif isinstance(argument, list | tuple):
        for inner in argument:
            yield from values_in(inner)


def substitute(argument: Any, replace: Callable[[Value], Any]) -> Any:
    """An argument with every value in it replaced."""
    if isinstance(argument, Value):
        return replace(argument)
    if isinstance(argument, dict):
        return {key: substitute(inner, replace) for key, inner in argument.items()}
    if isinstance(argument, list | tuple):
        return type(argument)(substitute(inner, replace) for inner in argument)
    return argument


class Program:
    """Steps in topological order, the values they start from, and the results."""

    def __init__(self, name: str, inputs: list[Value], steps: list[Step], outputs: list[Value]) -> None:
        self.name = name
        self.inputs = inputs
        self.steps = steps
        self.outputs = outputs
        self.stopped_at: dict[str, list[str]] = {}
        self._users: dict[Value, list[Step]] | None = None

    def users(self, value: Value) -> list[Step]:
        """The steps that read a value, in order."""
        if self._users is None:
            self._users = {}
            for step in self.steps:
                for read in dict.fromkeys(step.reads):
                    self._users.setdefault(read, []).append(step)
        return self._users.get(value, [])

    def only_user(self, value: Value) -> Step | None:
        """The one step that reads a value, where there is exactly one and it is no result of the graph."""
        users = self.users(value)
        return users[0] if len(users) == 1 and value not in self.outputs else None

    def stored_dtype(self, value: Value) -> str:
        """The type a value is stored in, seen through views: all that is read of it may be cast down."""
        users = self.users(value)
        if value.cast_to or value in self.outputs or not users or any(user.op not in LOOKS for user in users):
            return value.stored_dtype
        kinds = {self.stored_dtype(seen) for user in users for seen in user.outputs}
        narrow = kinds.pop() if len(kinds) == 1 else value.dtype
        return narrow if FLOATS.get(narrow, 99) < FLOATS.get(value.dtype, 0) else value.dtype

    def changed(self) -> None:
        """Forget who reads what, after steps were edited."""
        self._users = None

    def replace_value(self, old: Value, new: Value) -> None:
        """Let everybody read ``new`` instead of ``old``."""
        for step in self.users(old):
            step.args = substitute(step.args, lambda value: new if value is old else value)
            step.kwargs = substitute(step.kwargs, lambda value: new if value is old else value)
        self.outputs = [new if value is old else value for value in self.outputs]
        self.changed()

    def rewrite(self, gone: list[Step], new: Step) -> None:
        """Put one step in the place of several, where the last of them stood; it takes over their sources."""
        members = set(map(id, gone))
        last = max(index for index, step in enumerate(self.steps) if id(step) in members)
        new.order = self.steps[last].order
        new.sources = tuple(dict.fromkeys(source for step in gone for source in step.sources))
        new.module = new.module if new.module != ("", "") else gone[-1].module
        for value in new.outputs:
            value.producer = new
        self.steps[last] = new
        self.steps = [step for step in self.steps if id(step) not in members]
        if self._users is not None:  # mended rather than found anew: a graph of thousands of steps has as many rewrites
            for value in {read for step in gone for read in step.reads}:
                self._users[value] = [user for user in self._users.get(value, []) if id(user) not in members]
            for value in dict.fromkeys(new.reads):
                self._users[value] = sorted([*self._users.get(value, []), new], key=lambda user: user.order)

    def sweep(self) -> None:
        """Drop steps whose results nobody reads."""
        needed = set(map(id, self.outputs))
        kept = []
        for step in reversed(self.steps):
            if any(id(value) in needed for value in step.outputs):
                needed |= set(map(id, step.reads))
                kept.append(step)
        self.steps = kept[::-1]
        self.changed()


@contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Whatever arguments of the wrong number, type or size end in, as one :class:`InputError` that says whose."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{what} has arguments or shapes that do not go together; capture the graph again") from error


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


IDENTITIES = _names("clone alias contiguous detach dropout native_dropout lift_fresh_copy identity lift_fresh")
LOOKS = _names(
    "view unsqueeze squeeze flatten unflatten transpose swapaxes permute t expand slice select split_with_sizes"
)
"""Operations that only look at a tensor in another way."""

CASTS = _names("_to_copy to type_as cast")
CREATIONS = _names(
    "arange zeros ones full empty eye zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty "
    "scalar_tensor tril_indices triu_indices rand randn linspace constant"
)
"""Operations whose results hold no data of their inputs."""


def short_name(op: str) -> str:
    """An operator's name without the namespace ``aten`` and without overload: ``aten.add.Tensor`` is ``add``."""
    parts = re.split(r"\.|::", op)
    if parts[0] == "aten" and len(parts) > 1:
        return {"_unsafe_view": "view", "reshape": "view", "_softmax": "softmax"}.get(parts[1], parts[1])
    return op


def load_program(graph: CapturedGraph) -> Program:
    """The steps of a captured graph, cleaned up."""
    known: dict[str, Value] = {}
    results: dict[str, list[Value]] = {}
    inputs = []
    for tensor in graph.inputs:
        value = Value(tensor.name, tensor.shape or (), tensor.dtype or "none", kind=tensor.kind)
        value.target = tensor.target or ""
        value.side = _side_of_input(value)
        inputs.append(value)
        known[tensor.name], results[tensor.name] = value, [value]
    prefix = _common_prefix(graph)
    steps: list[Step] = []
    for node in graph.nodes:
        with well_formed(f"graph {graph.name}: node {node.name} ({node.op})"):
            step = _step(graph, node, known, results, prefix)
        if step is not None:
            step.order = len(steps)
            steps.append(step)
    program = Program(graph.name, inputs, steps, [_uncast(known[output.name]) for output in graph.outputs])
    with well_formed(f"graph {graph.name}: a slice_scatter"):
        _assemble_scatters(program)
    program.sweep()
    _mark_sides(program)
    return program


def _common_prefix(graph: CapturedGraph) -> int:
    """Length of what the paths of all modules start with, up to a dot."""
    used = {graph.modules[node.module][0] for node in graph.nodes if node.module is not None}
    paths = [path.split(".") for path in used if path]
    shared = 0
    while len(paths) > 1 and all(len(path) > shared + 1 for path in paths):
        if len({path[shared] for path in paths}) > 1:
            break
        shared += 1
    return sum(len(part) + 1 for part in paths[0][:shared]) if paths else 0


def _side_of_input(value: Value) -> str:
    if value.kind == "parameter":
        return "weight"
    floating = value.dtype in FLOATS
    return "device" if floating and value.kind == "user_input" else "host"


def _step(
    graph: CapturedGraph, node: CapturedNode, known: dict[str, Value], results: dict[str, list[Value]], prefix: int
) -> Step | None:
    """A node as a step; ``None`` where its results are those of what it reads, which then stand for them."""

    def fill(argument: Any) -> Any:
        if isinstance(argument, str) and argument.startswith("%"):
            return known[argument[1:]]
        if isinstance(argument, dict):
            return {key: fill(inner) for key, inner in argument.items()}
        if isinstance(argument, list | tuple):
            return [fill(inner) for inner in argument]
        return argument

    op = short_name(node.op)
    args = tuple(fill(argument) for argument in node.args) or tuple(known[name] for name in node.inputs)
    kwargs = {key: fill(argument) for key, argument in node.kwargs.items()}
    made = [Value(node.name, tuple(shape), dtype) for shape, dtype in node.outputs]
    if op == "getitem":
        parent, index = node.args[0], node.args[1]
        known[node.name] = results[str(parent)[1:]][int(index)]
        results[node.name] = [known[node.name]]
        return None
    if op == "cat" and isinstance(args[0], list):  # pieces of no elements are no pieces
        pieces = [piece for piece in args[0] if 0 not in piece.shape]
        args = (pieces, *args[1:])
        if len(pieces) == 1:
            known[node.name], results[node.name] = pieces[0], pieces
            return None
    source = args[0] if args and isinstance(args[0], Value) else None
    if source is not None and (op in IDENTITIES or _does_nothing(op, args, kwargs, source, made[0])):
        known[node.name], results[node.name] = source, [source, *made[1:]]
        return None
    if source is not None and op in CASTS and source.dtype in FLOATS and made[0].dtype in FLOATS:
        seen = Cast(node.name, source.shape, made[0].dtype, source)
        known[node.name], results[node.name] = seen, [seen]
        return None
    for index, value in enumerate(made):
        value.name = node.name if index == 0 else f"{node.name}:{index}"
    module = graph.modules[node.module] if node.module is not None else ("", "")
    module = (module[0][prefix:], module[1])
    args, kwargs = substitute((args, kwargs), _uncast)
    step = Step(op, args, kwargs, made, (module[0], module[1]), (node.name,), node.op)
    for value in made:
        value.producer = step
    known[node.name], results[node.name] = made[0], made
    return step


class Cast(Value):
    """A float value seen in another float type."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str, source: Value) -> None:
        super().__init__(name, shape, dtype)
        self.source = source


def _uncast(value: Value) -> Value:
    """What a cast value is a cast of; the type is noted there."""
    if not isinstance(value, Cast):
        value.straight = True
        return value
    inner: Value = value
    while isinstance(inner, Cast):
        wanted, inner = inner.dtype, inner.source
    inner.cast_to.append(wanted)
    return inner


def _does_nothing(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: Value, made: Value) -> bool:
    """Whether an operation returns its first argument."""
    if source.shape != made.shape:
        return False
    other = args[1] if len(args) > 1 else None
    if op in ("mul", "div") and isinstance(other, int | float) and not isinstance(other, bool):
        return other == 1 and source.dtype == made.dtype
    if op in ("add", "sub") and isinstance(other, int | float) and not isinstance(other, bool):
        return other == 0 and source.dtype == made.dtype
    if op in ("pad", "constant_pad_nd"):
        return isinstance(other, list) and not any(other)
    return op in ("view", "expand", "slice", "squeeze", "unsqueeze", "transpose", "permute") and _keeps_order(op, args)


def _keeps_order(op: str, args: tuple[Any, ...]) -> bool:
    """Whether a view of unchanged shape is the same elements in the same places."""
    if op == "permute":
        order = args[1]
        return isinstance(order, list) and order == list(range(len(order)))
    return op in ("view", "expand", "slice")


def _assemble_scatters(program: Program) -> None:
    """``new_empty`` filled stretch by stretch with ``slice_scatter`` is a ``cat``."""
    for step in list(program.steps):
        pieces: list[tuple[int, Value]] = []
        chain: list[Step] = []
        current: Value = step.out
        axes: set[int] = set()
        while current.producer is not None and current.producer.op == "slice_scatter":
            scatter = current.producer
            base, piece = scatter.args[0], scatter.args[1]
            if int(scatter.arg(5, "step", 1) or 1) != 1 or not current.shape:
                break
            axes.add(int(scatter.arg(2, "dim", 0)) % len(current.shape))
            copied = piece.producer
            if copied is not None and copied.op == "copy":
                piece = copied.args[1]
            pieces.append((int(scatter.arg(3, "start", 0) or 0), piece))
            chain.append(scatter)
            current = base
        made = current.producer
        if len(axes) != 1 or made is None or made.op not in CREATIONS:
            continue
        (axis,) = axes
        pieces.sort(key=lambda item: item[0])
        ends = [start + piece.shape[axis] for start, piece in pieces]
        if [start for start, _ in pieces] != [0, *ends[:-1]] or ends[-1] != step.out.shape[axis]:
            continue
        new = Step("cat", ([piece for _, piece in pieces], axis), {}, step.outputs, step.module)
        program.rewrite([step], new)  # the others stay where somebody reads them, and are swept where not
        new.sources = tuple(dict.fromkeys(source for item in reversed(chain) for source in item.sources))


def _mark_sides(program: Program) -> None:
    """Mark what follows from integer inputs and constants, or from weights, alone."""
    for step in program.steps:
        reads = step.reads
        sides = {value.side for value in reads}
        if step.op in CREATIONS or sides <= {"host"}:
            side = "host"
        elif sides <= {"host", "weight"} and step.op not in LOOKUPS:
            side = "weight"
        else:
            side = "device"
        for value in step.outputs:
            value.side = side


LOOKUPS = frozenset(("embedding", "index", "index_select", "gather"))
"""Operations that read a part of their first argument, chosen by their second."""


def count_ops(program: Program) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(step.full_op or step.op for step in program.steps)
