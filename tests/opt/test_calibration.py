"""Calibration at its edges: odd tables, ties in ranks, yardsticks of kernels with parts, what a fit leaves alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.errors import InputError
from instances.estimate import estimate
from instances.library import DTYPES, Request
from instances.machine import Grade, Machine, load_machine, machine_names
from opt.calibration import MeasuredRow, Prediction, fit, measure, predict, read_rows
from opt.calibration.accuracy import quantile
from opt.calibration.fit import CONSTANTS, SOFT, Fit, changed, halves, machines_of, with_constants
from opt.calibration.machine_files import machine_text, write_fitted
from opt.calibration.predictions import rooflines

LN2 = math.log(2)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ascend" / "measured.csv"


def row(
    op: str = "copy",
    shapes: str = "[[64, 64]]",
    us: float = 5.0,
    chip: str = "ascend910b2",
    dtype: str = "float16",
    setting: str = "isolated kernel",
    line: int = 2,
) -> MeasuredRow:
    return MeasuredRow(line, op, chip, dtype, shapes, "", us, setting)


def said(*pairs: tuple[float, float]) -> list[Prediction]:
    """Predictions by hand: predicted and measured us."""
    return [Prediction(row(us=us), predicted, "hbm", roofline_us=1.0, fixed_us=2.0) for predicted, us in pairs]


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused_or_unmodelled(path: Path) -> str:
    """Where a table of one row goes wrong: in reading it, or in that row's reason."""
    try:
        (found,) = predict(read_rows(path))
    except InputError as error:
        return str(error)
    return f"line {found.row.line}: {found.why_not}" if found.why_not else "nothing"


# ------------------------------------------------------------------------------- tables


def test_columns_may_come_in_any_order_and_others_beside_them(tmp_path: Path) -> None:
    text = 'us, shapes ,dtype,chip,who,op\n 7.5 ,"[[64, 64]]", float16 , ascend910b2 ,me, copy \n'
    (found,) = read_rows(table(tmp_path, text))
    assert (found.op, found.chip, found.dtype, found.us) == ("copy", "ascend910b2", "float16", 7.5)
    assert (found.attributes, found.setting, found.network) == ("", "", False)


def test_cells_beyond_the_header_are_left_out(tmp_path: Path) -> None:
    (found,) = read_rows(table(tmp_path, 'op,chip,dtype,shapes,us\ncopy,a,int8,"[[1]]",3,more,yet\n'))
    assert found.us == 3


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """A blank line and a cell of two lines before it."""
    text = 'op,chip,dtype,shapes,us\n\ncopy,a,int8,"[[1],\n[2]]",3\ncopy,a,int8,"[[1]]",4\n'
    assert [each.line for each in read_rows(table(tmp_path, text))] == [4, 5]
    with pytest.raises(InputError, match="line 6: us is 'x'"):
        read_rows(table(tmp_path, text + 'copy,a,int8,"[[1]]",x\n'))


@pytest.mark.parametrize("us", ["-1", "inf", "-inf", "", "1,5", "1e999"])
def test_times_that_are_none(tmp_path: Path, us: str) -> None:
    with pytest.raises(InputError, match="line 2: us is") as caught:
        read_rows(table(tmp_path, f'op,chip,dtype,shapes,us\ncopy,a,int8,"[[1]]","{us}"\n'))
    assert repr(us) in str(caught.value)


