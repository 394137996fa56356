r"""One step of z' = -A y - G z + w, y' = z with w held: implicit, implicit-explicit, or exact.

The exact step of a gap h is written with p = h G / 2, q = h^2 A and the Stumpff functions of q - p^2,

    c = e^{-p} cos(s),  s = e^{-p} sin(s) / s,  r = (1 - c - p s) / q     with s^2 = q - p^2, of either sign,

    M = [[c - p s, -h A s], [h s, c + p s]],   drive (h s, h^2 r),

r being the position that a force of 1 leads to from rest. Without damping one formula serves everywhere; with it each
oscillator and gap takes the one of its regime. At A = 0, G = 0 and h = 0 nothing is divided by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.state_matrices.phi import phi_functions

__all__ = ["OSCILLATOR_STEPS", "oscillator_step"]

_NEAR = 1e-2
"""Below this a square counts as small: series lose nothing there, quotients elsewhere lose two digits at most."""

_TERMS = 12  # after the first: (2 p)^12 / 14! = 3e-18 of it where the series is used


_Step = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Rows of M, then the drive."""


def oscillator_step(
    method: str, h: Tensor, A: Tensor, G: Tensor | float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """The matrix M (..., 2, 2) of (z, y), and the drive (..., 2) of w = 1.

    Args:
        method: one of OSCILLATOR_STEPS.
        h: gaps in the oscillator's own time, (...) float64.
        A: stiffness >= 0, (...) float64.
        G: damping >= 0, (...) float64, or the number 0 where there is none.
        dtype: of what is returned.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> oscillator_step("implicit_explicit", one, one, 0 * one)[0]
        tensor([[ 1., -1.],
                [ 1.,  0.]], dtype=torch.float64)
    """
    *matrix, z, y = (part.to(dtype) for part in OSCILLATOR_STEPS[method](h, A, G))
    return torch.stack(matrix, -1).unflatten(-1, (2, 2)), torch.stack([z, y], -1)


def _implicit(h: Tensor, A: Tensor, G: Tensor | float) -> _Step:
    """z_k = z_{k-1} + h (-A y_k - G z_k + w_k), y_k = y_{k-1} + h z_k: backward Euler."""
    S = 1 / (1 + h * (G + h * A))
    moved = h * S
    return S, -A * moved, moved, (1 + h * G) * S, moved, h * moved


def _implicit_explicit(h: Tensor, A: Tensor, G: Tensor | float) -> _Step:
    """z_k = z_{k-1} + h (-A y_{k-1} - G z_k + w_k), y_k = y_{k-1} + h z_k: symplectic where G = 0."""
    S = 1 / (1 + h * G)
    moved = h * S
    return S, -A * moved, moved, 1 - h * A * moved, moved, h * moved


def _exact(h: Tensor, A: Tensor, G: Tensor | float) -> _Step:
    """The flow itself: the exponential of h [[-G, -A], [1, 0]]."""
    if not isinstance(G, Tensor):
        return _undamped(h, A)
    h, A, G = torch.broadcast_tensors(h, A, G)
    p, q = h * G / 2, h * h * A
    c, s, r = _flow(p, q)
    return c - p * s, -h * A * s, h * s, c + p * s, h * s, h * h * r


def _undamped(h: Tensor, A: Tensor) -> _Step:
    """By half the angle, which keeps the digits of 1 - cos."""
    half = h * A.sqrt() / 2
    sine, cosine, moves = half.sin(), half.cos(), half > 0
    ratio = torch.where(moves, sine / torch.where(moves, half, 1), 1)  # sin(half) / half
    c, moved = 1 - 2 * sine * sine, h * ratio * cosine
    return c, -A * moved, moved, c, moved, (h * ratio).square() / 2


def _flow(p: Tensor, q: Tensor) -> Tensor:
    """The functions c, s and r of all p and q, (3, ...), each by the formula of its regime."""
    shape, p, q = p.shape, p.flatten(), q.flatten()
    w, slow = q - p * p, (q <= _NEAR) & (p * p <= 2 * _NEAR)
    regimes = {
        _slow: slow,
        _turning: (w > _NEAR) & ~slow,
        _critical: (w.abs() <= _NEAR) & ~slow,
        _overdamped: (w < -_NEAR) & ~slow,
    }
    found = p.new_full((3, len(p)), torch.nan)
    for formula, where in regimes.items():
        at = where.nonzero()[:, 0]
        if len(at) == len(p):
            return torch.stack(formula(p, q)).reshape(3, *shape)
        if len(at):
            found = found.index_copy(1, at, torch.stack(formula(p[at], q[at])))
    return found.reshape(3, *shape)


def _slow(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of p^2 and q near 0, by the power series r = sum_n r_n of the answer to a force of 1; s is its derivative."""
    before, now = torch.zeros_like(p), torch.full_like(p, 0.5)  # r_1, r_2
    r, s = now, 2 * now
    for n in range(1, _TERMS):
        before, now = now, -(2 * (n + 1) * p * now + q * before) / ((n + 1) * (n + 2))
        r, s = r + now, s + (n + 2) * now
    return 1 - q * r - p * s, s, r


def _turning(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of q > p^2: it swings while it decays."""
    angle, kept = (q - p * p).sqrt(), torch.exp(-p)
    c, s = kept * torch.cos(angle), kept * torch.sin(angle) / angle
    return c, s, (1 - c - p * s) / q


def _critical(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of q near p^2, by the series of the Stumpff functions."""
    w, kept = q - p * p, torch.exp(-p)
    c = kept * (1 - w / 2 * (1 - w / 12 * (1 - w / 30 * (1 - w / 56))))
    s = kept * (1 - w / 6 * (1 - w / 20 * (1 - w / 42 * (1 - w / 72))))
    return c, s, (1 - c - p * s) / q


def _overdamped(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of q < p^2: two decays, of which the slow one may last for ever."""
    apart = (p * p - q).sqrt()
    slow, fast = -q / (p + apart), -(p + apart)  # without the difference p - apart
    (kept, slow_rise), (lost, fast_rise) = phi_functions(slow, top=1), phi_functions(fast, top=1)
    c, s = (kept + lost) / 2, (kept - lost) / (2 * apart)
    large = q > _NEAR
    quotient = (1 - c - p * s) / torch.where(large, q, 1)
    return c, s, torch.where(large, quotient, (slow_rise - fast_rise) / (2 * apart))


OSCILLATOR_STEPS: dict[str, Callable[[Tensor, Tensor, Tensor | float], _Step]] = {
    "implicit": _implicit,
    "implicit_explicit": _implicit_explicit,
    "exact": _exact,
}
"""From gaps h, stiffness A and damping G to the rows of the matrix of (z, y), and its drive by w = 1."""
