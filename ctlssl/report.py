"""What a comparison says, in words, as a table for the terminal and as markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctlssl.report_notes import difference, notes
from ctlssl.training.metrics import HIGHER_IS_BETTER, MAIN_METRIC

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

__all__ = ["cost_tables", "markdown", "summary", "tables", "verdict"]

_COSTS = {
    "seconds_per_epoch": ("s / epoch", "{:.2f}"),
    "train_seconds": ("s to train", "{:.1f}"),
    "epochs": ("epochs", "{:.0f}"),
    "evaluations_per_epoch": ("evaluations / epoch", "{:.0f}"),
    "parameters": ("parameters", "{:.0f}"),
    "peak_bytes": ("MB / step", "{:.1f}"),
    "tuning_seconds": ("s to tune", "{:.1f}"),
}
_ALWAYS = ("seconds_per_epoch", "train_seconds", "epochs", "evaluations_per_epoch", "parameters")
_SCALES = {"peak_bytes": 1e-6}


def tables(results: xarray.Dataset) -> list[Table]:
    """Two tables a task for the terminal, quality and costs: mean +- standard deviation over seeds, the best marked.

    Where differences were taken, each model has that of its main metric with its interval: see `paired_differences`.

    Args:
        results: from `ctlssl.compare`.
    """
    made = []
    for task in results.task.values.tolist():
        header, rows, best = summary(results, task)
        costs = next(i for i, title in enumerate(header) if title in {title for title, _ in _COSTS.values()})
        parts = {
            f"{task} (* best neural {_metric(results, task)})": slice(1, costs),
            f"{task}, costs": slice(costs, None),
        }
        made += [_table(title, header, rows, best, part) for title, part in parts.items()]
    return made


def _table(title: str, header: list[str], rows: list[list[str]], best: str | None, part: slice) -> Table:
    """The models with some of their columns."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("model", *header[part]):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for row in rows:
        won = row[0] == best
        table.add_row(f"{row[0]} *" if won else row[0], *row[part], style="bold" if won else None)
    return table


def cost_tables(costs: xarray.Dataset, times: xarray.DataArray, reference: str) -> list[Table]:
    """Seconds of a training step by length, how many times as long as a reference it takes, and evaluations of fields.

    Args:
        costs: from `ctlssl.costs.cost_by_length`.
        times: from `ctlssl.costs.ratios`.
        reference: the model whose time is 1.
    """
    from rich.table import Table

    made = []
    titles = {
        f"Seconds of a training step, {costs.seconds.attrs['long_name']}": (costs.seconds, "{:.4f}"),
        f"Times as long as {reference}": (times, "{:.1f}"),
        "Evaluations of the vector field in a step": (costs.evaluations, "{:.0f}"),
    }
    for title, (numbers, form) in titles.items():
        table = Table(title=title, title_justify="left")
        for name in ("model", "parameters", *(f"length {length}" for length in costs.length.values)):
            table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
        for model in costs.model.values.tolist():
            row = [form.format(value) for value in numbers.sel(model=model).values]
            table.add_row(model, str(costs.parameters.sel(model=model).item()), *row)
        made.append(table)
    return made


def markdown(results: xarray.Dataset) -> str:
    """The tables and the verdict as markdown.

    Args:
        results: from `ctlssl.compare`.
    """
    blocks = []
    for task in results.task.values.tolist():
        header, rows, best = summary(results, task)
        lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
        lines += [[f"**{cell}**" for cell in row] if row[0] == best else row for row in rows]
        table = "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)
        blocks.append(f"### {task}\n\n{table}\n\n{_verdict_of_task(results, task)}")
    return "\n\n".join([*blocks, *_growth(results), *notes(results)]) + "\n"


def verdict(results: xarray.Dataset) -> str:
    """Plain sentences, one line a task: which neural model wins, whether beyond the spread, and what an epoch costs.

    Then how the costs grow with the length of the records, where that was timed, and what `notes` adds.

    The lead of the best model over the next is taken seed by seed, since both saw the same split; it is called within
    the spread where its mean is not larger than its standard deviation over the seeds.

    Args:
        results: from `ctlssl.compare`.
    """
    told = [_verdict_of_task(results, task) for task in results.task.values.tolist()]
    return "\n".join([*told, *_growth(results), *notes(results)])


def summary(results: xarray.Dataset, task: str) -> tuple[list[str], list[list[str]], str | None]:
    """The cells of one task's table: header, rows, and the name of the best neural model.

    Args:
        results: from `ctlssl.compare`.
        task: one of ``results.task``.
    """
    part = results.sel(task=task)
    metrics = [name for name in HIGHER_IS_BETTER if name in part and bool(part[name].notnull().any())]
    costs = {name: kind for name, kind in _COSTS.items() if name in _ALWAYS or _known(part, name)}
    paired = _known(part, "difference")
    rows = []
    for model in part.model.values.tolist():
        row = part.sel(model=model)
        if not any(bool(row[name].notnull().any()) for name in metrics):
            continue
        cells = [model]
        cells += [_with_spread(row[name].values) for name in metrics]
        cells += [difference(row)] if paired else []
        cells += [_average(_SCALES.get(name, 1.0) * row[name].values, form) for name, (_, form) in costs.items()]
        rows.append(cells)
    header = ["model", *(name.replace("_", " ") for name in metrics)]
    interval = " [95 %]" if _known(part, "difference_low") else ""
    header += [f"{_metric(results, task)} - {results.attrs['reference']}{interval}"] if paired else []
    header += [title for title, _ in costs.values()]
    return header, rows, next(iter(_ranking(results, task)), None)


