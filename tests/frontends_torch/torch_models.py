"""Models that several modules export: Hugging Face's classes at toy or real size, without weights unless asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import Cache, DynamicLayer

from instances.graph import Graph, OpKind

SCORES = (OpKind.ATTENTION_SCORES, OpKind.ATTENTION_VALUES)


@dataclass(frozen=True)
class Model:
    """A model to be built: its class, its configuration, and its inputs as name -> shape of token ids."""

    cls: str
    config: str
    sizes: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, ...]]

    def build(self) -> nn.Module:
        """The model, in inference mode, on the device that is current."""
        config = getattr(transformers, self.config)(**self.sizes)
        built: nn.Module = getattr(transformers, self.cls)(config).eval()
        return built

    def ids(self) -> dict[str, Any]:
        """Token ids on the device that is current."""
        given: dict[str, Any] = {key: torch.zeros(shape, dtype=torch.long) for key, shape in self.inputs.items()}
        if self.cls != "BertModel":
            given["use_cache"] = False
        return given


LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}

MODELS = {
    "llama": Model("LlamaForCausalLM", "LlamaConfig", LLAMA, {"input_ids": (1, 32)}),
    "gpt2": Model(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64},
        {"input_ids": (1, 32)},
    ),
    "qwen3_moe": Model(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            **LLAMA,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "experts_implementation": "grouped_mm",
        },
        {"input_ids": (1, 32)},
    ),
    "bert": Model(
        "BertModel",
        "BertConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "vocab_size": 100,
            "max_position_embeddings": 64,
        },
        {"input_ids": (1, 32)},
    ),
    "t5": Model(
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100},
        {"input_ids": (1, 32), "decoder_input_ids": (1, 16)},
    ),
}


def exported(module: nn.Module, given: Mapping[str, Any], strict: bool = False) -> torch.export.ExportedProgram:
    """The exported program."""
    with torch.no_grad():
        return torch.export.export(module, (), dict(given), strict=strict)


def on_meta(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model and its inputs without data."""
    with torch.device("meta"):
        return MODELS[name].build(), MODELS[name].ids()


def flops(run: Callable[[], Any]) -> int:
    """Floating-point operations as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    total: int = counter.get_total_flops()
    return total


def full_macs(graph: Graph) -> int:
    """Multiply-accumulates of a graph, attention on the full square."""
    return sum(round(op.macs / op.density) if op.kind in SCORES else op.macs for op in graph.operators)


class Kept(DynamicLayer):
    """A cache layer that starts from tensors that were given."""

    def lazy_initialization(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True


class Decoder(nn.Module):
    """A model of which the cache is plain arguments, and plain results."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, past: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        layers = []
        for keys, values in past:
            layer = Kept()
            layer.keys, layer.values = keys, values
            layer.lazy_initialization(keys, values)
            layers.append(layer)
        cache = Cache(layers=layers)
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return out.logits, [(layer.keys, layer.values) for layer in cache.layers]
