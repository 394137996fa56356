"""What an adaptation suite says: as tables, as markdown, in words, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctlssl.training.metrics import HIGHER_IS_BETTER, MAIN_METRIC

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["adaptation_markdown", "adaptation_tables", "adaptation_verdict", "plot_adaptation"]


def adaptation_tables(results: xarray.Dataset, metric: str | None = None) -> list[Table]:
    """One table a task for the terminal: means over seeds, a row a model and way, a column a change.

    Args:
        results: from `ctlssl.adaptation.adaptation`.
        metric: one of the results; None is that by which a ranking of the task goes.
    """
    from rich.table import Table

    made, ways = [], results.sizes["way"]
    for task in results.task.values.tolist():
        table = Table(title=_title(results, task, metric), title_justify="left")
        header, rows = _cells(results, task, metric, spread=False)
        for name in header:
            names = name in header[:2]
            table.add_column(name, justify="left" if names else "right", no_wrap=not names, overflow="fold")
        for number, row in enumerate(rows):
            table.add_row(*row, end_section=number % ways == ways - 1)
        made.append(table)
    return made


def adaptation_markdown(results: xarray.Dataset, metric: str | None = None) -> str:
    """The tables, with spreads over seeds, and the verdict as markdown; arguments of `adaptation_tables`."""
    blocks = []
    for task in results.task.values.tolist():
        header, rows = _cells(results, task, metric, spread=True)
        lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        said = "\n".join(f"- {sentence}" for sentence in _sentences(results, task, metric))
        blocks.append(f"### {_title(results, task, metric)}\n\n{table}\n\n{said}")
    return "\n\n".join(blocks) + "\n"


def adaptation_verdict(results: xarray.Dataset, metric: str | None = None) -> str:
    """A sentence a task and model: what it loses under each change, and what the rate that was found takes back.

    Losses are taken seed by seed against the base rate with true times. Arguments of `adaptation_tables`.
    """
    tasks = results.task.values.tolist()
    return "\n".join(sentence for task in tasks for sentence in _sentences(results, task, metric))


def plot_adaptation(results: xarray.Dataset, metric: str | None = None) -> Figure:
    """Quality by change, one panel a task, with the spread over seeds as error bars; hollow where a rate was fitted.

    No window is opened: save the figure with ``figure.savefig(path)``. Arguments of `adaptation_tables`.

    Returns:
        a figure of its own, outside of pyplot.
    """
    from matplotlib.figure import Figure

    tasks = results.task.values.tolist()
    size = max(5.0, 0.8 * results.sizes["change"]) * len(tasks), 4.0
    figure = Figure(figsize=size, layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        _panel(axes, results, task, metric)
    return figure


_FULL, _HOLLOW = "zero-shot", "fitted rate"


def _panel(axes: Axes, results: xarray.Dataset, task: str, metric: str | None) -> None:
    name, models = _metric(results, task, metric), results.model.values.tolist()
    changes = np.arange(results.sizes["change"])
    for number, model in enumerate(models):
        for way in [way for way in (_FULL, _HOLLOW) if way in results.way.values]:
            scores = results[name].sel(task=task, model=model, way=way).transpose("change", "seed").values
            shift = 0.6 * ((number + 0.5) / len(models) - 0.5) + (0.3 / len(models) if way == _HOLLOW else 0.0)
            axes.errorbar(
                changes + shift,
                [_mean(row) for row in scores],
                yerr=[np.nan_to_num(_deviation(row)) for row in scores],
                fmt="o",
                markersize=4,
                color=f"C{number % 10}",
                fillstyle="none" if way == _HOLLOW else "full",
                label=f"{model}, {way}",
            )
    axes.set_xticks(changes, results.change.values.tolist(), rotation=30)
    axes.set_ylabel(f"test {name} ({'higher' if HIGHER_IS_BETTER[name] else 'lower'} is better)")
    axes.set_title(task)
    if not HIGHER_IS_BETTER[name]:
        axes.set_yscale("log")
    axes.legend(fontsize="x-small")


def _cells(results: xarray.Dataset, task: str, metric: str | None, spread: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one task's table."""
    scores, rows = results[_metric(results, task, metric)].sel(task=task), []
    changes, ways = results.change.values.tolist(), results.way.values.tolist()
    for model in results.model.values.tolist():
        for way in ways:
            found = [scores.sel(model=model, way=way, change=change).values for change in changes]
            rows.append([model if way == ways[0] else "", way, *(_shown(values, spread) for values in found)])
    return ["model", "helped by", *changes], rows


def _sentences(results: xarray.Dataset, task: str, metric: str | None) -> list[str]:
    name, said = _metric(results, task, metric), []
    changes, ways = results.change.values.tolist(), results.way.values.tolist()
    if "x1" not in changes or _FULL not in ways:
        return [f"{task}: without x1 and zero-shot nothing is there to compare with."]
    for model in results.model.values.tolist():
        scores = results[name].sel(task=task, model=model)  # (change, way, seed)
        base = scores.sel(change="x1", way=_FULL).values  # (seed,)
        if not np.isfinite(base).any():
            said.append(f"{task}: {model} did not finish.")
            continue
        losses = {change: scores.sel(change=change, way=_FULL).values - base for change in changes if change != "x1"}
        told = "; ".join(f"{_signed(loss)} under {change}" for change, loss in losses.items())
        said.append(f"{task}: {model} has {name} {_shown(base, True)} at its own rate; zero-shot {told or 'no other'}.")
        if _HOLLOW in ways:
            found = results.sel(task=task, model=model)
            lies = [change for change in changes if _known(results, task, change) != 1.0]
            parts = [
                f"under {change} {_mean(found.found_rate.sel(change=change).values):.3g} where "
                f"{_known(results, task, change):.3g} is true, which leaves "
                f"{_signed(scores.sel(change=change, way=_HOLLOW).values - base)}"
                for change in lies
            ]
            said[-1] += f" Rates found: {'; '.join(parts)}." if parts else ""
    return said


def _known(results: xarray.Dataset, task: str, change: str) -> float:
    return _mean(results.known_rate.sel(task=task, change=change).values)


def _title(results: xarray.Dataset, task: str, metric: str | None) -> str:
    seeds = results.sizes["seed"]
    return f"{task}: test {_metric(results, task, metric)} by change, {seeds} seed{'s' if seeds > 1 else ''}"


def _metric(results: xarray.Dataset, task: str, metric: str | None) -> str:
    if metric is None:
        return MAIN_METRIC[str(results.kind.sel(task=task).item())]
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"metric {metric!r} is unknown; there are {', '.join(HIGHER_IS_BETTER)}.")
    return metric


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _deviation(values: np.ndarray) -> float:
    return float(np.nanstd(values, ddof=1)) if np.isfinite(values).sum() > 1 else float("nan")


def _shown(values: np.ndarray, spread: bool) -> str:
    if not np.isfinite(values).any():
        return "-"
    deviation = _deviation(values)
    return f"{_mean(values):.3f}" + (f" ± {deviation:.3f}" if spread and np.isfinite(deviation) else "")


def _signed(values: np.ndarray) -> str:
    deviation = _deviation(values)
    return f"{_mean(values):+.3f}" + (f" ± {deviation:.3f}" if np.isfinite(deviation) else "")