@pytest.mark.parametrize("missing", ["op", "chip", "dtype", "shapes", "us"])
def test_every_column_but_two_is_needed(tmp_path: Path, missing: str) -> None:
    names = [name for name in ("op", "chip", "dtype", "shapes", "us") if name != missing]
    with pytest.raises(InputError, match=f"line 1 lacks the column '{missing}'"):
        read_rows(table(tmp_path, ",".join(names) + "\n"))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a directory"):
        read_rows(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"op,chip\xff\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_rows(tmp_path / "latin.csv")


def test_a_row_that_ends_after_its_time(tmp_path: Path) -> None:
    """The file is read or refused in one sentence, whatever the order of its columns."""
    path = table(tmp_path, "op,chip,dtype,us,shapes\ncopy,ascend910b2,int8,5\n")
    assert "line 2" in refused_or_unmodelled(path)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    (found,) = read_rows(table(tmp_path, '\ufeffop,chip,dtype,shapes,us\ncopy,a,int8,"[[1]]",3\n'))
    assert found.op == "copy"


@pytest.mark.parametrize("depth", [100_000, 200_000])
def test_absurd_cells_are_no_mishap(tmp_path: Path, depth: int) -> None:
    path = table(tmp_path, "op,chip,dtype,shapes,us\ncopy,ascend910b2,int8," + "[" * depth + ",3\n")
    assert "line 2" in refused_or_unmodelled(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[[1, 2], [3, 4], ...]", ((1, 2), (3, 4))),
        ("[[1,2],[3,4],...]", ((1, 2), (3, 4))),
        (" [[7]] ", ((7,),)),
        ("[8, 9]", ((8, 9),)),
        ("[]", ()),
    ],
)
def test_shapes_as_tables_write_them(text: str, wanted: tuple[tuple[int, ...], ...]) -> None:
    assert row(shapes=text).operands() == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64x64",
        "[[64, 64]",
        "{}",
        "64",
        '[["64"]]',
        "[[1.5]]",
        "[[0]]",
        "[[-3, 4]]",
        "[[true]]",
        "[[[1]]]",
        "[1, [2]]",
    ],
)
def test_shapes_that_are_none_leave_a_row_without_a_prediction(text: str) -> None:
    with pytest.raises(ValueError, match="shapes are not"):
        row(shapes=text).operands()
    good, bad = predict([row(), row(shapes=text)])
    assert good.predicted_us is not None
    assert bad.predicted_us is None
    assert bad.why_not.startswith("shapes are not")
    assert not row(shapes=text).aligned


def test_sizes_that_no_graph_holds_leave_a_row_without_a_prediction() -> None:
    (found,) = predict([row("matmul", "[[1000000000, 1000000000], [1000000000, 1000000000]]")])
    assert "graph: macs" in found.why_not


def test_the_setting_says_whether_a_kernel_ran_in_a_network() -> None:
    alone, inside = predict(
        [row("rms_norm", "[[64, 1024], [1024]]", setting=s) for s in ("alone", "In a Network, tp 8")]
    )
    assert inside.predicted_us is not None and alone.predicted_us is not None
    assert inside.predicted_us < alone.predicted_us


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([0.0, 10.0], 0.9, 9.0),
        ([5.0, 1.0, 3.0], 0.5, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.0, 1.0),
        ([4.0, 1.0, 3.0, 2.0], 1.0, 4.0),
        ([2.0, 2.0, 2.0], 0.37, 2.0),
    ],
)
def test_quantiles(values: list[float], share: float, wanted: float) -> None:
    assert quantile(values, share) == pytest.approx(wanted)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_a_quantile_lies_between_the_values_around_it(values: list[float], share: float) -> None:
    found = quantile(values, share)
    tiny = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - tiny <= found <= max(values) + tiny
    assert sum(value < found - tiny for value in values) <= share * (len(values) - 1) + 1


