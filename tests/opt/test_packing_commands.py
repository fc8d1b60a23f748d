"""Packing through the library and the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opt
from instances.errors import InfeasibleError, InputError
from instances.packing import Buffer, faults, greatest_load, random_buffers, read_buffers
from tests.opt.test_cli import fails, tilewright

TABLE = "id,lower,upper,size\na,0,4,8\nb,2,6,8\nc,5,9,8\nd,0,9,4\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def buffers(*rows: tuple[int, int, int]) -> list[Buffer]:
    return [Buffer(id=str(i), lower=a, upper=b, size=size) for i, (a, b, size) in enumerate(rows)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda lower, length, size, step: (lower, lower + length, size, step),
            st.integers(0, 20),
            st.integers(1, 9),
            st.integers(1, 9),
            st.sampled_from([1, 2, 4]),
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([1, 4]),
    st.integers(0, 12),
)
def test_packings_hold(rows: list[tuple[int, int, int, int]], alignment: int, spare: int) -> None:
    """Either a packing without a fault, or a proof that there is none."""
    asked = [
        Buffer(id=str(i), lower=low, upper=up, size=size, alignment=step)
        for i, (low, up, size, step) in enumerate(rows)
    ]
    capacity = greatest_load(asked, alignment)[0] + spare
    try:
        offsets = opt.pack(asked, capacity, alignment, workers=1)
    except InfeasibleError:
        return
    assert faults(asked, offsets, capacity) == []
    assert all(offset % alignment == 0 for offset in offsets)


def test_given_places_are_kept() -> None:
    asked = [*buffers((0, 4, 8), (2, 6, 8)), Buffer(id="given", lower=0, upper=9, size=4, offset=8)]
    offsets = opt.pack(asked, 20)
    assert offsets[2] == 8
    assert faults(asked, offsets, 20) == []
    with pytest.raises(
        InfeasibleError, match=r"2 of 2 buffers do not fit into 14 bytes, though no more than 12 live .*: '0', 'given'"
    ):
        opt.pack([*buffers((0, 4, 8)), Buffer(id="given", lower=0, upper=9, size=4, offset=7)], 14)


def test_too_much_at_one_instant() -> None:
    with pytest.raises(InfeasibleError, match="live at time 2 take 16 bytes, 1 more than 15"):
        opt.pack(buffers((0, 4, 8), (2, 6, 8)), 15)


@pytest.mark.parametrize(("capacity", "alignment"), [(0, 1), (8, 0), (-1, 1)])
def test_sizes_that_are_none(capacity: int, alignment: int) -> None:
    with pytest.raises(InputError, match="give positive numbers of bytes"):
        opt.pack(buffers((0, 4, 8)), capacity, alignment)


def test_nothing_to_pack() -> None:
    assert opt.pack([], 8) == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(1, 6)).map(lambda b: (b[0], b[0] + b[1], b[2])),
        min_size=1,
        max_size=7,
    )
)
def test_the_lowest_packing_is_bounded_from_below(rows: list[tuple[int, int, int]]) -> None:
    """It is proven lowest, and one byte less is proven too little."""
    asked = buffers(*rows)
    found = opt.pack_lowest(asked, time_limit=20, workers=1)
    assert found.height == found.bound >= greatest_load(asked)[0]
    assert faults(asked, found.offsets, found.height) == []
    if found.height > 1:
        with pytest.raises(InfeasibleError):
            opt.pack(asked, found.height - 1, workers=1)


def test_places_that_contradict() -> None:
    asked = [Buffer(id=name, lower=0, upper=2, size=4, offset=offset) for name, offset in (("a", 0), ("b", 2))]
    with pytest.raises(InfeasibleError, match="cannot be packed at all"):
        opt.pack_lowest(asked)


def test_commands(table: Path, tmp_path: Path) -> None:
    answer = tmp_path / "answer.csv"
    out = tilewright("solve", table, "--capacity", "20", "-o", answer, "--json")
    assert out.code == 0
    data = json.loads(out.out)
    assert (data["objective"], data["bound"], data["status"], data["bound_by"]) == (20, 20, "optimal", "load")
    assert set(data["offsets"]) == {"a", "b", "c", "d"}
    assert "valid" in tilewright("validate", table, answer, "--capacity", "20").out
    assert json.loads(tilewright("validate", table, answer, "--json").out) == {
        "valid": True,
        "height": 20,
        "violations": [],
    }
    lines = answer.read_text().splitlines()
    answer.write_text("\n".join([lines[0], *(line.rsplit(",", 1)[0] + ",0" for line in lines[1:])]))
    wrong = tilewright("validate", table, answer, "--capacity", "20")
    assert wrong.code == 4
    assert "overlap by" in wrong.out


def test_command_without_a_capacity(table: Path) -> None:
    data = json.loads(tilewright("solve", table, "--json", "--time-limit", "20").out)
    assert (data["status"], data["objective"], data["bound"], data["capacity"]) == ("optimal", 20, 20, None)


def test_random_tables(tmp_path: Path) -> None:
    """Drawn by seed; what is written is read as it was drawn, and packs."""
    path, again = tmp_path / "random.csv", tmp_path / "again.csv"
    assert tilewright("buffers", "200", "--longest", "20", "-o", path).code == 0
    assert tilewright("buffers", "200", "--longest", "20", "-o", again).code == 0
    assert path.read_text() == again.read_text()
    found = read_buffers(path)
    assert found == random_buffers(200, 20)
    assert max(buffer.upper - buffer.lower for buffer in found) <= 20
    data = json.loads(tilewright("solve", path, "--time-limit", "10", "--json").out)
    assert data["gap"] < 0.03
    assert "give numbers above zero" in fails(2, "buffers", "0", "-o", path)


def test_methods_side_by_side(table: Path, tmp_path: Path) -> None:
    """All four blocks take 20 bytes in every method; the table says so, and the CSV holds it."""
    output = tmp_path / "methods.csv"
    names = "packing,skyline,first-fit,omnimalloc:best_fit"
    out = tilewright("compare", table, "--solvers", names, "--time-limit", "5", "-o", output)
    assert out.code == 0
    rows = list(csv.DictReader(output.open()))
    assert [row["method"] for row in rows] == names.split(",")
    assert {row["bound"] for row in rows} == {"20"}
    assert rows[0]["status"] == "optimal"
    assert all(int(row["height"]) >= 20 for row in rows)
    fit = tilewright("compare", table, "--capacity", "20", "--time-limit", "5")
    assert "fits" in fit.out
    assert "packing method 'magic' is unknown" in fails(2, "compare", table, "--solvers", "magic")
    assert "omnimalloc has no 'magic'" in fails(2, "compare", table, "--solvers", "omnimalloc:magic")


def test_commands_refuse(table: Path, tmp_path: Path) -> None:
    assert "take 20 bytes, 1 more than 19" in fails(3, "solve", table, "--capacity", "19")
    assert "format 'xml' is unknown" in fails(2, "solve", table, "--format", "xml")
    assert "gives no offset to buffer 'a'" in fails(2, "validate", table, table)
    assert "named twice" in fails(2, "solve", table, "--capacity", "20", "-o", table)
