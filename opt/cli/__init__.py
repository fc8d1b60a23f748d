"""The command line: reading arguments, calling :mod:`opt.api`, showing what came out."""

from opt.cli import problem, importing, replacement, intracore, solving, answers, comparing, benchmarking  # noqa: F401, I001  # as help lists them
from opt.cli import planning, pipelining, explaining  # noqa: F401
from opt.cli import plotting, ablating, mutating, simulating, pricing, lists, doctoring, completing  # noqa: F401
from opt.cli.app import app

__all__ = ["app"]
