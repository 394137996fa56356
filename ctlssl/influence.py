"""What an answer owes to each observation: the answer without it, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Model
from ctlssl.examples import Examples
from ctlssl.series import TimeSeries
from ctlssl.training import predict

__all__ = ["Influence", "influence"]


@dataclass(frozen=True, eq=False)
class Influence:
    """An answer, and what it is without each row and without each value; K is the number of its parts.

    Args:
        answer: (K,) logits, means of targets, or means at the query times.
        rows: (R,) positions of the rows that hold a value.
        without_row: (R, K) the answer without each of them.
        cells: (V, 2) row and channel of single values, those of the rows that matter most.
        without_cell: (V, K) the answer without each of them.
    """

    answer: Tensor
    rows: Tensor
    without_row: Tensor
    cells: Tensor
    without_cell: Tensor


def influence(model: Model, series: TimeSeries, query_times: Tensor | None = None, most: int = 200) -> Influence:
    """What a model would answer had it not seen a row, or one value of it.

    Nothing is approximated: the model is run once for every row and value that is left out. A row of which nothing is
    observed moves no state and is not pooled, so that leaving out its flags is leaving it out.

    Args:
        model: of the contract.
        series: one, in normal scores.
        query_times: (1, Q), for forecasts.
        most: values that are left out singly, in the rows whose absence changes the answer most.

    Raises:
        ValueError: other than one series.

    Example:
        >>> from ctlssl.tasks import prepare
        >>> from ctlssl.models import LSSLModel
        >>> split = prepare("covid19/death")
        >>> found = influence(LSSLModel(split.problem), split.test.series.select([0]))
        >>> found.without_row.shape == (len(found.rows), 2)
        True
    """
    if series.batch != 1:
        raise ValueError(f"the influence is that on one series, found {series.batch}")
    seen = series.observed[0] & series.in_length[0, :, None]  # (L, D)
    rows = seen.any(1).nonzero()[:, 0]  # (R,)
    kept = seen.expand(1 + len(rows), -1, -1).clone()  # (1 + R, L, D)
    kept[1 + torch.arange(len(rows)), rows] = False
    answers = _answers(model, series, kept, query_times)
    answer, without_row = answers[0], answers[1:]
    order = (without_row - answer).abs().amax(1).argsort(descending=True)  # (R,)
    cells = torch.cat([_cells(seen, int(rows[r])) for r in order] or [torch.zeros(0, 2, dtype=torch.int64)])[:most]
    kept = seen.expand(len(cells), -1, -1).clone()  # (V, L, D)
    kept[torch.arange(len(cells)), cells[:, 0], cells[:, 1]] = False
    without_cell = _answers(model, series, kept, query_times) if len(cells) else answer.new_zeros(0, len(answer))
    return Influence(answer, rows, without_row, cells, without_cell)


def _cells(seen: Tensor, row: int) -> Tensor:
    channels = seen[row].nonzero()[:, 0]
    return torch.stack([torch.full_like(channels, row), channels], dim=1)  # (v, 2)


def _answers(model: Model, series: TimeSeries, kept: Tensor, query_times: Tensor | None) -> Tensor:
    """Answers (V, K) to the same series with other flags (V, L, D)."""
    index = torch.zeros(len(kept), dtype=torch.int64)
    variants = replace(series.select(index), observed=kept)
    queries = None if query_times is None else query_times[index]
    found = predict(model, Examples(variants, np.arange(len(kept)), query_times=queries))
    return (found.mean if found.logits is None else found.logits).double().flatten(1)
