"""Two schedules side by side as one HTML page that needs nothing else, without any script."""

from __future__ import annotations

from dataclasses import replace

from reports import drawing, figures, page
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
        page.environment(
            {"us": drawing.microseconds, "signed": _signed, "percent": drawing.percent, "svg": drawing.serialise}
        )
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
            style=page.style(),
        )
    )


def _signed(ns: int) -> str:
    """Whole ns as us with their sign."""
    return f"{'+' if ns > 0 else '−' if ns < 0 else ''}{drawing.microseconds(abs(ns))}"
