"""What the site shows beyond the pages as they are written: run by MkDocs, see mkdocs.yml.

- ``<!-- machines -->``, ``<!-- schema: NAME -->`` and ``<!-- commands -->`` are replaced by what the code says, so that
  no page repeats a figure, a field or an option by hand.
- Links to source files lead to a page with that file; where the text of the link is the name of something defined
  there, to the line that defines it.
- Mathematics between ``$`` and a backtick, and in blocks of the language ``math``, becomes MathML while the site is
  built: browsers show it without a script and without the network, and GitHub renders the same text by itself.
"""

from __future__ import annotations

import ast
import html
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[1]

SOURCES = "source"
"""Folder of the site in which the source files lie."""

LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".md": "markdown", ".csv": "text"}

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
INLINE_MATH = re.compile(r"\$`([^`]+)`\$")
BLOCK_MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
MARKER = re.compile(r"^<!-- (machines|commands|schema: [\w/-]+) -->$", re.MULTILINE)

_math: dict[str, str] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every source file that some page links to."""
    for target in sorted({path for page in Path(config["docs_dir"]).rglob("*.md") for path, _ in outside(page)}):
        path = ROOT / target
        if path.is_file():
            files.append(File.generated(config, f"{SOURCES}/{target}.md", content=_source_page(path)))
        else:
            content = _folder_page(path, files, config)
            files.append(File.generated(config, f"{SOURCES}/{target}/index.md", content=content))
    styles = HtmlFormatter(style="default").get_style_defs(".highlight")
    files.append(File.generated(config, "pygments.css", content=styles))
    return files


def outside(page: Path) -> list[tuple[str, str]]:
    """Links of a page that leave the folder of pages: path from the root of the repository, and text of the link."""
    found = []
    for text, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        place = target.partition("#")[0]
        if "://" in target or not place:
            continue
        path = (page.parent / place).resolve()
        if ROOT / "docs" not in path.parents and path.exists():
            found.append((path.relative_to(ROOT).as_posix(), text.strip("`")))
    return found


def _source_page(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    language = LANGUAGES.get(path.suffix, "text")
    lines = path.read_text(encoding="utf-8").rstrip("\n").splitlines()
    fence = "`" * 6
    head = f"---\nsearch:\n  exclude: true\n---\n# {name}\n"
    return "\n".join([head, f"{fence}{{ .{language} linenums=1 }}", *lines, fence, ""])


def _folder_page(path: Path, files: Files, config: Any) -> str:
    name = path.relative_to(ROOT).as_posix()
    rows = [f"# {name}", ""]
    for inner in sorted(path.glob("*.py")):
        source = inner.read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        rows.append(f"- [{inner.name}]({inner.name}.md): {first}")
        uri = f"{SOURCES}/{name}/{inner.name}.md"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=_source_page(inner)))
    return "\n".join(rows) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in markers, set mathematics, lead links to sources to their pages."""
    uri = page.file.src_uri
    if uri.startswith(f"{SOURCES}/"):
        return markdown
    markdown = MARKER.sub(lambda found: _fill(found.group(1)), markdown)
    markdown = BLOCK_MATH.sub(lambda found: f"\n{_set(found.group(1), 'block')}\n", markdown)
    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [_prose(markdown[last : fence.start()], uri), fence.group(0)]
        last = fence.end()
    return "".join([*parts, _prose(markdown[last:], uri)])


def _prose(text: str, uri: str) -> str:
    text = INLINE_MATH.sub(lambda found: _set(found.group(1), "inline"), text)
    return LINK.sub(lambda found: _redirected(found, uri), text)


