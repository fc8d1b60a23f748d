"""Exact prices on the command line: instances, plans, pipelines and the comparison with the simulation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import opt
from instances.instance import Instance, Pricing
from instances.schedule import Schedule
from opt import pipeline_benchmark
from opt.exact_prices import pipeline_cache
from opt.pipelines import as_data, op_cells, pipeline_lines
from opt.simulation import simulate
from opt.what_if import QUESTIONS, keep_plan, plan_on
from tests.opt.test_cli import DECODE, fails, tilewright


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of this module."""
    patch, place = pytest.MonkeyPatch(), tmp_path_factory.mktemp("cache")
    patch.setenv("TILEWRIGHT_CACHE", str(place))
    yield place
    patch.undo()


@pytest.fixture(scope="module")
def exact_file(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = tmp_path_factory.mktemp("exact") / "exact.json"
    made = tilewright(*DECODE, "--price", "exact", "-o", path)
    assert made.code == 0, made.err
    assert "prices     exact for" in made.err and "loops scheduled" in made.err and "changed" in made.err
    assert list((folder / "pipelines").iterdir())
    return path


@pytest.fixture(scope="module")
def exact(exact_file: Path) -> Instance:
    return opt.load_instance(exact_file)


def test_without_the_option_nothing_changes(tmp_path: Path, exact: Instance) -> None:
    assert tilewright(*DECODE, "-o", tmp_path / "plain.json").code == 0
    assert tilewright(*DECODE, "--price", "estimate", "-o", tmp_path / "same.json").code == 0
    text = (tmp_path / "plain.json").read_text(encoding="utf-8")
    assert text == (tmp_path / "same.json").read_text(encoding="utf-8")
    assert "pipeline" not in text and "price" not in json.loads(text)
    plain = opt.load_instance(tmp_path / "plain.json")
    assert plain.fingerprint != exact.fingerprint
    assert opt.exact(plain) == exact  # from the library, out of the cache
    assert opt.exact(exact) is exact


def test_solve_and_validate(exact_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "schedule.json"
    solved = tilewright("solve", exact_file, "--solver", "dp", "--workers", "1", "-o", out, "--json")
    assert solved.code == 0, solved.err
    answer = json.loads(solved.out)
    assert 0 < answer["bound"] <= answer["objective"]
    checked = tilewright("validate", exact_file, out, "--json")
    assert checked.code == 0 and json.loads(checked.out)["objective"] == answer["objective"], checked
    assert tilewright("simulate", exact_file, out).code == 0
    assert tilewright("plan", exact_file, out, "-o", tmp_path / "plan.json").code == 0
    assert tilewright("report", exact_file, out, "-o", tmp_path / "r.html", "--no-baselines").code == 0
    data = json.loads(exact_file.read_text(encoding="utf-8"))
    for pipeline in data["pipelines"]:
        pipeline["ii_ps"] = max(1, pipeline["ii_ps"] // 2)
        pipeline["bound_ps"] = 0
    (tmp_path / "broken.json").write_text(json.dumps(data), encoding="utf-8")
    refused = tilewright("validate", tmp_path / "broken.json", out)
    assert refused.code == 4 and "pipeline" in refused.out + refused.err


def test_the_table_of_kernels(files: Path, exact_file: Path, tmp_path: Path) -> None:
    table = tilewright("pipeline", files / "layer.json", "-o", tmp_path / "table.md")
    assert table.code == 0 and "l0.softmax" in table.out and "is busy all the time" in table.out
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("| kernel | rule | estimate us | exact us |")
    assert tilewright("pipeline", exact_file).out == table.out


def test_one_pipeline(files: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.json"
    assert tilewright(*DECODE[:4], "--context", "1024", "--batch", "64", "--layers", "1", "-o", long).code == 0
    for path, words in (
        (long, ("interval", "in flight", "prologue", "epilogue", "bound", "buffer", "double", "busy", "softmax0")),
        (files / "layer.json", ("iteration  one of", "proven least")),
    ):
        shown = tilewright("pipeline", path, "--kernel", "l0.attn_scores+l0.softmax")
        assert shown.code == 0, shown.err
        assert [word for word in words if word not in shown.out] == []
    data = json.loads(tilewright("pipeline", files / "layer.json", "--kernel", "l0.softmax", "--json").out)
    (one, *_) = data["kernels"]
    assert one["estimate_ns"] > 0 and len(one["pipeline"]["start_ps"]) == len(one["pipeline"]["operations"])
    wrong = fails(2, "pipeline", files / "layer.json", "--kernel", "nothing")
    assert "no kernel's label holds 'nothing'" in wrong
    assert "one of the two" in fails(2, "pipeline", files / "layer.json", "--kernel", "a", "--plan")


def test_kernels_without_a_loop_say_so() -> None:
    instance = opt.generate("qwen3-32b", phase="decode", batch=1, context=256, layers=1, tp=8)
    from opt.exact_prices import repriced

    alone = [way for way in repriced(instance).fastest if way.loop is None]
    assert alone and all(way.rule == "collective" or way.ratio == 1 for way in alone)
    assert ("loop", "none; the kernel keeps its estimate") in pipeline_lines(alone[0])
    assert op_cells(alone[0]) == [] and as_data(alone[0])["pipeline"] is None


def test_the_change_of_the_plan(exact_file: Path, tmp_path: Path) -> None:
    shown = tilewright(
        *("pipeline", exact_file, "--plan", "--solver", "dp", "--time-limit", "1", "--workers", "1"),
        *("-o", tmp_path / "plan.md"),
    )
    assert shown.code == 0, shown.err
    assert "groups that differ" in shown.out and "exact, that plan" in shown.out
    assert "with exact prices; planning with them gains" in shown.err
    assert "| estimate |" in (tmp_path / "plan.md").read_text(encoding="utf-8")
    again = ("pipeline", exact_file, "--plan", "--solver", "greedy", "--time-limit", "1", "--workers", "1", "--json")
    answer = json.loads(tilewright(*again).out)
    assert answer["exact"]["bound"] <= answer["exact"]["objective"] <= answer["kept"]


def test_a_plan_timed_anew(files: Path, instance: Instance, tmp_path: Path) -> None:
    """The same kernels, tiles and moves under exact prices; the plan says what that comes to."""
    made = tilewright(
        *("plan", files / "layer.json", files / "schedule.json", "--price", "exact", "-o", tmp_path / "plan.json")
    )
    assert made.code == 0, made.err
    assert "ns by estimates," in made.err and "ns with exact prices" in made.err
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    exact = opt.exact(instance)
    schedule = opt.load_schedule(files / "schedule.json")
    timed = plan_on(exact, schedule)
    assert isinstance(timed, Schedule) and opt.replay(exact, timed).valid
    assert plan["verdict"]["latency_ns"] == timed.latency_ns != schedule.latency_ns
    assert [k.operators for k in timed.kernels] == [k.operators for k in schedule.kernels]


def test_import_takes_the_option(tmp_path: Path) -> None:
    from instances.frontends.captured import write_captured
    from tests.frontends.test_import_command import layers

    write_captured(layers(), tmp_path / "graph.json")
    made = tilewright("import", "json", tmp_path / "graph.json", "--price", "exact", "-o", tmp_path / "i.json")
    assert made.code == 0, made.err
    assert opt.load_instance(tmp_path / "i.json").price is Pricing.EXACT


def test_other_parts_price_as_the_instance_does(exact: Instance) -> None:
    """What-if questions, explanations and the simulation see the prices of the schedule."""
    result = opt.solve(exact, 3, "greedy", workers=1)
    assert {one.question.name for one in keep_plan(exact, result.schedule)} >= {"hbm", "l2-size"}
    assert opt.explain(exact, result.schedule) is not None
    assert simulate(exact, result.schedule).corruptions == ()
    assert len(QUESTIONS) == 5


def test_whole_models_keep_their_prices() -> None:
    """Repeated blocks are solved on a short instance, which carries the certificates."""
    exact = opt.exact(opt.generate("gpt2", phase="decode", context=128, layers=5))
    result = opt.solve(exact, 2, "dp", workers=1)
    assert opt.replay(exact, result.schedule).valid
    assert result.bound_ns <= result.objective_ns


def test_the_cache_is_used(instance: Instance) -> None:
    opt.exact(instance)
    cache = pipeline_cache()
    solved = cache.solved
    opt.exact(instance)
    assert cache.solved == solved and cache.found > 0


@pytest.mark.parametrize("chip", pipeline_benchmark.CHIPS)
def test_exact_prices_and_simulation_agree(chip: str, tmp_path: Path) -> None:
    """The short ones of the benchmark; all are in the page that the command writes."""
    out = tilewright(
        *("benchmark", "pipelines", "--only", f"decode {chip}", "-o", tmp_path / "p.csv"),
        *("--page", tmp_path / "p.md"),
    )
    assert out.code == 0, out.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text(encoding="utf-8"))))
    assert {row["family"] for row in rows} == {"attention", "matmul and epilogue", "gated MLP"}
    assert "3 of 3 kernels within 5 %" in out.err
    page = (tmp_path / "p.md").read_text(encoding="utf-8")
    assert "## Attention" in page and "within 5 %" in page
    w8a8 = "w8a8" if chip == pipeline_benchmark.CHIPS[0] else "bfloat16"  # one of each: making an instance takes time
    chain = next(c for c in pipeline_benchmark.CASES if c.family == "norm chain" and c.dtype == w8a8)
    assert pipeline_benchmark.run_case(chain, chip).within
