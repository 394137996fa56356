"""The residual stack that every model of layers is, whatever its layers are."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ctlssl.channel_summaries import SummaryReadout
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.deep_summaries import DeepSummaryReadout
from ctlssl.encoders import Encoded, Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Backward, take
from ctlssl.model_state import ModelState, Pooled, Seen, Summed
from ctlssl.piecewise_linear import piecewise_linear
from ctlssl.series import TimeSeries
from ctlssl.step_size import SLOWEST_POLE
from ctlssl.views import State

__all__ = ["POOLING", "Stack", "step_range_of"]

POOLING = ("mean", "max", "last")
_READOUTS = {True: SummaryReadout, "deep": DeepSummaryReadout}


class Stack(Model, ABC):
    """Encoder, a stack of residual blocks around layers that know the gaps, and the head of the problem.

    Each block is h + dropout(mix(GELU(layer(norm(h))))); the mixing is a gated linear map of the channels at one time.
    Queries pass through all layers without being committed.

    Args:
        problem: what is asked.
        width: W, channels of the layers.
        make: builds a layer of W inputs and W outputs, called as `LSSL` is.
        layers: blocks.
        bidirectional: each block has a second layer, of its own parameters, that reads each series from its end; what
            is asked at a time is then answered from the observations on both sides. Such a model keeps no state.
        dropout: of each block and the head.
        summaries: True: a `SummaryReadout` stands beside the head, "deep": a `DeepSummaryReadout`; not where queries
            are asked.
        channel_dropout: share of the channels of each series that are taken as never observed, while training.
        carried: False: the encoder shows a value in its own row alone, see `Encoder`.
        pooling: which of "mean", "max" and "last" of the features over the observations the head reads.
        pieces: into which the encoder cuts the values, see `Encoder`.
        span_pieces: into which the time from the first to the last observation, up to a horizon, is cut for the head,
            which can then tell any length from any other; 0: the head reads it of the features alone. Not where
            queries are asked.
        fading: time constant, in horizons, of what the summaries tell of late changes, see `ChannelSummaries`; 0 none.
        statistics: the head reads what is summarized as numbers too, beside the pooled features and the static part, so
            that it can tell what several of them mean together; with summaries.
        input_gate: each layer reads u * sigmoid(linear(u)) in place of u, what comes out of the norm of its block.
    """

    def __init__(
        self,
        problem: Problem,
        width: int,
        make: Callable[[], nn.Module],
        layers: int,
        bidirectional: bool,
        dropout: float,
        summaries: bool | str = False,
        channel_dropout: float = 0.0,
        carried: bool = True,
        pooling: Sequence[str] = POOLING,
        pieces: int = 0,
        span_pieces: int = 0,
        fading: float = 0.0,
        statistics: bool = False,
        input_gate: bool = False,
    ) -> None:
        super().__init__(problem)
        if (fading or statistics) and not summaries:
            raise ValueError(f"fading is {fading!r}, statistics {statistics!r}: use them with summaries=True")
        if isinstance(span_pieces, bool) or not isinstance(span_pieces, int) or span_pieces < 0:
            raise ValueError(f"span_pieces is {span_pieces!r}; it is a whole number from 0 on")
        if span_pieces and problem.asks_queries:
            raise ValueError("the length of a whole series tells a query of what comes after it; use span_pieces=0")
        self.span_pieces = span_pieces
        if unknown := set(pooling) - set(POOLING):
            raise ValueError(f"pooling {sorted(unknown)} is unknown; there are {', '.join(POOLING)}")
        self.pooling = tuple(pooling)
        self.bidirectional = bidirectional
        self.encoder = Encoder(problem, width, carried, channel_dropout, pieces)
        self.blocks = nn.ModuleList(_Block(make, width, bidirectional, dropout, input_gate) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        told = replace(problem, static=problem.static + span_pieces)
        self.statistics = statistics
        numbers = (7 if fading else 5) * problem.channels if statistics else 0
        self.head = head(replace(told, static=told.static + numbers), width, dropout)
        if summaries not in (False, *_READOUTS):
            raise ValueError(f"summaries is {summaries!r}; it is False, True or 'deep'")
        self.readout = _READOUTS[summaries](told, width, dropout, fading) if summaries else None

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
        rows, hidden, layers = encoded.rows, encoded.features, []  # (B, R, W)
        first = self.problem.first_gap / encoded.rate  # (B,)
        behind = rows.backward(first, self.problem.time_scale) if self.bidirectional else None
        for i, block in enumerate(self.blocks):
            hidden, after = block(hidden, encoded, None if state is None else state.layers[i], behind)
            layers.append(after)
        hidden = self.norm(hidden)  # (B, R, W)
        pooled = self.head.gather(hidden, rows.committed, None if state is None else state.pooled)
        encoded, summed = self._with_span(encoded) if self.span_pieces else encoded, None
        if self.readout is not None:
            summed = self.readout.summaries.gather(encoded, None if state is None else state.summed)
        told = self._with_statistics(encoded, summed) if self.statistics else encoded
        prediction = self.head.answer(told, self._chosen(pooled), rows.at_queries(hidden))
        if self.readout is not None:
            prediction = self.readout(prediction, encoded, summed)
        if self.bidirectional:
            return prediction
        return replace(prediction, state=ModelState(encoded.seen, tuple(layers), pooled, summed))

    def _chosen(self, pooled: Pooled | None) -> Pooled | None:
        """What is pooled, with zeros for what is not read."""
        if pooled is None or set(self.pooling) == set(POOLING):
            return pooled
        parts = {"mean": pooled.total, "max": pooled.most, "last": pooled.last}
        kept = [part if name in self.pooling else torch.zeros_like(part) for name, part in parts.items()]
        return Pooled(pooled.count, *kept)

    def _with_span(self, encoded: Encoded) -> Encoded:
        """With the time from the first to the last observation in pieces as further covariates, (B, S + P)."""
        span = (encoded.seen.time - encoded.seen.start) * encoded.rate / self.problem.horizon  # (B,)
        told = piecewise_linear(span.to(encoded.features.dtype).unsqueeze(1), 0.0, 1.0, self.span_pieces)  # (B, P)
        return _told(encoded, told)

    def _with_statistics(self, encoded: Encoded, summed: Summed) -> Encoded:
        """With what is summarized as further covariates."""
        return _told(encoded, self.readout.summaries.statistics(summed, encoded.seen))

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        if self.bidirectional:
            raise ValueError("a bidirectional model reads whole series from both ends: it keeps and takes no state")
        like = self.norm.weight
        forecasts = self.problem.asks_queries
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            tuple(block.layer.initial_state(batch) for block in self.blocks),
            None if forecasts else Pooled.nothing(batch, len(like), like),
            None if self.readout is None else self.readout.summaries.nothing(batch, like),
        )


def _told(encoded: Encoded, more: Tensor) -> Encoded:
    """With further covariates (B, M) behind the static part."""
    return replace(encoded, static=more if encoded.static is None else torch.cat([encoded.static, more], dim=1))


class _Block(nn.Module):
    """h + dropout(mix(GELU(layer(norm(h))))), where the layer may be a sum of two that read from the two ends.

    With an input gate the layer reads u * sigmoid(linear(u)), u = norm(h).
    """

    def __init__(
        self, make: Callable[[], nn.Module], width: int, bidirectional: bool, dropout: float, input_gate: bool
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = make()
        self.backward_layer = make() if bidirectional else None
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU(dim=-1))
        self.dropout = nn.Dropout(dropout)
        self.input_gate = nn.Linear(width, width) if input_gate else None

    def forward(
        self, hidden: Tensor, encoded: Encoded, state: State | None, behind: Backward | None
    ) -> tuple[Tensor, State]:
        rows, u = encoded.rows, self.norm(hidden)  # (B, R, W)
        if self.input_gate is not None:
            u = self._gated(u) if self.training else rows.apart(self._gated, u)
        clock = {"lengths": rows.lengths, "rate": encoded.rate}
        y, state = self.layer(u, encoded.gaps, state=state, is_query=rows.is_query, **clock)  # (B, R, W)
        if behind is not None:
            turned, _ = self.backward_layer(take(u, behind.place), behind.dt, is_query=behind.is_query, **clock)
            y = y + take(turned, behind.place)
        mixed = self.mix(y) if self.training else rows.apart(self.mix, y)
        return hidden + self.dropout(mixed), state

    def _gated(self, u: Tensor) -> Tensor:
        return u * torch.sigmoid(self.input_gate(u))


def step_range_of(problem: Problem) -> tuple[float, float]:
    """Smallest and largest step size whose time constants, 1 / (step * slowest pole), span the problem.

    They run from one unit of the clock to the horizon, in units of the clock.

    Args:
        problem: whose `time_scale` is the unit, and `horizon` the longest time.
    """
    fastest = 1.0 / SLOWEST_POLE
    spans = max(problem.horizon / problem.time_scale, 10.0)
    return fastest / spans, fastest
