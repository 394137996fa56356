"""What the estimators share: their settings, how records become examples, and how a model is trained on them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ctlssl.contract import Prediction, Problem
from ctlssl.estimators.answers import names_of
from ctlssl.estimators.keeping import read_estimator, write_estimator
from ctlssl.estimators.records import as_dataset
from ctlssl.examples import Examples
from ctlssl.model_names import models_by_name
from ctlssl.normalization import Normalizer
from ctlssl.schema import channels, select_rows, static, to_series
from ctlssl.series import TimeSeries
from ctlssl.tables import from_arrays
from ctlssl.tasks import clock_of, in_scores, warn_of_another_unit
from ctlssl.training import Training, fit, predict

__all__ = ["SeriesEstimator"]


class SeriesEstimator(BaseEstimator, ABC):
    """An estimator in the manner of scikit-learn whose samples are irregular series.

    Records may be a Dataset of the schema (`ctlssl.from_long` makes one), `ctlssl.Records` of one, a list of pairs
    (times, values), an array (series, rows, channels) on a regular grid, or a table (series, features), which is read
    as one row of each series. Whatever is learned of the data (normal scores, the unit of the clock, the step sizes at
    the start) comes from the series that the model is trained on; those that decide when training stops are held out.

    Args:
        model: a name in `ctlssl.models.MODELS` or `ctlssl.baselines.BASELINES`, with options behind it as in
            "lssl:state_size=32:layers=2".
        width: of the model.
        epochs: most passes over the training series.
        batch_size: series in a batch.
        learning_rate: of AdamW.
        patience: epochs without a better loss on the held-out series after which training stops.
        validation: share of the series that is held out for that; 0 trains for all epochs.
        window: data time after which rows are not read, in training and prediction. Records that end at the event tell
            of it by their length: choose a time at which all are still running.
        random_state: of the held-out series, the weights at the start, dropout and batches.
    """

    kind: str  # of problem

    def __init__(
        self,
        model: str = "lssl",
        width: int = 32,
        *,
        epochs: int = 40,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        patience: int = 8,
        validation: float = 0.2,
        window: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.width = width
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.validation = validation
        self.window = window
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True  # a missing value is an observation that was not made
        return tags

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted estimator: tensors and JSON under a digest, no pickle.

        Args:
            path: the file.

        Raises:
            ValueError: a setting that is no plain value, such as a random state that is a generator.
            OSError: the file cannot be written; what was there stays.
        """
        check_is_fitted(self)
        write_estimator(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """The estimator that `save` wrote; nothing of the file is run.

        Args:
            path: the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: another kind of file, or one that was changed since.
        """
        return read_estimator(cls, path)

    @abstractmethod
    def _outputs(self) -> int:
        """The outputs of the problem, known once the answers were read."""

    def _read(self, X: Any, reset: bool, y: Any = None) -> xr.Dataset:
        """Records as a Dataset cut to the window; see `_read_whole`."""
        return self._cut(self._read_whole(X, reset, y))

    def _cut(self, ds: xr.Dataset) -> xr.Dataset:
        return ds if self.window is None else select_rows(ds, ds["time"].values <= self.window)

    def _read_whole(self, X: Any, reset: bool, y: Any = None) -> xr.Dataset:
        """Records as a Dataset; the first time, what they are is noted, and later compared.

        Args:
            X: records.
            reset: whether this is the first time.
            y: the answers: variables that are named in it are no covariates.
        """
        ds = as_dataset(X)
        if ds is None:
            table = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
            ds = from_arrays([[0.0]] * len(table), list(table[:, None, :]))
        elif reset:
            self.n_features_in_ = len(channels(ds))
        if reset:
            self.channels_, self.unit_ = channels(ds), str(ds["time"].attrs.get("units", ""))
            if not self.channels_:
                raise ValueError("the records have no channel; a channel is a variable over obs.")
            self.static_ = tuple(name for name in static(ds) if name not in names_of(y))
        unit = str(ds["time"].attrs.get("units", ""))
        if unit != self.unit_:
            raise ValueError(f"the times are in {unit!r}, those of the training in {self.unit_!r}; convert them first.")
        if unknown := [name for name in channels(ds) if name not in self.channels_]:
            raise ValueError(f"the training had no channel {', '.join(unknown[:5])}; leave it out, or rename it.")
        if lacking := [name for name in self.static_ if name not in ds]:
            raise ValueError(f"the records have no static covariate {', '.join(lacking[:5])}, which the training had.")
        return ds

    def _read_fitted(self, X: Any) -> xr.Dataset:
        check_is_fitted(self)
        return self._read(X, reset=False)

    def _series(self, ds: xr.Dataset) -> TimeSeries:
        return to_series(ds, self.channels_, self.static_, torch.float64, missing="unobserved")

    def _train(self, examples: Examples, classes: np.ndarray | None = None) -> None:
        """Learn the scale and the clock from the training part, and a model from both.

        Args:
            examples: in raw units, answers as `_encode` takes them.
            classes: (B,) of which as large a share is held out as of all series, or None.
        """
        draw = check_random_state(self.random_state)
        trained, held = _held_out(examples.ids, classes, self.validation, draw)
        seed = int(draw.randint(2**31 - 1))
        train, valid = self._encode(examples.select(trained), examples.select(held))
        if not bool((train.series.observed & train.series.in_length.unsqueeze(-1)).any()):
            window = "" if self.window is None else f" up to window = {self.window:g}"
            raise ValueError(
                f"the records that are trained on have no observed value{window}: there is nothing to learn."
            )
        self.normalizer_ = Normalizer.fit(train.series)
        self.problem_ = self._problem(train.series)
        train, valid = (in_scores(part, self.normalizer_) for part in (train, valid))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model_ = models_by_name(self.model)[self.model](self.problem_, width=self.width)
        numbers = {"epochs": self.epochs, "batch_size": self.batch_size, "patience": self.patience}
        training = Training(**numbers, learning_rate=self.learning_rate, seed=seed)
        self.history_ = fit(self.model_, train, valid if len(held) else None, training)
        self.model_.eval()

    def _encode(self, train: Examples, valid: Examples) -> tuple[Examples, Examples]:
        """The answers of both parts as the model learns them; what that takes is learned from the first."""
        return train, valid

    def _problem(self, train: TimeSeries) -> Problem:
        return Problem(
            kind=self.kind,
            channels=train.channels,
            outputs=self._outputs(),
            static=0 if train.static is None else train.static.shape[1],
            **clock_of(train, self._horizon(train)),
        )

    def _horizon(self, train: TimeSeries) -> float | None:
        """The time from the earliest row to the window; None where there is none."""
        if self.window is None or not bool(train.in_length.any()):
            return None
        span = self.window - float(train.times[train.in_length].min())
        return span if span > 0 else None

    def _answer(self, ds: xr.Dataset, query_times: Tensor | None = None) -> Prediction:
        """What the model says of records that were read."""
        raw = self._series(ds)
        warn_of_another_unit(raw, self.problem_)
        series = self.normalizer_.apply(raw, torch.float32)
        return predict(self.model_, Examples(series, np.asarray(ds["series"].values), query_times=query_times))


def _held_out(
    ids: np.ndarray, classes: np.ndarray | None, share: float, draw: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that are trained on, and those that are held out: whole records, and the share of every class."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"validation is {share!r}; give a share from 0 to below 1.")
    _, first, record = np.unique(ids, return_index=True, return_inverse=True)
    kinds = np.zeros(len(first), dtype=np.int64) if classes is None else classes[first]
    held = np.zeros(len(first), dtype=bool)
    for kind in np.unique(kinds):
        members = draw.permutation(np.flatnonzero(kinds == kind))
        held[members[: min(round(share * len(members)), len(members) - 1)]] = True
    return np.flatnonzero(~held[record]), np.flatnonzero(held[record])
