"""Where commands write: looked at before any work is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from instances.errors import InputError


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """That each output can be written, is no input and is named once; :class:`InputError` otherwise."""
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        try:
            _check_writable(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
        if os.path.realpath(path) in taken:
            raise InputError(f"{path}: is named twice, and writing it would destroy the other; choose another output")
        taken.add(os.path.realpath(path))


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the path of a file to write")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is a link or a device; give the path of a plain file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it or choose another")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    os.unlink(temporary)
