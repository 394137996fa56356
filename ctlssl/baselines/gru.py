"""GRU with the gap as an input: the recurrent baseline that has no continuous time of its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.model_state import Hidden, ModelState, Pooled, Seen
from ctlssl.series import TimeSeries

__all__ = ["GRU"]


class GRU(Model):
    """Gated recurrent units over the observations; gaps, ages and elapsed time are inputs among others.

    h_k = GRU(h_{k-1}, x_k). At a query the unit reads the query's row, in which nothing is seen and the times are the
    query's, from the state of the last observation before it, and keeps nothing of it.

    Args:
        problem: what is asked.
        width: W, of the encoder and of the hidden state.
        layers: stacked units.
        dropout: in the head and between layers.

    References:
        Cho et al. (2014), Learning Phrase Representations using RNN Encoder-Decoder, arXiv:1406.1078.
        Che et al. (2018), Recurrent Neural Networks for Multivariate Time Series with Missing Values,
        arXiv:1606.01865 (the inputs: filled values, flags and the time since each was seen).

    >>> import torch
    >>> model = GRU(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(self, problem: Problem, width: int = 32, *, layers: int = 1, dropout: float = 0.5) -> None:
        super().__init__(problem)
        self.encoder = Encoder(problem, width)
        self.units = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = head(problem, width, dropout)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state, None if state is None else self.initial_state(0))
        encoded = self.encoder(series, query_times, rate, None if state is None else state.seen)
        committed = encoded.rows.compact()
        hidden = take(encoded.features, committed.position)  # (B, K, W)
        queries = encoded.rows.at_queries(encoded.features)  # (B, Q, W)
        kept = self.initial_state(series.batch).layers if state is None else state.layers
        layers = []
        for depth, (unit, before) in enumerate(zip(self.units, kept, strict=True)):
            hidden, queries = (self.dropout(hidden), self.dropout(queries)) if depth else (hidden, queries)
            start = before.h.to(hidden.dtype)  # (B, W)
            # Padding follows the last observation, so that nothing flows from it to what is read.
            states = unit(hidden, start.unsqueeze(0))[0]  # (B, K, W)
            queries = _peek(unit, queries, committed.at_queries(states, start))
            layers.append(Hidden(committed.at_end(states, start)))
            hidden = states
        pooled = self.head.gather(hidden, committed.inside, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, queries)
        return replace(prediction, state=ModelState(encoded.seen, tuple(layers), pooled))

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        like, width = self.encoder.linear.weight, self.encoder.linear.out_features
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            tuple(Hidden(like.new_zeros(batch, width)) for _ in self.units),
            None if self.problem.asks_queries else Pooled.nothing(batch, width, like),
        )


def _peek(unit: nn.GRU, queries: Tensor, before: Tensor) -> Tensor:
    """One step of the unit at every query (B, Q, W), from the state before it (B, Q, W): (B, Q, W)."""
    if queries.numel() == 0:
        return queries
    step = unit(queries.reshape(-1, 1, queries.shape[-1]), before.reshape(1, -1, before.shape[-1]))[0]
    return step.view_as(before)
