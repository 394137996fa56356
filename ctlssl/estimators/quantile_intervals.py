"""Intervals between predicted quantiles, moved until they cover what they should: conformalised quantile regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctlssl.estimators.intervals import GapConformal

__all__ = ["QuantileConformal"]


@dataclass(frozen=True, eq=False)
class QuantileConformal:
    """By how much an interval between two quantiles must be widened (or may be narrowed), on series never trained on.

    An interval of coverage c lies between the quantiles of the levels (1 - c) / 2 and (1 + c) / 2, by lines between
    those that the model predicts. A target is off it by max(low - y, y - high), negative inside; in each bin of gaps
    the ceil((n + 1) c)-th smallest of n such numbers is added at both ends. So the interval covers a new target of
    that bin, exchangeable with these, with probability c at least, however wrong the quantiles are.

    Args:
        levels: (Q,) of the quantiles, rising.
        quantiles: (n, Q) forecasts that were not trained on.
        targets: (n,) what came.
        gaps: (n,) since the last observation, in data time.
        bins: of gaps, of equal counts as far as equal gaps allow.

    References:
        Romano, Patterson, Candes (2019), Conformalized Quantile Regression, arXiv:1905.03222.

    Example:
        >>> seen = np.linspace(-2.0, 2.0, 99)
        >>> calibrated = QuantileConformal(np.array([0.05, 0.95]), np.zeros((99, 2)), seen, np.ones(99), bins=1)
        >>> low, high = calibrated.ends(np.zeros((1, 2)), np.ones(1), coverage=0.9)
        >>> round(float(high[0] - low[0]), 3)  # 90 of 99 lie within
        3.673
    """

    levels: np.ndarray
    quantiles: np.ndarray
    targets: np.ndarray
    gaps: np.ndarray
    bins: int

    def __post_init__(self) -> None:
        self._calibrated(np.zeros(len(self.targets)))  # refuses what nothing can be calibrated on

    def ends(self, quantiles: np.ndarray, gaps: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """Where intervals begin and end.

        Args:
            quantiles: (..., Q) of new forecasts.
            gaps: (...) since the last observation, in data time.
            coverage: nominal, 0 to 1.

        Returns:
            (...) each; where an interval is narrowed to nothing, its middle.

        Raises:
            ValueError: a coverage that is none, or that the number of calibrated forecasts cannot promise.
        """
        low, high = self._between(self.quantiles, coverage)
        off = np.maximum(low - self.targets, self.targets - high)  # (n,)
        margin = self._calibrated(off).factor(gaps, coverage)  # (...)
        low, high = self._between(quantiles, coverage)
        middle = 0.5 * (low + high)
        return np.minimum(low - margin, middle), np.maximum(high + margin, middle)

    def bin_of(self, gaps: np.ndarray) -> np.ndarray:
        """The bin of each gap; NaN goes to the last."""
        return self._calibrated(self.targets).bin_of(gaps)

    def _calibrated(self, off: np.ndarray) -> GapConformal:
        return GapConformal.fit(off, self.gaps, self.bins)

    def _between(self, quantiles: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """The quantiles of the two levels of a coverage; beyond the outermost level, those of it."""
        ends = [(1 - coverage) / 2, (1 + coverage) / 2]
        weights = np.stack([np.interp(ends, self.levels, one) for one in np.eye(len(self.levels))])  # (Q, 2)
        found = quantiles @ weights  # (..., 2)
        return found[..., 0], found[..., 1]
