"""What all pages share: templates that escape whatever comes from data, colours and style, and a digest of a script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from reports import drawing


def environment(filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """The templates, with filters of a page's own."""
    made = Environment(
        loader=FunctionLoader(template_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters |= filters
    return made


def _finalize(value: Any) -> Any:
    """Control and direction characters out of everything that is shown; markup of ours is left alone."""
    return drawing.clean(str(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def template_text(name: str) -> str:
    """A template, a style or a script as it is stored."""
    return (resources.files("reports") / "templates" / name).read_text(encoding="utf-8")


def style() -> Markup:
    """Colours for light and dark, and the rules for pages and figures."""

    def colours(palette: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in palette.items())

    parts = (
        f":root {{ color-scheme: light dark; {colours(drawing.LIGHT)} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {colours(drawing.DARK)} }} }}",
        template_text("report.css"),
        drawing.FIGURE_CSS,
    )
    return Markup("\n".join(parts))  # ours, no data in it


def script_hash(script: str) -> str:
    """What a content security policy names a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
