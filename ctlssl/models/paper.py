"""The models of the LSSL paper by name, with its sizes and its training settings.

A block is h + dropout(linear(GELU(LSSL(h)))) with a LayerNorm before or after it: no gate, no perceptron. The layer is
a bank with one A in the trainable class for all channels, B shared, C and D and the step size each channel's own. A
series is answered from the mean of its rows. What a block adds to depth is mostly C (M H N) and the linear map (M H H).

References:
    Gu, Johnson, Goel, Saab, Dao, Rudra, Re (2021), Combining recurrent, convolutional, and continuous-time models with
    linear state-space layers, arXiv:2110.13985: sections 3.3, 4, appendix B and table 11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import parametrize

from ctlssl.contract import Prediction, Problem
from ctlssl.encoders import Encoded
from ctlssl.heads import around, gather, outputs_of
from ctlssl.layers import LSSL
from ctlssl.model_state import Pooled
from ctlssl.models.lssl_model import LSSLModel
from ctlssl.views import State

__all__ = ["LARGE", "PAPER_MODELS", "PAPER_SETTINGS", "SMALL", "PaperSetting", "PaperSize", "paper_model"]


@dataclass(frozen=True)
class PaperSize:
    """A size of the paper's model.

    Args:
        layers: blocks.
        width: H, channels.
        state_size: N, of each channel.
        heads: M, outputs a channel.

    Example:
        >>> SMALL.parameters, LARGE.parameters
        (196608, 2097152)
    """

    layers: int
    width: int
    state_size: int
    heads: int

    @property
    def parameters(self) -> int:
        """The paper's count, M H (H + N) a block: 200 thousand of the small model, 2 million of the large one."""
        return self.layers * self.heads * self.width * (self.width + self.state_size)


SMALL = PaperSize(layers=6, width=128, state_size=128, heads=1)
LARGE = PaperSize(layers=4, width=256, state_size=256, heads=4)


@dataclass(frozen=True)
class PaperSetting:
    """How the paper trained on a data set: Adam without weight decay, its rate divided by 5 where it stands still.

    Args:
        size: of the model.
        learning_rate: of Adam; the released code trains A at 1e-4 and the step size at 1e-3.
        dropout: of each block.
        batch_size: series.
        epochs: passes.
    """

    size: PaperSize
    learning_rate: float
    dropout: float
    batch_size: int
    epochs: int


PAPER_SETTINGS = {
    "smnist": PaperSetting(SMALL, 0.004, 0.2, 50, 200),
    "pmnist": PaperSetting(SMALL, 0.001, 0.2, 50, 200),
    "scifar": PaperSetting(LARGE, 0.02, 0.3, 50, 200),
    "bidmc-rr": PaperSetting(SMALL, 0.004, 0.1, 32, 500),
    "bidmc-hr": PaperSetting(SMALL, 0.01, 0.2, 32, 500),
    "bidmc-spo2": PaperSetting(SMALL, 0.01, 0.1, 32, 500),
    "speech-raw": PaperSetting(PaperSize(4, 256, 128, 2), 0.01, 0.2, 16, 50),
    "speech-mfcc": PaperSetting(SMALL, 0.004, 0.4, 32, 100),
    "celeba": PaperSetting(PaperSize(3, 256, 128, 4), 0.002, 0.1, 32, 200),
    "celeba-smiling": PaperSetting(PaperSize(3, 256, 128, 4), 0.01, 0.1, 32, 200),
}
"""Table 11 of the paper."""


