"""One observation after another, for models whose states cannot all be had at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["walk"]


def walk(step: Callable[..., Tensor], start: Tensor, counts: Tensor, *rows: Tensor) -> Tensor:
    """The states after every row of B series; a series that has ended leaves the batch.

    Args:
        step: the states (n, W) of n series and what they read, (n, ...) each, to their next states (n, W).
        start: (B, W) before the first row.
        counts: (B,) rows of each series, at most K.
        rows: (B, K, ...) each.

    Returns:
        (B, K, W), 0 past the last row of a series.

    >>> rows = torch.tensor([[[1.0], [9.0]], [[2.0], [3.0]]])
    >>> walk(lambda state, x: state + x, torch.zeros(2, 1), torch.tensor([1, 2]), rows).squeeze(-1)
    tensor([[1., 0.],
            [2., 5.]])
    """
    batch, longest = rows[0].shape[:2]
    order = torch.argsort(counts, descending=True, stable=True)  # (B,): what has ended is at the bottom
    place = torch.arange(longest, device=counts.device).unsqueeze(1)  # (K, 1)
    going = counts[order] > place  # (K, B)
    # One gather, whose parts the loop reads: slices of `rows` would each cost a gradient of the size of all rows.
    source = (order * longest + place)[going]  # (N,) places in B * K, row after row
    alive = going.sum(dim=1).tolist()  # K numbers
    state, found = start[order], [start[:0]]
    for read in zip(*(part.flatten(0, 1)[source].split(alive) for part in rows), strict=True):
        if len(read[0]) == 0:
            break
        state = step(state if len(read[0]) == len(state) else state[: len(read[0])], *read)  # (n, W)
        found.append(state)
    reached = torch.cat(found)  # (N, W)
    states = reached.new_zeros(batch * longest, start.shape[1]).index_copy(0, source, reached)  # (B K, W)
    return states.view(batch, longest, start.shape[1])
