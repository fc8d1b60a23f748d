"""Replacement problems at the command line and their replay: every rule is named when it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import opt.replacement as replacement
from instances.errors import InputError
from instances.replacement import Part, Plan, Problem, Use, Whole
from opt.replay.replacement import plan_faults
from tests.opt.test_cli import fails, tilewright


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Two modules of Inception-v3 in less room than they would like."""
    return replacement.network("inception-modules", capacity_bytes=960_000)


@pytest.fixture(scope="module")
def plan(problem: Problem) -> Plan:
    return replacement.solve_replacement(problem, time_limit=20, workers=1)


def test_the_plan_is_optimal_and_beats_policies(problem: Problem, plan: Plan) -> None:
    assert plan.extra_bytes == plan.bound_bytes > 0
    for name in ("belady", "lru", "greedy", "order-first", "packing-only"):
        assert replacement.solve_replacement(problem, name, time_limit=10, workers=1).extra_bytes >= plan.extra_bytes


Change = Callable[[Problem, Plan], dict[str, object]]


def _stay(plan: Plan, fetched: bool, **change: object) -> dict[str, object]:
    """The plan's stays with the first one of a kind changed."""
    stays = list(plan.stays)
    n = next(n for n, stay in enumerate(stays) if stay.fetched is fetched and stay.last > stay.first)
    stays[n] = stays[n].model_copy(update=change)
    return {"stays": tuple(stays)}


MISTAKES: dict[str, tuple[Change, str]] = {
    "another problem": (lambda q, p: {"problem": "0" * 64}, "another problem"),
    "an operator twice": (lambda q, p: {"order": (*p.order, p.order[0])}, "runs 2 times"),
    "an operator left out": (lambda q, p: {"order": p.order[:-1]}, "runs 0 times"),
    "an unknown operator": (lambda q, p: {"order": (*p.order, "nobody")}, "is no operator"),
    "against precedence": (lambda q, p: {"order": p.order[::-1]}, "before it is made"),
    "a stay left out": (lambda q, p: {"stays": p.stays[1:]}, "is not in the scratchpad at step"),
    "a stay too short": (lambda q, p: _stay(p, False, last=0), "is not in the scratchpad at step"),
    "beyond the end": (lambda q, p: _stay(p, False, offset_bytes=q.capacity_bytes // 64 * 64), "beyond the scratchpad"),
    "misaligned": (lambda q, p: _stay(p, False, offset_bytes=1), "no multiple of 64"),
    "made, not fetched": (
        lambda q, p: {"stays": tuple(s.model_copy(update={"fetched": False}) for s in p.stays)},
        "nor",
    ),
    "never written back": (lambda q, p: {"spilled": ()}, "never written back"),
    "an input written back": (lambda q, p: {"spilled": (*p.spilled, "image")}, "is no inner tensor"),
    "traffic": (lambda q, p: {"extra_bytes": p.extra_bytes - 1, "bound_bytes": 0, "bounds_bytes": {}}, "the plan says"),
    "bound": (lambda q, p: {"bound_bytes": p.bound_bytes + 1}, "bound of"),
    "unknown tensor": (lambda q, p: _stay(p, True, tensor="nothing"), "is no tensor"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(problem: Problem, plan: Plan, mistake: str) -> None:
    change, words = MISTAKES[mistake]
    wrong = plan_faults(problem, plan.model_copy(update=change(problem, plan)))
    assert any(words in sentence for sentence in wrong), wrong


def test_overlaps_are_named(problem: Problem, plan: Plan) -> None:
    flat = plan.model_copy(update={"stays": tuple(s.model_copy(update={"offset_bytes": 0}) for s in plan.stays)})
    assert any("share" in sentence for sentence in plan_faults(problem, flat))


def test_commands(tmp_path: Path) -> None:
    """Make, solve, validate, report and compare; a plan changed by hand is refused with exit code 4."""
    asked, answer, page = tmp_path / "p.json", tmp_path / "plan.json", tmp_path / "map.html"
    assert tilewright("network", "inception-modules", "--batch", "8", "-o", asked).code == 0
    outcome = tilewright("solve", asked, "-o", answer, "--time-limit", "20", "--json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["status"] == "optimal"
    assert told["objective"] == told["bound"] == replacement.load_plan(answer).extra_bytes
    assert "covers" in outcome.err
    assert tilewright("validate", asked, answer).code == 0
    assert tilewright("report", asked, answer, "-o", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "written back before" in text
    outcome = tilewright(
        "compare", asked, "--solvers", "exact,belady,milp", "--time-limit", "20", "-o", tmp_path / "t.csv"
    )
    assert outcome.code == 0
    assert (tmp_path / "t.csv").read_text(encoding="utf-8").count("\n") == 4
    broken = json.loads(answer.read_text(encoding="utf-8"))
    broken["extra_bytes"] += 2
    answer.write_text(json.dumps(broken), encoding="utf-8")
    outcome = tilewright("validate", asked, answer)
    assert outcome.code == 4
    assert "the plan says" in outcome.out
    assert "is invalid" in fails(4, "report", asked, answer, "-o", page)


def test_bad_questions(tmp_path: Path, problem: Problem) -> None:
    path = tmp_path / "p.json"
    replacement.save_document(problem, path)
    assert "capacity 5 is too little" in fails(2, "solve", path, "--capacity", "5")
    assert "replacement solver 'nobody' is unknown" in fails(2, "solve", path, "--solver", "nobody")
    assert "PuLP has no solver 'GUROBI_CMD_NOT'" in fails(2, "solve", path, "--solver", "milp:GUROBI_CMD_NOT")
    with pytest.raises(InputError, match="too little"):
        replacement.within(problem, 1)


BAD = {
    "reads before it is made": ((("a", ("t",), ("y",)), ("b", ("x",), ("t",))), "before it is made"),
    "made twice": ((("a", ("x",), ("t",)), ("b", ("x",), ("t",))), "is there already"),
    "unknown tensor": ((("a", ("z",), ("t",)),), "which is not listed"),
    "unused tensor": ((("a", ("x",), ("t",)),), "is used by no operator"),
    "one name twice": ((("a", ("x",), ("t",)), ("a", ("t",), ("y",))), "two operators have one name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_contradictions(kind: str) -> None:
    operators, words = BAD[kind]
    tensors = tuple(
        Whole(name=name, size_bytes=4, part=part)
        for name, part in (("x", Part.INPUT), ("t", Part.INNER), ("y", Part.OUTPUT))
    )
    with pytest.raises(ValueError, match=words):
        Problem(
            name="bad",
            capacity_bytes=100,
            tensors=tensors,
            operators=tuple(Use(name=n, reads=reads, writes=writes) for n, reads, writes in operators),
        )


def test_names_are_escaped_in_pages() -> None:
    from reports.replacement import map_page

    name = "<script>alert(1)</script>"
    asked = Problem(
        name=name,
        capacity_bytes=8,
        tensors=(Whole(name=name, size_bytes=4, part=Part.INPUT), Whole(name="y", size_bytes=4, part=Part.OUTPUT)),
        operators=(Use(name="a", reads=(name,), writes=("y",)),),
    )
    assert "<script>" not in map_page(asked, replacement.solve_replacement(asked))
