"""The command line: `ctlssl compare`, `ctlssl views`, `ctlssl datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from ctlssl import views_command as of_views

if TYPE_CHECKING:
    import xarray

__all__ = ["app", "main"]

_WIDE = 160  # columns of a table that goes to a file or a pipe

Writer = Callable[["xarray.Dataset", Path], None]

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
def views(
    dataset: of_views.Data = None,
    task: of_views.TaskName = None,
    epochs: of_views.Epochs = 3,
    structure: of_views.Structure = "diagonal",
    measure: of_views.Measure = "legs",
    method: of_views.Method = "zoh",
    channels: of_views.Channels = None,
    state_size: of_views.StateSize = 8,
    batch: of_views.Batch = 2,
    length: of_views.Length = 8,
    decades: of_views.Decades = 4.0,
    methods: of_views.Methods = "rk4,dopri5,dopri8",
    tolerances: of_views.Tolerances = "1e-2,1e-4,1e-6",
    steps: of_views.Steps = "1,4,16",
    adjoint: of_views.Adjoint = True,
    gradients: of_views.Gradients = True,
    single: of_views.Single = False,
    repeats: of_views.Repeats = 3,
    seed: of_views.Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for views.nc, views.md and views.png.", file_okay=False)] = Path(
        "ctlssl-results"
    ),
) -> None:
    """Run a layer as recurrence, convolution and by ODE solvers: error, seconds, evaluations and memory of each."""
    import torch

    from ctlssl.solver_sweep import compare_views

    torch.set_num_threads(threads)
    layer = {"structure": structure, "measure": measure, "method": method, "state_size": state_size}
    try:
        solvers = of_views.solvers_named(methods, tolerances, steps, adjoint and gradients)
        out.mkdir(parents=True, exist_ok=True)
        if dataset is None:
            size = {"channels": channels or 4, "batch": batch, "length": length, "decades": decades, "seed": seed}
            runs = of_views.runs_of_layer(single, **layer, **size)
        else:
            runs = of_views.runs_of_model(
                dataset, task, epochs, batch, length, single, seed, width=channels or 32, **layer
            )
        found = compare_views(runs, solvers, repeats, gradients, lambda case: typer.echo(f"Running {case}.", err=True))
    except (ValueError, OSError) as error:
        _refuse(error)
    _print_views(found)
    _save(found, out, _VIEW_WRITERS)
    typer.echo(f"Saved {', '.join(str(out / name) for name in _VIEW_WRITERS)}.")


@app.command()
def datasets() -> None:
    """List the bundled data sets and their tasks."""
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

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    for table in tables(results):
        console.print(table)
    console.print(verdict(results), highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _print_views(found: xarray.Dataset) -> None:
    from ctlssl.views_report import views_tables

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDE)
    for table in views_tables(found):
        console.print(table)


def _save(results: xarray.Dataset, folder: Path, writers: Mapping[str, Writer] | None = None) -> None:
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


def _write_views_markdown(found: xarray.Dataset, path: Path) -> None:
    from ctlssl.views_report import views_markdown

    path.write_text(views_markdown(found), encoding="utf8")


def _write_views_picture(found: xarray.Dataset, path: Path) -> None:
    from ctlssl.views_report import plot_views

    plot_views(found).savefig(path, format="png", dpi=150)


_VIEW_WRITERS: dict[str, Writer] = {
    "views.nc": _write_netcdf,
    "views.md": _write_views_markdown,
    "views.png": _write_views_picture,
}

_WRITERS: dict[str, Writer] = {
    "comparison.nc": _write_netcdf,
    "comparison.md": _write_markdown,
    "comparison.png": _write_picture,
}
