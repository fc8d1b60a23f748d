"""A plan as MLIR text in generic form, in the names of AscendNPU-IR's dialects.

One ``func.func`` per kernel: its tensors in global memory as arguments, a ``hivm.hir.pointer_cast`` at the planned
offsets for each in-core buffer (several addresses for several slots, with ``hivm.multi_buffer``), and one round of the
flags between its pipes; tiles, loops and cores are attributes. It holds no computation: it is what a compiler that
takes plans would have to honour. Names are those of the operation definitions (HIVMAttrs.td, HIVMDMAOps.td,
HIVMSynchronizationOps.td, HFusionEnums.td); the text is checked for its syntax and was never compiled.
"""

from __future__ import annotations

from collections.abc import Iterator

from instances.graph import DType, Tensor
from instances.kernels import KernelKind
from instances.machine import MemoryName
from instances.pipes import Core
from instances.plan import Handover, Plan, PlannedBuffer, PlannedKernel

ADDRESS_SPACE = {
    MemoryName.HBM: "gm",
    MemoryName.L2: "gm",
    MemoryName.L1: "cbuf",
    MemoryName.L0A: "ca",
    MemoryName.L0B: "cb",
    MemoryName.L0C: "cc",
    MemoryName.UB: "ub",
}
"""``hivm.address_space`` of each memory."""

CORE_TYPE = {KernelKind.CUBE: "AIC", KernelKind.VECTOR: "AIV", KernelKind.MIX: "MIX"}
"""``hivm.func_core_type`` of each kind of kernel."""

ELEMENT = {
    DType.FLOAT32: "f32",
    DType.FLOAT16: "f16",
    DType.BFLOAT16: "bf16",
    DType.INT64: "i64",
    DType.INT32: "i32",
    DType.INT16: "i16",
    DType.INT8: "i8",
}


def mlir_text(plan: Plan) -> str:
    """The kernels of a plan that run on cores; collectives have no function."""
    lines = ['"builtin.module"() ({']
    for kernel in plan.kernels:
        if kernel.kind is not KernelKind.LINK:
            lines += _function(plan, kernel)
    attributes = {
        "tilewright.machine": _string(plan.machine.name),
        "tilewright.graph_fingerprint": _string(plan.graph.fingerprint),
        "tilewright.machine_fingerprint": _string(plan.machine.fingerprint),
    }
    lines.append(f"}}) {_dictionary(attributes)} : () -> ()")
    return "\n".join(lines) + "\n"


