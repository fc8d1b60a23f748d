"""Compile a small transformer with tilewright as the backend, and look at the plan that came with it.

The model runs as it always did, and gives the same results: planning only looks. The second compilation of the same
graph takes its plan from the cache.

    pip install tilewright[torch] transformers
    python examples/compile_transformer.py
"""

from __future__ import annotations

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from opt.embedding import Planned


def small_model() -> LlamaForCausalLM:
    """Two layers with grouped-query attention, random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=2,
        vocab_size=4096,
    )
    return LlamaForCausalLM(config).eval()


def describe(planned: Planned) -> None:
    """The plan, kernel by kernel, and what moves ahead of time."""
    plan, verdict = planned.plan, planned.plan.verdict
    print(f"machine   {plan.machine.name}")
    print(
        f"latency   {verdict.latency_ns} ns, bound {verdict.bound_ns} ns by {verdict.bound_by}, gap {verdict.gap:.2%}"
    )
    print(f"from      {'the cache' if planned.cached else 'a search'}, {planned.runtime_s * 1000:.0f} ms")
    print(f"nodes     {len(planned.nodes)} of the graph are computed by {len(plan.kernels)} kernels:")
    for kernel in plan.kernels:
        cores = f"{len(kernel.cores.aic_ids)} AIC, {len(kernel.cores.aiv_ids)} AIV"
        print(f"  {kernel.times.start_ns:>8} ns  {kernel.kind:<6} {cores:<16} {' + '.join(kernel.operators)}")
    for move in plan.moves:
        print(f"  {move.start_ns:>8} ns  {move.kind} of {move.tensor}")


def main() -> None:
    """Compile twice, compare with eager, print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="time budget of the plan")
    parser.add_argument("--machine", default="ascend910b2")
    given = parser.parse_args()
    model = small_model()
    ids = torch.randint(0, 4096, (1, 128))
    plans: list[Planned] = []
    options = {"time_limit": given.seconds, "machine": given.machine, "on_plan": plans.append}
    with torch.no_grad():
        eager = model(input_ids=ids, use_cache=False).logits
        for _ in range(2):
            torch.compiler.reset()
            compiled = torch.compile(model, backend="tilewright", options=options)
            logits = compiled(input_ids=ids, use_cache=False).logits
            print(f"same results as eager: {torch.equal(eager, logits)}")
    describe(plans[0])
    print(f"compiled again: plan from {'the cache' if plans[1].cached else 'a search'}")


if __name__ == "__main__":
    main()
