"""Each series of a ragged batch reversed within its own length, gaps included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.views import Response

__all__ = ["reversed_rows", "run_reversed"]


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


def run_reversed(
    run: Callable[..., Response],
    u: Tensor,
    gaps: Tensor,
    one_gap: bool,
    lengths: Tensor | None,
    is_query: Tensor | None,
    gates: Tensor | None,
) -> Response:
    """A system run over each series reversed within its length, outputs in the original order.

    Args:
        run: a view with its system and method, which takes u, gaps, state, lengths, is_query and gates.
        u: inputs, (B, L, H).
        gaps: (B, L).
        one_gap: whether all rows have the same gap by what was given; it is then that of the reversed rows too.
        lengths: rows of each series, (B,); L if None.
        is_query: rows that are queries, (B, L).
        gates: what the gap before each row is multiplied by, (B, L, 1 or H); a row keeps its own.
    """
    place, reversed_gaps = reversed_rows(gaps, lengths, is_query)
    turned, gates = (None if rows is None else _turned(rows, place) for rows in (u, gates))
    flags = None if is_query is None else is_query.gather(1, place)
    back = run(turned, gaps if one_gap else reversed_gaps, None, lengths, flags, gates)
    return dataclasses.replace(back, y=_turned(back.y, place))


def _turned(rows: Tensor, place: Tensor) -> Tensor:
    return rows.gather(1, place[..., None].expand_as(rows))
