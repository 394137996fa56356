"""The command line: `ctlssl compare`, `ctlssl clock`, `ctlssl datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

__all__ = ["app", "main"]

Writers = dict[str, Callable[["xarray.Dataset", Path], None]]  # file name -> what writes it

_WIDE = 160  # columns of a table that goes to a file or a pipe

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


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="A bundled data set with tasks; see `ctlssl datasets`.")] = "covid19",
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
    width: Annotated[int, typer.Option(min=1, help="Channels inside every model.")] = 32,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs: to see that it runs, not who wins.")] = False,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Score the classical models beside them.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder for comparison.nc, comparison.md and comparison.png.", file_okay=False)
    ] = Path("ctlssl-results"),
) -> None:
    """Train models side by side on the tasks of a data set, and print and save what came out."""
    from ctlssl.comparison import plan, run
    from ctlssl.training import Training

    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    training = None if epochs is None else Training(epochs=epochs)
    try:
        planned = plan(dataset, task, names, seeds, quick, training, width, references, threads)
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        _refuse(error)
    results = run(planned)
    _print(results)
    _save(results, out)
    typer.echo(f"Saved {', '.join(str(out / name) for name in _WRITERS)}.")


@app.command()
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
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs: to see that it runs, not what it shows.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for clock.nc, clock.md and clock.png.", file_okay=False)] = Path(
        "ctlssl-results"
    ),
) -> None:
    """Train models with true times, gaps shuffled, equal gaps and no time: who reads the clock, and where it matters.

    Every model is trained anew with each clock and tested with it; the one trained with true times is also tested with
    every other clock.
    """
    from ctlssl.clock_ablation import run_ablation
    from ctlssl.clock_report import ablation_tables, ablation_verdict
    from ctlssl.comparison import plan
    from ctlssl.training import Training

    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    given = {"epochs": epochs, "patience": patience}
    training = Training(**{name: value for name, value in given.items() if value is not None})
    try:
        planned = plan(dataset, task, names, seeds, quick, training, width, False, threads, lengths=())
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        _refuse(error)
    results = run_ablation(planned)
    _print_report(ablation_tables(results), ablation_verdict(results))
    _save(results, out, _CLOCK_WRITERS)
    typer.echo(f"Saved {', '.join(str(out / name) for name in _CLOCK_WRITERS)}.")


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


def _refuse(error: Exception) -> NoReturn:
    """One line on standard error, exit code 2."""
    typer.echo(f"Error: {error}", err=True)
    raise typer.Exit(2)


def _print(results: xarray.Dataset) -> None:
    from ctlssl.report import tables, verdict

    _print_report(tables(results), verdict(results))


def _print_report(tables: list[Table], verdict: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    for table in tables:
        console.print(table)
    console.print(verdict, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _save(results: xarray.Dataset, folder: Path, writers: Writers | None = None) -> None:
    """All files under temporary names first; then they get their own, so that none is ever half-written."""
    written: dict[Path, Path] = {}
    try:
        for name, write in (_WRITERS if writers is None else writers).items():
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            written[temporary] = folder / name
            write(results, temporary)
        for temporary, final in written.items():
            os.replace(temporary, final)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)


def _write_netcdf(results: xarray.Dataset, path: Path) -> None:
    results.to_netcdf(path, engine="netcdf4")


def _write_markdown(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.report import markdown

    path.write_text(markdown(results), encoding="utf8")


def _write_picture(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.plots import plot_comparison

    plot_comparison(results).savefig(path, format="png", dpi=150)


def _write_clock_markdown(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.clock_report import ablation_markdown

    path.write_text(ablation_markdown(results), encoding="utf8")


def _write_clock_picture(results: xarray.Dataset, path: Path) -> None:
    from ctlssl.clock_report import plot_ablation

    plot_ablation(results).savefig(path, format="png", dpi=150)


_WRITERS: Writers = {
    "comparison.nc": _write_netcdf,
    "comparison.md": _write_markdown,
    "comparison.png": _write_picture,
}
_CLOCK_WRITERS: Writers = {
    "clock.nc": _write_netcdf,
    "clock.md": _write_clock_markdown,
    "clock.png": _write_clock_picture,
}
