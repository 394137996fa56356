"""`ctlssl adapt`: models under rates and clocks that they were not trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctlssl.commands.console import names_in, refuse, show

__all__ = ["adapt"]


_Task = Annotated[
    str | None,
    typer.Option(help="One task of the data set, such as direction.", show_default="all of them"),
]
_Models = Annotated[
    str | None,
    typer.Option(help="Models, with commas between, or all.", show_default="lssl, s5, gru, neural_cde, mtan"),
]
_Changes = Annotated[
    str | None,
    typer.Option(
        help="Of x8 x4 x2 x1 x1/2 x1/4 x1/8 drop30 drop50 drop70 bursts jitter drift unit60 unit1/60.",
        show_default="all that the base rate allows",
    ),
]
_Ways = Annotated[
    str | None,
    typer.Option(
        help="Of zero-shot, known rate, fitted rate, rate per series, step sizes; with commas between.",
        show_default="all",
    ),
]
_Base = Annotated[int, typer.Option(min=1, help="Train on every base-th row; faster rates can then be tested.")]
_Shots = Annotated[int, typer.Option(min=1, help="Labelled series that are shown under each change.")]
_Metric = Annotated[
    str | None, typer.Option(help="What the table shows, such as accuracy.", show_default="auroc or rmse")
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
_LearningRate = Annotated[
    float | None, typer.Option(help="Of AdamW, for every model.", show_default="that of Training")
]
_Out = Annotated[
    Path,
    typer.Option(
        help="Folder for adapt.nc, adapt.md, adapt.png and the finished cells, from which it goes on.",
        file_okay=False,
    ),
]


def adapt(
    dataset: Annotated[str, typer.Argument(help="A data set with tasks; see `ctlssl datasets`.")] = "spirals",
    task: _Task = None,
    models: _Models = None,
    changes: _Changes = None,
    ways: _Ways = None,
    base: _Base = 1,
    shots: _Shots = 32,
    metric: _Metric = None,
    seeds: _Seeds = None,
    epochs: _Epochs = None,
    patience: _Patience = None,
    learning_rate: _LearningRate = None,
    width: Annotated[int, typer.Option(min=1, help="Channels inside every model.")] = 32,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs: to see that it runs, not what it shows.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
    out: _Out = Path("ctlssl-results"),
) -> None:
    """Train models at one rate; test them at others, with rows missing, and with clocks that are off.

    Every model is trained once a seed and tested under every change: as it is (zero-shot), with the rate that mends the
    clock where the user knows it, with the rate that is found from a few labelled series (all together, or one a
    series), and with the step sizes of its layers trained on those few.

    Every finished cell (a model, task and seed) is a file in OUT/cells: killed and started again, the command trains
    what is missing.
    """
    from ctlssl.adaptation import ADAPTED_MODELS, chosen_changes, run_adaptation
    from ctlssl.adaptation_report import adaptation_tables, adaptation_verdict
    from ctlssl.comparison import plan
    from ctlssl.saving import save_adaptation
    from ctlssl.training import Training

    given = {"epochs": epochs, "patience": patience, "learning_rate": learning_rate}
    try:
        training = Training(**{name: value for name, value in given.items() if value is not None})
        asked = (dataset, task, names_in(models) or ADAPTED_MODELS, seeds, quick, training, width)
        planned = plan(*asked, references=False, threads=threads, lengths=())
        wanted = chosen_changes(names_in(changes), names_in(ways), base, shots)
        (out / "cells").mkdir(parents=True, exist_ok=True)
        results = run_adaptation(planned, wanted, out=out / "cells")
        told = adaptation_tables(results, metric), adaptation_verdict(results, metric)
        saved = save_adaptation(results, out, metric)
    except (ValueError, OSError) as error:
        refuse(error)
    show(*told)
    typer.echo(f"Saved {', '.join(map(str, saved))}.")
