r"""One row of a gbt rule for eight systems, forward and back.

For alpha >= 1/2, in the Cayley form that never multiplies by h A:

    y = (I - alpha h A)^{-1} (x / alpha + h b),  shown = y - (1 / alpha - 1) x;

below, y = (I - alpha h A)^{-1} (x + (1 - alpha) h A x + h b), shown = y. A kick adds b to what is shown instead.
A record of a row begins with x, N rows, and y, N rows; what the structure keeps for its adjoint follows.
"""

from __future__ import annotations

from ctlssl.kernels import compiled_dplr as dplr
from ctlssl.kernels import compiled_quasiseparable as quasiseparable
from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import where_zero
from ctlssl.kernels.compiled_structured_lanes import put, take

__all__ = ["DRIVE", "GX", "OUT", "SHOWN", "SMALL", "SKEW", "WORK", "block", "shown_state", "step", "step_adjoint"]

DRIVE, RHS, OUT, SHOWN, GX, SMALL = range(6)
WORK = SMALL
"""Working blocks of N rows, before the small ones of a structure: where they begin is `base`."""
SKEW = 3
"""Rows between blocks: where N is a power of two, the same row of all blocks would share one place in the cache."""


@compiled(inline=True)
def block(base, N, name):
    """Where a working block begins."""
    return base + name * (N + SKEW)


@compiled(inside=True)
def _solve(kind, room, N, rank, h, rhs, at, small):
    if kind == 0:
        quasiseparable.solve(room, N, rank, h, rhs, at, small)
    else:
        dplr.solve(room, N, rank, h, rhs, at, small)


@compiled(inside=True)
def _solve_adjoint(kind, room, N, rank, h, rhs, at, g, out, small, sums):
    if kind == 0:
        return quasiseparable.solve_adjoint(room, N, rank, h, rhs, at, g, out, small, sums)
    return dplr.solve_adjoint(room, N, rank, h, rhs, at, g, out, small, sums)


@compiled(inside=True)
def _product(kind, room, N, rank, x, out, small):
    if kind == 0:
        quasiseparable.product(room, N, rank, x, out, small)
    else:
        dplr.product(room, N, rank, x, out, small)


@compiled(inside=True)
def _product_adjoint(kind, room, N, rank, scale, x, g, out, small, sums):
    if kind == 0:
        return quasiseparable.product_adjoint(room, N, rank, scale, x, g, out, small, sums)
    return dplr.product_adjoint(room, N, rank, scale, x, g, out, small, sums)


@compiled(inline=True)
def _shares(alpha):
    """What x counts in the right-hand side, and what is taken off y."""
    return (1 / alpha, 1 / alpha - 1) if alpha >= 0.5 else (1.0, 0.0)


@compiled(inside=True)
def _right_hand_side(kind, room, N, rank, base, at, alpha, kick, h):
    """What is solved for, at RHS."""
    rhs, drive, small = block(base, N, RHS), block(base, N, DRIVE), block(base, N, SMALL)
    ahead, _ = _shares(alpha)
    pushed = 0.0 * h if kick else h
    if alpha >= 0.5:
        for i in range(N):
            put(room, rhs + i, ahead * take(room, at + i) + pushed * take(room, drive + i))
        return
    _product(kind, room, N, rank, at, rhs, small)
    moved = (1 - alpha) * h
    for i in range(N):
        put(room, rhs + i, take(room, at + i) + (moved * take(room, rhs + i) + pushed * take(room, drive + i)))


@compiled(inline=True)
def shown_state(room, N, i, base, at, alpha, kick):
    """State i as the row shows it, from its record."""
    _, back = _shares(alpha)
    seen = take(room, at + N + i) - back * take(room, at + i)
    return seen + take(room, block(base, N, DRIVE) + i) if kick else seen


@compiled(inside=True)
def step(kind, room, N, rank, base, at, alpha, kick, h):
    """Complete the record at `at` that begins with x, and write what the row shows to SHOWN."""
    _right_hand_side(kind, room, N, rank, base, at, alpha, kick, h)
    if alpha > 0:
        _solve(kind, room, N, rank, alpha * h, block(base, N, RHS), at + N, block(base, N, SMALL))
    else:
        for i in range(N):
            put(room, at + N + i, take(room, block(base, N, RHS) + i))
    for i in range(N):
        put(room, block(base, N, SHOWN) + i, shown_state(room, N, i, base, at, alpha, kick))


@compiled(inside=True)
def step_adjoint(kind, room, N, rank, base, at, alpha, kick, h, commits, sums):
    """From the adjoint of what was read at SHOWN and of later states at GX: that of the drive at DRIVE, of x at GX.

    Adds the gradients of the parameters of A and returns that of the gap.
    """
    rhs, drive, out, shown = block(base, N, RHS), block(base, N, DRIVE), block(base, N, OUT), block(base, N, SHOWN)
    gx, small = block(base, N, GX), block(base, N, SMALL)
    for i in range(N):
        later = take(room, gx + i)
        put(room, shown + i, take(room, shown + i) + where_zero(commits, 0.0, later))
        put(room, gx + i, where_zero(commits, later, 0.0))
    gh = 0.0 * h
    pulled = shown
    if alpha > 0:
        _right_hand_side(kind, room, N, rank, base, at, alpha, kick, h)
        pulled = out
        gh = alpha * _solve_adjoint(kind, room, N, rank, alpha * h, rhs, at + N, shown, out, small, sums)
    ahead, back = _shares(alpha)
    for i in range(N):
        g, b, pull = take(room, shown + i), take(room, drive + i), take(room, pulled + i)
        put(room, gx + i, take(room, gx + i) + (ahead * pull - back * g))
        if kick:
            put(room, drive + i, g)
        else:
            put(room, drive + i, h * pull)
            gh = gh + b * pull
    if alpha < 0.5:
        # The drive's place now holds its adjoint and RHS is free.
        scale = (1 - alpha) * h
        ahx = _product_adjoint(kind, room, N, rank, scale, at, pulled, rhs, small, sums)
        gh = gh + (1 - alpha) * ahx
        for i in range(N):
            put(room, gx + i, take(room, gx + i) + take(room, rhs + i))
    return gh