def _set(formula: str, display: str) -> str:
    """A word that stands for the formula until the page is HTML: Markdown would take its underscores for emphasis."""
    word = f"mathml{len(_math)}end"
    _math[word] = convert(" ".join(formula.split()), display=display)
    return word


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Put the formulas in."""
    return re.sub(r"mathml\d+end", lambda word: _math[word.group(0)], content)


def _redirected(link: re.Match[str], uri: str) -> str:
    text, target = link.groups()
    place = target.partition("#")[0]
    if "://" in target or not place:
        return link.group(0)
    path = (ROOT / "docs" / posixpath.dirname(uri) / place).resolve()
    if ROOT / "docs" in path.parents or not path.exists():
        return link.group(0)
    name = path.relative_to(ROOT).as_posix()
    up = posixpath.relpath(SOURCES, posixpath.dirname(uri) or ".")
    if path.is_dir():
        return f"[{text}]({up}/{name}/index.md)"
    line = line_of(path, text.strip("`"))
    return f"[{text}]({up}/{name}.md{f'#__codelineno-0-{line}' if line else ''})"


def line_of(path: Path, name: str) -> int | None:
    """Line on which a Python file defines a name, ``Class.method`` or a method's own name alike."""
    if path.suffix != ".py" or not re.fullmatch(r"[\w.]+", name):
        return None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name.rpartition(".")[2]:
            return node.lineno
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.lineno
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return node.lineno
    return None


# --------------------------------------------------------------------------- what the code knows


def _fill(what: str) -> str:
    if what == "machines":
        return _machines()
    if what == "commands":
        return _commands()
    return _schema(what.removeprefix("schema: "))


def _cell(text: str) -> str:
    return html.escape(text).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;").replace("\n", " ")


def _machines() -> str:
    from instances.machine import load_machine, machine_names
    from reports.facts import machine_rows

    parts = []
    for name in machine_names():
        machine = load_machine(name)
        parts += [f"## {name}", "", f"{_cell(machine.title)}. {_cell(machine.notes)}", ""]
        parts += ["| figure | value | grade | source |", "| --- | ---: | --- | --- |"]
        parts += [
            f"| {_cell(row.name)} | {_cell(row.value)} | {row.grade} | {_cell(row.source)} |"
            for row in machine_rows(machine)
        ]
        parts.append("")
    return "\n".join(parts)


def _commands() -> str:
    import typer

    from opt.cli import app

    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            context = command.make_context(f"tilewright {name}", [], resilient_parsing=True)
            parts += [f"## {name}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(parts)


def _schema(name: str) -> str:
    """A table of the document's fields, with those of the parts it is made of, and the schema itself to open."""
    from instances.catalogue import ModelConfig
    from instances.frontends.captured import CapturedGraph
    from opt.cli.lists import SCHEMAS

    types = {**SCHEMAS, "model": ModelConfig, "exported-graph": CapturedGraph}
    schema = types[name].model_json_schema()
    parts = [_fields(schema)]
    for part, inner in schema.get("$defs", {}).items():
        if "properties" in inner:
            parts += ["", f"**{part}**. {_summary(inner)}", "", _fields(inner)]
        elif "enum" in inner:
            parts += ["", f"**{part}**: {', '.join(f'`{value}`' for value in inner['enum'])}. {_summary(inner)}"]
    text = html.escape(json.dumps(schema, indent=2))
    parts += ["", f"<details><summary>JSON Schema</summary><pre>{text}</pre></details>", ""]
    return "\n".join(parts)


def _summary(schema: dict[str, Any]) -> str:
    return _cell(schema.get("description", "").split("\n\n")[0])


def _fields(schema: dict[str, Any]) -> str:
    rows = ["| field | type | must be there |", "| --- | --- | --- |"]
    needed = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        rows.append(f"| `{name}` | {_cell(_type(field))} | {'yes' if name in needed else ''} |")
    return "\n".join(rows)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    kind = str(field.get("type", "any value"))
    if "prefixItems" in field:
        return f"[{', '.join(_type(part) for part in field['prefixItems'])}]"
    if kind == "array":
        return f"array of {_type(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    limits = [f"{sign} {field[key]}" for key, sign in LIMITS.items() if key in field]
    return f"{kind} {', '.join(limits)}".strip()


LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
