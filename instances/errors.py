"""What can go wrong through no fault of ours, each with its documented exit code.

Every message is one sentence that names the place, the value and the remedy; the command line prints it
and exits with :attr:`TilewrightError.exit_code`.
"""

from __future__ import annotations


class TilewrightError(Exception):
    """Base of all errors a user can cause."""

    exit_code = 2


class InputError(TilewrightError):
    """Unreadable, malformed or contradictory input (exit code 2)."""

    exit_code = 2


class NoScheduleError(TilewrightError):
    """No schedule was found within the limits (exit code 1)."""

    exit_code = 1


class InfeasibleError(TilewrightError):
    """The question has provably no answer: something fits nowhere (exit code 3)."""

    exit_code = 3


class InvalidScheduleError(TilewrightError):
    """A schedule breaks the rules or misreports its latency (exit code 4)."""

    exit_code = 4
