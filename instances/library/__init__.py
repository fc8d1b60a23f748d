"""The kernels that stacks ship, by the names that profilers print: from operand shapes to a priced call.

Each is a function from a :class:`Request` to a :class:`Call`: the kernel's operators as a graph of the same kind
that models are made of, so that one cost model prices both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from instances.library import attention, matmuls, vectors
from instances.library.request import DTYPES, Call, Request, Shape, Unmodelled, parse_attributes
from instances.machine import Machine

__all__ = ["DTYPES", "KERNELS", "Call", "Request", "Shape", "Unmodelled", "build_call", "parse_attributes"]

KERNELS: Mapping[str, Callable[[Request, Machine], Call]] = {
    "matmul": matmuls.matmul,
    "batch_matmul": matmuls.matmul,
    "quant_matmul": matmuls.quant_matmul,
    "weight_quant_batch_matmul": matmuls.weight_quant_batch_matmul,
    "grouped_matmul": matmuls.grouped_matmul,
    "grouped_matmul_swiglu_quant": matmuls.grouped_matmul_swiglu_quant,
    "mla_prolog": matmuls.mla_prolog,
    "flash_attention": attention.attention,
    "mha": attention.attention,
    "gqa": attention.attention,
    "mla": attention.mla,
    "rms_norm": vectors.rms_norm,
    "layer_norm": vectors.layer_norm,
    "add_rms_norm": vectors.add_rms_norm,
    "add_rms_norm_dynamic_quant": vectors.add_rms_norm_dynamic_quant,
    "dynamic_quant": vectors.dynamic_quant,
    "softmax": vectors.softmax,
    "swi_glu": vectors.swi_glu,
    "dequant_swiglu_quant": vectors.dequant_swiglu_quant,
    "apply_rotary_pos_emb": vectors.apply_rotary_pos_emb,
    "maximum": vectors.elementwise,
    "add": vectors.elementwise,
    "mul": vectors.elementwise,
    "transpose": vectors.transpose,
    "copy": vectors.copy,
}
"""Kernels by name."""


def build_call(request: Request, machine: Machine) -> Call:
    """The call of a request; :class:`Unmodelled` with the reason where there is none."""
    if request.op not in KERNELS:
        raise Unmodelled("no model of this op")
    if not request.shapes or not request.shapes[0] or any(extent < 1 for shape in request.shapes for extent in shape):
        raise Unmodelled("shapes are empty or not positive")
    return KERNELS[request.op](request, machine)
