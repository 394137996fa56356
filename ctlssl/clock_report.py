"""What a clock ablation says: as tables, as markdown, in words, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctlssl.training.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["ablation_markdown", "ablation_tables", "ablation_verdict", "plot_ablation"]

_LESS = {"shuffled": "gaps shuffled", "equal": "equal gaps", "none": "no time"}


def ablation_tables(results: xarray.Dataset) -> list[Table]:
    """One table a task for the terminal: mean +- standard deviation over seeds, two rows a model, a column a clock.

    Args:
        results: from `ctlssl.clock_ablation`.
    """
    from rich.table import Table

    made = []
    for task in results.task.values.tolist():
        table = Table(title=_title(results, task), title_justify="left")
        header, rows = _cells(results, task)
        for name in header:
            table.add_column(name, justify="left" if name in header[:2] else "right", no_wrap=True)
        for number, row in enumerate(rows):
            table.add_row(*row, end_section=number % 2 == 1)
        made.append(table)
    return made


def ablation_markdown(results: xarray.Dataset) -> str:
    """The tables and the verdict as markdown.

    Args:
        results: from `ctlssl.clock_ablation`.
    """
    blocks = []
    for task in results.task.values.tolist():
        header, rows = _cells(results, task)
        lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        said = "\n".join(f"- {sentence}" for sentence in _sentences(results, task))
        blocks.append(f"### {_title(results, task)}\n\n{table}\n\n{said}")
    return "\n\n".join(blocks) + "\n"


def ablation_verdict(results: xarray.Dataset) -> str:
    """Two sentences a task and model: whether true times make it better, and whether it reads them.

    Changes are taken seed by seed. One counts where its mean is larger than twice its standard deviation over the
    seeds; with one seed any does.

    Args:
        results: from `ctlssl.clock_ablation`.
    """
    tasks = results.task.values.tolist()
    return "\n".join(sentence for task in tasks for sentence in _sentences(results, task))


def plot_ablation(results: xarray.Dataset) -> Figure:
    """Quality by clock, one panel a task, with the spread over seeds as error bars.

    Full markers are models that were trained with the clock they are tested with, open ones were trained with true
    times. No window is opened: save the figure with ``figure.savefig(path)``.

    Args:
        results: from `ctlssl.clock_ablation`.

    Returns:
        a figure of its own, outside of pyplot.
    """
    from matplotlib.figure import Figure

    tasks = results.task.values.tolist()
    figure = Figure(figsize=(5.0 * len(tasks), 4.0), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        _panel(axes, results, task)
    return figure


def _panel(axes: Axes, results: xarray.Dataset, task: str) -> None:
    metric, clocks = _metric(results, task), results.clock.values.tolist()
    models = results.model.values.tolist()
    for number, model in enumerate(models):
        for training, full in (("retrained", True), ("true times", False)):
            scores = results[metric].sel(task=task, model=model, training=training)  # (clock, seed)
            shift = 0.6 * ((number + 0.5) / len(models) - 0.5) + (0.0 if full else 0.3 / len(models))
            axes.errorbar(
                np.arange(len(clocks)) + shift,
                [_mean(row) for row in scores.values],
                yerr=[np.nan_to_num(_deviation(row)) for row in scores.values],
                fmt="o",
                color=f"C{number % 10}",
                fillstyle="full" if full else "none",
                label=f"{model}, {training}",
            )
    axes.set_xticks(np.arange(len(clocks)), clocks)
    axes.set_xlabel("clock that is tested")
    axes.set_ylabel(f"test {metric} ({'higher' if HIGHER_IS_BETTER[metric] else 'lower'} is better)")
    axes.set_title(task)
    axes.legend(fontsize="x-small")


def _cells(results: xarray.Dataset, task: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one task's table."""
    scores, clocks = results[_metric(results, task)].sel(task=task), results.clock.values.tolist()
    rows = [
        [model, training, *(_with_spread(scores.sel(model=model, training=training, clock=clock)) for clock in clocks)]
        for model in results.model.values.tolist()
        for training in results.training.values.tolist()
    ]
    return ["model", "trained with", *clocks], [
        [row[0] if row[1] == "retrained" else "", "this clock" if row[1] == "retrained" else row[1], *row[2:]]
        for row in rows
    ]


def _sentences(results: xarray.Dataset, task: str) -> list[str]:
    metric = _metric(results, task)
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    said = []
    for model in results.model.values.tolist():
        scores = results[metric].sel(task=task, model=model)  # (training, clock, seed)
        true = scores.sel(training="retrained", clock="true")
        if not np.isfinite(true).any():
            said.append(f"{task}: {model} did not finish with true times.")
            continue
        less = [clock for clock in _LESS if clock in results.clock.values]
        changes = {
            training: {clock: (scores.sel(training=training, clock=clock) - true).values for clock in less}
            for training in results.training.values.tolist()
        }
        reads = any(_clear(part) for part in changes["true times"].values())
        helped = any(_clear(part) and sign * _mean(part) < 0 for part in changes["retrained"].values())
        told = {training: ", ".join(map(_change, parts.values(), parts)) for training, parts in changes.items()}
        said.append(
            f"{task}: {model} {'is' if helped else 'is not seen to be'} better for true times ({metric} "
            f"{_with_spread(true)}); retrained, it changes by {told['retrained']}. Trained with true times, it "
            f"{'reads them' if reads else 'is not seen to read them'}: tested otherwise, it changes by "
            f"{told['true times']}."
        )
    return said


def _clear(change: np.ndarray) -> bool:
    """Whether a change (seeds,) is beyond twice its spread; with one seed, whether there is any beyond rounding."""
    spread = _deviation(change)
    return bool(abs(_mean(change)) > (2 * spread if np.isfinite(spread) else 1e-6))


def _change(change: np.ndarray, clock: str) -> str:
    spread = _deviation(change)
    return f"{_mean(change):+.3f}" + (f" ± {spread:.3f}" if np.isfinite(spread) else "") + f" with {_LESS[clock]}"


def _title(results: xarray.Dataset, task: str) -> str:
    seeds = results.sizes["seed"]
    return f"{task}: test {_metric(results, task)} by clock, {seeds} seed{'s' if seeds > 1 else ''}"


def _metric(results: xarray.Dataset, task: str) -> str:
    return str(results.metric.sel(task=task).item())


def _mean(values: np.ndarray) -> float:
    values = np.asarray(values)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _deviation(values: np.ndarray) -> float:
    values = np.asarray(values)
    return float(np.nanstd(values, ddof=1)) if np.isfinite(values).sum() > 1 else float("nan")


def _with_spread(values: np.ndarray) -> str:
    spread = _deviation(values)
    return f"{_mean(values):.3f}" + (f" ± {spread:.3f}" if np.isfinite(spread) else "")
