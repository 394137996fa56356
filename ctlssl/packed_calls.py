"""A model run over packed series: in batches of like length, and the answers back in the order of the series."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl.model_state import ModelState
from ctlssl.packed_series import PackedSeries

__all__ = ["ABSENT", "call_packed"]

ABSENT = {"logits": 0.0, "mean": 0.0, "scale": 1.0, "quantiles": 0.0}
"""What a query that is absent is answered with."""


def call_packed(
    model: nn.Module,
    packed: PackedSeries,
    query_times: Tensor | None = None,
    state: ModelState | None = None,
    rate: float | Tensor = 1.0,
) -> Any:
    """What `model` answers for packed series, as for the same series padded, without a padded batch of them all.

    Args:
        model: any model of the contract, which imports this module.
        packed: B series.
        query_times: (B, Q) float64, NaN-padded.
        state: the state of an earlier prediction for these series.
        rate: a number, or (B,).

    Returns:
        the prediction for the series in their order, with the state where the model keeps one.

    Raises:
        TypeError: series that are not packed.
        ValueError: as the model.
    """
    if not isinstance(packed, PackedSeries):
        raise TypeError(
            f"packed reads a PackedSeries, found {type(packed).__name__}; call the model itself with a TimeSeries, or "
            "pack it with PackedSeries.from_series"
        )
    if query_times is not None and (query_times.ndim != 2 or len(query_times) != packed.batch):
        found = tuple(query_times.shape)
        raise ValueError(f"query_times has shape {found}; give ({packed.batch}, queries), padded with NaN")
    rate = torch.as_tensor(rate, dtype=torch.float64, device=packed.lengths.device)
    if rate.shape not in ((), packed.lengths.shape):
        raise ValueError(f"rate has shape {tuple(rate.shape)}; give a number or one a series, ({packed.batch},)")
    found, order = [], []
    for group, series in packed.groups():
        asked = None if query_times is None else _trimmed(query_times[group])
        before = None if state is None else state.select(group)
        found.append(model(series, query_times=asked, state=before, rate=rate[group] if rate.ndim else rate))
        order.append(group)
    if not found:
        raise ValueError("there are no series to answer for")
    back = torch.argsort(torch.cat(order))  # (B,)
    width = None if query_times is None or not model.problem.asks_queries else query_times.shape[1]
    parts = {name: _joined([getattr(part, name) for part in found], back, width, ABSENT[name]) for name in ABSENT}
    penalty = _joined([part.penalty for part in found], back, None, 0.0)
    return dataclasses.replace(
        found[0], **parts, penalty=penalty, state=_joined_state(model, found, order, packed.batch)
    )


def _trimmed(query_times: Tensor) -> Tensor:
    """Query times (b, Q) without the columns at the end in which nothing is asked."""
    asked = ~torch.isnan(query_times).all(dim=0)  # (Q,)
    return query_times[:, : int(asked.nonzero().max()) + 1 if asked.any() else 0]


def _joined(parts: list[Tensor | None], back: Tensor, width: int | None, filler: float) -> Tensor | None:
    """Answers (b, ...) of groups, or (b, q, ...) at queries, as those of all series in their order."""
    if parts[0] is None:
        return None
    if width is not None:
        parts = [
            torch.cat([part, part.new_full((len(part), width - part.shape[1], *part.shape[2:]), filler)], dim=1)
            for part in parts
        ]
    return torch.cat(parts)[back]


def _joined_state(model: nn.Module, found: list, order: list[Tensor], batch: int) -> ModelState | None:
    if found[0].state is None:
        return None
    state = model.initial_state(batch)
    for part, group in zip(found, order, strict=True):
        state = state.put(group, part.state)
    return state
