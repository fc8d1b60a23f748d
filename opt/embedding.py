"""Graph in, plan out, inside a time budget: what an embedding compiler calls. Graphs seen before come from a cache.

The cache is a folder of JSON files, one per fingerprint of graph, machine, options and release. A file that cannot be
read, or was written by another release, is planned anew and replaced; a folder that cannot be written is done without.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from instances.build import MAX_GROUP
from instances.documents import SCHEMA_VERSION, Frozen, canonical_json, digest, write_document
from instances.errors import InputError, TilewrightError
from instances.folders import cache_folder
from instances.frontends.captured import CapturedGraph
from instances.machine import Machine, load_machine
from instances.plan import Plan
from opt import api
from opt.importing import Import, import_captured
from opt.version import __version__
from solvers.registry import DEFAULT_SOLVER

_log = logging.getLogger(__name__)

LEAST_SEARCH_S = 1.0
"""Seconds that must be left for a search to be worth starting; below, the greedy schedule is the plan."""


@dataclass(frozen=True)
class PlanOptions:
    """How a graph is planned.

    Parameters
    ----------
    machine
        Name of a chip, path of a machine file, or a machine.
    time_limit_s
        Seconds from the call to the plan, reading of the graph included.
    solver, workers, seed, gap
        As for :func:`opt.solve`.
    max_group
        Most operators in a kernel.
    allow_unknown
        Whether operators that are not mapped are priced as elementwise without a word; otherwise they are, with a note.
    one_layer
        Whether one of several equal layers is planned for all.
    cache
        Folder of the cache; ``None``: ``$TILEWRIGHT_CACHE``, else ``tilewright`` in ``$XDG_CACHE_HOME`` or
        ``~/.cache``. An empty path: no cache.
    """

    machine: str | Path | Machine = api.DEFAULT_MACHINE
    time_limit_s: float = 10.0
    solver: str = DEFAULT_SOLVER
    workers: int = 0
    seed: int = 0
    gap: float = 0.0
    max_group: int = MAX_GROUP
    allow_unknown: bool = False
    one_layer: bool = False
    cache: str | Path | None = None

    def chip(self) -> Machine:
        """The machine, read."""
        return self.machine if isinstance(self.machine, Machine) else load_machine(str(self.machine))

    def folder(self) -> Path | None:
        """Folder of the cache; ``None`` where there is to be none."""
        if self.cache is not None:
            return Path(self.cache) if str(self.cache) not in ("", ".") else None
        return cache_folder()


@dataclass(frozen=True)
class Planned:
    """A plan, and how it came about.

    Parameters
    ----------
    plan
        What to carry out.
    nodes
        Node of the graph -> id of the kernel that computes it; nodes that are views, or computed ahead, are not there.
    cached
        Whether it was found in the cache.
    runtime_s
        Seconds it took.
    notes
        What did not go as asked, a sentence each.
    path
        The file of the cache that holds it.
    """

    plan: Plan
    nodes: Mapping[str, str]
    cached: bool
    runtime_s: float
    notes: tuple[str, ...] = ()
    path: Path | None = None


class CachedPlan(Frozen):
    """A plan as the cache keeps it."""

    schema_version: int = SCHEMA_VERSION
    key: str
    plan: Plan
    nodes: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_captured(captured: CapturedGraph, options: PlanOptions | None = None) -> Planned:
    """The plan of a captured graph; as :func:`plan_graph`."""
    return plan_graph(digest(canonical_json(captured)), lambda: captured, options or PlanOptions())


def plan_graph(fingerprint: str, capture: Callable[[], CapturedGraph], options: PlanOptions) -> Planned:
    """The plan of a graph that is captured only if no plan of it is in the cache.

    Parameters
    ----------
    fingerprint
        What tells the graph from others.
    capture
        Makes the captured graph.
    options
        How to plan.

    Raises
    ------
    TilewrightError
        Where the graph cannot be read or nothing fits the machine; a search that fails ends in the greedy schedule.
    """
    started = time.monotonic()
    chip = options.chip()
    key = cache_key(fingerprint, chip, options)
    path = _cache_file(options.folder(), key)
    found = _look_up(path, key)
    if found is not None:
        return Planned(found.plan, found.nodes, True, time.monotonic() - started, found.notes, path)
    graph = capture()
    notes: list[str] = []
    imported = _import(graph, chip, options, notes)
    left = options.time_limit_s - (time.monotonic() - started)
    solver = options.solver if left >= LEAST_SEARCH_S else "greedy"
    if solver != options.solver:
        notes.append(f"{max(0.0, left):.1f} s were left to search; planned by the greedy heuristic")
    result = api.solve(
        imported.instance,
        max(LEAST_SEARCH_S, left),
        solver,
        workers=options.workers,
        seed=options.seed,
        gap=options.gap,
    )
    plan = api.plan(imported.instance, result.schedule)
    nodes = kernels_of_nodes(plan, graph, imported)
    kept = _keep(path, CachedPlan(key=key, plan=plan, nodes=nodes, notes=tuple(notes)))
    return Planned(plan, nodes, False, time.monotonic() - started, tuple(notes), kept)


def _import(graph: CapturedGraph, chip: Machine, options: PlanOptions, notes: list[str]) -> Import:
    """The graph's instance; operators that are not mapped are noted, where they may not pass without a word."""
    common = {"machine": chip, "max_group": options.max_group, "one_layer": options.one_layer}
    if not options.allow_unknown:
        try:
            return import_captured(graph, allow_unknown=False, **common)  # type: ignore[arg-type]
        except InputError as error:
            reason = str(error)
    imported = import_captured(graph, allow_unknown=True, **common)  # type: ignore[arg-type]
    if not options.allow_unknown:
        notes.append(reason)
    return imported


