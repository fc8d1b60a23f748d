"""Mutation testing of the judge: schedules corrupted on purpose, each by one kind of mistake, and whether it is caught.

Every corruption is sealed anew, so that nothing but the broken rule can give it away, and says what a replay must find:
which rule, where, and where it is known in advance by how much.
"""

from opt.mutation.trial import Tally, Trial, run_trials
from opt.mutation.wound import KINDS, Scene, Wound

__all__ = ["KINDS", "Scene", "Tally", "Trial", "Wound", "run_trials"]
