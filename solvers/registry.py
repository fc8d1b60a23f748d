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
        "portfolio",
        "solvers.portfolio",
        "solve_portfolio",
        "heuristics first, the joint model with what time is left; the best schedule of all, the best bound of all",
        "solvers/portfolio.py",
        fallback="greedy",
    ),
    Entry(
        "cpsat",
        "solvers.cpsat",
        "solve_cpsat",
        "the joint model of fusion, tiling, cores, L2, spills, prefetches and times, from the greedy schedule on",
        "OR-Tools CP-SAT, https://developers.google.com/optimization/cp/cp_solver; model in formulations/joint.py",
        fallback="greedy",
    ),
    Entry(
        "anneal",
        "solvers.annealing",
        "solve_anneal",
        "simulated annealing over kernels, tilings, prefetches and the order of the channel; repeated blocks together",
        "S. Kirkpatrick et al., Science 220, 1983; solvers/anneal.py, solvers/periodic.py",
        fallback="greedy",
    ),
    Entry(
        "dp",
        "solvers.dynamic",
        "solve_dp",
        "dynamic programming over the topological order: kernels in line, each source streamed or prefetched",
        "R. Bellman, Dynamic Programming, 1957; solvers/dynamic.py",
        fallback="greedy",
    ),
    Entry(
        "lns",
        "solvers.lns",
        "solve_lns",
        "large-neighbourhood search: windows of operators decided anew by the joint model, across block borders too",
        "P. Shaw, CP 1998; solvers/lns.py",
        fallback="greedy",
    ),
    Entry(
        "milp",
        "solvers.milp",
        "solve_milp",
        "mixed-integer programme of fusion, residency and traffic: a bound without CP-SAT, and what follows from it",
        "PuLP, https://coin-or.github.io/pulp; HiGHS, https://highs.dev; model in formulations/relaxation.py",
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
        "autofuse",
        "solvers.autofuse",
        "solve_autofuse",
        "the published rules of CANN AutoFuse: vector operators merged by bytes saved, cube kernels alone",
        "hicann/ge, docs/zh/user_guides/graph_dev/autofuse; solvers/autofuse.py",
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

DEFAULT_SOLVER = "portfolio"
"""Who answers where nobody is named."""

REGISTRY = {entry.name: entry for entry in _ENTRIES}
"""All solvers by name, the default first."""


def find_solver(name: str) -> Entry:
    """The entry of a solver; :class:`InputError` that lists the names where there is none."""
    if name not in REGISTRY:
        raise InputError(f"unknown solver {name!r}; choose one of {', '.join(REGISTRY)}")
    return REGISTRY[name]
