"""`ctlssl reproduce`: the recipes of the project, carried out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctlssl.commands.console import refuse

if TYPE_CHECKING:
    from ctlssl.recipes import Recipe, Scores

__all__ = ["reproduce"]


def reproduce(
    task: Annotated[str, typer.Argument(help="A task with a recipe, such as physionet2012/death.")],
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Splits, from seed 0 on.", show_default="as many as the recipe says")
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Models in the ensemble.", show_default="as many as the recipe says")
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablate", help="Score the variants of the recipe on validation parts instead.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A variant of the ablation; may be repeated.", show_default="all of them"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Also a classical model on the same parts, such as linear, boosting, boosting_periods or last_value."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder from which it goes on.", file_okay=False)] = Path("ctlssl-recipes"),
) -> None:
    """Train what the project uses for a task and print test scores, mean +- standard deviation over the splits.

    Killed and started again, it goes on with the epoch at which it was.
    """
    from ctlssl.recipes import RECIPES, ablate, reproduce_reference
    from ctlssl.recipes import reproduce as carry_out

    try:
        if task not in RECIPES:
            raise ValueError(f"task {task!r} has no recipe; there are {', '.join(RECIPES)}.")
        recipe = RECIPES[task] if members is None else RECIPES[task].changed(members=members)
        if ablation and (members is not None or reference is not None):
            raise ValueError(
                "--ablate scores the variants of a recipe as they are: leave out --members and --reference."
            )
        if only and not ablation:
            raise ValueError("--only chooses among the variants of an ablation: give --ablate as well.")
        typer.echo(f"{task}: about {recipe.minutes:.0f} minutes on two cores for {recipe.seeds} seeds.", err=True)
        if ablation:
            found = list(ablate(recipe, seeds, out, _tell, threads, only or None).values())
        else:
            found = [carry_out(recipe, seeds, out, _tell, threads)]
            found += [] if reference is None else [reproduce_reference(recipe, reference, seeds)]
    except (ValueError, OSError, FloatingPointError) as error:
        refuse(error)
    typer.echo("\n".join(_rows(found, recipe, "validation" if ablation else "test")))


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _rows(found: list[Scores], recipe: Recipe, part: str) -> list[str]:
    """A table in Markdown: a row for each, a column for each metric, and what it took."""
    metrics = [recipe.metric, *(name for name in found[0].metrics if name != recipe.metric)]
    seeds = len(found[0].seconds)
    rows = [
        f"| {recipe.task}, {part} part, {seeds} seed{'s' * (seeds > 1)} | {' | '.join(metrics)} | seconds a seed |",
        "|---" * (len(metrics) + 2) + "|",
    ]
    for scores in found:
        numbers = [_number(*scores.spread(name)) for name in metrics]
        rows.append(f"| {scores.name} | {' | '.join(numbers)} | {sum(scores.seconds) / seeds:.0f} |")
    return rows


def _number(mean: float, deviation: float) -> str:
    return f"{mean:.4f}" if deviation != deviation else f"{mean:.4f} +- {deviation:.4f}"
