"""One observation after another, for models whose states cannot all be had at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["walk"]


def walk(step: Callable[..., Tensor], start: Tensor, counts: Tensor, *rows: Tensor) -> Tensor:
    """The states after every row of B series; a series that has ended leaves the batch.

    Args:
        step: the states (n, W) of n series and what they read, (n, ...) each, to their next states (n, W).
        start: (B, W) before the first row.
        counts: (B,) rows of each series.
        rows: (B, K, ...) each.

    Returns:
        (B, K, W), 0 past the last row of a series.

    >>> rows = torch.tensor([[[1.0], [9.0]], [[2.0], [3.0]]])
    >>> walk(lambda state, x: state + x, torch.zeros(2, 1), torch.tensor([1, 2]), rows).squeeze(-1)
    tensor([[1., 0.],
            [2., 5.]])
    """
    order = torch.argsort(counts, descending=True, stable=True)  # (B,): what has ended is at the bottom
    state, rows = start[order], [part[order] for part in rows]
    place = torch.arange(rows[0].shape[1], device=counts.device)
    active = (counts.unsqueeze(1) > place).sum(dim=0).tolist()  # K numbers
    states = []
    for k, alive in enumerate(active):
        state = step(state[:alive], *(part[:alive, k] for part in rows)) if alive else state[:0]
        states.append(nn.functional.pad(state, (0, 0, 0, len(order) - alive)))
    return torch.stack(states, dim=1)[torch.argsort(order)]
