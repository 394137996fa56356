"""A model under the contract: its copies in both dtypes, and the same weights on another clock."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl.contract import Prediction, Problem
from ctlssl.testing.model_cases import ModelCase

__all__ = ["ROUNDING", "ModelSubject", "answer", "ask"]

ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-5}
"""What a model may lose to rounding through products of matrices and normalisations, relative to its largest answer."""


class ModelSubject:
    """A model and what the contract may ask of it.

    Args:
        model: called as `ctlssl.Model` is.
        limits: limits that replace those of the contract, by line.
        rescale: makes of a copy, given another problem, the same weights for it.
    """

    def __init__(
        self,
        model: nn.Module,
        limits: Mapping[int, float] | None = None,
        rescale: Callable[[Any, Problem], Any] | None = None,
    ) -> None:
        self.model, self.limits = model, dict(limits or {})
        self.problem: Problem = model.problem
        self.rescale = rescale or _swap_problem
        self.forecasts = self.problem.asks_queries
        self.bidirectional = bool(getattr(model, "bidirectional", False))
        self._twins: dict[torch.dtype, Any] = {}

    def limit(self, line: int, exact: float) -> float:
        """The limit of a check: the contract's, unless another was given for the line."""
        return self.limits.get(line, exact)

    def twin(self, dtype: torch.dtype) -> Any:
        """A copy in a dtype, from the same parameters, in evaluation mode."""
        if dtype not in self._twins:
            self._twins[dtype] = copy.deepcopy(self.model).to(dtype).eval()
        return self._twins[dtype]

    def on_clock(self, dtype: torch.dtype, **factors: float) -> Any:
        """A copy for a problem some of whose times are multiplied."""
        times = {name: getattr(self.problem, name) * factor for name, factor in factors.items()}
        return self.rescale(copy.deepcopy(self.twin(dtype)), replace(self.problem, **times))


def ask(model: Any, case: ModelCase, **keywords: Any) -> Prediction:
    """The prediction for a case."""
    forecasts = model.problem.asks_queries
    return model(case.series, case.queries if forecasts else None, **keywords)


def answer(prediction: Prediction) -> Tensor:
    """All numbers of a prediction side by side, the last axis over them: (B, F), or (B, Q, F) for forecasts."""
    parts = [prediction.logits, prediction.mean, prediction.scale]
    if prediction.quantiles is not None:
        parts.append(prediction.quantiles.flatten(prediction.quantiles.ndim - 2))
    return torch.cat([part for part in parts if part is not None], dim=-1)


def _swap_problem(model: nn.Module, problem: Problem) -> nn.Module:
    """The same modules with another problem wherever the model's own stands: a model reads its clock from there."""
    own = model.problem
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Problem) and value == own:
                setattr(module, name, problem)
    return model
