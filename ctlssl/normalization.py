"""Normal scores: each channel on the scale of a standard normal variable, learned from the training part alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

__all__ = ["Normalizer"]

Series = TypeVar("Series", TimeSeries, PackedSeries)

_KNOTS = 201


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Per channel a monotone map from values to normal scores; static covariates are standardised.

    A value with the share p of the training values below it, ties counted half, gets the score Phi^-1(p). Up to 201
    knots, evenly spaced in score, are kept and joined by lines. Beyond the training range the map goes on with its
    mean slope, and scores are cut at +-`limit`. A channel with a single value in training is shifted to score 0 and
    not scaled. A channel that training never saw has no scale: it is set to not observed.

    The state is tensors only; K is the number of knots of the channel that has most.

    Args:
        knots: (D, K) float64 values, increasing; filled up with NaN where a channel has fewer.
        scores: (D, K) float64, their scores, filled up likewise.
        counts: (D,) int64, number of knots: 0 for a channel never seen, 1 for a constant one.
        static_mean: (S,) float64.
        static_scale: (S,) float64, standard deviation, 1 where a covariate does not vary.
        limit: () float64, the largest score.

    Example:
        >>> values = torch.tensor([[[1.0], [2.0], [2.0], [100.0]]])
        >>> times = torch.arange(4.0).expand(1, 4)
        >>> train = TimeSeries(values, times, torch.ones(1, 4, 1, dtype=torch.bool), torch.tensor([4]))
        >>> normalizer = Normalizer.fit(train)
        >>> scores = normalizer.apply(train).values
        >>> scores[0, :, 0]
        tensor([-1.1503,  0.0000,  0.0000,  1.1503])
        >>> normalizer.inverse(scores)[0, :, 0]
        tensor([  1.,   2.,   2., 100.])
    """

    knots: Tensor
    scores: Tensor
    counts: Tensor
    static_mean: Tensor
    static_scale: Tensor
    limit: Tensor

    @classmethod
    def fit(cls, series: TimeSeries | PackedSeries, limit: float = 5.0) -> Normalizer:
        """Learn the map from series in raw units.

        Args:
            series: the training part, and nothing else.
            limit: the largest score.

        Raises:
            ValueError: no series to learn from.
        """
        if not series.batch:
            raise ValueError("no training series to learn the scale from; give at least one.")
        seen, values = _seen(series).cpu(), series.values.detach().cpu()  # (B, L, D), or (T, D) of packed series
        columns = (values[..., d][seen[..., d]].double().numpy() for d in range(series.channels))
        return cls.of_channels(columns, None if series.static is None else series.static.detach().cpu(), limit)

    @classmethod
    def of_channels(cls, columns: Iterable[np.ndarray], static: Tensor | None, limit: float = 5.0) -> Normalizer:
        """Learn the map from the values of one channel after the other, for data of which no more fits in memory.

        Args:
            columns: of each channel, the values that were observed in the training part.
            static: (B, S) covariates of the training part, or None.
            limit: the largest score.
        """
        pairs = [_normal_scores(column) for column in columns]
        counts = np.array([pair.shape[1] for pair in pairs], dtype=np.int64)  # (D,)
        table = np.full((2, len(pairs), counts.max(initial=1)), np.nan)  # (2, D, K)
        for d, pair in enumerate(pairs):
            table[:, d, : counts[d]] = pair
        mean, scale = _spread(static)
        return cls(
            knots=torch.from_numpy(table[0]),
            scores=torch.from_numpy(table[1]),
            counts=torch.from_numpy(counts),
            static_mean=mean,
            static_scale=scale,
            limit=torch.tensor(limit, dtype=torch.float64),
        )

    @classmethod
    def linear(cls, series: TimeSeries, zero: Sequence[float], one: Sequence[float]) -> Normalizer:
        """Scores (x - zero) / (one - zero) without a limit: for protocols that score in units of their own.

        Args:
            series: the training part, whose static covariates are standardised.
            zero: of each channel, the value whose score is 0.
            one: of each channel, the value whose score is 1.

        Raises:
            ValueError: other than a zero and a larger one for each channel.

        Example:
            >>> times, seen = torch.zeros(1, 1), torch.ones(1, 1, 2, dtype=torch.bool)
            >>> series = TimeSeries(torch.tensor([[[3.0, 30.0]]]), times, seen, torch.tensor([1]))
            >>> Normalizer.linear(series, zero=[0.0, 20.0], one=[1.0, 40.0]).apply(series).values
            tensor([[[3.0000, 0.5000]]])
        """
        knots = torch.tensor([list(zero), list(one)], dtype=torch.float64).T  # (D, 2)
        if len(knots) != series.channels or not bool((knots[:, 0] < knots[:, 1]).all()):
            raise ValueError(f"give each of the {series.channels} channels a zero and a larger one.")
        mean, scale = _spread(series.static)
        return cls(
            knots=knots.contiguous(),
            scores=torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(series.channels, 1),
            counts=torch.full((series.channels,), 2),
            static_mean=mean,
            static_scale=scale,
            limit=torch.tensor(torch.inf, dtype=torch.float64),
        )

    @classmethod
    def unchanged(cls, series: TimeSeries) -> Normalizer:
        """Values stay as they are: for protocols that score in the units of the data.

        Args:
            series: the training part, whose static covariates are standardised.
        """
        return cls.linear(series, [0.0] * series.channels, [1.0] * series.channels)

    @property
    def seen(self) -> Tensor:
        """Which channels training saw at all, (D,) bool."""
        return self.counts > 0

    @property
    def varying(self) -> Tensor:
        """Which channels took several values in training, (D,) bool."""
        return self.counts > 1

    def apply(self, series: Series, dtype: torch.dtype | None = None) -> Series:
        """The series, padded or packed as they are, in normal scores; NaN where nothing was observed.

        Args:
            series: in raw units, with the channels and covariates of the training part.
            dtype: of the result; None is the dtype of the series.

        Raises:
            ValueError: other than D channels or S static covariates.
        """
        dtype = series.values.dtype if dtype is None else dtype
        _check_channels(series.values, self.counts)
        observed = _seen(series) & self.seen.to(series.values.device)  # (B, L, D), or (T, D) of packed series
        static = series.static
        found = 0 if static is None else static.shape[1]
        if found != len(self.static_mean):
            raise ValueError(f"the series have {found} static covariates, training had {len(self.static_mean)}.")
        static = None if static is None else self.apply_static(static, dtype)  # (B, S)
        values = self.apply_values(series.values, observed, dtype)
        return type(series)(values, series.times, observed, series.lengths, static)

    def apply_static(self, static: Tensor, dtype: torch.dtype) -> Tensor:
        """Static covariates (B, S) by the mean and standard deviation of the training part."""
        mean, scale = self.static_mean.to(static.device), self.static_scale.to(static.device)
        return ((static.double() - mean) / scale).to(dtype)

    def apply_values(self, values: Tensor, observed: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Values (..., D) in normal scores; NaN where `observed` (..., D) is False.

        Raises:
            ValueError: other than D channels.
        """
        dtype = values.dtype if dtype is None else dtype
        return _channelwise(values, observed, self.knots, self.scores, self.counts, float(self.limit), dtype)

    def inverse(self, scores: Tensor) -> Tensor:
        """Values in raw units of normal scores (..., D); NaN for a channel that training never saw.

        Raises:
            ValueError: other than D channels.
        """
        every = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        return _channelwise(scores, every, self.scores, self.knots, self.counts, math.inf, scores.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Normalizer:
        """The normalizer of a state that `tensors` gave.

        Raises:
            ValueError: names that are missing or unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(tensors) != expected:
            raise ValueError(f"a normalizer has the tensors {sorted(expected)}, found {sorted(tensors)}.")
        return cls(**tensors)


def _spread(static: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the covariates (B, S), 1 where one does not vary; float64."""
    static = torch.empty(1, 0) if static is None else static.detach().cpu()
    mean = static.double().mean(dim=0)  # (S,)
    scale = (static.double() - mean).square().mean(dim=0).sqrt()  # (S,)
    return mean, torch.where(scale > 0, scale, 1.0)


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Knots and their scores, (2, K), of the training values of one channel."""
    knots, ties = np.unique(values, return_counts=True)
    if not len(knots):
        return np.empty((2, 0))
    scores = ndtri((np.cumsum(ties) - 0.5 * ties) / len(values))  # mid-ranks: ties share the middle of their ranks
    if len(knots) <= _KNOTS:
        return np.stack([knots, scores])
    grid = np.linspace(scores[0], scores[-1], _KNOTS)
    quantiles = np.interp(ndtr(grid), ndtr(scores), knots)
    quantiles[[0, -1]] = knots[[0, -1]]
    distinct = np.diff(quantiles, prepend=-np.inf) > 0  # neighbours can meet in rounding
    return np.stack([quantiles, grid])[:, distinct]


def _seen(series: TimeSeries | PackedSeries) -> Tensor:
    """Which values are there, (B, L, D), or (T, D) of packed series."""
    return series.observed if isinstance(series, PackedSeries) else series.observed & series.in_length.unsqueeze(-1)


def _channelwise(
    values: Tensor,
    wanted: Tensor,
    source: Tensor,
    target: Tensor,
    counts: Tensor,
    limit: float,
    dtype: torch.dtype,
) -> Tensor:
    """Map the wanted values of (..., D) by the knots of their channel, in float64, and cut at +-limit; the rest is NaN.

    A channel at a time: there is no copy of all values in float64.
    """
    _check_channels(values, counts)
    after = torch.full(values.shape, torch.nan, dtype=dtype, device=values.device)  # (..., D)
    for d, count in enumerate(counts.tolist()):
        if count:
            before = values[..., d][wanted[..., d]].detach().cpu().double().numpy()  # (n,)
            mapped = _piecewise(before, source[d, :count].numpy(), target[d, :count].numpy())
            after[..., d][wanted[..., d]] = torch.from_numpy(mapped).clamp(-limit, limit).to(after)
    return after


def _check_channels(values: Tensor, counts: Tensor) -> None:
    if values.ndim < 1 or values.shape[-1] != len(counts):
        raise ValueError(f"the last axis must be the {len(counts)} channels of training, found {tuple(values.shape)}.")


def _piecewise(values: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Lines between the knots, and beyond them a line of the mean slope; slope 1 where there is one knot."""
    beyond = values - np.clip(values, source[0], source[-1])
    spread, rise = (source[-1] - source[0], target[-1] - target[0]) if len(source) > 1 else (1.0, 1.0)
    # knots a denormal number apart have slopes beyond float64: the clips here and of the scores catch them
    with np.errstate(over="ignore", invalid="ignore"):
        inside = np.clip(np.interp(values, source, target), target[0], target[-1])
        return inside + beyond / spread * rise
