"""`ctlssl compare` and `ctlssl costs`: models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctlssl.commands.console import names_in, refuse, show

__all__ = ["compare", "costs"]

_FILES = ("results.nc", "table.md", "quality.png", "learning.png", "report.html")
_TIMED = (
    "lssl",
    "ode_rnn:method=euler:steps=1",
    "ode_rnn:method=dopri5:rtol=1e-3",
    "ode_rnn:method=dopri5:rtol=1e-5",
    "neural_cde:method=rk4:steps=1",
)

_Task = Annotated[
    str | None,
    typer.Option(help="One task of the data set, such as death or forecast.", show_default="all of them"),
]
_Models = Annotated[
    str | None,
    typer.Option(help="Models, with commas between, or all.", show_default="lssl, gru, ode_rnn, neural_cde"),
]
_Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="How many splits and initial weights.", show_default="3, or 1 with --quick"),
]
_Epochs = Annotated[
    int | None, typer.Option(min=1, help="Most passes over the training part.", show_default="that of Training")
]
_Patience = Annotated[
    int | None,
    typer.Option(min=1, help="Epochs without a better validation loss.", show_default="that of Training"),
]
_Width = Annotated[int, typer.Option(min=1, help="Channels inside every model.")]
_Parameters = Annotated[
    int | None,
    typer.Option(
        min=1, help="Trained parameters of every model, within 10 %; they decide its width.", show_default="none"
    ),
]
_Tune = Annotated[
    bool,
    typer.Option(
        "--tune", help="Try 3 learning rates x 2 dropouts for every model on the validation part of each seed."
    ),
]
_Reference = Annotated[
    str | None,
    typer.Option(help="The model from which the paired differences are taken.", show_default="lssl where compared"),
]
_Out = Annotated[
    Path,
    typer.Option(
        help=f"Folder for {', '.join(_FILES)} and the finished cells, from which it goes on.", file_okay=False
    ),
]


def compare(
    dataset: Annotated[str, typer.Argument(help="A bundled data set with tasks; see `ctlssl datasets`.")] = "covid19",
    task: _Task = None,
    models: _Models = None,
    seeds: _Seeds = None,
    epochs: _Epochs = None,
    patience: _Patience = None,
    width: _Width = 32,
    parameters: _Parameters = None,
    tune: _Tune = False,
    reference: _Reference = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs: to see that it runs, not who wins.")] = False,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Score the classical models beside them.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
    out: _Out = Path("ctlssl-results"),
) -> None:
    """Train models side by side on the tasks of a data set, and print and save what came out.

    A model is named with options behind it, each after a colon: ode_rnn:method=euler:steps=1.

    Every finished cell (a model, task, seed and settings) is a file in OUT/cells: killed and started again, the command
    trains what is missing; started twice with one OUT, the two share the work. Remove a file to train its cell anew.
    """
    from ctlssl.comparison import plan, run
    from ctlssl.report import tables, verdict
    from ctlssl.saving import save_comparison
    from ctlssl.tables import SUFFIXES
    from ctlssl.training import Training

    if Path(dataset).suffix in SUFFIXES:
        refuse(
            ValueError(
                f"{dataset}: the tasks compared here are those of `ctlssl datasets`; records of your own are trained "
                "by `ctlssl train`, or compared in Python by ctlssl.compare with a Task of your own."
            )
        )
    given = {"epochs": epochs, "patience": patience}
    training = Training(**{name: value for name, value in given.items() if value is not None})
    asked = (dataset, task, names_in(models), seeds, quick, training, width, references, threads)
    cells = out / "cells"
    try:
        planned = plan(*asked, parameters=parameters, tune=tune, reference=reference)
        cells.mkdir(parents=True, exist_ok=True)
        if any(cells.glob("*.json")):
            typer.echo(f"Cells of this comparison that are in {cells} already are not run again.", err=True)
        results = run(planned, out=cells)
        saved = save_comparison(results, out)
    except (ValueError, OSError) as error:
        refuse(error)
    show(tables(results), verdict(results))
    typer.echo(f"Saved {', '.join(map(str, saved))}.")


def costs(
    models: Annotated[
        str | None,
        typer.Option(help="Models, with options as in `compare`, with commas between.", show_default=", ".join(_TIMED)),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Observations a series, with commas between.")] = "16,64,250,500,1000",
    parameters: Annotated[int, typer.Option(min=1, help="Trained parameters of every model.")] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="Series.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the series.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repetitions, after one that warms up.")] = 3,
    reference: Annotated[
        str | None, typer.Option(help="The model whose time is 1.", show_default="the first of the models")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="NetCDF file for all repetitions.", dir_okay=False, show_default="none")
    ] = None,
) -> None:
    """Time a training step (forward and backward) of models with equally many parameters as records grow.

    The records are made up: each series has a clock of its own, with exponential gaps, and half of the values are
    observed; the answer is one of two classes, the weights are fresh. The models take turns within a repetition; a
    ratio is the median of those within the repetitions. The whole takes about five minutes, shorter LENGTHS less.
    """
    import torch

    from ctlssl.contract import Problem
    from ctlssl.costs import cost_by_length, ratios
    from ctlssl.model_names import models_by_name
    from ctlssl.report import cost_tables

    problem = Problem("classification", channels=channels, outputs=2, horizon=100.0)
    torch.set_num_threads(threads)
    try:
        factories = models_by_name(names_in(models) or _TIMED)
        reference = next(iter(factories)) if reference is None else reference
        measured = cost_by_length(
            factories, problem, _counts(lengths), batch, repeats, parameters=parameters, progress=_tell_length
        )
        told = cost_tables(measured, ratios(measured, reference), reference)
        if out is not None:
            measured.to_netcdf(out, engine="netcdf4")
    except (ValueError, OSError) as error:
        refuse(error)
    show(told)


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"lengths is {text!r}; give whole numbers with commas between.") from None


def _tell_length(done: int, total: int) -> None:
    typer.echo(f"length {done + 1} of {total}", err=True)
