r"""One row of LANES complex states: its coefficients, its step, and the way back.

A row is one flat array of SLOTS x LANES numbers, so that every loop below runs over a fixed number of lanes at fixed
distances and becomes vector code without tests of overlap. Complex numbers take two slots, real part first.
"""

from __future__ import annotations

import math

import numpy as np

from ctlssl.kernels.compiled_numbers import (
    compiled,
    cosine,
    exponential,
    multiply_add,
    phi1_slope,
    phi3_series,
    power_of_two,
    sine,
)
from ctlssl.kernels.compiled_vectors import LANES

__all__ = ["ADJOINTS", "FIXED", "LANES", "SLOTS", "adjoint_step", "discretize", "step"]

_PI = (math.pi, 1.2246467991473532e-16)  # pi as the sum of two numbers
_LOG2 = (0.693359375, -2.121944400546905827679e-4)  # few bits, and the rest

# Slots of a row: Abar, F, G, the state shown, the drives of F and of G, z = h lambda, what the
# exponential needs, and the inputs of the drives, each lane with its channel's and one a channel.
A, F, G, X, DRIVE, RAMP, Z, HALF, ODD = (k * LANES for k in (0, 2, 4, 6, 8, 10, 12, 14, 15))
WEIGHT, RAMP_WEIGHT, INPUTS, WORKING, SLOTS = (k * LANES for k in (16, 17, 18, 19, 20))
# Slots of the way back: adjoints of the committed state, of the row, of both drives; slopes; sums over rows.
GX, GS, GDRIVE, GRAMP, SLOPE, F_SLOPE, G_SLOPE, G_GAP, GPOLE, GGAP, DEALT, DOTS, ADJOINTS = (
    k * LANES for k in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19, 20, 21)
)
# Slots of what stays the same: 1 / lambda (0 where lambda is), lambda, B.
INVERSE, POLE, INPUT, FIXED = (k * LANES for k in (0, 2, 4, 6))


@compiled
def _phases(row, poles, h):
    """Z = h lambda; half its imaginary part less a multiple of pi, by products exact to twice the digits."""
    for j in range(LANES):
        phase = h * poles[LANES + j]
        turns = np.rint(phase * (1 / _PI[0]))
        rest = multiply_add(-turns, _PI[0], phase)
        rest = multiply_add(-turns, _PI[1], rest) + multiply_add(h, poles[LANES + j], -phase)
        rest = min(max(rest, -1.6), 1.6)  # beyond 2^53 turns nothing is left of the phase
        row[Z + j] = h * poles[j]
        row[Z + LANES + j] = phase
        row[HALF + j] = 0.5 * rest
        row[ODD + j] = turns - 2.0 * np.floor(0.5 * turns)


@compiled
def _exact(row, fixed, h):
    """Abar = e^z and F = (e^z - 1) / lambda, from e^x - 1 and 1 - cos y so that small z keep their digits."""
    T = row.dtype.type
    one, log2, low, high = T(1), T(1 / math.log(2)), T(_LOG2[0]), T(_LOG2[1])
    single = T(1) + T(1e-10) == T(1)
    bottom, top, tiny = (T(-87), T(128), T(1e-8)) if single else (T(-708), T(1024), T(1e-16))
    half = T(0.5)
    for j in range(LANES):
        x, y = row[Z + j], row[Z + LANES + j]
        clipped = max(x, bottom)
        power = min(np.rint(clipped * log2), top)
        t = multiply_add(-power, high, multiply_add(-power, low, clipped))
        growth, scale = t * exponential(t), power_of_two(power)
        scale = scale if x >= bottom else T(0)
        more, e = multiply_add(scale, growth, scale - one), multiply_add(scale, growth, scale)
        r, odd = row[HALF + j], row[ODD + j]
        s, c = r * sine(r * r), cosine(r * r)
        less = c * c if odd > half else s * s  # half of 1 - cos y
        less, sign = less + less, one - (odd + odd)
        a_re, a_im = e * (one - less), e * sign * (s * c + s * c)
        e_re = multiply_add(more, one - less, -less)
        p, q = fixed[INVERSE + j], fixed[INVERSE + LANES + j]
        near = x * x + y * y < tiny
        row[A + j], row[A + LANES + j] = a_re, a_im
        row[F + j] = h * (one + half * x) if near else e_re * p - a_im * q
        row[F + LANES + j] = h * half * y if near else e_re * q + a_im * p


