"""LTC: liquid time constants, whose equation is stepped by a fused semi-implicit solver."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctlssl.baselines.recurrence import EncodedRecurrence
from ctlssl.contract import Problem

__all__ = ["LTC"]


class LTC(EncodedRecurrence):
    r"""A leaky state that a nonlinear conductance pulls towards a reversal level, so that its time constant varies.

        dh/dt = -(1 / tau + f(h, x)) h + f(h, x) E        f(h, x) = g sigmoid(U h + V x + b)

    with t in units of the clock, time constants tau, conductances g > 0 and levels E of each unit learned, and x the
    row at the end of the gap. Each gap is stepped in `unfolds` equal parts d, the linear part implicitly:

        h <- (h + d f(h, x) E) / (1 + d (1 / tau + f(h, x)))

    It cannot grow at any gap. Time constants and 1 / g start spread between one unit of the clock and the horizon. A
    row acts by the time that passes under it: at gap 0, after another row at its time, it moves nothing. The state
    flows to query times as it does to observations, and nothing of that is kept.

    Args:
        problem: what is asked.
        width: W, of the encoder and of the hidden state.
        unfolds: steps a gap.
        dropout: in the head.

    Raises:
        ValueError: no step.

    References:
        Hasani, Lechner, Amini, Rus, Grosu (2020), Liquid Time-constant Networks, arXiv:2006.04439 (the
        equation and its fused solver; f is here a conductance times a sigmoid, so that no denominator can vanish).

    >>> from ctlssl.series import TimeSeries
    >>> model = LTC(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape, model.evaluations  # 3 gaps of 6 steps
    (torch.Size([1, 2]), 18)
    """

    def __init__(self, problem: Problem, width: int = 32, *, unfolds: int = 6, dropout: float = 0.5) -> None:
        super().__init__(problem, width, dropout)
        if unfolds < 1:
            raise ValueError(f"unfolds is {unfolds}; a gap takes at least 1 step")
        self.unfolds = unfolds
        slowest = math.log(max(problem.horizon / problem.time_scale, 1.0))
        self.log_tau = nn.Parameter(torch.linspace(0.0, slowest, width))  # (W,)
        self.log_conductance = nn.Parameter(-torch.linspace(0.0, slowest, width))  # (W,)
        self.level = nn.Parameter(torch.randn(width))  # (W,)
        self.reads = nn.Linear(width, width)
        self.field = nn.Linear(width, width, bias=False)

    def extra_repr(self) -> str:
        """The steps a gap."""
        return f"unfolds={self.unfolds}"

    def _prepare(self, inputs: Tensor) -> Tensor:
        features, gaps = inputs.split([self.width, 1], dim=-1)  # (B, K, W), (B, K, 1)
        return torch.cat([self.reads(features), gaps / self.unfolds], dim=-1)  # (B, K, W + 1)

    def _step(self, hidden: Tensor, row: Tensor) -> Tensor:
        read, part = row.tensor_split([-1], dim=-1)  # (n, W), (n, 1)
        leak, conductance = 1 + part * torch.exp(-self.log_tau), part * self.log_conductance.exp()  # (n, W)
        for _ in range(self.unfolds):
            self.evaluations += 1
            flow = conductance * torch.sigmoid(read + self.field(hidden))  # (n, W)
            hidden = torch.addcmul(hidden, flow, self.level) / (leak + flow)
        return hidden
