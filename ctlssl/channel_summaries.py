"""Summary statistics of every channel, gathered row by row, and what is answered from them beside a head."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ctlssl.contract import Prediction, Problem
from ctlssl.encoders import Encoded
from ctlssl.model_state import Seen, Summed
from ctlssl.piecewise_linear import piecewise_linear

__all__ = ["ChannelSummaries", "SummaryReadout", "added"]

_SPANS = (
    (0.0, torch.inf),
    (0.0, 0.5),
    (0.5, torch.inf),
    (0.75, torch.inf),
)  # after, until: since the start, in horizons
_SCORES = (-3.0, 3.0)  # normal scores
_COUNTS = (0.0, 5.0)  # of log(1 + n)
_SPREADS = (0.0, 2.0)
_CHANGES = (-1.5, 1.5)  # of a last value from a fading mean
_LATE_SPREADS = (0.0, 1.5)
_PIECES = 6
_LEAST_VARIANCE = 1e-8
_WEIGHT = 0.3  # of a feature beside a pooled one: there are thousands of them, each worth little


class ChannelSummaries(nn.Module):
    """Count, mean, least and greatest value of each channel in four spans of time, its last value and its spread.

    The spans are the whole series, the first and the second half of a horizon, and what comes after three quarters of
    it, counted from the first observation. Each number is encoded by how far it has come on six pieces of a range
    (`piecewise_linear`), for values in normal scores; what is not known is 0 throughout. Nothing here is learned.

    With a time constant c > 0 two numbers of each channel are added, which tell what became of it lately, at whatever
    time a series ends: how far the last value is from the fading mean m, and the fading spread s,

        m = sum_k w_k v_k / sum_k w_k,    s^2 = sum_k w_k (v_k - m)^2 / sum_k w_k,    w_k = exp(-(t - t_k) / c).

    The three sums are states of x' = -x / c that each value kicks.

    Args:
        problem: channels and horizon.
        fading: c, in horizons; 0 none.
        whole: tell of the whole series alone, not of the other spans; what is gathered is the same.

    Raises:
        ValueError: a time constant that is none, or a problem that asks for answers at times, whose queries may come
            before what is summarized.

    Example:
        >>> ChannelSummaries(Problem("classification", channels=37, outputs=2)).features
        4144
        >>> ChannelSummaries(Problem("classification", channels=37, outputs=2), fading=0.1).features
        4588
        >>> ChannelSummaries(Problem("classification", channels=37, outputs=2), whole=True).features
        1369
    """

    def __init__(self, problem: Problem, fading: float = 0.0, whole: bool = False) -> None:
        super().__init__()
        if isinstance(fading, bool) or not isinstance(fading, int | float) or not 0 <= fading < math.inf:
            raise ValueError(f"fading is {fading!r}; it is a time constant in horizons, or 0")
        if problem.asks_queries:
            raise ValueError("summaries of a whole series tell a query of what comes after it; use summaries=False")
        self.channels, self.fading, self.spans = problem.channels, fading, 1 if whole else len(_SPANS)

    @property
    def features(self) -> int:
        """F, the number of features of a series."""
        numbers = 4 * self.spans + 2 + (2 if self.fading else 0)
        return self.channels * (numbers * _PIECES + self.spans)

    def nothing(self, batch: int, like: Tensor) -> Summed:
        """Before the first observation; values have the dtype and device of `like`."""
        values = like.new_zeros(batch, len(_SPANS), self.channels)
        late = like.new_zeros(batch, 3, self.channels).double()
        return Summed(
            values.double(), values.double(), values, values.clone(), values[:, 0].double(), late, late[:, 0, 0].clone()
        )

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
        before = self.nothing(values.shape[0], values) if before is None else before
        late, until = self._late(encoded, before) if self.fading else (before.late, before.until)
        extremes = torch.stack(least, dim=1), torch.stack(most, dim=1)  # (B, S, D)
        return _together(Summed(count.double(), total.double(), *extremes, square.double(), late, until), before)

    def _late(self, encoded: Encoded, before: Summed) -> tuple[Tensor, Tensor]:
        """The fading sums of all rows so far, (B, 3, D), and the time at which they are, (B,)."""
        rows, elapsed = encoded.rows, encoded.elapsed.double()  # (B, R)
        until = torch.where(rows.committed, elapsed, 0.0).amax(dim=1)  # (B,)
        until = torch.maximum(until, before.until)
        weights = ((elapsed - until.unsqueeze(1)) / self.fading).clamp(max=0.0).exp()  # (B, R)
        values = rows.values.double()  # (B, R, D)
        terms = torch.stack([rows.observed.double(), values, values.square()], dim=2)  # (B, R, 3, D)
        kept = ((before.until - until) / self.fading).exp()  # (B,)
        return kept.view(-1, 1, 1) * before.late + torch.einsum("br,brsd->bsd", weights, terms), until

    def forward(self, summed: Summed, seen: Seen) -> Tensor:
        """The features of every series, (B, F).

        Args:
            summed: up to now.
            seen: what was observed up to now.
        """
        dtype = summed.most.dtype
        count, total, least, most = (part[:, : self.spans] for part in summed[:4])  # (B, S, D)
        known, n = count > 0, count.clamp(min=1)  # (B, S, D)
        mean = total / n  # (B, S, D)
        spread = _spread(summed)  # (B, D)
        ever = known[:, 0]  # (B, D)
        scored = [(mean, known), (least, known), (most, known), (seen.values, ever)]
        parts = [_encoded(value.to(dtype), *_SCORES, there) for value, there in scored]
        parts.append(_encoded(spread.to(dtype), *_SPREADS, ever))
        parts.append(_encoded(count.log1p().to(dtype), *_COUNTS, torch.ones_like(known)))
        late = zip(self._lately(summed, seen), (_CHANGES, _LATE_SPREADS), strict=True) if self.fading else ()
        parts += [_encoded(value.to(dtype), *ends, ever) for value, ends in late]
        return torch.cat([*parts, known.flatten(1).to(dtype)], dim=1)  # (B, F)

    def with_static(self, weight: float, summed: Summed, encoded: Encoded) -> Tensor:
        """The features of every series times a weight, and the static part, (B, F + S).

        Args:
            weight: of a feature.
            summed: up to now.
            encoded: of the batch.
        """
        read = weight * self(summed, encoded.seen)  # (B, F)
        return read if encoded.static is None else torch.cat([read, encoded.static], dim=1)

    def statistics(self, summed: Summed, seen: Seen) -> Tensor:
        """The mean, least, greatest and last value of each channel and its spread, and what fades, as numbers.

        Each is cut to the range in which it is encoded, and divided by a sixth of it.

        Args:
            summed: up to now.
            seen: what was observed up to now.

        Returns:
            (B, 5 D), or (B, 7 D) with a time constant; 0 of a channel that was never observed.
        """
        ever = summed.count[:, 0] > 0  # (B, D)
        mean = summed.total[:, 0] / summed.count[:, 0].clamp(min=1)  # (B, D)
        found = [(value, _SCORES) for value in (mean, summed.least[:, 0], summed.most[:, 0], seen.values)]
        found.append((_spread(summed), _SPREADS))
        found += zip(self._lately(summed, seen), (_CHANGES, _LATE_SPREADS), strict=True) if self.fading else []
        numbers = [value.clamp(least, most) * (_PIECES / (most - least)) for value, (least, most) in found]
        return torch.cat([torch.where(ever, number, 0.0).to(summed.most.dtype) for number in numbers], dim=1)

    def _lately(self, summed: Summed, seen: Seen) -> list[Tensor]:
        """How far the last value is from the fading mean, and the fading spread, 2 x (B, D)."""
        weight, total, square = summed.late.unbind(dim=1)  # 3 x (B, D)
        there = weight > 0  # what faded beyond the range of numbers has changed by nothing since
        weight = torch.where(there, weight, 1.0)
        mean = total / weight  # (B, D)
        return [torch.where(there, seen.values - mean, 0.0), _root(square / weight - mean.square())]


class SummaryReadout(nn.Module):
    """What the summaries of a series say, to be added to what a head says from its pooled features.

    With z the summaries and the static part, W z + V gelu(U z) is added to the logits or the means: a generalized
    additive model, as a linear map of places on pieces is, and what goes beyond it. So a model takes from the summaries
    what a table tells, and its layers are free to learn the rest.

    Args:
        problem: of one answer a series.
        width: of gelu(U z).
        dropout: of it.
        fading: of the summaries.

    References:
        Hastie and Tibshirani (1986), Generalized additive models, Statistical Science 1, 297-310.
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5, fading: float = 0.0) -> None:
        super().__init__()
        self.summaries = ChannelSummaries(problem, fading)
        reads = self.summaries.features + problem.static
        self.linear = nn.Linear(reads, problem.outputs, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.body = nn.Sequential(
            nn.Linear(reads, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, problem.outputs, bias=False)
        )

    def forward(self, prediction: Prediction, encoded: Encoded, summed: Summed) -> Prediction:
        """The prediction of the head with what the summaries add.

        Args:
            prediction: of the head.
            encoded: of the batch.
            summed: of this chunk and those before it.
        """
        read = self.summaries.with_static(_WEIGHT, summed, encoded)  # (B, F + S)
        return added(prediction, self.linear(read) + self.body(read))


def added(prediction: Prediction, more: Tensor) -> Prediction:
    """A prediction with something added to its logits, or to its mean and quantiles.

    Args:
        prediction: one answer a series.
        more: (B, outputs).
    """
    if prediction.logits is not None:
        return replace(prediction, logits=prediction.logits + more)
    if prediction.quantiles is not None:
        prediction = replace(prediction, quantiles=prediction.quantiles + more.unsqueeze(-1))
    return replace(prediction, mean=prediction.mean + more)


def _spread(summed: Summed) -> Tensor:
    """The standard deviation of each channel over the whole series, (B, D)."""
    n = summed.count[:, 0].clamp(min=1)  # (B, D)
    return _root(summed.square / n - (summed.total[:, 0] / n).square())


def _root(variance: Tensor) -> Tensor:
    """The standard deviation; 0 below a variance where there is rounding alone, and the root has no slope."""
    varies = variance > _LEAST_VARIANCE
    return torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)


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
        late=here.late,
        until=here.until,
    )
