"""The time to the next event as one more answer at a query, from the features that the values are forecast from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctlssl.contract import Model, Prediction
from ctlssl.encoders import Encoded
from ctlssl.heads import QueryHead

__all__ = ["WaitingHead", "answering_waits"]

_LEAST_SCALE = 1e-2  # of a logarithm of a time: a hundredth of it


class WaitingHead(nn.Module):
    """A head for values, and beside it one for the logarithm of the time from a query to the next event.

    The last column of mean and scale (B, Q, D + 1) is that of log(wait) = log(time_scale) + m(query): in the unit of
    the data's times, so that it may be compared with waits as they are, while m has no unit.

    Args:
        head: of the values, with its weights.
        time_scale: of the problem.
    """

    def __init__(self, head: QueryHead, time_scale: float) -> None:
        super().__init__()
        self.values, self.offset = head, math.log(time_scale)
        read = next(part for part in head.body if isinstance(part, nn.Linear))
        dropout = next(part for part in head.body if isinstance(part, nn.Dropout)).p
        self.waits = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(read.in_features, read.out_features),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(read.out_features, 2),
        )
        with torch.no_grad():
            self.waits[-1].weight.mul_(0.1)  # starts close to the median gap
            self.waits[-1].bias.zero_()

    def forward(self, encoded: Encoded, features: Tensor, committed: Tensor, queries: Tensor) -> Prediction:
        """Answer at every query (B, Q, W); the other arguments as in `QueryHead.forward`."""
        return self.answer(encoded, None, queries)

    def gather(self, features: Tensor, committed: Tensor, before: None = None) -> None:
        """Nothing is pooled for a forecast."""

    def answer(self, encoded: Encoded, pooled: None, queries: Tensor) -> Prediction:
        """Answer at every query (B, Q, W); the other arguments as in `QueryHead.answer`."""
        values = self.values.answer(encoded, pooled, queries)
        if encoded.static is not None:
            static = encoded.static.unsqueeze(1).expand(-1, queries.shape[1], -1)  # (B, Q, S)
            queries = torch.cat([queries, static], dim=-1)
        centre, raw = self.waits(queries).chunk(2, dim=-1)  # (B, Q, 1)
        present = encoded.rows.query_present.unsqueeze(-1)  # (B, Q, 1)
        mean = torch.where(present, self.offset + centre, 0.0)
        scale = torch.where(present, softplus(raw) + _LEAST_SCALE, 1.0)
        return Prediction(mean=torch.cat([values.mean, mean], dim=-1), scale=torch.cat([values.scale, scale], dim=-1))


@contextmanager
def answering_waits(model: Model) -> Iterator[None]:
    """Within, the model answers D + 1 columns, the last of them for waits; after it, D columns as before.

    Args:
        model: one that forecasts with a `QueryHead`, as the models and baselines of the library do.

    Raises:
        ValueError: a model with another head.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, QueryHead):
        raise ValueError(
            f"{type(model).__name__} has no QueryHead as model.head, beside which a head for the time to the next "
            "event could stand; leave that objective out"
        )
    like = next(head.parameters())
    model.head = WaitingHead(head, model.problem.time_scale).to(like.device, like.dtype).train(head.training)
    try:
        yield
    finally:
        model.head = head
