"""From irregular observations and query times to one row of features each; models and baselines share it.

A row is an observation time or a query time. A row at which something was observed is *committed*: it moves a model's
state and is pooled. Any other row, a query or a record with nothing in it, only reads: it can change no other row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctlssl.contract import Problem, rate_per_series
from ctlssl.series import TimeSeries

__all__ = ["Committed", "Encoded", "Encoder", "Rows", "interleave", "last_true", "take"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations and queries of B series in the order of time, padded at the end to R rows.

    Args:
        values: (B, R, D), 0 where nothing was observed.
        observed: (B, R, D) bool, False at queries and in padding.
        times: (B, R) float64, 0 in padding.
        dt: (B, R) float64, the time since the previous committed row: the first gap at the first committed row, 0 at
            queries before it and in padding.
        is_query: (B, R) bool, the rows that are read but not committed; False in padding.
        lengths: (B,) rows before the padding.
        query_position: (B, Q) the row of each query, in the order in which the queries were given.
        query_present: (B, Q) bool, False where the query time was NaN.
    """

    values: Tensor
    observed: Tensor
    times: Tensor
    dt: Tensor
    is_query: Tensor
    lengths: Tensor
    query_position: Tensor
    query_present: Tensor

    @property
    def committed(self) -> Tensor:
        """(B, R) bool: the rows at which something was observed."""
        return self.observed.any(dim=-1)  # (B, R)

    @property
    def inside(self) -> Tensor:
        """(B, R) bool: the rows that are not padding."""
        return torch.arange(self.times.shape[1], device=self.times.device) < self.lengths.unsqueeze(1)  # (B, R)

    def at_queries(self, rows: Tensor) -> Tensor:
        """The rows (B, R, F) at the queries, (B, Q, F), in the order of the queries; absent ones read some row."""
        return take(rows, self.query_position)  # (B, Q, F)

    def compact(self) -> Committed:
        """The committed rows alone, moved together: what a model without queries of its own walks over."""
        committed = self.committed  # (B, R)
        counts = committed.sum(dim=1)  # (B,)
        longest = max(int(counts.max()) if counts.numel() else 0, 1)
        position = torch.argsort((~committed).byte(), dim=1, stable=True)[:, :longest]  # (B, K)
        inside = torch.arange(longest, device=counts.device) < counts.unsqueeze(1)  # (B, K)
        rank = committed.cumsum(dim=1) - 1  # (B, R)
        return Committed(position, inside, counts, torch.gather(rank, 1, self.query_position))


