"""Networks by their definitions: operators, parameters, sizes."""

from __future__ import annotations

import random

import pytest

from instances.errors import InputError
from instances.networks import NETWORKS, load_network
from instances.networks.cells import small_world
from instances.networks.net import rounded
from instances.replacement import Part, Problem

# parameters in millions: torchvision's tables (which also count norms and biases), the NASNet paper's table 2
PUBLISHED = {
    "resnet-50": (72, 25.6),
    "mobilenet-v2": (64, 3.5),
    "densenet-121": (184, 8.0),
    "efficientnet-b0": (124, 5.3),
    "inception-v3": (124, 23.8),
    "bert-base": (168, 85.0),
    "gpt2": (169, 85.0),
    "nasnet-mobile": (503, 5.3),
}


def weights(problem: Problem) -> int:
    return sum(tensor.size_bytes for tensor in problem.tensors if tensor.part is Part.WEIGHT)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name: str) -> None:
    """Weights of convolutions and products are the published totals but for norms and biases."""
    operators, millions = PUBLISHED[name]
    problem = load_network(name)
    assert len(problem.operators) == operators
    assert 0.97 * millions < weights(problem) / 2e6 < 1.005 * millions


@pytest.mark.parametrize("name", NETWORKS)
def test_batches(name: str) -> None:
    """Eight items: eight times the maps, the same weights; the scratchpad is the least that runs it."""
    one, eight = load_network(name, 1), load_network(name, 8)
    assert weights(one) == weights(eight)
    for first, second in zip(one.tensors, eight.tensors, strict=True):
        if first.part is not Part.WEIGHT:
            assert second.size_bytes == 8 * first.size_bytes
    assert one.capacity_bytes == one.least_bytes
    assert {tensor.part for tensor in one.tensors} == set(Part)


def test_small_worlds_have_their_edges() -> None:
    """32 nodes, 4 neighbours: 64 edges before and after rewiring, none twice, none to itself; another seed, others."""
    edges = small_world(32, 4, 0.75, random.Random(1))
    assert len(edges) == 64
    assert all(low < high for low, high in edges)
    assert edges != small_world(32, 4, 0.75, random.Random(2))
    assert small_world(32, 4, 0.0, random.Random(1)) == small_world(32, 4, 0.0, random.Random(2))


def test_channels_are_rounded() -> None:
    assert [rounded(value) for value in (3, 12, 20, 27, 100)] == [8, 16, 24, 32, 104]


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="network 'vgg' is unknown"):
        load_network("vgg")
    with pytest.raises(InputError, match="batch 0 is not in 1 to 4096"):
        load_network("resnet-50", 0)
