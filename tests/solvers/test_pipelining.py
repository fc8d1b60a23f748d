"""Exact prices of instances, and the cache of schedules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opt
from instances.build import build_instance
from instances.costs import draft
from instances.fusion import Fuser
from instances.instance import Instance, Pricing
from instances.kernels import KernelKind, Rule
from instances.machine import load_machine
from instances.pipelines.derive import derive
from instances.pipelines.loop import LoopKernel
from instances.pricing import price_in
from solvers.pipelining import cache as cache_module
from solvers.pipelining.cache import PipelineCache
from solvers.pipelining.exact import Repriced, reprice
from solvers.pipelining.search import schedule_loop
from tests.conftest import llama_graph
from tests.pipelining import loop_of

LOOP = loop_of([("in", 4), ("work", 5)], [(0, 1, 4, 0)], [(0, 1, 3)])


@pytest.fixture(scope="module")
def exact(llama: Instance) -> Repriced:
    return reprice(llama, PipelineCache())


@pytest.mark.parametrize("chip", ["ascend910b2", "ascend950pr"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_loop_does_the_work_that_the_cost_model_counts(chip: str, phase: str) -> None:
    """Pipe by pipe, all iterations together; what waits for an accumulator is no work and stays out."""
    instance = build_instance(llama_graph(phase), load_machine(chip))
    seen = set()
    fuser = Fuser(instance.graph)
    for candidate in instance.candidates:
        if candidate.template in seen:
            continue
        seen.add(candidate.template)
        fusion = fuser.judge(candidate.operators)
        assert fusion is not None
        for way in instance.implementations(candidate):
            price = draft(fusion, instance.machine, way.tiling)
            loop = derive(fusion, instance.machine, way.tiling, price)
            if loop is None:
                continue
            slots = {(name, memory): count for name, memory, _, count in price.demands}
            single = [memory for (name, memory), count in slots.items() if name == "sum" and count == 1]
            for stage in price.stages:
                if stage.engine == "cube" and single:
                    continue
                work = loop.work_ps().get(stage.engine, 0.0) / 1000
                assert work == pytest.approx(stage.total_ns, rel=0.02, abs=40), (candidate.operators, stage.engine)


def test_exact_prices(llama: Instance, exact: Repriced) -> None:
    """The same candidates and tilings; another fingerprint; each price what the certificates make of it."""
    made = exact.instance
    assert made.price is Pricing.EXACT and made.fingerprint != llama.fingerprint
    assert made.candidates == llama.candidates and made.graph == llama.graph
    assert Instance.model_validate_json(made.model_dump_json()) == made
    fuser = Fuser(made.graph)
    for candidate in made.candidates[::5]:
        fusion = fuser.judge(candidate.operators)
        assert fusion is not None
        for new, old in zip(made.implementations(candidate), llama.implementations(candidate), strict=True):
            assert new.tiling == old.tiling
            assert new.cost == price_in(made, fusion, new.tiling)
            assert new.cost.workspace_bytes == old.cost.workspace_bytes and new.cost.l2_bytes == old.cost.l2_bytes
            assert new.cost.busy_ns >= max(new.cost.engines_ns.values())
    ratios = [way.ratio for way in exact.scheduled]
    assert len(ratios) > 60 and min(ratios) > 0.5 and max(ratios) < 1.5
    assert sum(way.ratio == 1 for way in exact.scheduled) < len(ratios) / 2


def test_kernels_that_have_no_loop_keep_their_estimate(qwen: Instance) -> None:
    """Collectives hold the link and no pipe."""
    found = reprice(qwen, PipelineCache(), seconds=0.05)
    link = [ways for ways, t in zip(found.ways, qwen.templates, strict=True) if t.kind is KernelKind.LINK]
    assert link and all(way.loop is None and way.exact == way.estimate for ways in link for way in ways)


def test_buffers_of_a_single_price_hold_no_pipelines(llama: Instance, exact: Repriced) -> None:
    fields = {name: getattr(exact.instance, name) for name in Instance.model_fields}
    with pytest.raises(ValueError, match="prices are estimates"):
        Instance(**fields | {"price": Pricing.ESTIMATE})
    with pytest.raises(ValueError, match="two pipeline schedules"):
        Instance(**fields | {"pipelines": exact.instance.pipelines[:1] * 2})


def test_searches_end_the_same(exact: Repriced) -> None:
    """A loop that needs search has the same schedule each time: time is counted by steps."""
    loops = [w.loop.body for w in exact.scheduled if w.loop is not None and w.rule is Rule.ATTENTION]
    assert loops and all(schedule_loop(loop, 0.02) == schedule_loop(loop, 0.02) for loop in loops[:2])


# ------------------------------------------------------------------------------- the cache


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PipelineCache()
    first = cache.schedule(LOOP)
    monkeypatch.setattr(cache_module, "schedule_loop", _never)
    assert cache.schedule(LOOP.model_copy()) is first
    assert (cache.solved, cache.found) == (1, 1)


def _never(loop: LoopKernel, seconds: float) -> None:
    raise AssertionError("it was known")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finds them by fingerprint; another release does not take them over."""
    first = PipelineCache(tmp_path, "1").schedule(LOOP)
    assert len(list((tmp_path / "pipelines").iterdir())) == 1
    assert PipelineCache(tmp_path, "2").schedule(LOOP) == first
    monkeypatch.setattr(cache_module, "schedule_loop", _never)
    again = PipelineCache(tmp_path, "2")
    assert again.schedule(LOOP) == first and again.found == 1
    with pytest.raises(AssertionError, match="known"):
        PipelineCache(tmp_path, "1").schedule(LOOP)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"release": "1"}', "\x00" * 40])
def test_broken_files_are_replaced(tmp_path: Path, text: str) -> None:
    good = PipelineCache(tmp_path, "1").schedule(LOOP)
    (path,) = (tmp_path / "pipelines").iterdir()
    whole = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    assert PipelineCache(tmp_path, "1").schedule(LOOP) == good
    assert path.read_text(encoding="utf-8") == whole


def test_files_that_do_not_fit_their_loop_are_replaced(tmp_path: Path) -> None:
    """A schedule is taken only where it is legal: neither a shorter interval nor other starts pass."""
    good = PipelineCache(tmp_path, "1").schedule(LOOP)
    (path,) = (tmp_path / "pipelines").iterdir()
    data = json.loads(path.read_text(encoding="utf-8"))
    for key, value in (("ii_ps", 2), ("start_ps", [0, 0]), ("slots", {})):
        path.write_text(json.dumps(data | {"schedule": data["schedule"] | {key: value}}), encoding="utf-8")
        cache = PipelineCache(tmp_path, "1")
        assert cache.schedule(LOOP) == good and cache.solved == 1


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert PipelineCache(tmp_path / "file", "1").schedule(LOOP) is not None


def test_bounds_hold_with_exact_prices() -> None:
    """Kernels get cheaper by them; what any solver proves stays below what any other finds."""
    plain = opt.generate("gpt2", phase="prefill", tokens=512, layers=1, machine="ascend950pr")
    found = reprice(plain, PipelineCache())
    assert min(way.ratio for way in found.scheduled) < 0.95
    results = [opt.solve(found.instance, 1, name, workers=1) for name in ("stack", "dp")]
    best = min(result.objective_ns for result in results)
    assert all(0 < result.bound_ns <= best for result in results)
    assert best < min(opt.solve(plain, 1, name, workers=1).objective_ns for name in ("stack", "dp"))
