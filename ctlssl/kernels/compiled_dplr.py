r"""A = Lambda - P Q^T in lanes: the shifted solve, the product, and their adjoints.

Rows of parameters: Re lambda and Im lambda, n each, then the r columns of P and those of Q, N = 2 n rows each. The pair
of the smallest eigenvalue comes last: it is not eliminated as the others are, but joins the small dense system of the
low-rank part, whose 2 + r unknowns are that pair of y and the weights Q^T y. A record keeps y and these weights.

The transposed matrix is Lambda^T - Q P^T, so every function takes the sign of Im lambda and the places of both factors.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import larger, splat, where_zero
from ctlssl.kernels.compiled_structured_lanes import add, put, take

__all__ = ["product", "product_adjoint", "solve", "solve_adjoint"]


@compiled(inline=True)
def _resolvent(room, n, i, h, sign):
    """1 / (1 - h lambda) of one pair, as real and imaginary part."""
    re, im = 1.0 - h * take(room, i), (sign * h) * take(room, n + i)
    inverse = 1.0 / (re * re + im * im)
    return re * inverse, im * inverse


@compiled(inline=True)
def _dot(room, at, n, i, first, second):
    """One pair's part of an inner product with N rows."""
    return take(room, at + i) * first + take(room, at + n + i) * second


@compiled(inside=True)
def _reduce(room, N, rank, h, sign, P, Q, rhs, y, small):
    """Eliminate all pairs but the last: resolvents at y, Q^T base at small, and Q^T (I - h Lambda)^-1 P after it."""
    n, cells = N // 2, small + rank
    zero = splat(0.0, h)
    for c in range(rank * (1 + rank)):
        put(room, small + c, zero)
    for i in range(n - 1):
        re, im = _resolvent(room, n, i, h, sign)
        put(room, y + i, re)
        put(room, y + n + i, im)
        x1, x2 = take(room, rhs + i), take(room, rhs + n + i)
        first, second = x1 * re - x2 * im, x2 * re + x1 * im
        for c in range(rank):
            add(room, small + c, _dot(room, Q + c * N, n, i, first, second))
        for d in range(rank):
            p1, p2 = take(room, P + d * N + i), take(room, P + d * N + n + i)
            first, second = p1 * re - p2 * im, p2 * re + p1 * im
            for c in range(rank):
                add(room, cells + c * rank + d, _dot(room, Q + c * N, n, i, first, second))


@compiled(inside=True)
def _assemble(room, N, rank, h, sign, P, Q, rhs, small):
    """The small system, (2 + r) rows of 3 + r numbers, the right-hand side last."""
    n, last, width = N // 2, N // 2 - 1, 3 + rank
    cells, matrix = small + rank, small + rank * (1 + rank)
    row = 1.0 / (1.0 + h)  # one size for all rows, from the smallest gap to the largest
    re, im = row * (1.0 - h * take(room, last)), (row * (sign * h)) * take(room, n + last)
    put(room, matrix, re)
    put(room, matrix + 1, im)
    put(room, matrix + width, -im)
    put(room, matrix + width + 1, re)
    put(room, matrix + width - 1, row * take(room, rhs + last))
    put(room, matrix + 2 * width - 1, row * take(room, rhs + n + last))
    for c in range(rank):
        line = matrix + (2 + c) * width
        put(room, matrix + 2 + c, (row * h) * take(room, P + c * N + last))
        put(room, matrix + width + 2 + c, (row * h) * take(room, P + c * N + n + last))
        put(room, line, -take(room, Q + c * N + last))
        put(room, line + 1, -take(room, Q + c * N + n + last))
        for d in range(rank):
            one = 1.0 if c == d else 0.0
            put(room, line + 2 + d, h * take(room, cells + c * rank + d) + one)
        put(room, line + width - 1, take(room, small + c))
    return matrix


@compiled(inline=True)
def _size(a):
    return larger(a, -a)


@compiled(inside=True)
def _eliminate(room, size, matrix):
    """Gauss with partial pivoting, each lane with its own; the solution replaces the last column."""
    width = size + 1
    for col in range(size):
        top = matrix + col * width
        for row in range(col + 1, size):
            line = matrix + row * width
            mine = _size(take(room, top + col))
            shorter = larger(mine, _size(take(room, line + col))) - mine
            for k in range(col, width):
                a, b = take(room, top + k), take(room, line + k)
                put(room, top + k, where_zero(shorter, a, b))
                put(room, line + k, where_zero(shorter, b, a))
        inverse = 1.0 / take(room, top + col)
        for k in range(col + 1, width):
            put(room, top + k, take(room, top + k) * inverse)
        for row in range(col + 1, size):
            line = matrix + row * width
            factor = take(room, line + col)
            for k in range(col + 1, width):
                add(room, line + k, -(factor * take(room, top + k)))
    for col in range(size - 1, 0, -1):
        value = take(room, matrix + col * width + size)
        for row in range(col):
            add(room, matrix + row * width + size, -(take(room, matrix + row * width + col) * value))


