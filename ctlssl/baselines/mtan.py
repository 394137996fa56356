"""mTAN: attention from reference points in time to the observations of every channel, by learned embeddings of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import readings
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.series import TimeSeries

__all__ = ["MTAN"]

_LEAST = -60.0  # of a logarithm of a weight below the largest: what is summed stays within the range of float32


class MTAN(Model):
    r"""Observations are interpolated at reference points by attention over time; a gated unit reads these in order.

    With the embedding p(t) = [w_0 t + a_0, sin(w_1 t + a_1), ...] and the observations s of channel d,

        x^_hd(t) = sum_s softmax_s(p(t) Q_h . p(s) K_h / sqrt(E_h)) x_d(s)      mTAN(t) = U [x^_hd(t), c_d]

    where the softmax is over the observations of channel d alone and c_d says whether there are any. Classification
    and regression (the paper's mTAND-Enc) pool the states of a GRU over `references` points spread over the horizon.

    A forecast may read nothing after its time: a reference point then attends to the observations up to it, and a
    query is one more reference point, at its own time and behind those up to it, of which nothing is kept. (The
    variational decoder of the paper's mTAND-Full reads the whole series for every time.)

    The sines start at speeds spread from 1 to `references` a horizon; the released code starts all below 1, where every
    point reads almost the same mean.

    t is the time since the series began, in horizons; beyond the horizon it goes on as 1 + log t, so that no record is
    too long. The model reads whole series and keeps no state from one chunk to the next: a new observation changes
    what earlier reference points read.

    Args:
        problem: what is asked.
        width: W, of the interpolated features and of the GRU.
        references: points over the horizon, evenly spread.
        embedding: E, features of a time.
        heads: of the attention; they share E.
        dropout: in the head.

    Raises:
        ValueError: fewer than 2 reference points, or an embedding that the heads cannot share.

    References:
        Shukla, Marlin (2021), Multi-Time Attention Networks for Irregularly Sampled Time Series, arXiv:2101.10318.

    >>> model = MTAN(Problem("classification", channels=2, outputs=2), width=8)
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
        references: int = 128,
        embedding: int = 32,
        heads: int = 1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        if references < 2:
            raise ValueError(f"references is {references}; at least 2 points span a horizon")
        self.time = _TimeEmbedding(embedding, references)
        self.attention = _TimeAttention(embedding, heads)
        self.values = nn.Linear((heads + 1) * problem.channels, width)
        self.unit = nn.GRU(width, width, batch_first=True)
        self.head = head(problem, width, dropout)
        self.references = references

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: object | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state)
        encoded = readings(self.problem, series, query_times, rate, None, self.values.weight.new_zeros(series.channels))
        rows, committed = encoded.rows, encoded.rows.compact()
        clock = encoded.since_start / self.problem.horizon  # (B, R) float64
        seen_at = take(clock.unsqueeze(-1), committed.position).squeeze(-1)  # (B, K)
        filled, present, _ = take(encoded.features, committed.position).chunk(3, dim=-1)  # (B, K, D)
        keys = self.attention.key(self._embed(seen_at))  # (B, K, E)
        points = torch.linspace(0.0, 1.0, self.references, dtype=clock.dtype, device=clock.device)[None]  # (1, T)
        inside, causal = committed.inside.unsqueeze(1), self.problem.asks_queries  # (B, 1, K)
        allowed = inside & (seen_at.unsqueeze(1) <= points.unsqueeze(-1)) if causal else inside  # (B, T or 1, K)
        states, _ = self.unit(self._interpolate(self._embed(points), keys, filled, present, allowed))  # (B, T, W)
        everything = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)  # (B, T)
        if not causal:
            return self.head(encoded, states, everything, states[:, :0])
        asked, last = rows.at_queries(clock.unsqueeze(-1)), committed.before_query  # (B, Q, 1), (B, Q)
        place = torch.arange(keys.shape[1], device=keys.device)
        allowed = inside & (place <= last.unsqueeze(-1))  # (B, Q, K)
        read = self._interpolate(self._embed(asked.squeeze(-1)), keys, filled, present, allowed)  # (B, Q, W)
        passed = torch.where(last >= 0, (points <= asked).sum(dim=-1), 0)  # (B, Q): reference points before it
        before = take(nn.functional.pad(states, (0, 0, 1, 0)), passed)  # (B, Q, W)
        return self.head(encoded, states, everything, self._peek(read, before))

    def extra_repr(self) -> str:
        """The reference points."""
        return f"references={self.references}"

    def _peek(self, read: Tensor, before: Tensor) -> Tensor:
        """One step of the unit from the states before the queries: (B, Q, W)."""
        if read.numel() == 0:
            return read
        return self.unit(read.flatten(0, 1).unsqueeze(1), before.flatten(0, 1).unsqueeze(0))[0].view_as(before)

    def _embed(self, clock: Tensor) -> Tensor:
        """Times in horizons, (B, T) -> (B, T, E)."""
        late = 1 + torch.log(clock.clamp(min=1.0))
        return self.time(torch.where(clock <= 1, clock, late))

    def _interpolate(self, queries: Tensor, keys: Tensor, filled: Tensor, present: Tensor, allowed: Tensor) -> Tensor:
        """What was observed, read at embedded times (B, T, E): (B, T, W)."""
        read, some = self.attention(queries, keys, filled, present, allowed)  # (B, T, h D), (B, T, h D)
        return self.values(torch.cat([read, some[..., : filled.shape[-1]].to(read.dtype)], dim=-1))


