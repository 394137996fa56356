"""From irregular observations and query times to one row of features each; models and baselines share it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctlssl.contract import Problem, check_precision, rate_per_series
from ctlssl.interleaving import Rows, interleave, last_true
from ctlssl.model_state import Seen
from ctlssl.piecewise_linear import piecewise_linear
from ctlssl.series import TimeSeries

__all__ = ["Encoded", "Encoder", "readings"]

_SCORES = (-3.0, 3.0)  # normal scores beyond are as good as there


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder makes of a batch.

    Args:
        rows: observations and queries in the order of time.
        features: (B, R, W).
        filled: (B, R, D) the last seen value of each channel, its learned start before the first.
        elapsed: (B, R) time since the first committed row of all, in horizons.
        gaps: (B, R) float64, `rows.dt` in units of the model's clock, without the rate.
        rate: (B,) float64, which multiplies every elapsed time; it is already in `features` and `elapsed`.
        static: (B, S) or None.
        seen: what was observed up to the end of the batch.
    """

    rows: Rows
    features: Tensor
    filled: Tensor
    elapsed: Tensor
    gaps: Tensor
    rate: Tensor
    static: Tensor | None
    seen: Seen

    @property
    def since_start(self) -> Tensor:
        """Time since the first committed row of all, times the rate, in data time: (B, R) float64, 0 before it."""
        there = self.rows.inside & self.seen.started.unsqueeze(1)  # (B, R)
        since = (self.rows.times - self.seen.start.unsqueeze(1)) * self.rate.unsqueeze(1)
        return torch.where(there, since, torch.zeros_like(since)).clamp(min=0.0)


