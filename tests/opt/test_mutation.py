"""Every kind of mistake, in random places, is named by the judge; a judge that is blind to a rule is found out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

import opt
from instances.instance import Instance
from instances.schedule import Schedule
from opt.cli import app
from opt.mutation import KINDS, Tally, run_trials
from opt.mutation import trial as trials
from opt.replay import Replay, replay


@pytest.fixture(scope="module")
def tallies(qwen: Instance, scripted: Schedule, llama: Instance) -> dict[str, Tally]:
    """A schedule that was written to use everything, and one from a solver."""
    solved = opt.solve(llama, 5, "greedy", workers=1).schedule
    return {tally.kind: tally for tally in run_trials([(qwen, scripted), (llama, solved)], 4, seed=1)}


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_caught_wherever_it_is_made(tallies: dict[str, Tally], kind: str) -> None:
    tally = tallies[kind]
    missed = [(t.instance, t.wound, [str(v) for v in t.found.violations]) for t in tally.missed]
    assert tally.tried >= 4, "the schedules have no place for it"
    assert not missed
    assert tally.caught == tally.tried


def test_a_blind_judge_is_found_out(qwen: Instance, scripted: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the violations of one rule, each kind that breaks that rule alone is missed, and no other kind is."""
    outcomes: dict[str, Replay] = {}
    rules = {rule for tally in run_trials([(qwen, scripted)], 1, seed=3) for rule in tally.rules}
    for blind in sorted(rules):

        def half_blind(instance: Instance, schedule: Schedule, blind: str = blind) -> Replay:
            found = outcomes.get(schedule.seal) or outcomes.setdefault(schedule.seal, replay(instance, schedule))
            seen = tuple(violation for violation in found.violations if violation.rule != blind)
            return dataclasses.replace(found, violations=seen)

        monkeypatch.setattr(trials, "replay", half_blind)
        for tally in run_trials([(qwen, scripted)], 1, seed=3):
            assert (tally.caught == 0) == (tally.rules == {blind}), (blind, tally.kind)


def test_same_seed_same_corruptions(qwen: Instance, scripted: Schedule) -> None:
    def wounds(seed: int) -> list[str]:
        found = []
        for tally in run_trials([(qwen, scripted)], 2, seed):
            found.append(f"{tally.kind} {tally.tried} {tally.caught}")
        return found

    assert wounds(5) == wounds(5)


def test_command_prints_the_table(tmp_path: Path, qwen: Instance, scripted: Schedule) -> None:
    opt.save(qwen, tmp_path / "q.json")
    opt.save(scripted, tmp_path / "s.json")
    arguments = ["mutate", str(tmp_path / "q.json"), str(tmp_path / "s.json"), "--rounds", "1"]
    outcome = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "t.md")])
    assert outcome.exit_code == 0
    assert f"{len(KINDS)} of {len(KINDS)} kinds tried" in outcome.stderr
    assert "residencies overlap by one unit" in outcome.stdout
    assert "| latency misreported | 1 | 1 | latency |" in (tmp_path / "t.md").read_text(encoding="utf-8")


def test_command_tells_what_passes(
    tmp_path: Path, qwen: Instance, scripted: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt.save(qwen, tmp_path / "q.json")
    opt.save(scripted, tmp_path / "s.json")
    monkeypatch.setattr(trials, "replay", lambda *_: Replay(1, ()))
    outcome = CliRunner().invoke(app, ["mutate", str(tmp_path / "q.json"), str(tmp_path / "s.json"), "--rounds", "1"])
    assert outcome.exit_code == 4
    assert "pass the replay: first operator_covered_twice" in outcome.stderr


def test_files_come_in_pairs(tmp_path: Path, qwen: Instance) -> None:
    opt.save(qwen, tmp_path / "q.json")
    outcome = CliRunner().invoke(app, ["mutate", str(tmp_path / "q.json")])
    assert outcome.exit_code == 2
    assert "pairs" in outcome.stderr
