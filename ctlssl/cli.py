"""The command line, `ctlssl`: what its commands are; each is in `ctlssl.commands`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from ctlssl.commands.adapt import adapt
from ctlssl.commands.answers import evaluate, predict
from ctlssl.commands.clock import clock
from ctlssl.commands.comparing import compare, costs
from ctlssl.commands.inspecting import inspect
from ctlssl.commands.reproducing import reproduce
from ctlssl.commands.runs import train
from ctlssl.commands.streams import stream
from ctlssl.commands.tune import tune
from ctlssl.commands.views import views

__all__ = ["app", "main"]

app = typer.Typer(
    help="Linear state-space layers for time series sampled at irregular times.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the command `ctlssl`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ctlssl {version('ctlssl')}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Linear state-space layers for time series sampled at irregular times."""


for _command in (inspect, train, tune, predict, evaluate, stream, compare, costs, views, clock, adapt, reproduce):
    app.command()(_command)


@app.command()
def datasets() -> None:
    """List the data sets that come with the library and their tasks."""
    from ctlssl.catalogue import dataset_names, describe_dataset
    from ctlssl.tasks import TASKS

    for name in dataset_names():
        card = describe_dataset(name)
        typer.echo(
            f"{name}: {card.title}\n"
            f"    {card.series} series, {card.rows} rows, {len(card.channels)} channels, "
            f"{card.observed:.0%} of the cells observed; licence {card.licence}"
        )
        for full, task in TASKS.items():
            if full.startswith(f"{name}/"):
                typer.echo(f"    {full} ({task.kind}): {task.description}")