class Encoder(nn.Module):
    """Irregular rows -> W features each.

    Per channel: the last seen value (before the first: a parameter), whether it was seen in this row, and the time
    since it was last seen; beside them the gap of the row and the time since the series began. A time enters as
    log(1 + rate t / time_scale) / log(1 + horizon / time_scale), 1 at the horizon, so that no time feature has units.

    Args:
        problem: channels and clock.
        width: W.
        carried: False: a channel that was not seen in this row is 0 there, whatever was seen before.
        channel_dropout: share of the channels of each series that are taken as never observed, while training.
        pieces: K, into which the normal scores from -3 to 3 are cut: a value enters as its place on each of them (see
            `ctlssl.piecewise_linear`), so that low and high can mean the same; 0: a value enters as a number.

    Raises:
        ValueError: a share that is none, or a number of pieces that cannot be.
    """

    def __init__(
        self, problem: Problem, width: int, carried: bool = True, channel_dropout: float = 0.0, pieces: int = 0
    ) -> None:
        super().__init__()
        if isinstance(pieces, bool) or not isinstance(pieces, int) or pieces < 0:
            raise ValueError(f"pieces is {pieces!r}; it is a whole number from 0 on")
        if not 0.0 <= channel_dropout < 1.0:
            raise ValueError(f"channel_dropout is {channel_dropout!r}; it is a share from 0 to below 1")
        self.problem, self.carried, self.pieces = problem, carried, pieces
        self.channel_dropout = nn.Dropout(channel_dropout)
        self.unseen = nn.Parameter(torch.zeros(problem.channels))  # (D,) never a reading: learned apart from them
        self.linear = nn.Linear((2 + max(pieces, 1)) * problem.channels + 3, width)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None,
        rate: float | Tensor,
        before: Seen | None = None,
    ) -> Encoded:
        """Encode every observation and, for forecasts, every query.

        Args:
            series: B series.
            query_times: (B, Q) float64, NaN-padded, or None; read where the problem is a forecast.
            rate: a number or (B,).
            before: what was observed in earlier chunks.

        Raises:
            TypeError: parameters in half precision.
        """
        rates, problem = rate_per_series(rate, series), self.problem  # (B,)
        check_precision(self.linear.weight.dtype)
        asked = query_times if problem.asks_queries else None
        rows = interleave(self._thinned(series), asked, problem.first_gap / rates, before)
        pace, dtype = rates.unsqueeze(-1), self.linear.weight.dtype  # (B, 1)
        channels = _last_seen(rows, before, dtype)
        filled = torch.where(channels.known, channels.values, self.unseen)  # (B, R, D)
        elapsed = _since_start(rows, before) * pace  # (B, R)
        spans = (elapsed / problem.horizon).to(dtype)  # (B, R)
        clocks = [self._clock(rows.dt * pace, dtype), self._clock(elapsed, dtype), spans / (1 + spans)]
        ages = self._ages(rows, channels, pace, dtype)  # (B, R, D)
        shown = filled if self.carried else rows.values.to(dtype)  # (B, R, D)
        shown = piecewise_linear(shown, *_SCORES, self.pieces) if self.pieces else shown  # (B, R, D K)
        features = torch.cat([shown, rows.observed.to(dtype), ages, torch.stack(clocks, dim=-1)], dim=-1)
        return Encoded(
            rows=rows,
            # in training dropout ties all rows together anyway, and one product of all is faster
            features=self.linear(features) if self.training else rows.apart(self.linear, features),
            filled=filled,
            elapsed=spans,
            gaps=rows.dt / problem.time_scale,
            rate=rates,
            static=None if series.static is None else series.static.to(dtype),
            seen=_seen_at_end(rows, channels, before),
        )

    def _thinned(self, series: TimeSeries) -> TimeSeries:
        """In training, without some channels of each series: no answer may then hang on one of them."""
        if not (self.training and self.channel_dropout.p):
            return series
        kept = self.channel_dropout(series.values.new_ones(series.batch, 1, series.channels)) > 0  # (B, 1, D)
        return replace(series, observed=series.observed & kept)

    def _clock(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        scale, horizon = self.problem.time_scale, self.problem.horizon
        return torch.log1p((time / scale).to(dtype)) / math.log1p(horizon / scale)

    def _ages(self, rows: Rows, channels: _LastSeen, pace: Tensor, dtype: torch.dtype) -> Tensor:
        """Time since each channel was last seen, (B, R, D) in 0..1: a horizon or never is 1."""
        since = (rows.times.unsqueeze(-1) - channels.times) * pace.unsqueeze(-1)  # (B, R, D)
        # before the logarithm, so that no NaN of padding reaches a gradient
        since = torch.where(channels.known & rows.inside.unsqueeze(-1), since, self.problem.horizon)
        return self._clock(since, dtype).clamp(max=1.0)


def readings(
    problem: Problem,
    series: TimeSeries,
    query_times: Tensor | None,
    rate: float | Tensor,
    before: Seen | None,
    unseen: Tensor,
) -> Encoded:
    """The rows as they were read, for models whose papers encode them in their own way; nothing is learned here.

    Features are, side by side and D each, the last seen value of every channel, whether it was seen in this row (0 or
    1), and the time since it was last seen in an earlier row, in units of the clock times the rate; where it never
    was, the time since the series began.

    Args:
        problem: channels and clock.
        series: B series.
        query_times: (B, Q) float64, NaN-padded, or None; read where the problem is a forecast.
        rate: a number or (B,).
        before: what was observed in earlier chunks.
        unseen: (D,), what stands for a channel before its first value.

    Returns:
        Rows with features (B, R, 3 D) in the dtype of `unseen`.
    """
    rates, dtype = rate_per_series(rate, series), unseen.dtype  # (B,)
    asked = query_times if problem.asks_queries else None
    rows = interleave(series, asked, problem.first_gap / rates, before)
    channels, since_start = _last_seen(rows, before, dtype), _since_start(rows, before)
    filled = torch.where(channels.known, channels.values, unseen)  # (B, R, D)
    earlier = _in_earlier_rows(channels, before)
    since = torch.where(earlier.known, rows.times.unsqueeze(-1) - earlier.times, since_start.unsqueeze(-1))
    since = torch.where(rows.inside.unsqueeze(-1), since, 0.0) * (rates / problem.time_scale).view(-1, 1, 1)
    return Encoded(
        rows=rows,
        features=torch.cat([filled, rows.observed.to(dtype), since.to(dtype)], dim=-1),
        filled=filled,
        elapsed=(since_start * rates.unsqueeze(-1) / problem.horizon).to(dtype),
        gaps=rows.dt / problem.time_scale,
        rate=rates,
        static=None if series.static is None else series.static.to(dtype),
        seen=_seen_at_end(rows, channels, before),
    )


class _LastSeen(NamedTuple):
    """Of every row and channel, (B, R, D) each: whether it was seen before or at the row, its last value and time."""

    known: Tensor
    values: Tensor
    times: Tensor


def _last_seen(rows: Rows, before: Seen | None, dtype: torch.dtype) -> _LastSeen:
    last = last_true(rows.observed, dim=1)  # (B, R, D)
    known, last = last >= 0, last.clamp(min=0)
    values = torch.gather(rows.values.to(dtype), 1, last)  # (B, R, D)
    times = torch.gather(rows.times.unsqueeze(-1).expand(last.shape), 1, last)  # (B, R, D)
    if before is None:
        return _LastSeen(known, values, times)
    values = torch.where(known, values, before.values.to(dtype).unsqueeze(1))
    times = torch.where(known, times, before.value_times.unsqueeze(1))
    return _LastSeen(known | before.known.unsqueeze(1), values, times)


def _in_earlier_rows(channels: _LastSeen, before: Seen | None) -> _LastSeen:
    """The same before every row instead of at it."""

    def shifted(at: Tensor, first: Tensor) -> Tensor:
        return torch.cat([first.to(at.dtype).unsqueeze(1), at[:, :-1]], dim=1)  # (B, R, D)

    nothing = tuple(torch.zeros_like(part[:, 0]) for part in channels)  # (B, D)
    first = nothing if before is None else (before.known, before.values, before.value_times)
    return _LastSeen(*(shifted(at, start) for at, start in zip(channels, first, strict=True)))


def _seen_at_end(rows: Rows, channels: _LastSeen, before: Seen | None) -> Seen:
    """What was observed up to the last row; tensors of their own, which keep no row alive."""
    known, values, times = (part[:, -1] for part in channels)  # (B, D); padding carries the last row on
    place = torch.arange(rows.times.shape[1], device=known.device)
    committed = rows.committed  # (B, R)
    final = torch.where(committed, place, 0).amax(dim=1, keepdim=True)  # (B, 1)
    started, time = committed.any(dim=1), torch.gather(rows.times, 1, final).squeeze(1)  # (B,)
    start = _origin(rows).squeeze(1)  # (B,)
    if before is not None:
        time = torch.where(started, time, before.time)
        start = torch.where(before.started, before.start, start)
        started = started | before.started
    nothing = times.new_zeros(())
    return Seen(
        started=started,
        start=torch.where(started, start, nothing),
        time=torch.where(started, time, nothing),
        known=known.clone(),
        values=torch.where(known, values, torch.zeros_like(values)),
        value_times=torch.where(known, times, nothing),
    )


def _origin(rows: Rows) -> Tensor:
    """The time of the first committed row, (B, 1); of the first row where there is none."""
    return torch.gather(rows.times, 1, rows.committed.long().argmax(dim=1, keepdim=True))


def _since_start(rows: Rows, before: Seen | None) -> Tensor:
    """Time since the first committed row of all, (B, R) float64; 0 before it and in padding."""
    started, origin = rows.committed.cumsum(dim=1) > 0, _origin(rows)  # (B, R), (B, 1)
    if before is not None:
        started = started | before.started.unsqueeze(1)
        origin = torch.where(before.started.unsqueeze(1), before.start.unsqueeze(1), origin)
    return torch.where(started & rows.inside, rows.times - origin, torch.zeros_like(rows.times))
