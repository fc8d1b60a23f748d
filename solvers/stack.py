"""What a stack runs today: the fused kernels that ship for Ascend, one after the other on one stream.

Merged projections, fused attention, norms with their residual and quantisation, rotary embedding of queries and keys,
cache appends and gated activations with their quantisation are one kernel each, wherever the graph has them; everything
else is a kernel of its own. No prefetch, no overlap of kernels; results stay in L2 while they fit.

Names and sources of the kernels: hicann/ops-transformer and hicann/ops-nn, and the compile passes of vllm-ascend.
"""

from __future__ import annotations

from collections import Counter

from formulations.facts import Facts
from formulations.plan import Decisions
from instances.graph import OpKind
from instances.instance import Instance
from instances.kernels import Candidate, Rule
from solvers.interface import Options, Result
from solvers.sequential import cover_in_turn, finish, keep_what_fits

ADD, NORM, ROPE, CACHE = OpKind.ELEMENTWISE, OpKind.NORM, OpKind.ROPE, OpKind.CACHE_WRITE
MATMUL, ACTIVATION = OpKind.MATMUL, OpKind.ACTIVATION
QUANTIZE, DEQUANTIZE = OpKind.QUANTIZE, OpKind.DEQUANTIZE

SHIPPED: dict[str, tuple[OpKind, ...]] = {
    "AddRmsNorm": (ADD, NORM),
    "AddRmsNormDynamicQuant": (ADD, NORM, QUANTIZE),
    "RmsNormQuant": (NORM, QUANTIZE),
    "SplitQkvRmsNormRope": (NORM, NORM, ROPE, ROPE),
    "ApplyRotaryPosEmb": (ROPE, ROPE),
    "ReshapeAndCache": (CACHE, CACHE),
    "KvRmsNormRopeCache": (NORM, ROPE, CACHE, CACHE),
    "SwigluQuant": (ACTIVATION, QUANTIZE),
    "DequantSwigluQuant": (DEQUANTIZE, ACTIVATION, QUANTIZE),
    "DequantSwigluQuant, merged": (DEQUANTIZE, DEQUANTIZE, ACTIVATION, QUANTIZE),
    "QuantBatchMatmul": (MATMUL, DEQUANTIZE),
    "MoeGatingTopKSoftmax": (OpKind.SOFTMAX, OpKind.TOPK),
}
"""Kernels that fuse several operators, by the kinds of these."""

_KINDS = {frozenset(Counter(kinds).items()) for kinds in SHIPPED.values()}


def solve_stack(instance: Instance, options: Options) -> Result:
    """The kernels that stacks ship, one after the other; results stay in L2 while they fit."""
    return finish(instance, options, "stack", stack_decisions(Facts(instance)))


def stack_decisions(facts: Facts) -> Decisions:
    """What a stack launches, in line."""
    return keep_what_fits(facts, stack_groups(facts))


def stack_groups(facts: Facts) -> list[int]:
    """Candidates that a stack would launch, larger ones first, covering every operator once."""
    candidates = facts.instance.candidates
    launched = [g for g, candidate in enumerate(candidates) if is_shipped(facts, candidate)]
    return cover_in_turn(facts, sorted(launched, key=lambda g: (-len(candidates[g].operators), g)))


def is_shipped(facts: Facts, candidate: Candidate) -> bool:
    """Whether a stack has a kernel for these operators: one alone, attention, merged projections, or a fused one."""
    operators = [facts.graph.operator[name] for name in candidate.operators]
    rule = facts.instance.templates[candidate.template].rule
    if len(operators) == 1 or rule is Rule.ATTENTION:
        return True
    if rule is Rule.SHARED_INPUT:  # weights side by side: as many axes each, results of one type (no router among them)
        weights = [facts.graph.tensor[operator.reads[1].tensor] for operator in operators]
        results = [facts.graph.tensor[operator.writes[0].tensor] for operator in operators]
        return len({len(weight.shape) for weight in weights}) == 1 == len({result.dtype for result in results})
    return frozenset(Counter(operator.kind for operator in operators).items()) in _KINDS
