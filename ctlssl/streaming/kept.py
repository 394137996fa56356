"""Rows kept for a while, so that what comes late can be put where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ctlssl.series import TimeSeries

__all__ = ["FEWEST_KEPT", "FlatRows", "KeptRows", "seen_rows"]

FEWEST_KEPT = 1024
"""Rows below which nothing is put away: small memory, and seldom a pass over the kept rows."""

_ROUND = 64
"""Fewest rows of a stream in one call of the model; more where the padding stays within the number of rows."""


@dataclass(frozen=True, eq=False)
class FlatRows:
    """Rows of several streams, one after another without padding.

    Args:
        series: (K,) int64, the stream of each row.
        times: (K,) float64.
        values: (K, D), 0 where not observed.
        observed: (K, D) bool.
    """

    series: Tensor
    times: Tensor
    values: Tensor
    observed: Tensor

    @classmethod
    def of(cls, index: Tensor, rows: TimeSeries) -> FlatRows:
        """The rows of a batch at which something was observed; index (M,) says which streams they are."""
        seen = rows.observed.any(dim=-1) & rows.in_length  # (M, L)
        stream = index[:, None].expand(seen.shape)[seen]  # (K,)
        observed = rows.observed[seen]  # (K, D)
        values = rows.values[seen]
        return cls(stream, rows.times[seen], torch.where(observed, values, torch.zeros_like(values)), observed)

    @classmethod
    def none(cls, like: Tensor) -> FlatRows:
        """No rows; like (B, D) has their channels, dtype and device."""
        values = like.new_zeros(0, like.shape[1])
        series = torch.zeros(0, dtype=torch.int64, device=like.device)
        return cls(series, series.double(), values, torch.zeros_like(values, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.series)

    def at(self, rows: Tensor) -> FlatRows:
        """Some of the rows, by flags or positions."""
        return FlatRows(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, other: FlatRows) -> FlatRows:
        """These rows, and then the others."""
        parts = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return FlatRows(*(torch.cat(pair) for pair in parts))

    def streams(self) -> Tensor:
        """The streams that have rows here, (M,) in rising order."""
        return self.series.unique()

    def rounds(self, at_once: bool = False) -> Iterator[tuple[Tensor, TimeSeries]]:
        """The rows in the order of time, rows of one time as they came, in batches to be read one after another.

        Args:
            at_once: put all into one batch, however much padding that takes; else it takes no more than the rows do.

        Yields:
            positions in `streams()` (M',) and the batch of their next rows.
        """
        order = self.times.argsort(stable=True)
        order = order[self.series[order].argsort(stable=True)]  # (K,)
        counts = self.series[order].unique_consecutive(return_counts=True)[1]  # (M,)
        group = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # (K,)
        place = torch.arange(len(order), device=counts.device) - (counts.cumsum(0) - counts)[group]  # (K,)
        longest = int(counts.max()) if len(counts) else 0
        most = longest if at_once else max(_ROUND, 2 * len(order) // max(len(counts), 1))
        for start in range(0, longest, max(most, 1)):
            here = (place >= start) & (place < start + most)
            going = counts > start  # (M,)
            lengths = (counts[going] - start).clamp(max=most)  # (M',)
            rank = going.cumsum(0) - 1  # (M,)
            yield going.nonzero()[:, 0], self._padded(order[here], rank[group[here]], place[here] - start, lengths)

    def _padded(self, rows: Tensor, series: Tensor, place: Tensor, lengths: Tensor) -> TimeSeries:
        values = self.values.new_zeros(len(lengths), int(lengths.max()), self.values.shape[1])
        observed = torch.zeros_like(values, dtype=torch.bool)
        times = self.times.new_zeros(values.shape[:2])
        values[series, place], times[series, place] = self.values[rows], self.times[rows]
        observed[series, place] = self.observed[rows]
        return TimeSeries(values, times, observed, lengths)


def seen_rows(rows: TimeSeries) -> TimeSeries:
    """The rows at which something was observed, without static covariates; each series has at least one."""
    seen = rows.observed.any(dim=-1) & rows.in_length  # (M, L)
    if torch.equal(seen, rows.in_length):
        return replace(rows, static=None)
    number, lengths = torch.arange(rows.batch, device=seen.device), seen.sum(dim=1)  # (M,)
    flat = FlatRows.of(number, rows)
    every = torch.arange(len(flat), device=seen.device)  # (K,)
    return flat._padded(every, flat.series, every - (lengths.cumsum(0) - lengths)[flat.series], lengths)


class KeptRows:
    """The rows of all streams since the start of their windows, and some that nobody has put away yet.

    Room is doubled where it is short, and rows are put away when as many have come as were kept: the cost of a row
    does not depend on how many there are.

    Args:
        rows: the first rows.
        limit: the number of rows at which some are to be put away; None is the fewest.
    """

    def __init__(self, rows: FlatRows, limit: int | None = None) -> None:
        self._room, self._count, self.limit = rows, len(rows), FEWEST_KEPT if limit is None else limit

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> FlatRows:
        """The rows in the order in which they came."""
        return self._room.at(slice(0, self._count))

    def append(self, rows: FlatRows) -> None:
        """Keep more rows."""
        need = self._count + len(rows)
        if need > len(self._room):
            # any row fills the new room: what lies behind the count is never read
            spare = torch.zeros(max(need, FEWEST_KEPT), dtype=torch.int64, device=rows.series.device)
            self._room = self.rows.joined(rows.at(spare))
        for field in fields(rows):
            getattr(self._room, field.name)[self._count : need] = getattr(rows, field.name)
        self._count = need

    def forget(self, gone: Tensor) -> None:
        """Drop the rows that are flagged, (K,)."""
        self._room = self.rows.at(~gone)
        self._count = len(self._room)
        self.limit = max(FEWEST_KEPT, 2 * self._count)

    def truncate(self, count: int) -> None:
        """Drop what came after the first rows."""
        self._count = count
