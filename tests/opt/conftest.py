"""One small instance and its schedules, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import opt
from instances.instance import Instance
from solvers.interface import Result


@pytest.fixture(scope="session")
def instance() -> Instance:
    return opt.generate("gpt2", phase="decode", context=128, layers=1)


@pytest.fixture(scope="session")
def greedy(instance: Instance) -> Result:
    return opt.solve(instance, 5, "greedy")


@pytest.fixture(scope="session")
def best(instance: Instance) -> Result:
    return opt.solve(instance, 4, workers=1)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, instance: Instance, greedy: Result) -> Path:
    """A folder with ``layer.json`` and ``schedule.json``; tests that change them copy them first."""
    folder = tmp_path_factory.mktemp("files")
    opt.save(instance, folder / "layer.json")
    opt.save(greedy.schedule, folder / "schedule.json")
    return folder
