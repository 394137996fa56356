"""The convolution view: the whole response of a uniform grid by fast Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.kernels.causal_convolution import causal_convolution
from ctlssl.state_space import StateSpace
from ctlssl.views.krylov import ImpulseResponse, impulse_response
from ctlssl.views.recurrence import recurrence
from ctlssl.views.response import Response, Rows, State, refuse_growth

__all__ = ["check_one_gradient", "convolution", "newest_last", "uniform_gap"]

_SAME_GAP = 1e-5
"""Relative difference up to which gaps count as one."""


def convolution(
    system: StateSpace,
    method: Discretization,
    u: Tensor,
    dt: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    is_query: Tensor | None = None,
    respond: Callable[[StateSpace, Discretization, Tensor], ImpulseResponse] = impulse_response,
) -> Response:
    r"""Outputs as a causal convolution with the kernel K_l = C Abar^l Bbar, on a grid of one gap.

    The first gap of each series may differ from the rest: that row is stepped, and its state decays along the grid.
    The kernel is computed in float64 from powers of Abar, the transforms in the dtype of u.

    Args:
        system: the continuous system, float64 preferred.
        method: the discretization.
        u: inputs, (B, L, H).
        dt: gap before each row, (B, L), all equal to 1e-5 but the first of each series.
        state: state before the first row; zeros if None.
        lengths: rows of each series, (B,); L if None.
        is_query: must be None or all False.
        respond: gives the impulse response of a system, a method and a gap; it may know it from before.

    Raises:
        ValueError: gaps that differ, queries, or gaps (B, L) that each want a gradient; the message names the
            recurrence view. One learned gap comes in expanded: ``dt.expand(B, L)``.

    References:
        Gu et al. (2021), LSSL, section 3.1.
    """
    if is_query is not None and is_query.any():
        raise ValueError("the convolution view has no state to ask between samples; use view='recurrence' for queries")
    check_one_gradient(dt)
    B, L, _ = u.shape
    if B == 0 or L == 0:
        return recurrence(system, method, u, dt, state, lengths)
    if lengths is not None and bool((lengths == L).all()):
        lengths = None
    rows = Rows.of(system, u, dt, state, lengths, None)
    gap = uniform_gap(rows.dt, rows.inside)
    response = _convolved(system, method, rows, gap, respond(system, method, gap), fresh=state is None)
    refuse_growth(system, method, rows, response)
    return response


def _convolved(
    system: StateSpace, method: Discretization, rows: Rows, gap: Tensor, response: ImpulseResponse, fresh: bool
) -> Response:
    lengths = rows.inside.sum(1)
    if fresh and bool((rows.dt[:, 0] == gap).logical_or(~rows.inside[:, 0]).all()):
        y, x = _from_rest(system, response, rows.u, lengths if rows.ragged else None)
    else:
        y, x = _from_state(system, method, response, rows, lengths)
    y = torch.where(rows.inside[..., None], y, 0) if rows.ragged else y
    return Response(y, State(x, rows.last))


def _from_state(
    system: StateSpace, method: Discretization, response: ImpulseResponse, rows: Rows, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, H * M) and final states (B, G, N): one step with the first gap, then the grid."""
    first = recurrence(system, method, rows.u[:, :1], rows.dt[:, :1], rows.start, lengths.clamp(max=1))
    L, rest = rows.u.shape[1] - 1, (lengths - 1).clamp(min=0)
    if L == 0:
        return first.y, first.state.x
    y, x = _from_rest(system, response, rows.u[:, 1:], rest if rows.ragged else None)
    fading, faded = _fading(system, response, first.state, L, rest)
    x = torch.where((rest > 0)[:, None, None], x + faded, first.state.x)
    return torch.cat([first.y, y + fading], dim=1), x


def check_one_gradient(dt: Tensor) -> None:
    """Refuse to learn gaps one by one: the kernel knows a single one."""
    if dt.requires_grad and (dt.is_leaf or dt.stride() != (0, 0)):
        raise ValueError(
            "the convolution view has one gap and no gradient for each; give dt as a number, or use view='recurrence'"
        )


def uniform_gap(dt: Tensor, inside: Tensor) -> Tensor:
    """The one gap of the grid, a float64 scalar."""
    later, counted = dt[:, 1:], inside[:, 1:]
    if not counted.any():
        seen = dt[:, :1][inside[:, :1]]
        return (seen[0] if seen.numel() else dt.new_ones(())).to(torch.float64)
    series, row = counted.nonzero()[0].tolist()
    gap = later[series, row]
    # Gaps of a regular grid carry the rounding of its times: in seconds since 1970, 2e-7 s.
    differs = counted & ((later - gap).abs() > _SAME_GAP * gap.abs())
    if differs.any():
        where = differs.nonzero()[0].tolist()
        found = later[tuple(where)].item()
        raise ValueError(
            f"the convolution view needs one gap: series {series}, position {row + 1} has {gap.item():.9g}, but series "
            f"{where[0]}, position {where[1] + 1} has {found:.9g}; use view='recurrence' for an irregular grid"
        )
    return gap.to(torch.float64)


def _from_rest(
    system: StateSpace, response: ImpulseResponse, u: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, H * M) and final states (B, G, N) of a system that starts at zero, all gaps equal."""
    grouped = system.grouped(u)  # (B, L, G, I)
    kernel = response.kernel(system.outputs.to(torch.float64), u.shape[1])  # (G, O, I, L)
    through = torch.diag(system.D)[None] if system.multi_input else system.D[..., None]  # (G, O, I)
    # The feed-through is a part of the first term: adding D u to the outputs would read and write them once more.
    kernel[..., 0] += through
    y = causal_convolution(grouped, kernel.to(u.dtype)).flatten(-2)  # (B, L, G * O)
    if lengths is None:
        return y, response.final_state(grouped)
    ended = torch.where((lengths > 0)[:, None, None], response.final_state(newest_last(grouped, lengths)), 0)
    return y, ended


def newest_last(u: Tensor, lengths: Tensor) -> Tensor:
    """Series moved so that the last row of each is the last of all, zeros before; u (B, L, ...)."""
    B, L = u.shape[:2]
    place = torch.arange(L, device=u.device) - (L - lengths[:, None])  # (B, L)
    row = place.clamp(min=0) + L * torch.arange(B, device=u.device)[:, None]
    moved = u.flatten(0, 1).index_select(0, row.flatten()).unflatten(0, (B, L))
    return torch.where((place >= 0)[..., None, None], moved, 0)


def _fading(
    system: StateSpace, response: ImpulseResponse, state: State, L: int, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """What is left of a state handed in: outputs (B, L, H * M), and the state itself after `lengths` steps."""
    x = state.x.to(response.late.dtype).permute(1, 2, 0)  # (G, N, B)
    held = system.grouped(state.u.to(x.dtype)).permute(1, 2, 0)  # (G, I, B)
    x = response.powers.columns(x, 0)  # one step on
    if response.early is not None:
        x = x + response.early @ held
    y = response.powers.terms(system.outputs.to(x.dtype), x, L)  # (G, O, B, L)
    faded = response.powers.advanced(x, (lengths - 1).clamp(min=0)).permute(2, 0, 1)  # (B, G, N)
    return y.permute(2, 3, 0, 1).flatten(-2).to(state.x.dtype), faded.to(state.x.dtype)
