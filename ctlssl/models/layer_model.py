"""The residual stack around any layer of the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ctlssl.contract import Problem
from ctlssl.layers import FAMILY
from ctlssl.models.stack import POOLING, Stack, step_range_of

__all__ = ["LayerModel"]


class LayerModel(Stack):
    """Encoder, a stack of residual blocks around layers of one kind, and the head of the problem.

    The same stack as `LSSLModel`, so that two layers can be compared with all else equal. Step sizes start as there:
    time constants spread between one unit of the clock and `problem.horizon`.

    Args:
        problem: what is asked.
        width: W, channels of the layers.
        layer: name of the layer, one of `ctlssl.layers.FAMILY`.
        layers: blocks.
        options: further arguments of the layer, JSON values.
        step_range: smallest and largest step size at the start, in units of the clock; None reads them from `problem`.
        bidirectional: each block has a second layer that reads each series from its end; such a model keeps no state.
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
        input_gate: each layer reads u * sigmoid(linear(u)) in place of u, see `Stack`.

    Raises:
        ValueError: a layer that does not exist.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985, for the block.

    >>> model = LayerModel(Problem("classification", channels=2, outputs=2), width=8, layer="signed")
    >>> model.blocks[0].layer.channels
    8
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        layer: str,
        layers: int = 1,
        options: Mapping[str, Any] | None = None,
        step_range: tuple[float, float] | None = None,
        bidirectional: bool = False,
        dropout: float = 0.5,
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
        if layer not in FAMILY:
            raise ValueError(f"no layer {layer!r}; there are {', '.join(FAMILY)}")
        steps = step_range_of(problem) if step_range is None else tuple(step_range)
        make = partial(FAMILY[layer], width, step_range=steps, **(options or {}))
        reading = summaries, channel_dropout, carried, pooling, pieces, span_pieces, fading, statistics, input_gate
        super().__init__(problem, width, make, layers, bidirectional, dropout, *reading)