@compiled(inside=True)
def _solve(room, N, rank, h, sign, P, Q, rhs, y, weights, small):
    n, last = N // 2, N // 2 - 1
    _reduce(room, N, rank, h, sign, P, Q, rhs, y, small)
    matrix = _assemble(room, N, rank, h, sign, P, Q, rhs, small)
    _eliminate(room, 2 + rank, matrix)
    solution, width = matrix + 2 + rank, 3 + rank
    put(room, y + last, take(room, solution))
    put(room, y + n + last, take(room, solution + width))
    for c in range(rank):
        put(room, weights + c, take(room, solution + (2 + c) * width))
    for i in range(last):
        first, second = take(room, rhs + i), take(room, rhs + n + i)
        for c in range(rank):
            weight = h * take(room, weights + c)
            first = first - take(room, P + c * N + i) * weight
            second = second - take(room, P + c * N + n + i) * weight
        re, im = take(room, y + i), take(room, y + n + i)
        put(room, y + i, first * re - second * im)
        put(room, y + n + i, second * re + first * im)


@compiled(inside=True)
def _collect(room, N, rank, scale, a, y, inner, outer, sums):
    """Add the gradients of A in scale a . A y; inner holds Q^T y, outer P^T a; returns a . A y."""
    n, gained = N // 2, splat(0.0, scale)
    for i in range(n):
        y1, y2, a1, a2 = take(room, y + i), take(room, y + n + i), take(room, a + i), take(room, a + n + i)
        even, odd = a1 * y1 + a2 * y2, a2 * y1 - a1 * y2
        gained = gained + (take(room, i) * even + take(room, n + i) * odd)
        add(room, sums + i, scale * even)
        add(room, sums + n + i, scale * odd)
    for c in range(rank):
        P, Q = sums + N + c * N, sums + (1 + rank) * N + c * N
        right, left = take(room, inner + c), take(room, outer + c)
        gained = gained - left * right
        right, left = scale * right, scale * left
        for i in range(N):
            add(room, P + i, -(take(room, a + i) * right))
            add(room, Q + i, -(take(room, y + i) * left))
    return gained


@compiled(inside=True)
def _product(room, N, rank, sign, P, Q, x, out, weights):
    """Lambda x - P (Q^T x), with the weights Q^T x."""
    n = N // 2
    for c in range(rank):
        weight = take(room, x) * take(room, Q + c * N)
        for i in range(1, N):
            weight = weight + take(room, x + i) * take(room, Q + c * N + i)
        put(room, weights + c, weight)
    for i in range(n):
        x1, x2, re, im = take(room, x + i), take(room, x + n + i), take(room, i), sign * take(room, n + i)
        first, second = re * x1 - im * x2, im * x1 + re * x2
        for c in range(rank):
            weight = take(room, weights + c)
            first = first - take(room, P + c * N + i) * weight
            second = second - take(room, P + c * N + n + i) * weight
        put(room, out + i, first)
        put(room, out + n + i, second)


@compiled(inside=True)
def solve(room, N, rank, h, rhs, at, small):
    """Solution of (I - h A) y = r: y at `at`, the weights Q^T y after it."""
    _solve(room, N, rank, h, 1.0, N, (1 + rank) * N, rhs, at, at + N, small)


@compiled(inside=True)
def solve_adjoint(room, N, rank, h, rhs, at, g, out, small, sums):
    """Adjoint of r from that of y, at `out`; adds the gradients of parameters and returns that of h."""
    _solve(room, N, rank, h, -1.0, (1 + rank) * N, N, g, out, small, small + rank)
    return _collect(room, N, rank, h, out, at, at + N, small, sums)


@compiled(inside=True)
def product(room, N, rank, x, out, small):
    """The product A x."""
    _product(room, N, rank, 1.0, N, (1 + rank) * N, x, out, small)


@compiled(inside=True)
def product_adjoint(room, N, rank, scale, x, g, out, small, sums):
    """Adjoint of x in scale g . A x, at `out`; adds the gradients of parameters and returns g . A x."""
    _product(room, N, rank, 1.0, N, (1 + rank) * N, x, out, small)
    _product(room, N, rank, -1.0, (1 + rank) * N, N, g, out, small + rank)
    for i in range(N):
        put(room, out + i, scale * take(room, out + i))
    return _collect(room, N, rank, scale, g, x, small, small + rank, sums)
