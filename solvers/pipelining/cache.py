"""Modulo schedules by fingerprint of their loop: in memory, and in a folder of JSON files where there is one.

A file that cannot be read, was written by another release or does not fit its loop is worked out anew and replaced; a
folder that cannot be written is done without.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from formulations.modulo_facts import objection
from instances.documents import SCHEMA_VERSION, Frozen, write_document
from instances.errors import TilewrightError
from instances.pipelines.loop import LoopKernel, PipelineSchedule
from solvers.pipelining.search import NEAR, schedule_loop

_log = logging.getLogger(__name__)

LOOP_SECONDS = 0.5
"""Search for one loop, unless said otherwise, in CP-SAT's deterministic seconds (two or three by the clock).

Three of four loops need none of them, as list scheduling meets the bound.
"""


class Entry(Frozen):
    """A file of the cache: a schedule, or that the loop has none, and the seconds that it was given."""

    schema_version: int = SCHEMA_VERSION
    release: str
    loop: str
    seconds: Annotated[float, Field(ge=0)]
    schedule: PipelineSchedule | None = None


class PipelineCache:
    """Schedules of loops; those asked for before are not worked out again.

    Parameters
    ----------
    folder
        Where files are kept; ``None``: in memory alone.
    release
        Of this package: schedules of others are not taken over.
    """

    def __init__(self, folder: Path | None = None, release: str = "") -> None:
        self._folder, self._release = folder, release
        self._known: dict[str, Entry] = {}
        self.found = self.solved = 0

    def schedule(self, loop: LoopKernel, seconds: float = LOOP_SECONDS) -> PipelineSchedule | None:
        """The schedule of a loop; ``None`` where it has none.

        One that is not proven least is sought again where more seconds are given than it was found in.
        """
        key = loop.fingerprint
        entry = self._known.get(key) or self._read(loop)
        if entry is None or (entry.seconds < seconds and not _settled(loop, entry.schedule)):
            self.solved += 1
            entry = Entry(release=self._release, loop=key, seconds=seconds, schedule=schedule_loop(loop, seconds))
            self._write(entry)
        else:
            self.found += 1
        self._known[key] = entry
        return entry.schedule

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / "pipelines" / f"{key[:40]}.json"

    def _read(self, loop: LoopKernel) -> Entry | None:
        path = self._path(loop.fingerprint)
        if path is None:
            return None
        try:
            entry = Entry.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.info("%s: worked out anew (%s)", path, type(error).__name__)
            return None
        if (entry.schema_version, entry.release, entry.loop) != (SCHEMA_VERSION, self._release, loop.fingerprint):
            return None
        if entry.schedule is not None and (wrong := objection(loop, entry.schedule)):
            _log.info("%s: worked out anew (%s)", path, wrong)
            return None
        return entry

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.loop)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_document(entry, path)
        except (OSError, ValueError, TilewrightError) as error:
            _log.info("schedule of a loop not kept: %s", error)


def _settled(loop: LoopKernel, schedule: PipelineSchedule | None) -> bool:
    """Whether no more time can help."""
    if schedule is None:
        return True
    value = schedule.ii_ps if loop.cyclic else schedule.span_ps(loop)
    return value <= NEAR * schedule.bound_ps
