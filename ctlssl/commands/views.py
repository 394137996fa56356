"""`ctlssl views`: one layer run in every way, its options, and the cases they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctlssl.commands.console import refuse, show

if TYPE_CHECKING:
    from ctlssl.contract import Model
    from ctlssl.solver_sweep import LayerRun
    from ctlssl.tasks import Split
    from ctlssl.views import Integration

__all__ = ["runs_of_layer", "runs_of_model", "solvers_named", "views"]

Data = Annotated[
    str | None,
    typer.Option("--dataset", help="Train a model on this data set first.", show_default="a fresh layer, no data"),
]
TaskName = Annotated[str | None, typer.Option("--task", help="Task of the data set.", show_default="its first task")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training part, with --dataset.")]
Structure = Annotated[str, typer.Option(help="Of the state matrix: diagonal, dplr, quasiseparable or dense.")]
Measure = Annotated[str, typer.Option(help="HiPPO measure of the start: legs, legt, lagt, ...")]
Method = Annotated[str, typer.Option(help="Discretization: zoh, foh, impulse, bilinear, trapezoid, ...")]
Channels = Annotated[
    int | None,
    typer.Option(min=2, help="Inputs of the layer, or width of the model.", show_default="4, or 32 with --dataset"),
]
StateSize = Annotated[int, typer.Option(min=2, help="State dimensions of each system.")]
Batch = Annotated[int, typer.Option(min=1, help="Series that are run.")]
Length = Annotated[int, typer.Option(min=1, help="Rows of each series; of data, at most so many.")]
Decades = Annotated[float, typer.Option(help="Decades of step sizes in the stiff layer; without --dataset.")]
Methods = Annotated[str, typer.Option(help="Solvers of torchdiffeq, with commas between.")]
Tolerances = Annotated[str, typer.Option(help="Relative tolerances of adaptive solvers, with commas between.")]
Steps = Annotated[str, typer.Option(help="Steps a gap of fixed solvers, with commas between.")]
Adjoint = Annotated[bool, typer.Option("--adjoint/--no-adjoint", help="Run adaptive solvers by their adjoint too.")]
Gradients = Annotated[bool, typer.Option("--gradients/--no-gradients", help="Measure the backward pass too.")]
Single = Annotated[bool, typer.Option("--float32", help="Run in float32; the reference stays float64.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timed runs of each view; the median is kept.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, inputs, split and training.")]


def views(
    dataset: Data = None,
    task: TaskName = None,
    epochs: Epochs = 3,
    structure: Structure = "diagonal",
    measure: Measure = "legs",
    method: Method = "zoh",
    channels: Channels = None,
    state_size: StateSize = 8,
    batch: Batch = 2,
    length: Length = 8,
    decades: Decades = 4.0,
    methods: Methods = "rk4,dopri5,dopri8",
    tolerances: Tolerances = "1e-2,1e-4,1e-6",
    steps: Steps = "1,4,16",
    adjoint: Adjoint = True,
    gradients: Gradients = True,
    single: Single = False,
    repeats: Repeats = 3,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for views.nc, views.md and views.png.", file_okay=False)] = Path(
        "ctlssl-results"
    ),
) -> None:
    """Run a layer as recurrence, convolution and by ODE solvers: error, seconds, evaluations and memory of each."""
    import torch

    from ctlssl.saving import save_views
    from ctlssl.solver_sweep import compare_views
    from ctlssl.views_report import views_tables

    torch.set_num_threads(threads)
    layer = {"structure": structure, "measure": measure, "method": method, "state_size": state_size}
    try:
        solvers = solvers_named(methods, tolerances, steps, adjoint and gradients)
        out.mkdir(parents=True, exist_ok=True)
        if dataset is None:
            size = {"channels": channels or 4, "batch": batch, "length": length, "decades": decades, "seed": seed}
            runs = runs_of_layer(single, **layer, **size)
        else:
            runs = runs_of_model(dataset, task, epochs, batch, length, single, seed, width=channels or 32, **layer)
        found = compare_views(runs, solvers, repeats, gradients, lambda case: typer.echo(f"Running {case}.", err=True))
    except (ValueError, OSError) as error:
        refuse(error)
    show(views_tables(found))
    typer.echo(f"Saved {', '.join(map(str, save_views(found, out)))}.")


def solvers_named(methods: str, tolerances: str, steps: str, adjoint: bool) -> tuple[Integration, ...]:
    """The sweep that three lists with commas ask for.

    Raises:
        ValueError: what is no number, and what `solver_sweep` refuses.
    """
    from ctlssl.solver_sweep import solver_sweep

    return solver_sweep(_listed(methods), [*map(float, _listed(tolerances))], [*map(int, _listed(steps))], adjoint)


def runs_of_layer(single: bool, **options: str | int | float) -> dict[str, LayerRun]:
    """The cases of a fresh layer; options are those of `example_runs`."""
    import torch

    from ctlssl.solver_sweep import example_runs

    return example_runs(dtype=torch.float32 if single else torch.float64, **options)


def runs_of_model(
    dataset: str, task: str | None, epochs: int, batch: int, length: int, single: bool, seed: int, **options: str | int
) -> dict[str, LayerRun]:
    """The layers of an `LSSLModel` trained on a task, on the rows of the first series of the test part.

    Args:
        dataset: a bundled data set with tasks.
        task: one of them; the first if None.
        epochs: of training.
        batch: series.
        length: most rows of each.
        single: in float32.
        seed: of split, weights and training.
        options: of the model.

    Raises:
        ValueError: names that do not exist, and options that a model refuses.
    """
    import torch

    from ctlssl.comparison import plan
    from ctlssl.solver_sweep import model_runs
    from ctlssl.tasks import prepare

    planned = plan(dataset, task, ["lssl"], references=False)
    split = prepare(next(iter(planned.tasks.values())), seed)
    model = _trained(split, epochs, seed, options)
    part = split.test.select(range(min(batch, len(split.test))))
    return model_runs(model, part.series, part.query_times, length, torch.float32 if single else torch.float64)


def _trained(split: Split, epochs: int, seed: int, options: dict[str, str | int]) -> Model:
    import torch

    from ctlssl.models import LSSLModel
    from ctlssl.training import Training, fit

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LSSLModel(split.problem, **options)
    fit(model, split.train, split.valid, Training(epochs=epochs, seed=seed))
    return model


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
