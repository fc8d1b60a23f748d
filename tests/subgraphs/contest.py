"""Problems of the contest's kind for tests: the statement's examples, and graphs drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

from instances.subgraphs import SubgraphProblem, SubgraphSolution, SubgraphStep

Row = tuple[tuple[int, ...], tuple[int, int, int], tuple[int, ...], tuple[int, ...] | None]

FULL = (128, 128, 1)


def problem(
    sizes: Sequence[tuple[int, int]],
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[int],
    costs: Sequence[float],
    kinds: str,
    capacity: int,
    bandwidth: float = 10,
) -> SubgraphProblem:
    """A problem; ``kinds`` has a letter per operator, M or P; sizes are width, height."""
    return SubgraphProblem.model_validate(
        {
            "widths": [w for w, _ in sizes],
            "heights": [h for _, h in sizes],
            "inputs": inputs,
            "outputs": [[t] for t in outputs],
            "base_costs": costs,
            "op_types": [{"M": "MatMul", "P": "Pointwise"}[kind] for kind in kinds],
            "fast_memory_capacity": capacity,
            "slow_memory_bandwidth": bandwidth,
            "native_granularity": (128, 128),
        }
    )


def steps(*rows: Row) -> SubgraphSolution:
    """A solution from operators, granularity, retained tensors and traversal of each step."""
    return SubgraphSolution(
        steps=tuple(
            SubgraphStep(ops=ops, granularity=tile, retain=kept, traversal=order) for ops, tile, kept, order in rows
        )
    )


SQUARE = (128, 128)

TWO = problem([SQUARE] * 3, [[0], [1]], [1, 2], [1000, 100], "PP", 35000)
TWO_LARGE = problem([(256, 256)] * 3, [[0], [1]], [1, 2], [1000, 100], "PP", 35000)
DIAMOND = problem([SQUARE] * 4, [[0], [1], [1, 2]], [1, 2, 3], [1500] * 3, "PPP", 50000)
PRODUCT = problem([SQUARE] * 3, [[0, 1]], [2], [1500], "M", 25000)
CHAINED = problem([SQUARE] * 5, [[0, 1], [3, 2]], [3, 4], [2000, 2000], "MM", 45000)


def random_problem(seed: int, operators: int, width: int, most: int = 512) -> SubgraphProblem:
    """A graph of products and elementwise operators, about ``width`` of them side by side."""
    draw = random.Random(seed)
    extents = [64, 96, 128, 200, 256, most]
    sizes: list[tuple[int, int]] = []
    inputs: list[list[int]] = []
    outputs: list[int] = []
    kinds = ""

    def tensor(w: int, h: int) -> int:
        sizes.append((w, h))
        return len(sizes) - 1

    heads = [tensor(draw.choice(extents), draw.choice(extents)) for _ in range(max(1, width))]
    shared = {h: tensor(draw.choice(extents), sizes[h][0]) for h in heads}
    for number in range(operators):
        lane = number % len(heads)
        last = heads[lane]
        w, h = sizes[last]
        same = [t for t in heads if sizes[t] == (w, h) and t != last]
        if draw.random() < 0.45:
            right = shared.get(last) if draw.random() < 0.5 else None
            if right is None:
                right = tensor(draw.choice(extents), w)
            inputs.append([last, right])
            kinds += "M"
            out = tensor(sizes[right][0], h)
        else:
            inputs.append([last, draw.choice(same)] if same and draw.random() < 0.4 else [last])
            kinds += "P"
            out = tensor(w, h)
        outputs.append(out)
        heads[lane] = out
    costs = [draw.choice([100, 500, 1000, 2000, 5000]) for _ in range(operators)]
    return problem(sizes, inputs, outputs, costs, kinds, draw.choice([30000, 60000, 120000]), draw.choice([10, 20, 50]))
