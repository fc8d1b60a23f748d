"""The command line: reading arguments, calling :mod:`opt.api`, showing what came out."""

from opt.cli import problem, solving, answers, comparing, benchmarking, ablating, mutating, simulating, pricing, lists  # noqa: F401, I001  # in the order that the help lists them
from opt.cli.app import app

__all__ = ["app"]
