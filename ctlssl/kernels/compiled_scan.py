"""x_k = a_k x_{k-1} + b_k in one loop over time, forward and backward; complex numbers as pairs (real, imaginary).

A task is a series. Arrays are flat: (B, L, K) numbers, or (B, L, K, 2) where `pairs` is set.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import pointer

__all__ = ["scan_backward", "scan_forward"]


@compiled(inside=True)
def _real_row(a, b, before, now, spot, old, K):
    for j in range(K):
        now[spot + j] = a[spot + j] * before[old + j] + b[spot + j]


@compiled(inside=True)
def _complex_row(a, b, before, now, spot, old, K):
    for j in range(0, 2 * K, 2):
        p, q, x, y = a[spot + j], a[spot + j + 1], before[old + j], before[old + j + 1]
        now[spot + j] = p * x - q * y + b[spot + j]
        now[spot + j + 1] = p * y + q * x + b[spot + j + 1]


@compiled
def scan_forward(first, last, L, K, pairs, a, b, x, states):
    """All states, from those before the first row, x (B, K)."""
    a, b, x, states = pointer(a), pointer(b), pointer(x), pointer(states)
    width = 2 * K if pairs else K
    for series in range(first, last):
        for k in range(L):
            spot = (series * L + k) * width
            before, old = (states, spot - width) if k else (x, series * width)
            if pairs:
                _complex_row(a, b, before, states, spot, old, K)
            else:
                _real_row(a, b, before, states, spot, old, K)


@compiled(inside=True)
def _real_back(a, before, grad, ga, gb, spot, old, K, gx, place):
    for j in range(K):
        g = grad[spot + j] + gx[place + j]
        gb[spot + j], ga[spot + j] = g, g * before[old + j]
        gx[place + j] = g * a[spot + j]


@compiled(inside=True)
def _complex_back(a, before, grad, ga, gb, spot, old, K, gx, place):
    for j in range(0, 2 * K, 2):
        g, i = grad[spot + j] + gx[place + j], grad[spot + j + 1] + gx[place + j + 1]
        p, q, x, y = a[spot + j], a[spot + j + 1], before[old + j], before[old + j + 1]
        gb[spot + j], gb[spot + j + 1] = g, i
        ga[spot + j], ga[spot + j + 1] = g * x + i * y, i * x - g * y
        gx[place + j], gx[place + j + 1] = p * g + q * i, p * i - q * g


@compiled
def scan_backward(first, last, L, K, pairs, a, x, states, grad, ga, gb, gx):
    """Adjoints of a, b and x (zeros at first) from that of the states."""
    a, x, states, grad = pointer(a), pointer(x), pointer(states), pointer(grad)
    ga, gb, gx = pointer(ga), pointer(gb), pointer(gx)
    width = 2 * K if pairs else K
    for series in range(first, last):
        for k in range(L - 1, -1, -1):
            spot = (series * L + k) * width
            before, old = (states, spot - width) if k else (x, series * width)
            if pairs:
                _complex_back(a, before, grad, ga, gb, spot, old, K, gx, series * width)
            else:
                _real_back(a, before, grad, ga, gb, spot, old, K, gx, series * width)
