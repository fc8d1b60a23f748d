"""Completion in shells: a script for each shell, which asks a hidden command what could come next.

Typer's own completion is not used: its scripts know neither models nor machines without a callback in every command,
and where it lives differs between releases of typer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer

from instances.catalogue import model_names
from instances.errors import InputError
from instances.library import DTYPES, KERNELS
from instances.machine import machine_names
from instances.networks import NETWORKS
from opt.benchmarks import SETS
from opt.cli.app import app
from opt.cli.plotting import KINDS
from opt.intracore import SAMPLES
from solvers.registry import REGISTRY

ASK = "complete-words"
"""The hidden command. Its arguments are the words typed, the last one as far as it is there."""

BASH = f"""\
_tilewright() {{
    local IFS=$'\\n'
    COMPREPLY=($(tilewright {ASK} -- "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _tilewright tilewright
"""

ZSH = f"""\
#compdef tilewright
_tilewright() {{
    local -a found
    found=("${{(@f)$(tilewright {ASK} -- "${{(@)words[2,CURRENT]}}" 2>/dev/null)}}")
    found=(${{found:#}})
    if (( $#found )); then compadd -- $found; else _files; fi
}}
compdef _tilewright tilewright
"""

FISH = f"""\
function __tilewright
    set -l found (tilewright {ASK} -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
    if count $found >/dev/null
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command tilewright --no-files --arguments '(__tilewright)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
"""Shell -> script."""

VALUES: dict[str, Callable[[], Iterable[str]]] = {
    "machine": machine_names,
    "model": model_names,
    "op": lambda: KERNELS,
    "solver": lambda: REGISTRY,
    "solvers": lambda: REGISTRY,
    "shell": lambda: SCRIPTS,
    "models name": model_names,
    "machines name": machine_names,
    "cost dtype": lambda: DTYPES,
    "network name": lambda: NETWORKS,
    "tiles sample": lambda: (f"{name}:" for name in SAMPLES),
    "benchmark set_name": lambda: (*SETS, "replacement", "intracore"),
    "plot kind": lambda: KINDS,
}
"""Parameter, or command and parameter -> what it may be; choices that a metavar spells out are taken from there."""

LISTS = ("solvers",)
"""Parameters that are names with commas between."""


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")] = "bash",
) -> None:
    """Print the script that completes commands, options, models, machines, solvers and files in a shell.

    \b
    Example:
      source <(tilewright completion bash)

    For good: append that line to ~/.bashrc; in zsh 'source <(tilewright completion zsh)' after compinit in ~/.zshrc;
    in fish 'tilewright completion fish > ~/.config/fish/completions/tilewright.fish'.
    """
    if shell not in SCRIPTS:
        raise InputError(f"shell {shell!r} is unknown; choose one of {', '.join(SCRIPTS)}")
    typer.echo(SCRIPTS[shell], nl=False)


@app.command(name=ASK, hidden=True)
def complete_words(
    context: typer.Context, words: Annotated[list[str] | None, typer.Argument(help="Words typed.")] = None
) -> None:
    """Print what the last of some words could become, a line each; nothing where it is a file.

    \b
    Example:
      tilewright complete-words -- solve layer.json --solver po
    """
    assert context.parent is not None
    for word in suggestions(context.parent.command, words or []):
        typer.echo(word)


def suggestions(group: Any, words: Sequence[str]) -> list[str]:
    """What the last word could become.

    Parameters
    ----------
    group
        The application, as typer makes it.
    words
        All words after the program's name, the last one incomplete or empty.
    """
    *before, current = [word for word in words if word != "="] or [""]  # bash takes --machine=asc apart
    if words and words[-1] == "=":
        before, current = [*before, current], ""
    commands = {name: command for name, command in group.commands.items() if not command.hidden}
    if not before or before[0] not in commands:
        return _starting(current, _options(group) if current.startswith("-") else commands)
    command = commands[before[0]]
    options = {name: option for option in command.params for name in _names(option)}
    pending, positional = None, 0
    for word in before[1:]:
        if pending is not None:
            pending = None
        elif word in options:
            pending = None if options[word].is_flag else options[word]
        elif not word.startswith("-"):
            positional += 1
    if pending is not None:
        return _values(command.name, pending, current)
    if current.startswith("-"):
        return _starting(current, _options(command))
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    if positional < len(arguments):
        return _values(command.name, arguments[positional], current)
    return []


def _names(option: Any) -> tuple[str, ...]:
    return () if option.param_type_name == "argument" else (*option.opts, *option.secondary_opts)


def _options(command: Any) -> list[str]:
    shown = [name for option in command.params for name in _names(option) if name.startswith("--")]
    return [*shown, "--help"]


def _values(command: str, parameter: Any, current: str) -> list[str]:
    known = VALUES.get(f"{command} {parameter.name}") or VALUES.get(parameter.name)
    if known is None:
        metavar = (parameter.metavar or "").strip("[]")
        return _starting(current, metavar.split("|")) if "|" in metavar else []
    if parameter.name not in LISTS:
        return _starting(current, known())
    head, comma, tail = current.rpartition(",")
    return [f"{head}{comma}{word}" for word in _starting(tail, known())]


def _starting(current: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(current)]
