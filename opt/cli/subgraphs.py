"""Two-level graph scheduling: what the commands do with the contest's files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_type_hints

import typer

from instances.errors import InputError
from opt import subgraphs
from opt.cli.display import require_no_faults, show_faults, show_lines
from opt.cli.files import check_outputs
from opt.cli.interrupts import run_until_told
from opt.replay.subgraphs import Rules
from opt.words import percent

LEAST_S = 0.2
"""Seconds that a search gets at least, however long it took to get there."""


def rules_from(given: list[str]) -> Rules:
    """``A1=none`` and the like, or by option's name: ``k_cap=none``, ``acc=overlap``, ``inner=own`` ..."""
    numbered = dict(zip(("A1", "A2", "A3", "A4", "A5", "A6", "A8"), Rules.__dataclass_fields__, strict=True))
    choices = {name: getattr(hint, "__args__", (True, False)) for name, hint in get_type_hints(Rules).items()}
    chosen: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        name = numbered.get(key.upper(), key.replace("-", "_"))
        if name not in choices:
            raise InputError(f"--rule {text!r}: there is no such rule; choose {', '.join(choices)} (or A1 to A6, A8)")
        allowed = {str(choice).lower(): choice for choice in choices[name]}
        if value.lower() not in allowed:
            raise InputError(f"--rule {text!r}: {name} is {' or '.join(allowed)}")
        chosen[name] = allowed[value.lower()]
    return Rules(**chosen)


def solve_steps(
    path: Path,
    output: Path | None,
    *,
    time_limit: float | None,
    workers: int,
    seed: int,
    started: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Solve a problem of the contest and write its solution file; the time counts from the start of the process."""
    check_outputs([output], [path])
    problem = subgraphs.read_subgraph_problem(path)
    limit = subgraphs.default_limit(problem) if time_limit is None else time_limit
    left = max(LEAST_S, limit - (time.monotonic() - started))
    result, verdict = run_until_told(
        lambda told: subgraphs.solve_subgraphs(problem, time_limit=left, seed=seed, workers=workers, should_stop=told)
    )
    own = subgraphs.judge_solution(problem, result.solution, Rules(inner="own")).latency
    if output is not None:
        subgraphs.write_subgraph_solution(result.solution, output)
    if not quiet:
        written = "" if output is None else f", written to {output}"
        state = "optimal" if result.optimal else "feasible"
        lines = [
            ("problem", f"{path.name}, {problem.count} operators"),
            ("latency", f"{result.latency:,.2f} by {result.solver}; {own:,.2f} where each operator pays its own tiles"),
            ("bound", f"{result.bound:,.2f} by {result.bound_by}, gap {percent(result.gap)}, {state}"),
            ("covers", result.covers),
            ("judged", f"{verdict.latency:,.2f}, no rule is broken"),
            ("steps", f"{len(result.solution.steps)}{written}"),
            ("time", f"{result.runtime_s:.2f} s, seed {seed}, {result.priced} profiles priced"),
        ]
        show_lines(lines, err=True)
    if as_json:
        answer: dict[str, Any] = {
            "status": "optimal" if result.optimal else "feasible",
            "objective": result.latency,
            "bound": result.bound,
            "bound_by": result.bound_by,
            "bounds": result.bounds,
            "gap": result.gap,
            "runtime_s": round(result.runtime_s, 3),
            "solver": result.solver,
            "workers": workers,
            "seed": seed,
            "covers": result.covers,
            "steps": len(result.solution.steps),
            "judged": verdict.latency,
            "inner_own": own,
        }
        typer.echo(json.dumps(answer))


def validate_steps(path: Path, answer: Path, rules: list[str], *, as_json: bool) -> None:
    """Price a solution file and name every rule it breaks."""
    problem = subgraphs.read_subgraph_problem(path)
    solution = subgraphs.read_subgraph_solution(answer)
    verdict = subgraphs.judge_solution(problem, solution, rules_from(rules))
    if as_json:
        found = {
            "valid": verdict.valid,
            "objective": verdict.latency,
            "steps": [
                {"latency": step.latency, "working_set": step.working_set, "traffic": step.traffic}
                for step in verdict.steps
            ],
            "violations": list(verdict.faults),
        }
        typer.echo(json.dumps(found))
    elif verdict.valid:
        peak = max(step.working_set for step in verdict.steps)
        lines = [
            ("verdict", "valid: no rule is broken"),
            ("latency", f"{verdict.latency:,.2f}"),
            ("memory", f"{peak} of {problem.fast_memory_capacity} elements at most"),
            ("traffic", f"{sum(step.traffic for step in verdict.steps)} elements"),
            ("steps", f"{len(verdict.steps)}"),
        ]
        show_lines(lines, err=False)
    else:
        show_faults(verdict.faults)
    require_no_faults(answer, verdict.faults, "problem")
