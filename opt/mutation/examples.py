"""Ten questions of different models, phases and chips, each answered by another solver, to be corrupted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from instances.generate import Phase
from instances.instance import Instance
from instances.schedule import Schedule
from opt import api


@dataclass(frozen=True)
class Example:
    """A question as ``tilewright generate`` takes it, and who answers."""

    model: str
    phase: Phase
    machine: str
    solver: str
    batch: int = 1
    tp: int = 1
    layers: int = 1


EXAMPLES = (
    Example("llama-3-8b", "decode", "ascend910b2", "portfolio", batch=8),
    Example("llama-3-70b", "decode", "ascend950pr", "anneal", batch=32, tp=8, layers=2),
    Example("llama-3-70b", "prefill", "ascend910b2", "stack", tp=8, layers=2),
    Example("qwen3-32b", "decode", "ascend910b2", "cpsat", tp=8, layers=2),
    Example("qwen3-30b-a3b", "decode", "ascend950pr", "dp", batch=4),
    Example("mixtral-8x7b", "prefill", "ascend950pr", "portfolio"),
    Example("deepseek-v2-lite", "decode", "ascend910b2", "anneal", batch=4, layers=2),
    Example("bert-base", "prefill", "ascend310p3", "greedy", layers=2),
    Example("vit-b-16", "prefill", "ascend910b2", "unfused"),
    Example("gpt2", "decode", "ascend950pr", "lns", batch=2, layers=2),
)


def example_schedules(seconds: float, seed: int) -> Iterator[tuple[Instance, Schedule]]:
    """The questions with their answers, each found in up to so many seconds."""
    for example in EXAMPLES:
        decoding = example.phase == "decode"
        prompt = None if decoding or example.model in ("bert-base", "vit-b-16") else 512
        instance = api.generate(
            example.model,
            phase=example.phase,
            batch=example.batch,
            tokens=prompt,
            context=1024 if decoding else None,
            layers=example.layers,
            tp=example.tp,
            dtype="float16" if example.machine == "ascend310p3" else "bfloat16",
            machine=example.machine,
            ends=False,
        )
        yield instance, api.solve(instance, seconds, example.solver, seed=seed).schedule
