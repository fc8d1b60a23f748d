"""The pages: links lead somewhere, their site builds, and every command and program on them runs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from instances.machine import Grade, load_machine, machine_names
from reports.facts import machine_rows

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LOADED = re.compile(r"""<(?:script|link|img)\b[^>]*\b(?:src|href)=["'](?:https?:)?//""")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        assert path.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{named(page)} links to {target}"


def test_every_page_can_be_reached() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])


def test_names_that_link_to_code_are_defined_there() -> None:
    """A link whose text is code names a file, a folder, or something that the file defines."""
    for page in PAGES:
        for text, target in re.findall(r"\[`([^`\]]+)`\]\((\.\.?/[^)\s]+\.py)\)", prose(page)):
            source = (page.parent / target).read_text(encoding="utf-8")
            path = target.lstrip("./")
            name = text.rpartition(".")[2]
            assert text.endswith(path.rpartition("/")[2]) or re.search(
                rf"^\s*(?:def|class) {name}\b|^{name}\b", source, re.MULTILINE
            ), f"{named(page)}: {text} is not in {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_run(page: Path, tmp_path: Path, run_blocks: ModuleType) -> None:
    if any(block.mark == "file" or run_blocks.is_run(block) for block in run_blocks.blocks(page)):
        if "from onnx" in page.read_text(encoding="utf-8"):
            pytest.importorskip("onnx")
        if "tilewright plot" in page.read_text(encoding="utf-8"):
            pytest.importorskip("matplotlib")
    run_blocks.run_page(page, tmp_path)


def test_blocks_that_ci_runs_are_there(run_blocks: ModuleType) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for page in PAGES:
        for block in run_blocks.blocks(page):
            if block.mark == "run":
                assert named(page) == "README.md" and f"readme_block {block.value})" in script, block.place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```sh\nfalse\n```\n", "fails"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "AssertionError"),
        ("```sh\necho took 7 s\n```\n\n<!-- output -->\n```text\ntook 8 min\n```\n", "is not printed"),
        ("<!-- not run: no time -->\n```sh\nfalse\n```\n", "is no reason"),
        ("```python\nimport os; os._exit(3)\n```\n", "ended with 3"),
    ],
)
def test_blocks_that_fail_are_named(
    text: str, words: str, tmp_path: Path, run_blocks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}", encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(run_blocks, "ROOT", tmp_path)
    with pytest.raises(run_blocks.BlockError, match=words):
        run_blocks.run_page(page, tmp_path / "scratch")


def test_blocks_share_files_and_names(tmp_path: Path, run_blocks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    text = (
        "<!-- file: a.txt -->\n```text\n12\n```\n\n```sh\ncat a.txt\n```\n\n<!-- output -->\n```text\n7\n```\n\n"
        "```python\nx = open('a.txt').read()\n```\n\n```python\nprint('x is', x)\n```\n\n"
        "<!-- output -->\n```text\nx is 3,000.5\n```\n"
    )
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(run_blocks, "ROOT", tmp_path)
    assert run_blocks.run_page(page, tmp_path) == 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    for module in ("mkdocs", "mkdocstrings_handlers", "latex2mathml"):
        if util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which the extra docs has")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder


def test_the_site_needs_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not LOADED.search(page.read_text(encoding="utf-8")), page


def test_the_site_says_what_the_code_knows(site: Path) -> None:
    machines = (site / "machines.html").read_text(encoding="utf-8")
    for name in machine_names():
        assert f'id="{name}"' in machines
        assert len(machine_rows(load_machine(name))) > 40
    assert machines.count("<tr>") > sum(len(machine_rows(load_machine(name))) for name in machine_names())
    assert all(grade.value in machines for grade in Grade)
    formulation = (site / "formulation.html").read_text(encoding="utf-8")
    assert formulation.count("<math") > 40 and "mathml0" not in formulation
    assert "source/formulations/joint_core.py.html#__codelineno" in formulation
    assert "JSON Schema" in (site / "formats.html").read_text(encoding="utf-8")
    assert "tilewright doctor" in (site / "commands.html").read_text(encoding="utf-8")
    assert 'id="opt.api.solve"' in (site / "reference.html").read_text(encoding="utf-8")


def test_links_of_the_site_resolve(site: Path) -> None:
    """Also those that lead into the sources, to the line."""
    ids: dict[Path, set[str]] = {}
    for page in site.rglob("*.html"):
        if "source" in page.relative_to(site).parts or page.name == "404.html":
            continue
        for target in re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8")):
            place, _, anchor = target.partition("#")
            if "://" in target or not place:
                continue
            path = (page.parent / place).resolve()
            assert path.exists(), f"{page.name} links to {target}"
            if anchor:
                if path not in ids:
                    ids[path] = set(re.findall(r'(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))
                assert anchor in ids[path], f"{page.name} links to {target}"
