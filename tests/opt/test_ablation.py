"""What constraint families are worth, through the library and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import opt
from formulations.joint import FAMILIES, REDUNDANT
from instances.errors import InputError
from tests.opt.test_cli import fails, tilewright


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ablation") / "layer.json"
    instance = opt.generate("bert-base", phase="prefill", tokens=128, layers=1, max_group=2)
    opt.save(instance, path)
    return path


def test_leaving_a_family_out_never_raises_the_bound_above_the_optimum(layer: Path) -> None:
    """A redundant family changes nothing of the optimum; without one that decides, it is no higher."""
    instance = opt.load_instance(layer)
    runs = opt.ablate(instance, ["hbm_channel", "addresses", "energy"], time_limit=20, gap=0.02)
    whole, *others = runs
    assert [run.family for run in runs] == ["", "hbm_channel", "addresses", "energy"]
    assert all(run.bound_ns <= run.objective_ns for run in runs)
    assert all(run.bound_ns <= whole.objective_ns for run in others)
    assert [run.decides for run in others] == [run.family not in REDUNDANT for run in others]


def test_the_command(layer: Path) -> None:
    out = tilewright("ablate", layer, "--families", "energy", "--time-limit", "2")
    assert out.code == 0
    assert "all families" in out.out
    assert "energy" in out.out
    assert "'magic' is unknown; choose from " + ", ".join(FAMILIES) in fails(2, "ablate", layer, "--families", "magic")
    with pytest.raises(InputError, match="'magic' is unknown"):
        opt.ablate(opt.load_instance(layer), ["magic"])
