"""Summary statistics of every channel, gathered row by row: what a head may read beside the pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.contract import Problem
from ctlssl.encoders import Encoded
from ctlssl.model_state import Seen, Summed
from ctlssl.piecewise_linear import piecewise_linear

__all__ = ["ChannelSummaries"]

_SPANS = (
    (0.0, torch.inf),
    (0.0, 0.5),
    (0.5, torch.inf),
    (0.75, torch.inf),
)  # after, until: since the start, in horizons
_SCORES = (-3.0, 3.0)  # normal scores
_COUNTS = (0.0, 5.0)  # of log(1 + n)
_SPREADS = (0.0, 2.0)
_PIECES = 12


class ChannelSummaries(nn.Module):
    """Count, mean, least and greatest value of each channel in four spans of time, its last value and its spread.

    The spans are the whole series, the first and the second half of a horizon, and what comes after three quarters of
    it, counted from the first observation. Each number is encoded by how far it has come on twelve pieces of a range
    (`piecewise_linear`), for values in normal scores; what is not known is 0 throughout. Nothing here is learned: the
    head learns to read it. A model with such a head takes from a table what a table has, and from the layers the rest.

    Args:
        problem: channels and horizon.

    Example:
        >>> ChannelSummaries(Problem("classification", channels=37, outputs=2)).features
        8140
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.channels = problem.channels

    @property
    def features(self) -> int:
        """F, the number of features of a series."""
        numbers = 4 * len(_SPANS) + 2
        return self.channels * (numbers * _PIECES + len(_SPANS))

    def nothing(self, batch: int, like: Tensor) -> Summed:
        """Before the first observation; values have the dtype and device of `like`."""
        values = like.new_zeros(batch, len(_SPANS), self.channels)
        return Summed(values.double(), values.double(), values, values.clone(), values[:, 0].double())

    def gather(self, encoded: Encoded, before: Summed | None = None) -> Summed:
        """Take in the rows of a batch, (B, R).

        Args:
            encoded: of the batch.
            before: of earlier chunks.
        """
        rows, elapsed = encoded.rows, encoded.elapsed  # (B, R)
        values, seen = rows.values.to(elapsed.dtype), rows.observed  # (B, R, D)
        inside = torch.stack([(elapsed >= after) & (elapsed <= until) for after, until in _SPANS], dim=1)  # (B, S, R)
        flags = inside.to(values.dtype)  # (B, S, R)
        count = flags @ seen.to(values.dtype)  # (B, S, D)
        total, square = flags @ values, (values * values).sum(dim=1)  # (B, S, D), (B, D)
        least, most = [], []
        for s in range(len(_SPANS)):
            there = seen & inside[:, s].unsqueeze(-1)  # (B, R, D)
            least.append(torch.where(there, values, torch.inf).amin(dim=1))
            most.append(torch.where(there, values, -torch.inf).amax(dim=1))
        here = Summed(count.double(), total.double(), torch.stack(least, 1), torch.stack(most, 1), square.double())
        return _together(here, self.nothing(len(values), values) if before is None else before)

    def forward(self, summed: Summed, seen: Seen) -> Tensor:
        """The features of every series, (B, F).

        Args:
            summed: up to now.
            seen: what was observed up to now.
        """
        dtype = summed.most.dtype
        known, n = summed.count > 0, summed.count.clamp(min=1)  # (B, S, D)
        mean = summed.total / n  # (B, S, D)
        spread = (summed.square / n[:, 0] - mean[:, 0].square()).clamp(min=0).sqrt()  # (B, D)
        ever = known[:, 0]  # (B, D)
        scored = [(mean, known), (summed.least, known), (summed.most, known), (seen.values, ever)]
        parts = [_encoded(value.to(dtype), *_SCORES, there) for value, there in scored]
        parts.append(_encoded(spread.to(dtype), *_SPREADS, ever))
        parts.append(_encoded(summed.count.log1p().to(dtype), *_COUNTS, torch.ones_like(known)))
        return torch.cat([*parts, known.flatten(1).to(dtype)], dim=1)  # (B, F)


def _encoded(values: Tensor, least: float, most: float, known: Tensor) -> Tensor:
    """(B, ..., D) -> (B, ... D K), 0 where not known."""
    pieces = piecewise_linear(values.flatten(1), least, most, _PIECES)
    return torch.where(known.flatten(1).repeat_interleave(_PIECES, dim=1), pieces, 0.0)


def _together(here: Summed, before: Summed) -> Summed:
    """What was seen in two chunks; extremes are 0 where nothing was."""
    count = here.count + before.count
    earlier = before.count > 0  # (B, S, D)
    least = torch.minimum(here.least, torch.where(earlier, before.least.to(here.least.dtype), torch.inf))
    most = torch.maximum(here.most, torch.where(earlier, before.most.to(here.most.dtype), -torch.inf))
    return Summed(
        count=count,
        total=here.total + before.total,
        least=torch.where(count > 0, least, 0.0),
        most=torch.where(count > 0, most, 0.0),
        square=here.square + before.square,
    )
