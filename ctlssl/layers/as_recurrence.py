"""Layers written in one form, so that they can be compared: h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i + D_i u_i."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.layers.inputs import check_inputs, check_state, read_gaps
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.lssl import LSSL
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_space import StateSpace
from ctlssl.views import State
from ctlssl.views.response import Rows

__all__ = ["as_recurrence"]


def as_recurrence(
    layer: RecurrentLayer | LSSL,
    u: Tensor,
    dt: Tensor | float | None = None,
    state: State | None = None,
    rate: Tensor | float = 1.0,
) -> LinearForm:
    r"""What a layer does to a batch, as h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i + D_i u_i.

    The matrices are those of this batch: of a linear layer they depend on the gaps, of a selective or liquid one on the
    inputs too, of a piecewise linear one on the regions that the states pass through. `run(u)` of the result is the
    layer's output. All matrices are dense, so this is for looking and comparing, not for speed.

    Args:
        layer: any layer that knows its linear form, all of `ctlssl.layers.FAMILY`, or an `LSSL`.
        u: inputs, (B, L, H).
        dt: as in the layer's `forward`.
        state: as in the layer's `forward`.
        rate: as in the layer's `forward`.

    Raises:
        ValueError: a bidirectional layer, one whose step sizes depend on the input a channel, or arguments that cannot
            be.
        TypeError: a layer of another kind.

    References:
        Sieber, Amo Alonso, Didier, Zeilinger, Orvieto (2024), Understanding the differences in foundation models:
        attention, state space models, and recurrent neural networks, arXiv:2405.15731.

    Example:
        >>> layer, u = LSSL(channels=2, state_size=4).double(), torch.randn(1, 5, 2, dtype=torch.float64)
        >>> form = as_recurrence(layer, u, dt=0.3)
        >>> torch.allclose(form.run(u), layer(u, dt=0.3)[0])
        True
    """
    if isinstance(layer, RecurrentLayer):
        return layer.linear_form(layer.read_rows(u, dt, state=state, rate=rate))
    if not isinstance(layer, LSSL):
        raise TypeError(f"{type(layer).__name__} has no linear form: it needs a method linear_form(rows)")
    return _of_lssl(layer, u, dt, state, rate)


def _of_lssl(
    layer: LSSL, u: Tensor, dt: Tensor | float | None, state: State | None, rate: Tensor | float
) -> LinearForm:
    """The states of all systems and the last input as one state."""
    if layer.bidirectional:
        raise ValueError("a bidirectional layer reads the whole series: it is no recurrence")
    u = check_inputs(u, layer.channels, layer.C.dtype)
    gaps = read_gaps(*layer.step_size.heard(dt, rate), u, None)
    if layer.gate is not None and (gates := layer.gate(u, None)).shape[-1] == 1:
        gaps = gaps * gates[..., 0]
    elif layer.gate is not None:
        raise ValueError("step sizes that depend on the input a channel have no linear form here; gate='row' has")
    system = layer._formed()
    x_shape = (system.groups, system.A.N)
    state = check_state(state, len(u), x_shape, (layer.channels,))
    rows = Rows.of(system, u, gaps, state, None, None)
    start = torch.cat([rows.start.x.flatten(1), rows.start.u], dim=1)  # (B, G N + H)
    return LinearForm(*(part.to(u.dtype) for part in _matrices(layer, system, gaps)), start)


def _matrices(layer: LSSL, system: StateSpace, gaps: Tensor) -> tuple[Tensor, ...]:
    """L, B, C and D of each row, the last input standing below the states."""
    (B, L), G, N, H = gaps.shape, system.groups, system.A.N, layer.channels
    hold, A = layer.method.hold, system.A.to_dense()
    A = A if A.ndim == 3 else A[None]  # (G or 1, N, N)
    parts = layer.method.rule.matrices(A, gaps.reshape(-1, 1).to(A.dtype))
    Abar, F, ramp = (part.expand(B * L, G, N, N).reshape(B, L, G, N, N) for part in parts)
    # Each system's map from all channels: (G, N, H).
    maps = system.B[None] if system.multi_input else system.B[:, :, None] * torch.eye(H, dtype=A.dtype)[:, None]
    before, now = (((p * F + r * ramp) @ maps).flatten(2, 3) for p, r in (hold.previous, hold.next))  # (B, L, G N, H)
    now = now + hold.kick * maps.flatten(0, 1)
    S = G * N
    transition = Abar.new_zeros(B, L, S + H, S + H)
    for g in range(G):
        transition[:, :, g * N : (g + 1) * N, g * N : (g + 1) * N] = Abar[:, :, g]
    transition[:, :, :S, S:] = before
    drive = torch.cat([now, torch.eye(H, dtype=A.dtype).expand(B, L, H, H)], dim=2)  # (B, L, S + H, H)
    if system.multi_input:
        read, feed = system.C, system.D.diag()  # (H, N), (H, H)
    else:
        read = torch.block_diag(*system.C)  # (H M, H N)
        feed = torch.block_diag(*system.D[..., None])  # (H M, H)
    read = torch.nn.functional.pad(read, (0, H))  # the last input is held, not read
    return transition, drive, read.expand(B, L, *read.shape), feed.expand(B, L, *feed.shape)
