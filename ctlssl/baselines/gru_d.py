"""GRU-D: a gated recurrent unit whose inputs and hidden state decay with the time since each channel was seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctlssl.baselines.recurrence import Recurrence
from ctlssl.contract import Problem
from ctlssl.encoders import Encoded, readings
from ctlssl.model_state import Seen
from ctlssl.series import TimeSeries

__all__ = ["GRUD"]


class GRUD(Recurrence):
    r"""A gated unit that reads values decaying to their mean, from a hidden state that decays too.

    With m_k what was observed, d_k the time since each channel was last seen in an earlier row (since the series began
    where it never was), in units of the clock, x' the last seen value and x~ the mean:

        g_x = exp(-max(0, w d_k + b))    x^_k = m_k x_k + (1 - m_k) (g_x x' + (1 - g_x) x~)
        g_h = exp(-max(0, W d_k + b))    h^ = g_h h_{k-1}
        z = sigmoid(W_z [x^_k, m_k] + U_z h^ + b_z)    r = sigmoid(W_r [x^_k, m_k] + U_r h^ + b_r)
        h_k = (1 - z) h^ + z tanh(W_h [x^_k, m_k] + U_h (r h^) + b_h)

    w is diagonal, a decay a channel, W full; all products with gates are elementwise. At a query nothing is observed:
    the unit reads the decayed values, and keeps nothing of it.

    Decays start slow, about 1 / horizon, and positive: a decay that starts negative is 1 at every gap, and learns
    nothing.

    Args:
        problem: what is asked.
        width: W, of the hidden state.
        means: D numbers, the mean x~ of each channel in the training part; None: 0, that of normalised values.
        dropout: in the head.

    Raises:
        ValueError: other than one mean a channel.

    References:
        Che, Purushotham, Cho, Sontag, Liu (2018), Recurrent Neural Networks for Multivariate Time Series with Missing
        Values, arXiv:1606.01865.

    >>> model = GRUD(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(
        self, problem: Problem, width: int = 32, *, means: Sequence[float] | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__(problem, width, dropout)
        D, slow = problem.channels, problem.time_scale / problem.horizon
        if means is not None and len(means) != D:
            raise ValueError(f"means has {len(means)} numbers for {D} channels; give one a channel")
        self.register_buffer("mean", torch.zeros(D) if means is None else torch.tensor(means, dtype=torch.float32))
        self.input_decay = nn.Parameter(torch.full((D,), slow))  # (D,)
        self.input_decay_bias = nn.Parameter(torch.zeros(D))  # (D,)
        self.hidden_decay = nn.Linear(D, width)
        nn.init.uniform_(self.hidden_decay.weight, 0.0, 2 * slow / D)
        nn.init.zeros_(self.hidden_decay.bias)
        self.reads = nn.Linear(2 * D, 3 * width)  # z, r, candidate of [x^, m]
        self.gates = nn.Linear(width, 2 * width, bias=False)
        self.candidate = nn.Linear(width, width, bias=False)

    def _encode(
        self, series: TimeSeries, query_times: Tensor | None, rate: float | Tensor, before: Seen | None
    ) -> tuple[Encoded, Tensor]:
        encoded = readings(self.problem, series, query_times, rate, before, self.mean)
        return encoded, encoded.features  # (B, R, 3 D)

    def _prepare(self, inputs: Tensor) -> Tensor:
        filled, observed, since = inputs.chunk(3, dim=-1)  # (B, K, D)
        kept = torch.exp(-torch.relu(since * self.input_decay + self.input_decay_bias))  # (B, K, D)
        decayed = torch.lerp(self.mean.expand_as(filled), filled, kept)
        x = torch.where(observed > 0, filled, decayed)  # (B, K, D): where observed, filled is the value itself
        hidden_kept = torch.exp(-torch.relu(self.hidden_decay(since)))  # (B, K, W)
        return torch.cat([hidden_kept, self.reads(torch.cat([x, observed], dim=-1))], dim=-1)  # (B, K, 4 W)

    def _step(self, hidden: Tensor, row: Tensor) -> Tensor:
        kept, gates, candidate = row.split([self.width, 2 * self.width, self.width], dim=-1)
        hidden = kept * hidden  # (n, W)
        gates = torch.addmm(gates, hidden, self.gates.weight.T)  # (n, 2 W)
        update, reset = torch.sigmoid(gates).chunk(2, dim=-1)  # (n, W)
        candidate = torch.tanh(torch.addmm(candidate, reset * hidden, self.candidate.weight.T))  # (n, W)
        return torch.lerp(hidden, candidate, update)
