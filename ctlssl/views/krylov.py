r"""Convolution kernels K_l = C Abar^l Bbar and the Krylov columns Abar^l Bbar behind them, each structure its own way.

| structure | gbt rules | exact rules |
|---|---|---|
| diagonal | powers of the eigenvalues (Vandermonde) | the same |
| DPLR | resolvent at L frequencies, by Woodbury | repeated squaring |
| quasiseparable | resolvent at L frequencies, one tridiagonal solve each | repeated squaring |
| dense | repeated squaring | repeated squaring |

References:
    Gu et al. (2021), LSSL, for squaring; Gu, Goel, Re (2022), S4, for the generating function;
    Gu, Gupta, Goel, Re (2022), S4D, for Vandermonde.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_matrices import Diagonal
from ctlssl.state_matrices.diagonal import split_pairs
from ctlssl.state_space import StateSpace

__all__ = ["convolution_kernel", "krylov", "power_apply", "power_apply_rows", "uniform_matrices"]

_RADIUS_POWER = 1e-3
"""r^L of the circle on which the generating function is read: r = 1 is singular where A has an eigenvalue 0."""


def uniform_matrices(system: StateSpace, method: Discretization, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense Abar, F, G of one gap, float64, (G or 1, N, N)."""
    A = system.A.to_dense().to(torch.float64)
    return method.rule.matrices(A if A.ndim == 3 else A[None], gap.expand(1))


def power_apply(matrix: Tensor, x: Tensor, exponents: Tensor) -> Tensor:
    """matrix^e x for an exponent of each series, by its binary digits.

    Args:
        matrix: (G, N, N).
        x: (B, G, N).
        exponents: (B,), non-negative integers.
    """
    top = int(exponents.max()) if exponents.numel() else 0
    for bit in range(top.bit_length()):
        turned = (matrix @ x[..., None])[..., 0]
        x = torch.where(((exponents >> bit) & 1).bool()[:, None, None], turned, x)
        matrix = matrix @ matrix
    return x


def krylov(system: StateSpace, method: Discretization, gap: Tensor, L: int) -> Tensor:
    """The states at the first L rows after an impulse of each input, (G, N, I, L), float64."""
    if isinstance(system.A, Diagonal):
        columns = _vandermonde(system, method, gap, L)  # (G, n, I, L) complex
        return torch.cat([columns.real, columns.imag], dim=1)
    propagator, late, start = _columns(system, method, gap)
    return torch.cat([late[..., None], _geometric(propagator, start, L - 1)], dim=-1)[..., :L]


def convolution_kernel(system: StateSpace, method: Discretization, gap: Tensor, L: int) -> Tensor:
    """K_l = C Abar^l Bbar, the input at t_{k-1} of holds that look back included, (G, O, I, L), float64.

    Args:
        system: the continuous system.
        method: the discretization.
        gap: the one gap of the grid, a scalar.
        L: length.
    """
    C = system.outputs.to(torch.float64)
    if isinstance(system.A, Diagonal):
        columns = _vandermonde(system, method, gap, L)  # (G, n, I, L)
        weights = split_pairs(C).conj()  # (G, O, n)
        return (weights @ columns.flatten(2)).real.unflatten(-1, columns.shape[2:])
    if method.needs_table(system.A):
        columns = krylov(system, method, gap, L)  # (G, N, I, L)
        return (C @ columns.flatten(2)).unflatten(-1, columns.shape[2:])
    return _resolvent_kernel(system, method, gap, L)


