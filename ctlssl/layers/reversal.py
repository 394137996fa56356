"""Each series of a ragged batch reversed within its own length, gaps included."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["reversed_rows"]


def reversed_rows(dt: Tensor, lengths: Tensor | None, is_query: Tensor | None) -> tuple[Tensor, Tensor]:
    """Places and gaps of the reversed series.

    Seen from the end, the gap of an observation is the time to the next one, and of a query the time to the first
    observation after it; the last observation takes the first gap of the series. A query after the last observation
    has none after it: its gap is 0.

    Args:
        dt: gaps, (B, L): since the last observation before each row.
        lengths: rows of each series, (B,); L if None.
        is_query: rows that are queries, (B, L).

    Returns:
        place (B, L), the row of the original at each place of the reversed batch, which is its own inverse; and the
        reversed gaps (B, L).
    """
    B, L = dt.shape
    rows = torch.arange(L, device=dt.device)
    lengths = torch.full((B,), L, device=dt.device) if lengths is None else lengths
    inside = rows < lengths[:, None]
    place = torch.where(inside, lengths[:, None] - 1 - rows, rows)  # (B, L)
    commits = inside if is_query is None else inside & ~is_query
    # First committed row at or after each row; L where there is none.
    ahead = torch.where(commits, rows, L).flip(1).cummin(1).values.flip(1)
    following = torch.cat([ahead[:, 1:], ahead.new_full((B, 1), L)], dim=1)  # strictly after
    padded = torch.cat([dt, dt.new_zeros(B, 1)], dim=1)  # (B, L + 1)
    to_next = padded.gather(1, following) - torch.where(commits, 0, dt)
    first = padded.gather(1, ahead[:, :1])  # gap of the first observation, (B, 1)
    lone = torch.where(commits, first, 0)
    gaps = torch.where(following < L, to_next, lone)
    return place, torch.where(inside, gaps, 0).clamp(min=0).gather(1, place)
