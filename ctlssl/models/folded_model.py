"""A linear state-space model that reads each series on the clock of its own period."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Model, Prediction, Problem, check_request, rate_per_series
from ctlssl.model_state import ModelState
from ctlssl.models.lssl_model import LSSLModel
from ctlssl.periods import Rhythm, rhythms
from ctlssl.series import TimeSeries

__all__ = ["FoldedModel"]

_CYCLES = 2  # a double period, such as that of two unlike eclipses, shows as an unlike second cycle
_KEPT = 2048  # series whose folding is remembered from one epoch to the next
_SHARES = 4.0  # brings shares of an amplitude to the size of one
_PERCENTILES = (5, 25, 50, 75, 95)


class FoldedModel(Model):
    """Finds the strongest period of each series, folds the series onto it, and reads the folded curve by an LSSL.

    Periods from minutes to years in one data set are beyond the memory and the resolution of any recurrence that is
    learned from a few hundred series. Here an undamped linear state space (see `ctlssl.periods.power`) finds the
    frequency f of each series; its times t become the phases f (t - t_1) modulo two cycles, counted from the crest of
    the first harmonic; rows that fall into one of `bins` a cycle become one row, with their mean and their spread; and
    an `LSSLModel` that reads from both ends sees these rows, on a clock whose unit is a bin. The head is also told the
    periods found, the harmonics of each oscillation, and how the values of the channel are distributed.

    A time-scale of its own for every series is what `rate` is for: what a model of all periods would have to learn many
    times over is learned once, on a clock of cycles. Only the periods themselves, among the features, have units.

    Args:
        problem: classification or regression; one with query times is refused, since phases are in no order of time.
        width: W, channels of the layers.
        channel: whose period is looked for.
        bins: rows of a cycle.
        periods: that are told to the head, each found in what the harmonics of those before it leave.
        harmonics: of each period.
        shortest: the shortest period looked for, in units of the model's clock, `problem.time_scale`.
        **options: of `LSSLModel`; `bidirectional` is True where nothing is said.

    Raises:
        ValueError: a forecast, or a number that cannot be.

    References:
        Scargle (1982), Studies in astronomical time series analysis II.

    >>> model = FoldedModel(Problem("classification", channels=1, outputs=2, time_scale=1.0, horizon=100.0), width=8)
    >>> times = torch.rand(1, 60, dtype=torch.float64).mul(100).sort().values
    >>> seen = torch.ones(1, 60, 1, dtype=torch.bool)
    >>> series = TimeSeries(torch.sin(times / 3).unsqueeze(-1).float(), times, seen, torch.tensor([60]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    bidirectional = True  # the whole series is read before anything is answered

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        channel: int = 0,
        bins: int = 32,
        periods: int = 2,
        harmonics: int = 4,
        shortest: float = 0.04,
        **options: Any,
    ) -> None:
        super().__init__(problem)
        if problem.asks_queries:
            raise ValueError("a folded series has no order of time, and no place for a query; use LSSLModel")
        if not 0 <= channel < problem.channels:
            raise ValueError(f"channel is {channel!r}; the series have the channels 0 to {problem.channels - 1}")
        for name, value in {"bins": bins, "periods": periods, "harmonics": harmonics}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number from 1 on")
        if not (math.isfinite(shortest) and shortest > 0):
            raise ValueError(f"shortest is {shortest!r}; give a positive number of units of the clock")
        self.channel, self.bins, self.shortest = channel, bins, shortest
        self.periods, self.harmonics = periods, harmonics
        curve = replace(
            problem,
            channels=2 * problem.channels,
            static=problem.static + _told(periods, harmonics),
            time_scale=1.0 / bins,
            first_gap=1.0 / bins,
            horizon=float(_CYCLES),
        )
        self.reader = LSSLModel(curve, width, **({"bidirectional": True} | options))

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`; no gradient goes back to the values and times of the series."""
        check_request(self.problem, series, query_times, state)
        like = self.reader.norm.weight.detach()
        rates = rate_per_series(rate, series).tolist()
        found = [self._folded(series, b, pace) for b, pace in enumerate(rates)]
        rows, told = _CYCLES * self.bins, _told(self.periods, self.harmonics)
        curves = like.new_zeros(len(found), rows, 2 * series.channels)  # (B, R, 2 D)
        static = like.new_zeros(len(found), told)  # (B, F)
        for b, (curve, features) in enumerate(found):
            curves[b], static[b] = torch.from_numpy(curve), torch.from_numpy(features)
        if series.static is not None:
            static = torch.cat([series.static.to(like), static], dim=-1)  # (B, S + F)
        phases = (torch.arange(rows, dtype=torch.float64, device=like.device) + 0.5) / self.bins  # (R,)
        folded = TimeSeries(
            curves,
            phases.expand(len(found), rows),
            ~torch.isnan(curves),
            torch.full((len(found),), rows, device=like.device),
            static,
        )
        return replace(self.reader(folded), state=None)

    def _folded(self, series: TimeSeries, b: int, pace: float) -> tuple[np.ndarray, np.ndarray]:
        """The folded curve (R, 2 D) of one series and what the head is told (F,)."""
        length = int(series.lengths[b])
        values = torch.where(series.observed[b, :length], series.values[b, :length].double(), torch.nan)  # (n, D)
        times = series.times[b, :length].detach().cpu().numpy()  # (n,)
        asked = (self.channel, self.bins, self.periods, self.harmonics, self.problem.time_scale / pace, self.shortest)
        table = np.ascontiguousarray(values.detach().cpu().numpy())
        return _fold(times.tobytes(), table.tobytes(), series.channels, *asked)


def _told(periods: int, harmonics: int) -> int:
    """How many numbers the head is told."""
    return periods * _each(harmonics) + len(_PERCENTILES) + 3


def _each(harmonics: int) -> int:
    """How many numbers describe a period."""
    return 5 + 3 * (harmonics - 1)


@lru_cache(maxsize=_KEPT)
def _fold(
    times: bytes,
    values: bytes,
    channels: int,
    channel: int,
    bins: int,
    periods: int,
    harmonics: int,
    unit: float,
    shortest: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fold one series; arguments are bytes so that what was folded in one epoch is known in the next."""
    when = np.frombuffer(times, dtype=np.float64)  # (n,)
    what = np.frombuffer(values, dtype=np.float64).reshape(-1, channels)  # (n, D)
    when = (when - when[:1]) / unit
    seen = ~np.isnan(what[:, channel])
    found = rhythms(when[seen], what[seen, channel], periods, harmonics, shortest)
    told = np.zeros((periods, _each(harmonics)))  # (P, E)
    for row, rhythm in zip(told, found, strict=False):
        row[:] = _description(rhythm)
    phases = np.zeros(len(when))
    if found:
        crest = np.angle(found[0].shape[0]) / (2 * np.pi)
        phases = (found[0].frequency * (when - when[seen][0]) + crest) % _CYCLES  # (n,)
    return _binned(phases, what, bins), np.concatenate([told.reshape(-1), _distribution(what[seen, channel])])


def _description(rhythm: Rhythm) -> np.ndarray:
    """Numbers of the size of one: period, amplitude, and the shape of the oscillation wherever its origin is."""
    size = np.abs(rhythm.shape)  # (K,)
    total = max(float(size.sum()), 1e-12)
    turn = np.exp(-1j * np.angle(rhythm.shape[0]) * np.arange(1, len(size) + 1))  # the first harmonic at phase 0
    turned = (rhythm.shape * turn)[1:] / total  # (K - 1,)
    whole = [1.0, -math.log10(rhythm.frequency), math.log10(total + 1e-3), rhythm.left]
    shares = [rhythm.half / (1.0 + rhythm.half), *size[1:] / total, *turned.real, *turned.imag]
    return np.array([*whole, *(_SHARES * share for share in shares)])


def _distribution(values: np.ndarray) -> np.ndarray:
    """Quantiles, skewness, kurtosis and roughness of values (n,), in units of their own spread."""
    told = np.zeros(len(_PERCENTILES) + 3)
    spread = values.std() if len(values) else 0.0
    if spread > 0 and np.isfinite(spread):
        standard = (values - values.mean()) / spread  # (n,)
        roughness = np.mean(np.diff(standard) ** 2)  # 2 where neighbours have nothing in common
        told[:] = [
            *np.percentile(standard, _PERCENTILES),
            np.tanh(np.mean(standard**3) / 2),
            np.log(np.mean(standard**4)) - 1.0,
            roughness - 1.0,
        ]
    return told


def _binned(phases: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
    """Mean and spread (R, 2 D) of each channel in each bin of the cycles; NaN where there is none."""
    rows = _CYCLES * bins
    place = np.minimum((phases * bins).astype(np.int64), rows - 1)  # (n,)
    curve = np.full((rows, 2 * values.shape[1]), np.nan)
    for d, column in enumerate(values.T):
        seen = ~np.isnan(column)
        here, count = place[seen], np.bincount(place[seen], minlength=rows)  # (R,)
        mean = np.bincount(here, weights=column[seen], minlength=rows) / np.maximum(count, 1)
        square = np.bincount(here, weights=(column[seen] - mean[here]) ** 2, minlength=rows)
        curve[:, d] = np.where(count > 0, mean, np.nan)
        curve[:, values.shape[1] + d] = np.where(count > 1, np.sqrt(square / np.maximum(count - 1, 1)), np.nan)
    return curve
