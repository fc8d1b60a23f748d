"""Plans on the command line: files written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opt
from instances.plan import Feature, Plan
from tests.opt.test_cli import fails, tilewright


@pytest.fixture(scope="module")
def written(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A folder with the plan and all that is derived from it, and what ``--json`` says."""
    folder = tmp_path_factory.mktemp("plan")
    out = tilewright(
        *("plan", files / "layer.json", files / "schedule.json", "-o", folder / "plan.json"),
        *("--mlir", folder / "plan.mlir", "--pool", folder / "pool.json", "--prefetch", folder / "prefetch.json"),
        *("--cores", folder / "cores.json", "--allocation", folder / "addresses", "--json"),
    )
    assert out.code == 0, out.err
    assert all(word in out.err for word in ("latency", "bound", "kernels", "moves", "order", "pool", "tables"))
    return folder, json.loads(out.out)


def test_files(written: tuple[Path, dict[str, object]], files: Path) -> None:
    folder, said = written
    instance = opt.load_instance(files / "layer.json")
    plan = opt.load_plan(folder / "plan.json", instance)
    assert plan == opt.plan(instance, opt.load_schedule(files / "schedule.json"))
    assert (said["objective"], said["kernels"], said["events"]) == (
        plan.verdict.latency_ns,
        len(plan.kernels),
        len(plan.events),
    )
    made = {path for path in folder.rglob("*") if path.is_file()}
    assert {str(path) for path in made} == set(said["files"])  # type: ignore[call-overload]
    pool = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
    assert pool["total_bytes"] == plan.pool.total_bytes == said["pool_bytes"]
    for name in ("pool", "prefetch", "cores"):
        derived = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert derived["graph"]["fingerprint"] == instance.graph.fingerprint
        assert derived["machine"]["fingerprint"] == instance.machine.fingerprint
    assert (folder / "plan.mlir").read_text(encoding="utf-8").startswith('"builtin.module"')


def test_tables_pass_the_validator(written: tuple[Path, dict[str, object]]) -> None:
    """Each against the memory's capacity; one with two buffers at one address does not pass."""
    folder, _ = written
    capacities = {"l2": 192 << 20, "l1": 512 << 10, "l0a": 64 << 10, "l0b": 64 << 10, "l0c": 128 << 10, "ub": 184 << 10}
    tables = sorted((folder / "addresses").glob("*.csv"))
    assert {"l2.csv", "hbm.csv"} < {table.name for table in tables}
    for table in tables:
        memory = table.stem.rpartition(".")[2]
        limit = [] if memory == "hbm" else ["--capacity", str(capacities[memory])]
        assert tilewright("validate", table, table, *limit).code == 0, table
    crowded = next(table for table in tables if table.name.endswith(".l1.csv"))
    lines = crowded.read_text(encoding="utf-8").splitlines()
    fields = lines[2].split(",")
    fields[-1] = lines[1].split(",")[-1]
    broken = folder / "broken.csv"
    broken.write_text("\n".join([*lines[:2], ",".join(fields), *lines[3:]]) + "\n", encoding="utf-8")
    fails(4, "validate", broken, broken)
    broken.unlink()


def test_a_broken_schedule_gets_no_plan(files: Path, tmp_path: Path) -> None:
    data = json.loads((files / "schedule.json").read_text(encoding="utf-8"))
    data["kernels"][0]["end_ns"] += 1
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(data), encoding="utf-8")
    fails(4, "plan", files / "layer.json", bad, "-o", tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def test_outputs_are_looked_at_first(files: Path, tmp_path: Path) -> None:
    layer, schedule = files / "layer.json", files / "schedule.json"
    sentence = fails(2, "plan", layer, schedule, "-o", layer)
    assert "is named twice" in sentence
    fails(2, "plan", layer, schedule, "-o", tmp_path / "plan.json", "--mlir", tmp_path / "no" / "where.mlir")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    wanted = ("-o", tmp_path / "plan.json", "--allocation", in_the_way)
    assert "choose another place" in fails(2, "plan", layer, schedule, *wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_schema() -> None:
    schema = json.loads(tilewright("schema", "compiler-plan").out)
    assert schema["title"] == "Plan"
    assert set(schema["properties"]) == set(Plan.model_fields)
    assert schema["additionalProperties"] is False


def test_features_are_documented() -> None:
    """The page names each feature and each field of a plan."""
    page = (Path(opt.__file__).parents[1] / "docs" / "plan.md").read_text(encoding="utf-8")
    for feature in Feature:
        assert f"`{feature.value}`" in page
    for field in Plan.model_fields:
        assert f"`{field}`" in page
