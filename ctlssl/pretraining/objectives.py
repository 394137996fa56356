"""Questions that unlabelled series answer themselves: each hides a part of a series, or nothing, and asks for values.

Every objective is a question of a forecasting problem, so any model that answers values at query times can learn it.
What is hidden is taken out before a model sees the series: its cells are NaN and not observed, and a row of which
nothing is left is no row. Rows with nothing observed are never asked and never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples

__all__ = ["OBJECTIVES", "Objective", "ask"]

_HIDDEN = 0.3  # share of the rows between the first and the last that interpolation hides
_BLOCK = 0.5  # largest share of the times between the first and the last that a block covers
_COPIED = 0.3  # share of the rows that copying asks for


@dataclass(frozen=True)
class Objective:
    """A question and its name.

    Args:
        name: what a mixture calls it.
        question: (series, draw) -> examples of the same B series: what a model may see, the query times (B, Q), the
            targets and which of them count. A series too short to be asked has no query and no target.
        waits: the targets are (B, Q, 1), the logarithm of the time from the query to the next event; False: they are
            (B, Q, D), values of the channels.
    """

    name: str
    question: Callable[[TimeSeries, torch.Generator], Examples]
    waits: bool = False


def ask(objective: str | Objective, series: TimeSeries, draw: torch.Generator) -> Examples:
    """What a model may see of series, and what it is asked, for one draw of an objective.

    Args:
        objective: a name in `OBJECTIVES`, or an objective of your own.
        series: B series of D channels.
        draw: what is drawn from, on the CPU; the same state gives the same question.

    Returns:
        examples of B series, in their order, with their positions as ids.

    Raises:
        TypeError: series that are not a `TimeSeries`.
        ValueError: an objective of no such name.

    Example:
        >>> seen = torch.ones(1, 4, 1, dtype=torch.bool)
        >>> values = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
        >>> series = TimeSeries(values, torch.arange(4.0).view(1, 4), seen, torch.tensor([4]))
        >>> question = ask("forecasting", series, torch.Generator().manual_seed(0))
        >>> question.series.times, question.query_times, question.targets[..., 0]
        (tensor([[0., 1., 2.]], dtype=torch.float64), tensor([[3.]], dtype=torch.float64), tensor([[3.]]))
    """
    if not isinstance(series, TimeSeries):
        raise TypeError(f"objectives ask of a TimeSeries, found {type(series).__name__}; pass its to_series()")
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            raise ValueError(f"objective {objective!r} is unknown; choose from {', '.join(OBJECTIVES)}")
        objective = OBJECTIVES[objective]
    return objective.question(series if series.length else _with_a_row(series), draw)


def _forecasting(series: TimeSeries, draw: torch.Generator) -> Examples:
    """The values after a time drawn among those of the events, from all up to it."""
    cells, later = _cells(series), _after(series, _cut(series, draw))  # (B, L, D), (B, L)
    return _examples(series, cells & ~later.unsqueeze(-1), cells & later.unsqueeze(-1))


def _interpolation(series: TimeSeries, draw: torch.Generator) -> Examples:
    """The values of rows drawn one by one between the first and the last, from the others."""
    cells, inner = _cells(series), _inner(series)  # (B, L, D), (B, L)
    lots = torch.where(inner, _uniform(inner, draw), torch.inf)  # (B, L)
    least = lots == lots.amin(dim=1, keepdim=True)  # (B, L): one is hidden in any case
    hidden = ((lots < _HIDDEN) | least) & inner
    return _examples(series, cells & ~hidden.unsqueeze(-1), cells & hidden.unsqueeze(-1))


def _infilling(series: TimeSeries, draw: torch.Generator) -> Examples:
    """The values of about half of the channels over a stretch of time, from the others and from before and after."""
    cells, inner = _cells(series), _inner(series)  # (B, L, D), (B, L)
    count = inner.sum(dim=1, keepdim=True)  # (B, 1)
    width = 1 + (_uniform(count, draw) * (_BLOCK * count)).long()  # (B, 1) in 1..count
    start = (_uniform(count, draw) * (count - width + 1)).long()  # (B, 1) in 0..count - width
    rank = inner.cumsum(dim=1) - 1  # (B, L)
    block = (inner & (rank >= start) & (rank < start + width)).unsqueeze(-1)  # (B, L, 1)
    there = (cells & block).any(dim=1)  # (B, D)
    lots = torch.where(there, _uniform(there, draw), torch.inf)  # (B, D)
    chosen = ((lots < 0.5) | (lots == lots.amin(dim=1, keepdim=True))) & there
    hidden = cells & block & chosen.unsqueeze(1)  # (B, L, D)
    return _examples(series, cells & ~hidden, hidden)


def _copying(series: TimeSeries, draw: torch.Generator) -> Examples:
    """The values of rows that are shown: of rows at one time the last, since it is what then stands."""
    cells = _cells(series)  # (B, L, D)
    last = _last_of_time(series)  # (B, L)
    lots = torch.where(last, _uniform(last, draw), torch.inf)  # (B, L)
    copied = ((lots < _COPIED) | (lots == lots.amin(dim=1, keepdim=True))) & last
    return _examples(series, cells, cells & copied.unsqueeze(-1))


def _next_event(series: TimeSeries, draw: torch.Generator) -> Examples:
    """The logarithm of the time to the next event, from all up to an event, asked at that event."""
    cells, cut = _cells(series), _cut(series, draw)  # (B, L, D), (B, 1)
    later = _after(series, cut)  # (B, L)
    some = later.any(dim=1, keepdim=True)  # (B, 1)
    coming = torch.where(later, series.times, torch.inf).amin(dim=1, keepdim=True)  # (B, 1)
    wait = torch.where(some, coming - cut, 1.0).log().to(series.values.dtype)  # (B, 1)
    shown = _shown(series, cells & ~later.unsqueeze(-1))
    asked = torch.where(some, cut, torch.nan)  # (B, 1)
    return Examples(shown, _ids(series), None, asked, wait.unsqueeze(-1), some.unsqueeze(-1))


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("forecasting", _forecasting),
        Objective("interpolation", _interpolation),
        Objective("infilling", _infilling),
        Objective("copying", _copying),
        Objective("next_event", _next_event, waits=True),
    )
}
"""The objectives by name."""


def _with_a_row(series: TimeSeries) -> TimeSeries:
    """Series without rows as series of one row of padding, over which there is a maximum."""
    values = series.values.new_full((series.batch, 1, series.channels), torch.nan)
    times = series.times.new_zeros(series.batch, 1)
    return TimeSeries(values, times, torch.zeros_like(values, dtype=torch.bool), series.lengths, series.static)


def _cells(series: TimeSeries) -> Tensor:
    """What was observed, (B, L, D) bool, False in padding."""
    return series.observed & series.in_length.unsqueeze(-1)


def _events(series: TimeSeries) -> Tensor:
    """The rows at which something was observed, (B, L) bool."""
    return _cells(series).any(dim=-1)


def _last_of_time(series: TimeSeries) -> Tensor:
    """The events that are the last at their time, (B, L) bool."""
    events = _events(series)  # (B, L)
    times = torch.where(events, series.times, torch.inf)  # (B, L)
    coming = times.flip(1).cummin(dim=1).values.flip(1)  # (B, L): the time of the next event, from this row on
    beyond = torch.cat([coming[:, 1:], torch.full_like(coming[:, :1], torch.inf)], dim=1)
    return events & (series.times < beyond)


def _cut(series: TimeSeries, draw: torch.Generator) -> Tensor:
    """A time (B, 1) drawn among the distinct times of events but the last; of a series with less, after all."""
    marks = _last_of_time(series)  # (B, L): one a distinct time
    choices = (marks.sum(dim=1, keepdim=True) - 1).clamp(min=0)  # (B, 1)
    chosen = (_uniform(choices, draw) * choices).long()  # (B, 1)
    here = marks & (marks.cumsum(dim=1) - 1 == chosen) & (choices > 0)  # (B, L), one at most
    time = torch.where(here, series.times, 0).sum(dim=1, keepdim=True)
    return torch.where(choices > 0, time, torch.inf)


def _after(series: TimeSeries, cut: Tensor) -> Tensor:
    """The events (B, L) later than a time (B, 1)."""
    return _events(series) & (series.times > cut)


def _inner(series: TimeSeries) -> Tensor:
    """The events (B, L) strictly between the first and the last time."""
    events = _events(series)
    first = torch.where(events, series.times, torch.inf).amin(dim=1, keepdim=True)  # (B, 1)
    last = torch.where(events, series.times, -torch.inf).amax(dim=1, keepdim=True)
    return events & (series.times > first) & (series.times < last)


def _uniform(like: Tensor, draw: torch.Generator) -> Tensor:
    """Numbers in [0, 1) of the shape of a tensor; drawn on the CPU, so that every device asks the same."""
    return torch.rand(like.shape, generator=draw, dtype=torch.float64).to(like.device)


def _examples(series: TimeSeries, shown: Tensor, asked: Tensor) -> Examples:
    """The cells (B, L, D) that are shown, and those that are asked at the times of their rows."""
    place, some = _together(asked.any(dim=-1))  # (B, Q)
    times = torch.where(some, series.times.gather(1, place), torch.nan)
    wanted = _rows(asked, place) & some.unsqueeze(-1)  # (B, Q, D)
    targets = torch.where(wanted, _rows(series.values, place), torch.nan)
    return Examples(_shown(series, shown), _ids(series), None, times, targets, wanted)


def _shown(series: TimeSeries, shown: Tensor) -> TimeSeries:
    """The series of the cells (B, L, D) alone, without the rows that hold none of them."""
    place, some = _together(shown.any(dim=-1))  # (B, K)
    observed = _rows(shown, place) & some.unsqueeze(-1)  # (B, K, D)
    values = torch.where(observed, _rows(series.values, place), torch.nan)
    times = torch.where(some, series.times.gather(1, place), 0)
    return TimeSeries(values, times, observed, some.sum(dim=1), series.static)


def _together(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Flagged rows (B, L) moved to the front in their order: where each was (B, K), and which of the K there are."""
    counts = rows.sum(dim=1)  # (B,)
    longest = int(counts.max()) if len(counts) else 0
    place = torch.argsort((~rows).byte(), dim=1, stable=True)[:, :longest]  # (B, K)
    return place, torch.arange(longest, device=rows.device) < counts.unsqueeze(1)


def _rows(part: Tensor, place: Tensor) -> Tensor:
    """The rows (B, K) of a part (B, L, D)."""
    return part.gather(1, place.unsqueeze(-1).expand(-1, -1, part.shape[-1]))  # (B, K, D)


def _ids(series: TimeSeries) -> np.ndarray:
    return np.arange(series.batch)
