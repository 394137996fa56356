"""From features to predictions, for every series or at every query; models and baselines share these heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctlssl.contract import Prediction, Problem
from ctlssl.encoders import Encoded

__all__ = ["QueryHead", "SeriesHead", "head", "pool"]

_LEAST_SCALE = 1e-3  # of a normalised value: bounds a likelihood
_UNIT = math.log(math.expm1(1.0))  # softplus of it is 1, the spread of a normalised value


def pool(features: Tensor, committed: Tensor) -> Tensor:
    """Mean, maximum and last of the committed rows; zeros for a series that has none.

    Args:
        features: (B, K, W).
        committed: (B, K) bool.

    Returns:
        (B, 3 W).

    >>> features = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    >>> pool(features, torch.tensor([[True, True, True, False]]))
    tensor([[3., 5., 3.]])
    """
    flags = committed.unsqueeze(-1)  # (B, K, 1)
    count = flags.sum(dim=1)  # (B, 1)
    kept = torch.where(flags, features, torch.zeros_like(features))  # (B, K, W)
    mean = kept.sum(dim=1) / count.clamp(min=1)  # (B, W)
    most = torch.where(flags, features, torch.full_like(features, -torch.inf)).amax(dim=1)  # (B, W)
    most = torch.where(count > 0, most, torch.zeros_like(most))
    place = torch.arange(committed.shape[1], device=committed.device)  # (K,)
    last = torch.where(committed, place, 0).amax(dim=1).view(-1, 1, 1)  # (B, 1, 1)
    final = torch.gather(kept, 1, last.expand(-1, 1, features.shape[2])).squeeze(1)  # (B, W)
    return torch.cat([mean, most, final], dim=-1)


class SeriesHead(nn.Module):
    """One answer a series: logits of classes, or mean and scale of targets, from the pooled rows and the static part.

    Args:
        problem: kind "classification" or "regression".
        width: W, features of a row.
        dropout: of what is read and of the hidden layer.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.classes = problem.kind == "classification"
        outputs = problem.outputs if self.classes else 2 * problem.outputs
        self.body = _body(3 * width + problem.static, width, outputs, dropout)

    def forward(self, encoded: Encoded, features: Tensor, committed: Tensor, queries: Tensor) -> Prediction:
        """Answer for every series.

        Args:
            encoded: of the batch.
            features: (B, K, W) of rows among which are the committed ones.
            committed: (B, K) bool, which they are.
            queries: (B, Q, W), not read.
        """
        pooled = pool(features, committed)  # (B, 3 W)
        out = self.body(pooled if encoded.static is None else torch.cat([pooled, encoded.static], dim=-1))
        if self.classes:
            return Prediction(logits=out)  # (B, outputs)
        mean, raw = out.chunk(2, dim=-1)  # (B, outputs)
        return Prediction(mean=mean, scale=softplus(raw + _UNIT) + _LEAST_SCALE)


class QueryHead(nn.Module):
    """A forecast at every query: the last seen value v of each channel plus a learned correction, and its scale.

    mean = v + a(query) v + c(query): the factor lets each channel fall back to its mean as time passes.

    Args:
        problem: kind "forecasting".
        width: W, features of a query.
        dropout: of what is read and of the hidden layer.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.body = _body(width + problem.static, width, 3 * problem.outputs, dropout)
        with torch.no_grad():
            self.body[-1].weight.mul_(0.1)  # starts close to the last value carried forward
            self.body[-1].bias.zero_()

    def forward(self, encoded: Encoded, features: Tensor, committed: Tensor, queries: Tensor) -> Prediction:
        """Answer at every query.

        Args:
            encoded: of the batch.
            features: (B, K, W), not read.
            committed: (B, K), not read.
            queries: (B, Q, W) at the queries.
        """
        rows = encoded.rows
        if encoded.static is not None:
            static = encoded.static.unsqueeze(1).expand(-1, queries.shape[1], -1)  # (B, Q, S)
            queries = torch.cat([queries, static], dim=-1)
        factor, shift, raw = self.body(queries).chunk(3, dim=-1)  # (B, Q, D)
        present = rows.query_present.unsqueeze(-1)  # (B, Q, 1)
        seen = rows.at_queries(encoded.filled)  # (B, Q, D)
        mean = seen + factor * seen + shift  # (B, Q, D)
        scale = softplus(raw + _UNIT) + _LEAST_SCALE
        return Prediction(
            mean=torch.where(present, mean, torch.zeros_like(mean)),
            scale=torch.where(present, scale, torch.ones_like(scale)),
        )


_HEADS = {"classification": SeriesHead, "regression": SeriesHead, "forecasting": QueryHead}


def head(problem: Problem, width: int, dropout: float = 0.5) -> SeriesHead | QueryHead:
    """The head that answers `problem` from features of `width`."""
    return _HEADS[problem.kind](problem, width, dropout)


def _body(reads: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(reads, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs)
    )
