"""Rows, their gaps and their summary; the benchmark's page and the best-known values that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

import opt
from instances.errors import InputError
from opt.benchmarks import (
    BestKnown,
    Case,
    cases,
    form,
    improve_best_known,
    read_best_known,
    write_best_known,
)
from opt.comparison import Row, as_csv, as_markdown, beside, from_csv, summarise
from opt.results_page import results_page


def row(solver: str, objective: int | None, bound: int | None, instance: str = "one", machine: str = "a") -> Row:
    """A row as a run leaves it."""
    status = "no schedule" if objective is None else "feasible"
    return Row(
        instance,
        machine,
        solver,
        solver,
        objective,
        bound,
        "relaxation",
        None,
        None,
        "l2_work",
        1.5,
        0,
        2,
        status,
        9,
        300,
    )


ROWS = beside([row("x", 100, 80), row("y", 90, 90), row("x", 50, 40, "two"), row("y", None, None, "two")])


def test_gaps_are_to_the_best_bound_of_any() -> None:
    assert [r.gap_to_best_bound for r in ROWS] == [0.1, 0.0, 0.2, None]
    assert [r.best_bound_ns for r in ROWS] == [90, 90, 40, 40]
    assert [r.status for r in ROWS] == ["feasible", "optimal", "feasible", "no schedule"]


def test_summary_counts_wins_and_means() -> None:
    """y wins the one instance it answers; x loses by 100/90 on it and wins the other alone."""
    y, x = summarise(ROWS)
    assert (y.solver, y.answered, y.wins, y.optimal, y.mean_gap) == ("y", 1, 1, 1, 0.0)
    assert (x.solver, x.answered, x.wins, x.optimal) == ("x", 2, 1, 0)
    assert x.mean_gap == pytest.approx(0.15)
    assert x.over_best == pytest.approx((100 / 90) ** 0.5 - 1)


def test_tables_go_out_and_come_back() -> None:
    assert from_csv(as_csv(ROWS)) == ROWS
    text = as_markdown(ROWS)
    assert text.count("\n| one | a |") == 2
    assert "| y | 1 | 1 | 1 | 0.00 % |" in text
    with pytest.raises(InputError, match="not one of results"):
        from_csv("instance,machine\none,a\n")


def test_page_counts_gaps_and_gains() -> None:
    rows = beside(
        [
            row("portfolio", 100, 100, "m decode 1"),
            row("stack", 125, 100, "m decode 1"),
            row("greedy", 101, 100, "m decode 1"),
        ]
    )
    page = results_page(rows, "portfolio", "Benchmark", "command", 60, 1)
    assert "1 within 1 % of the proven bound, 1 within 3 %, 1 optimal, 1 of these in less than 10 s" in page
    assert "a, decode 1: 20.00 % less than `stack` and 0.99 % less than `greedy`" in page
    assert "m decode 1 on a (0.99 %): the rate of L2" in page
    assert "so far" not in page


def test_page_compares_with_nobody_where_nobody_was_run() -> None:
    """No gain is claimed or denied without a baseline, and what is missing of the set is said."""
    answers = beside([row("portfolio", 100, 100, "m prefill")])
    page = results_page(answers, "portfolio", "Benchmark", "command", 60, 4, {"n decode 32 on chip": "too large"})
    assert "n decode 32 on chip has no answer: too large." in page
    assert "1 of its 4 instances have been run so far" in page
    assert "Hardly" not in page
    assert "less than" not in page.splitlines()[6]
    assert "side by side" not in page


def value(objective: int, bound: int, form_of: str = "f") -> BestKnown:
    return BestKnown("layers", "one", "a", form_of, objective, bound, "relaxation")


def test_best_known_values_only_improve(tmp_path: Path) -> None:
    assert improve_best_known([value(100, 90)], [value(110, 95)]) == [value(100, 95)]
    assert improve_best_known([value(100, 90)], [value(110, 95, "g")]) == [value(110, 95, "g")]
    write_best_known([value(100, 90)], tmp_path / "best.csv")
    assert read_best_known(tmp_path / "best.csv") == [value(100, 90)]
    assert value(100, 100).proven
    assert not value(100, 90).proven


SHIPPED = {(known.set_name, known.instance, known.machine): known for known in read_best_known()}
LAYERS = [case for case in cases("layers") if ("layers", case.name, case.machine) in SHIPPED]


def test_every_layer_has_a_best_known_value() -> None:
    assert len(LAYERS) == len(cases("layers")) == 40


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: f"{case.name} {case.machine}")
def test_shipped_values_stand(case: Case) -> None:
    """They hold for the instance as it is built today; nobody beats them in a moment, no bound contradicts them."""
    known = SHIPPED["layers", case.name, case.machine]
    instance = case.build()
    assert form(instance) == known.form, "the instance has changed: run the benchmark again with --best-known"
    assert known.bound_ns <= known.objective_ns
    result = opt.solve(instance, 1.0)
    assert known.bound_ns <= result.objective_ns, "a schedule contradicts the shipped bound"
    assert known.objective_ns <= result.objective_ns, "the shipped latency is beaten: run the benchmark again"
    assert result.bound_ns <= known.objective_ns, "a bound contradicts the shipped latency"
