"""Times to an event that may not have been seen."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.utils.validation import check_consistent_length

from ctlssl.estimators.answers import answers_of, in_order, weighted_examples
from ctlssl.estimators.base import SeriesEstimator
from ctlssl.examples import Examples
from ctlssl.training.metrics import concordance

__all__ = ["LSSLSurvival"]

_SUSPICIOUS = 0.7  # concordance


class LSSLSurvival(SeriesEstimator):
    """The time to an event of each of a number of irregular records, some of which were not observed until it came.

    Time is cut into intervals at quantiles of the event times of the training. The model gives the hazard of each, the
    probability that the event comes in it if it did not come before; between its ends a hazard is constant. Of a record
    that was observed without an event (censored) it is learned that it survived the intervals that it was observed in,
    the last one if for the longer half of it. Censoring must tell nothing of the event beyond what is in the record.

    Times to the event count from an origin that is the same for all, such as the admission; records must show nothing
    that came after it: give `window`, and leave out series whose event came before it.

    Args:
        model: see `SeriesEstimator`.
        width: see `SeriesEstimator`.
        intervals: of time, at most; fewer where events are fewer.
        epochs: see `SeriesEstimator`.
        batch_size: see `SeriesEstimator`.
        learning_rate: see `SeriesEstimator`.
        patience: see `SeriesEstimator`.
        validation: see `SeriesEstimator`.
        window: see `SeriesEstimator`.
        random_state: see `SeriesEstimator`.

    References:
        Gensheimer, Narasimhan (2019), A scalable discrete-time survival model for neural networks, arXiv:1805.00917.
        Kvamme, Borgan (2021), Continuous and discrete-time survival prediction with neural networks, arXiv:1910.06724
        (quantiles as intervals, and constant hazards in them).

    Example:
        >>> import ctlssl
        >>> from ctlssl.schema import select_series
        >>> ds = ctlssl.load_dataset("covid19")
        >>> ds = select_series(ds, ds["discharge"].values > 24.0)
        >>> model = LSSLSurvival(window=24.0, epochs=1).fit(ds, ["discharge", "outcome"])
        >>> model.predict_survival(ds, times=[48.0, 240.0]).shape == (ds.sizes["series"], 2)
        True
    """

    kind = "survival"

    def __init__(
        self,
        model: str = "lssl",
        width: int = 32,
        *,
        intervals: int = 20,
        epochs: int = 40,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        patience: int = 8,
        validation: float = 0.2,
        window: float | None = None,
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
            window=window,
            random_state=random_state,
        )
        self.intervals = intervals

    def fit(self, X: Any, y: Any, sample_weight: np.ndarray | None = None) -> LSSLSurvival:
        """Learn.

        Args:
            X: n records, see `SeriesEstimator`.
            y: (n, 2) of the time of the event or of the end of observation, and whether the event happened (1) or not
                (0); a structured array of two fields, one of them bool; or the names of two variables over series.
            sample_weight: n numbers >= 0, what the series count, or None.

        Raises:
            ValueError: no series, no event, or answers that are no times and events of these records.
        """
        if self.intervals < 1:
            raise ValueError(f"intervals is {self.intervals!r}; give a whole number from 1 on.")
        ds = self._read(X, reset=True, y=y)
        times, events = _times_and_events(y, ds, X)
        _warn_of_length(ds, times, events)
        labels = torch.from_numpy(np.stack([times, events], axis=1))  # (n, 2)
        examples = Examples(self._series(ds), np.asarray(ds["series"].values), labels=labels)
        self._train(weighted_examples(examples, in_order(sample_weight, ds, X)), events.astype(np.int64))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The risk of each record, (n,): minus the time to the event that is expected up to the last edge.

        Args:
            X: n records of the channels of the training; one that is lacking is taken as not observed.
        """
        logs, widths = self._log_survival(X), np.diff(self.edges_)  # (n, K + 1), (K,)
        fall = logs[:, :-1] - logs[:, 1:]  # (n, K), not negative
        small = fall < 1e-8
        mean = np.where(small, 1.0, -np.expm1(-fall) / np.where(small, 1.0, fall))  # of exp(-fall * share) over 0..1
        return -(np.exp(logs[:, :-1]) * mean * widths).sum(axis=1)

    def predict_survival(self, X: Any, times: Any) -> np.ndarray:
        """The probability that the event of each record comes after each of some times, (n, T).

        Args:
            X: n records, as of `predict`.
            times: T times from the origin of the training's, not negative.

        Returns:
            probabilities; NaN at times after the last event of the training, of which nothing was learned.

        Raises:
            ValueError: times that cannot be.
        """
        asked = np.asarray(times, dtype=np.float64)
        if asked.ndim != 1 or not np.isfinite(asked).all() or (asked < 0).any():
            raise ValueError(f"times is {times!r}; give a list of times that are finite and not negative.")
        logs, edges = self._log_survival(X), self.edges_  # (n, K + 1)
        place = np.clip(np.searchsorted(edges, asked, side="right") - 1, 0, len(edges) - 2)  # (T,)
        share = (asked - edges[place]) / np.diff(edges)[place]
        curve = np.exp(logs[:, place] + share * (logs[:, place + 1] - logs[:, place]))  # (n, T)
        return np.where(asked <= edges[-1], curve, np.nan)

    def score(self, X: Any, y: Any) -> float:
        """Harrell's concordance: the share of the pairs in known order whose risks are in that order.

        Args:
            X: n records.
            y: times and events, as of `fit`.
        """
        ds = self._read_fitted(X)
        times, events = _times_and_events(y, ds, X)
        return concordance(times, events, self.predict(X))

    def _log_survival(self, X: Any) -> np.ndarray:
        """The logarithm of the survival curve at the edges, (n, K + 1)."""
        return np.pad(self._answer(self._read_fitted(X)).log_survival.numpy(), ((0, 0), (1, 0)))

    def _encode(self, train: Examples, valid: Examples) -> tuple[Examples, Examples]:
        times, events = train.labels.numpy().T
        self.edges_ = _edges(times, events > 0, self.intervals)
        return self._in_intervals(train), self._in_intervals(valid)

    def _in_intervals(self, examples: Examples) -> Examples:
        times, events = examples.labels.numpy().T
        return replace(examples, labels=torch.from_numpy(_labels(times, events > 0, self.edges_)))

    def _outputs(self) -> int:
        return len(self.edges_) - 1


