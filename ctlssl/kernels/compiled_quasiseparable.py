r"""A = -P (D + T^{-1}) Q in lanes: the shifted solve, the product, and their adjoints.

Rows of parameters, seven for each state i: 1/P, 1/Q, Q, D, then T[i+1, i], T[i, i] and T[i, i+1], which are 0 outside
the matrix. Gradients of the first two are those of 1/P and 1/Q; that of the third stays 0.

With c = 1/(P Q) + h D the system (I - h A) y = r reads (T c + h I) s = T (r / P), y = s / Q. It is eliminated
without pivoting, since it is one tridiagonal matrix with the same stable pivots at every gap; a pivot that vanishes
gives large numbers, not NaN. A record keeps y and the inverse pivots, which serve the transposed matrix too.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import splat, where_zero
from ctlssl.kernels.compiled_structured_lanes import add, put, take

__all__ = ["product", "product_adjoint", "solve", "solve_adjoint"]

LEFT, RIGHT, Q, D, LOWER, DIAG, UPPER = range(7)
ROWS = 7
_HUGE = 2.0**511
"""The inverse of a pivot that vanishes."""


@compiled(inline=True)
def _inverse(pivot):
    return where_zero(pivot, _HUGE, 1.0 / pivot)


@compiled(inline=True)
def _of(room, name, i):
    """A parameter of state i."""
    return take(room, ROWS * i + name)


@compiled(inline=True)
def _gain(room, sums, name, i, value):
    """Add to the gradient of a parameter of state i."""
    add(room, sums + ROWS * i + name, value)


@compiled(inline=True)
def _column(room, i, h):
    return _of(room, LEFT, i) * _of(room, RIGHT, i) + h * _of(room, D, i)


@compiled(inside=True)
def solve(room, N, rank, h, rhs, at, small):
    """Solution of (I - h A) y = r: y at `at`, the inverse pivots after it."""
    z, c = take(room, rhs) * _of(room, LEFT, 0), _column(room, 0, h)
    carry, pivot = _of(room, DIAG, 0) * z, _of(room, DIAG, 0) * c + h
    moved = splat(0.0, h)
    for i in range(N - 1):
        inverse = _inverse(pivot)
        z_next, c_next = take(room, rhs + i + 1) * _of(room, LEFT, i + 1), _column(room, i + 1, h)
        lower, upper, main = _of(room, LOWER, i), _of(room, UPPER, i), _of(room, DIAG, i + 1)
        below, above = lower * c, upper * c_next
        value = (carry + upper * z_next - moved) * inverse
        put(room, at + N + i, inverse)
        put(room, at + i, value)
        put(room, small + i, above * inverse)
        pivot = (main * c_next + h) - (below * above) * inverse
        moved = below * value
        carry = lower * z + main * z_next
        z, c = z_next, c_next
    inverse = _inverse(pivot)
    s = (carry - moved) * inverse
    put(room, at + 2 * N - 1, inverse)
    put(room, at + N - 1, s * _of(room, RIGHT, N - 1))
    for i in range(N - 2, -1, -1):
        s = take(room, at + i) - take(room, small + i) * s
        put(room, at + i, s * _of(room, RIGHT, i))


@compiled(inline=True)
def _collect(room, j, h, c, above, a, gz, rhs, at, g, out, sums):
    """Gradients of column j once the adjoint of T z is known there; returns e = z - c s and what h gains."""
    r, left, right = take(room, rhs + j), _of(room, LEFT, j), _of(room, RIGHT, j)
    s = take(room, at + j) * _of(room, Q, j)
    e = r * left - c * s
    gc = -(gz * s)
    _gain(room, sums, LEFT, j, gz * r + gc * right)
    _gain(room, sums, RIGHT, j, take(room, g + j) * s + gc * left)
    _gain(room, sums, D, j, h * gc)
    _gain(room, sums, LOWER, j, above * e)
    _gain(room, sums, DIAG, j, a * e)
    put(room, out + j, gz * left)
    return e, _of(room, D, j) * gc - a * s


@compiled(inside=True)
def solve_adjoint(room, N, rank, h, rhs, at, g, out, small, sums):
    """Adjoint of r from that of y, at `out`; adds the gradients of parameters and returns that of h."""
    INVERSE = at + N
    value = take(room, g) * _of(room, RIGHT, 0)
    c = _column(room, 0, h)
    put(room, out, value)
    for i in range(1, N):
        c = _column(room, i, h)
        above = _of(room, UPPER, i - 1) * c
        value = take(room, g + i) * _of(room, RIGHT, i) - (above * take(room, INVERSE + i - 1)) * value
        put(room, out + i, value)
    a, above = value * take(room, INVERSE + N - 1), splat(0.0, h)
    gh, lower = above, above
    for j in range(N - 1, 0, -1):
        c_before = _column(room, j - 1, h)
        lower_before, upper_before = _of(room, LOWER, j - 1), _of(room, UPPER, j - 1)
        before = (take(room, out + j - 1) - (lower_before * c_before) * a) * take(room, INVERSE + j - 1)
        gz = lower * above + _of(room, DIAG, j) * a + upper_before * before
        e, gained = _collect(room, j, h, c, above, a, gz, rhs, at, g, out, sums)
        _gain(room, sums, UPPER, j - 1, before * e)
        gh = gh + gained
        above, a, c, lower = a, before, c_before, lower_before
    gz = lower * above + _of(room, DIAG, 0) * a
    e, gained = _collect(room, 0, h, c, above, a, gz, rhs, at, g, out, sums)
    return gh + gained


@compiled(inside=True)
def _coupled(room, N, lower, upper, rhs, out, small):
    """Solution of T v = f, or with the transposed T where the names of its bands are exchanged."""
    inverse = _inverse(_of(room, DIAG, 0))
    value = take(room, rhs) * inverse
    put(room, out, value)
    for i in range(1, N):
        below, above = _of(room, lower, i - 1), _of(room, upper, i - 1) * inverse
        put(room, small + i - 1, above)
        inverse = _inverse(_of(room, DIAG, i) - below * above)
        value = (take(room, rhs + i) - below * value) * inverse
        put(room, out + i, value)
    for i in range(N - 2, -1, -1):
        value = take(room, out + i) - take(room, small + i) * value
        put(room, out + i, value)


@compiled(inside=True)
def product(room, N, rank, x, out, small):
    """The product A x."""
    right, solved = small + N, small + 2 * N
    for i in range(N):
        put(room, right + i, _of(room, Q, i) * take(room, x + i))
    _coupled(room, N, LOWER, UPPER, right, solved, small)
    for i in range(N):
        put(room, out + i, -(_of(room, D, i) * take(room, right + i) + take(room, solved + i)) / _of(room, LEFT, i))


@compiled(inside=True)
def product_adjoint(room, N, rank, scale, x, g, out, small, sums):
    """Adjoint of x in scale g . A x, at `out`; adds the gradients of parameters and returns g . A x."""
    right, solved, pulled, coupled = small + N, small + 2 * N, small + 3 * N, small + 4 * N
    product(room, N, rank, x, out, small)
    gained = splat(0.0, scale)
    for i in range(N):
        ax, left = take(room, out + i), _of(room, LEFT, i)
        gained = gained + take(room, g + i) * ax
        _gain(room, sums, LEFT, i, -(scale * take(room, g + i) * ax) / left)
        put(room, pulled + i, -(scale * take(room, g + i)) / left)
    _coupled(room, N, UPPER, LOWER, pulled, coupled, small)
    for i in range(N):
        q, here, a = _of(room, Q, i), take(room, pulled + i), take(room, coupled + i)
        gright = _of(room, D, i) * here + a
        _gain(room, sums, RIGHT, i, -(q * q) * (take(room, x + i) * gright))
        _gain(room, sums, D, i, here * take(room, right + i))
        _gain(room, sums, DIAG, i, -(a * take(room, solved + i)))
        put(room, out + i, q * gright)
    for i in range(N - 1):
        _gain(room, sums, LOWER, i, -(take(room, coupled + i + 1) * take(room, solved + i)))
        _gain(room, sums, UPPER, i, -(take(room, coupled + i) * take(room, solved + i + 1)))
    return gained
