"""One observation, or a look ahead, as a batch of one row: what `step` and `peek` of every layer have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ctlssl.layers.inputs import check_state, found_shape, one_column
from ctlssl.views import State

__all__ = ["check_one_row", "own_state", "peek_rows"]


def own_state(state: State, x_shape: tuple[int, ...], u_shape: tuple[int, ...]) -> State:
    """A state handed to step or peek, which need one.

    Args:
        state: what was handed in.
        x_shape: of one series' state.
        u_shape: of what one series holds of its inputs.

    Raises:
        ValueError: no state, or another layer's.
    """
    if state is None:
        raise ValueError("step and peek go on from a state: take that of forward, or initial_state(batch)")
    batch = len(state[1]) if isinstance(state, tuple) and len(state) == 2 and hasattr(state[1], "__len__") else 0
    return check_state(state, batch, x_shape, u_shape)


def check_one_row(u: Tensor, channels: int, state: State | None, own: Callable[[State], State]) -> None:
    """Refuse what is no single row u (B, H) with a state before it."""
    if state is None or not isinstance(u, Tensor) or u.ndim != 2:
        batch = len(own(state).u)
        raise ValueError(f"step takes one observation, u ({batch}, {channels}); found {found_shape(u)}")


def peek_rows(layer: nn.Module, state: State, dt: Tensor | float, u: Tensor | None, held: bool = True) -> Tensor:
    """Outputs a time after the last observation, (B, H * M), or (B, Q, H * M) for several times.

    Args:
        layer: answers `is_query` rows.
        state: the state after the last observation, whose `u` is (B, H).
        dt: time since it, a number, (B,), or (B, Q).
        u: input at that time, (B, H) or (B, Q, H); None is the last input, or 0 where inputs are not held.
        held: whether the layer's inputs hold.
    """
    column = one_column(dt, len(state.u))
    if u is None:
        u = state.u if held else torch.zeros_like(state.u)
    several = torch.as_tensor(dt).ndim == 2 or u.ndim == 3
    if u.ndim == 2:
        u = u[:, None].expand(-1, column.shape[1] if torch.as_tensor(column).ndim == 2 else 1, -1)
    asked = torch.ones(u.shape[:2], dtype=torch.bool, device=u.device)
    if torch.as_tensor(column).ndim == 2:
        column = torch.as_tensor(column).expand(-1, u.shape[1])
    y, _ = layer(u, column, state=state, is_query=asked, view="recurrence")
    return y if several else y[:, 0]
