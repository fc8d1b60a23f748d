"""The floors of the house: who may import whom, read off the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("instances", "formulations", "solvers", "reports", "opt")

ALLOWED = {
    "instances": ("instances",),
    "formulations": ("formulations", "instances"),
    "solvers": ("solvers", "formulations", "instances"),
    "reports": ("reports", "instances", "solvers.interface"),  # the interface for its result type
    "opt": PACKAGES,
    "opt.replay": ("opt.replay", "instances"),
}
"""Package -> the packages or modules of ours that its modules may import."""

MOST_LINES = 520
"""Longest module."""


def source_files() -> dict[str, Path]:
    """Module name -> its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = source_files()


def imports(module: str, for_types: bool = True) -> Iterator[str]:
    """Modules that a module imports, anywhere in it; ``for_types``: also those that type checkers alone follow."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden and not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*up[: len(up) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in FILES else base


def floor(module: str) -> str:
    """The entry of :data:`ALLOWED` that a module falls under."""
    return "opt.replay" if within(module, "opt.replay") else module.split(".")[0]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_package_is_seen() -> None:
    assert {floor(module) for module in FILES} == set(ALLOWED)
    assert len(FILES) > 30


@pytest.mark.parametrize("module", FILES)
def test_imports_run_one_way(module: str) -> None:
    ours = {name for name in imports(module) if name.split(".")[0] in PACKAGES}
    allowed = ALLOWED[floor(module)]
    strangers = {name for name in ours if not any(within(name, package) for package in allowed)}
    assert not strangers, f"{module} may import {allowed} alone"


@pytest.mark.parametrize("module", [module for module in FILES if floor(module) == "opt.replay"])
def test_the_replay_needs_nothing_but_the_data(module: str) -> None:
    """Neither a solver's library nor any other: the standard library and the instances."""
    outside = {name for name in imports(module) if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(within(name, "instances") or within(name, "opt.replay") for name in outside), outside


def test_no_import_cycles() -> None:
    """No circles, also through imports inside of functions; what is imported for annotations alone never runs."""
    graph = nx.DiGraph()
    graph.add_nodes_from(FILES)
    graph.add_edges_from(
        (module, name) for module in FILES for name in imports(module, for_types=False) if name in FILES
    )
    assert [sorted(ring) for ring in nx.simple_cycles(graph)] == []


@pytest.mark.parametrize("module", ["opt.replay.judge", "opt.replay", "opt", "opt.cli"])
def test_no_solver_library_is_loaded(module: str) -> None:
    """Importing the judge, or the face, loads no solver and none of the libraries they search with."""
    heavy = ("ortools", "pulp", "highspy", "formulations", "solvers.cpsat", "solvers.sequential")
    code = (
        "import importlib, sys\n"
        f"importlib.import_module({module!r})\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("module", FILES)
def test_modules_stay_short(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{FILES[module].relative_to(ROOT)} has {lines} lines; split it"
