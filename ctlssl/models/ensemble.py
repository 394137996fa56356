"""Several models of one problem that answer together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction
from ctlssl.model_state import ModelState, Pooled, Summed
from ctlssl.series import TimeSeries

__all__ = ["Ensemble"]


class Ensemble(Model):
    """The mixture of what several models of one problem answer, each of equal weight.

    Probabilities of classes and survival curves are averaged; of forecasts and targets the mean and the standard
    deviation of the mixture are given: m = mean m_k, s^2 = mean(s_k^2 + m_k^2) - m^2; quantiles are averaged. The
    members are trained each for itself, from weights of their own. It keeps a state where all its members keep one.

    Args:
        members: models of one problem.

    Raises:
        ValueError: no members, or members of several problems.

    References:
        Lakshminarayanan, Pritzel, Blundell (2017), Simple and scalable predictive uncertainty estimation using deep
        ensembles, arXiv:1612.01474.

    Example:
        >>> from ctlssl.contract import Problem
        >>> from ctlssl.models import LSSLModel
        >>> problem = Problem("regression", channels=1, outputs=1)
        >>> series = TimeSeries(
        ...     torch.ones(1, 2, 1), torch.arange(2.0).view(1, 2), torch.ones(1, 2, 1).bool(), torch.tensor([2])
        ... )
        >>> members = [LSSLModel(problem, width=4).eval() for _ in range(2)]
        >>> means = [member(series).mean.item() for member in members]
        >>> abs(Ensemble(members)(series).mean.item() - sum(means) / 2) < 1e-6
        True
    """

    def __init__(self, members: Sequence[Model]) -> None:
        if not members or any(member.problem != members[0].problem for member in members):
            raise ValueError(
                f"an ensemble is of models of one problem; found {len(members)} members of several or none"
            )
        super().__init__(members[0].problem)
        self.members = nn.ModuleList(members)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        states = [None] * len(self.members) if state is None else self._apart(state)
        before = sum(member.evaluations for member in self.members)
        answers = [member(series, query_times, held, rate) for member, held in zip(self.members, states, strict=True)]
        self.evaluations += sum(member.evaluations for member in self.members) - before
        kept = [answer.state for answer in answers]
        together = None if any(held is None for held in kept) else _together(kept)
        if self.problem.kind == "survival":
            logits = _mixed_hazards([answer.log_survival for answer in answers])  # (B, K)
            return Prediction(logits=logits.to(answers[0].logits.dtype), state=together)
        if self.problem.answers_logits:
            shares = torch.stack([answer.logits.log_softmax(dim=-1) for answer in answers])  # (M, B, K) or (M, B, Q, K)
            logits = shares.logsumexp(dim=0)
            if self.problem.asks_queries:
                logits = torch.where(torch.isnan(query_times).unsqueeze(-1), torch.zeros_like(logits), logits)
            return Prediction(logits=logits, state=together)
        means = torch.stack([answer.mean for answer in answers])  # (M, ...)
        mean = means.mean(dim=0)
        if self.problem.quantiles:
            quantiles = torch.stack([answer.quantiles for answer in answers]).mean(dim=0)
            return Prediction(mean=mean, quantiles=quantiles, state=together)
        if any(answer.scale is None for answer in answers):
            return Prediction(mean=mean, state=together)
        variance = torch.stack([answer.scale.square() for answer in answers]).mean(dim=0)
        spread = (means - mean).square().mean(dim=0)  # as m_k^2 - m^2, without its rounding
        return Prediction(mean=mean, scale=(variance + spread).sqrt(), state=together)

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        return _together([member.initial_state(batch) for member in self.members])

    def _apart(self, state: ModelState) -> list[ModelState]:
        """The states of the members; what was seen is the same for all."""
        one = [member.initial_state(0) for member in self.members]
        ends = list(accumulate(len(held.layers) for held in one))
        layers = [state.layers[end - len(held.layers) : end] for end, held in zip(ends, one, strict=True)]
        widths = [0 if held.pooled is None else held.pooled.most.shape[1] for held in one]
        pooled = [None] * len(one)
        if state.pooled is not None:
            parts = [part.split(widths, dim=1) for part in state.pooled[1:]]
            pooled = [Pooled(state.pooled.count, *(part[k] for part in parts)) for k in range(len(one))]
        summed = [None if held.summed is None else state.summed for held in one]
        return [ModelState(state.seen, *parts) for parts in zip(layers, pooled, summed, strict=True)]


def _mixed_hazards(curves: Sequence[Tensor]) -> Tensor:
    """Logits of the hazards (B, K) of the mean of the members' survival curves, whose logarithms (B, K) are given."""
    mean = torch.stack(list(curves)).logsumexp(dim=0) - math.log(len(curves))  # (B, K)
    steps = -mean.diff(dim=-1, prepend=torch.zeros_like(mean[:, :1]))  # -log(1 - h)
    return torch.log(torch.expm1(steps.clamp(min=torch.finfo(steps.dtype).tiny)))


def _together(states: Sequence[ModelState]) -> ModelState:
    """One state of several: layers one after another, pooled features side by side."""
    pooled = [held.pooled for held in states if held.pooled is not None]
    summed: list[Summed] = [held.summed for held in states if held.summed is not None]
    wide = [torch.cat(parts, dim=1) for parts in list(zip(*pooled, strict=True))[1:]]
    return ModelState(
        states[0].seen,
        tuple(layer for held in states for layer in held.layers),
        Pooled(pooled[0].count, *wide) if pooled else None,
        summed[0] if summed else None,
    )
