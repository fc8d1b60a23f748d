"""Accuracy on tables of measured kernels: reasons, yardsticks, fitted constants, the page, a whole decode step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from instances.documents import parse
from instances.errors import InputError
from instances.library import Request
from instances.machine import Grade, Machine, load_machine, machine_names
from opt.calibration import MeasuredRow, Prediction, cross_validate, fit, measure, predict, read_rows
from opt.calibration.accuracy import errors
from opt.calibration.fit import CONSTANTS, with_constants
from opt.calibration.machine_files import machine_text
from opt.calibration.network import CHIP, MEASURED_LAYER_US, MEASURED_STEP_US, check_step
from opt.calibration.page import LEFT_OUT, accuracy_page, reasons
from opt.calibration.predictions import request_of
from opt.calibration.scatter import scatter
from tests.opt.test_cli import tilewright

HEADER = "op,chip,dtype,shapes,attributes,us,setting\n"
TABLE = (
    HEADER
    + 'matmul,ascend910b2,float16,"[[64, 512], [512, 256]]",,10.0,isolated kernel\n'
    + 'swi_glu,ascend950pr,bfloat16,"[[64, 2048]]",{dim: -1},5.0,in network\n'
    + 'mla_prolog,ascend910b2,bfloat16,"[[1, 1, 1024], [1024, 1536], [1536, 3072], ...]",{n_heads: 16},30,isolated\n'
    + 'conv2d,ascend910b2,float16,"[[1, 2]]",,3.0,isolated kernel\n'
    + 'matmul,tpu,float16,"[[64, 512], [512, 256]]",,3.0,isolated kernel\n'
    + 'matmul,ascend910b2,complex64,"[[64, 512], [512, 256]]",,3.0,isolated kernel\n'
    + "softmax,ascend910b2,float16,64 by 512,,3.0,isolated kernel\n"
)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ascend" / "measured.csv"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def row(
    op: str = "rms_norm", us: float = 10.0, shapes: str = "[[64, 1024], [1024]]", chip: str = "ascend910b2"
) -> MeasuredRow:
    return MeasuredRow(1, op, chip, "float16", shapes, "", us, "isolated kernel")


def predicted(us: float, measured: float, op: str = "matmul") -> Prediction:
    return Prediction(row(op, measured), us, "cube", roofline_us=us / 2, fixed_us=2 * us)


# ------------------------------------------------------------------------------- tables


def test_rows_are_read(table: Path) -> None:
    rows = read_rows(table)
    assert [each.line for each in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert [each.network for each in rows[:3]] == [False, True, False]
    assert rows[2].operands() == ((1, 1, 1024), (1024, 1536), (1536, 3072))
    asked = request_of(rows[1])
    assert asked == Request("swi_glu", asked.dtype, ((64, 2048),), {"dim": "-1"}, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("op,chip,dtype,us\n", "line 1 lacks the column 'shapes'"),
        (HEADER, "holds no measured kernels"),
        ("", "line 1 lacks the column 'op'"),
        (HEADER + "matmul,a,float16,[],,fast,\n", "line 2: us is 'fast', not a positive number"),
        (HEADER + "matmul,a,float16,[],,0,\n", "line 2: us is '0'"),
        (HEADER + "matmul,a,float16,[],,nan,\n", "line 2: us is 'nan'"),
        (HEADER + "matmul,a,float16\n", "line 2: us is"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_what_cannot_be_modelled_is_counted_with_its_reason(table: Path) -> None:
    predictions = predict(read_rows(table))
    assert [p.predicted_us is not None for p in predictions] == [True, True, True, False, False, False, False]
    found = measure(predictions)
    assert [(op, count) for op, _, count in reasons(found.unmodelled)] == [
        ("conv2d", 1),
        ("matmul", 1),
        ("matmul", 1),
        ("softmax", 1),
    ]
    words = " ".join(why for _, why, _ in reasons(found.unmodelled))
    for part in ("no model of this op", "complex64", "unknown machine 'tpu'", "not a JSON list"):
        assert part in words


def test_aligned_rows() -> None:
    """16 elements of 16 bits are a block of 32 bytes."""
    assert row(shapes="[[3, 1024], [1024]]").aligned
    assert row(shapes="[1024]").aligned
    assert not row(shapes="[[64, 1023]]").aligned
    assert not row(shapes="nonsense").aligned


# ------------------------------------------------------------------------------- errors


def test_errors_by_hand() -> None:
    """Factors 2, 1, 1/2 and 4: |ln| sorted 0, ln 2, ln 2, ln 4; the 90th percentile lies 0.7 of the way to the last."""
    rows = [predicted(20, 10), predicted(30, 30), predicted(20, 40), predicted(200, 50)]
    found = errors(rows, lambda p: p.predicted_us)
    assert found.median == pytest.approx(math.log(2))
    assert found.p90 == pytest.approx(math.log(2) * 1.7)
    assert found.bias == pytest.approx(math.log(2) / 2)
    # ranks 1.5, 3, 1.5, 4 against 1, 2, 3, 4
    assert found.rank == pytest.approx(3 / math.sqrt(4.5 * 5))
    assert errors(rows[:2], lambda p: p.predicted_us).rank is None


def test_yardsticks_by_hand() -> None:
    """1024 cubed on 24 cores: 2**30 / (4096 * 24 * 1.8e3) = 6.068 us; 3 * 2 MiB at 1.6 TB/s 3.932 us. At fixed
    efficiencies 6.068 / 0.7 + 5 us. An addition of as much moves the same and computes nothing: 3.932, 6.554 + 2."""
    (product, addition) = predict(
        [row("matmul", shapes="[[1024, 1024], [1024, 1024]]"), row("add", shapes="[[1024, 1024], [1024, 1024]]")]
    )
    assert product.roofline_us == pytest.approx(2**30 / (4096 * 24 * 1.8e3))
    assert product.fixed_us == pytest.approx(2**30 / (4096 * 24 * 1.8e3) / 0.7 + 5)
    assert addition.roofline_us == pytest.approx(6 * 2**20 / 1.6e6)
    assert addition.fixed_us == pytest.approx(6 * 2**20 / 1.6e6 / 0.6 + 2)


# ------------------------------------------------------------------------------- fitting


def synthetic(values: dict[str, float]) -> list[MeasuredRow]:
    """Rows whose times the model itself gives under other constants."""
    machine = with_constants(load_machine("ascend910b2").model_dump(mode="json"), values)
    rows = [
        row(op, shapes=f"[[{rows}, 256]]")
        for op in ("add", "softmax", "dynamic_quant", "swi_glu")
        for rows in (16, 512, 4096)
    ]
    found = predict(rows, lambda _: machine)
    return [row(p.row.op, p.predicted_us or 0.0, p.row.shapes) for p in found]


def test_a_fit_finds_constants_that_explain_the_rows() -> None:
    pytest.importorskip("scipy")
    rows = synthetic({"launch.vector_ns": 1500, "launch.cold_step_ns": 3000, "exposed.vector": 0.2})
    heard: list[str] = []
    (found,) = fit(rows, on_progress=heard.append)
    assert found.architecture == load_machine("ascend910b2").architecture
    assert found.rows == len(rows)
    assert found.cost_after < 0.05 * found.cost_before
    assert heard
    # nothing here runs on the cube, so that the rows say nothing about it
    assert "launch.cube_ns" not in found.values
    assert "sync_ns" not in found.values


def test_cross_validation_predicts_every_row_once() -> None:
    pytest.importorskip("scipy")
    rows = synthetic({"launch.cold_step_ns": 2000})
    found = cross_validate(rows)
    assert sorted(id(p.row) for p in found) == sorted(map(id, rows))
    overall = measure(found).overall
    assert overall is not None
    assert overall.median_factor < 1.1


def test_constants_are_graded_and_within_their_range() -> None:
    """Every shipped chip that shares an architecture with a measured one carries fitted constants within the ranges."""
    for name in machine_names():
        machine = load_machine(name)
        data = machine.model_dump(mode="json")
        for constant in CONSTANTS:
            figure = data
            for key in constant.place:
                figure = figure[key]
            if figure["grade"] == Grade.FITTED and "tilewright calibrate" in figure["source"]:
                assert constant.low <= figure["value"] <= constant.high
        fitted = sum("tilewright calibrate" in line for line in machine_text(machine).splitlines())
        assert (fitted >= 7) == (machine.architecture in ("dav-c220", "dav-c310"))


@pytest.mark.parametrize("name", machine_names())
def test_machine_files_are_written_as_they_are_read(name: str) -> None:
    machine = load_machine(name)
    text = machine_text(machine)
    assert parse(Machine, json.loads(text), name) == machine
    assert all(line.count('"value"') <= 1 for line in text.splitlines())
    assert text.count('"value"') == sum('"source": "' in line and '"value"' in line for line in text.splitlines())


# ------------------------------------------------------------------------------- page and commands


def test_picture_has_a_mark_per_row(table: Path) -> None:
    root = ElementTree.fromstring(scatter(predict(read_rows(table))))
    space = "{http://www.w3.org/2000/svg}"
    tips = [title.text or "" for title in root.iter(f"{space}title")]
    assert sum("measured" in tip and "predicted" in tip for tip in tips) == 3
    assert ElementTree.fromstring(scatter([])) is not None


def test_page(table: Path) -> None:
    predictions = predict(read_rows(table))
    text = accuracy_page(predictions, measure(predictions), "p.svg", "tilewright calibrate table.csv", held_out=False)
    assert text.startswith("# Where the model is wrong")
    for part in (
        "3 measured kernels (1 inside a network, 2 alone)",
        "(p.svg)",
        "| matmul |",
        "| swi_glu |",
        LEFT_OUT[0],
    ):
        assert part in text
    assert "Not modelled: 4 rows." in text
    assert "1 of conv2d: no model of this op" in text
    nothing = [p for p in predictions if p.predicted_us is None]
    assert "Not modelled: 4 rows." in accuracy_page(nothing, measure(nothing), "p.svg", "c", held_out=True)


def test_a_whole_decode_step() -> None:
    """The published step within a quarter: its layer, and all of it."""
    step = check_step(load_machine(CHIP))
    assert any("attn_scores" in name for name in step.kernels)
    assert any("mlp_add+l1.input_norm" in name for name in step.kernels)
    assert step.layer_us == pytest.approx(MEASURED_LAYER_US, rel=0.25)
    assert step.step_us == pytest.approx(MEASURED_STEP_US, rel=0.25)
    assert step.step_us > 60 * step.layer_us


def test_command_calibrate(table: Path, tmp_path: Path) -> None:
    out = tilewright("calibrate", table)
    assert out.code == 0
    for part in ("matmul", "rank correlation", "not modelled: 4 rows", "1 of conv2d: no model of this op"):
        assert part in out.out
    data = json.loads(tilewright("calibrate", table, "--json").out)
    assert len(data["rows"]) == 7
    first, unknown = data["rows"][0], data["rows"][3]
    assert (first["op"], first["chip"], first["measured_us"]) == ("matmul", "ascend910b2", 10.0)
    assert first["shapes"] == [[64, 512], [512, 256]]
    assert first["predicted_us"] > 0
    assert first["bound_by"]
    assert unknown["why_not"] == "no model of this op"
    assert data["overall"]["rows"] == 3
    assert set(data["by_op"]) == {"matmul", "swi_glu", "mla_prolog"}
    assert data["unmodelled"] == 4
    page = tmp_path / "page.md"
    assert tilewright("calibrate", table, "--page", page).code == 0
    assert "(page.svg)" in page.read_text()
    assert page.with_suffix(".svg").read_text().startswith("<svg")


def test_command_cost() -> None:
    arguments = ("cost", "matmul", "--shapes", "1024x4096,4096x4096", "--dtype", "float16", "--machine", "ascend910b2")
    out = tilewright(*arguments).out
    for part in ("time", "bound by", "mte2", "cube", "l0c", "tile", "24 cube", "MiB read"):
        assert part in out
    data = json.loads(tilewright(*arguments, "--json").out)
    (part,) = data["parts"]
    assert part["hbm_read_bytes"] == {"left": 2 * 1024 * 4096, "right": 2 * 4096 * 4096}
    assert data["total_us"] == pytest.approx(
        data["launch_us"] + data["cold_us"] + part["fill_us"] + max(part["body_us"], part["hbm_us"]) + part["drain_us"]
    )
    same = tilewright(*arguments[:3], "[[1024, 4096], [4096, 4096]]", *arguments[4:], "--json")
    assert json.loads(same.out) == data
    parts = json.loads(tilewright("cost", "weight_quant_batch_matmul", "--shapes", "8x512,512x256", "--json").out)[
        "parts"
    ]
    assert [each["operators"] for each in parts] == [["dequantize"], ["matmul"]]
