"""The application itself: what all commands share, and how anything that goes wrong ends in one sentence.

Exit codes: 0 solved or valid; 1 no schedule within the limits; 2 usage, unreadable input or unwritable output;
3 proven infeasible; 4 invalid schedule; 130 interrupted; 141 nobody reads the output; 70 an error of ours.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from instances.errors import TilewrightError
from opt.cli.interrupts import INTERRUPTED

UNREAD = 141
"""128 + SIGPIPE, as shells have it."""

OURS = 70
"""An error that no input should cause (EX_SOFTWARE)."""


class _StoppedError(TilewrightError):
    """Ended from outside."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Face(TyperGroup):
    """The group of commands. Whatever a command raises becomes one sentence on stderr and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except Exception as error:
            sentence, code = explain(error)
            if code == OURS and sys.flags.dev_mode:
                raise
            typer.echo(f"tilewright: {sentence}", err=True)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; the framework must not see what it would handle without a word."""
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
            return outcome
        except KeyboardInterrupt:
            raise typer.Abort from None
        except BrokenPipeError:
            _forget_stdout()
            raise _StoppedError("nobody reads the output any more; let the reader take all of it", UNREAD) from None


def explain(error: Exception) -> tuple[str, int]:
    """One sentence on an error, without control characters, and the exit code."""
    if isinstance(error, typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, TilewrightError):
        return _one_line(str(error)), error.exit_code
    if hasattr(error, "format_message"):  # usage errors, whose class differs between releases of typer
        path = getattr(getattr(error, "ctx", None), "command_path", "tilewright")
        return f"{_one_line(error.format_message()).rstrip('.')} (see {path} --help)", 2
    if isinstance(error, MemoryError):
        return "out of memory; give a smaller problem or fewer --workers", 1
    if isinstance(error, OSError):
        return f"the operating system refuses ({_one_line(str(error))}); check paths and disk", 2
    kind = type(error).__name__
    return (
        f"unexpected {kind} ({_one_line(str(error))}); please report it, PYTHONDEVMODE=1 shows where it is from",
        OURS,
    )


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _forget_stdout() -> None:
    """Point stdout nowhere, so that the interpreter's last flush finds no broken pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file
        return


app = typer.Typer(
    cls=Face,
    epilog="Exit codes: 0 solved or valid, 1 no schedule within the limits, 2 usage or unreadable input, "
    "3 proven infeasible, 4 invalid schedule.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from opt import __version__

        typer.echo(f"tilewright {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Schedules of transformer kernels on Ascend chips, jointly optimised, replayed and bounded.

    \b
    Example, from a model to a page about its schedule:
      tilewright generate gpt2 --phase decode --context 128 --layers 1 -o layer.json
      tilewright solve layer.json --time-limit 10 -o schedule.json
      tilewright validate layer.json schedule.json
      tilewright report layer.json schedule.json -o report.html
    """
    if context.obj is None:
        context.obj = time.monotonic()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