@pytest.mark.parametrize(
    ("predicted", "measured", "wanted"),
    [
        ((1, 2, 3), (10, 20, 30), 1.0),
        ((1, 2, 3), (30, 20, 10), -1.0),
        ((1, 20, 300), (1, 2, 3), 1.0),  # ranks, not values
        # ranks 1, 2, 3, 4, 5 and 1, 2, 3.5, 5, 3.5: deviations multiply to 8, their squares add up to 10 and 9.5
        ((1, 2, 3, 4, 5), (5, 6, 7, 8, 7), 8 / math.sqrt(95)),
        # 2, 2, 2, 4 and 1, 2, 3, 4: (1.5 + 0.5^2 ...): deviations -.5 -.5 -.5 1.5 by -1.5 -.5 .5 1.5 make 3; 3 and 5
        ((7, 7, 7, 9), (1, 2, 3, 4), 3 / math.sqrt(15)),
        ((4, 4, 4), (1, 2, 3), 0.0),  # all alike: no correlation to speak of
    ],
)
def test_rank_correlation_by_hand(predicted: tuple[float, ...], measured: tuple[float, ...], wanted: float) -> None:
    overall = measure(said(*zip(predicted, measured, strict=True))).overall
    assert overall is not None
    assert overall.rank == pytest.approx(wanted)


def test_no_rank_correlation_of_two() -> None:
    overall = measure(said((1, 2), (2, 3))).overall
    assert overall is not None and overall.rank is None


def test_errors_are_in_factors_and_alike_either_way() -> None:
    """Twice too much and twice too little are as wrong; the bias tells them apart."""
    over, under = (measure(said(*pairs)).overall for pairs in (((20, 10), (8, 4)), ((10, 20), (4, 8))))
    assert over is not None and under is not None
    assert over.median_factor == pytest.approx(under.median_factor) == pytest.approx(2)
    assert over.p90_factor == pytest.approx(2)
    assert (over.bias, under.bias) == (pytest.approx(LN2), pytest.approx(-LN2))


def test_aligned_rows_are_counted_apart() -> None:
    ragged = Prediction(row(shapes="[[64, 63]]", us=1), 4.0, "hbm", roofline_us=1.0, fixed_us=1.0)
    found = measure([*said((2, 1)), ragged])
    assert found.overall is not None and found.aligned is not None
    assert (found.overall.rows, found.aligned.rows) == (2, 1)
    assert found.aligned.median == pytest.approx(LN2)
    assert measure([ragged]).aligned is None


def test_the_worst_come_first_whichever_way_they_err() -> None:
    found = measure(said((10, 10), (1, 16), (8, 1), (3, 1)), worst=3)
    assert [(p.predicted_us, p.row.us) for p in found.worst] == [(1, 16), (8, 1), (3, 1)]


def test_nothing_measured_is_no_mishap() -> None:
    found = measure([])
    assert (found.overall, found.aligned, found.by_op, found.yardsticks, found.worst) == (None, None, {}, {}, ())


# ------------------------------------------------------------------------------- yardsticks


def yardsticks(op: str, dtype: str, shapes: tuple[tuple[int, ...], ...], chip: str) -> tuple[float, float]:
    machine = load_machine(chip)
    return rooflines(estimate(Request(op, DTYPES[dtype], shapes), machine), machine)


def test_a_copy_moves_twice_its_size() -> None:
    """1.6 MB in, 1.6 MB out at 1.6 TB/s are 2 us."""
    assert yardsticks("copy", "float16", ((800_000,),), "ascend910b2") == pytest.approx((2.0, 2.0 / 0.6 + 2))


@pytest.mark.parametrize("chip", ["ascend910b2", "ascend950pr"])
def test_the_peak_is_that_of_the_operands_type(chip: str) -> None:
    machine = load_machine(chip)
    for op, dtype in (("matmul", "float16"), ("quant_matmul", "int8")):
        rate = machine.cube.macs_per_cycle[DTYPES[dtype]].value * machine.aic_count * machine.clock_mhz.value
        bare, fixed = yardsticks(op, dtype, ((4096, 4096), (4096, 4096)), chip)
        assert bare == pytest.approx(4096**3 / rate)
        assert fixed == pytest.approx(4096**3 / rate / 0.7 + 5)


