"""Transformer encoders and decoders at the granularity of whole tensors.

BERT-base: Devlin et al., arXiv 1810.04805; 12 blocks, 768 wide, 12 heads, 512 tokens. GPT-2: Radford et al. 2019; the
same sizes, 1024 tokens, norms before attention and network.
"""

from __future__ import annotations

from instances.networks.net import Map, Net
from instances.replacement import Problem

WIDTH, HEADS, BLOCKS = 768, 12, 12


def bert_base(batch: int, blocks: int = BLOCKS, tokens: int = 512) -> Problem:
    """Norms after the sums."""
    net = Net("bert-base" if blocks > 1 else "transformer-block", batch * tokens)
    x = net.source(WIDTH, 1, "embedded")
    for _ in range(blocks):
        x = _norm(net, net.add(_attention(net, x, tokens), x))
        x = _norm(net, net.add(_network(net, x), x))
    return net.problem(x)


def gpt2(batch: int, tokens: int = 1024) -> Problem:
    """Norms before attention and network."""
    net = Net("gpt2", batch * tokens)
    x = net.source(WIDTH, 1, "embedded")
    for _ in range(BLOCKS):
        x = net.add(_attention(net, _norm(net, x), tokens), x)
        x = net.add(_network(net, _norm(net, x)), x)
    return net.problem(_norm(net, x))


def transformer_block(batch: int) -> Problem:
    """One block of BERT-base."""
    return bert_base(batch, blocks=1)


def _norm(net: Net, x: Map) -> Map:
    return net.combine("norm", [x], x.elements)


def _attention(net: Net, x: Map, tokens: int) -> Map:
    query, key, value = (net.dense(x, WIDTH) for _ in range(3))
    scores = net.combine("scores", [query, key], HEADS * tokens, WIDTH * tokens)
    weights = net.combine("softmax", [scores], HEADS * tokens)
    return net.dense(net.combine("values", [weights, value], WIDTH, WIDTH * tokens), WIDTH)


def _network(net: Net, x: Map) -> Map:
    inner = net.dense(x, 4 * WIDTH)
    return net.dense(net.combine("gelu", [inner], 4 * WIDTH), WIDTH)
