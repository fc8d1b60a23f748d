"""Runs what the pages tell readers to run: the shell and Python blocks of a page, in order, in one scratch folder.

    python docs/run_blocks.py                 all pages
    python docs/run_blocks.py docs/plan.md    one of them

Shell blocks run in bash, Python blocks in one interpreter per page; both see the files that earlier blocks wrote. A
comment directly above a block says what else is to be done with it:

``<!-- not run: REASON -->``
    It is not run; the reasons that count are in :data:`REASONS`.
``<!-- run: NAME -->``
    ``.ci/run`` runs it word for word.
``<!-- file: NAME -->``
    It is written to a file of that name.
``<!-- output -->``
    It is what the block before it prints: each of its lines must be among the lines printed, numbers aside.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

REASONS = (
    "a benchmark of minutes",
    "needs PyTorch",
    "needs data that is not in the repository",
    "builds this site, as the tests do",
    "changes the shell that it is typed into",
)
"""Why a block may be left out."""

TIMEOUT_S = 120
"""Seconds after which a block is given up."""

_MARK = re.compile(r"<!-- (not run|run|file|output)(?:: ([^>]*?))? -->")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


class BlockError(Exception):
    """A block that fails, or prints what its page does not say."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and the mark above it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    value: str = ""

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """The README and all pages under docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"( *)```(\w*)", lines[number])
        if fence is None:
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i] == f"{fence.group(1)}```")
        above = lines[number - 1].strip() if number else ""
        mark = _MARK.fullmatch(above)
        text = "\n".join(line.removeprefix(fence.group(1)) for line in lines[number + 1 : end]) + "\n"
        kind, value = (mark.group(1), mark.group(2) or "") if mark else ("", "")
        found.append(Block(page, number + 1, fence.group(2), text, kind, value))
        number = end + 1
    return found


def is_run(block: Block) -> bool:
    """Whether a block is a command or a program that is to be run here."""
    return block.language in ("sh", "python") and block.mark not in ("not run", "run")


def run_page(page: Path, folder: Path, log: bool = False) -> int:
    """Run the blocks of a page in a folder and return how many; :class:`BlockError` at the first that fails."""
    count, printed = 0, ""
    with _session(folder) as session:
        for block in blocks(page):
            if block.mark == "not run" and block.value not in REASONS:
                raise BlockError(f"{block.place}: {block.value!r} is no reason; choose one of {', '.join(REASONS)}")
            if block.mark == "file":
                (folder / block.value).write_text(block.text, encoding="utf-8")
            elif block.mark == "output":
                _compare(block, printed)
            elif is_run(block):
                if log:
                    print(f"== {block.place}", flush=True)
                printed = session.run(block)
                count += 1
    return count


def _compare(block: Block, printed: str) -> None:
    """That each line of the block is among those printed, with numbers masked."""
    masked = {_mask(line) for line in printed.splitlines()}
    for line in filter(str.strip, block.text.splitlines()):
        if _mask(line) not in masked:
            raise BlockError(f"{block.place}: the line {line!r} is not printed; what is printed:\n{printed}")


def _mask(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())


_WORKER = """
import json, os, sys, traceback
asked, told = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
output = os.open("PRINTED", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.dup2(output, 1), os.dup2(output, 2)
os.unlink("PRINTED")
names = {"__name__": "__main__"}
for line in asked:
    request = json.loads(line)
    os.ftruncate(output, 0), os.lseek(output, 0, os.SEEK_SET)
    try:
        exec(compile(request["text"], request["place"], "exec"), names)
        fine = True
    except BaseException:
        traceback.print_exc()
        fine = False
    sys.stdout.flush(), sys.stderr.flush()
    os.lseek(output, 0, os.SEEK_SET)
    printed = os.read(output, 2**24).decode()
    print(json.dumps({"fine": fine, "printed": printed}), file=told, flush=True)
"""


@dataclass
class _Session:
    """A scratch folder with the commands on the path, and an interpreter that starts with the first Python block."""

    folder: Path
    environment: dict[str, str]
    worker: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> str:
        """What a block prints; :class:`BlockError` where it fails."""
        fine, printed = self._python(block) if block.language == "python" else self._shell(block)
        if not fine:
            raise BlockError(f"{block.place}: fails\n{block.text}\n{printed}")
        return printed

    def _shell(self, block: Block) -> tuple[bool, str]:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, f"takes longer than {TIMEOUT_S} s"
        return done.returncode == 0, done.stdout

    def _python(self, block: Block) -> tuple[bool, str]:
        if self.worker is None:
            self.worker = subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self.worker.stdin is not None and self.worker.stdout is not None
        print(json.dumps({"text": block.text, "place": block.place}), file=self.worker.stdin, flush=True)
        answer = self.worker.stdout.readline()
        if not answer:
            return False, f"the interpreter ended with {self.worker.wait()}"
        told = json.loads(answer)
        return told["fine"], told["printed"]


@contextmanager
def _session(folder: Path) -> Iterator[_Session]:
    commands = folder / ".commands"
    commands.mkdir()
    for name, arguments in (("tilewright", ' -m opt "$@"'), ("python", ' "$@"')):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments}\n')
        script.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TILEWRIGHT_CACHE": str(folder / ".cache"),
        "MPLBACKEND": "agg",
        "NO_COLOR": "1",
    }
    session = _Session(folder, environment)
    try:
        yield session
    finally:
        if session.worker is not None:
            session.worker.kill()
            session.worker.communicate()


def main() -> None:
    """Run the pages named, or all."""
    named = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    for page in named:
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_page(page, Path(folder), log=True)
            except BlockError as error:
                sys.exit(str(error))


if __name__ == "__main__":
    main()
