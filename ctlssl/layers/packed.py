"""A layer over packed series: rows of all series one after another, no padding, every series with its own clock."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.packed_series import like_lengths, packed_rows
from ctlssl.views import State

__all__ = ["run_packed"]


def run_packed(
    layer: nn.Module,
    u: Tensor,
    dt: Tensor | float | None,
    lengths: Tensor,
    state: State | None = None,
    is_query: Tensor | None = None,
    rate: Tensor | float = 1.0,
) -> tuple[Tensor, State | None]:
    """Outputs at every row of packed series, and the state after the last observation of each.

    The layer runs over batches of like length (see `like_lengths`), with at most a quarter more rows than there are and
    1,024 more a batch: the memory is that of the rows, never of the number of series times the longest. What it gives
    is what it gives for the padded batch: bit for bit, where no matrix product of torch stands in between.

    Args:
        layer: an `LSSL`, or any `RecurrentLayer`.
        u: inputs, (T, H), the rows of the first series, then those of the second, and so on.
        dt: time since the previous observation of the series, (T,); None (= 1) or a number for all.
        lengths: rows of each series, (B,), T in all.
        state: what an earlier call returned, of B series; zeros if None.
        is_query: rows that are answered but leave the state untouched, (T,) boolean.
        rate: factor of all gaps, a number or one a series (B,).

    Returns:
        y (T, H * M), and the state of the B series (None if bidirectional).

    Raises:
        ValueError: shapes, gaps or lengths that cannot be.

    Example:
        >>> from ctlssl.layers import LSSL
        >>> layer, u = LSSL(channels=2, state_size=4, structure="diagonal"), torch.randn(5, 2)
        >>> y, state = run_packed(layer, u, torch.tensor([1.0, 0.2, 0.7, 1.0, 3.0]), torch.tensor([3, 2]))
        >>> alone, _ = layer(u[None, 3:], torch.tensor([1.0, 3.0]))
        >>> y.shape, torch.equal(y[3:], alone[0])
        (torch.Size([5, 2]), True)
    """
    dt, lengths, is_query, rates = _read(layer, u, dt, lengths, is_query, rate)
    if state is not None and [len(part) for part in state] != [len(lengths)] * 2:
        raise ValueError(f"state is of {[len(part) for part in state]} series; there are {len(lengths)}")
    order, places, outputs, states = [], [], [], []
    for group in like_lengths(lengths):
        place, inside = packed_rows(lengths, group)  # (b, l)
        flags = None if is_query is None else is_query[place] & inside
        before = None if state is None else State(state.x[group], state.u[group])
        rows = u.index_select(0, place.reshape(-1)).reshape(*place.shape, u.shape[1])  # (b, l, H)
        gaps = torch.where(inside, dt[place], 0)  # (b, l)
        # The recurrence by name: another view for the longer groups would round otherwise than the padded call.
        y, after = layer(rows, gaps, lengths[group], before, flags, rates[group], view="recurrence")
        order.append(group)
        places.append(place[inside])
        outputs.append(y.flatten(0, 1).index_select(0, inside.reshape(-1).nonzero()[:, 0]))  # (t, H * M)
        states.append(after)
    if not outputs:
        y, after = layer(u[None, :0], None, state=None)
        return y[0], state if state is not None or layer.bidirectional else layer.initial_state(0)
    y = torch.cat(outputs)[torch.argsort(torch.cat(places))]  # (T, H * M)
    if layer.bidirectional:
        return y, None
    back = torch.argsort(torch.cat(order))
    return y, State(*(torch.cat(parts)[back] for parts in zip(*states, strict=True)))


def _read(
    layer: nn.Module,
    u: Tensor,
    dt: Tensor | float | None,
    lengths: Tensor,
    is_query: Tensor | None,
    rate: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gaps (T,) float64, lengths (B,), query flags (T,) or None, and rates (B,) float64, found to fit together."""
    if not isinstance(u, Tensor) or u.ndim != 2 or u.shape[1] != layer.channels:
        found = f"shape {tuple(u.shape)}" if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"packed u needs shape (rows, {layer.channels}); found {found}")
    T, lengths = len(u), torch.as_tensor(lengths, device=u.device)
    if lengths.ndim != 1 or lengths.is_floating_point() or lengths.dtype == torch.bool or (lengths < 0).any():
        found = f"{lengths.dtype} of shape {tuple(lengths.shape)}"
        raise ValueError(f"packed lengths need (B,) integers, none below 0; found {found}")
    if int(lengths.sum()) != T:
        raise ValueError(f"lengths sum to {int(lengths.sum())}, but there are {T} rows")
    dt = torch.as_tensor(1.0 if dt is None else dt, dtype=torch.float64, device=u.device)
    rate = torch.as_tensor(rate, dtype=torch.float64, device=u.device)
    if dt.shape not in ((), (T,)) or rate.shape not in ((), lengths.shape):
        found = f"{tuple(dt.shape)} and {tuple(rate.shape)}"
        raise ValueError(f"packed dt needs ({T},) or a number, rate ({len(lengths)},) or a number; found {found}")
    bad = ~((dt >= 0) & dt.isfinite())
    if bad.any():
        row = int(bad.nonzero()[0]) if dt.ndim else 0
        raise ValueError(f"row {row}: gap {dt.expand(T)[row].item()} is negative or not finite; sort the times")
    if is_query is not None:
        is_query = torch.as_tensor(is_query, device=u.device)
        if is_query.dtype != torch.bool or is_query.shape != (T,):
            found = f"{is_query.dtype} of shape {tuple(is_query.shape)}"
            raise ValueError(f"packed is_query needs booleans of shape ({T},); found {found}")
    return dt.expand(T), lengths, is_query, rate.expand(len(lengths))
