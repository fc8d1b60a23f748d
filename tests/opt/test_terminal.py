"""What a terminal is sent: a live table while solving, colours unless nobody wants them, no codes where it is dumb."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import opt

ROOT = Path(opt.__file__).parents[1]
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")


def on_terminal(*arguments: str | Path, **environment: str) -> tuple[int, bytes]:
    """Exit code, and all that a terminal behind stdout and stderr is sent."""
    reader, writer = os.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "opt", *map(str, arguments)]
    settings = clean | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | environment
    with subprocess.Popen(command, stdin=writer, stdout=writer, stderr=writer, env=settings) as process:
        os.close(writer)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone once the process is
            while chunk := os.read(reader, 4096):
                shown += chunk
    os.close(reader)
    return process.returncode, shown


def solve(files: Path, *more: str, **environment: str) -> tuple[int, bytes]:
    return on_terminal("solve", files / "layer.json", "--solver", "greedy", *more, **environment)


def test_a_table_while_solving(files: Path) -> None:
    code, shown = solve(files)
    assert code == 0
    for column in (b"time s", b"latency us", b"bound us", b"gap", b"improved by"):
        assert column in shown
    assert COLOUR.search(shown)
    assert shown.count(b"\n", shown.rindex(b"instance ")) <= 10  # the summary is a few lines


def test_no_colour(files: Path) -> None:
    code, shown = solve(files, NO_COLOR="1")
    assert code == 0
    assert b"improved by" in shown
    assert not COLOUR.search(shown)
    code, shown = on_terminal("solvers", NO_COLOR="1")
    assert code == 0 and b"portfolio" in shown and b"\x1b" not in shown


def test_a_dumb_terminal_gets_lines(files: Path) -> None:
    code, shown = solve(files, TERM="dumb")
    assert code == 0
    assert b"\x1b" not in shown
    assert re.search(rb"\d %  \w+", shown)  # a line per improvement
    assert b"replayed" in shown


def test_quiet(files: Path) -> None:
    assert solve(files, "--quiet") == (0, b"")


def test_no_table_where_there_is_no_terminal(files: Path) -> None:
    command = [sys.executable, "-m", "opt", "solve", str(files / "layer.json"), "--solver", "greedy"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}
    run = subprocess.run(command, env=settings, capture_output=True, check=True)
    assert run.stdout == b""
    assert b"replayed" in run.stderr and b"improved by" not in run.stderr and b"\x1b" not in run.stderr


def test_help_has_no_colour() -> None:
    code, shown = on_terminal("solve", "--help", NO_COLOR="1")
    assert code == 0 and b"Example:" in shown and b"\x1b" not in shown
