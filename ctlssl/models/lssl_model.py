"""The residual stack of linear state-space layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoded, Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Backward, take
from ctlssl.layers import LSSL
from ctlssl.model_state import ModelState, Pooled, Seen
from ctlssl.series import TimeSeries
from ctlssl.step_size import SLOWEST_POLE, StepSize
from ctlssl.views import State

if TYPE_CHECKING:
    import xarray

__all__ = ["LSSLModel"]


class LSSLModel(Model):
    """Encoder, a stack of residual blocks around linear state-space layers, and the head of the problem.

    Each block is h + dropout(mix(GELU(LSSL(norm(h))))): the state-space layer is linear in its input and knows the
    gaps; the mixing is a gated linear map of the channels at one time. Time constants start spread between one unit of
    the clock, `problem.time_scale`, and `problem.horizon`. Queries pass through all layers without being committed.

    Args:
        problem: what is asked.
        width: W, channels of the layers.
        layers: blocks.
        state_size: N real dimensions of the state, of each channel where `multi_input` is False.
        structure: of A: "dense", "diagonal", "dplr" or "quasiseparable".
        measure: start of A and B.
        method: discretization; the exact "zoh" by default, since "bilinear" rings at the huge gaps of real records.
        learn: which of "A", "B" and "step" are trained.
        multi_input: one system reads all channels; False: one system a channel, as in the paper.
        bidirectional: each block has a second layer, of its own parameters, that reads each series from its end; what
            is asked at a time is then answered from the observations on both sides. Such a model keeps no state.
        step_size: of the layers: a name, a `StepSize` or its fields, as in `LSSL`.
        step_range: smallest and largest step size at the start, in units of the clock, such as
            `step_range_from_gaps(train.series, time_scale=problem.time_scale)`; None reads them from the problem.
        dropout: of each block and the head.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985.

    >>> import torch
    >>> model = LSSLModel(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        layers: int = 1,
        state_size: int = 16,
        structure: str = "diagonal",
        measure: str = "legs",
        method: str = "zoh",
        learn: Sequence[str] = ("A", "B", "step"),
        multi_input: bool = True,
        bidirectional: bool = False,
        step_size: str | Mapping[str, Any] | StepSize = "plain",
        step_range: tuple[float, float] | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        self.bidirectional = bidirectional
        self.encoder = Encoder(problem, width)
        make = partial(
            LSSL,
            width,
            state_size,
            structure=structure,
            measure=measure,
            method=method,
            step_range=_step_range(problem) if step_range is None else tuple(step_range),
            learn=learn,
            multi_input=multi_input,
            step_size=step_size,
        )
        self.blocks = nn.ModuleList(_Block(make, width, bidirectional, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
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
        rows, hidden, layers = encoded.rows, encoded.features, []  # (B, R, W)
        behind = rows.backward(self.problem.first_gap, self.problem.time_scale) if self.bidirectional else None
        for i, block in enumerate(self.blocks):
            hidden, after = block(hidden, encoded, None if state is None else state.layers[i], behind)
            layers.append(after)
        hidden = self.norm(hidden)  # (B, R, W)
        pooled = self.head.gather(hidden, rows.committed, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, rows.at_queries(hidden))
        if self.bidirectional:
            return prediction
        return replace(prediction, state=ModelState(encoded.seen, tuple(layers), pooled))

    def timescales(self) -> xarray.Dataset:
        """Half-lives of the modes of every layer, in the unit of the data's times: see `ctlssl.timescales`."""
        from ctlssl.half_lives import timescales

        return timescales(self)

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        if self.bidirectional:
            raise ValueError("a bidirectional model reads whole series from both ends: it keeps and takes no state")
        like = self.norm.weight
        forecasts = self.problem.kind == "forecasting"
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            tuple(block.layer.initial_state(batch) for block in self.blocks),
            None if forecasts else Pooled.nothing(batch, len(like), like),
        )


class _Block(nn.Module):
    """h + dropout(mix(GELU(layer(norm(h))))), where the layer may be a sum of two that read from the two ends."""

    def __init__(self, make: Callable[[], LSSL], width: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = make()
        self.backward_layer = make() if bidirectional else None
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU(dim=-1))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, encoded: Encoded, state: State | None, behind: Backward | None
    ) -> tuple[Tensor, State]:
        rows, u = encoded.rows, self.norm(hidden)  # (B, R, W)
        clock = {"lengths": rows.lengths, "rate": encoded.rate}
        y, state = self.layer(u, encoded.gaps, state=state, is_query=rows.is_query, **clock)  # (B, R, W)
        if behind is not None:
            turned, _ = self.backward_layer(take(u, behind.place), behind.dt, is_query=behind.is_query, **clock)
            y = y + take(turned, behind.place)
        mixed = self.mix(y) if self.training else rows.apart(self.mix, y)
        return hidden + self.dropout(mixed), state


def _step_range(problem: Problem) -> tuple[float, float]:
    """Steps whose time constants, 1 / (step * slowest pole), run from one unit of the clock to the horizon."""
    fastest = 1.0 / SLOWEST_POLE
    spans = max(problem.horizon / problem.time_scale, 10.0)
    return fastest / spans, fastest
