"""RNN-Decay: a gated recurrent unit whose hidden state decays exponentially between observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctlssl.baselines.recurrence import EncodedRecurrence
from ctlssl.contract import Problem

__all__ = ["RNNDecay"]


class RNNDecay(EncodedRecurrence):
    """h_k = GRU(exp(-r gap_k) h_{k-1}, x_k): the hidden state falls to 0 between observations, at a rate a unit.

    The learned rates r, in 1 / units of the clock, start spread between 1 / horizon and 1. The state decays to query
    times as it does to observations, and the unit reads the query's row; nothing of that is kept.

    Args:
        problem: what is asked.
        width: W, of the encoder and of the hidden state.
        dropout: in the head.

    References:
        Rubanova et al. (2019), Latent Ordinary Differential Equations for Irregularly-Sampled Time Series,
        arXiv:1907.03907 (one rate for all units there).
        Mozer, Kazakov, Lindsey (2017), Discrete-Event Continuous-Time Recurrent Nets, arXiv:1710.04110.

    >>> from ctlssl.series import TimeSeries
    >>> model = RNNDecay(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(self, problem: Problem, width: int = 32, *, dropout: float = 0.5) -> None:
        super().__init__(problem, width, dropout)
        spans = max(problem.horizon / problem.time_scale, 1.0)
        self.log_rate = nn.Parameter(torch.linspace(-math.log(spans), 0.0, width))  # (W,)
        self.unit = nn.GRUCell(width, width)

    def _prepare(self, inputs: Tensor) -> Tensor:
        features, gaps = inputs.split([self.width, 1], dim=-1)  # (B, K, W), (B, K, 1)
        return torch.cat([features, torch.exp(-gaps * self.log_rate.exp())], dim=-1)  # (B, K, 2 W)

    def _step(self, hidden: Tensor, row: Tensor) -> Tensor:
        features, kept = row.chunk(2, dim=-1)  # (n, W)
        return self.unit(features, kept * hidden)
