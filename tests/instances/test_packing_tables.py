"""Tables of buffers: read, written, and what is wrong with an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from instances.errors import InputError
from instances.packing import Buffer, Gap, faults, greatest_load, read_buffers, write_buffers


def buffer(name: str, lower: int, upper: int, size: int, alignment: int = 1, offset: int | None = None) -> Buffer:
    return Buffer(id=name, lower=lower, upper=upper, size=size, alignment=alignment, offset=offset)


def test_a_table_is_read_and_written(tmp_path: Path) -> None:
    path, answer = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("\ufeffid,lower,upper,size,alignment,offset\na,0,3,4,,\nb,3,9,8,4,12\n")
    found = read_buffers(path)
    assert found == [buffer("a", 0, 3, 4), buffer("b", 3, 9, 8, 4, 12)]
    write_buffers(found, [0, 12], answer)
    assert answer.read_text() == "id,lower,upper,size,alignment,offset\na,0,3,4,1,0\nb,3,9,8,4,12\n"
    assert [each.offset for each in read_buffers(answer)] == [0, 12]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,lower,upper\n", "line 1 lacks the column 'size'"),
        ("id,lower,upper,size,colour\na,0,1,2,red\n", "has the column 'colour', which is not read"),
        ("id,lower,upper,size\n", "holds no buffers"),
        ("id,lower,upper,size\na,0,1,x\n", "line 2: size: .*'x'"),
        ("id,lower,upper,size\na,0,1,0\n", "line 2: size: "),
        ("id,lower,upper,size\na,0,1\n", "line 2: size: Field required"),
        ("id,lower,upper,size\na,3,3,1\n", "buffer 'a' ends at 3, no later than it begins"),
        ("id,lower,upper,size\na,0,1,1\na,0,1,1\n", "two buffers are called 'a'"),
        ("id,lower,upper,size,size\na,0,1,2,3\n", "has the column 'size' twice"),
        ("id,lower,upper,size,gaps\na,0,9,8,3\n", "line 2: gap '3' is none"),
        ("id,lower,upper,size,gaps\na,0,9,8,3-5 4-6\n", "has the gap 4-6, which does not follow"),
        ("id,lower,upper,size,gaps\na,0,9,8,3-10\n", "has the gap 3-10, which does not follow"),
        ("id,lower,upper,size,gaps\na,0,9,8,3-5@4:9\n", "which is not within its 8 bytes"),
        ("id,start,end,size\na,0,x,1\n", "line 2: .*'x'"),
        ("id,lower,upper,size,alignment,offset\na,0,1,1,4,6\n", "is given offset 6, no multiple of 4"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read_buffers(path)


def test_gaps_and_hints(tmp_path: Path) -> None:
    """MiniMalloc's columns; what comes out of the writer is read as what went in."""
    path, answer = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("id,lower,upper,size,hint,gaps\na,0,9,8,16,2-4 5-7@0:4\nb,0,3,4,-1,\n")
    a, b = read_buffers(path)
    assert a.hint == 16
    assert a.spans() == [(0, 2, 0, 8), (4, 5, 0, 8), (5, 7, 0, 4), (7, 9, 0, 8)]
    assert (b.hint, b.spans()) == (None, [(0, 3, 0, 4)])
    write_buffers([a, b], [0, 8], answer)
    assert answer.read_text() == "id,lower,upper,size,hint,gaps,offset\na,0,9,8,16,2-4 5-7@0:4,0\nb,0,3,4,-1,,8\n"
    assert [each.model_copy(update={"offset": None}) for each in read_buffers(answer)] == [a, b]


def test_older_names_of_columns(tmp_path: Path) -> None:
    """An ``end`` is the last instant itself, and so are the ends of gaps then."""
    path = tmp_path / "old.csv"
    path.write_text("buffer,start,end,size,gaps\na,0,8,8,2-3\n")
    (a,) = read_buffers(path)
    assert (a.id, a.lower, a.upper, a.spans()) == ("a", 0, 9, [(0, 2, 0, 8), (4, 9, 0, 8)])


def test_what_is_not_held_neither_loads_nor_overlaps() -> None:
    """b lives in a's gap, at its place; c overlaps the half of a that is held over [5, 7)."""
    a = Buffer(id="a", lower=0, upper=9, size=8, gaps=(Gap(lower=3, upper=5), Gap(lower=5, upper=7, low=0, high=4)))
    found = [a, buffer("b", 3, 5, 8), buffer("c", 5, 7, 4)]
    assert greatest_load(found) == (8, 0)
    assert faults(found, [0, 0, 4]) == []
    assert faults(found, [0, 0, 3]) == ["buffers 'a' and 'c' overlap by 1 bytes from 3 on, at time 5"]


def test_greatest_load() -> None:
    """At 2 a and b live, 12 bytes; at 5 b has gone and c comes, 9; rounded up to 8 bytes 8 + 8 at 2."""
    found = [buffer("a", 0, 9, 5), buffer("b", 2, 5, 7), buffer("c", 5, 7, 4)]
    assert greatest_load(found) == (12, 2)
    assert greatest_load(found, 8) == (16, 2)
    assert greatest_load([]) == (0, 0)


def test_faults_are_named_with_place_and_amount() -> None:
    found = [buffer("a", 0, 4, 8), buffer("b", 3, 6, 8, 4), buffer("c", 6, 7, 8, 1, 16)]
    assert faults(found, [0, 8, 16], 24) == []
    assert faults(found, [0, 6, 16]) == [
        "buffer 'b' at 6 is 2 bytes past a multiple of 4",
        "buffers 'a' and 'b' overlap by 2 bytes from 6 on, at time 3",
    ]
    assert faults(found, [-1, 8, 8], 15) == [
        "buffer 'a' at -1 begins 1 bytes below 0",
        "buffer 'b' at 8 ends 1 bytes beyond 15",
        "buffer 'c' at 8 ends 1 bytes beyond 15",
        "buffer 'c' at 8 is given a place of its own, 16",
    ]
