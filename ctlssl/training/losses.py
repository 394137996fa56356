"""What training minimises: sums and counts by series, so that no mean depends on how series were put into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from ctlssl.contract import Prediction, Problem
    from ctlssl.tasks import Examples

__all__ = [
    "LOSSES",
    "Terms",
    "cross_entropy",
    "gaussian",
    "hazards",
    "labels_at_queries",
    "loss_of",
    "mean_loss",
    "penalised",
    "pinball",
    "weighted",
]


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


def labels_at_queries(logits: Tensor, labels: Tensor) -> Terms:
    """Cross entropy summed over the queries of each series that have a label.

    Args:
        logits: (B, Q, K).
        labels: (B, Q) int64 in 0..K-1, -1 where there is no label.

    Example:
        >>> labels_at_queries(torch.zeros(1, 3, 2), torch.tensor([[1, -1, 0]]))
        Terms(total=tensor([1.3863]), count=tensor([2.]))
    """
    known = labels >= 0  # (B, Q)
    chosen = torch.where(known.unsqueeze(-1), logits, torch.zeros_like(logits))
    total = functional.cross_entropy(chosen.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none")
    total = torch.where(known, total.view_as(labels), 0.0)  # (B, Q)
    return Terms(total.sum(1), known.sum(1).to(logits.dtype))


def hazards(logits: Tensor, labels: Tensor) -> Terms:
    """Minus the log likelihood of the interval in which an event happened, or that was survived without one.

    With the hazards h_j = sigmoid(z_j) this is -log h_k - sum_{j < k} log(1 - h_j) for an event in interval k, and
    -sum_{j <= k} log(1 - h_j) for a series that was observed to the end of interval k without one.

    Args:
        logits: (B, K), z.
        labels: (B, 2) integers: k in 0..K-1, and whether the event happened (1) or observation ended (0). Of a series
            without an event -1 says that it survived no interval: it counts nothing.

    References:
        Gensheimer, Narasimhan (2019), A scalable discrete-time survival model for neural networks, arXiv:1805.00917.

    Example:
        >>> hazards(torch.zeros(3, 4), torch.tensor([[1, 1], [1, 0], [-1, 0]]))
        Terms(total=tensor([1.3863, 1.3863, 0.0000]), count=tensor([1., 1., 0.]))
    """
    place = torch.arange(logits.shape[1], device=logits.device)
    interval, event = labels[:, :1].long(), labels[:, 1:] > 0  # (B, 1)
    survived = (place < interval) | ((place == interval) & ~event)  # (B, K)
    ended = (place == interval) & event
    # softplus(z) = -log(1 - h), softplus(-z) = -log h
    signed = torch.where(ended, -logits, torch.where(survived, logits, torch.zeros_like(logits)))
    total = torch.where(ended | survived, functional.softplus(signed), torch.zeros_like(logits)).sum(1)  # (B,)
    return Terms(total, (interval.squeeze(1) >= 0).to(logits.dtype))


def pinball(quantiles: Tensor, levels: Sequence[float], targets: Tensor, observed: Tensor) -> Terms:
    """The loss whose minimum is at the quantiles: the mean over levels a of 2 max(a (y - q), (a - 1) (y - q)).

    With many levels it tends to the continuous ranked probability score.

    Args:
        quantiles: (B, ..., Q).
        levels: Q levels a.
        targets: (B, ...), any content (also NaN) where nothing was observed.
        observed: (B, ...) bool, True = counts.

    References:
        Koenker, Bassett (1978), Regression quantiles.

    Example:
        >>> pinball(torch.zeros(1, 1, 2), (0.1, 0.9), torch.ones(1, 1), torch.ones(1, 1).bool()).total
        tensor([1.])
    """
    given = torch.where(observed, targets.to(quantiles.dtype), torch.zeros_like(quantiles[..., 0])).unsqueeze(-1)
    error = given - torch.where(observed.unsqueeze(-1), quantiles, torch.zeros_like(quantiles))  # (B, ..., Q)
    level = quantiles.new_tensor(levels)  # (Q,)
    total = 2 * torch.maximum(level * error, (level - 1) * error).mean(dim=-1)  # (B, ...)
    return Terms(total.flatten(1).sum(1), observed.flatten(1).sum(1).to(quantiles.dtype))


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


def _labelling_terms(prediction: Prediction, batch: Examples) -> Terms:
    return _complete(labels_at_queries(prediction.logits, batch.targets), prediction, batch)


def _survival_terms(prediction: Prediction, batch: Examples) -> Terms:
    return _complete(hazards(prediction.logits, batch.labels), prediction, batch)


def _quantile_terms(prediction: Prediction, batch: Examples, problem: Problem) -> Terms:
    at_queries = problem.asks_queries
    targets = batch.targets if at_queries else batch.labels
    observed = batch.target_observed if at_queries else ~torch.isnan(batch.labels)
    return _complete(pinball(prediction.quantiles, problem.quantiles, targets, observed), prediction, batch)


def _complete(terms: Terms, prediction: Prediction, batch: Examples) -> Terms:
    return weighted(penalised(terms, prediction), batch.weights)


LOSSES: dict[str, Callable[[Prediction, Examples], Terms]] = {
    "classification": _classification_terms,
    "regression": _regression_terms,
    "forecasting": _forecasting_terms,
    "survival": _survival_terms,
    "labelling": _labelling_terms,
}
"""The loss of each kind of problem, with the penalty of the model where it has one."""


def loss_of(problem: Problem) -> Callable[[Prediction, Examples], Terms]:
    """The loss of a problem: that of its kind, or of its quantiles where it asks for them."""
    return partial(_quantile_terms, problem=problem) if problem.quantiles else LOSSES[problem.kind]
