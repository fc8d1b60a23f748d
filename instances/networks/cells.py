"""Cells that were searched for or drawn at random, and networks of them.

NASNet-A: Zoph et al., arXiv 1707.07012, figure 4. RandWire: Xie et al., arXiv 1904.01569; stages are Watts-Strogatz
graphs WS(32, 4, 0.75), directed from lower to higher number, each node the weighted sum of its inputs and a separable
convolution.
"""

from __future__ import annotations

import random

from instances.networks.net import Map, Net
from instances.replacement import Problem

NODES, NEIGHBOURS, REWIRED = 32, 4, 0.75


def nasnet_cell(batch: int) -> Problem:
    """One normal cell of NASNet-A at 28 by 28 with 44 channels per branch."""
    net = Net("nasnet-cell", batch)
    return net.problem(_normal(net, net.source(264, 28, "now"), net.source(264, 28, "before"), 44))


def nasnet_mobile(batch: int) -> Problem:
    """NASNet-A (4 @ 1056): three stages of four normal cells, two reduction cells between and two ahead of them."""
    net = Net("nasnet-mobile", batch)
    before = net.valid_conv(net.source(3, 224), 32, 3, 2)
    now = _reduction(net, before, before, 11)
    before, now = now, _reduction(net, now, before, 22)
    for width in (44, 88, 176):
        if width > 44:
            before, now = now, _reduction(net, now, before, width)
        for _ in range(4):
            before, now = now, _normal(net, now, before, width)
    return net.problem(net.dense(net.mean(now), 1000))


def randwire_cell(batch: int, seed: int = 1) -> Problem:
    """One random stage at 14 by 14 with 78 channels."""
    net = Net(f"randwire-{seed}", batch)
    return net.problem(_random_stage(net, net.source(78, 14), 78, 1, seed))


def randwire(batch: int, stages: int = 9) -> Problem:
    """Random stages one after the other, of 34 operators each; every third halves the side and doubles the width."""
    net = Net(f"randwire-{stages}-stages", batch)
    x, channels = net.source(39, 56), 39
    for stage in range(stages):
        narrower = stage % 3 == 0
        channels *= 2 if narrower else 1
        x = _random_stage(net, x, channels, 2 if narrower else 1, stage)
    return net.problem(x)


def _double_separable(net: Net, x: Map, channels: int, kernel: int, stride: int = 1) -> Map:
    return net.separable(net.separable(x, channels, kernel, stride), channels, kernel)


def _fit(net: Net, x: Map, channels: int, side: int) -> Map:
    """Bring the earlier of the two inputs to the width and side of the later."""
    return net.conv(x, channels, 1, -(-x.side // side))


def _normal(net: Net, now: Map, before: Map, channels: int) -> Map:
    h, p = net.conv(now, channels), _fit(net, before, channels, now.side)
    sums = (
        net.add(_double_separable(net, h, channels, 3), h),
        net.add(_double_separable(net, p, channels, 3), _double_separable(net, h, channels, 5)),
        net.add(net.pool(h, 1), p),
        net.add(net.pool(p, 1), net.pool(p, 1)),
        net.add(_double_separable(net, p, channels, 5), _double_separable(net, p, channels, 3)),
    )
    return net.concat(p, *sums)


def _reduction(net: Net, now: Map, before: Map, channels: int) -> Map:
    h, p = net.conv(now, channels), _fit(net, before, channels, now.side)
    one = net.add(_double_separable(net, h, channels, 5, 2), _double_separable(net, p, channels, 7, 2))
    two = net.add(net.pool(h), _double_separable(net, p, channels, 7, 2))
    three = net.add(net.pool(h), _double_separable(net, p, channels, 5, 2))
    four = net.add(net.pool(one, 1), two)
    five = net.add(_double_separable(net, one, channels, 3), net.pool(h))
    return net.concat(two, three, four, five)


def _random_stage(net: Net, x: Map, channels: int, stride: int, seed: int) -> Map:
    """A first operator that narrows, a node for each vertex, a mean of what nobody reads."""
    edges = small_world(NODES, NEIGHBOURS, REWIRED, random.Random(seed))
    start = net.conv(x, channels, 3, stride)
    values: list[Map] = []
    read: set[int] = set()
    for node in range(NODES):
        sources = sorted(low for low, high in edges if high == node)
        read.update(sources)
        inputs = [values[source] for source in sources] or [start]
        weight = net.weight(inputs[0].channels * (9 + channels))
        values.append(net.operator("node", [*(one.name for one in inputs), weight], channels, start.side))
    return net.add(*(values[node] for node in range(NODES) if node not in read))


def small_world(count: int, neighbours: int, rewired: float, draw: random.Random) -> set[tuple[int, int]]:
    """Edges (lower, higher) of a Watts-Strogatz graph: a ring, each edge's far end moved with that probability."""
    edges = set()
    for node in range(count):
        for step in range(1, neighbours // 2 + 1):
            edges.add(tuple(sorted((node, (node + step) % count))))
    for step in range(1, neighbours // 2 + 1):
        for node in range(count):
            old = tuple(sorted((node, (node + step) % count)))
            if old not in edges or draw.random() >= rewired:
                continue
            free = [other for other in range(count) if other != node and tuple(sorted((node, other))) not in edges]
            if free:
                edges.remove(old)
                edges.add(tuple(sorted((node, draw.choice(free)))))
    return {(low, high) for low, high in edges}
