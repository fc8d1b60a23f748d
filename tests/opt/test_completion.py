"""Completion: what a word could become, and the scripts that ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import opt
from opt.cli import app
from opt.cli.completing import SCRIPTS, suggestions

ROOT = Path(opt.__file__).parents[1]
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("val", ["validate"]),
        ("complete", []),  # the hidden command stays hidden
        ("--ver", ["--version"]),
        ("generate llama-3-8", ["llama-3-8b"]),
        ("generate gpt2 --phase ", ["prefill", "decode"]),
        ("generate gpt2 --machine ascend950p", ["ascend950pr"]),
        ("generate gpt2 --machine = ascend950p", ["ascend950pr"]),  # as bash takes --machine=ascend950p apart
        ("generate gpt2 --ab", ["--absorbed"]),
        ("solve layer.json --solver port", ["portfolio"]),
        ("solve --quiet lay", []),  # a file: the shell's own affair
        ("solve layer.json -o sched", []),
        ("compare a.json --solvers dp,gre", ["dp,greedy"]),
        ("schema sch", ["schedule"]),
        ("models bert-b", ["bert-base"]),
        ("machines ascend910b2", ["ascend910b2"]),
        ("cost matm", ["matmul"]),
        ("benchmark lay", ["layers"]),
        ("plot time", ["timeline"]),
        ("plot timeline lay", []),
        ("completion z", ["zsh"]),
    ],
)
def test_suggestions(line: str, wanted: list[str]) -> None:
    assert suggestions(GROUP, line.split(" ")) == wanted


def test_an_equals_sign_begins_a_value() -> None:
    assert "ascend950pr" in suggestions(GROUP, ["generate", "gpt2", "--machine", "="])


def test_nothing_typed_gives_all_commands() -> None:
    shown = suggestions(GROUP, [])
    assert {"generate", "solve", "plot", "doctor", "completion"} <= set(shown)
    assert suggestions(GROUP, ["solve", "--"])[-1] == "--help"


def test_scripts_are_printed() -> None:
    for shell, script in SCRIPTS.items():
        assert CliRunner().invoke(app, ["completion", shell]).stdout == script
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path) -> None:
    """The script as bash runs it; the files of the folder are left to bash."""
    (tmp_path / "rc").write_text(SCRIPTS["bash"])
    asked = """
    tilewright() { "$PYTHON" -m opt "$@"; }
    source rc
    ask() { COMP_WORDS=(tilewright "$@"); COMP_CWORD=$#; COMPREPLY=(); _tilewright; echo "${COMPREPLY[*]}"; }
    ask gen
    ask solve layer.json --solver port
    ask solve lay
    complete -p tilewright
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    run = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    generate, portfolio, file, kept = run.stdout.splitlines()
    assert (generate, portfolio, file) == ("generate", "portfolio", "")
    assert kept == "complete -o default -F _tilewright tilewright"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell: str, tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    run = subprocess.run([found, "--no-execute", str(script)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
