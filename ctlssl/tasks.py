"""The tasks of the bundled and the generated data: what a model may see, what it must answer, and the shared split.

Records end at the event: a series that runs on to a death tells of it by its length alone. Every task therefore has a
landmark, a time at which all its series are still running, and shows nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import xarray as xr

from ctlssl.catalogue import load_dataset
from ctlssl.contract import Problem
from ctlssl.examples import Examples
from ctlssl.normalization import Normalizer
from ctlssl.questions import class_of_series, covid19_death, covid19_forecast, later_values, numbers_of_series
from ctlssl.series import TimeSeries

__all__ = ["TASKS", "Examples", "Normalizer", "Split", "Task", "prepare"]


@dataclass(frozen=True)
class Task:
    """A question that a data set can answer.

    Args:
        name: what `prepare` calls it, "dataset/question".
        dataset: the data set that it is asked of.
        kind: "classification", "regression" or "forecasting".
        description: one line.
        window: how much time a model may see, in the data set's unit.
        build: the examples of a Dataset, in raw units.
    """

    name: str
    dataset: str
    kind: str
    description: str
    window: float
    build: Callable[[xr.Dataset], Examples]


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts of a task in normal scores, and what was learned from the first of them.

    Args:
        train: 60 % of the series.
        valid: 20 %.
        test: 20 %.
        problem: what a model must know.
        normalizer: what took the values from raw units to normal scores, and takes forecasts back.
    """

    train: Examples
    valid: Examples
    test: Examples
    problem: Problem
    normalizer: Normalizer


def prepare(task: str | Task, seed: int = 0, ds: xr.Dataset | None = None) -> Split:
    """Split a task by series and normalise it; the same seed gives the same split to every model.

    Classes are dealt out in equal shares. Every statistic comes from what the training part shows: normal scores per
    channel, mean and spread of the static covariates, and the median gap between its observations, which becomes the
    unit of the models' clock and the first gap. A channel that the training part never shows is set to not observed;
    as a target of a forecast a channel must vary in the training part.

    Args:
        task: a name in `TASKS`, or a task of your own.
        seed: of the split.
        ds: the data; None is the bundled data set of the task.

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
    parts = [raw.select(index) for index in _deal(raw, seed)]
    normalizer = Normalizer.fit(parts[0].series)
    gap = _median_gap(parts[0].series)
    problem = Problem(
        kind=task.kind,
        channels=raw.series.channels,
        outputs=_outputs(task, raw),
        static=0 if raw.series.static is None else raw.series.static.shape[1],
        time_scale=gap,
        first_gap=gap,
        horizon=task.window,
    )
    train, valid, test = (_normalised(part, normalizer) for part in parts)
    return Split(train, valid, test, problem, normalizer)


def _deal(examples: Examples, seed: int) -> list[np.ndarray]:
    """Positions of the training, validation and test part: 60, 20 and 20 % of each class."""
    draw = np.random.default_rng(seed)
    labels = examples.labels
    classes = np.zeros(len(examples)) if labels is None or labels.ndim > 1 else labels.numpy()
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in np.unique(classes):
        members = draw.permutation(np.flatnonzero(classes == label))
        cuts = [round(0.6 * len(members)), round(0.8 * len(members))]
        for part, chosen in zip(parts, np.split(members, cuts), strict=True):
            part.append(chosen)
    dealt = [np.sort(np.concatenate(part)) if part else np.empty(0, dtype=np.int64) for part in parts]
    if not all(len(part) for part in dealt):
        raise ValueError(f"{len(examples)} series are too few for a training, a validation and a test part.")
    return dealt


def _median_gap(series: TimeSeries) -> float:
    """The median time between observations of one series; ties in time do not count; 1 where there is none."""
    gaps = series.gaps(first=0.0)  # (B, L)
    gaps = gaps[gaps > 0]
    return float(np.median(gaps.numpy())) if len(gaps) else 1.0


def _outputs(task: Task, examples: Examples) -> int:
    if task.kind == "forecasting":
        return examples.series.channels
    if task.kind == "classification":
        return max(2, int(examples.labels.max()) + 1)
    return examples.labels.shape[1]


def _normalised(examples: Examples, normalizer: Normalizer) -> Examples:
    series = normalizer.apply(examples.series, torch.float32)
    if examples.targets is None:
        return replace(examples, series=series)
    wanted = examples.target_observed & normalizer.varying  # (B, Q, D)
    targets = normalizer.apply_values(examples.targets, wanted, torch.float32)  # (B, Q, D)
    return replace(examples, series=series, targets=targets, target_observed=wanted)


_TASKS = (
    Task(
        name="covid19/death",
        dataset="covid19",
        kind="classification",
        description="death in hospital, from the first 24 h, among those still in hospital then",
        window=24.0,
        build=covid19_death,
    ),
    Task(
        name="covid19/forecast",
        dataset="covid19",
        kind="forecasting",
        description="values of the hours 72 to 120 when they were measured, from the first 72 h",
        window=72.0,
        build=covid19_forecast,
    ),
    Task(
        name="drug_kinetics/clearance",
        dataset="drug_kinetics",
        kind="regression",
        description="logarithm of the clearance of each subject, from doses and concentrations of 72 h",
        window=72.0,
        build=partial(numbers_of_series, labels=("clearance",), logarithm=True),
    ),
    Task(
        name="drug_kinetics/forecast",
        dataset="drug_kinetics",
        kind="forecasting",
        description="concentrations of the hours 48 to 72, in which nothing is given, from the first 48 h",
        window=48.0,
        build=partial(later_values, landmark=48.0, asked=("concentration",)),
    ),
    Task(
        name="jumps/forecast",
        dataset="jumps",
        kind="forecasting",
        description="positions of the seconds 10 to 15, in which no kick comes, from the first 10 s",
        window=10.0,
        build=partial(later_values, landmark=10.0, asked=("position",)),
    ),
    Task(
        name="ornstein_uhlenbeck/forecast",
        dataset="ornstein_uhlenbeck",
        kind="forecasting",
        description="values of the seconds 10 to 15, from the first 10 s",
        window=10.0,
        build=partial(later_values, landmark=10.0),
    ),
    Task(
        name="oscillators/frequency",
        dataset="oscillators",
        kind="classification",
        description="which of two frequencies, from values at times that hide it",
        window=192.0,
        build=partial(class_of_series, label="frequency"),
    ),
    Task(
        name="pendulum/angle",
        dataset="pendulum",
        kind="regression",
        description="sine and cosine of the angle at the last image, from all images",
        window=1.0,
        build=partial(numbers_of_series, labels=("last_sine", "last_cosine"), hidden=("sine", "cosine")),
    ),
    Task(
        name="spirals/direction",
        dataset="spirals",
        kind="classification",
        description="outwards or inwards, from the whole spiral",
        window=12.0,
        build=partial(class_of_series, label="direction"),
    ),
    Task(
        name="spirals/forecast",
        dataset="spirals",
        kind="forecasting",
        description="points of the seconds 6 to 12, from the first 6 s",
        window=6.0,
        build=partial(later_values, landmark=6.0),
    ),
)

TASKS = {task.name: task for task in _TASKS}
"""The tasks by name."""
