"""The model that reads every observed cell as an event of its own channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.events import Events
from ctlssl.heads import head
from ctlssl.layers import EventLSSL
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    import xarray

__all__ = ["EventModel"]

_SLOWEST_POLE = 0.5  # the poles of the measures start at real part -1/2 or beyond


class EventModel(Model):
    """Encoder of the rows, beside it one system that reads the cells as events, and the head of the problem.

    h = e + dropout(mix(GELU(y))): e are the features of the encoder, y the outputs of an `EventLSSL` at the times of
    the rows and of the queries. A channel that was not observed in a row adds nothing there, and its next value has the
    step of its own gap. Treatment that is planned may stand in the series later than the queries before it: a channel
    with hold "impulse" (doses) or "previous" (infusions) acts from its time on. Keeps no state from chunk to chunk.

    Args:
        problem: what is asked.
        width: W, outputs of the system.
        state_size: N real dimensions of the state.
        structure: of A, as in `EventLSSL`.
        measure: start of A.
        method: discretization.
        holds: one hold for all channels, or one for each of the problem's.
        tail: what a channel does from its own last event on, "zero" or "held".
        learn: which of "A", "B" and "step" are trained.
        dropout: of the mixing and the head.

    References:
        Smith, Warrington, Linderman (2023), S5, for one system with many inputs.

    >>> model = EventModel(Problem("regression", channels=2, outputs=1), width=8, holds=("next", "impulse"))
    >>> seen = torch.tensor([[[True, False], [False, True], [True, True]]])
    >>> series = TimeSeries(torch.ones(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).mean.shape
    torch.Size([1, 1])
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        state_size: int = 16,
        structure: str = "diagonal",
        measure: str = "legs",
        method: str = "zoh",
        holds: str | Sequence[str] | None = None,
        tail: str = "zero",
        learn: Sequence[str] = ("A", "B", "step"),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        self.encoder = Encoder(problem, width)
        # Time constants, 1 / (step * slowest pole), run from one unit of the clock to the horizon.
        spans = max(problem.horizon / problem.time_scale, 10.0)
        steps = 1 / _SLOWEST_POLE / spans, 1 / _SLOWEST_POLE
        self.layer = EventLSSL(
            problem.channels, state_size, width, structure, measure, method, holds, tail, step_range=steps, learn=learn
        )
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU(dim=-1))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.head = head(problem, width, dropout)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: object | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state)
        encoded = self.encoder(series, query_times, rate)
        rows = encoded.rows
        asked = torch.where(rows.inside, rows.times, torch.nan)  # (B, R)
        pace = encoded.rate / self.problem.time_scale  # (B,)
        first = self.problem.first_gap / encoded.rate  # (B,)
        y, _ = self.layer(Events.from_series(series), asked, rate=pace, first=first)  # (B, R, W)
        hidden = self.norm(encoded.features + self.dropout(self.mix(y.to(encoded.features.dtype))))
        return self.head(encoded, hidden, rows.committed, rows.at_queries(hidden))

    def timescales(self) -> xarray.Dataset:
        """Half-lives of the modes of the layer, in the unit of the data's times: see `ctlssl.timescales`."""
        from ctlssl.half_lives import timescales

        return timescales(self)
