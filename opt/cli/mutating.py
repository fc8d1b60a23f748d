"""The command that corrupts schedules and shows what the judge catches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instances.documents import write_text
from instances.errors import InvalidScheduleError
from opt import api
from opt.cli.app import app
from opt.cli.display import show_table
from opt.cli.files import check_outputs
from opt.cli.solving import Seed
from opt.mutation import Tally, run_trials
from opt.mutation.examples import example_schedules
from opt.words import markdown_table

HEADER = ("kind of mistake", "tried", "caught", "by rule")


@app.command()
def mutate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INSTANCE SCHEDULE]...", help="Files; without any, ten questions are made and solved."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Random places for each kind and schedule.")] = 3,
    time_limit: Annotated[float, typer.Option(help="Seconds for each of the ten to be solved.")] = 1.0,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Markdown file for the table.")] = None,
) -> None:
    """Corrupt valid schedules by every kind of mistake and show which ones the replay names.

    \b
    Example:
      tilewright mutate --rounds 5

    Each corrupted schedule is sealed anew. Caught means: the broken rule is named, with its place and amount. Exit
    code 4 where something passes.
    """
    given = paths or []
    if len(given) % 2:
        raise typer.BadParameter("give pairs of an instance file and a schedule file")
    check_outputs([output], given)
    pairs = [
        (api.load_instance(question), api.load_schedule(answer))
        for question, answer in zip(given[::2], given[1::2], strict=True)
    ]
    tallies = run_trials(
        pairs or example_schedules(time_limit, seed),
        rounds,
        seed,
        lambda instance: typer.echo(f"corrupted {instance.name}", err=True),
    )
    cells = [
        (tally.kind.replace("_", " "), f"{tally.tried}", f"{tally.caught}", ", ".join(sorted(tally.rules)))
        for tally in tallies
    ]
    show_table(HEADER, cells, HEADER[1:3])
    tried, caught = sum(tally.tried for tally in tallies), sum(tally.caught for tally in tallies)
    used = sum(tally.tried > 0 for tally in tallies)
    verdict = f"{caught} of {tried} corruptions caught, {used} of {len(tallies)} kinds tried"
    typer.echo(verdict, err=True)
    if output is not None:
        parts = [
            "# Mistakes and the rules that catch them",
            f"`tilewright mutate --rounds {rounds} -o {output}` writes this page: valid schedules, corrupted in random "
            "places and sealed anew. Caught means that the replay names the broken rule, where, and by how much.",
            f"{verdict}.",
            markdown_table(HEADER, cells, HEADER[1:3]),
        ]
        write_text(output, "\n\n".join(parts) + "\n")
    _refuse(tallies, tried - caught)


def _refuse(tallies: list[Tally], missed: int) -> None:
    """:class:`InvalidScheduleError` where something passed."""
    for trial in (trial for tally in tallies for trial in tally.missed):
        raise InvalidScheduleError(
            f"{missed} corruptions pass the replay: first {trial.kind} on {trial.instance}, which should show "
            f"{' or '.join(trial.wound.rules)} at {trial.wound.place!r}"
        )