class _TimeEmbedding(nn.Module):
    """t -> [w_0 t + a_0, sin(w_1 t + a_1), ...], learned; phases are formed in float64."""

    def __init__(self, features: int, finest: int) -> None:
        super().__init__()
        speeds = torch.logspace(0.0, math.log10(finest), features - 1)
        self.speed = nn.Parameter(torch.cat([torch.ones(1), speeds]))  # (E,)
        self.phase = nn.Parameter(torch.cat([torch.zeros(1), 2 * math.pi * torch.rand(features - 1)]))  # (E,)

    def forward(self, time: Tensor) -> Tensor:
        """(B, T) float64 -> (B, T, E)."""
        line, angles = (time.unsqueeze(-1) * self.speed + self.phase).tensor_split([1], dim=-1)
        return torch.cat([line, torch.sin(angles)], dim=-1).to(self.speed.dtype)


class _TimeAttention(nn.Module):
    """Means of values over time, weighed by embeddings of time alone; each channel's over where it is present.

    The weights are formed once for all channels and summed in products of matrices: no tensor is (T, K, D). So a
    weight below e^-60 of the largest counts as e^-60 of it.
    """

    def __init__(self, embedding: int, heads: int) -> None:
        super().__init__()
        if embedding % heads:
            raise ValueError(f"embedding is {embedding}: {heads} heads cannot share it equally")
        self.heads = heads
        self.query = nn.Linear(embedding, embedding)
        self.key = nn.Linear(embedding, embedding)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means at times (B, T, E) of values (B, K, D), (B, T, h D), and whether there was anything to be read.

        Keys (B, K, E) are mapped already; the times may be the same for all series, (1, T, E). `present` is (B, K, D),
        1 where a channel was observed; `allowed` (B, T, K).
        """
        queries = self._apart(self.query(queries)) / math.sqrt(keys.shape[-1] / self.heads)  # (B, h, T, e)
        allowed = allowed.unsqueeze(1)  # (B, 1, T, K)
        scores = queries @ self._apart(keys).transpose(-1, -2)  # (B, h, T, K)
        scores = scores.masked_fill(~allowed, -torch.inf)
        largest = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
        weights = torch.exp((scores - largest).clamp(min=_LEAST)) * allowed  # (B, h, T, K)
        sums = weights @ torch.cat([values * present, present], dim=-1).unsqueeze(1)  # (B, h, T, 2 D)
        total, weight = sums.transpose(1, 2).chunk(2, dim=-1)  # (B, T, h, D)
        some = weight > 0
        means = torch.where(some, total / torch.where(some, weight, 1.0), 0.0)
        return means.flatten(2), some.flatten(2)

    def extra_repr(self) -> str:
        """How many share the embedding."""
        return f"heads={self.heads}"

    def _apart(self, embedded: Tensor) -> Tensor:
        """(B, T, E) -> (B, h, T, e)."""
        return embedded.unflatten(-1, (self.heads, -1)).transpose(1, 2)
