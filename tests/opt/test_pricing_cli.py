"""``tilewright cost`` and ``tilewright calibrate``: what they print, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opt
from instances.library import KERNELS
from instances.machine import load_machine
from opt import api
from tests.opt.test_cli import fails, tilewright

HEADER = "op,chip,dtype,shapes,attributes,us,setting\n"
COPY = 'copy,ascend910b2,float16,"[[4096]]",,5,isolated kernel\n'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "measured.csv"
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------- cost


@pytest.mark.parametrize("machine", ["ascend910b2", "ascend950pr", "ascend310p3"])
@pytest.mark.parametrize("network", [False, True])
def test_cost_is_what_the_library_estimates(machine: str, network: bool) -> None:
    arguments = ("--shapes", "64x512,512x256", "--dtype", "float16", "--machine", machine, "--json")
    data = json.loads(tilewright("cost", "matmul", *arguments, "--network" if network else "--alone").out)
    found = api.cost("matmul", [[64, 512], [512, 256]], dtype="float16", machine=machine, network=network)
    assert (data["op"], data["machine"], data["bound_by"]) == ("matmul", machine, found.bound_by)
    assert data["total_us"] == found.total_ns / 1000
    assert data["launch_us"] == found.launch_ns / 1000
    assert (data["cold_us"] == 0) or not network
    (part,) = data["parts"]
    assert part["tile"] == found.parts[0].tiling.tile
    assert (part["aic"], part["aiv"]) == (found.parts[0].tiling.aic, found.parts[0].tiling.aiv)
    assert part["hbm_read_bytes"] == ({"right": 262144} if network else {"left": 65536, "right": 262144})
    assert part["engines_us"].keys() == found.parts[0].cost.engines_ns.keys()
    chip = load_machine(machine)
    for buffer in part["buffers"]:
        assert buffer["offset_bytes"] + buffer["slots"] * buffer["size_bytes"] <= chip.capacity(buffer["memory"])


def test_cost_in_words() -> None:
    outcome = tilewright("cost", "rms_norm", "--shapes", "512x4096,4096", "--machine", "ascend910b2")
    assert (outcome.code, outcome.err) == (0, "")
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert "rms_norm 512x4096,4096 bfloat16 on ascend910b2, alone, caches cold" in lines["kernel"]
    found = api.cost("rms_norm", [[512, 4096], [4096]], machine="ascend910b2")
    assert f"bound by {found.bound_by}" in lines["time"]
    assert "norm (vector kernel)" in lines["part"]
    assert f"0 cube, {found.parts[0].tiling.aiv} vector" in lines["cores"]
    assert "4.0 MiB read, 0" in lines["HBM"]
    assert {"mte2", "vector", "mte3", "hbm", "ub"} <= lines.keys()
    assert "in a network" in tilewright("cost", "rms_norm", "--shapes", "512x4096,4096", "--network").out


def test_cost_shows_every_part() -> None:
    out = tilewright("cost", "mla_prolog", "--shapes", "[[1, 8, 512], [512, 256], [256, 768], ...]").out
    for number, name in enumerate(("q_down+kv_down", "q_norm", "kv_norm_rope", "q_up", "q_rope", "q_absorb"), 1):
        assert f"part {number} of 6 {name} (" in " ".join(out.split())


@pytest.mark.parametrize(
    "shapes", ["64x512,512x256", "64x512; 512x256", "64x512 512x256", "[[64, 512], [512, 256]]", " 64x512,512x256 "]
)
def test_shapes_in_several_spellings(shapes: str) -> None:
    data = json.loads(tilewright("cost", "matmul", "--shapes", shapes, "--json").out)
    assert data["parts"][0]["hbm_read_bytes"] == {"left": 65536, "right": 262144}


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ("", "is no list of shapes"),
        ("x", "is no list of shapes"),
        ("64,x", "is no list of shapes"),
        ("64x512,", "is no list of shapes"),
        ("-3x4", "is no list of shapes"),
        ("64*64", "is no list of shapes"),
        ("[[1,", "not a JSON list"),
        ("[[1.5, 2]]", "positive whole numbers"),
        ("[[0, 2]]", "positive whole numbers"),
        ("[]", "empty or not positive"),
        ("0x5", "empty or not positive"),
    ],
)
def test_shapes_that_are_none(shapes: str, why: str) -> None:
    assert why in fails(2, "cost", "copy", "--shapes", shapes)


def test_a_shape_of_thousands_of_digits() -> None:
    fails(2, "cost", "copy", "--shapes", "9" * 5000)


@pytest.mark.parametrize("shapes", ["64x", "x64", "64xx64"])
def test_a_shape_that_lacks_an_extent(shapes: str) -> None:
    fails(2, "cost", "copy", "--shapes", shapes)


def test_an_unknown_kernel_is_answered_with_those_that_are_known() -> None:
    sentence = fails(2, "cost", "conv2d", "--shapes", "1x2")
    assert "conv2d cannot be modelled: no model of this op; choose one of " in sentence
    assert all(op in sentence for op in KERNELS)
    assert "choose one of" not in fails(2, "cost", "matmul", "--shapes", "64x32,48x64")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("softmax", "--shapes", "4x8", "--attributes", "dim: 5"), "axis '5' is not one of x's 2"),
        (("swi_glu", "--shapes", "4x7"), "odd number"),
        (("mha", "--shapes", "1x8x64,1x8x64,1x8x64"), "give num_heads"),
        (("mha", "--shapes", "1x8x4x64,1x8x4x64,1x8x4x64", "--attributes", "layout: TND"), "layout TND"),
        (("matmul", "--shapes", "64x64,64x64", "--dtype", "int32"), "matrix unit for int32"),
        (("copy", "--shapes", "64", "--machine", "none.json"), "no such file"),
        (("copy", "--shapes", str(10**15 - 1)), "shape.0"),
        (("copy",), "--shapes"),
    ],
)
def test_what_cost_refuses(arguments: tuple[str, ...], why: str) -> None:
    assert why in fails(2, "cost", *arguments)


# ------------------------------------------------------------------------------- calibrate


def test_json_of_calibrate_has_every_row_in_order(tmp_path: Path) -> None:
    matmul = 'matmul,ascend950pr,bfloat16,"[[64, 512], [512, 256]]",,10,in network\n'
    odd = 'swi_glu,ascend910b2,float16,"[[4, 7]]",,3,alone\n'
    unread = "softmax,ascend910b2,float16,4 by 7,,3,alone\n"
    outcome = tilewright("calibrate", write(tmp_path, COPY, odd, matmul, unread, odd), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    data = json.loads(outcome.out)
    first, second, third, fourth, _ = data["rows"]
    assert [each["op"] for each in data["rows"]] == ["copy", "swi_glu", "matmul", "softmax", "swi_glu"]
    assert (first["chip"], first["dtype"], first["shapes"], first["measured_us"]) == (
        "ascend910b2",
        "float16",
        [[4096]],
        5.0,
    )
    assert first["predicted_us"] == api.cost("copy", [[4096]], dtype="float16", machine="ascend910b2").total_ns / 1000
    inside = api.cost("matmul", [[64, 512], [512, 256]], machine="ascend950pr", network=True)
    assert (third["predicted_us"], third["bound_by"]) == (inside.total_ns / 1000, inside.bound_by)
    assert third["roofline_us"] < third["fixed_efficiency_us"]
    assert second["predicted_us"] is None
    assert "odd number" in second["why_not"]
    assert fourth["shapes"] == "4 by 7"
    assert "JSON" in fourth["why_not"]
    assert data["overall"]["rows"] == 2
    assert data["overall"]["rank_correlation"] is None
    assert {op: errors["rows"] for op, errors in data["by_op"].items()} == {"copy": 1, "matmul": 1}
    assert data["unmodelled"] == 3
    assert [(each["op"], each["rows"]) for each in data["why_not"]] == [("softmax", 1), ("swi_glu", 2)]
    assert len(data["worst"]) == 2
    assert set(data["yardsticks"]) == {"roofline", "roofline at fixed efficiencies"}


def test_a_table_that_says_nothing_about_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, 'conv2d,ascend910b2,float16,"[[1, 2]]",,3,alone\n')
    data = json.loads(tilewright("calibrate", path, "--json").out)
    assert (data["overall"], data["aligned"], data["by_op"], data["worst"]) == (None, None, {}, [])
    assert "not modelled: 1 rows" in tilewright("calibrate", path).out


def test_one_machine_from_a_file(tmp_path: Path) -> None:
    """A changed copy of a machine prices its chip's rows; others are counted with the reason."""
    source = Path(opt.__file__).parents[1] / "instances" / "machines" / "ascend910b2.json"
    data = json.loads(source.read_text(encoding="utf-8"))
    data["launch"]["vector_ns"]["value"] += 1000
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(data), encoding="utf-8")
    path = write(tmp_path, COPY, COPY.replace("910b2", "950pr"))
    shipped, slower = (
        json.loads(tilewright("calibrate", path, "--machine", machine, "--json").out)["rows"]
        for machine in ("ascend910b2", mine)
    )
    assert slower[0]["predicted_us"] == pytest.approx(shipped[0]["predicted_us"] + 1)
    for rows in (shipped, slower):
        assert rows[1]["why_not"] == "chip ascend950pr is not ascend910b2, the machine asked for"


