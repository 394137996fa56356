"""What training minimises: sums and counts by series, so that no mean depends on how series were put into batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from ctlssl.contract import Prediction
    from ctlssl.tasks import Examples

__all__ = ["LOSSES", "Terms", "cross_entropy", "gaussian", "mean_loss", "penalised", "weighted"]


class Terms(NamedTuple):
    """A loss, not yet averaged: its sum over the targets of each series, and how many they are.

    Args:
        total: (B,) sum over the targets of a series.
        count: (B,) number of targets of a series.
    """

    total: Tensor
    count: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Terms:
    """Minus the log probability of the true class, -log softmax(z)_c.

    Args:
        logits: (B, K).
        labels: (B,) int64 in 0..K-1.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1])).total
        tensor([0.6931])
    """
    total = functional.cross_entropy(logits, labels, reduction="none")  # (B,)
    return Terms(total, torch.ones_like(total))


def gaussian(mean: Tensor, scale: Tensor | None, targets: Tensor, observed: Tensor) -> Terms:
    """Squared error of the mean, and the Gaussian likelihood of the scale around a mean that it cannot move.

    For one target y this is (y - m)^2 + ((y - m*)^2 / s^2) / 2 + log s, with m* = m held constant: the scale learns
    how far off the mean is, and a wide scale never excuses a poor mean.

    Args:
        mean: (B, ...) predicted mean m.
        scale: (B, ...) predicted standard deviation s > 0; None leaves out its two terms.
        targets: (B, ...), any content (also NaN) where nothing was observed.
        observed: (B, ...) bool, True = counts.

    References:
        Seitzer, Tavakoli, Antic, Martius (2022), On the Pitfalls of Heteroscedastic Uncertainty Estimation.

    Example:
        >>> one = torch.ones(1, 1)
        >>> gaussian(one, one, 3 * one, one.bool()).total
        tensor([6.])
    """
    # chosen at the input: a flag that multiplies would let a NaN through to the gradient
    nothing = torch.zeros_like(mean)  # (B, ...)
    error = torch.where(observed, targets.to(mean.dtype), nothing) - torch.where(observed, mean, nothing)  # (B, ...)
    total = error.square()  # (B, ...)
    if scale is not None:
        scale = torch.where(observed, scale, torch.ones_like(scale))  # (B, ...)
        total = total + 0.5 * (error.detach() / scale).square() + torch.log(scale)  # (B, ...)
    return Terms(total.flatten(1).sum(1), observed.flatten(1).sum(1).to(mean.dtype))


def mean_loss(terms: Terms) -> Tensor:
    """The mean over all targets of the batch, and 0 with zero gradients where there is none.

    Example:
        >>> mean_loss(Terms(torch.tensor([6.0, 0.0]), torch.tensor([2.0, 0.0])))
        tensor(3.)
    """
    return terms.total.sum() / terms.count.sum().clamp(min=1)


def penalised(terms: Terms, prediction: Prediction) -> Terms:
    """The terms with what a model asks of its training beside its answers, `Prediction.penalty`.

    Args:
        terms: of the answers.
        prediction: of the same B series.

    Example:
        >>> from ctlssl.contract import Prediction
        >>> terms = Terms(torch.tensor([6.0]), torch.tensor([2.0]))
        >>> penalised(terms, Prediction(penalty=torch.tensor([1.0]))).total
        tensor([7.])
    """
    return terms if prediction.penalty is None else Terms(terms.total + prediction.penalty, terms.count)


def weighted(terms: Terms, weights: Tensor | None) -> Terms:
    """The terms with the targets of each series counted as often as its weight says.

    Args:
        terms: of B series.
        weights: (B,), or None, where all count once.

    Example:
        >>> weighted(Terms(torch.tensor([6.0]), torch.tensor([2.0])), torch.tensor([0.5]))
        Terms(total=tensor([3.]), count=tensor([1.]))
    """
    if weights is None:
        return terms
    weights = weights.to(terms.total.dtype)
    return Terms(terms.total * weights, terms.count * weights)


def _classification_terms(prediction: Prediction, batch: Examples) -> Terms:
    return _complete(cross_entropy(prediction.logits, batch.labels), prediction, batch)


def _regression_terms(prediction: Prediction, batch: Examples) -> Terms:
    terms = gaussian(prediction.mean, prediction.scale, batch.labels, ~torch.isnan(batch.labels))
    return _complete(terms, prediction, batch)


def _forecasting_terms(prediction: Prediction, batch: Examples) -> Terms:
    terms = gaussian(prediction.mean, prediction.scale, batch.targets, batch.target_observed)
    return _complete(terms, prediction, batch)


def _complete(terms: Terms, prediction: Prediction, batch: Examples) -> Terms:
    return weighted(penalised(terms, prediction), batch.weights)


LOSSES: dict[str, Callable[[Prediction, Examples], Terms]] = {
    "classification": _classification_terms,
    "regression": _regression_terms,
    "forecasting": _forecasting_terms,
}
"""The loss of each kind of problem, with the penalty of the model where it has one."""
