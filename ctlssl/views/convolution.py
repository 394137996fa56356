"""The convolution view: the whole response of a uniform grid by fast Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace
from ctlssl.views.krylov import convolution_kernel, krylov, power_apply, uniform_matrices
from ctlssl.views.recurrence import recurrence
from ctlssl.views.response import Response, Rows, State, refuse_growth

__all__ = ["convolution"]

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
) -> Response:
    r"""Outputs as a causal convolution with the kernel K_l = C Abar^l Bbar, on a grid of one gap.

    The first gap of each series may differ from the rest: that row is stepped, and its state decays along the grid.
    The kernel is computed in float64 by the structure of A, the transforms in the dtype of u.

    Args:
        system: the continuous system, float64 preferred.
        method: the discretization.
        u: inputs, (B, L, H).
        dt: gap before each row, (B, L), all equal to 1e-5 but the first of each series.
        state: state before the first row; zeros if None.
        lengths: rows of each series, (B,); L if None.
        is_query: must be None or all False.

    Raises:
        ValueError: gaps that differ, queries, or gaps (B, L) that each want a gradient; the message names the
            recurrence view. One learned gap comes in expanded: ``dt.expand(B, L)``.

    References:
        Gu et al. (2021), LSSL, section 3.1.
    """
    if is_query is not None and is_query.any():
        raise ValueError("the convolution view has no state to ask between samples; use view='recurrence' for queries")
    _check_gradient(dt)
    B, L, _ = u.shape
    if B == 0 or L == 0:
        return recurrence(system, method, u, dt, state, lengths)
    rows = Rows.of(system, u, dt, state, lengths, None)
    gap = _uniform_gap(rows.dt, rows.inside)
    response = _convolved(system, method, rows, gap, fresh=state is None)
    refuse_growth(system, method, rows, response)
    return response


def _convolved(system: StateSpace, method: Discretization, rows: Rows, gap: Tensor, fresh: bool) -> Response:
    lengths = rows.inside.sum(1)
    if fresh and bool((rows.dt[:, 0] == gap).logical_or(~rows.inside[:, 0]).all()):
        y, x = _from_rest(system, method, rows.u, gap, lengths)
        y = torch.where(rows.inside[..., None], y, 0)
        return Response(y, State(x, rows.last))
    first = recurrence(system, method, rows.u[:, :1], rows.dt[:, :1], rows.start, lengths.clamp(max=1))
    rest = (lengths - 1).clamp(min=0)
    y, x = _from_rest(system, method, rows.u[:, 1:], gap, rest)
    fading, faded = _fading(system, method, first.state, gap, rows.u.shape[1] - 1, rest)
    y = torch.cat([first.y, y + fading], dim=1)
    y = torch.where(rows.inside[..., None], y, 0)
    x = torch.where((rest > 0)[:, None, None], x + faded, first.state.x)
    return Response(y, State(x, rows.last))


def _check_gradient(dt: Tensor) -> None:
    """Refuse to learn gaps one by one: the kernel knows a single one."""
    if dt.requires_grad and (dt.is_leaf or dt.stride() != (0, 0)):
        raise ValueError(
            "the convolution view has one gap and no gradient for each; give dt as a number, or use view='recurrence'"
        )


def _uniform_gap(dt: Tensor, inside: Tensor) -> Tensor:
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
    system: StateSpace, method: Discretization, u: Tensor, gap: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, H * M) and final states (B, G, N) of a system that starts at zero, all gaps equal."""
    B, L, _ = u.shape
    if L == 0:
        x = u.new_zeros(B, system.groups, system.A.N)
        return u.new_zeros(B, 0, system.channels * system.heads), x
    kernel = convolution_kernel(system, method, gap, L).to(u.dtype)  # (G, O, I, L)
    grouped = system.grouped(u)  # (B, L, G, I)
    spectrum = torch.fft.rfft(grouped, n=2 * L, dim=1)  # (B, F, G, I)
    response = torch.fft.rfft(kernel, n=2 * L).movedim(-1, 0)  # (F, G, O, I)
    product = (response * spectrum[..., None, :]).sum(-1)  # (B, F, G, O)
    y = torch.fft.irfft(product, n=2 * L, dim=1)[:, :L].flatten(-2)  # (B, L, G * O)
    through = system.D.to(u.dtype)
    through = through * u if system.multi_input else (through * u[..., None]).flatten(-2)
    return y + through, _final_state(system, method, grouped, gap, lengths)


def _final_state(system: StateSpace, method: Discretization, u: Tensor, gap: Tensor, lengths: Tensor) -> Tensor:
    """Sum of Abar^l Bbar u_{T-l} for each series' own length T, (B, G, N); u (B, L, G, I)."""
    L = u.shape[1]
    ages = torch.arange(L, device=u.device)  # rows counted back from the last one
    place = (lengths[:, None] - 1 - ages).clamp(min=0)[..., None, None].expand(-1, -1, *u.shape[2:])
    alive = (ages < lengths[:, None])[..., None, None]
    newest_first = torch.where(alive, u.gather(1, place), 0)  # (B, L, G, I)
    powers = krylov(system, method, gap, L).to(u.dtype)  # (G, N, I, L)
    return torch.einsum("blgi,gnil->bgn", newest_first, powers)


def _fading(
    system: StateSpace, method: Discretization, state: State, gap: Tensor, L: int, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """What is left of a state handed in: outputs (B, L, H * M), and the state itself after `lengths` steps."""
    propagator, held, ramp = uniform_matrices(system, method, gap)  # (G, N, N)
    weights = method.hold.previous
    driven = system.to(propagator.dtype).driven(state.u.to(propagator))  # (B, G, N)
    back = weights[0] * held + weights[1] * ramp
    x = (propagator @ state.x.to(propagator)[..., None] + back @ driven[..., None])[..., 0]  # (B, G, N), one step on
    rows = system.outputs.to(propagator)  # (G, O, N)
    trail = [rows]
    power, have = propagator, 1
    while have < L:  # C Abar^l by doubling
        trail.append(torch.cat(trail, dim=-2) @ power)
        power, have = power @ power, 2 * have
    trail = torch.cat(trail, dim=-2)[:, : L * rows.shape[-2]]  # (G, L * O, N)
    y = torch.einsum("gkn,bgn->bkg", trail, x).unflatten(1, (L, rows.shape[-2])).movedim(-1, -2)  # (B, L, G, O)
    faded = power_apply(propagator, x, (lengths - 1).clamp(min=0))
    return y.flatten(-2).to(state.x.dtype), faded.to(state.x.dtype)
