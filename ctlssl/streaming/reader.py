"""A model as a stream runs it: in evaluation mode, without gradients, with what belongs to each series."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl.model_state import ModelState
from ctlssl.series import TimeSeries

__all__ = ["Reader"]


class Reader:
    """A model, and the rate and the static covariates of each of B series.

    Args:
        model: a `Model`.
        rates: (B,) float64.
        static: (B, S), or None.
    """

    def __init__(self, model: nn.Module, rates: Tensor, static: Tensor | None) -> None:
        self.model, self.rates, self.static = model, rates, static

    @property
    def forecasts(self) -> bool:
        """Whether the model answers at query times."""
        return self.model.problem.asks_queries

    def run(self, state: ModelState, index: Tensor | None, rows: TimeSeries, queries: Tensor | None = None) -> Any:
        """The prediction for some series, index (M,) or all where it is None, from their states.

        Args:
            state: of M series.
            index: which they are.
            rows: M series without static covariates.
            queries: (M, Q), or None.
        """
        rates = self.rates if index is None else self.rates[index]
        if self.static is not None:
            rows = replace(rows, static=self.static if index is None else self.static[index])
        if queries is None and self.forecasts:
            queries = rows.times.new_empty(rows.batch, 0)
        with _evaluation(self.model), torch.no_grad():
            return self.model(rows, queries, state=state, rate=rates)

    def ask(self, state: ModelState, index: Tensor | None, queries: Tensor | None = None) -> Any:
        """The prediction for some series from their states alone."""
        like = state.seen.values
        values = like.new_zeros(state.batch, 0, like.shape[1])
        times = state.seen.time.new_zeros(state.batch, 0)
        lengths = torch.zeros(state.batch, dtype=torch.int64, device=like.device)
        rows = TimeSeries(values, times, torch.zeros_like(values, dtype=torch.bool), lengths)
        return self.run(state, index, rows, queries)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and then as it was found."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