def kernels_of_nodes(plan: Plan, graph: CapturedGraph, imported: Import) -> dict[str, str]:
    """Node -> kernel. A node of a graph that was traced again stands for the node it was traced from."""
    origin = {node.name: node.region or node.name for node in graph.nodes}
    sources = imported.imported.sources
    return {
        origin[node]: kernel.id
        for kernel in plan.kernels
        for operator in kernel.operators
        for node in sources.get(operator, ())
        if node in origin
    }


def cache_key(fingerprint: str, chip: Machine, options: PlanOptions) -> str:
    """What a plan depends on, as one hash."""
    asked = (options.time_limit_s, options.solver, options.workers, options.seed, options.gap)
    more = (options.max_group, options.allow_unknown, options.one_layer, __version__)
    return digest(repr((fingerprint, chip.fingerprint, asked, more)))


def _cache_file(folder: Path | None, key: str) -> Path | None:
    return None if folder is None else folder / f"{key[:40]}.json"


def _look_up(path: Path | None, key: str) -> CachedPlan | None:
    """What the cache holds under a key; nothing where the file is missing, broken or another's."""
    if path is None:
        return None
    collects = gc.isenabled()
    gc.disable()  # all that is read is kept: to look for garbage in between takes longer than to read
    try:
        found = CachedPlan.model_validate_json(path.read_bytes())  # faster than a reader that tells what is wrong
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.info("%s: planned anew (%s)", path, type(error).__name__)
        return None
    finally:
        if collects:
            gc.enable()
    kernels = {kernel.id for kernel in found.plan.kernels}
    whole = found.schema_version == SCHEMA_VERSION and kernels.issuperset(found.nodes.values())
    return found if found.key == key and whole else None


def _keep(path: Path | None, entry: CachedPlan) -> Path | None:
    """Write an entry of the cache, whole or not at all; where that cannot be, the plan is good without it."""
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(entry, path)
    except (OSError, ValueError, TilewrightError) as error:
        _log.info("plan not kept: %s", error)
        return None
    return path
