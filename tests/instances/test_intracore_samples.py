"""Generated tile tasks: counts, and the published ones up to numbering."""

import os
from collections import Counter
from pathlib import Path

import pytest

from instances.intracore import TileTask
from instances.intracore_files import read_tile_task
from instances.intracore_samples import convolutions, flash_attention, matmul, random_task

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = Path(os.environ.get("HUAWEICUP_DATA", SHARED / "huaweicup2025a"))


def coloured(task: TileTask) -> Counter[int]:
    """Colours of all nodes after refinement by neighbours (Weisfeiler and Leman): equal for isomorphic tasks."""
    colours: dict[int, int] = {}
    for op in task.operations:
        used = tuple(hash((task.buffer[b].place.value, task.buffer[b].size)) for b in op.buffers)
        colours[op.id] = hash((op.name, op.pipe.value, op.cycles, used))
    for one in task.buffers:
        colours[one.alloc] = hash(("ALLOC", one.place.value, one.size))
        colours[one.free] = hash(("FREE", one.place.value, one.size))
    after: dict[int, list[int]] = {node: [] for node in colours}
    before: dict[int, list[int]] = {node: [] for node in colours}
    for one, other in task.edges:
        after[one].append(other)
        before[other].append(one)
    classes = 0
    while len(set(colours.values())) > classes:
        classes = len(set(colours.values()))
        seen = {node: [tuple(sorted(colours[o] for o in ways[node])) for ways in (after, before)] for node in colours}
        colours = {node: hash((colour, *seen[node])) for node, colour in colours.items()}
    return Counter(colours.values())


@pytest.mark.parametrize(
    ("name", "task"), [("Matmul_Case0", matmul(8, 8, 8)), ("FlashAttention_Case0", flash_attention(4, 4))]
)
def test_smallest_published(name: str, task: TileTask) -> None:
    path = PUBLISHED / f"{name}.json"
    if not path.exists():
        pytest.skip("the contest's files are not here")
    published = read_tile_task(path)
    assert (task.count, len(task.edges)) == (published.count, len(published.edges))
    assert coloured(task) == coloured(published)


def test_counts_of_larger_ones() -> None:
    assert matmul(16, 16, 16).count == 30_976
    task = flash_attention(8, 8)
    assert 6_000 < task.count < 8_000


@pytest.mark.parametrize("task", [matmul(2, 3, 2), flash_attention(2, 1), convolutions(2, 2), random_task(3)])
def test_users_are_what_waits(task: TileTask) -> None:
    assert task.spans == {buffer: frozenset(users) for buffer, users in task.users.items()}
    assert len(task.order) == len(task.operations)


def test_random_is_repeatable() -> None:
    assert random_task(5) == random_task(5) != random_task(6)
