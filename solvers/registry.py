"""The solvers by name. Their modules, and with them OR-Tools, are imported when one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import cast

from instances.errors import InputError
from solvers.interface import Solver


@dataclass(frozen=True)
class Entry:
    """A solver as people choose it.

    Parameters
    ----------
    name
        What ``--solver`` takes.
    module, function
        Where its callable is.
    description
        One line.
    source
        Where the method comes from.
    fallback
        The solver that answers instead where this one's schedule fails its replay.
    """

    name: str
    module: str
    function: str
    description: str
    source: str
    fallback: str | None = None

    def load(self) -> Solver:
        """The callable itself."""
        return cast(Solver, getattr(import_module(self.module), self.function))


_ENTRIES = (
    Entry(
        "cpsat",
        "solvers.cpsat",
        "solve_cpsat",
        "heuristics, then the joint model of fusion, tiling, cores, L2, spills, prefetches and times; proves bounds",
        "OR-Tools CP-SAT, https://developers.google.com/optimization/cp/cp_solver; model in formulations/joint.py",
        fallback="greedy",
    ),
    Entry(
        "greedy",
        "solvers.sequential",
        "solve_greedy",
        "fuse by bytes saved, one kernel after the other, keep in L2 what fits, evict what is used furthest ahead",
        "eviction rule: L. A. Belady, IBM Systems Journal 5(2), 1966; solvers/sequential.py",
    ),
    Entry(
        "stack",
        "solvers.stack",
        "solve_stack",
        "the fused kernels that Ascend stacks ship, one after the other, results in L2 while they fit",
        "hicann/ops-transformer, hicann/ops-nn, vllm-ascend; solvers/stack.py",
    ),
    Entry(
        "unfused",
        "solvers.sequential",
        "solve_unfused",
        "one kernel per operator, one after the other, every tensor through HBM: the baseline",
        "how a framework in eager mode launches operators; solvers/sequential.py",
    ),
    Entry(
        "exhaustive",
        "solvers.exhaustive",
        "solve_exhaustive",
        "looks at every schedule that could be best; tiny graphs only, the oracle of the tests",
        "completeness argued in solvers/exhaustive.py",
    ),
)

REGISTRY = {entry.name: entry for entry in _ENTRIES}
"""All solvers by name, the default first."""


def find_solver(name: str) -> Entry:
    """The entry of a solver; :class:`InputError` that lists the names where there is none."""
    if name not in REGISTRY:
        raise InputError(f"unknown solver {name!r}; choose one of {', '.join(REGISTRY)}")
    return REGISTRY[name]
