"""How questions and answers show themselves in a notebook: a small table, without script or style of its own."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def html_table(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values as HTML; whatever is in them is text."""
    body = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
    return f"<table><caption>{_text(caption)}</caption><tbody>{body}</tbody></table>"


def _text(value: str) -> str:
    """Escaped, and without characters that are not seen or turn others round."""
    return escape("".join(char if char.isprintable() else "\ufffd" for char in value))
