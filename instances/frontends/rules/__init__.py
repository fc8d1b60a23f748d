"""Rules that put one step in the place of several: each small, named, and tested on its own.

They are tried in this order; each looks at the steps alone, so that the same rules serve all doors.
"""

from __future__ import annotations

from collections.abc import Callable

from instances.frontends.program import Program, well_formed
from instances.frontends.rules.activations import erf_gelu, gate, sigmoid_silu, tanh_gelu
from instances.frontends.rules.attention import attention_ops, spelled_attention, split_heads
from instances.frontends.rules.biases import added_bias
from instances.frontends.rules.caches import append, known_positions, write_cache_rows
from instances.frontends.rules.experts import balanced_experts, router
from instances.frontends.rules.norms import norm_by_module, norm_ops, spelled_norm
from instances.frontends.rules.rotary import complex_rotary, interleaved_rotary, rotary_ops, rotated_halves

Rule = Callable[[Program], int]

RULES: dict[str, Rule] = {
    "added_bias": added_bias,
    "norm_ops": norm_ops,
    "spelled_norm": spelled_norm,
    "norm_by_module": norm_by_module,
    "rotary_ops": rotary_ops,
    "rotated_halves": rotated_halves,
    "interleaved_rotary": interleaved_rotary,
    "complex_rotary": complex_rotary,
    "sigmoid_silu": sigmoid_silu,
    "tanh_gelu": tanh_gelu,
    "erf_gelu": erf_gelu,
    "gate": gate,
    "append": append,
    "known_positions": known_positions,
    "attention_ops": attention_ops,
    "spelled_attention": spelled_attention,
    "split_heads": split_heads,
    "balanced_experts": balanced_experts,
    "router": router,
    "write_cache_rows": write_cache_rows,
}
"""Name -> rule; each returns how often it applied."""


def normalise(program: Program) -> dict[str, int]:
    """Apply all rules; how often each did."""
    applied = {}
    for name, rule in RULES.items():
        with well_formed(f"graph {program.name}: what the rule {name} looks at"):
            applied[name] = rule(program)
        program.sweep()
    return {name: count for name, count in applied.items() if count}
