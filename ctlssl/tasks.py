"""The tasks of the bundled data: what a model may see, what it must answer, and the split that all models share.

Records end at the event: a series that runs on to a death tells of it by its length alone. Every task therefore has a
landmark, a time at which all its series are still running, and shows nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ctlssl.catalogue import load_dataset
from ctlssl.contract import Problem
from ctlssl.normalization import Normalizer
from ctlssl.packed_series import PackedSeries
from ctlssl.schema import channels, select_rows, select_series, series_of_row, to_series
from ctlssl.series import TimeSeries, series_index

__all__ = ["TASKS", "Examples", "Normalizer", "Split", "Task", "prepare"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Series together with the answers that belong to them.

    Args:
        series: B series, padded or packed.
        ids: (B,) their names in the data set.
        labels: (B,) int64 classes, or (B, T) float targets, or None.
        query_times: (B, Q) float64, NaN-padded times at which values are to be forecast, or None.
        targets: (B, Q, D) values at the query times, of any content where not observed, or None.
        target_observed: (B, Q, D) bool, True = there is a target, or None.
        variables: the names of the D channels, or nothing.

    Raises:
        ValueError: parts of other than B series.

    Example:
        >>> seen = torch.ones(2, 3, 1, dtype=torch.bool)
        >>> times = torch.arange(3.0).expand(2, 3)
        >>> series = TimeSeries(torch.zeros(2, 3, 1), times, seen, torch.tensor([3, 1]))
        >>> examples = Examples(series, ids=np.array(["a", "b"]), labels=torch.tensor([0, 1]))
        >>> len(examples), examples.select([1]).ids
        (2, array(['b'], dtype='<U1'))
    """

    series: TimeSeries | PackedSeries
    ids: np.ndarray
    labels: Tensor | None = None
    query_times: Tensor | None = None
    targets: Tensor | None = None
    target_observed: Tensor | None = None
    variables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ids", "labels", "query_times", "targets", "target_observed"):
            part = getattr(self, name)
            if part is not None and len(part) != self.series.batch:
                raise ValueError(f"{name} has {len(part)} entries for {self.series.batch} series; give one per series.")

    def __len__(self) -> int:
        return self.series.batch

    def select(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Examples:
        """A part of the examples, padding of series and of queries trimmed to its own longest.

        Args:
            index: positions, a boolean flag per series, or a slice.
        """
        index = series_index(index, torch.device("cpu"))
        queries = slice(0, None)
        if self.query_times is not None:
            asked = ~torch.isnan(_take(self.query_times, index)).all(dim=0)  # (Q,)
            queries = slice(0, int(asked.nonzero().max()) + 1 if asked.any() else 0)
        return Examples(
            series=self.series.select(index),
            ids=np.asarray(self.ids)[index if isinstance(index, slice) else index.numpy()],
            labels=_take(self.labels, index),
            query_times=_take(self.query_times, index, queries),
            targets=_take(self.targets, index, queries),
            target_observed=_take(self.target_observed, index, queries),
            variables=self.variables,
        )


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


def _rows(ds: xr.Dataset, after: float, until: float) -> np.ndarray:
    """Which rows hold a value and lie in (after, until], (obs,) bool."""
    time = ds["time"].values
    filled = np.zeros(len(time), dtype=bool)
    for name in channels(ds):
        filled |= ~np.isnan(ds[name].values)
    return filled & (time > after) & (time <= until)


def _part(ds: xr.Dataset, rows: np.ndarray, chosen: np.ndarray) -> TimeSeries:
    return to_series(select_series(select_rows(ds, rows), chosen), dtype=torch.float64)


def _has_row(ds: xr.Dataset, rows: np.ndarray) -> np.ndarray:
    return np.bincount(series_of_row(ds)[rows], minlength=ds.sizes["series"]) > 0  # (series,)


def _covid19_death(ds: xr.Dataset) -> Examples:
    seen = _rows(ds, -np.inf, 24.0)
    chosen = (ds["discharge"].values > 24.0) & _has_row(ds, seen)
    return Examples(
        series=_part(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(ds["outcome"].values[chosen].astype(np.int64)),
        variables=channels(ds),
    )


def _covid19_forecast(ds: xr.Dataset) -> Examples:
    # Some results carry a stamp after the discharge; nobody could have been asked for those.
    in_hospital = ds["time"].values <= ds["discharge"].values[series_of_row(ds)]  # (obs,)
    seen, asked = _rows(ds, -np.inf, 72.0), _rows(ds, 72.0, 120.0) & in_hospital
    chosen = (ds["discharge"].values > 72.0) & _has_row(ds, seen) & _has_row(ds, asked)
    future = _part(ds, asked, chosen)
    return Examples(
        series=_part(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        query_times=torch.where(future.in_length, future.times, torch.nan),
        targets=future.values,
        target_observed=future.observed,
        variables=channels(ds),
    )


_TASKS = (
    Task(
        name="covid19/death",
        dataset="covid19",
        kind="classification",
        description="death in hospital, from the first 24 h, among those still in hospital then",
        window=24.0,
        build=_covid19_death,
    ),
    Task(
        name="covid19/forecast",
        dataset="covid19",
        kind="forecasting",
        description="values of the hours 72 to 120 when they were measured, from the first 72 h",
        window=72.0,
        build=_covid19_forecast,
    ),
)

TASKS = {task.name: task for task in _TASKS}
"""The tasks by name."""


def _take(part: Tensor | None, index: Tensor | slice, queries: slice | None = None) -> Tensor | None:
    if part is None:
        return None
    part = part[index if isinstance(index, slice) else index.to(part.device)]
    return part if queries is None else part[:, queries]
