"""Values at chosen future times, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from torch import Tensor

from ctlssl.contract import Prediction, Problem
from ctlssl.estimators.base import SeriesEstimator
from ctlssl.estimators.cutting import cut_records, last_rows, time_since_last
from ctlssl.estimators.intervals import GapConformal
from ctlssl.estimators.quantile_intervals import QuantileConformal
from ctlssl.examples import Examples
from ctlssl.schema import select_series, to_packed
from ctlssl.series import TimeSeries
from ctlssl.tasks import in_scores
from ctlssl.training import predict

__all__ = ["LSSLForecaster"]

_CALIBRATION_CUTS = 32


class LSSLForecaster(SeriesEstimator):
    """Values of all channels at chosen times after the last observation of each record, with intervals.

    It learns from the records themselves: each is cut at a few of its rows, and what comes within `ahead` of the cut
    is asked from what came before. Intervals are calibrated on records of their own, by the length of the gap.

    Args:
        model: see `SeriesEstimator`.
        width: see `SeriesEstimator`.
        ahead: how far ahead values are asked in training, in data time; None is half the median span of a record.
        cuts: of each record, at most.
        known: channels that are known in advance, such as planned doses: they are never asked nor forecast, and what of
            them lies after the last other observation is read.
        calibration: share of the records on which intervals are calibrated; 0 for forecasts without intervals.
        bins: of gaps, that are calibrated apart.
        distribution: "gaussian", a mean and a standard deviation; or "quantiles", which follow a law of any shape.
        quantiles: rising levels that are predicted where the distribution is "quantiles".
        epochs: see `SeriesEstimator`.
        batch_size: see `SeriesEstimator`.
        learning_rate: see `SeriesEstimator`.
        patience: see `SeriesEstimator`.
        validation: see `SeriesEstimator`.
        window: see `SeriesEstimator`.
        random_state: see `SeriesEstimator`.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985.
        Romano, Patterson, Candes (2019), Conformalized Quantile Regression, arXiv:1905.03222, for quantiles.

    Example:
        >>> import ctlssl
        >>> ds = ctlssl.synthetic.ornstein_uhlenbeck.generate(series=60, seed=0)
        >>> forecaster = LSSLForecaster(epochs=1, bins=2).fit(ds)
        >>> forecaster.predict(ds, at=[0.5, 2.0]).shape
        (60, 2, 1)
    """

    kind = "forecasting"

    def __init__(
        self,
        model: str = "lssl",
        width: int = 32,
        *,
        ahead: float | None = None,
        cuts: int = 4,
        known: Sequence[str] = (),
        calibration: float = 0.2,
        bins: int = 4,
        distribution: str = "gaussian",
        quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
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
        self.ahead = ahead
        self.cuts = cuts
        self.known = known
        self.calibration = calibration
        self.bins = bins
        self.distribution = distribution
        self.quantiles = quantiles

    def fit(self, X: Any, y: None = None) -> LSSLForecaster:
        """Learn.

        Args:
            X: records, see `SeriesEstimator`; those with fewer than two rows say nothing of a future.
            y: not read: the answers are in the records.

        Raises:
            ValueError: no record with a future, a channel known in advance that the records do not have, or numbers
                that cannot be.
        """
        ds = self._read(X, reset=True)
        self.known_ = (self.known,) if isinstance(self.known, str) else tuple(self.known)
        if unknown := sorted(set(self.known_) - set(self.channels_)) or set(self.channels_) <= set(self.known_):
            found = ", ".join(unknown) if isinstance(unknown, list) else "every channel"
            raise ValueError(f"known names {found}; the records have {', '.join(self.channels_)}, one must be unknown.")
        if not 0.0 <= self.calibration < 1.0 or self.cuts < 1 or self.bins < 1:
            raise ValueError("calibration is a share from 0 to below 1, cuts and bins are whole numbers from 1 on.")
        if self.distribution not in ("gaussian", "quantiles"):
            raise ValueError(f'distribution is {self.distribution!r}; it is "gaussian" or "quantiles".')
        draw = check_random_state(self.random_state)
        order = draw.permutation(ds.sizes["series"])
        count = round(self.calibration * len(order))
        self.ahead_ = _half_span(ds) if self.ahead is None else float(self.ahead)
        # many cuts of a record where intervals are calibrated: they cost no training
        examples, apart = (
            cut_records(select_series(ds, np.sort(part)), self.channels_, self.known_, self.ahead_, cuts, draw)
            for part, cuts in ((order[count:], self.cuts), (order[:count], _CALIBRATION_CUTS))
        )
        if not len(examples):
            raise ValueError(f"no record has a value within ahead = {self.ahead_:g} of an earlier one; give others.")
        self._train(examples)
        self.intervals_ = self._calibrated(apart) if count else None
        return self

    def predict(self, X: Any, at: Sequence[float]) -> xr.DataArray:
        """Forecasts in the units of the data.

        Args:
            X: n records; all their rows are read.
            at: Q times after the last row of each record, in its unit.

        Returns:
            (series, ahead, variable): the means, or medians (or mean quantiles if that is none) of "quantiles"; of the
            channels that are not known in advance.
        """
        return self._forecasts(X, at, None)["mean"]

    def predict_interval(self, X: Any, at: Sequence[float], coverage: float = 0.9) -> xr.Dataset:
        """Forecasts and the intervals in which a share `coverage` of the values lie.

        Args:
            X: as of `predict`.
            at: as of `predict`.
            coverage: of the intervals, 0 to 1.

        Returns:
            `mean`, `low` and `high` over (series, ahead, variable), and `time` over (series, ahead).

        Raises:
            ValueError: intervals that were not calibrated, on too few forecasts for this coverage, or for times further
                ahead than those of the training.
        """
        return self._forecasts(X, at, coverage)

    def score(self, X: Any, y: None = None) -> float:
        """The share of the variance that forecasts explain, in normal scores, of records cut as in training.

        Args:
            X: records.
            y: not read.
        """
        examples, found = self._questions(self._read_fitted(X))
        wanted = examples.target_observed
        return float(r2_score(examples.targets[wanted].numpy(), found.mean[wanted].numpy()))

    def coverage(self, X: Any, coverage: float = 0.9) -> pd.DataFrame:
        """How good intervals and whole forecast distributions are, on records cut as in training, by gap.

        Args:
            X: records that were not trained on.
            coverage: nominal.

        Returns:
            a row for each bin of gaps: `longest_gap`, `targets`, `coverage` (the share inside), `width` and `crps`
            (of the Gaussian that the model gives, or twice the mean pinball loss of its quantiles), both in normal
            scores.
        """
        self._need_intervals()
        examples, found = self._questions(self._read_fitted(X))
        wanted = examples.target_observed
        gaps = time_since_last(examples, self._planned()).unsqueeze(-1).expand(wanted.shape)[wanted].numpy()
        found, target = _chosen(found, wanted), examples.targets[wanted].double().numpy()
        low, high = self._ends(found, gaps, coverage)
        table = {
            "bin": self.intervals_.bin_of(gaps),
            "gap": gaps,
            "inside": (low <= target) & (target <= high),
            "width": high - low,
            "crps": _crps(found, target, self.problem_.quantiles),
        }
        by_bin = pd.DataFrame(table).groupby("bin")
        return pd.DataFrame(
            {
                "longest_gap": by_bin["gap"].max(),
                "targets": by_bin.size(),
                "coverage": by_bin["inside"].mean(),
                "width": by_bin["width"].mean(),
                "crps": by_bin["crps"].mean(),
            }
        )

    def _questions(self, ds: xr.Dataset) -> tuple[Examples, Prediction]:
        draw = check_random_state(self.random_state)
        raw = cut_records(ds, self.channels_, self.known_, self.ahead_, self.cuts, draw)
        if not len(raw):
            raise ValueError(f"no record has a value within {self.ahead_:g} of an earlier one.")
        examples = in_scores(raw, self.normalizer_)
        return examples, predict(self.model_, examples)

    def _calibrated(self, raw: Examples) -> GapConformal | QuantileConformal:
        examples = in_scores(raw, self.normalizer_)
        if not len(examples):
            raise ValueError("no record of the calibration has a future; give more records, or calibration=0.")
        found, wanted = predict(self.model_, examples), examples.target_observed
        target, given = examples.targets[wanted].double().numpy(), _chosen(found, wanted)
        gaps = time_since_last(examples, self._planned()).unsqueeze(-1).expand(wanted.shape)[wanted].numpy()
        if self.problem_.quantiles:
            levels = np.array(self.problem_.quantiles)
            return QuantileConformal(levels, given.quantiles.numpy(), target, gaps, self.bins)
        deviations = np.abs(target - given.mean.numpy()) / given.scale.numpy()
        return GapConformal.fit(deviations, gaps, self.bins)

    def _ends(self, found: Prediction, gaps: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends of intervals in normal scores, of the shape of `gaps` and of the means (...)."""
        if self.problem_.quantiles:
            return self.intervals_.ends(found.quantiles.double().numpy(), gaps, coverage)
        mean = found.mean.double().numpy()
        half = self.intervals_.factor(gaps, coverage) * found.scale.double().numpy()
        return mean - half, mean + half

    def _forecasts(self, X: Any, at: Sequence[float], coverage: float | None) -> xr.Dataset:
        ds = self._read_fitted(X)
        ahead = np.asarray(at, dtype=np.float64)  # (Q,)
        if ahead.ndim != 1 or not len(ahead) or not np.isfinite(ahead).all() or (ahead < 0).any():
            raise ValueError(f"at is {at!r}; give times after the last row that are finite and not negative.")
        packed = to_packed(ds, self.channels_, dtype=torch.float64, missing="unobserved")
        last = np.nan_to_num(last_rows(packed, self._planned()))  # (B,); a record without rows starts at 0
        times = last[:, None] + ahead  # (B, Q)
        found = self._answer(ds, torch.from_numpy(times))
        scores, asked = {"mean": found.mean.double()}, [not known for known in self._planned()]
        if coverage is not None:
            self._need_intervals()
            if ahead.max() > self.ahead_:
                raise ValueError(
                    f"at has {ahead.max():g}; intervals are calibrated up to ahead = {self.ahead_:g}: fit with ahead="
                )
            gaps = np.broadcast_to(ahead[:, None], found.mean.shape)  # (B, Q, D)
            low, high = self._ends(found, gaps, coverage)
            scores |= {"low": torch.from_numpy(low), "high": torch.from_numpy(high)}
        dims = ("series", "ahead", "variable")
        data = {name: (dims, self.normalizer_.inverse(part).numpy()[..., asked]) for name, part in scores.items()}
        names = [name for name, there in zip(self.channels_, asked, strict=True) if there]
        coords = {"series": ds["series"].values, "ahead": ahead, "variable": names}
        return xr.Dataset({**data, "time": (("series", "ahead"), times)}, coords)

    def _problem(self, train: TimeSeries) -> Problem:
        levels = tuple(self.quantiles) if self.distribution == "quantiles" else ()
        return replace(super()._problem(train), quantiles=levels)

    def _need_intervals(self) -> None:
        if self.intervals_ is None:
            raise ValueError("there are no intervals: calibration was 0 in the fit; give it a share of the records.")

    def _planned(self) -> list[bool]:
        return [name in self.known_ for name in self.channels_]

    def _outputs(self) -> int:
        return len(self.channels_)


def _chosen(found: Prediction, wanted: Tensor) -> Prediction:
    """The forecasts (n,) of the cells that are flagged, in float64."""
    parts = {name: getattr(found, name) for name in ("mean", "scale", "quantiles")}
    return Prediction(**{name: None if part is None else part[wanted].double() for name, part in parts.items()})


def _crps(found: Prediction, target: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """The continuous ranked probability score of n forecasts, (n,)."""
    import scoringrules

    if found.quantiles is None:
        return scoringrules.crps_normal(target, found.mean.numpy(), found.scale.numpy())
    return scoringrules.crps_quantile(target, found.quantiles.numpy(), np.array(levels))


def _half_span(ds: xr.Dataset) -> float:
    """Half the median span of the records that have one."""
    ends = np.cumsum(ds["row_size"].values)
    starts = ends - ds["row_size"].values
    some = ends > starts
    time = ds["time"].values
    spans = time[ends[some] - 1] - time[starts[some]]
    spans = spans[spans > 0]
    return 0.5 * float(np.median(spans)) if len(spans) else 1.0
