"""Replacement problems at the command line and their replay: every rule is named when it is broken."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import opt.replacement as replacement
from instances.errors import InputError
from instances.memory_time import Timing
from instances.replacement import Part, Plan, Problem, Use, Whole
from opt.replay.replacement import map_faults, plan_faults
from tests.opt.test_cli import fails, tilewright
from tests.opt.test_hostile import SETTINGS, broken, outcome


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


# ------------------------------------------------------------------------------- time as the objective


def best_map_ns(problem: Problem) -> int:
    """Least time over all sets of fast tensors that fit at every step, addresses aside."""
    timing = Timing(problem)
    gaining = [t.name for t in problem.tensors if timing.gain_ns(t.name) > 0]
    best = None
    for chosen in itertools.product((False, True), repeat=len(gaining)):
        fast = {name for name, flag in zip(gaining, chosen, strict=True) if flag}
        steps = range(len(problem.operators))
        held = [sum(problem.room(n) for n in fast if timing.life(n)[0] <= s <= timing.life(n)[1]) for s in steps]
        if max(held) <= problem.capacity_bytes:
            time_ns = timing.total_ns(fast)
            best = time_ns if best is None else min(best, time_ns)
    assert best is not None
    return best


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_maps_are_exact(share: float) -> None:
    """Equal to the best of all sets of fast tensors; the greedy map is no better, and bounds hold for both."""
    whole = replacement.network("transformer-block")
    problem = whole.model_copy(update={"capacity_bytes": int(share * whole.capacity_bytes)})
    exact = replacement.solve_mapping(problem, time_limit=30, workers=1)
    greedy = replacement.solve_mapping(problem, "greedy")
    assert exact.time_ns == exact.bound_ns == best_map_ns(problem)
    assert greedy.bound_ns <= exact.time_ns <= greedy.time_ns
    assert map_faults(problem, exact) == []
    assert exact.time_ns <= Timing(problem).total_ns(())


def test_wrong_maps_are_named(problem: Problem) -> None:
    found = replacement.solve_mapping(problem, time_limit=10, workers=1)
    first = found.fast[0]
    changes = {
        "another problem": {"problem": "0"},
        "is no tensor": {"fast": (*found.fast, first.model_copy(update={"tensor": "nothing"}))},
        "2 times": {"fast": (*found.fast, first)},
        "beyond the scratchpad": {"fast": (first.model_copy(update={"offset_bytes": 10**9}), *found.fast[1:])},
        "share": {"fast": tuple(one.model_copy(update={"offset_bytes": 0}) for one in found.fast)},
        "the map says": {"time_ns": found.time_ns + 1},
        "above the time": {"bound_ns": found.time_ns + 1},
    }
    for words, change in changes.items():
        wrong = map_faults(problem, found.model_copy(update=change))
        assert any(words in sentence for sentence in wrong), (words, wrong)


def test_time_at_the_command_line(tmp_path: Path, problem: Problem) -> None:
    asked, answer = tmp_path / "p.json", tmp_path / "map.json"
    replacement.save_document(problem, asked)
    outcome = tilewright("solve", asked, "--objective", "time", "-o", answer, "--json", "--time-limit", "20")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["bound"] <= told["objective"] <= told["slow_ns"]
    assert tilewright("validate", asked, answer).code == 0
    assert "makes no memory map" in fails(2, "solve", asked, "--objective", "time", "--solver", "lru")
    assert "objective 'energy' is unknown" in fails(2, "solve", asked, "--objective", "energy")


def test_the_benchmark_goes_on_where_its_table_ends(tmp_path: Path) -> None:
    table, page = tmp_path / "runs.csv", tmp_path / "page.md"
    command = ("benchmark", "replacement", "--only", "transformer", "--time-limit", "10", "-o", table, "--page", page)
    assert tilewright(*command).code == 0
    first = table.read_text(encoding="utf-8")
    assert "2 of 2 proven optimal" in page.read_text(encoding="utf-8") or first.count("\n") > 3
    assert tilewright(*command).code == 0
    assert table.read_text(encoding="utf-8") == first


@SETTINGS
@given(data=st.data())
def test_broken_problems_and_plans(tmp_path: Path, problem: Problem, plan: Plan, data: st.DataObject) -> None:
    """What still reads can be asked and judged; all else is one sentence."""
    path = tmp_path / "odd.json"
    path.write_bytes(data.draw(broken(problem.model_dump(mode="json"))))
    if (found := outcome(lambda: replacement.load_problem(path))) is not None:
        assert plan_faults(found, replacement.solve_replacement(found, "belady")) == []
    path.write_bytes(data.draw(broken(plan.model_dump(mode="json"))))
    if (answer := outcome(lambda: replacement.load_plan(path))) is not None:
        wrong = plan_faults(problem, answer)
        assert wrong or answer.stays == plan.stays or answer.extra_bytes == plan.extra_bytes
