"""A class at every row of irregular records: alarms, activities, stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.utils.multiclass import check_classification_targets

from ctlssl.estimators.base import SeriesEstimator
from ctlssl.estimators.records import as_dataset
from ctlssl.examples import Examples
from ctlssl.series import TimeSeries

__all__ = ["LSSLLabeler"]


class LSSLLabeler(SeriesEstimator):
    """The class at every row of each of a number of irregular records.

    The answer at a row reads the rows up to it (and those of its time), as it would have been given then; a model that
    reads each record from both ends, such as "lssl:bidirectional=true", reads all of them. Rows without a label are
    read, and not learned. A row that shows nothing is a time at which a label is wanted.

    It is no classifier in the sense of scikit-learn, whose samples have one answer each: splitters divide records.

    Args:
        model: see `SeriesEstimator`.
        width: see `SeriesEstimator`.
        epochs: see `SeriesEstimator`.
        batch_size: see `SeriesEstimator`.
        learning_rate: see `SeriesEstimator`.
        patience: see `SeriesEstimator`.
        validation: see `SeriesEstimator`.
        random_state: see `SeriesEstimator`.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985.

    Example:
        >>> import ctlssl
        >>> ds = ctlssl.synthetic.ornstein_uhlenbeck.generate(series=30, seed=0)
        >>> high = (ds["value"].values > 0).astype(int)
        >>> labeler = LSSLLabeler(epochs=1).fit(ds, high)
        >>> labeler.predict(ds).shape == high.shape, labeler.classes_
        (True, array([0, 1]))
    """

    kind = "labelling"

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
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(
            model,
            width,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            validation=validation,
            random_state=random_state,
        )

    def fit(self, X: Any, y: Any) -> LSSLLabeler:
        """Learn.

        Args:
            X: n records, see `SeriesEstimator`.
            y: the labels of all rows, one record after the other; a list of n arrays, those of each record; or the name
                of a variable over obs, which is then no channel. NaN, None, -1 and "" say that a row has no label.

        Raises:
            ValueError: no series, fewer than two classes, or labels that do not belong to the rows.
        """
        self.label_ = y if isinstance(y, str) else None
        given = as_dataset(X)
        labels, known = _labels(y, X if given is None else given)
        ds = self._read(X if given is None else self._unlabelled(given), reset=True)
        if not known.any():
            raise ValueError("no row has a label: there is nothing to learn from.")
        check_classification_targets(labels[known])
        self.classes_, codes = np.unique(labels[known], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a labeler needs two classes, found {len(self.classes_)} class: {self.classes_}.")
        if self.classes_.dtype.kind == "f":
            self.classes_ = self.classes_.astype(np.int64)
        rows = np.full(len(labels), -1, dtype=np.int64)
        rows[known] = codes
        series = self._series(ds)
        targets = torch.full((series.batch, series.length), -1)  # (B, L)
        targets[series.in_length] = torch.from_numpy(rows)
        asked = torch.where(targets >= 0, series.times, torch.nan)  # (B, L)
        self._train(Examples(series, np.asarray(ds["series"].values), query_times=asked, targets=targets))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class at each row, (rows, classes), in the order of `classes_`.

        Args:
            X: records of the channels of the training; one that is lacking is taken as not observed.
        """
        series, ds = self._rows(X)
        found = self._answer(ds, torch.where(series.in_length, series.times, torch.nan))  # (B, L, K)
        return torch.softmax(found.logits.double()[series.in_length], dim=1).numpy()  # (rows, K)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class at each row, (rows,), one record after the other.

        Args:
            X: records, as of `predict_proba`.
        """
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def score(self, X: Any, y: Any = None) -> float:
        """The share of the rows with a label at which it is predicted.

        Args:
            X: records.
            y: as of `fit`; None is the variable of the training.

        Raises:
            ValueError: no labels.
        """
        y = self.label_ if y is None else y
        given = as_dataset(X)
        labels, known = _labels(y, X if given is None else given)
        if not known.any():
            raise ValueError("no row has a label: there is nothing to score.")
        return float(np.mean(self.predict(X)[known] == labels[known]))

    def _rows(self, X: Any) -> tuple[TimeSeries, xr.Dataset]:
        given = as_dataset(X)
        ds = self._read_fitted(X if given is None else self._unlabelled(given))
        return self._series(ds), ds

    def _unlabelled(self, ds: xr.Dataset) -> xr.Dataset:
        """Without the variable that is the label, where it stands among the channels."""
        name = getattr(self, "label_", None)
        return ds if name is None or name not in ds else ds.drop_vars(name)

    def _outputs(self) -> int:
        return len(self.classes_)


def _labels(y: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the rows and which are there, (rows,) each."""
    sizes = X["row_size"].values if isinstance(X, xr.Dataset) else np.ones(len(X), dtype=np.int64)
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None: give the labels of the rows, or a name.")
    if isinstance(y, str):
        if not isinstance(X, xr.Dataset) or y not in X or X[y].dims != ("obs",):
            raise ValueError(f"the records have no variable {y!r} over obs; give the labels of the rows, or its name.")
        values = X[y].values
    elif isinstance(y, list) and len(y) == len(sizes) and all(np.ndim(part) == 1 for part in y):
        wrong = [b for b, part in enumerate(y) if len(part) != sizes[b]]
        if wrong:
            raise ValueError(
                f"record {wrong[0]} has {sizes[wrong[0]]} rows and {len(y[wrong[0]])} labels; give one each."
            )
        values = np.concatenate([np.asarray(part) for part in y])
    else:
        values = np.asarray(y)
    if values.shape != (int(sizes.sum()),):
        raise ValueError(f"y has the shape {values.shape}; give one label a row, ({int(sizes.sum())},).")
    absent = pd.isna(values)
    if values.dtype.kind in "iuf":
        absent = absent | (values == -1)
    elif values.dtype.kind in "UTO":
        absent = absent | np.array([value == "" or value == -1 for value in values], dtype=bool)
    if values.dtype.kind == "O" and not absent.all():
        found = values[~absent].tolist()
        values = np.array([found[0] if lacks else value for value, lacks in zip(values, absent, strict=True)])
    return values, ~absent
