"""From a chosen sequence of groups to the contest's steps, with the tile and the walk that the price stands for."""

from __future__ import annotations

from formulations.subgraphs.pricing import snake
from formulations.subgraphs.sequence import NOTHING, Chosen, Sequences
from instances.subgraphs import SubgraphSolution, SubgraphStep


def as_solution(sequences: Sequences, chosen: Chosen) -> SubgraphSolution:
    """The steps of a sequence."""
    p = sequences.problem
    rank = {op: i for i, op in enumerate(p.order)}
    steps = []
    resident = NOTHING
    for group, kept in zip(chosen.groups, chosen.retained, strict=True):
        price = sequences.price(group, resident, kept)
        assert price is not None  # it was priced when it was chosen
        w, h, _ = price.granularity
        width, height = p.shape(next(iter(sequences.sinks(group))))
        nx, ny = -(-width // w), -(-height // h)
        walk = snake(nx, ny, price.along_rows) if nx * ny > 1 else None
        steps.append(
            SubgraphStep(
                ops=tuple(sorted(group, key=rank.__getitem__)),
                granularity=price.granularity,
                retain=tuple(sorted(kept)),
                traversal=walk,
                latency=price.latency,
            )
        )
        resident = kept
    return SubgraphSolution(steps=tuple(steps))
