"""The residual stack of linear state-space layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ctlssl.contract import Problem
from ctlssl.layers import LSSL
from ctlssl.models.stack import POOLING, Stack, step_range_of
from ctlssl.step_size import StepSize

if TYPE_CHECKING:
    import xarray

__all__ = ["LSSLModel"]


class LSSLModel(Stack):
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
        summaries: what summary statistics of every channel say is added to what the head says; for values in normal
            scores, and not for forecasts. True: nearly a sum of terms of one number each, see
            `ctlssl.channel_summaries`; "deep": a deep network on fewer, see `ctlssl.deep_summaries`.
        channel_dropout: share of the channels of each series that are taken as never observed, while training.
        carried: False: the encoder shows a value in its own row alone, not until the next.
        pooling: which of "mean", "max" and "last" of the features over the observations the head reads.
        pieces: into which the encoder cuts the normal scores, so that it can tell both ends from the middle; 0 none.
        span_pieces: into which the time from first to last observation is cut for the head, see `Stack`; 0 none.
        fading: time constant, in horizons, of what the summaries tell of late changes, see `ChannelSummaries`; 0 none.
        statistics: the head reads what is summarized as numbers too, see `Stack`.
        blocks: in which a diagonal A starts, as in `LSSL`.
        input_gate: each layer reads u * sigmoid(linear(u)) in place of u, see `Stack`.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985.

    >>> import torch
    >>> model = LSSLModel(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> from ctlssl import TimeSeries
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
        blocks: int = 1,
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
        make = partial(
            LSSL,
            width,
            state_size,
            structure=structure,
            measure=measure,
            method=method,
            step_range=step_range_of(problem) if step_range is None else tuple(step_range),
            learn=learn,
            multi_input=multi_input,
            step_size=step_size,
            blocks=blocks,
        )
        reading = summaries, channel_dropout, carried, pooling, pieces, span_pieces, fading, statistics, input_gate
        super().__init__(problem, width, make, layers, bidirectional, dropout, *reading)

    def timescales(self) -> xarray.Dataset:
        """Half-lives of the modes of every layer, in the unit of the data's times: see `ctlssl.timescales`."""
        from ctlssl.half_lives import timescales

        return timescales(self)
