"""From features to predictions, for every series or at every query; models and baselines share these heads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctlssl.contract import Prediction, Problem
from ctlssl.encoders import Encoded
from ctlssl.model_state import Pooled

__all__ = ["LabelHead", "QueryHead", "SeriesHead", "around", "gather", "head", "outputs_of", "pool"]

_LEAST_SCALE = 1e-3  # of a normalised value: bounds a likelihood
_UNIT = math.log(math.expm1(1.0))  # softplus of it is 1, the spread of a normalised value


def pool(features: Tensor, committed: Tensor, before: Pooled | None = None) -> Tensor:
    """Mean, maximum and last of the committed rows; zeros for a series that has none.

    Args:
        features: (B, K, W).
        committed: (B, K) bool.
        before: the rows of earlier chunks.

    Returns:
        (B, 3 W).

    >>> features = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    >>> pool(features, torch.tensor([[True, True, True, False]]))
    tensor([[3., 5., 3.]])
    """
    return _read(gather(features, committed, before), features.dtype)  # (B, 3 W)


def gather(features: Tensor, committed: Tensor, before: Pooled | None = None) -> Pooled:
    """What `pool` needs of the committed rows, together with those of earlier chunks.

    Args:
        features: (B, K, W).
        committed: (B, K) bool.
        before: the rows of earlier chunks.

    >>> features = torch.tensor([[[1.0], [5.0], [3.0]]])
    >>> first = gather(features[:, :2], torch.ones(1, 2, dtype=torch.bool))
    >>> gather(features[:, 2:], torch.ones(1, 1, dtype=torch.bool), first).total
    tensor([[9.]], dtype=torch.float64)
    """
    flags = committed.unsqueeze(-1)  # (B, K, 1)
    count = flags.sum(dim=1)  # (B, 1)
    kept = torch.where(flags, features, torch.zeros_like(features))  # (B, K, W)
    total = kept.sum(dim=1).double()  # (B, W)
    most = torch.where(flags, features, torch.full_like(features, -torch.inf)).amax(dim=1)  # (B, W)
    place = torch.arange(committed.shape[1], device=committed.device)  # (K,)
    last = torch.where(committed, place, 0).amax(dim=1).view(-1, 1, 1)  # (B, 1, 1)
    final = torch.gather(kept, 1, last.expand(-1, 1, features.shape[2])).squeeze(1)  # (B, W)
    if before is not None:
        earlier = before.count.unsqueeze(-1)  # (B, 1)
        ceiling = torch.where(earlier > 0, before.most.to(most.dtype), -torch.inf)
        most = torch.where(count > 0, torch.maximum(most, ceiling), ceiling)
        final = torch.where(count > 0, final, before.last.to(final.dtype))
        total, count = before.total + total, earlier + count
    return Pooled(count.squeeze(-1), total, torch.where(count > 0, most, torch.zeros_like(most)), final)


def _read(pooled: Pooled, dtype: torch.dtype) -> Tensor:
    """Mean, maximum and last side by side, (B, 3 W)."""
    count = pooled.count.clamp(min=1).unsqueeze(-1)  # (B, 1)
    # of float32 numbers the sum of one chunk is divided in float32, as it was formed
    return torch.cat([pooled.total.to(dtype) / count, pooled.most, pooled.last], dim=-1)


def outputs_of(problem: Problem) -> int:
    """The numbers from which the answer of a series is made: logits, or for each target a centre and its spread."""
    return problem.outputs * (1 if problem.answers_logits else len(problem.quantiles) or 2)


def around(centre: Tensor, raw: Tensor, problem: Problem) -> Prediction:
    """Quantiles that cannot cross: from one level to the next they rise by a softplus.

    q_k = c + s_k - s_m with s_k the sum of the first k rises, m the level 1/2; where that is none of the levels, the
    mean of all s stands for s_m. Rises start as those of a normal variable.

    Args:
        centre: (..., T), c.
        raw: (..., T (Q - 1)), what the rises are made of.
        problem: whose levels these are.

    References:
        Gasthaus et al. (2019), Probabilistic Forecasting with Spline Quantile Function RNNs (monotone by increments).

    Example:
        >>> problem = Problem("regression", channels=1, outputs=1, quantiles=(0.25, 0.5, 0.75))
        >>> around(torch.zeros(1, 1), torch.zeros(1, 2), problem).quantiles
        tensor([[[-0.6745,  0.0000,  0.6745]]])
    """
    levels = problem.quantiles
    normal = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64))  # (Q,)
    first = torch.log(torch.expm1(normal.diff())).to(raw)  # softplus of it is the rise of a normal variable
    rises = softplus(raw.reshape(*centre.shape, len(levels) - 1) + first)  # (..., T, Q - 1)
    sums = torch.cat([torch.zeros_like(centre).unsqueeze(-1), rises.cumsum(dim=-1)], dim=-1)  # (..., T, Q)
    middle = sums[..., levels.index(0.5)] if 0.5 in levels else sums.mean(dim=-1)  # (..., T)
    return Prediction(mean=centre, quantiles=centre.unsqueeze(-1) + (sums - middle.unsqueeze(-1)))


class SeriesHead(nn.Module):
    """One answer a series, from the pooled rows and the static part: logits, or mean and scale or quantiles of targets.

    Args:
        problem: kind "classification", "survival" or "regression".
        width: W, features of a row.
        dropout: of what is read and of the hidden layer.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.problem = problem
        self.body = _body(3 * width + problem.static, width, outputs_of(problem), dropout)

    def forward(self, encoded: Encoded, features: Tensor, committed: Tensor, queries: Tensor) -> Prediction:
        """Answer for every series.

        Args:
            encoded: of the batch.
            features: (B, K, W) of rows among which are the committed ones.
            committed: (B, K) bool, which they are.
            queries: (B, Q, W), not read.
        """
        return self.answer(encoded, self.gather(features, committed), queries)

    def gather(self, features: Tensor, committed: Tensor, before: Pooled | None = None) -> Pooled:
        """What is pooled after these rows (B, K, W), of which the flagged (B, K) are committed."""
        return gather(features, committed, before)

    def answer(self, encoded: Encoded, pooled: Pooled, queries: Tensor) -> Prediction:
        """Answer from what was pooled.

        Args:
            encoded: of the batch.
            pooled: of this chunk and those before it.
            queries: (B, Q, W), not read.
        """
        read = _read(pooled, pooled.most.dtype)  # (B, 3 W)
        out = self.body(read if encoded.static is None else torch.cat([read, encoded.static], dim=-1))
        if self.problem.answers_logits:
            return Prediction(logits=out)  # (B, outputs)
        if self.problem.quantiles:
            return around(*out.tensor_split([self.problem.outputs], dim=-1), self.problem)
        mean, raw = out.chunk(2, dim=-1)  # (B, outputs)
        return Prediction(mean=mean, scale=softplus(raw + _UNIT) + _LEAST_SCALE)


