"""The residual stack of linear state-space layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.layers import LSSL
from ctlssl.series import TimeSeries

__all__ = ["LSSLModel"]

_SLOWEST_POLE = 0.5  # the poles of the measures start at real part -1/2 or beyond


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
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        self.encoder = Encoder(problem, width)
        self.blocks = nn.ModuleList(
            _Block(
                LSSL(
                    width,
                    state_size,
                    structure=structure,
                    measure=measure,
                    method=method,
                    step_range=_step_range(problem),
                    learn=learn,
                    multi_input=multi_input,
                ),
                width,
                dropout,
            )
            for _ in range(layers)
        )
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
        rows, hidden = encoded.rows, encoded.features  # (B, R, W)
        for block in self.blocks:
            hidden = block(hidden, encoded.gaps, rows.lengths, rows.is_query, encoded.rate)
        hidden = self.norm(hidden)  # (B, R, W)
        return self.head(encoded, hidden, rows.committed, rows.at_queries(hidden))


class _Block(nn.Module):
    """h + dropout(mix(GELU(layer(norm(h)))))."""

    def __init__(self, layer: LSSL, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = layer
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU(dim=-1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, dt: Tensor, lengths: Tensor, is_query: Tensor, rate: Tensor) -> Tensor:
        y, _ = self.layer(self.norm(hidden), dt, lengths=lengths, is_query=is_query, rate=rate)  # (B, R, W)
        return hidden + self.dropout(self.mix(y))


def _step_range(problem: Problem) -> tuple[float, float]:
    """Steps whose time constants, 1 / (step * slowest pole), run from one unit of the clock to the horizon."""
    fastest = 1.0 / _SLOWEST_POLE
    spans = max(problem.horizon / problem.time_scale, 10.0)
    return fastest / spans, fastest
