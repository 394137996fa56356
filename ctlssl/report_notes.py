"""What a reader must know of a comparison beside its winner: budgets, intervals and what they can say, failures."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray

__all__ = ["difference", "notes"]

_FEW = 10  # seeds below which an interval comes with a word of caution


def notes(results: xarray.Dataset) -> list[str]:
    """Plain sentences, one paragraph each: the budgets, the settings chosen, what the intervals tell, what failed.

    Args:
        results: from `ctlssl.compare`; what it does not hold is not told.
    """
    told = [_budget(results), _tuning(results), _intervals(results), _memory(results), *_failures(results)]
    return [sentence for sentence in told if sentence]


def difference(row: xarray.Dataset) -> str:
    """The mean difference of one model in one task and its interval.

    Args:
        row: of results, one task and one model.
    """
    mean, low, high = (float(row[name]) for name in ("difference", "difference_low", "difference_high"))
    if row.model.item() == row.attrs.get("reference") or not np.isfinite(mean):
        return "-"
    return f"{mean:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else "")


def _budget(results: xarray.Dataset) -> str:
    budget = results.attrs.get("parameters")
    if budget is None:
        return ""
    widths = []
    for model in results.model.values[results.family.values == "neural"].tolist():
        found = np.unique(results.width.sel(model=model).values)
        widths.append(f"{model} {', '.join(f'{width:.0f}' for width in found[np.isfinite(found)])}")
    return f"Widths chosen for {budget} parameters: {'; '.join(widths)}."


def _tuning(results: xarray.Dataset) -> str:
    grid = json.loads(results.attrs.get("tuning", "{}"))
    if not grid:
        return ""
    tried = " x ".join(f"{name} {', '.join(map(str, values))}" for name, values in grid.items())
    fits = np.prod([len(values) for values in grid.values()])
    chosen = []
    for model in results.model.values[results.family.values == "neural"].tolist():
        found = Counter(text for text in results.settings.sel(model=model).values.ravel().tolist() if text)
        told = ", ".join(f"{_values(text)} ({count})" for text, count in found.most_common())
        chosen += [f"{model} {told}"] if told else []
    return (
        f"Every model tried {tried} ({fits} fits) on every split and was scored once, with the settings of the lowest "
        f"validation loss of that split. Chosen, and how often: {'; '.join(chosen)}."
    )


def _values(text: str) -> str:
    return " and ".join(str(value) for value in json.loads(text).values())


def _intervals(results: xarray.Dataset) -> str:
    reference, seeds = results.attrs.get("reference"), results.sizes["seed"]
    if reference is None or "difference_low" not in results or seeds < 2:
        return ""
    told = (
        f"Differences are paired: model - {reference} on the same split, mean over the seeds and 95 % percentile "
        "bootstrap interval of that mean. They tell of other splits and initial weights of these records, not of other "
        "records, and splits of the same records overlap"
    )
    if seeds <= 3:
        cover = {2: "1 case of 2", 3: "3 cases of 4"}[seeds]
        return f"{told}; of {seeds} seeds it is the least and the greatest difference: they cover the mean in {cover}."
    return f"{told}; of {seeds} seeds it is too short rather than too long." if seeds < _FEW else f"{told}."


def _memory(results: xarray.Dataset) -> str:
    if "peak_bytes" not in results or not bool(results.peak_bytes.notnull().any()):
        return ""
    batch = json.loads(results.attrs["training"])["batch_size"]
    return (
        f"MB / step is the most resident memory that one training step on the {batch} longest training series takes "
        "beyond what was resident before it, in the process that trained the model."
    )


def _failures(results: xarray.Dataset) -> list[str]:
    if "failure" not in results:
        return []
    failed = results.failure.to_series()
    return [
        f"Missing: {task}, seed {seed}, {model}: {reason}"
        for (task, model, seed), reason in failed[failed != ""].items()
    ]