def test_what_parts_hand_over_is_no_traffic() -> None:
    """8 x 512 of 16 bit in, 512 x 256 of int8 with 256 scales of 16 bit, 8 x 256 of 16 bit out."""
    moved = 8 * 512 * 2 + 512 * 256 + 256 * 2 + 8 * 256 * 2
    bare, fixed = yardsticks("weight_quant_batch_matmul", "float16", ((8, 512), (512, 256)), "ascend910b2")
    assert bare == pytest.approx(moved / 1.6e6)
    assert fixed == pytest.approx(moved / 1.6e6 / 0.6 + 5)


# ------------------------------------------------------------------------------- fitting

OPS, CHIPS = ("add", "copy", "matmul"), ("ascend910b2", "ascend950pr")


@given(st.lists(st.tuples(st.sampled_from(OPS), st.sampled_from(CHIPS), st.floats(1, 100)), max_size=40))
def test_halves_balance_ops_and_chips(cells: list[tuple[str, str, float]]) -> None:
    rows = [row(op, us=us, chip=chip, line=line) for line, (op, chip, us) in enumerate(cells)]
    one, other = halves(rows)
    assert sorted(each.line for each in one + other) == list(range(len(rows)))
    assert 0 <= len(one) - len(other) <= 1
    many, few = (Counter((each.op, each.chip) for each in half) for half in (one, other))
    assert all(abs(many[kind] - few[kind]) <= 1 for kind in many | few)


def synthetic(values: dict[str, float], chip: str = "ascend910b2") -> list[MeasuredRow]:
    """Small kernels with the times that the model gives under other constants."""
    machine = with_constants(load_machine(chip).model_dump(mode="json"), values)
    asked = [row("copy", f"[[{size}]]", chip=chip) for size in (16, 4096, 65536)]
    asked += [row("add", f"[[{size}]]", chip=chip) for size in (16, 4096, 65536)]
    found = predict(asked, lambda _: machine)
    assert all(p.predicted_us is not None for p in found)
    return [row(p.row.op, p.row.shapes, p.predicted_us or 1.0, chip) for p in found]


def elsewhere(chip: str, name: str) -> float:
    """A value of a constant well away from the chip's own, within its range."""
    constant = next(each for each in CONSTANTS if each.name == name)
    found = load_machine(chip).model_dump(mode="json")
    for key in constant.place:
        found = found[key]
    own, span = found["value"], constant.high - constant.low
    return round(constant.low + (0.85 if own < constant.low + span / 2 else 0.15) * span, constant.digits)


def robust(rows: list[MeasuredRow], values: dict[str, float], chip: str = "ascend910b2") -> float:
    machine = with_constants(load_machine(chip).model_dump(mode="json"), values)
    errors = [p.log_error for p in predict(rows, lambda _: machine)]
    return sum(math.sqrt(1 + (error / SOFT) ** 2) - 1 for error in errors)


def test_a_fit_lowers_the_cost_that_it_states() -> None:
    pytest.importorskip("scipy")
    rows = synthetic({"launch.vector_ns": elsewhere("ascend910b2", "launch.vector_ns")})
    (found,) = fit(rows)
    assert found.rows == len(rows)
    assert found.cost_after < 0.2 * found.cost_before
    assert robust(rows, dict(found.values)) == pytest.approx(found.cost_after, abs=1e-9)
    for constant in CONSTANTS:
        if constant.name in found.values:
            assert constant.low <= found.values[constant.name] <= constant.high
            assert found.values[constant.name] == round(found.values[constant.name], constant.digits)
    predictions = predict(rows, changed(load_machine, {found.architecture: found.values}))
    overall = measure(predictions).overall
    assert overall is not None
    assert overall.p90_factor < 1.1


