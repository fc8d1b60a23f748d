"""Explanations of a schedule by name, and two schedules beside each other: the functions behind ``opt.explain``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from instances.documents import write_text
from instances.errors import InputError
from instances.instance import Instance
from instances.schedule import Schedule
from opt.replay import replay
from reports.reasons import Reason, Reasons
from reports.view import View

if TYPE_CHECKING:
    from reports.comparison import Comparison

MOST_NAMES = 5
"""Names listed where one is not clear or not known."""


def explain(instance: Instance, schedule: Schedule, name: str | int | None = None) -> list[Reason]:
    """Why a schedule is as it is, in sentences; ``str`` of each is its words, ``.facts`` the numbers in them.

    Parameters
    ----------
    name
        A kernel by number, label or one of its operators, or a tensor; the beginning or the end of a name will do where
        it is the only one. ``None``: the whole in short.

    Raises
    ------
    InputError
        Where the name is unknown, or could mean several things.
    InvalidScheduleError
        Where the schedule breaks a rule on this instance.
    """
    replay(instance, schedule).require_valid()
    reasons = Reasons(instance, schedule)
    if name is None:
        return list(reasons.summary())
    return explain_name(reasons, str(name))


def explain_name(reasons: Reasons, name: str) -> list[Reason]:
    """All there is to say about what a name means: a kernel, a tensor, or both where both are called that."""
    view = reasons.view
    number = name.removeprefix("#")
    if number.isascii() and number.isdigit():
        if not 1 <= int(number) <= len(view.rows):
            raise InputError(f"kernel {number[:20]} is not there; the schedule has kernels 1 to {len(view.rows)}")
        return list(reasons.kernel(view.rows[int(number) - 1]))
    full = _full_name(view, name)
    found: list[Reason] = []
    for row in view.rows:
        if full == row.kernel.label or full in row.kernel.operators:
            found += reasons.kernel(row)
    if full in view.graph.tensor:
        found += reasons.tensor(full)
    return found


def _full_name(view: View, name: str) -> str:
    """What a name stands for; :class:`InputError` where it is unknown or not clear."""
    labels = [row.kernel.label for row in view.rows]
    names = list(dict.fromkeys((*view.graph.operator, *view.graph.tensor, *labels)))
    if name in names:
        return name
    wanted = name.casefold()
    tests: tuple[Callable[[str], bool], ...] = (
        lambda known: known.casefold() == wanted,
        lambda known: known.casefold().endswith((f".{wanted}", f"/{wanted}")),
        lambda known: known.casefold().startswith(wanted),
        lambda known: known.casefold().endswith(wanted),
    )
    for fits in tests:
        found = [known for known in names if fits(known)] if wanted else []
        if len(found) > 1:
            # of an operator and the label of a kernel that begins with it the operator is meant
            found = [known for known in found if known not in labels or known in view.graph.operator] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{name[:80]!r} is not clear: {_list(found)}; give more of the name")
    near = difflib.get_close_matches(wanted, [known.casefold() for known in names], MOST_NAMES, cutoff=0.5)
    back = {known.casefold(): known for known in reversed(names)}
    tails = difflib.get_close_matches(wanted, [known.casefold().rpartition(".")[2] for known in names], MOST_NAMES, 0.6)
    near += [known.casefold() for known in names if known.casefold().rpartition(".")[2] in tails]
    listed = list(dict.fromkeys(back[one] for one in near)) or names
    raise InputError(
        f"{name[:80]!r} is no kernel, operator or tensor of {view.instance.name}; nearest: {_list(listed)}"
    )


def _list(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - MOST_NAMES} more" if len(all_names) > MOST_NAMES else ""
    return ", ".join(all_names[:MOST_NAMES]) + more


def compare_schedules(
    instance: Instance, a: Schedule, b: Schedule, path: str | Path | None = None, names: tuple[str, str] = ("a", "b")
) -> Comparison:
    """Two schedules of one instance: what differs, and what each difference is worth.

    Parameters
    ----------
    path
        HTML page to write as well.
    names
        What the page calls the two.

    Returns
    -------
    Comparison
        ``.shares`` add up to ``.difference_ns``, latency of b minus that of a; ``.differences`` say what is not the
        same.

    Raises
    ------
    InvalidScheduleError
        Where one of the two breaks a rule on this instance.
    InputError
        Where the file cannot be written.
    """
    from reports.comparison import compare
    from reports.comparison_page import render_comparison

    for name, schedule in zip(names, (a, b), strict=True):
        replay(instance, schedule).require_valid(f"schedule {name}")
    found = compare(instance, a, b)
    if path is not None:
        write_text(path, render_comparison(found, names))
    return found