class _AtQueries(nn.Module, ABC):
    """A head that answers at every query, for which nothing is pooled."""

    def forward(self, encoded: Encoded, features: Tensor, committed: Tensor, queries: Tensor) -> Prediction:
        """Answer at every query.

        Args:
            encoded: of the batch.
            features: (B, K, W), not read.
            committed: (B, K), not read.
            queries: (B, Q, W) at the queries.
        """
        return self.answer(encoded, None, queries)

    def gather(self, features: Tensor, committed: Tensor, before: None = None) -> None:
        """Nothing is pooled for an answer at a query."""

    @abstractmethod
    def answer(self, encoded: Encoded, pooled: None, queries: Tensor) -> Prediction:
        """Answer at every query.

        Args:
            encoded: of the batch.
            pooled: nothing.
            queries: (B, Q, W) at the queries.
        """


class QueryHead(_AtQueries):
    """A forecast at every query: the last seen value v of each channel plus a learned correction, and its spread.

    mean = v + a(query) v + c(query): the factor lets each channel fall back to its mean as time passes. The spread is
    a standard deviation, or quantiles.

    Args:
        problem: kind "forecasting".
        width: W, features of a query.
        dropout: of what is read and of the hidden layer.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.problem = problem
        outputs = problem.outputs * (1 + (len(problem.quantiles) or 2))
        self.body = _body(width + problem.static, width, outputs, dropout)
        with torch.no_grad():
            self.body[-1].weight.mul_(0.1)  # starts close to the last value carried forward
            self.body[-1].bias.zero_()

    def answer(self, encoded: Encoded, pooled: None, queries: Tensor) -> Prediction:
        """See `_AtQueries.answer`."""
        rows, D = encoded.rows, self.problem.outputs
        out = self.body(_with_static(encoded, queries))  # (B, Q, outputs)
        factor, shift, raw = out.tensor_split([D, 2 * D], dim=-1)  # (B, Q, D), (B, Q, D), (B, Q, outputs - 2 D)
        present = rows.query_present.unsqueeze(-1)  # (B, Q, 1)
        seen = rows.at_queries(encoded.filled)  # (B, Q, D)
        mean = seen + factor * seen + shift  # (B, Q, D)
        if self.problem.quantiles:
            found = around(mean, raw, self.problem)
            parts = {"mean": (found.mean, present), "quantiles": (found.quantiles, present.unsqueeze(-1))}
            return Prediction(**{k: torch.where(flag, v, torch.zeros_like(v)) for k, (v, flag) in parts.items()})
        scale = softplus(raw + _UNIT) + _LEAST_SCALE
        return Prediction(
            mean=torch.where(present, mean, torch.zeros_like(mean)),
            scale=torch.where(present, scale, torch.ones_like(scale)),
        )


class LabelHead(_AtQueries):
    """The class at every query: logits from its features and the static part; 0 where the query is absent.

    Args:
        problem: kind "labelling".
        width: W, features of a query.
        dropout: of what is read and of the hidden layer.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.body = _body(width + problem.static, width, problem.outputs, dropout)

    def answer(self, encoded: Encoded, pooled: None, queries: Tensor) -> Prediction:
        """See `_AtQueries.answer`."""
        logits = self.body(_with_static(encoded, queries))  # (B, Q, K)
        present = encoded.rows.query_present.unsqueeze(-1)  # (B, Q, 1)
        return Prediction(logits=torch.where(present, logits, torch.zeros_like(logits)))


_HEADS = {
    "classification": SeriesHead,
    "regression": SeriesHead,
    "survival": SeriesHead,
    "forecasting": QueryHead,
    "labelling": LabelHead,
}


def head(problem: Problem, width: int, dropout: float = 0.5) -> SeriesHead | QueryHead | LabelHead:
    """The head that answers `problem` from features of `width`."""
    return _HEADS[problem.kind](problem, width, dropout)


def _body(reads: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(reads, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs)
    )


def _with_static(encoded: Encoded, queries: Tensor) -> Tensor:
    """Features of the queries with the static covariates behind them, (B, Q, W + S)."""
    if encoded.static is None:
        return queries
    static = encoded.static.unsqueeze(1).expand(-1, queries.shape[1], -1)  # (B, Q, S)
    return torch.cat([queries, static], dim=-1)
