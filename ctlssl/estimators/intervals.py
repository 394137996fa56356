"""Intervals that are as wide as they must be: split-conformal, calibrated by the length of the gap they bridge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["GapConformal"]


@dataclass(frozen=True, eq=False)
class GapConformal:
    """How many of its standard deviations a forecast was off, on series that the model never saw, by gap.

    In each bin of gaps the half width of an interval of coverage c is the ceil((n + 1) c)-th smallest of n deviations
    |y - m| / s. A new deviation of that bin, exchangeable with them, is covered with probability c at least and
    c + 1 / (n + 1) at most. Targets of one record hang together: the probability is over records.

    Args:
        edges: (K - 1,) gaps at which one bin ends and the next begins.
        deviations: K arrays, sorted.

    References:
        Vovk, Gammerman, Shafer (2005), Algorithmic learning in a random world (Mondrian predictors); Lei et al.
        (2018), Distribution-free predictive inference for regression.

    Example:
        >>> calibrated = GapConformal.fit(np.arange(1.0, 100.0), np.ones(99), bins=1)
        >>> calibrated.factor(np.array([1.0]), coverage=0.9)
        array([90.])
    """

    edges: np.ndarray
    deviations: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, deviations: np.ndarray, gaps: np.ndarray, bins: int) -> GapConformal:
        """Calibrate.

        Args:
            deviations: (n,) of forecasts that were not trained on.
            gaps: (n,) since the last observation, in data time.
            bins: of equal counts, as far as equal gaps allow.

        Raises:
            ValueError: nothing to calibrate on.
        """
        if not len(deviations):
            raise ValueError("there is no forecast to calibrate intervals on; give more records, or a larger ahead.")
        edges = np.unique(np.quantile(gaps, np.linspace(0, 1, bins + 1)[1:-1])) if bins > 1 else np.empty(0)
        edges = edges[edges < gaps.max()]
        places = np.searchsorted(edges, gaps, side="left")
        parts = tuple(np.sort(deviations[places == k]) for k in range(len(edges) + 1))
        return cls(edges, parts)

    def bin_of(self, gaps: np.ndarray) -> np.ndarray:
        """The bin of each gap; NaN goes to the last."""
        return np.searchsorted(self.edges, np.nan_to_num(gaps, nan=np.inf), side="left")

    def factor(self, gaps: np.ndarray, coverage: float) -> np.ndarray:
        """Half widths in standard deviations, of the shape of `gaps`.

        Args:
            gaps: since the last observation, in data time.
            coverage: nominal, 0 to 1.

        Raises:
            ValueError: a coverage that is none, or that the number of calibrated forecasts cannot promise.
        """
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"coverage is {coverage!r}; give a share between 0 and 1.")
        widths = np.empty(len(self.deviations))
        for k, part in enumerate(self.deviations):
            rank = math.ceil((len(part) + 1) * coverage - 1e-9)
            if rank > len(part):
                needed = math.ceil(coverage / (1 - coverage) - 1e-6)
                raise ValueError(
                    f"coverage {coverage} needs {needed} calibrated forecasts in every bin of "
                    f"gaps, found {len(part)}; give more records, fewer bins or a smaller coverage."
                )
            widths[k] = part[rank - 1]
        return widths[self.bin_of(gaps)]
