"""Importing the library loads no extra, says nothing, and a door whose extra is missing says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = ("torch", "transformers", "onnx", "onnxscript", "matplotlib")


def run(program: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, in which some packages cannot be imported."""
    head = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    return subprocess.run([sys.executable, "-c", head + program], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["opt", "opt.importing", "opt.embedding", "opt.dynamo", "opt.cli"])
def test_importing_loads_no_extra_and_prints_nothing(module: str) -> None:
    found = run(f"import {module}\nprint(sorted(set({EXTRAS!r}) & set(sys.modules)), file=sys.stderr)")
    assert (found.returncode, found.stdout, found.stderr.strip()) == (0, "", "[]")


def test_everything_imports_without_extras() -> None:
    modules = "opt, opt.importing, opt.embedding, opt.dynamo, opt.main, instances.frontends.torch_program"
    found = run(f"import {modules}, instances.frontends.onnx_model\n", *EXTRAS)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        ("opt.from_torch('model.pt2')", "torch", "torch"),
        ("opt.from_torch(object())", "torch", "torch"),
        ("opt.from_onnx('model.onnx')", "onnx", "onnx"),
    ],
)
def test_a_door_without_its_package_names_the_extra(call: str, package: str, extra: str) -> None:
    program = (
        "import opt\nfrom instances.errors import InputError\n"
        f"try:\n    {call}\nexcept InputError as error:\n    print(error, file=sys.stderr)\n"
    )
    found = run(program, *EXTRAS)
    assert found.returncode == 0, found.stderr
    assert (found.stdout, found.stderr) == ("", f"this needs the package {package}; install tilewright[{extra}]\n")


@pytest.mark.parametrize(("door", "extra"), [("torch", "torch"), ("onnx", "onnx")])
def test_the_command_line_names_the_extra(door: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"")
    arguments = ["tilewright", "import", door, str(tmp_path / "model"), "-o", str(tmp_path / "made.json")]
    found = run(f"from opt.main import main\nsys.argv = {arguments!r}\nmain()\n", *EXTRAS)
    assert found.returncode == 2 and found.stdout == ""
    assert f"install tilewright[{extra}]" in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr and not (tmp_path / "made.json").exists()