@compiled
def _exact_ramp(row, fixed, h):
    """G = h phi_2(z): a series inside the unit circle, (F - h) / z outside."""
    T = row.dtype.type
    one, half, zero = T(1), T(0.5), T(0)
    inverse = one / h if h > zero else zero
    for j in range(LANES):
        x, y = row[Z + j], row[Z + LANES + j]
        square = x * x + y * y
        near = square < one
        x, y, square = x if near else zero, y if near else zero, square if near else zero
        c_re, c_im = phi3_series(x, square, y)
        s_re, s_im = half + x * c_re - y * c_im, x * c_im + y * c_re  # phi_2
        p, q = fixed[INVERSE + j] * inverse, fixed[INVERSE + LANES + j] * inverse
        f_re, f_im = row[F + j] - h, row[F + LANES + j]
        row[G + j] = h * s_re if near else f_re * p - f_im * q
        row[G + LANES + j] = h * s_im if near else f_re * q + f_im * p


@compiled
def _bilinear(row, poles, h64, h, alpha):
    """R = 1 / (1 - alpha z), Abar = (1 + (1 - alpha) z) R, F = h R, G = alpha F."""
    one = row.dtype.type(1)
    rest = one - alpha
    for j in range(LANES):
        x, y = row.dtype.type(h64 * poles[j]), row.dtype.type(h64 * poles[LANES + j])
        below, beside = one - alpha * x, alpha * y
        size = one / (below * below + beside * beside)
        r_re, r_im = below * size, beside * size
        above, aside = one + rest * x, rest * y
        row[Z + j], row[Z + LANES + j] = x, y
        row[A + j], row[A + LANES + j] = above * r_re - aside * r_im, above * r_im + aside * r_re
        row[F + j], row[F + LANES + j] = h * r_re, h * r_im
        row[G + j], row[G + LANES + j] = alpha * h * r_re, alpha * h * r_im


@compiled
def discretize(row, poles, fixed, gap, alpha, ramp, kick):
    """Coefficients of one row with its gap; alpha < 0 is the exact rule, a kick makes F = 1."""
    h = row.dtype.type(gap)
    if alpha >= 0:
        _bilinear(row, poles, gap, h, row.dtype.type(alpha))
    else:
        _phases(row, poles, gap)
        _exact(row, fixed, h)
        if ramp:
            _exact_ramp(row, fixed, h)
    if kick:
        row[F : F + LANES] = 1
        row[F + LANES : F + 2 * LANES] = 0


@compiled
def step(row, before, ramp):
    """The state shown: Abar x + F drive (+ G drive), x being the state of the row `before`."""
    for j in range(LANES):
        a, b, x, y = row[A + j], row[A + LANES + j], before[X + j], before[X + LANES + j]
        f, g, u, v = row[F + j], row[F + LANES + j], row[DRIVE + j], row[DRIVE + LANES + j]
        row[X + j] = a * x - b * y + (f * u - g * v)
        row[X + LANES + j] = a * y + b * x + (f * v + g * u)
    if ramp:
        for j in range(LANES):
            f, g, u, v = row[G + j], row[G + LANES + j], row[RAMP + j], row[RAMP + LANES + j]
            row[X + j] += f * u - g * v
            row[X + LANES + j] += f * v + g * u


@compiled
def _exact_slopes(work, row, fixed, h):
    """DAbar / dz = dF / dh = Abar and dF / dlambda = h^2 phi_1'(z) = (h Abar - F) / lambda."""
    one, zero = row.dtype.type(1), row.dtype.type(0)
    for j in range(LANES):
        x, y = row[Z + j], row[Z + LANES + j]
        square = x * x + y * y
        near = square < one
        l_re, l_im = phi1_slope(x if near else zero, square if near else zero, y if near else zero)
        p, q = fixed[INVERSE + j], fixed[INVERSE + LANES + j]
        a, b = row[A + j], row[A + LANES + j]
        f, g = h * a - row[F + j], h * b - row[F + LANES + j]
        work[SLOPE + j], work[SLOPE + LANES + j] = a, b
        work[F_SLOPE + j] = h * h * l_re if near else f * p - g * q
        work[F_SLOPE + LANES + j] = h * h * l_im if near else f * q + g * p


