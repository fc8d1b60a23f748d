"""Writing fitted constants into machine files, in the form in which these are kept: one figure a line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from instances.documents import parse, write_text
from instances.errors import InputError
from instances.machine import Machine
from opt.calibration.fit import Fit, machines_of, with_constants


def write_fitted(found: Fit, folder: Path, table: str) -> list[Path]:
    """Write every machine of an architecture with its fitted constants into ``folder``; returns the files."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; make it or choose another")
    source = (
        f"tilewright calibrate {table} --fit: least squares over {found.rows} kernels of this architecture, "
        "one set of constants for all its chips"
    )
    files = []
    for machine in machines_of(found.architecture):
        changed = with_constants(machine.model_dump(mode="json", exclude_none=True), found.values, source)
        file = folder / f"{machine.name}.json"
        write_text(file, machine_text(changed))
        files.append(file)
    return files


def machine_text(machine: Machine) -> str:
    """A machine file: indented, every figure and its source on one line."""
    text = json.dumps(machine.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False)
    text = re.sub(r'\{\s*"value": (.*?),\s*"grade": (.*?),\s*"source": (".*?")\s*\}', _one_line, text)
    parse(Machine, json.loads(text), f"machine {machine.name}")
    return text + "\n"


def _one_line(match: re.Match[str]) -> str:
    value: Any = json.loads(match[1])
    shown = json.dumps(int(value) if float(value).is_integer() else value)
    return f'{{"value": {shown}, "grade": {match[2]}, "source": {match[3]}}}'