def test_architectures_are_fitted_apart_and_to_fitted_ops_alone() -> None:
    pytest.importorskip("scipy")
    rows = synthetic({}) + synthetic({}, "ascend950pr")
    left_out = [row("transpose", "[[64, 64]]", 900.0), row("conv2d", us=900.0), row(shapes="?", us=900.0)]
    found = fit(rows + left_out)
    assert [(each.architecture, each.rows) for each in found] == [
        (load_machine(chip).architecture, 6) for chip in CHIPS
    ]
    assert all(each.cost_after == pytest.approx(0, abs=0.05) for each in found)


def test_constants_replace_those_of_their_architecture() -> None:
    find = changed(load_machine, {load_machine("ascend950pr").architecture: {"sync_ns": 77}})
    assert find("ascend950pr").sync_ns.value == find("ascend950dt").sync_ns.value == 77
    assert find("ascend910b2") == load_machine("ascend910b2")
    with pytest.raises(InputError, match="unknown machine"):
        find("abacus")


@pytest.mark.parametrize("name", machine_names())
def test_every_constant_has_its_place_in_every_machine(name: str) -> None:
    data = load_machine(name).model_dump(mode="json")
    before = json.dumps(data)
    values = {constant.name: round((constant.low + constant.high) / 2, constant.digits) for constant in CONSTANTS}
    found = with_constants(data, values, "a test").model_dump(mode="json")
    assert json.dumps(data) == before, "the document given is left as it was"
    for constant in CONSTANTS:
        *keys, last = constant.place
        place = found
        for key in keys:
            place = place[key]
        assert place[last] == {"value": values[constant.name], "grade": Grade.FITTED.value, "source": "a test"}
        place[last] = None
    original = json.loads(before)
    for constant in CONSTANTS:
        *keys, last = constant.place
        place = original
        for key in keys:
            place = place[key]
        place[last] = None
    assert found == original, "everything else is left as it was"


def test_machine_files_keep_odd_sources_and_fractions() -> None:
    machine = with_constants(
        load_machine("ascend910b2").model_dump(mode="json"),
        {"exposed.vector": 0.125, "sync_ns": 200.0},
        'a "quoted} {"value": 3} source" with ümlaut',
    )
    text = machine_text(machine)
    assert Machine.model_validate(json.loads(text)) == machine
    assert '"value": 0.125' in text
    assert '"value": 200,' in text
    assert "ümlaut" in text
    assert text.endswith("}\n")


def test_a_fit_changes_its_architecture_alone(tmp_path: Path) -> None:
    kin = machines_of(load_machine("ascend910b2").architecture)
    assert len(kin) > 1
    files = write_fitted(Fit(kin[0].architecture, {"launch.cube_ns": 2222}, 3, 2.0, 1.0, 9), tmp_path, "t.csv")
    assert {path.stem for path in files} == {path.stem for path in tmp_path.iterdir()} == {m.name for m in kin}
    for machine in kin:
        written = load_machine(str(tmp_path / f"{machine.name}.json"))
        assert (written.launch.cube_ns.value, written.launch.cube_ns.grade) == (2222, Grade.FITTED)
        assert "3 kernels" in written.launch.cube_ns.source
        same = written.launch.model_copy(update={"cube_ns": machine.launch.cube_ns})
        assert written.model_copy(update={"launch": same}) == machine


# ------------------------------------------------------------------------------- the published table


@pytest.mark.skipif(not SHARED.is_file(), reason="the table of published kernel times is not here")
def test_the_model_beats_both_yardsticks_on_published_kernels() -> None:
    rows = read_rows(SHARED)
    predictions = predict(rows)
    assert [p.row for p in predictions] == rows
    assert all((p.predicted_us is None) == bool(p.why_not) for p in predictions)
    found = measure(predictions)
    assert found.overall is not None
    assert found.overall.rows + len(found.unmodelled) == len(rows)
    assert sum(errors.rows for errors in found.by_op.values()) == found.overall.rows
    for yardstick in found.yardsticks.values():
        assert yardstick.rows == found.overall.rows
        assert found.overall.median < yardstick.median
        assert found.overall.p90 < yardstick.p90
