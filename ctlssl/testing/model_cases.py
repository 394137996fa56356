"""Irregular series for a model: drawn from a seed, or written down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctlssl.contract import Problem
from ctlssl.series import TimeSeries

__all__ = ["ModelCase", "changed", "draw_model_case", "tick"]


@dataclass(frozen=True, eq=False)
class ModelCase:
    """Series and questions that a model is held to the contract with.

    Args:
        name: how a failure calls it.
        series: B series, values float64, times in multiples of `tick(problem)`.
        queries: (B, Q) float64, NaN where absent; none at the time of a row.
        seed: of everything else that is drawn.
    """

    name: str
    series: TimeSeries
    queries: Tensor
    seed: int = 0

    def __str__(self) -> str:
        counts = (~self.queries.isnan()).sum(1).tolist()
        return f"{self.name} (batch {len(counts)}, lengths {self.series.lengths.tolist()}, queries {counts})"

    def generator(self) -> torch.Generator:
        """A generator that starts the same way for every line."""
        return torch.Generator().manual_seed(self.seed)

    def cast(self, dtype: torch.dtype) -> ModelCase:
        """The same with values in a dtype."""
        return replace(self, series=self.series.to(dtype=dtype))

    @property
    def hidden(self) -> Tensor:
        """(B, L, D) bool: content that is not there to be read."""
        return ~self.series.observed | ~self.series.in_length.unsqueeze(-1)

    def chunk(self, start: int, stop: int) -> ModelCase:
        """Rows from `start` to before `stop` of every series, and the queries that come before the rows after them."""
        series, last = self.series, stop >= self.series.length
        part = TimeSeries(
            series.values[:, start:stop],
            series.times[:, start:stop],
            series.observed[:, start:stop],
            (series.lengths - start).clamp(0, stop - start),
            series.static,
        )
        begins, ends = (self._begin(place) for place in (start, stop))  # (B, 1)
        asked = self.queries
        mine = (asked >= begins if start else ~asked.isnan()) & ((asked < ends) | last)
        return replace(self, series=part, queries=torch.where(mine, asked, torch.nan))

    def _begin(self, row: int) -> Tensor:
        """The time from which queries belong to a row or to one after it, (B, 1); inf where the series has ended."""
        series = self.series
        if row >= series.length:
            return torch.full_like(series.times[:, :1], torch.inf)
        return torch.where(row < series.lengths, series.times[:, row], torch.inf).unsqueeze(1)


def changed(series: TimeSeries, **parts: Any) -> TimeSeries:
    """The series with some of its parts replaced, checked anew."""
    given = {name: getattr(series, name) for name in ("values", "times", "observed", "lengths", "static")}
    return TimeSeries(**{**given, **parts})


def longer(series: TimeSeries, rows: int) -> TimeSeries:
    """The series with more padding, of content that nobody may read."""
    room = (0, 0, 0, rows)
    return TimeSeries(
        pad(series.values, room, value=torch.nan),
        pad(series.times, (0, rows), value=torch.nan),
        pad(series.observed, room, value=True),
        series.lengths,
        series.static,
    )


def tick(problem: Problem) -> float:
    """A power of two near 1/64 of the unit of a model's clock: times in its multiples are shifted exactly."""
    return 2.0 ** (math.floor(math.log2(problem.time_scale)) - 6)


def draw_model_case(problem: Problem, seed: int, index: int, length: int = 9) -> ModelCase:
    """Five ragged series with missing values, rows that share a time, rows with nothing in them, and queries.

    Args:
        problem: what the model was built for.
        seed: of the check.
        index: of the case.
        length: rows L, at least 2.
    """
    own = 1_000_003 * seed + index
    draw, unit = torch.Generator().manual_seed(own), tick(problem)
    short = torch.randint(2, length + 1, (2,), generator=draw).tolist()
    lengths = torch.tensor([length, 1, short[0], 0, short[1]])
    B, D = len(lengths), problem.channels
    gaps = torch.exp(1.5 * torch.randn(B, length, generator=draw, dtype=torch.float64))
    gaps = (gaps * problem.time_scale / unit).ceil() * unit
    times = 1024 * unit + torch.where(torch.rand(B, length, generator=draw) < 0.2, 0.0, gaps).cumsum(1)  # (B, L)
    observed = torch.rand(B, length, D, generator=draw) < 0.5  # (B, L, D)
    observed[0, 0, 0] = True
    static = torch.randn(B, problem.static, generator=draw).double() if problem.static else None
    series = TimeSeries(torch.randn(B, length, D, generator=draw).double(), times, observed, lengths, static)
    span = (times[:, -1:] - times[:, :1] + 2 * problem.time_scale) * torch.rand(B, 4, generator=draw)
    queries = times[:, :1] + ((span / unit).floor() + 0.5) * unit  # (B, Q), between rows
    queries[:, 1] = 1000.5 * unit  # before the first row
    queries[1, 2:] = torch.nan
    return ModelCase(f"case {index} of seed {seed}", series, queries, own)
