"""The contest's files through the commands: solved, judged under other rules, refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instances.subgraphs import read_subgraph_problem, read_subgraph_solution, write_subgraph_solution
from opt.cli import app
from tests.subgraphs.contest import CHAINED, random_problem

RUN = CliRunner()


def run(*arguments: object) -> Any:
    """A command; its clock starts now."""
    import time

    return RUN.invoke(app, [str(argument) for argument in arguments], obj=time.monotonic())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "problem.json").write_text(CHAINED.model_dump_json())
    return tmp_path


def test_solve_and_validate(folder: Path) -> None:
    answer = folder / "solution.json"
    solved = run("solve", folder / "problem.json", "-o", answer, "--json", "--quiet")
    assert solved.exit_code == 0, solved.output
    told = json.loads(solved.stdout)
    assert told["status"] == "optimal" and told["bound_by"] == "enumeration"
    assert told["judged"] == pytest.approx(told["objective"])
    judged = run("validate", folder / "problem.json", answer, "--json")
    assert judged.exit_code == 0
    assert json.loads(judged.stdout)["objective"] == pytest.approx(told["objective"])
    solution = read_subgraph_solution(answer)
    write_subgraph_solution(solution, folder / "again.json")
    assert (folder / "again.json").read_text() == answer.read_text()


def test_a_broken_solution_is_named(folder: Path) -> None:
    answer = folder / "solution.json"
    answer.write_text(json.dumps({"subgraphs": [[0, 1]], "granularities": [[128, 128, 128]]}))
    judged = run("validate", folder / "problem.json", answer)
    assert judged.exit_code == 4
    assert "step 0: R8: needs 65536" in judged.output


@pytest.mark.parametrize(
    ("rule", "words"),
    [("A9=x", "there is no such rule"), ("inner=whole", "inner is grid or own or strict"), ("carry", "carry is")],
)
def test_rules_that_are_none(folder: Path, rule: str, words: str) -> None:
    answer = folder / "solution.json"
    answer.write_text(json.dumps({"subgraphs": [[0], [1]], "granularities": [[64, 64, 64], [64, 64, 64]]}))
    judged = run("validate", folder / "problem.json", answer, "--rule", rule)
    assert judged.exit_code == 2
    assert words in judged.output


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({"base_costs": [1]}, "base_costs has 1 entries for 2 operators"),
    "tensor": ({"inputs": [[0, 9], [3, 2]]}, "operator 0 names tensor 9"),
    "shape": ({"widths": [64, 128, 128, 128, 128]}, "do not go together"),
    "kind": ({"op_types": ["MatMul", "Softmax"]}, "op_types.1"),
    "cycle": ({"inputs": [[4, 1], [3, 2]]}, "cycle"),
    "two writers": ({"outputs": [[3], [3]]}, "is written by operators 0 and 1"),
    "capacity": ({"fast_memory_capacity": 0}, "fast_memory_capacity"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_problems_that_make_no_sense(folder: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    content = json.loads(CHAINED.model_dump_json()) | change
    (folder / "problem.json").write_text(json.dumps(content))
    solved = run("solve", folder / "problem.json")
    assert solved.exit_code == 2
    assert words in solved.output
    assert "Traceback" not in solved.output


def test_nothing_fits(folder: Path) -> None:
    content = json.loads(CHAINED.model_dump_json()) | {"fast_memory_capacity": 2}
    (folder / "problem.json").write_text(json.dumps(content))
    solved = run("solve", folder / "problem.json", "--time-limit", 2)
    assert solved.exit_code == 1
    assert "raise the capacity" in solved.output


def test_larger_problem_with_progress(tmp_path: Path) -> None:
    (tmp_path / "problem.json").write_text(random_problem(3, 30, 4).model_dump_json())
    solved = run("solve", tmp_path / "problem.json", "--time-limit", 2, "-o", tmp_path / "solution.json")
    assert solved.exit_code == 0, solved.output
    assert read_subgraph_problem(tmp_path / "problem.json").count == 30
    assert run("validate", tmp_path / "problem.json", tmp_path / "solution.json").exit_code == 0
    other = run("compare", tmp_path / "problem.json")
    assert other.exit_code == 2 and "use solve and validate" in other.output
