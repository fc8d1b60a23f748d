"""A whole decode step against a published one: the sum of the kernels that the stack launches.

Published (docs/perf_database/reports of Horacehxw/msModeling, vllm-ascend 0.15 on CANN 8.5, graph capture): Qwen3-32B
over 16 dies of 910C, batch 16, about 4800 positions of context. Kernels of one layer take 164 us, those of the step
11.4 ms; communication is counted apart, and less than 1 % of it overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from instances.build import build_instance
from instances.catalogue import load_model
from instances.generate import build_graph
from instances.kernels import KernelKind
from instances.machine import Machine

MODEL, TP, BATCH, CONTEXT, CHIP = "qwen3-32b", 16, 16, 4800, "ascend910c_die"
MEASURED_LAYER_US = 164.0
MEASURED_STEP_US = 11_400.0


@dataclass(frozen=True)
class StepCheck:
    """Predicted kernel time of the published step (us), communication apart.

    ``kernels`` of a layer in the middle of the model, by their operators.
    """

    kernels: Mapping[str, float]
    step_us: float

    @property
    def layer_us(self) -> float:
        """Sum over the kernels of a layer."""
        return sum(self.kernels.values())


def check_step(machine: Machine) -> StepCheck:
    """Price the published decode step on a machine."""
    two = _kernels(machine, layers=2)
    # a layer begins where the attention of the first ends: its kernels up to the same place in the second
    names = [name for name, _ in two]
    start, end = (next(i for i, name in enumerate(names) if f"l{n}.attn_values" in name) for n in (0, 1))
    steady = dict(two[start + 1 : end + 1])
    return StepCheck(steady, sum(us for _, us in _kernels(machine, layers=None)))


def _kernels(machine: Machine, layers: int | None) -> list[tuple[str, float]]:
    """Kernels in order of start with their times, collectives left out; ``None``: the whole model with its ends."""
    from formulations.facts import Facts  # with OR-Tools behind them: no command but this one's page needs it
    from formulations.plan import time_decisions
    from solvers.sequential import keep_what_fits
    from solvers.stack import stack_groups

    graph = build_graph(load_model(MODEL), "decode", BATCH, 1, CONTEXT, layers, TP)
    instance = build_instance(graph, machine)
    facts = Facts(instance)
    decisions = keep_what_fits(facts, stack_groups(facts))
    timing = time_decisions(facts, decisions)
    found = []
    for kernel, end in zip(decisions.kernels, timing.end, strict=True):
        candidate = instance.candidates[kernel.candidate]
        if instance.templates[candidate.template].kind is not KernelKind.LINK:
            found.append(("+".join(candidate.operators), (end - kernel.start_ns) / 1000))
    return found
