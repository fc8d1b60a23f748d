"""Trials: every kind of mistake, in random places of valid schedules, and whether the judge named it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import opt.mutation.of_kernel
import opt.mutation.of_proof
import opt.mutation.of_tensor
import opt.mutation.of_time  # noqa: F401  (the kinds register themselves)
from instances.instance import Instance
from instances.schedule import Schedule
from opt.mutation.wound import KINDS, NoPlaceError, Scene, Wound
from opt.replay import Replay, replay


@dataclass(frozen=True)
class Trial:
    """One corruption: what it should have shown, and what the replay said."""

    kind: str
    instance: str
    wound: Wound
    found: Replay

    @property
    def caught(self) -> bool:
        """Whether the replay names the rule with place and amount."""
        return any(
            violation.rule in self.wound.rules
            and self.wound.place in f"{violation.place}: {violation.detail}"
            and (self.wound.amount is None or violation.amount == self.wound.amount)
            for violation in self.found.violations
        )


@dataclass
class Tally:
    """Trials of one kind: how many, how many were caught, by which rules; and what was missed."""

    kind: str
    tried: int = 0
    caught: int = 0
    rules: frozenset[str] = frozenset()
    missed: tuple[Trial, ...] = ()

    def add(self, trial: Trial) -> None:
        """Count a trial."""
        self.tried += 1
        self.caught += trial.caught
        self.rules |= frozenset(trial.wound.rules)
        if not trial.caught:
            self.missed += (trial,)


def run_trials(
    schedules: Iterable[tuple[Instance, Schedule]],
    rounds: int,
    seed: int,
    on_schedule: Callable[[Instance], None] | None = None,
) -> list[Tally]:
    """Corrupt each schedule by each kind, ``rounds`` times in random places; one tally per kind.

    A kind for which a schedule has no place (a spill, where nothing is spilled) is not tried on it.
    """
    tallies = {kind: Tally(kind) for kind in KINDS}
    for instance, schedule in schedules:
        replay(instance, schedule).require_valid(f"the schedule of {instance.name}")
        for kind in KINDS:
            chance = random.Random(f"{seed} {kind} {instance.name}")
            for _ in range(rounds):
                trial = _try(kind, instance, schedule, chance)
                if trial is not None:
                    tallies[kind].add(trial)
        if on_schedule:
            on_schedule(instance)
    return list(tallies.values())


def _try(kind: str, instance: Instance, schedule: Schedule, chance: random.Random) -> Trial | None:
    scene = Scene(instance, schedule, chance)
    try:
        wound = KINDS[kind](scene)
    except NoPlaceError:
        return None
    return Trial(kind, instance.name, wound, replay(instance, scene.corrupted()))