def test_fit_writes_machine_files(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    folder = tmp_path / "fitted"
    folder.mkdir()
    outcome = tilewright("calibrate", write(tmp_path, COPY), "--fit", folder)
    assert outcome.code == 0
    assert "evaluation 1" in outcome.err
    architecture = load_machine("ascend910b2").architecture
    assert f"{architecture}, 1 rows" in outcome.out
    assert (folder / "ascend910b2.json").is_file()
    assert not (folder / "ascend950pr.json").exists()
    assert load_machine(str(folder / "ascend910b2.json")).name == "ascend910b2"


def test_fit_needs_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    outcome = tilewright("calibrate", write(tmp_path, COPY), "--fit", tmp_path / "none")
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith("tilewright: ")
    assert "is no folder" in last


def test_fit_looks_at_its_folder_first(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    assert "evaluation" not in tilewright("calibrate", write(tmp_path, COPY), "--fit", tmp_path / "none").err


def test_nothing_to_fit_to(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    path = write(tmp_path, 'transpose,ascend910b2,float16,"[[64, 64]]",,5,alone\n')
    assert "no row can be both modelled and fitted to" in fails(2, "calibrate", path, "--fit", tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1 lacks the column 'op'"),
        ("op,chip,dtype,us\n", "line 1 lacks the column 'shapes'"),
        (HEADER, "holds no measured kernels"),
        (HEADER + COPY + COPY.replace(",5,", ",soon,"), "line 3: us is 'soon'"),
    ],
)
def test_what_calibrate_refuses(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    assert why in fails(2, "calibrate", path)


def test_places_where_no_page_can_be_written(tmp_path: Path) -> None:
    path = write(tmp_path, COPY)
    assert "does not exist" in fails(2, "calibrate", path, "--page", tmp_path / "none" / "page.md")
    assert "named twice" in fails(2, "calibrate", path, "--page", tmp_path / "page.svg")
    assert "is a directory" in fails(2, "calibrate", tmp_path)
