"""A replacement plan as a page: address over steps, with what was fetched and what was written back marked."""

from __future__ import annotations

from html import escape

from instances.replacement import Part, Plan, Problem

WIDTH, HEIGHT, LEFT, TOP = 1000, 420, 90, 20

COLOURS = {Part.INPUT: "#7aa6c2", Part.WEIGHT: "#b9b9b9", Part.INNER: "#8fbf8f", Part.OUTPUT: "#c2a37a"}
FETCHED = "#d65f5f"

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { padding: .15rem .8rem; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } text { fill: currentColor; font-size: 12px; }
.overflow { overflow-x: auto; }
"""


def map_page(problem: Problem, plan: Plan) -> str:
    """One self-contained HTML page; the plan must be valid for the problem."""
    seen: set[str] = set()
    again = []
    for stay in sorted(plan.stays, key=lambda one: one.first):
        first_time = stay.tensor not in seen and stay.tensor not in problem.maker
        seen.add(stay.tensor)
        if stay.fetched and not first_time:
            again.append(stay)
    rows = "".join(
        f"<tr><td>{escape(stay.tensor)}</td><td class=n>{stay.first}</td><td>{escape(plan.order[stay.first])}</td>"
        f"<td class=n>{problem.tensor[stay.tensor].size_bytes:,}</td>"
        f"<td>{'written back before' if stay.tensor in plan.spilled else 'off-chip from the start'}</td></tr>"
        for stay in again
    )
    title = f"{escape(problem.name)}: {plan.extra_bytes:,} bytes beyond the compulsory {problem.compulsory_bytes:,}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(problem.name)}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p>{len(plan.order)} operators in a scratchpad of {problem.capacity_bytes:,} bytes, planned by "
        f"{escape(plan.solver)}; proven that no plan is below {plan.bound_bytes:,} ({escape(plan.bound_by)}, gap "
        f"{100 * plan.gap:.2f} %).</p>"
        f"{map_svg(problem, plan)}"
        "<p>Address upwards, steps to the right. Red edges: fetched; dashed: written back after it was made.</p>"
        '<h2>Fetched beyond the compulsory</h2><div class="overflow">'
        "<table><tr><th>tensor<th>step<th>for<th>bytes<th>from</tr>"
        f"{rows}</table></div></html>\n"
    )


def map_svg(problem: Problem, plan: Plan) -> str:
    """The map alone."""
    steps = len(plan.order)
    across, up = (WIDTH - LEFT) / steps, HEIGHT / problem.capacity_bytes
    spilled = set(plan.spilled)
    parts = []
    for stay in plan.stays:
        tensor = problem.tensor[stay.tensor]
        room = problem.room(stay.tensor)
        edge = FETCHED if stay.fetched and tensor.part is not Part.WEIGHT else "#555"
        dashed = ' stroke-dasharray="4 2"' if stay.tensor in spilled and not stay.fetched else ""
        words = (
            f"{tensor.name}, {tensor.size_bytes:,} bytes at {stay.offset_bytes:,}, steps {stay.first} to {stay.last}"
        )
        parts.append(
            f'<rect x="{LEFT + stay.first * across:.2f}" width="{(stay.last - stay.first + 1) * across:.2f}" '
            f'y="{TOP + HEIGHT - (stay.offset_bytes + room) * up:.2f}" height="{room * up:.2f}" '
            f'fill="{COLOURS[tensor.part]}" stroke="{edge}"{dashed}><title>{escape(words)}</title></rect>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH + 10} {TOP + HEIGHT + 30}" role="img" aria-label="memory map">'
        f'<text x="4" y="{TOP + 8}">{problem.capacity_bytes:,} B</text><text x="4" y="{TOP + HEIGHT}">0</text>'
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 18}">step 0</text>'
        f'<text x="{WIDTH - 60}" y="{TOP + HEIGHT + 18}">step {steps - 1}</text>'
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT}" height="{HEIGHT}" fill="none" stroke="currentColor"/>'
        f"{''.join(parts)}</svg>"
    )
