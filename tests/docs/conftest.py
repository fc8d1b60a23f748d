"""The script that runs the pages' blocks, as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "run_blocks.py"


def load_script() -> ModuleType:
    """``docs/run_blocks.py``; it is in no package."""
    if "run_blocks" not in sys.modules:
        spec = importlib.util.spec_from_file_location("run_blocks", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = sys.modules["run_blocks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["run_blocks"]


@pytest.fixture(scope="session")
def run_blocks() -> ModuleType:
    return load_script()