def _function(plan: Plan, kernel: PlannedKernel) -> Iterator[str]:
    """One kernel, indented."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    names = list(dict.fromkeys((*(i.tensor for i in kernel.inputs), *(o.tensor for o in kernel.outputs))))
    types = [_in_global_memory(tensors[name]) for name in names]
    symbol = _string(f"{kernel.id}_{kernel.kind.value}")
    yield f'  "func.func"() <{{sym_name = {symbol}, function_type = ({", ".join(types)}) -> ()}}> ({{'
    if types:
        yield f"  ^bb0({', '.join(f'%arg{i} : {text}' for i, text in enumerate(types))}):"
    number = 0
    for buffer in kernel.buffers:
        for line in _pointer(buffer, number):
            yield f"    {line}"
        number += buffer.slots
    for line in _flags(kernel):
        yield f"    {line}"
    yield '    "func.return"() : () -> ()'
    yield f"  }}) {_dictionary(_attributes(kernel, names))} : () -> ()"


def _in_global_memory(tensor: Tensor) -> str:
    shape = "x".join(str(extent) for extent in tensor.shape)
    return f"memref<{shape}x{ELEMENT[tensor.dtype]}, #hivm.address_space<gm>>"


def _pointer(buffer: PlannedBuffer, number: int) -> Iterator[str]:
    """A buffer as bytes at its addresses; ``number`` counts the addresses before it."""
    addresses = [f"%a{number + slot}" for slot in range(buffer.slots)]
    for slot, address in enumerate(addresses):
        offset = buffer.offset_bytes + slot * buffer.size_bytes
        yield f'{address} = "arith.constant"() <{{value = {offset} : i64}}> : () -> i64'
    kind = f"memref<{buffer.size_bytes}xi8, #hivm.address_space<{ADDRESS_SPACE[buffer.memory]}>>"
    name = f"%b{number}"
    inputs = ", ".join(["i64"] * buffer.slots)
    attributes = _dictionary({"tilewright.buffer": _string(buffer.name)})
    segments = f"<{{operandSegmentSizes = array<i32: {buffer.slots}, 0>}}>"
    yield f'{name} = "hivm.hir.pointer_cast"({", ".join(addresses)}) {segments} {attributes} : ({inputs}) -> {kind}'
    if buffer.slots > 1:
        yield f'"annotation.mark"({name}) {{hivm.multi_buffer = {buffer.slots} : i32}} : ({kind}) -> ()'


def _flags(kernel: PlannedKernel) -> Iterator[str]:
    """Places are free at first; one round of each hand-over; at the end what was freed last is waited for.

    So every flag that is set is waited for once, after it was set.
    """
    free = [one for one in kernel.handovers if one.means == "free"]
    rest = [one for one in kernel.handovers if one.means != "free"]
    for handover in free:
        yield from _set(handover)
    for handover in rest:
        back = [one for one in free if _gives_back(one, handover)]
        for one in back:
            yield from _wait(one)
        yield from _set(handover)
        yield from _wait(handover)
        for one in back:
            yield from _set(one)
    for handover in free:
        yield from _wait(handover)


def _gives_back(free: Handover, ready: Handover) -> bool:
    """Whether one hand-over returns the places of another."""
    same_pipes = (free.set_core, free.set_pipe) == (ready.wait_core, ready.wait_pipe)
    return same_pipes and (free.wait_pipe is ready.set_pipe) and set(free.buffers) <= set(ready.buffers)


def _set(handover: Handover) -> Iterator[str]:
    return _flag("set", handover)


def _wait(handover: Handover) -> Iterator[str]:
    return _flag("wait", handover)


def _flag(what: str, handover: Handover) -> Iterator[str]:
    set_pipe, wait_pipe = f"#hivm.pipe<PIPE_{handover.set_pipe.value}>", f"#hivm.pipe<PIPE_{handover.wait_pipe.value}>"
    for number in handover.ids:
        if handover.scope == "core":
            event = f"static_event_id = #hivm.event<EVENT_ID{number}>"
            properties = f"<{{set_pipe = {set_pipe}, wait_pipe = {wait_pipe}, {event}}}>"
            yield f'"hivm.hir.{what}_flag"() {properties} : () -> ()'
            continue
        if handover.scope == "all":  # one operation sets and waits
            if what == "set":
                mode = f"sync_block_mode = #hivm.sync_block_mode<ALL_VECTOR>, flag_id = {number} : i16"
                yield f'"hivm.hir.sync_block"() <{{{mode}, tvector_pipe = {set_pipe}}}> : () -> ()'
            continue
        core = handover.set_core if what == "set" else handover.wait_core
        parts = [
            f"tcore_type = #hivm.tcore_type<{'CUBE' if core is Core.AIC else 'VECTOR'}>",
            f"tpipe = {set_pipe}",
            f"pipe = {wait_pipe}",
            f"static_flag_id = {number} : i64",
        ]
        if what == "set":
            parts.append("operandSegmentSizes = array<i32: 0, 0>")
        yield f'"hivm.hir.sync_block_{what}"() <{{{", ".join(parts)}}}> : () -> ()'


def _attributes(kernel: PlannedKernel, names: list[str]) -> dict[str, str]:
    cores = kernel.cores
    found = {
        "hacc.entry": "unit",
        "hacc.function_kind": "#hacc.function_kind<DEVICE>",
        "hivm.func_core_type": f"#hivm.func_core_type<{CORE_TYPE[kernel.kind]}>",
        "tilewright.kernel": _string(kernel.id),
        "tilewright.operators": f"[{', '.join(map(_string, kernel.operators))}]",
        "tilewright.tensors": f"[{', '.join(map(_string, names))}]",
        "tilewright.tiles": f"[{', '.join(_tile_text(kernel))}]",
        "tilewright.loops": f"[{', '.join(_loop_text(kernel))}]",
        "tilewright.aic": _numbers(cores.aic_ids),
        "tilewright.aiv": _numbers(cores.aiv_ids),
        "tilewright.stream": f"{kernel.stream} : i64",
    }
    if kernel.fusion_kind is not None:
        found["hfusion.fusion_kind"] = f"#hfusion.fusion_kind<{kernel.fusion_kind.value}>"
    return found


def _tile_text(kernel: PlannedKernel) -> Iterator[str]:
    for tile in kernel.tiles:
        sizes = {"tile": tile.tile, **{memory.value: size for memory, size in tile.levels.items()}}
        numbers = {name: f"{size} : i64" for name, size in sizes.items()}
        yield _dictionary({"axis": _string(tile.axis), "role": _string(tile.role), **numbers})


def _loop_text(kernel: PlannedKernel) -> Iterator[str]:
    for loop in kernel.loops:
        numbers = {"count": f"{loop.count} : i64", "step": f"{loop.step} : i64"}
        yield _dictionary({"axis": _string(loop.axis), "over": _string(loop.over), **numbers})


def _numbers(values: tuple[int, ...]) -> str:
    return f"array<i64: {', '.join(map(str, values))}>" if values else "array<i64>"


def _dictionary(attributes: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name} = {value}" for name, value in attributes.items()) + "}"


def _string(text: str) -> str:
    """A string attribute: quotes, backslashes and what does not print as escaped bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:02X}" for byte in text.encode("utf-8"))
    return f'"{"".join(plain)}"'