@dataclass(frozen=True, eq=False)
class Committed:
    """Where the committed rows are.

    Args:
        position: (B, K) rows, in the order of time; anything past `counts`.
        inside: (B, K) bool, True before `counts`.
        counts: (B,) committed rows of each series.
        before_query: (B, Q) which of the K is the last at or before each query, -1 for none.
    """

    position: Tensor
    inside: Tensor
    counts: Tensor
    before_query: Tensor

    def at_queries(self, states: Tensor, start: Tensor) -> Tensor:
        """The states (B, K, W) at the last committed row before each query, (B, Q, W); `start` (W,) where none is."""
        held = take(states, self.before_query.clamp(min=0))  # (B, Q, W)
        return torch.where((self.before_query >= 0).unsqueeze(-1), held, start)


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder makes of a batch.

    Args:
        rows: observations and queries in the order of time.
        features: (B, R, W).
        filled: (B, R, D) the last seen value of each channel, its learned start before the first.
        elapsed: (B, R) time since the first committed row, in horizons.
        gaps: (B, R) float64, `rows.dt` in units of the model's clock, without the rate.
        rate: (B,) float64, which multiplies every elapsed time; it is already in `features` and `elapsed`.
        static: (B, S) or None.
    """

    rows: Rows
    features: Tensor
    filled: Tensor
    elapsed: Tensor
    gaps: Tensor
    rate: Tensor
    static: Tensor | None


def take(rows: Tensor, position: Tensor) -> Tensor:
    """The rows (B, R, F) at positions (B, Q), as (B, Q, F)."""
    return torch.gather(rows, 1, position.unsqueeze(-1).expand(-1, -1, rows.shape[2]))  # (B, Q, F)


def interleave(series: TimeSeries, query_times: Tensor | None = None, first_gap: float = 1.0) -> Rows:
    """Merge the observations and the query times of each series into rows in the order of time.

    At one time observations come before queries, and rows of one kind keep their order.

    Args:
        series: B series of L rows.
        query_times: (B, Q) float64, NaN where absent, or None for none.
        first_gap: data time given to the first committed row.

    >>> seen = torch.tensor([[[True], [True]]])
    >>> times = torch.tensor([[0.0, 4.0]], dtype=torch.float64)
    >>> series = TimeSeries(torch.tensor([[[1.0], [2.0]]]), times, seen, torch.tensor([2]))
    >>> rows = interleave(series, torch.tensor([[4.5, 3.0]]).double(), first_gap=1.0)
    >>> rows.times.tolist(), rows.dt.tolist(), rows.query_position.tolist()
    ([[0.0, 3.0, 4.0, 4.5]], [[1.0, 3.0, 4.0, 0.5]], [[3, 1]])
    """
    inside = series.in_length  # (B, L)
    observed = series.observed & inside.unsqueeze(-1)  # (B, L, D)
    values = torch.where(observed, series.values, torch.zeros_like(series.values))  # (B, L, D)
    queries = 0 if query_times is None else query_times.shape[1]
    room = max(queries, 1 - series.length)  # where there would be no row at all, one of padding
    asked = series.times.new_full((series.batch, room), torch.nan) if queries == 0 else query_times  # (B, Q)
    present = ~torch.isnan(asked)
    padding = series.times.new_full((), torch.inf)
    keys = torch.cat([torch.where(inside, series.times, padding), torch.where(present, asked, padding)], dim=1)
    times, order = torch.sort(keys, dim=1, stable=True)  # (B, R)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    position = torch.empty_like(order).scatter_(1, order, place)  # (B, R): where each given row went
    inside = torch.isfinite(times)
    times = torch.where(inside, times, torch.zeros_like(times))  # (B, R)
    observed = take(nn.functional.pad(observed, (0, 0, 0, room)), order)  # (B, R, D)
    committed = observed.any(dim=-1)  # (B, R)
    return Rows(
        values=take(nn.functional.pad(values, (0, 0, 0, room)), order),
        observed=observed,
        times=times,
        dt=_gaps_between_commits(times, committed, inside, first_gap),
        is_query=inside & ~committed,
        lengths=inside.sum(dim=1),
        query_position=position[:, series.length : series.length + queries],
        query_present=present[:, :queries],
    )


def _gaps_between_commits(times: Tensor, committed: Tensor, inside: Tensor, first_gap: float) -> Tensor:
    last = last_true(committed, dim=1)  # (B, R)
    before = nn.functional.pad(last, (1, 0), value=-1)[:, : last.shape[1]]  # (B, R): strictly before the row
    since = times - torch.gather(times, 1, before.clamp(min=0))  # (B, R)
    first = torch.where(committed, first_gap, torch.zeros_like(times))
    gap = torch.where(before >= 0, since, first)
    return torch.where(inside, gap, torch.zeros_like(gap))  # (B, R)


def last_true(flags: Tensor, dim: int) -> Tensor:
    """The position of the last True at or before each place along `dim`, -1 for none."""
    shape = [1] * flags.dim()
    shape[dim] = -1
    place = torch.arange(flags.shape[dim], device=flags.device).view(shape)
    return torch.cummax(torch.where(flags, place, -1), dim=dim).values


class Encoder(nn.Module):
    """Irregular rows -> W features each.

    Per channel: the last seen value (before the first: a parameter), whether it was seen in this row, and the time
    since it was last seen; beside them the gap of the row and the time since the series began. A time enters as
    log(1 + rate t / time_scale) / log(1 + horizon / time_scale), 1 at the horizon, so that no time feature has units.

    Args:
        problem: channels and clock.
        width: W.
    """

    def __init__(self, problem: Problem, width: int) -> None:
        super().__init__()
        self.problem = problem
        self.unseen = nn.Parameter(torch.zeros(problem.channels))  # (D,) never a reading: learned apart from them
        self.linear = nn.Linear(3 * problem.channels + 3, width)

    def forward(self, series: TimeSeries, query_times: Tensor | None, rate: float | Tensor) -> Encoded:
        """Encode every observation and, for forecasts, every query.

        Args:
            series: B series.
            query_times: (B, Q) float64, NaN-padded, or None; read where the problem is a forecast.
            rate: a number or (B,).
        """
        rates = rate_per_series(rate, series)  # (B,)
        rows = interleave(series, query_times if self.problem.kind == "forecasting" else None, self.problem.first_gap)
        pace, dtype = rates.unsqueeze(-1), self.linear.weight.dtype  # (B, 1)
        last = last_true(rows.observed, dim=1)  # (B, R, D)
        seen, last = last >= 0, last.clamp(min=0)
        filled = torch.where(seen, torch.gather(rows.values.to(dtype), 1, last), self.unseen)  # (B, R, D)
        elapsed = _since_start(rows) * pace  # (B, R)
        spans = (elapsed / self.problem.horizon).to(dtype)  # (B, R)
        clocks = [self._clock(rows.dt * pace, dtype), self._clock(elapsed, dtype), spans / (1 + spans)]
        ages = self._ages(rows, seen, last, pace, dtype)  # (B, R, D)
        features = torch.cat([filled, rows.observed.to(dtype), ages, torch.stack(clocks, dim=-1)], dim=-1)
        return Encoded(
            rows=rows,
            features=self.linear(features),
            filled=filled,
            elapsed=spans,
            gaps=rows.dt / self.problem.time_scale,
            rate=rates,
            static=None if series.static is None else series.static.to(dtype),
        )

    def _clock(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        scale, horizon = self.problem.time_scale, self.problem.horizon
        return torch.log1p((time / scale).to(dtype)) / math.log1p(horizon / scale)

    def _ages(self, rows: Rows, seen: Tensor, last: Tensor, pace: Tensor, dtype: torch.dtype) -> Tensor:
        """Time since each channel was last seen, (B, R, D) in 0..1: a horizon or never is 1."""
        times = rows.times.unsqueeze(-1)  # (B, R, 1)
        since = (times - torch.gather(times.expand(last.shape), 1, last)) * pace.unsqueeze(-1)  # (B, R, D)
        # before the logarithm, so that no NaN of padding reaches a gradient
        since = torch.where(seen & rows.inside.unsqueeze(-1), since, self.problem.horizon)
        return self._clock(since, dtype).clamp(max=1.0)


def _since_start(rows: Rows) -> Tensor:
    """Time since the first committed row, (B, R) float64; 0 before it and in padding."""
    started = rows.committed.cumsum(dim=1) > 0  # (B, R)
    origin = torch.gather(rows.times, 1, rows.committed.long().argmax(dim=1, keepdim=True))  # (B, 1)
    return torch.where(started & rows.inside, rows.times - origin, torch.zeros_like(rows.times))
