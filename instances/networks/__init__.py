"""Networks as replacement problems, generated from their published definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from instances.errors import InputError
from instances.networks import cells, convolutional, transformers
from instances.replacement import Problem

NETWORKS: Mapping[str, Callable[[int], Problem]] = {
    "transformer-block": transformers.transformer_block,
    "inception-modules": convolutional.inception_modules,
    "densenet-block": convolutional.densenet_block,
    "nasnet-cell": cells.nasnet_cell,
    "randwire-1": lambda batch: cells.randwire_cell(batch, 1),
    "randwire-2": lambda batch: cells.randwire_cell(batch, 2),
    "randwire-3": lambda batch: cells.randwire_cell(batch, 3),
    "randwire-4": lambda batch: cells.randwire_cell(batch, 4),
    "mobilenet-v2": convolutional.mobilenet_v2,
    "resnet-50": convolutional.resnet50,
    "efficientnet-b0": convolutional.efficientnet_b0,
    "inception-v3": convolutional.inception_v3,
    "bert-base": transformers.bert_base,
    "gpt2": transformers.gpt2,
    "densenet-121": convolutional.densenet121,
    "randwire-9-stages": cells.randwire,
    "nasnet-mobile": cells.nasnet_mobile,
}
"""By name: a function of the batch."""


def load_network(name: str, batch: int = 1) -> Problem:
    """A network for a batch, with the smallest scratchpad that runs it; :class:`InputError` for another name."""
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown; choose from {', '.join(NETWORKS)}")
    if not 1 <= batch <= 4096:
        raise InputError(f"batch {batch} is not in 1 to 4096; give another")
    return NETWORKS[name](batch)
