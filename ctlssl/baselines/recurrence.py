"""What the recurrent baselines have in common: a hidden state of each series that goes from observation to observation.

The loop goes over rows, since every step needs the one before; all that does not is formed for all rows at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoded, Encoder
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.model_state import Hidden, ModelState, Pooled, Seen
from ctlssl.series import TimeSeries

__all__ = ["EncodedRecurrence", "Recurrence"]


class Recurrence(Model, ABC):
    """h_k = step(h_{k-1}, row_k) over the observations; at a query one step more, of which nothing is kept.

    Args:
        problem: what is asked.
        width: W, of the hidden state.
        dropout: in the head.
    """

    def __init__(self, problem: Problem, width: int, dropout: float) -> None:
        super().__init__(problem)
        self.width = width
        self.head = head(problem, width, dropout)

    @abstractmethod
    def _encode(
        self, series: TimeSeries, query_times: Tensor | None, rate: float | Tensor, before: Seen | None
    ) -> tuple[Encoded, Tensor]:
        """The rows, and (B, R, F) all that the step reads of each."""

    @abstractmethod
    def _prepare(self, inputs: Tensor) -> Tensor:
        """What does not depend on the hidden state, for all rows at once: (B, K, F) -> (B, K, G)."""

    @abstractmethod
    def _step(self, hidden: Tensor, row: Tensor) -> Tensor:
        """The hidden state after a row: (n, W) and (n, G) -> (n, W)."""

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state, None if state is None else self.initial_state(0))
        encoded, inputs = self._encode(series, query_times, rate, None if state is None else state.seen)
        committed = encoded.rows.compact()
        (kept,) = self.initial_state(series.batch).layers if state is None else state.layers
        start = kept.h.to(inputs.dtype)  # (B, W)
        # Observations and queries apart, so that no query changes the rounding at an observation.
        rows = self._prepare(take(inputs, committed.position))  # (B, K, G)
        hidden = walk(self._step, start, committed.counts, rows)  # (B, K, W)
        queries = committed.at_queries(hidden, start)  # (B, Q, W)
        if queries.numel():
            asked = self._prepare(encoded.rows.at_queries(inputs))  # (B, Q, G)
            queries = self._step(queries.flatten(0, 1), asked.flatten(0, 1)).view_as(queries)
        pooled = self.head.gather(hidden, committed.inside, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, queries)
        layers = (Hidden(committed.at_end(hidden, start)),)
        return replace(prediction, state=ModelState(encoded.seen, layers, pooled))

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        like = next(self.parameters())
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            (Hidden(like.new_zeros(batch, self.width)),),
            None if self.problem.asks_queries else Pooled.nothing(batch, self.width, like),
        )


class EncodedRecurrence(Recurrence, ABC):
    """A recurrence that reads the encoder's features and the gap of each row: F = W + 1, the gap last.

    The gap is in units of the clock, times the rate.

    Args:
        problem: what is asked.
        width: W, of the encoder and of the hidden state.
        dropout: in the head.
    """

    def __init__(self, problem: Problem, width: int, dropout: float) -> None:
        super().__init__(problem, width, dropout)
        self.encoder = Encoder(problem, width)

    def _encode(
        self, series: TimeSeries, query_times: Tensor | None, rate: float | Tensor, before: Seen | None
    ) -> tuple[Encoded, Tensor]:
        encoded = self.encoder(series, query_times, rate, before)
        gaps = (encoded.gaps * encoded.rate.unsqueeze(-1)).to(encoded.features.dtype)  # (B, R)
        return encoded, torch.cat([encoded.features, gaps.unsqueeze(-1)], dim=-1)  # (B, R, W + 1)
