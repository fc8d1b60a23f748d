"""The command that looks at the installation: what it finds, and what it makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from opt import doctor
from opt.cli import app
from opt.doctor import FINE, NOTE, WRONG, Finding

FINDINGS = [Finding("python", "3.11.7"), Finding("torch", "missing; part of the extra torch", NOTE)]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_this_installation_is_fit() -> None:
    found = {finding.name: finding for finding in doctor.examine()}
    assert [name for name, finding in found.items() if finding.verdict == WRONG] == []
    assert {"tilewright", "python", *doctor.REQUIRED, *doctor.EXTRAS, "cpus", "memory", "cache"} <= set(found)
    assert "by cpsat" in found["self-test"].found and "replayed" in found["self-test"].found


def test_what_is_missing_is_a_note_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    assert doctor._required("ortools").verdict == WRONG
    note = doctor._extra("torch", "torch")
    assert note.verdict == NOTE and "extra torch" in note.found


def test_a_self_test_that_fails_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no solver\nhere")

    monkeypatch.setattr(doctor.api, "solve", fail)
    assert doctor._self_test() == Finding("self-test", "RuntimeError: no solver here", WRONG)


def test_a_self_test_without_the_solvers_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = doctor.api.solve
    monkeypatch.setattr(doctor.api, "solve", lambda instance, *_, **__: solve(instance, 5, "greedy"))
    found = doctor._self_test()
    assert found.verdict == WRONG and "did not answer" in found.found


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "plans" / "mine"))
    assert doctor._cache().verdict == FINE
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TILEWRIGHT_CACHE", "")
    assert "none" in doctor._cache().found
    (tmp_path / "file").touch()
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "file"))
    assert doctor._cache().verdict == NOTE


@pytest.mark.parametrize(
    ("content", "limit"), [("max\n", None), ("1048576\n", 2**20), ("nonsense", None), (None, None)]
)
def test_the_memory_limit_of_a_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, limit: int | None
) -> None:
    path = tmp_path / "memory.max"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(doctor, "MEMORY_FILES", (str(path),))
    assert doctor._granted() == limit
    if limit is not None:
        assert doctor.memory_limit_bytes() == limit


def test_exit_codes_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: FINDINGS)
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.splitlines()[1].endswith("[note]")
    assert json.loads(run("--json")[1])["fit"] is True
    monkeypatch.setattr(doctor, "examine", lambda: [*FINDINGS, Finding("ortools", "missing", WRONG)])
    code, out, err = run("--json")
    assert code == 1
    assert err == "tilewright: ortools must be mended; see what was found above\n"
    answer = json.loads(out)
    assert answer["fit"] is False
    assert answer["findings"][-1] == {"name": "ortools", "found": "missing", "verdict": "wrong"}
