"""The reference for series with a period: boosting on summaries and on what a Lomb-Scargle periodogram finds."""

from __future__ import annotations

import numpy as np
from scipy.signal import lombscargle
from scipy.stats import kurtosis, skew

from ctlssl.baselines.summaries import Summaries, summaries
from ctlssl.contract import Problem
from ctlssl.periods import Rhythm, rhythms
from ctlssl.series import TimeSeries

__all__ = ["PeriodSummaries"]

_PERIODS, _HARMONICS = 2, 4
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_FEWEST = 8  # observations, below which a period is not looked for


class PeriodSummaries(Summaries):
    """A scikit-learn estimator on summaries, quantiles, moments and the two strongest periods of each series.

    Of a period: its length, its Lomb-Scargle power with a floating mean, the amplitude of the oscillation and that at
    twice the period, the amplitudes and phases of four harmonics relative to the first, and the variance they leave.
    It is no member of `REFERENCES`: looking for periods takes long, and most data have none.

    Args:
        problem: classification or regression.
        seed: of the random choices.
        family: as in `Summaries`.
        channel: whose period is looked for.
        shortest: the shortest period looked for, in units of the clock.

    References:
        Scargle (1982), Studies in astronomical time series analysis II. Richards et al. (2011), On machine-learned
        classification of variable stars with sparse and noisy time-series data, arXiv:1101.1959.
    """

    def __init__(
        self, problem: Problem, seed: int = 0, family: str = "boosting", channel: int = 0, shortest: float = 0.04
    ) -> None:
        super().__init__(problem, seed, family)
        self.channel, self.shortest = channel, shortest

    def table(self, series: TimeSeries) -> np.ndarray:
        """Summaries and periods of each series, (B, F) float64, NaN where there is nothing to say."""
        rows = [self._row(series, b) for b in range(series.batch)]
        width = len(_PERCENTILES) + 4 + _PERIODS * _WIDTH
        return np.concatenate([summaries(series, self.problem), np.reshape(rows, (len(rows), width))], axis=1)

    def _row(self, series: TimeSeries, b: int) -> np.ndarray:
        seen = series.observed[b, : int(series.lengths[b]), self.channel].cpu()  # (n,)
        values = series.values[b, : len(seen), self.channel].detach().cpu()[seen].double().numpy()
        times = series.times[b, : len(seen)].detach().cpu()[seen].numpy() / self.problem.time_scale
        found = np.full((_PERIODS, _WIDTH), np.nan)
        if len(values) < _FEWEST:
            return np.concatenate([np.full(len(_PERCENTILES) + 4, np.nan), found.reshape(-1)])
        change, near = np.diff(values), np.diff(times) <= 1.0  # from one observation to the next
        moments = [
            skew(values),
            kurtosis(values),
            np.mean(change**2),
            np.mean(change[near] ** 2) if near.any() else np.nan,
        ]
        for row, rhythm in zip(found, rhythms(times, values, _PERIODS, _HARMONICS, self.shortest), strict=False):
            row[:] = _description(rhythm, times, values)
        return np.concatenate([np.percentile(values, _PERCENTILES), moments, found.reshape(-1)])


_WIDTH = 5 + 3 * (_HARMONICS - 1)


def _description(rhythm: Rhythm, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    size = np.abs(rhythm.shape)  # (K,)
    first = max(float(size[0]), 1e-12)
    turn = np.exp(-1j * np.angle(rhythm.shape[0]) * np.arange(1, len(size) + 1))
    turned = (rhythm.shape * turn)[1:] / first  # (K - 1,)
    at = np.array([2 * np.pi * rhythm.frequency])
    power = float(np.squeeze(lombscargle(times, values, at, floating_mean=True, normalize=True)))
    whole = [np.log10(1.0 / rhythm.frequency), power, np.log10(first), rhythm.half, rhythm.left]
    return np.array([*whole, *size[1:] / first, *turned.real, *turned.imag])
