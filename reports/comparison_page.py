"""Two schedules side by side as one HTML page that needs nothing else, without any script."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from reports import drawing, figures
from reports.comparison import KIND_WORDS, Comparison

MOST_ROWS = 400
"""Differences of one sort that the page lists; a whole model has thousands."""


def render_comparison(comparison: Comparison, names: tuple[str, str] = ("a", "b")) -> str:
    """A comparison as HTML.

    Parameters
    ----------
    names
        What the two schedules are called, such as their files.
    """
    span_ns = max(comparison.a.facts.span_ns, comparison.b.facts.span_ns)
    charts = [figures.timeline(replace(view.facts, span_ns=span_ns)) for view in (comparison.a, comparison.b)]
    whats = list(dict.fromkeys(difference.what for difference in comparison.differences))
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            instance=comparison.instance,
            names=names,
            sides=list(zip("ab", names, (comparison.a, comparison.b), charts, strict=True)),
            kind_names=figures.KIND_NAMES,
            plot_px=figures.PAGE_PX,  # what the labels are laid out for; no script fits them to less
            shown_kinds=[kind for kind in figures.KIND_NAMES if any(kind in chart.kinds for chart in charts)],
            kind_words=KIND_WORDS,
            by_operators=[row for row in comparison.by_operators if row[1] != row[2]][:MOST_ROWS],
            changed=[share for share in comparison.shares if share.difference_ns][:MOST_ROWS],
            differences=[
                (what, [one for one in comparison.differences if one.what == what][:MOST_ROWS]) for what in whats
            ],
            style=Markup(_style()),  # ours, no data in it
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "us": drawing.microseconds,
        "signed": _signed,
        "percent": drawing.percent,
        "svg": drawing.serialise,
    }
    return environment


def _signed(ns: int) -> str:
    """Whole ns as us with their sign."""
    return f"{'+' if ns > 0 else '−' if ns < 0 else ''}{drawing.microseconds(abs(ns))}"


def _finalize(value: Any) -> Any:
    """Control and direction characters out of everything that is shown; markup of ours is left alone."""
    return drawing.clean(str(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _template_text(name: str) -> str:
    return (resources.files("reports") / "templates" / name).read_text(encoding="utf-8")


def _style() -> str:
    def colours(palette: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in palette.items())

    return "\n".join(
        (
            f":root {{ color-scheme: light dark; {colours(drawing.LIGHT)} }}",
            f"@media (prefers-color-scheme: dark) {{ :root {{ {colours(drawing.DARK)} }} }}",
            _template_text("report.css"),
            drawing.FIGURE_CSS,
        )
    )