def _known(results: xarray.Dataset, name: str) -> bool:
    return name in results and bool(results[name].notnull().any())


def _verdict_of_task(results: xarray.Dataset, task: str) -> str:
    ranking, metric = _ranking(results, task), _metric(results, task)
    if not ranking:
        return f"{task}: no neural model finished."
    scores = {name: _scores(results, task, name) for name in _models(results, task)}
    best = ranking[0]
    sentences = [f"{task}: {best} has the best {metric} of the neural models, {_with_spread(scores[best])}"]
    if len(ranking) > 1:
        sentences[0] += f", {_lead(scores[best] - scores[ranking[1]], ranking[1])}"
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    better = [
        f"{name} ({_with_spread(values)})"
        for name, values in scores.items()
        if name not in ranking and sign * (_mean(values) - _mean(scores[best])) > 0
    ]
    if "lssl" in ranking[2:]:
        sentences.append(f"lssl reaches {_with_spread(scores['lssl'])}, {_lead(scores['lssl'] - scores[best], best)}")
    if better:
        sentences.append(f"Simple references that do better on average: {', '.join(better)}")
    sentences += _costs(results, task, ranking)
    return ". ".join(sentences) + "."


def _lead(difference: np.ndarray, other: str) -> str:
    """How far from another model, from the differences seed by seed."""
    lead, spread, seeds = abs(_mean(difference)), _deviation(difference), int(np.isfinite(difference).sum())
    ahead = f"{lead:.3f} {'above' if _mean(difference) > 0 else 'below'} {other}"
    if seeds < 2:
        return f"{ahead} (one seed: the spread is unknown)"
    place = "beyond" if lead > spread else "within"
    return f"{ahead}, {place} the spread of that difference over {seeds} seeds ({spread:.3f})"


def _costs(results: xarray.Dataset, task: str, ranking: list[str]) -> list[str]:
    """How many times as long as LSSL's an epoch of the others takes."""
    if "lssl" not in ranking or len(ranking) < 2:
        return []
    seconds = results["seconds_per_epoch"].sel(task=task)
    ours = seconds.sel(model="lssl").values
    # the median of the ratios within a seed: a slow moment of the machine is shared, or drops out
    ratios = {name: np.nanmedian(seconds.sel(model=name).values / ours) for name in ranking if name != "lssl"}
    told = ", ".join(f"{name} {ratio:.1f} times" for name, ratio in ratios.items())
    return [f"An epoch of lssl takes {np.nanmedian(ours):.2f} s; beside it take {told} as long"]


def _growth(results: xarray.Dataset) -> list[str]:
    """How the costs of a step of training grow with the length of the records, in one sentence."""
    if "pass_seconds" not in results or "lssl" not in results.model.values:
        return []
    seconds = results.pass_seconds.dropna("model")
    lengths = ", ".join(str(length) for length in results.length.values)
    ours = ", ".join(f"{value:.3f}" for value in seconds.sel(model="lssl").values)
    ratios = seconds / seconds.sel(model="lssl")
    told = [
        f"{name} {', '.join(f'{ratio:.1f}' for ratio in ratios.sel(model=name).values)}"
        for name in seconds.model.values.tolist()
        if name != "lssl"
    ]
    beside = f"; times as long take {'; '.join(told)}" if told else ""
    return [f"One step of training on 32 series of {lengths} observations takes lssl {ours} s{beside}."]


def _metric(results: xarray.Dataset, task: str) -> str:
    return MAIN_METRIC[str(results.kind.sel(task=task).item())]


def _models(results: xarray.Dataset, task: str) -> list[str]:
    """The models with a score on the task."""
    metric = results[_metric(results, task)].sel(task=task)
    return [name for name in results.model.values.tolist() if bool(metric.sel(model=name).notnull().any())]


def _ranking(results: xarray.Dataset, task: str) -> list[str]:
    """The neural models with a score on the task, best first."""
    sign = -1 if HIGHER_IS_BETTER[_metric(results, task)] else 1
    neural = [name for name in _models(results, task) if results.family.sel(model=name).item() == "neural"]
    return sorted(neural, key=lambda name: sign * _mean(_scores(results, task, name)))


def _scores(results: xarray.Dataset, task: str, model: str) -> np.ndarray:
    return results[_metric(results, task)].sel(task=task, model=model).values  # (seeds,)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _deviation(values: np.ndarray) -> float:
    return float(np.nanstd(values, ddof=1)) if np.isfinite(values).sum() > 1 else float("nan")


def _with_spread(values: np.ndarray) -> str:
    spread = _deviation(values)
    return f"{_mean(values):.3f}" + (f" ± {spread:.3f}" if np.isfinite(spread) else "")


def _average(values: np.ndarray, form: str) -> str:
    mean = _mean(values)
    return form.format(mean) if np.isfinite(mean) else "-"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
