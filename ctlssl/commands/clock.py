"""`ctlssl clock`: the same models with true times and without them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctlssl.commands.console import names_in, refuse, show

__all__ = ["clock"]


def clock(
    dataset: Annotated[str, typer.Argument(help="A data set with tasks; see `ctlssl datasets`.")] = "covid19",
    task: Annotated[
        str | None,
        typer.Option(help="One task of the data set, such as death or forecast.", show_default="all of them"),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Models, with commas between, or all.", show_default="lssl, gru, ode_rnn, neural_cde"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="How many splits and initial weights.", show_default="3, or 1 with --quick"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the training part.", show_default="that of Training")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs without a better validation loss.", show_default="that of Training"),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Channels inside every model.")] = 32,
    clocks: Annotated[
        str | None,
        typer.Option(help="Clocks, true among them, with commas between.", show_default="true, shuffled, equal, none"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs: to see that it runs, not what it shows.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder for clock.nc, clock.md, clock.png and the finished cells.", file_okay=False)
    ] = Path("ctlssl-results"),
) -> None:
    """Train models with true times, gaps shuffled, equal gaps and no time: who reads the clock, and where it matters.

    Every model is trained anew with each clock and tested with it; the one trained with true times is also tested with
    every other clock. Every finished cell (a model, task, seed and clock) is a file in OUT/cells: killed and started
    again, the command trains what is missing.
    """
    from ctlssl.clock_ablation import check_clocks, run_ablation
    from ctlssl.clock_report import ablation_tables, ablation_verdict
    from ctlssl.clocks import CLOCKS
    from ctlssl.comparison import plan
    from ctlssl.saving import save_ablation
    from ctlssl.training import Training

    given = {"epochs": epochs, "patience": patience}
    training = Training(**{name: value for name, value in given.items() if value is not None})
    try:
        planned = plan(dataset, task, names_in(models), seeds, quick, training, width, False, threads, lengths=())
        check_clocks(chosen := names_in(clocks) or list(CLOCKS))
        (out / "cells").mkdir(parents=True, exist_ok=True)
        results = run_ablation(planned, clocks=chosen, out=out / "cells")
    except (ValueError, OSError) as error:
        refuse(error)
    show(ablation_tables(results), ablation_verdict(results))
    typer.echo(f"Saved {', '.join(map(str, save_ablation(results, out)))}.")