def paper_model(
    problem: Problem,
    size: PaperSize = SMALL,
    *,
    fixed: bool = False,
    dropout: float = 0.2,
    prenorm: bool = True,
    step_range: tuple[float, float] = (1e-3, 1e-1),
    measure: str = "legs",
) -> LSSLModel:
    """The paper's model on the clock and the encoder of this library; state, queries and streams as in `LSSLModel`.

    The paper reads samples of a regular grid; here every row has its own gap, and the encoder also tells what was
    observed and when.

    Args:
        problem: what is asked.
        size: blocks, channels, states, heads.
        fixed: LSSL-fixed: A, B and the step sizes stay as they start.
        dropout: of each block.
        prenorm: LayerNorm before each block instead of after it; the paper takes one or the other by data set.
        step_range: initial step sizes in units of the clock; their reciprocals should reach the length of the series.
        measure: "legs", "legt" or "lagt".

    Example:
        >>> problem = Problem("classification", channels=1, outputs=10)
        >>> model = paper_model(problem, PaperSize(layers=2, width=16, state_size=8, heads=2))
        >>> sum(block.layer.C.numel() + block.mix.weight.numel() for block in model.blocks)
        1536
    """
    model = LSSLModel(problem, size.width, layers=0, dropout=dropout)
    learn = () if fixed else ("A", "B", "step")
    model.blocks = nn.ModuleList(
        _PaperBlock(
            LSSL(
                size.width,
                size.state_size,
                structure="quasiseparable",
                measure=measure,
                method="bilinear",
                heads=size.heads,
                step_range=step_range,
                learn=learn,
            ),
            dropout,
            prenorm,
        )
        for _ in range(size.layers)
    )
    if not problem.asks_queries:
        model.head = _MeanHead(problem, size.width)
    return model


PAPER_MODELS: dict[str, Callable[..., LSSLModel]] = {
    "lssl-small": partial(paper_model, size=SMALL),
    "lssl-large": partial(paper_model, size=LARGE),
    "lssl-fixed-small": partial(paper_model, size=SMALL, fixed=True),
    "lssl-fixed-large": partial(paper_model, size=LARGE, fixed=True),
}
"""By name, each built as `PAPER_MODELS[name](problem)`."""


class _PaperBlock(nn.Module):
    """h + dropout(mix(GELU(layer(h)))), normalised before or after."""

    def __init__(self, layer: LSSL, dropout: float, prenorm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.channels)
        self.layer, self.prenorm = layer, prenorm
        if "B" in layer.learn:
            parametrize.register_parametrization(layer, "B", _SharedRow(layer.channels))
            layer.parametrizations.B.original._no_weight_decay = True  # it is dynamics, as B of any layer
        self.activation = nn.GELU()
        self.mix = nn.Linear(layer.channels * layer.heads, layer.channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, encoded: Encoded, state: State | None, behind: None = None
    ) -> tuple[Tensor, State]:
        rows = encoded.rows
        u = self.norm(hidden) if self.prenorm else hidden  # (B, R, H)
        clock = {"lengths": rows.lengths, "rate": encoded.rate, "is_query": rows.is_query}
        y, state = self.layer(u, encoded.gaps, state=state, **clock)  # (B, R, H * M)
        y = self.activation(y)
        mixed = self.mix(y) if self.training else rows.apart(self.mix, y)  # (B, R, H)
        hidden = hidden + self.dropout(mixed)
        return (hidden if self.prenorm else self.norm(hidden)), state

    def extra_repr(self) -> str:
        """Where it is normalised."""
        return f"prenorm={self.prenorm}"


class _SharedRow(nn.Module):
    """One row (N,) for all channels (H, N)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, row: Tensor) -> Tensor:
        return row.expand(self.channels, -1)

    def right_inverse(self, rows: Tensor) -> Tensor:
        return rows[0].clone()


class _MeanHead(nn.Module):
    """One answer a series by a linear map of the mean row: logits, mean and scale, or quantiles."""

    def __init__(self, problem: Problem, width: int) -> None:
        super().__init__()
        self.problem = problem
        self.linear = nn.Linear(width + problem.static, outputs_of(problem))

    def gather(self, features: Tensor, committed: Tensor, before: Pooled | None = None) -> Pooled:
        """What is pooled after these rows (B, K, W), of which the flagged (B, K) are committed."""
        return gather(features, committed, before)

    def answer(self, encoded: Encoded, pooled: Pooled, queries: Tensor) -> Prediction:
        """Answer from what was pooled."""
        count = pooled.count.clamp(min=1).unsqueeze(-1)  # (B, 1)
        mean = pooled.total.to(pooled.most.dtype) / count  # (B, W)
        out = self.linear(mean if encoded.static is None else torch.cat([mean, encoded.static], dim=-1))
        if self.problem.answers_logits:
            return Prediction(logits=out)  # (B, outputs)
        if self.problem.quantiles:
            return around(*out.tensor_split([self.problem.outputs], dim=-1), self.problem)
        mean, raw = out.chunk(2, dim=-1)  # (B, outputs)
        return Prediction(mean=mean, scale=softplus(raw) + 1e-3)
