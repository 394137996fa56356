r"""The liquid recurrence of a bank in one loop: discretize, bend, guard, step and read, a row and a pair at a time.

    z = h lambda,  A = A(z),  m = h R(z) b u,  x' = (A + s m) x + m,  y = Re(conj(c) x')

in complex numbers of float64, with s the largest number up to 1 with |A + s m| <= 1, the positive root of
s^2 p + 2 s q = r with p = |m|^2, q = Re(conj(A) m), r = 1 - |A|^2. A task is a series and a channel. On the way back
rows between two checkpoints are run again. The adjoint of a complex number is that of its real part plus i times that
of its imaginary part, so that of w = f(z) is passed on as conj(f'(z)).
"""

from __future__ import annotations

import numpy as np

from ctlssl.kernels.compilation import compiled

__all__ = ["STRIDE", "liquid_back", "liquid_forward"]

STRIDE = 64
"""Rows between two states that are kept."""


@compiled(inside=True)
def _series(z, order):
    """phi_order(z) near 0, by its Taylor series."""
    factorial = 1.0
    for k in range(2, order + 1):
        factorial *= k
    term = 1.0 / factorial + 0j
    found = term
    for k in range(1, 14):
        term = term * z / (k + order)
        found += term
    return found


@compiled(inside=True)
def _response(z, alpha):
    """A(z), R(z) and the derivatives of both; the exact rule where alpha is negative."""
    if alpha >= 0:
        R = 1 / (1 - alpha * z)
        return (1 + (1 - alpha) * z) * R, R, R * R, alpha * R * R
    E = np.exp(z)
    if abs(z.real) + abs(z.imag) < 0.25:
        first, second = _series(z, 1), _series(z, 2)
    else:
        first = (E - 1) / z
        second = (first - 1) / z
    return E, first, E, first - second


@compiled(inside=True)
def _share(A, m, guard):
    """S, and what its derivative is divided by; 0 there where no guard is at work."""
    p = m.real * m.real + m.imag * m.imag
    q = A.real * m.real + A.imag * m.imag
    room = max(1 - A.real * A.real - A.imag * A.imag, 0.0)
    if not guard or 2 * q + p <= room:
        return 1.0, 0.0
    root = np.sqrt(q * q + p * room)
    share = room / (q + root) if q > 0 else (root - q) / p
    return share, 2 * root


@compiled
def liquid_forward(
    first, last, heads, u, gaps, kinds, steps, poles, b, c, x, alpha, guard, y, kept
):  # fmt: skip
    """To y (B, L, H), the last states in x (B, H, n), and kept (B, H, checkpoints, n) unless it is empty."""
    rows, n = gaps.shape[1], len(poles)
    for task in range(first, last):
        s, h = task // heads, task % heads
        for k in range(rows):
            if kept.shape[2] and k % STRIDE == 0:
                for j in range(n):
                    kept[s, h, k // STRIDE, j] = x[s, h, j]
            total = 0.0
            if kinds[s, k] != 0:
                gap, drive = gaps[s, k] * steps[h], float(u[s, k, h])
                for j in range(n):
                    A, R, _, _ = _response(gap * poles[j], alpha)
                    m = gap * R * b[h, j] * drive
                    share, _ = _share(A, m, guard)
                    state = (A + share * m) * x[s, h, j] + m
                    total += c[h, j].real * state.real + c[h, j].imag * state.imag
                    if kinds[s, k] == 1:
                        x[s, h, j] = state
            y[s, k, h] = total


@compiled(inside=True)
def _push_adjoint(A, m, share, below, gA, gm):
    """What A and m pass on through the share: their adjoints, those of A + share m being known."""
    if below == 0:
        return gA, gm + gA
    gshare = m.real * gA.real + m.imag * gA.imag
    gm = gm + share * gA
    gp, gq, groom = -share * share * gshare / below, -2 * share * gshare / below, gshare / below
    gm = gm + 2 * gp * m + gq * A
    return gA + gq * m - 2 * groom * A, gm


@compiled(inside=True)
def _again(s, h, begin, end, u, gaps, kinds, steps, poles, b, kept, alpha, guard, states):
    """States before each row of a stretch, (STRIDE, n)."""
    n = len(poles)
    for j in range(n):
        state = kept[s, h, begin // STRIDE, j]
        for k in range(begin, end):
            states[k - begin, j] = state
            if kinds[s, k] == 1:
                gap = gaps[s, k] * steps[h]
                A, R, _, _ = _response(gap * poles[j], alpha)
                m = gap * R * b[h, j] * float(u[s, k, h])
                state = (A + _share(A, m, guard)[0] * m) * state + m


@compiled
def liquid_back(
    first, last, heads, u, gaps, kinds, steps, poles, b, c, kept, alpha, guard, gy, gx, gu, ggaps, gsteps, gpoles, gb,
    gc,
):  # fmt: skip
    """Adjoints gu (B, L, H), ggaps (H, B, L), and of each series gsteps (B, H), gpoles, gb, gc (B, H, n); gx in place.

    gx holds that of the last states at the start and that of the first at the end.
    """
    rows, n = gaps.shape[1], len(poles)
    states = np.empty((STRIDE, n), np.complex128)
    for task in range(first, last):
        s, h = task // heads, task % heads
        for begin in range((rows - 1) // STRIDE * STRIDE, -1, -STRIDE):
            end = min(begin + STRIDE, rows)
            _again(s, h, begin, end, u, gaps, kinds, steps, poles, b, kept, alpha, guard, states)
            for k in range(end - 1, begin - 1, -1):
                if kinds[s, k] == 0:
                    continue
                gap, drive, slope = gaps[s, k] * steps[h], float(u[s, k, h]), float(gy[s, k, h])
                gdrive, ggap = 0.0, 0.0
                for j in range(n):
                    A, R, dA, dR = _response(gap * poles[j], alpha)
                    F = gap * R
                    response = F * b[h, j]
                    m = response * drive
                    share, below = _share(A, m, guard)
                    a, before = A + share * m, states[k - begin, j]
                    new = a * before + m
                    g = c[h, j] * slope
                    gc[s, h, j] += new * slope
                    if kinds[s, k] == 1:
                        g = g + gx[s, h, j]
                    gA, gm = _push_adjoint(A, m, share, below, before.conjugate() * g, g)
                    back = a.conjugate() * g
                    gx[s, h, j] = back if kinds[s, k] == 1 else gx[s, h, j] + back
                    gdrive += response.real * gm.real + response.imag * gm.imag
                    gF = b[h, j].conjugate() * gm * drive
                    gb[s, h, j] += F.conjugate() * gm * drive
                    gz = dA.conjugate() * gA + gap * dR.conjugate() * gF
                    ggap += R.real * gF.real + R.imag * gF.imag + poles[j].real * gz.real + poles[j].imag * gz.imag
                    gpoles[s, h, j] += gap * gz
                gu[s, k, h] = gdrive
                ggaps[h, s, k] = ggap * steps[h]
                gsteps[s, h] += ggap * gaps[s, k]
