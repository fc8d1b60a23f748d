"""The command that looks at the installation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from instances.errors import TilewrightError
from opt.cli.app import app


class _UnfitError(TilewrightError):
    """Something must be mended before tilewright can be relied on."""

    exit_code = 1


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Look at the installation: versions, CPUs, memory, extras, cache, and a one-second problem solved and replayed.

    \b
    Example:
      tilewright doctor

    Exit code 0 where all that is needed is there and the self-test passes, else 1.
    """
    from opt.doctor import FINE, WRONG, examine

    findings = examine()
    wrong = [finding for finding in findings if finding.verdict == WRONG]
    if as_json:
        typer.echo(json.dumps({"fit": not wrong, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            mark = "" if finding.verdict == FINE else f" [{finding.verdict}]"
            typer.echo(f"{finding.name:<13} {finding.found}{mark}")
    if wrong:
        raise _UnfitError(f"{', '.join(finding.name for finding in wrong)} must be mended; see what was found above")
