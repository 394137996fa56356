"""Classical references: scikit-learn on summaries of each channel, and the last value carried forward.

They are what any sequence model has to beat. They are not modules: they are fitted in one call, and answer with the
same `Prediction`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ctlssl.contract import Prediction, Problem, check_request
from ctlssl.interleaving import interleave, last_true
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

__all__ = ["LastValue", "Reference", "Summaries", "summaries"]


_TOGETHER = 2048  # packed series that are padded at a time


def summaries(series: TimeSeries | PackedSeries, problem: Problem) -> np.ndarray:
    """What a table would keep of each series, NaN where it has nothing to say.

    Args:
        series: B series of D channels with S static covariates; of packed ones a part is padded at a time.
        problem: its clock.

    Returns:
        (B, 6 D + 2 + S) float64: count, mean, least, greatest, last and slope of each channel (of the least squares
        line, per unit of the clock), then the number of rows with an observation and the time they span, then the
        static part.

    >>> seen = torch.tensor([[[True], [True], [False]]])
    >>> series = TimeSeries(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[0, 4, 5]]), seen, torch.tensor([3]))
    >>> summaries(series, Problem("classification", channels=1, outputs=2, time_scale=2.0))
    array([[2., 2., 1., 3., 3., 1., 2., 2.]])
    """
    if isinstance(series, PackedSeries):
        parts = torch.argsort(series.lengths, stable=True).split(_TOGETHER)  # (B,)
        tables = [summaries(series.to_series(part), problem) for part in parts]
        return np.concatenate(tables)[torch.argsort(torch.cat(parts)).numpy()]
    rows = interleave(series)
    seen, values = rows.observed, rows.values.double()  # (B, R, D)
    count = seen.sum(dim=1)  # (B, D)
    some = count > 0
    nothing = torch.full_like(values[:, 0], torch.nan)  # (B, D)
    mean = values.sum(dim=1) / count.clamp(min=1)
    least = torch.where(seen, values, torch.inf).amin(dim=1)
    greatest = torch.where(seen, values, -torch.inf).amax(dim=1)
    place = torch.arange(seen.shape[1], device=seen.device).view(1, -1, 1)
    last = torch.gather(values, 1, torch.where(seen, place, 0).amax(dim=1, keepdim=True)).squeeze(1)
    inside = torch.where(rows.committed, rows.times, torch.nan)  # (B, R)
    start = torch.where(rows.committed, rows.times, torch.inf).amin(dim=1, keepdim=True)
    clock = torch.nan_to_num((inside - start) / problem.time_scale)  # (B, R)
    slope = _slopes(clock.unsqueeze(-1), values - mean.unsqueeze(1), seen, count)
    channels = [torch.where(some, part, nothing) for part in (mean, least, greatest, last)]
    whole = [rows.committed.sum(dim=1, keepdim=True), clock.amax(dim=1, keepdim=True)]  # (B, 1)
    static = [] if series.static is None else [series.static]
    parts = [count, *channels, slope, *whole, *static]
    return torch.cat([part.double() for part in parts], dim=1).detach().cpu().numpy()


def _slopes(clock: Tensor, centred: Tensor, seen: Tensor, count: Tensor) -> Tensor:
    """Least squares slope of each channel, (B, D); NaN where its observations are at less than two times."""
    times = torch.where(seen, clock, torch.zeros_like(centred))  # (B, R, D)
    middle = times.sum(dim=1) / count.clamp(min=1)
    offset = torch.where(seen, clock - middle.unsqueeze(1), torch.zeros_like(centred))  # (B, R, D)
    spread = offset.square().sum(dim=1)  # (B, D)
    return torch.where(spread > 0, (offset * centred).sum(dim=1) / spread, torch.nan)


class Reference(ABC):
    """A reference that is fitted in one call.

    Args:
        problem: what is asked; its kind must be among `kinds`.
        seed: of the random choices.

    Raises:
        ValueError: for a kind that the reference does not answer, or quantiles.
    """

    kinds: tuple[str, ...]

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        if problem.quantiles:
            raise ValueError(f"{type(self).__name__} predicts no quantiles; leave them out, or take another model")
        if problem.kind not in self.kinds:
            raise ValueError(f"{type(self).__name__} answers {' and '.join(self.kinds)}, not {problem.kind}")
        self.problem, self.seed = problem, seed

    @abstractmethod
    def fit(self, series: TimeSeries | PackedSeries, labels: Tensor | None = None) -> Reference:
        """Learn from the training part; `labels` (B,) classes or (B, T) targets, None where nothing is learned."""

    @abstractmethod
    def predict(self, series: TimeSeries | PackedSeries, query_times: Tensor | None = None) -> Prediction:
        """Predict for every series, or at every query time (B, Q)."""


class Summaries(Reference):
    """A scikit-learn estimator on the summaries of each series.

    Args:
        problem: classification or regression.
        seed: of the random choices.
        family: "linear" (logistic or ridge regression, its penalty chosen by cross-validation in the training part) or
            "boosting" (gradient boosted trees, which take missing summaries as they are).
    """

    kinds = ("classification", "regression")

    def __init__(self, problem: Problem, seed: int = 0, family: str = "boosting") -> None:
        super().__init__(problem, seed)
        if family not in _FAMILIES:
            raise ValueError(f"family {family!r} is unknown; it is one of {', '.join(_FAMILIES)}")
        self.family = family

    def table(self, series: TimeSeries | PackedSeries) -> np.ndarray:
        """What the estimator reads of each series, (B, F) float64, NaN where there is nothing to say."""
        return summaries(series, self.problem)

    def fit(self, series: TimeSeries | PackedSeries, labels: Tensor | None = None) -> Summaries:
        """Fit on the training part.

        Raises:
            ValueError: without one label a series, or where they hold a single class.
        """
        _check(self.problem, series)
        if labels is None or len(labels) != series.batch:
            raise ValueError(f"labels are needed, one for each of the {series.batch} series")
        answers = labels.detach().cpu().numpy()
        if self.problem.kind == "classification" and len(np.unique(answers)) < 2:
            raise ValueError("the training labels hold a single class; there is nothing to tell apart")
        table = self.table(series)
        self.known = ~np.isnan(table).all(axis=0)  # what no training series has says nothing
        estimator = _FAMILIES[self.family][self.problem.kind](answers, self.seed)
        self.estimator = estimator.fit(table[:, self.known], answers)
        return self

    def predict(self, series: TimeSeries | PackedSeries, query_times: Tensor | None = None) -> Prediction:
        """Log-probabilities of the classes, or means of the targets."""
        _check(self.problem, series)
        table = self.table(series)[:, self.known]
        if self.problem.kind == "regression":
            return Prediction(mean=torch.from_numpy(self.estimator.predict(table)).view(len(table), -1))  # (B, T)
        logits = np.full((len(table), self.problem.outputs), np.log(_LEAST))  # (B, K): a class never seen stays there
        logits[:, self.estimator.classes_] = np.log(np.clip(self.estimator.predict_proba(table), _LEAST, None))
        return Prediction(logits=torch.from_numpy(logits))


class LastValue(Reference):
    """The last value carried forward; before the first, the mean of the channel in the training part.

    The scale is the root mean square of the change from one observation of the channel to the next.
    """

    kinds = ("forecasting",)

    def fit(self, series: TimeSeries, labels: Tensor | None = None) -> LastValue:
        """Means and scales of the channels."""
        rows = interleave(series)
        seen, values = rows.observed, rows.values.double()  # (B, R, D)
        self.mean = values.sum(dim=(0, 1)) / seen.sum(dim=(0, 1)).clamp(min=1)  # (D,)
        before = nn.functional.pad(last_true(seen, dim=1), (0, 0, 1, 0), value=-1)[:, :-1]  # (B, R, D)
        pair = seen & (before >= 0)
        change = torch.where(pair, values - torch.gather(values, 1, before.clamp(min=0)), 0.0)
        pairs = pair.sum(dim=(0, 1))  # (D,)
        spread = (change.square().sum(dim=(0, 1)) / pairs.clamp(min=1)).sqrt()
        self.scale = torch.where((pairs > 0) & (spread > 0), spread, 1.0)  # (D,)
        return self

    def predict(self, series: TimeSeries, query_times: Tensor | None = None) -> Prediction:
        """The last value of each channel at every query."""
        check_request(self.problem, series, query_times, None)
        rows = interleave(series, query_times)
        last = last_true(rows.observed, dim=1)  # (B, R, D)
        filled = torch.gather(rows.values.double(), 1, last.clamp(min=0))
        mean = rows.at_queries(torch.where(last >= 0, filled, self.mean))  # (B, Q, D)
        present = rows.query_present.unsqueeze(-1)
        return Prediction(mean=torch.where(present, mean, 0.0), scale=torch.where(present, self.scale, 1.0))


def _check(problem: Problem, series: TimeSeries | PackedSeries) -> None:
    """Refuse series that do not fit the problem."""
    one = series.to_series(slice(0, 1)) if isinstance(series, PackedSeries) else series
    check_request(problem, one, None, None)


def _logistic(answers: np.ndarray, seed: int) -> BaseEstimator:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    plain = _on_complete_table(LogisticRegression(C=0.1, max_iter=5000))
    folds = min(5, int(np.unique(answers, return_counts=True)[1].min()))
    if folds < 2:
        return plain
    return GridSearchCV(plain, {"estimator__C": np.logspace(-4, 0, 9)}, scoring="neg_log_loss", cv=folds)


def _ridge(answers: np.ndarray, seed: int) -> BaseEstimator:
    from sklearn.linear_model import RidgeCV

    return _on_complete_table(RidgeCV(alphas=np.logspace(-2, 5, 15)))


def _boosted_classes(answers: np.ndarray, seed: int) -> BaseEstimator:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, **_BOOSTING)


def _boosted_targets(answers: np.ndarray, seed: int) -> BaseEstimator:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    return MultiOutputRegressor(HistGradientBoostingRegressor(random_state=seed, **_BOOSTING))


def _on_complete_table(estimator: BaseEstimator) -> BaseEstimator:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline(
        [
            ("fill", SimpleImputer(strategy="median", keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("estimator", estimator),
        ]
    )


_LEAST = 1e-12  # a probability, so that its logarithm is finite
_BOOSTING = {"max_iter": 200, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 10}
_FAMILIES = {
    "linear": {"classification": _logistic, "regression": _ridge},
    "boosting": {"classification": _boosted_classes, "regression": _boosted_targets},
}
