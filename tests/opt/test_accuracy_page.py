"""The page and its picture on predictions made by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from instances.machine import Grade, load_machine, machine_names
from opt.calibration import MeasuredRow, Prediction, measure
from opt.calibration.fit import CONSTANTS
from opt.calibration.page import LEFT_OUT, MOST_SHAPES, accuracy_page
from opt.calibration.scatter import scatter

SVG = "{http://www.w3.org/2000/svg}"
COMMAND = "tilewright calibrate table.csv --page page.md"
OPS = ("matmul", "gqa", "rms_norm", "copy")
CHIPS = ("ascend910b2", "ascend910c_die", "ascend950pr")


def prediction(
    op: str, chip: str, measured: float, predicted: float | None, shapes: str = "[[64, 64]]", why_not: str = ""
) -> Prediction:
    row = MeasuredRow(2, op, chip, "float16", shapes, "", measured, "isolated kernel")
    if predicted is None:
        return Prediction(row, why_not=why_not)
    return Prediction(row, predicted, "hbm", roofline_us=predicted / 2, fixed_us=predicted)


@pytest.fixture
def predictions() -> list[Prediction]:
    found = [prediction(op, chip, 2.0 + n, 3.0 + n) for n, op in enumerate(OPS) for chip in CHIPS]
    return [*found, prediction("conv2d", CHIPS[0], 3.0, None, why_not="no model of this op")]


def page(predictions: list[Prediction], held_out: bool = False) -> str:
    return accuracy_page(predictions, measure(predictions), "page.svg", COMMAND, held_out)


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def points(picture: str) -> list[ElementTree.Element]:
    """Groups with a tip and one mark; the legend's marks have no tip."""
    root = ElementTree.fromstring(picture)
    groups = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    assert all(sum(part.get("class") == "mark" for part in group) == 1 for group in groups)
    return groups


def test_picture_has_a_mark_with_a_tip_per_modelled_row(predictions: list[Prediction]) -> None:
    found = points(scatter(predictions))
    assert len(found) == len(OPS) * len(CHIPS)
    tip = found[0].findtext(f"{SVG}title") or ""
    for part in ("matmul", "[[64, 64]]", "2 µs measured", "3.00 µs predicted"):
        assert part in tip


def test_picture_has_a_colour_per_group_and_a_form_per_chip(predictions: list[Prediction]) -> None:
    marks = [next(part for part in group if part.get("class") == "mark") for group in points(scatter(predictions))]
    assert len({mark.get("fill") for mark in marks}) == len(OPS)
    assert len({mark.tag for mark in marks}) == len(CHIPS)


def test_faster_than_measured_lies_below_the_diagonal() -> None:
    """From 1 to 100 us: 10 us lies in the middle of either axis, and a prediction of 1 us at the bottom."""
    exact, below = (
        next(part for part in group if part.get("class") == "mark")
        for group in points(scatter([prediction("matmul", "a", 10, 10), prediction("matmul", "a", 10, 1)]))
    )
    assert exact.get("cx") == below.get("cx")
    assert float(exact.get("cy", "nan")) < float(below.get("cy", "nan"))
    assert float(exact.get("cx", "nan")) + float(exact.get("cy", "nan")) == pytest.approx(520)


def test_picture_escapes_what_comes_from_the_table() -> None:
    (point,) = points(scatter([prediction("<op> & co", 'a"b', 2.0, 3.0)]))
    assert '<op> & co float16 [[64, 64]] on a"b' in (point.findtext(f"{SVG}title") or "")


def test_page_holds_each_op_and_the_command(predictions: list[Prediction]) -> None:
    text = page(predictions)
    assert text.startswith("# Where the model is wrong\n")
    assert f"```sh\n{COMMAND}\n```" in text
    assert "(page.svg)" in text
    by_kernel = section(text, "By kernel")
    assert all(f"| {op} | 3 |" in by_kernel for op in OPS)
    for name in ("all", *CHIPS, "yardstick: roofline", "yardstick: roofline at fixed efficiencies"):
        assert f"\n| {name} |" in text
    assert "- 1 of conv2d: no model of this op" in text
    assert all(f"- {sentence}" in section(text, "What the model leaves out") for sentence in LEFT_OUT)


def test_page_says_whether_rows_were_held_out(predictions: list[Prediction]) -> None:
    assert "fitted to the other half" in page(predictions, held_out=True)
    assert "fitted to the other half" not in page(predictions, held_out=False)


def test_worst_rows_come_first_with_short_shapes() -> None:
    long = "[" + ", ".join(["[1024, 1024]"] * 20) + "]"
    rows = [prediction("matmul", "a", 10.0, 10.0 + n) for n in range(12)]
    lines = section(page([*rows, prediction("gqa", "a", 10.0, 90.0, long)]), "The worst rows").splitlines()
    table = [line for line in lines if line.startswith("| ")][2:]
    assert len(table) == 10
    assert table[0].startswith("| gqa, a |")
    assert long[: MOST_SHAPES - 1] + "…" in table[0]
    assert long not in table[0]


@pytest.mark.parametrize("without", [[], [prediction("conv2d", "a", 3.0, None, why_not="no model of this op")]])
def test_no_modelled_row(without: list[Prediction]) -> None:
    assert points(scatter(without)) == []
    text = page(without)
    assert "0 measured kernels" in text
    assert COMMAND in text
    assert f"Not modelled: {len(without)} rows." in text
    assert "nan" not in text


def test_what_the_page_says_of_chips_without_measured_kernels() -> None:
    """Constants fitted for an architecture stand on all its chips; the first generation has none."""
    sentence = LEFT_OUT[-1]
    for name in machine_names():
        machine = load_machine(name)
        data = machine.model_dump(mode="json")
        fitted = []
        for constant in CONSTANTS:
            figure = data
            for key in constant.place:
                figure = figure[key]
            if figure["grade"] == Grade.FITTED:
                fitted.append(constant.name)
        assert bool(fitted) == (machine.architecture in ("dav-c220", "dav-c310")), name
        if name not in CHIPS:
            assert name.removeprefix("ascend").upper() in sentence
