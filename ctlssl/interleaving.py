"""Observations and queries of a batch in one order of time: which rows move a model's state, and after what gap.

A row is an observation time or a query time. A row at which something was observed is *committed*: it moves a model's
state and is pooled. Any other row, a query or a record with nothing in it, only reads: it can change no other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ctlssl.model_state import Seen
from ctlssl.series import TimeSeries

__all__ = ["Backward", "Committed", "Rows", "interleave", "last_true", "take"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations and queries of B series in the order of time, padded at the end to R rows.

    Args:
        values: (B, R, D), 0 where nothing was observed.
        observed: (B, R, D) bool, False at queries and in padding.
        times: (B, R) float64, 0 in padding.
        dt: (B, R) float64, the time since the previous committed row, in an earlier chunk if need be: the first gap at
            the first committed row of all, 0 at queries before it and in padding.
        is_query: (B, R) bool, the rows that are read but not committed; False in padding.
        lengths: (B,) rows before the padding.
        position: (B, R) where each row went as they were given, all L observations first and then the Q queries.
        order: (B, R) which of these stands at each place: the inverse of `position`.
        query_present: (B, Q) bool, False where the query time was NaN.
    """

    values: Tensor
    observed: Tensor
    times: Tensor
    dt: Tensor
    is_query: Tensor
    lengths: Tensor
    position: Tensor
    order: Tensor
    query_present: Tensor

    @property
    def query_position(self) -> Tensor:
        """(B, Q): the row of each query, in the order in which the queries were given."""
        return self.position[:, self._observations : self._observations + self.query_present.shape[1]]  # (B, Q)

    @cached_property
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

    def apart(self, change: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """A map of single rows on (B, R, F), observations and queries each in a call of their own.

        The rounding of a matrix product depends on how many rows it has and on where in them a row stands; so no
        query changes a bit at an observation.
        """
        if self.query_present.shape[1] == 0:
            return change(rows)
        observations = take(rows, self.position[:, : self._observations])  # (B, L, F)
        return take(torch.cat([change(observations), change(self.at_queries(rows))], dim=1), self.order)

    def backward(self, first_gap: float | Tensor, time_scale: float = 1.0) -> Backward:
        """The same rows from the end of each series, with the time to the next observation as their gaps.

        At one time queries then come before observations: what is asked at an observation is answered from it and from
        those after it, and so without a jump from just after it.

        Args:
            first_gap: data time given to the last committed row, a number or one a series (B,).
            time_scale: data time of one unit of the gaps.
        """
        rows = torch.arange(self.times.shape[1], device=self.times.device)
        place = torch.where(self.inside, self.lengths.unsqueeze(1) - 1 - rows, rows)  # (B, R)
        times, committed, is_query = (part.gather(1, place) for part in (self.times, self.committed, self.is_query))
        gaps = _gaps_between_commits(-times, committed, self.inside, first_gap, None)  # (B, R)
        return Backward(place, gaps / time_scale, is_query)

    @property
    def _observations(self) -> int:
        """L, or 1 where there is but a row of padding."""
        return self.position.shape[1] - self.query_present.shape[1]

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
class Backward:
    """Rows seen from the end of each series.

    Args:
        place: (B, R) the row at each place of the reversed series, which is its own inverse.
        dt: (B, R) float64, in the reversed order and in units of the clock: the time to the next committed row, the
            first gap at the last committed row, 0 at queries after it and in padding.
        is_query: (B, R) bool, in the reversed order.
    """

    place: Tensor
    dt: Tensor
    is_query: Tensor


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
        """The states (B, K, W) at the last committed row before each query, (B, Q, W).

        Where none is, `start`: (W,), or (B, W).
        """
        held = take(states, self.before_query.clamp(min=0))  # (B, Q, W)
        return torch.where((self.before_query >= 0).unsqueeze(-1), held, start.unsqueeze(-2))

    def at_end(self, states: Tensor, start: Tensor) -> Tensor:
        """The states (B, K, W) at the last committed row, (B, W); `start` (B, W) where none is."""
        final = take(states, (self.counts - 1).clamp(min=0).unsqueeze(1)).squeeze(1)  # (B, W)
        return torch.where((self.counts > 0).unsqueeze(-1), final, start)


def take(rows: Tensor, position: Tensor) -> Tensor:
    """The rows (B, R, F) at positions (B, Q), as (B, Q, F)."""
    return torch.gather(rows, 1, position.unsqueeze(-1).expand(-1, -1, rows.shape[2]))  # (B, Q, F)


def interleave(
    series: TimeSeries,
    query_times: Tensor | None = None,
    first_gap: float | Tensor = 1.0,
    before: Seen | None = None,
) -> Rows:
    """Merge the observations and the query times of each series into rows in the order of time.

    At one time observations come before queries, and rows of one kind keep their order.

    Args:
        series: B series of L rows.
        query_times: (B, Q) float64, NaN where absent, or None for none.
        first_gap: data time given to the first committed row, a number or one a series (B,).
        before: what was observed in earlier chunks.

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
        dt=_gaps_between_commits(times, committed, inside, first_gap, before),
        is_query=inside & ~committed,
        lengths=inside.sum(dim=1),
        position=position,
        order=order,
        query_present=present[:, :queries],
    )


def _gaps_between_commits(
    times: Tensor, committed: Tensor, inside: Tensor, first_gap: float | Tensor, earlier: Seen | None
) -> Tensor:
    last = last_true(committed, dim=1)  # (B, R)
    before = nn.functional.pad(last, (1, 0), value=-1)[:, : last.shape[1]]  # (B, R): strictly before the row
    since = times - torch.gather(times, 1, before.clamp(min=0))  # (B, R)
    given = torch.as_tensor(first_gap, dtype=times.dtype, device=times.device).unsqueeze(-1)  # (1,) or (B, 1)
    first = torch.where(committed, given, torch.zeros_like(times))
    if earlier is not None:
        first = torch.where(earlier.started.unsqueeze(1), times - earlier.time.unsqueeze(1), first)
    gap = torch.where(before >= 0, since, first)
    return torch.where(inside, gap, torch.zeros_like(gap))  # (B, R)


def last_true(flags: Tensor, dim: int) -> Tensor:
    """The position of the last True at or before each place along `dim`, -1 for none."""
    shape = [1] * flags.dim()
    shape[dim] = -1
    place = torch.arange(flags.shape[dim], device=flags.device).view(shape)
    return torch.cummax(torch.where(flags, place, -1), dim=dim).values