def _times_and_events(y: Any, ds: xr.Dataset, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) and whether the event happened, (n,) bool."""
    answers = answers_of(list(y) if isinstance(y, tuple) else y, ds, X)
    if answers.dtype.kind in "UO":
        raise ValueError(f"y is {y!r}: the records have no variables over series of these names; give (n, 2) numbers.")
    if answers.dtype.names is not None:
        flags = [name for name in answers.dtype.names if answers.dtype[name] == np.dtype(bool)]
        if len(answers.dtype.names) != 2 or len(flags) != 1:
            raise ValueError(f"y has the fields {answers.dtype}; give two, the event as bool and the time.")
        (other,) = set(answers.dtype.names) - set(flags)
        answers = np.stack([answers[other].astype(np.float64), answers[flags[0]].astype(np.float64)], axis=-1)
    if answers.ndim != 2 or answers.shape[1] != 2:
        raise ValueError(f"y has the shape {answers.shape}; give (n, 2): times, and whether the event happened.")
    check_consistent_length(ds["row_size"].values, answers)
    answers = answers.astype(np.float64)
    for what, bad in {
        "time": ~np.isfinite(answers[:, 0]) | (answers[:, 0] < 0),
        "event": ~np.isin(answers[:, 1], (0.0, 1.0)),
    }.items():
        if bad.any():
            b = int(np.flatnonzero(bad)[0])
            allowed = "finite and not negative" if what == "time" else "1, or 0 where observation ended without it"
            name = ds["series"].values[b].item()
            found = answers[b, 0 if what == "time" else 1]
            raise ValueError(f"series {name!r}: the {what} is {found}; it must be {allowed}.")
    return answers[:, 0], answers[:, 1] > 0


def _edges(times: np.ndarray, events: np.ndarray, intervals: int) -> np.ndarray:
    """0 and the ends of the intervals, (K + 1,)."""
    happened = times[events]
    if not len(happened) or happened.max() <= 0:
        raise ValueError("no event happened after time 0 in these records: there is nothing to learn a time from.")
    return np.unique(np.append(0.0, np.quantile(happened, np.linspace(0, 1, intervals + 1)[1:])))


def _labels(times: np.ndarray, events: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The interval of each event, or the last one survived (-1 for none), and whether it is an event, (n, 2) int64."""
    K = len(edges) - 1
    place = np.searchsorted(edges[1:], times, side="left")  # (n,): K after the last edge
    inside = np.minimum(place, K - 1)
    middle = 0.5 * (edges[inside] + edges[inside + 1])
    survived = np.where(times >= middle, inside, inside - 1)
    happened = events & (place < K)
    return np.stack([np.where(happened, place, survived), happened], axis=1).astype(np.int64)


def _warn_of_length(ds: xr.Dataset, times: np.ndarray, events: np.ndarray) -> None:
    """Warn where the number of rows alone puts the events in order, with what to do about it."""
    if events.sum() < 2:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = concordance(times, events, -ds["row_size"].values.astype(np.float64))
    # of few events some length always fits: three standard deviations of a concordance that says nothing
    if abs(found - 0.5) > max(_SUSPICIOUS - 0.5, 3.0 / np.sqrt(3.0 * events.sum())):
        warnings.warn(
            f"the number of rows alone puts events in order (concordance {max(found, 1 - found):.2f}): records that "
            "end at the event tell of it by their length. Give window=, a time at which all records are still running.",
            stacklevel=3,
        )
