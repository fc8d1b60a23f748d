"""Reading, writing and fingerprinting of documents: whatever is wrong with a file is one sentence."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from instances import documents
from instances.documents import (
    canonical_json,
    digest,
    parse,
    read_document,
    read_json,
    read_text,
    write_document,
    write_text,
)
from instances.errors import InfeasibleError, InputError, InvalidScheduleError, NoScheduleError, TilewrightError
from instances.graph import Access, DType, Graph, Operator, OpKind, Role, Tensor, VectorClass
from instances.instance import Instance
from instances.machine import Figure, Grade, Machine, load_machine
from instances.schedule import Schedule


@pytest.fixture
def graph() -> Graph:
    """``y = x + x`` over 48 numbers, with a letter that is not ASCII."""
    return Graph(
        name="double 2×",
        tensors=(
            Tensor(name="x", shape=(48,), dtype=DType.FLOAT16, role=Role.INPUT),
            Tensor(name="y", shape=(48,), dtype=DType.FLOAT16, role=Role.OUTPUT),
        ),
        operators=(
            Operator(
                name="add",
                kind=OpKind.ELEMENTWISE,
                dims={"i": 48},
                reads=(Access(tensor="x", dims=("i",)), Access(tensor="x", dims=("i",))),
                writes=(Access(tensor="y", dims=("i",)),),
                vector={VectorClass.TWO_SOURCE: 48},
            ),
        ),
    )


# ------------------------------------------------------------------------------- there and back


def test_graph_survives_its_file(tmp_path: Path, graph: Graph) -> None:
    path = tmp_path / "graph.json"
    write_document(graph, path)
    again = read_document(Graph, path)
    assert again == graph
    assert again.fingerprint == graph.fingerprint
    assert "2×" in path.read_text(encoding="utf-8")  # readable, not escaped
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_every_kind_of_document_survives_its_file(tmp_path: Path, llama: Instance, scripted: Schedule) -> None:
    for number, document in enumerate((llama.graph, llama.machine, llama, scripted)):
        path = tmp_path / f"{number}.json"
        write_document(document, path)
        assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 1
        assert read_document(type(document), path) == document


def test_file_is_written_the_same_twice(tmp_path: Path, llama: Instance) -> None:
    """A document read and written again is the same bytes."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_document(llama, first)
    write_document(read_document(Instance, first), second)
    assert first.read_bytes() == second.read_bytes()


def test_canonical_json_depends_on_content_alone(graph: Graph) -> None:
    """Key order and defaults left out do not change the fingerprint; one element does."""
    data = json.loads(canonical_json(graph))
    shuffled = {key: data[key] for key in reversed(data)}
    del shuffled["schema_version"]
    assert Graph.model_validate(shuffled).fingerprint == graph.fingerprint
    data["operators"][0]["vector"]["two_source"] = 49
    assert Graph.model_validate(data).fingerprint != graph.fingerprint
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_documents_are_frozen(graph: Graph) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        graph.name = "other"  # type: ignore[misc]


# ------------------------------------------------------------------------------- what is wrong with a file