def _columns(system: StateSpace, method: Discretization, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Abar (G, N, N), and the states right after an impulse and one row later, (G, N, I) each.

    From the second row on the response is geometric, whatever the hold.
    """
    propagator, held, ramp = uniform_matrices(system, method, gap)
    hold, B = method.hold, system.inputs.to(propagator)  # (G, N, I)
    late = (hold.next[0] * held + hold.next[1] * ramp) @ B + hold.kick * B
    early = (hold.previous[0] * held + hold.previous[1] * ramp) @ B
    return propagator, late, propagator @ late + early


def _geometric(matrix: Tensor, start: Tensor, count: int) -> Tensor:
    """matrix^l start for l < count by doubling, (G, N, I, count)."""
    columns = start[..., None]
    while columns.shape[-1] < count:
        more = (matrix @ columns.flatten(2)).unflatten(2, columns.shape[2:])
        columns = torch.cat([columns, more], dim=-1)
        matrix = matrix @ matrix
    return columns[..., : max(count, 0)]


def _vandermonde(system: StateSpace, method: Discretization, gap: Tensor, L: int) -> Tensor:
    """Pairs of states after an impulse, complex (G, n, I, L)."""
    poles = system.A.poles.to(torch.complex128)
    poles = poles if poles.ndim == 2 else poles[None]  # (G or 1, n)
    power, held, ramp = method.rule.scalars(gap * poles)
    hold, B = method.hold, system.inputs.to(torch.float64)  # (G, N, I)
    B = split_pairs(B.mT).mT  # (G, n, I)
    late = (gap * (hold.next[0] * held + hold.next[1] * ramp) + hold.kick)[..., None] * B
    early = (gap * (hold.previous[0] * held + hold.previous[1] * ramp))[..., None] * B
    start = power[..., None] * late + early  # (G, n, I)
    powers = torch.ones_like(power)[..., None]  # (G, n, l), by doubling: exact also for an eigenvalue mapped to 0
    while powers.shape[-1] < L - 1:
        powers = torch.cat([powers, powers * power[..., None]], dim=-1)
        power = power * power
    tail = start[..., None] * powers[:, :, None, : max(L - 1, 0)]
    return torch.cat([late[..., None], tail], dim=-1)[..., :L]


def _resolvent_kernel(system: StateSpace, method: Discretization, gap: Tensor, L: int) -> Tensor:
    r"""The kernel of a gbt rule from its generating function on a circle of radius r < 1.

    sum_l Abar^l z^l b = ((1 - z) I - h (a + (1 - a) z) A)^{-1} (I - a h A) b: one shifted solve a frequency.
    Cutting the sum after `count` terms replaces C by C (I - r^count Abar^count), since z^count is the same on
    every point.
    """
    propagator, late, start = _columns(system, method, gap)
    C = system.outputs.to(torch.float64)  # (G, O, N)
    count, alpha = L - 1, method.rule.alpha
    head = (C @ late)[..., None]  # (G, O, I, 1)
    if count < 1:
        return head[..., :L]
    radius = _RADIUS_POWER ** (1 / count)
    angle = torch.arange(count // 2 + 1, dtype=torch.float64, device=C.device) * (-2 * torch.pi / count)
    z = torch.polar(torch.full_like(angle, radius), angle)  # (F,)
    A = system.A.to(torch.float64)
    start = start.movedim(-1, 0)  # (I, G, N)
    rhs = start - alpha * gap * A.matmul(start)
    shift = (gap * (alpha + (1 - alpha) * z) / (1 - z))[:, None, None]  # (F, 1, 1)
    states = A.solve_shifted(shift, rhs.to(z.dtype)) / (1 - z)[:, None, None, None]  # (F, I, G, N)
    tail = power_apply_rows(propagator, C, count)  # (G, O, N), C Abar^count
    cut = (C - _RADIUS_POWER * tail).to(z.dtype)
    spectrum = torch.einsum("gon,fign->goif", cut, states)
    decay = radius ** torch.arange(count, dtype=torch.float64, device=C.device)
    return torch.cat([head, torch.fft.irfft(spectrum, n=count) / decay], dim=-1)


def power_apply_rows(matrix: Tensor, rows: Tensor, exponent: int) -> Tensor:
    """Row vectors times matrix^exponent by binary digits; matrix (G, N, N), rows (G, O, N)."""
    while exponent:
        rows = rows @ matrix if exponent & 1 else rows
        matrix, exponent = matrix @ matrix, exponent >> 1
    return rows