@compiled
def _exact_ramp_slopes(work, row, fixed, h):
    """DG / dlambda = h^2 phi_2'(z) = (F - 2 G) / lambda and dG / dh = phi_1 - phi_2."""
    T = row.dtype.type
    one, half, zero = T(1), T(0.5), T(0)
    inverse = one / h if h > zero else zero
    for j in range(LANES):
        x, y = row[Z + j], row[Z + LANES + j]
        square = x * x + y * y
        near = square < one
        x, y, square = x if near else zero, y if near else zero, square if near else zero
        c_re, c_im = phi3_series(x, square, y)
        s_re, s_im = half + x * c_re - y * c_im, x * c_im + y * c_re  # phi_2
        l_re, l_im = one + x * s_re - y * s_im - s_re, x * s_im + y * s_re - s_im  # phi_1 - phi_2
        p, q = fixed[INVERSE + j], fixed[INVERSE + LANES + j]
        f, g, m, n = row[F + j], row[F + LANES + j], row[G + j], row[G + LANES + j]
        k_re, k_im = f - m - m, g - n - n
        work[G_SLOPE + j] = h * h * (s_re - c_re - c_re) if near else k_re * p - k_im * q
        work[G_SLOPE + LANES + j] = h * h * (s_im - c_im - c_im) if near else k_re * q + k_im * p
        work[G_GAP + j] = l_re if near else (f - m) * inverse
        work[G_GAP + LANES + j] = l_im if near else (g - n) * inverse


@compiled
def _bilinear_slopes(work, row, h, alpha):
    """DAbar / dz = dF / dh = R^2, dF / dlambda = alpha h^2 R^2, and alpha times both for G."""
    one = row.dtype.type(1)
    for j in range(LANES):
        below, beside = one - alpha * row[Z + j], alpha * row[Z + LANES + j]
        size = one / (below * below + beside * beside)
        p, q = below * size, beside * size
        r_re, r_im = p * p - q * q, p * q + p * q
        for k, slope in ((j, r_re), (LANES + j, r_im)):
            work[SLOPE + k] = slope
            work[F_SLOPE + k] = alpha * h * h * slope
            work[G_SLOPE + k] = alpha * alpha * h * h * slope
            work[G_GAP + k] = alpha * slope


@compiled
def _adjoint_lanes(work, row, before, fixed, h, moving, committed):
    """Adjoints of the drive of F, of the poles, of the gap and of the state before, from that of the row."""
    for j in range(LANES):
        s, t = work[GS + j], work[GS + LANES + j]
        x, y = before[X + j], before[X + LANES + j]
        u, v = row[DRIVE + j], row[DRIVE + LANES + j]
        a_re, a_im = x * s + y * t, x * t - y * s  # of Abar
        f_re, f_im = moving * (u * s + v * t), moving * (u * t - v * s)  # of F
        d, e, k, m = work[SLOPE + j], work[SLOPE + LANES + j], work[F_SLOPE + j], work[F_SLOPE + LANES + j]
        work[GPOLE + j] += h * (d * a_re + e * a_im) + (k * f_re + m * f_im)
        work[GPOLE + LANES + j] += h * (d * a_im - e * a_re) + (k * f_im - m * f_re)
        p, q = fixed[POLE + j], fixed[POLE + LANES + j]
        work[GGAP + j] = d * (p * a_re + q * a_im + f_re) + e * (p * a_im - q * a_re + f_im)
        f, g = row[F + j], row[F + LANES + j]
        work[GDRIVE + j], work[GDRIVE + LANES + j] = f * s + g * t, f * t - g * s
        a, b = row[A + j], row[A + LANES + j]
        work[GX + j] = a * s + b * t + (work[GX + j] - committed * work[GX + j])
        work[GX + LANES + j] = a * t - b * s + (work[GX + LANES + j] - committed * work[GX + LANES + j])


@compiled
def _adjoint_ramp(work, row):
    """The same of G and its drive."""
    for j in range(LANES):
        s, t = work[GS + j], work[GS + LANES + j]
        u, v = row[RAMP + j], row[RAMP + LANES + j]
        g_re, g_im = u * s + v * t, u * t - v * s
        d, e, k, m = work[G_GAP + j], work[G_GAP + LANES + j], work[G_SLOPE + j], work[G_SLOPE + LANES + j]
        work[GPOLE + j] += k * g_re + m * g_im
        work[GPOLE + LANES + j] += k * g_im - m * g_re
        work[GGAP + j] += d * g_re + e * g_im
        f, g = row[G + j], row[G + LANES + j]
        work[GRAMP + j], work[GRAMP + LANES + j] = f * s + g * t, f * t - g * s


@compiled
def adjoint_step(work, row, before, fixed, gap, alpha, ramp, kick, committed):
    """The way back through one row, from work[GS], the adjoint of what it shows."""
    T = row.dtype.type
    if alpha >= 0:
        _bilinear_slopes(work, row, T(gap), T(alpha))
    else:
        _exact_slopes(work, row, fixed, T(gap))
        if ramp:
            _exact_ramp_slopes(work, row, fixed, T(gap))
    _adjoint_lanes(work, row, before, fixed, T(gap), T(0) if kick else T(1), T(1) if committed else T(0))
    if ramp:
        _adjoint_ramp(work, row)