def broken(tmp_path: Path, content: str | bytes) -> str:
    """The sentence that reading a graph with this content ends in."""
    path = tmp_path / "graph.json"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_document(Graph, path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("version", [0, 2, "1", None, [1], 1.5])
def test_other_schema_versions_are_refused(tmp_path: Path, graph: Graph, version: Any) -> None:
    data = {**graph.model_dump(mode="json"), "schema_version": version}
    sentence = broken(tmp_path, json.dumps(data))
    assert f"schema_version {version!r} is unknown; this release reads version 1" in sentence


def test_version_is_judged_before_the_rest(tmp_path: Path) -> None:
    """A file of a later release is called that, and not full of unknown fields."""
    assert "schema_version 7 is unknown" in broken(tmp_path, '{"schema_version": 7, "nodes": []}')


def test_unknown_field_is_named(tmp_path: Path, graph: Graph) -> None:
    data = graph.model_dump(mode="json")
    data["operators"][0]["flops"] = 96
    assert "operators.0.flops: Extra inputs are not permitted (value 96)" in broken(tmp_path, json.dumps(data))


def test_missing_field_is_named(tmp_path: Path, graph: Graph) -> None:
    data = graph.model_dump(mode="json")
    del data["tensors"][1]["dtype"]
    assert "tensors.1.dtype: Field required" in broken(tmp_path, json.dumps(data))


def test_further_problems_are_counted(tmp_path: Path, graph: Graph) -> None:
    data = graph.model_dump(mode="json")
    for tensor in data["tensors"]:
        tensor["dtype"] = "float128"
    assert "; 1 more like it" in broken(tmp_path, json.dumps(data))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(tmp_path: Path, graph: Graph, word: str) -> None:
    text = json.dumps({**graph.model_dump(mode="json")}).replace('"density": 1.0', f'"density": {word}')
    assert word in text
    assert "operators.0.density" in broken(tmp_path, text)


def test_nan_in_a_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    text = json.dumps(load_machine("ascend910b2").model_dump(mode="json"))
    path.write_text(text.replace('"clock_mhz": {"value": 1800.0', '"clock_mhz": {"value": NaN'), encoding="utf-8")
    with pytest.raises(InputError, match=r"clock_mhz\.value: "):
        read_document(Machine, path)
    with pytest.raises(ValidationError):
        Figure(value=float("nan"), grade=Grade.OFFICIAL, source="none at all")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(tmp_path: Path, opening: str, closing: str) -> None:
    depth = 200_000
    assert "nested too deeply" in broken(tmp_path, opening * depth + "1" + closing * depth)


def test_moderate_nesting_is_refused_too(tmp_path: Path) -> None:
    """Shallow enough to be parsed, but not what a name looks like."""
    sentence = broken(tmp_path, '{"name":' + "[" * 500 + "]" * 500 + "}")
    assert "name: Input should be a valid string" in sentence


def test_absurd_number_is_refused(tmp_path: Path) -> None:
    assert "absurd number" in broken(tmp_path, '{"name": ' + "9" * 10_000 + "}")


def test_no_utf8_is_refused(tmp_path: Path) -> None:
    assert "byte 9 is not UTF-8; save the file as UTF-8" in broken(tmp_path, b'{"name":"\xff"}')


def test_utf16_is_refused(tmp_path: Path) -> None:
    assert "is not UTF-8" in broken(tmp_path, '{"name": "g"}'.encode("utf-16"))


def test_lone_surrogate_is_refused(tmp_path: Path, graph: Graph) -> None:
    text = json.dumps(graph.model_dump(mode="json")).replace('"add"', '"\\ud800"')
    assert "operators.0.name" in broken(tmp_path, text)


def test_broken_json_is_placed(tmp_path: Path) -> None:
    assert "line 2 column 9 is not JSON" in broken(tmp_path, '{\n"name": }')


@pytest.mark.parametrize("content", ["", " ", "{", "null and void"])
def test_half_a_file_is_refused(tmp_path: Path, content: str) -> None:
    assert "is not JSON" in broken(tmp_path, content)


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("3", "int"), ("null", "NoneType"), ('"a"', "str")])
def test_other_json_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    assert f"holds a {kind}, not a JSON object; expected the graph format" in broken(tmp_path, content)


def test_long_values_are_cut(tmp_path: Path, graph: Graph) -> None:
    """A name of 10000 letters does not fill the screen."""
    data = {**graph.model_dump(mode="json"), "name": "n" * 10_000}
    assert len(broken(tmp_path, json.dumps(data))) < 300 + len(str(tmp_path))


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; give the path of a file"):
        read_document(Graph, tmp_path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check the path"):
        read_text(tmp_path / "none.json")


def test_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / "file" / "inner.json")


def test_path_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_text("a\0b.json")


def test_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    (tmp_path / "big.json").write_text("x" * 11, encoding="utf-8")
    with pytest.raises(InputError, match="holds more than the limit of 10 bytes"):
        read_text(tmp_path / "big.json")


def test_parse_names_its_source() -> None:
    with pytest.raises(InputError, match=r"^machine tiny: name: Field required"):
        parse(Machine, {"schema_version": 1}, "machine tiny")


# ------------------------------------------------------------------------------- writing


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writing_leaves_one_file(tmp_path: Path, graph: Graph) -> None:
    for _ in range(2):  # the second time over the first
        write_document(graph, tmp_path / "graph.json")
        assert listing(tmp_path) == ["graph.json"]


def test_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    """As any program would create it, not the 0600 of a temporary file."""
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def failing(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(documents.os, step, failing)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is renamed, the file under the final name is the old one, whole."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    seen = []
    rename: Callable[[str, Path], None] = os.replace

    def watch(source: str, target: Path) -> None:
        seen.append((Path(source).read_text(encoding="utf-8"), path.read_text(encoding="utf-8")))
        assert Path(source).parent == path.parent  # the same folder, so that renaming is atomic
        rename(source, target)

    monkeypatch.setattr(documents.os, "replace", watch)
    write_text(path, "new")
    assert seen == [("new", "old")]
    assert path.read_text(encoding="utf-8") == "new"


def test_writing_to_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; give the path of a file to write"):
        write_text(tmp_path, "a")
    assert listing(tmp_path) == []


def test_writing_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "none" / "a.txt", "a")


def test_writing_under_too_long_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / ("n" * 300), "a")
    assert listing(tmp_path) == []


def test_writing_under_a_name_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_text("a\0b.json", "a")


# ------------------------------------------------------------------------------- errors


def test_exit_codes() -> None:
    codes = {
        TilewrightError: 2,
        InputError: 2,
        NoScheduleError: 1,
        InfeasibleError: 3,
        InvalidScheduleError: 4,
    }
    assert all(issubclass(error, TilewrightError) and error.exit_code == code for error, code in codes.items())


def test_recursion_limit_is_untouched(tmp_path: Path) -> None:
    before = sys.getrecursionlimit()
    broken(tmp_path, "[" * 100_000)
    assert sys.getrecursionlimit() == before
