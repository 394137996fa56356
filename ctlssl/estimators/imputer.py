"""What was not observed, filled in at the times of the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.base import TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ctlssl.estimators.base import SeriesEstimator
from ctlssl.examples import Examples
from ctlssl.series import TimeSeries
from ctlssl.tasks import in_scores
from ctlssl.training import predict

__all__ = ["LSSLImputer"]


class LSSLImputer(TransformerMixin, SeriesEstimator):
    """Fills the cells of each record in which nothing was observed, from the observations on both sides of it.

    It learns by hiding some of the observed cells and answering for them. Observed values stay as they are.

    Args:
        model: see `SeriesEstimator`; by default one that reads each record from both ends.
        width: see `SeriesEstimator`.
        hidden: share of the observed cells that is hidden in training.
        views: of each record, with other cells hidden in each.
        epochs: see `SeriesEstimator`.
        batch_size: see `SeriesEstimator`.
        learning_rate: see `SeriesEstimator`.
        patience: see `SeriesEstimator`.
        validation: see `SeriesEstimator`.
        window: see `SeriesEstimator`.
        random_state: see `SeriesEstimator`.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985; hidden cells as in Shukla, Marlin (2021), arXiv:2101.10318.

    Example:
        >>> import ctlssl
        >>> ds = ctlssl.synthetic.spirals.generate(series=30, seed=0)
        >>> ds["x"][::3] = np.nan
        >>> int(LSSLImputer(epochs=1).fit_transform(ds)["x"].isnull().sum())
        0
    """

    kind = "forecasting"

    def __init__(
        self,
        model: str = "lssl:bidirectional=true",
        width: int = 32,
        *,
        hidden: float = 0.3,
        views: int = 2,
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
        self.hidden = hidden
        self.views = views

    def fit(self, X: Any, y: None = None) -> LSSLImputer:
        """Learn.

        Args:
            X: records, see `SeriesEstimator`.
            y: not read.

        Raises:
            ValueError: no observed cell, or numbers that cannot be.
        """
        if not 0.0 < self.hidden < 1.0 or self.views < 1:
            raise ValueError(f"hidden is a share between 0 and 1, views a whole number; found {self.hidden!r}.")
        ds = self._read(X, reset=True)
        series = self._series(ds)
        if not bool(series.observed.any()):
            raise ValueError("nothing was observed in these records: there is nothing to learn to fill in.")
        ids, again = np.asarray(ds["series"].values), np.tile(np.arange(series.batch), self.views)
        self._train(_hide(series.select(torch.from_numpy(again)), ids[again], self.hidden, self._draw()))
        return self

    def transform(self, X: Any) -> xr.Dataset:
        """The records with every unobserved cell of their rows filled in; channels that they lack are added.

        Args:
            X: records of the channels of the training.

        Returns:
            a Dataset of the schema. Rows after the window are not read, and their cells filled in all the same. Cells
            of a channel that training never saw stay NaN.
        """
        check_is_fitted(self)
        ds = self._read_whole(X, reset=False)
        rows = self._series(ds)
        found = self._answer(self._cut(ds), torch.where(rows.in_length, rows.times, torch.nan))  # (B, L, D)
        filled = self.normalizer_.inverse(found.mean.double())[rows.in_length].numpy()  # (obs, D)
        columns = {}
        for d, name in enumerate(self.channels_):
            old = ds[name].values if name in ds else np.full(len(filled), np.nan)
            attrs = ds[name].attrs if name in ds else {}
            columns[name] = ("obs", np.where(np.isnan(old), filled[:, d], old), attrs)
        return ds.assign(columns)

    def score(self, X: Any, y: None = None) -> float:
        """The share of the variance explained, in normal scores, of cells hidden as in training.

        Args:
            X: records.
            y: not read.
        """
        ds = self._read_fitted(X)
        raw = _hide(self._series(ds), np.asarray(ds["series"].values), self.hidden, self._draw())
        examples = in_scores(raw, self.normalizer_)
        wanted = examples.target_observed
        return float(r2_score(examples.targets[wanted].numpy(), predict(self.model_, examples).mean[wanted].numpy()))

    def _draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))

    def _outputs(self) -> int:
        return len(self.channels_)


def _hide(series: TimeSeries, ids: np.ndarray, share: float, draw: torch.Generator) -> Examples:
    """Examples in which some observed cells are asked and not shown; every one that has a cell hides one at least."""
    cells = series.observed & series.in_length.unsqueeze(-1)  # (B, L, D)
    chance = torch.rand(cells.shape, generator=draw).masked_fill(~cells, 2.0)
    fewest = chance.flatten(1).amin(dim=1) if chance.shape[1:].numel() else chance.new_full((len(ids),), 2.0)  # (B,)
    hidden = cells & (chance <= torch.clamp(fewest, min=share).view(-1, 1, 1))
    return Examples(
        replace(series, observed=series.observed & ~hidden),
        ids,
        query_times=torch.where(series.in_length, series.times, torch.nan),
        targets=series.values,
        target_observed=hidden,
    )
