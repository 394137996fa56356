"""Pictures; matplotlib is imported when one is drawn, and never its global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctlssl.training.metrics import HIGHER_IS_BETTER, MAIN_METRIC

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_comparison", "plot_learning", "plot_timescales"]


def plot_comparison(results: xarray.Dataset) -> Figure:
    """Quality against seconds of training, one panel a task, with the spread over seeds as error bars.

    Neural models are points; the references, which train in no time to speak of, are horizontal lines. No window is
    opened: save the figure with ``figure.savefig(path)``.

    Args:
        results: from `ctlssl.compare`.

    Returns:
        a figure of its own, outside of pyplot.
    """
    from matplotlib.figure import Figure

    tasks = results.task.values.tolist()
    figure = Figure(figsize=_size(len(tasks), results.sizes["model"]), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        _panel(axes, results.sel(task=task))
    seeds = results.sizes["seed"]
    figure.suptitle(f"Mean and standard deviation over {seeds} seeds" if seeds > 1 else "One seed", fontsize="medium")
    return figure


def plot_learning(results: xarray.Dataset) -> Figure:
    """Validation loss by epoch, one panel a task: each seed thin, and their mean.

    Early stopping ends the curves of different seeds at different epochs: a mean is drawn as far as all seeds go. No
    window is opened: save the figure with ``figure.savefig(path)``.

    Args:
        results: from `ctlssl.compare`.

    Returns:
        a figure of its own, outside of pyplot.
    """
    from matplotlib.figure import Figure

    tasks = results.task.values.tolist()
    figure = Figure(figsize=_size(len(tasks), results.sizes["model"]), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        for number, model in enumerate(results.model.values.tolist()):
            curves = results.valid_loss.sel(task=task, model=model).transpose("epoch", "seed").values  # (E, S)
            curves = curves[:, np.isfinite(curves).any(axis=0)]
            if curves.size:
                style = {"color": f"C{number % 10}", "linestyle": _LINES[number // 10 % len(_LINES)]}
                axes.plot(results.epoch.values, curves, alpha=0.3, linewidth=0.7, **style)
                axes.plot(results.epoch.values, curves.mean(axis=1), label=model, **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation loss")
        axes.set_title(task)
        if axes.lines:
            _name_models(axes)
    return figure


def plot_timescales(before: xarray.Dataset, after: xarray.Dataset | None = None) -> Figure:
    """How many modes of each layer have which half-life, before training and, where given, after it.

    One panel a layer, all on one logarithmic axis. Modes that never decay, and those a layer does not have, are left
    out. No window is opened: save the figure with ``figure.savefig(path)``.

    Args:
        before: from `ctlssl.timescales`, of the fresh model.
        after: the same of the trained one.

    Returns:
        a figure of its own, outside of pyplot.

    Raises:
        ValueError: two data sets of other layers, or no half-life to draw.
    """
    from matplotlib.figure import Figure

    layers = before.layer.values.tolist()
    if after is not None and after.layer.values.tolist() != layers:
        raise ValueError(f"before has the layers {layers}, after has {after.layer.values.tolist()}")
    drawn = {"before training": before} | ({} if after is None else {"after training": after})
    known = np.concatenate([_finite(times.half_life.values) for times in drawn.values()])
    if not known.size:
        raise ValueError("no mode has a finite half-life: there is nothing to draw")
    low, high = known.min(), known.max()
    edges = np.geomspace(low / 1.1, high * 1.1, max(10, min(60, known.size // len(drawn) // 4)))
    figure = Figure(figsize=(6.0, 1.0 + 2.2 * len(layers)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(layers), 1, sharex=True))
    for axes, layer in zip(panels, layers, strict=True):
        for (label, times), style in zip(drawn.items(), _SPECTRA, strict=False):
            axes.hist(_finite(times.sel(layer=layer).half_life.values), bins=edges, label=label, **style)
        axes.set_ylabel("modes")
        axes.set_title(layer, fontsize="medium")
    panels[0].legend(fontsize="small")
    panels[-1].set_xscale("log")
    panels[-1].set_xlabel(f"half-life, in {before.half_life.attrs.get('units', _UNIT)}")
    return figure


_MARKERS, _LINES = "osD^vP", ("-", "--", ":", "-.")  # after the ten colours, the next ten models get the next one
_FEW = 8  # models whose names find room inside a panel
_UNIT = "the unit of the data's times"
_SPECTRA = (
    {"histtype": "step", "color": "0.3", "linestyle": "--", "linewidth": 1.2},
    {"histtype": "stepfilled", "color": "C0", "alpha": 0.5},
)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values) & (values > 0)]


def _panel(axes: Axes, results: xarray.Dataset) -> None:
    from matplotlib.ticker import LogFormatter

    metric = MAIN_METRIC[str(results.kind.item())]
    for number, model in enumerate(results.model.values.tolist()):
        row = results.sel(model=model)
        scores, seconds = row[metric].values, row["train_seconds"].values  # (seeds,), (seeds,)
        if not np.isfinite(scores).any():
            continue
        colour, mean = f"C{number % 10}", np.nanmean(scores)
        if row.family.item() == "neural":
            axes.errorbar(
                np.nanmean(seconds),
                mean,
                xerr=_spread(seconds),
                yerr=_spread(scores),
                fmt=_MARKERS[number // 10 % len(_MARKERS)],
                color=colour,
                label=model,
            )
        else:
            axes.axhline(mean, color=colour, linestyle="--", linewidth=1, label=model)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())  # 20, not 2 x 10^1
    axes.xaxis.set_minor_formatter(LogFormatter())
    axes.set_xlabel("seconds to train")
    axes.set_ylabel(f"test {metric} ({'higher' if HIGHER_IS_BETTER[metric] else 'lower'} is better)")
    axes.set_title(str(results.task.item()))
    if axes.get_legend_handles_labels()[0]:
        _name_models(axes)


def _size(tasks: int, models: int) -> tuple[float, float]:
    """Inches of a figure of a panel a task, with room for the names beside a panel where they are many."""
    return (5.0 + 2.5 * (models > _FEW)) * tasks, max(4.0, 1.0 + 0.2 * models)


def _name_models(axes: Axes) -> None:
    many = len(axes.get_legend_handles_labels()[0]) > _FEW
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    axes.legend(fontsize="small", **(beside if many else {}))


def _spread(values: np.ndarray) -> float:
    """The standard deviation; 0, that is no bar, where one seed has none."""
    return float(np.nanstd(values, ddof=1)) if np.isfinite(values).sum() > 1 else 0.0
