"""What this installation can do: versions, CPUs, memory, extras, the cache, and a small problem solved and replayed."""

from __future__ import annotations

import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from opt import api
from opt.embedding import PlanOptions
from opt.replay import replay
from opt.version import __version__
from opt.words import size
from solvers.interface import available_workers

REQUIRED = ("highspy", "jinja2", "networkx", "numpy", "ortools", "pulp", "pydantic", "rich", "typer")
"""What tilewright never runs without."""

EXTRAS = {
    "onnx": "onnx",
    "torch": "torch",
    "transformers": "torch",
    "matplotlib": "plot",
    "scipy": "fit",
    "xdsl": "dev",
    "omnimalloc": "dev",
}
"""Packages that only some commands need -> the extra that installs them (transformers has none: it is a user's own)."""

MEMORY_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where the memory limit of a control group is, by version
(https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html)."""

SELF_TEST_WORK = 0.05
"""Deterministic time of the self-test's search, about a second: by the clock a busy machine would not get to it."""

SELF_TEST_S = 30.0
"""Seconds after which the self-test ends all the same."""

FINE, NOTE, WRONG = "ok", "note", "wrong"
"""Verdicts: as it should be; something is missing that not everybody needs; this must be mended."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, what was found, and whether that is as it should be."""

    name: str
    found: str
    verdict: str = FINE


def examine() -> list[Finding]:
    """All findings; the last one is the self-test."""
    return [
        Finding("tilewright", __version__),
        _python(),
        *(_required(name) for name in REQUIRED),
        *(_extra(name, extra) for name, extra in EXTRAS.items()),
        _cpus(),
        _memory(),
        _cache(),
        _self_test(),
    ]


def _python() -> Finding:
    running = f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()})"
    return Finding("python", running, FINE if sys.version_info >= (3, 11) else WRONG)


def _required(name: str) -> Finding:
    found = _version(name)
    return Finding(name, found or "missing; install tilewright anew", FINE if found else WRONG)


def _extra(name: str, extra: str) -> Finding:
    found = _version(name)
    return Finding(name, found or f"missing; part of the extra {extra}", FINE if found else NOTE)


def _version(package: str) -> str | None:
    """Version of a package that could be imported, without importing it."""
    if util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _cpus() -> Finding:
    return Finding("cpus", f"{available_workers()} of {os.cpu_count() or 1}, by affinity and control group")


def _memory() -> Finding:
    limit = memory_limit_bytes()
    return Finding("memory", "no limit known" if limit is None else f"at most {size(limit)}")


def memory_limit_bytes() -> int | None:
    """Least of what the machine has, what the control group grants and what the process may address."""
    limits = [limit for limit in (_physical(), _granted(), _addressable()) if limit is not None]
    return min(limits, default=None)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _granted() -> int | None:
    for name in MEMORY_FILES:
        try:
            limit = float(Path(name).read_text().strip().replace("max", "inf"))
        except (OSError, ValueError):
            continue
        return int(limit) if math.isfinite(limit) else None
    return None


def _addressable() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _cache() -> Finding:
    folder = PlanOptions().folder()
    if folder is None:
        return Finding("cache", "none, as TILEWRIGHT_CACHE says")
    place = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding("cache", f"{folder}, which cannot be written ({error.strerror}); set TILEWRIGHT_CACHE", NOTE)
    return Finding("cache", f"{folder}, can be written")


def _self_test() -> Finding:
    """One layer, solved by the joint model on CP-SAT with bounds by HiGHS, and replayed."""
    started = time.monotonic()
    log: list[str] = []
    try:
        instance = api.generate("bert-base", phase="prefill", tokens=16, layers=1, max_group=2)
        result = api.solve(instance, SELF_TEST_S, "cpsat", deterministic_limit=SELF_TEST_WORK, log=log.append)
        judged = replay(instance, result.schedule)
    except Exception as error:  # whatever is wrong with a library is the finding
        return Finding("self-test", f"{type(error).__name__}: {' '.join(str(error).split())}", WRONG)
    took = time.monotonic() - started
    if not judged.valid or judged.latency_ns != result.objective_ns:
        return Finding("self-test", "solver and replay disagree", WRONG)
    if not any("CP-SAT" in line for line in log) or not result.bounds_ns.get("cube_work"):
        return Finding("self-test", f"CP-SAT or HiGHS did not answer; solver {result.solver} did", WRONG)
    found = f"{result.objective_ns} ns by {result.solver}, bound {result.bound_ns} ns by {result.bound_by}"
    return Finding("self-test", f"{found}, replayed, {took:.1f} s")
