"""A bank of liquid diagonal systems: the factors of a row, step and read in one loop over time, all in float64.

A task is a series and a channel, so that no two write to one place. Arrays are flat; of a channel's numbers all real
parts come first. The formulas are those of `liquid_twin`.
"""

from __future__ import annotations

import math

import numpy as np

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import pointer
from ctlssl.kernels.packing import STRIDE

__all__ = ["BILINEAR", "FACTORS", "HELD", "factors", "guard_scale", "liquid_forward", "phi_one", "resolvent", "room_of"]

BILINEAR, HELD = 0, 1  # the paper's step by a gbt rule or the exact one; beyond, the liquid equation itself
FACTORS = 4
"""Numbers of a pair in a row: the factor and the drive, complex."""

_TERMS, _RADIUS = 14, 0.5  # 0.5^15 / 16! = 1e-18: below the rounding of float64
_VALUES = np.array([1 / math.factorial(k + 1) for k in range(_TERMS + 1)])  # of phi_1
_SLOPES = np.array([(k + 1) / math.factorial(k + 2) for k in range(_TERMS + 1)])  # of its derivative


@compiled(inline=True)
def phi_one(x, y):
    """e^z, phi_1(z) and phi_1'(z) of z = x + i y, real and imaginary parts."""
    size = math.exp(x)
    e, f = size * math.cos(y), size * math.sin(y)
    square = x * x + y * y
    if square < _RADIUS * _RADIUS:
        a = b = c = d = 0.0
        for k in range(_TERMS, -1, -1):
            a, b = a * x - b * y + _VALUES[k], a * y + b * x
            c, d = c * x - d * y + _SLOPES[k], c * y + d * x
        return e, f, a, b, c, d
    over = 1 / square
    a, b = ((e - 1) * x + f * y) * over, (f * x - (e - 1) * y) * over
    c, d = ((e - a) * x + (f - b) * y) * over, ((f - b) * x - (e - a) * y) * over
    return e, f, a, b, c, d


@compiled(inline=True)
def resolvent(x, y, alpha):
    """R = 1 / (1 - alpha z) and Abar = R (1 + (1 - alpha) z), real and imaginary parts."""
    below, beside = 1 - alpha * x, alpha * y
    over = 1 / (below * below + beside * beside)
    r, t = below * over, beside * over
    up, side = 1 + (1 - alpha) * x, (1 - alpha) * y
    return r, t, r * up - t * side, r * side + t * up


@compiled(inline=True)
def room_of(x, y, alpha):
    """1 - |Abar|^2 of a gbt rule."""
    below, beside = 1 - alpha * x, alpha * y
    return ((2 * alpha - 1) * (x * x + y * y) - 2 * x) / (below * below + beside * beside)


@compiled(inline=True)
def guard_scale(a, b, m, w, room, guard):
    """The largest s in [0, 1] with |a + i b + s (m + i w)| <= 1, and the root it came from, 0 where none was needed."""
    q, p = m * m + w * w, a * m + b * w
    over = guard and q + 2 * p > room
    root = math.sqrt(max(p * p + q * room, 0.0))
    scale = room / (p + root) if p > 0 else (root - p) / q
    return (scale if over else 1.0), (root if over else 0.0), over


@compiled(inside=True)
def _bilinear_factors(h, u, alpha, guard, poles, B, base, n, out):
    for j in range(n):
        x, y = h * poles[base + j], h * poles[base + n + j]
        b, c = h * B[base + j], h * B[base + n + j]
        r, t, a, f = resolvent(x, y, alpha)
        m, w = (r * b - t * c) * u, (r * c + t * b) * u
        s, _, _ = guard_scale(a, f, m, w, room_of(x, y, alpha), guard)
        out[j], out[n + j] = a + s * m, f + s * w
        out[2 * n + j], out[3 * n + j] = m, w


@compiled(inside=True)
def _held_factors(h, u, guard, poles, B, base, n, out):
    for j in range(n):
        x, y = h * poles[base + j], h * poles[base + n + j]
        b, c = h * B[base + j], h * B[base + n + j]
        e, f, r, t, _, _ = phi_one(x, y)
        m, w = (r * b - t * c) * u, (r * c + t * b) * u
        s, _, _ = guard_scale(e, f, m, w, -math.expm1(2 * x), guard)
        out[j], out[n + j] = e + s * m, f + s * w
        out[2 * n + j], out[3 * n + j] = m, w


@compiled(inside=True)
def _exact_factors(h, u, guard, poles, B, base, n, out):
    for j in range(n):
        x, y, m, w = poles[base + j], poles[base + n + j], B[base + j] * u, B[base + n + j] * u
        over = guard and m > -x
        scale = -x / m if over else 1.0
        e, f, r, t, _, _ = phi_one(0.0 if over else h * (x + m), h * (y + scale * w))
        out[j], out[n + j] = e, f
        out[2 * n + j], out[3 * n + j] = h * (r * m - t * w), h * (r * w + t * m)


@compiled(inside=True)
def factors(kind, h, u, alpha, guard, poles, B, base, n, out):
    """The factors and drives of a row of one channel, n numbers each of real and imaginary parts."""
    if kind == BILINEAR:
        _bilinear_factors(h, u, alpha, guard, poles, B, base, n, out)
    elif kind == HELD:
        _held_factors(h, u, guard, poles, B, base, n, out)
    else:
        _exact_factors(h, u, guard, poles, B, base, n, out)


@compiled
def liquid_forward(first, last, room, L, H, n, kind, alpha, guard, u, kinds, steps, poles, B, C, D, x, y, kept, points):
    """Y (B, L, H), the last states in x (B, H, 2 n), and those before every STRIDE-th row if there are points."""
    out, u, kinds, steps, poles = pointer(room), pointer(u), pointer(kinds), pointer(steps), pointer(poles)
    B, C, D, x, y, kept = pointer(B), pointer(C), pointer(D), pointer(x), pointer(y), pointer(kept)
    for task in range(first, last):
        series, channel = task // H, task % H
        base, own = channel * 2 * n, task * 2 * n
        for k in range(L):
            if points and k % STRIDE == 0:
                spot = (task * points + k // STRIDE) * 2 * n
                for j in range(2 * n):
                    kept[spot + j] = x[own + j]
            row = series * L + k
            if kinds[row] == 0:
                continue
            place = row * H + channel
            factors(kind, steps[place], u[place], alpha, guard, poles, B, base, n, out)
            for j in range(n):
                a, b, p, q = out[j], out[n + j], x[own + j], x[own + n + j]
                out[2 * n + j] += a * p - b * q
                out[3 * n + j] += a * q + b * p
            total = D[channel] * u[place]
            for j in range(2 * n):
                total += C[base + j] * out[2 * n + j]
            y[place] = total
            if kinds[row] == 1:
                for j in range(2 * n):
                    x[own + j] = out[2 * n + j]
