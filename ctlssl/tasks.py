"""A task made ready: what a model may see, what it must answer, and the split that all models share.

Records end at the event: a series that runs on to a death tells of it by its length alone. Every task therefore has a
landmark, a time at which all its series are still running, and shows nothing after it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from ctlssl.catalogue import load_dataset
from ctlssl.contract import Problem
from ctlssl.examples import Examples
from ctlssl.normalization import Normalizer
from ctlssl.packed_series import PackedSeries
from ctlssl.questions import TASKS, Task
from ctlssl.series import TimeSeries
from ctlssl.splitting import deal

__all__ = [
    "TASKS",
    "Examples",
    "Normalizer",
    "Split",
    "Task",
    "clock_of",
    "in_scores",
    "median_gap",
    "prepare",
    "warn_of_another_unit",
]

_ENOUGH_ROWS = 20  # for a median to say anything
_ANOTHER_UNIT = 20.0  # days are 24 hours


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts of a task in normal scores, and what was learned from the first of them.

    Args:
        train: what is learned from.
        valid: what choices are made on.
        test: what is scored, once.
        problem: what a model must know.
        normalizer: what took the values from raw units to normal scores, and takes forecasts back.
    """

    train: Examples
    valid: Examples
    test: Examples
    problem: Problem
    normalizer: Normalizer


def prepare(task: str | Task, seed: int = 0, ds: xr.Dataset | None = None, refit: bool = False) -> Split:
    """Split a task by series and normalise it; the same seed gives the same split to every model.

    Classes are dealt out in equal shares, of 60, 20 and 20 % where the task does not say otherwise. Every statistic
    comes from what the training part shows: normal scores per channel, mean and spread of the static covariates, and
    the median gap between its observations, which becomes the unit of the models' clock and the first gap. A channel
    that the training part never shows is set to not observed; as a target of a forecast a channel must vary in the
    training part.

    Args:
        task: a name in `TASKS`, or a task of your own.
        seed: of the split.
        ds: the data; None is the bundled data set of the task.
        refit: the training part takes in the validation part, which stays beside it: for a last fit without early
            stopping, when all choices are made. The test part is the same.

    Raises:
        ValueError: an unknown task, or too few series for three parts.

    Example:
        >>> split = prepare("covid19/death", seed=0)
        >>> [len(part) for part in (split.train, split.valid, split.test)]
        [196, 65, 65]
        >>> split.problem.kind, split.problem.channels, split.problem.static
        ('classification', 74, 2)
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}.")
        task = TASKS[task]
    raw = task.build(load_dataset(task.dataset) if ds is None else ds)
    train, valid, test = deal(raw, seed, task.shares, task.folds)
    train = np.union1d(train, valid) if refit else train
    parts = [raw.select(index) for index in (train, valid, test)]
    normalizer = task.scale(parts[0].series)
    problem = Problem(
        kind=task.kind,
        channels=raw.series.channels,
        outputs=_outputs(task, raw),
        static=0 if raw.series.static is None else raw.series.static.shape[1],
        **clock_of(parts[0].series, task.window),
    )
    train, valid, test = (in_scores(part, normalizer) for part in parts)
    return Split(train, valid, test, problem, normalizer)


def clock_of(series: TimeSeries | PackedSeries, window: float | None = None) -> dict[str, float]:
    """What a `Problem` must know of the clock: its unit and first gap, the median gap, and its horizon.

    Args:
        series: the training part.
        window: how much time a model may see; None is the longest span of these series.
    """
    gap = median_gap(series)
    return {"time_scale": gap, "first_gap": gap, "horizon": _longest_span(series) if window is None else window}


def median_gap(series: TimeSeries | PackedSeries) -> float:
    """The median time between observations of one series; ties in time do not count; 1 where there is none."""
    if isinstance(series, PackedSeries):
        gaps = torch.diff(series.times, prepend=series.times[:1])  # (T,)
        gaps[(series.lengths.cumsum(0) - series.lengths)[series.lengths > 0]] = 0.0  # the first row of a series
    else:
        gaps = series.gaps(first=0.0)  # (B, L)
    gaps = gaps[gaps > 0]
    return float(np.median(gaps.numpy())) if len(gaps) else 1.0


def warn_of_another_unit(series: TimeSeries | PackedSeries, problem: Problem) -> None:
    """Warn where gaps are so much longer or shorter than those of the training that times may be in another unit.

    Args:
        series: records that a trained model is asked about.
        problem: of the model, whose `time_scale` is the median gap of its training.
    """
    if int(series.lengths.sum()) < _ENOUGH_ROWS or int(series.lengths.max()) < 2:
        return
    gap = median_gap(series)
    if not 1 / _ANOTHER_UNIT < gap / problem.time_scale < _ANOTHER_UNIT:
        warnings.warn(
            f"the median gap of these records is {gap:g}, that of the training was {problem.time_scale:g}: if their "
            "times are in another unit, convert them.",
            stacklevel=3,
        )


def _longest_span(series: TimeSeries | PackedSeries) -> float:
    """The longest time from the first to the last row of a series; 1 where none takes any time."""
    if isinstance(series, PackedSeries):
        ends = series.lengths.cumsum(0)[series.lengths > 0]  # of the series that have rows
        starts = (series.lengths.cumsum(0) - series.lengths)[series.lengths > 0]
        spans = series.times[ends - 1] - series.times[starts]
    else:
        filled = series.lengths > 0  # (B,)
        if not series.length or not filled.any():
            return 1.0
        last = series.times[filled].gather(1, series.lengths[filled, None] - 1)[:, 0]
        spans = last - series.times[filled, 0]
    return float(spans.max()) if len(spans) and spans.max() > 0 else 1.0


def _outputs(task: Task, examples: Examples) -> int:
    if task.kind == "forecasting":
        return examples.series.channels
    if task.kind in ("classification", "labelling"):
        classes = examples.labels if task.kind == "classification" else examples.targets
        return max(2, int(classes.max()) + 1)
    if task.kind == "survival":
        return max(1, int(examples.labels[:, 0].max()) + 1)
    return examples.labels.shape[1]


def in_scores(examples: Examples, normalizer: Normalizer) -> Examples:
    """Examples of raw units in those of a normalizer, float32; a target must be of a channel that varied in training.

    Args:
        examples: with the channels of the training part.
        normalizer: learned from the training part.

    Raises:
        ValueError: other channels or static covariates.
    """
    series = normalizer.apply(examples.series, torch.float32)
    if examples.targets is None or not examples.targets.is_floating_point():  # classes have no units
        return replace(examples, series=series)
    wanted = examples.target_observed & normalizer.varying  # (B, Q, D)
    targets = normalizer.apply_values(examples.targets, wanted, torch.float32)  # (B, Q, D)
    return replace(examples, series=series, targets=targets, target_observed=wanted)
