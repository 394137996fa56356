"""A transformer whose tokens are observations with an embedding of the time that passed since the series began."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.series import TimeSeries

__all__ = ["Transformer"]

_SPEEDS = 16


class Transformer(Model):
    r"""Attention among the observations, each of which knows its time.

    A token is the encoder's row plus a linear map of sin(w t) and cos(w t), with t the time since the series began, in
    units of the clock; the learned speeds w start spread from half a turn a horizon to two turns a unit. A learned
    token stands at the start, so that there is always something to attend to. With LN the LayerNorm, a block is

        x = x + attention(LN(x))        x = x + linear(GELU(linear(LN(x))))

    For one answer a series every observation attends to all; in a forecast to those up to itself. A query is a token
    that attends to the observations before it, and that nothing attends to. The model keeps no state: what an
    observation reads needs all those before it.

    Args:
        problem: what is asked.
        width: W, of the tokens.
        layers: blocks.
        heads: of the attention, each of W / heads features, rounded up.
        expansion: hidden features of a block's perceptron, in W.
        block_dropout: of what a block adds.
        dropout: in the head.

    Raises:
        ValueError: no block or no head.

    References:
        Vaswani et al. (2017), Attention Is All You Need, arXiv:1706.03762.
        Horn et al. (2020), Set Functions for Time Series, arXiv:1909.12064 (the embedding of continuous time).
        Xiong et al. (2020), On Layer Normalization in the Transformer Architecture, arXiv:2002.04745.

    >>> model = Transformer(Problem("classification", channels=2, outputs=2), width=8)
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
        layers: int = 2,
        heads: int = 4,
        expansion: int = 2,
        block_dropout: float = 0.1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        for name, count in (("layers", layers), ("heads", heads)):
            if count < 1:
                raise ValueError(f"{name} is {count}; a transformer has at least 1")
        spans = max(problem.horizon / problem.time_scale, 1.0)
        self.encoder = Encoder(problem, width)
        slowest, fastest = math.log(math.pi / spans), math.log(4 * math.pi)
        self.log_speed = nn.Parameter(torch.linspace(slowest, fastest, _SPEEDS))
        self.time = nn.Linear(2 * _SPEEDS, width)
        self.start = nn.Parameter(0.1 * torch.randn(width))  # (W,)
        self.blocks = nn.ModuleList(_Block(width, heads, expansion, block_dropout) for _ in range(layers))
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
        committed = encoded.rows.compact()
        waves = self._waves(encoded.since_start / self.problem.time_scale)  # (B, R, 2 F)
        place = committed.position
        observed = take(encoded.features, place) + self.time(take(waves, place))  # (B, K, W)
        asked = encoded.rows.at_queries(encoded.features) + self.time(encoded.rows.at_queries(waves))  # (B, Q, W)
        observed = torch.cat([self.start.expand(len(observed), 1, -1), observed], dim=1)  # (B, 1 + K, W)
        inside = nn.functional.pad(committed.inside, (1, 0), value=True)  # (B, 1 + K)
        # Padding stands behind the last observation, where a causal attention does not look.
        among = None if self.problem.asks_queries else inside[:, None, None]  # (B, 1, 1, 1 + K)
        numbers = torch.arange(inside.shape[1], device=inside.device)
        before = (numbers <= committed.before_query.unsqueeze(-1) + 1).unsqueeze(1)  # (B, 1, Q, 1 + K)
        for block in self.blocks:
            observed, asked = block(observed, asked, among, before)
        return self.head(encoded, self.norm(observed[:, 1:]), committed.inside, self.norm(asked))

    def _waves(self, time: Tensor) -> Tensor:
        """Sines and cosines of (B, R) float64, whose phases are formed in it: (B, R, 2 F)."""
        phases = time.unsqueeze(-1) * self.log_speed.double().exp()
        return torch.cat([phases.sin(), phases.cos()], dim=-1).to(self.log_speed.dtype)


class _Block(nn.Module):
    """Attention and a perceptron, each added to what it reads after a LayerNorm."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads, features = heads, -(-width // heads)
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * features)
        self.key_value = nn.Linear(width, 2 * heads * features)
        self.out = nn.Linear(heads * features, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, observed: Tensor, asked: Tensor, among: Tensor | None, before: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (B, K, W), causal where `among` is None, and queries (B, Q, W), each in calls of their own."""
        read = self.norm(observed)
        key, value = (self._apart(part) for part in self.key_value(read).chunk(2, dim=-1))  # (B, h, K, e)
        causal = among is None
        found = scaled_dot_product_attention(self._apart(self.query(read)), key, value, among, is_causal=causal)
        observed = self._add(observed, found)
        if asked.numel():
            query = self._apart(self.query(self.norm(asked)))  # (B, h, Q, e)
            asked = self._add(asked, scaled_dot_product_attention(query, key, value, before))
        return observed, asked

    def extra_repr(self) -> str:
        """How many heads."""
        return f"heads={self.heads}"

    def _add(self, tokens: Tensor, found: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        return tokens + self.dropout(self.perceptron(self.second_norm(tokens)))

    def _apart(self, tokens: Tensor) -> Tensor:
        """(B, K, h e) -> (B, h, K, e)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
