r"""The way back through a bank of liquid systems: rows run again from checkpoints, then backward.

With g the adjoint of a new state, g conj(x) is that of its factor and g that of its drive. The guard's scale s is the
root of |m|^2 s^2 + 2 p s = 1 - |Abar|^2, p = Re(conj(Abar) m), so with r = |m|^2 s + p and an adjoint v of s, those of
|m|^2, p and the room are -v s^2 / (2 r), -v s / r and v / (2 r).
"""

from __future__ import annotations

import math

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_liquid import BILINEAR, HELD, factors, guard_scale, phi_one, resolvent, room_of
from ctlssl.kernels.compiled_simd import pointer
from ctlssl.kernels.packing import STRIDE

__all__ = ["liquid_backward"]


@compiled(inline=True)
def _through_guard(a, f, m, w, room, guard, g, i, p, q):
    """Adjoints of Abar = a + i f and of m + i w; the factor itself is the last pair.

    g + i i is the adjoint of the new state and p + i q the state before.
    """
    s, root, over = guard_scale(a, f, m, w, room, guard)
    ga, gf = g * p + i * q, i * p - g * q
    gm, gw = s * ga + g, s * gf + i
    factor = a + s * m, f + s * w
    if over and root > 0:
        v = (ga * m + gf * w) / root
        gq, gp, groom = -0.5 * v * s * s, -v * s, 0.5 * v
        gm, gw = gm + 2 * gq * m + gp * a, gw + 2 * gq * w + gp * f
        ga, gf = ga + gp * m - 2 * groom * a, gf + gp * w - 2 * groom * f
    return ga, gf, gm, gw, factor


@compiled(inside=True)
def _bilinear_back(h, u, alpha, guard, poles, B, base, n, x, at, g, sums):
    gu, gh = 0.0, 0.0
    for j in range(n):
        lx, ly, bx, by = poles[base + j], poles[base + n + j], B[base + j], B[base + n + j]
        r, t, a, f = resolvent(h * lx, h * ly, alpha)
        rbx, rby = r * bx - t * by, r * by + t * bx  # R b
        room = room_of(h * lx, h * ly, alpha)
        ga, gf, gm, gw, factor = _through_guard(
            a, f, h * rbx * u, h * rby * u, room, guard, g[j], g[n + j], x[at + j], x[at + n + j]
        )
        gu += h * (rbx * gm + rby * gw)
        gm, gw = gm * u, gw * u  # of Bbar = h R b
        gh += rbx * gm + rby * gw
        # d Abar / d z = R^2 and d Bbar / d z = h alpha R^2 b
        tx, ty = r * r - t * t, 2 * r * t
        sx, sy = h * alpha * (tx * bx - ty * by), h * alpha * (tx * by + ty * bx)
        gx, gy = tx * ga + ty * gf + sx * gm + sy * gw, tx * gf - ty * ga + sx * gw - sy * gm
        gh += lx * gx + ly * gy
        sums[j] += h * gx
        sums[n + j] += h * gy
        sums[2 * n + j] += h * (r * gm + t * gw)
        sums[3 * n + j] += h * (r * gw - t * gm)
        g[j], g[n + j] = factor[0] * g[j] + factor[1] * g[n + j], factor[0] * g[n + j] - factor[1] * g[j]
    return gu, gh


@compiled(inside=True)
def _held_back(h, u, guard, poles, B, base, n, x, at, g, sums):
    gu, gh = 0.0, 0.0
    for j in range(n):
        lx, ly, bx, by = poles[base + j], poles[base + n + j], B[base + j], B[base + n + j]
        a, f, r, t, c, d = phi_one(h * lx, h * ly)
        rbx, rby = r * bx - t * by, r * by + t * bx  # phi_1 b
        room = -math.expm1(2 * h * lx)
        ga, gf, gm, gw, factor = _through_guard(
            a, f, h * rbx * u, h * rby * u, room, guard, g[j], g[n + j], x[at + j], x[at + n + j]
        )
        gu += h * (rbx * gm + rby * gw)
        gm, gw = gm * u, gw * u  # of Bbar = h phi_1 b
        gh += rbx * gm + rby * gw
        sx, sy = h * (c * bx - d * by), h * (c * by + d * bx)  # d Bbar / d z
        gx, gy = a * ga + f * gf + sx * gm + sy * gw, a * gf - f * ga + sx * gw - sy * gm
        gh += lx * gx + ly * gy
        sums[j] += h * gx
        sums[n + j] += h * gy
        sums[2 * n + j] += h * (r * gm + t * gw)
        sums[3 * n + j] += h * (r * gw - t * gm)
        g[j], g[n + j] = factor[0] * g[j] + factor[1] * g[n + j], factor[0] * g[n + j] - factor[1] * g[j]
    return gu, gh


@compiled(inside=True)
def _exact_back(h, u, guard, poles, B, base, n, x, at, g, sums):
    gu, gh = 0.0, 0.0
    for j in range(n):
        lx, ly, bx, by = poles[base + j], poles[base + n + j], B[base + j], B[base + n + j]
        m, w = bx * u, by * u
        over = guard and m > -lx
        s = -lx / m if over else 1.0
        mx, my = 0.0 if over else lx + m, ly + s * w
        e, f, r, t, c, d = phi_one(h * mx, h * my)
        gd, gi = g[j], g[n + j]
        ga, gf = gd * x[at + j] + gi * x[at + n + j], gi * x[at + j] - gd * x[at + n + j]
        sx, sy = h * (c * m - d * w), h * (c * w + d * m)  # d drive / d z
        gx, gy = e * ga + f * gf + sx * gd + sy * gi, e * gf - f * ga + sx * gi - sy * gd
        gh += mx * gx + my * gy + (r * m - t * w) * gd + (r * w + t * m) * gi
        gx, gy = h * gx, h * gy  # of mu
        gm, gw = h * (r * gd + t * gi), h * (r * gi - t * gd)  # of b u
        sums[n + j] += gy
        if over:  # mu = i (Im lambda + s Im b u), s = -Re lambda / Re b u
            sums[j] -= gy * w / m
            gm, gw = gm - s * gy * w / m, gw + s * gy
        else:
            sums[j] += gx
            gm, gw = gm + gx, gw + gy
        sums[2 * n + j] += u * gm
        sums[3 * n + j] += u * gw
        gu += bx * gm + by * gw
        g[j], g[n + j] = e * gd + f * gi, e * gi - f * gd
    return gu, gh


@compiled(inside=True)
def _back(kind, h, u, alpha, guard, poles, B, base, n, x, at, g, sums):
    """From the adjoint g of the new state to that of the state before, in g; those of u and h; sums for lambda, b."""
    if kind == BILINEAR:
        return _bilinear_back(h, u, alpha, guard, poles, B, base, n, x, at, g, sums)
    if kind == HELD:
        return _held_back(h, u, guard, poles, B, base, n, x, at, g, sums)
    return _exact_back(h, u, guard, poles, B, base, n, x, at, g, sums)


@compiled(inside=True)
def _rerun(kind, alpha, guard, u, kinds, steps, poles, B, base, n, out, states, shown, row, rows, H, channel):
    """The states before some rows, of which the first is there, and what each row shows."""
    for k in range(rows):
        before, after = k * 2 * n, (k + 1) * 2 * n
        if kinds[row + k] != 0:
            place = (row + k) * H + channel
            factors(kind, steps[place], u[place], alpha, guard, poles, B, base, n, out)
            for j in range(n):
                a, b, p, q = out[j], out[n + j], states[before + j], states[before + n + j]
                shown[before + j] = a * p - b * q + out[2 * n + j]
                shown[before + n + j] = a * q + b * p + out[3 * n + j]
        committed = kinds[row + k] == 1
        for j in range(2 * n):
            states[after + j] = shown[before + j] if committed else states[before + j]


@compiled
def liquid_backward(
    first, last, rooms, L, H, n, kind, alpha, guard, u, kinds, steps, poles, B, C, D, kept, points, gy, gx, gu, gsteps,
    gsums, gC, gD,
):  # fmt: skip
    """Adjoints of u and steps (B, L, H), of the state in gx (B, H, 2 n), and of the maps for each series.

    `gsums` (B, H, 4 n) holds those of the eigenvalues, then of B; gC is (B, H, 2 n) and gD (B, H).
    """
    out, states, shown, g = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    u, kinds, steps, poles, B, C, D = (
        pointer(u), pointer(kinds), pointer(steps), pointer(poles), pointer(B), pointer(C), pointer(D),
    )  # fmt: skip
    kept, gy, gx, gu, gsteps = pointer(kept), pointer(gy), pointer(gx), pointer(gu), pointer(gsteps)
    for task in range(first, last):
        series, channel = task // H, task % H
        base, own = channel * 2 * n, task * 2 * n
        sums, read, feed = gsums[4 * n * task : 4 * n * (task + 1)], gC[own : own + 2 * n], 0.0
        for point in range(points - 1, -1, -1):
            row, rows = series * L + point * STRIDE, min(STRIDE, L - point * STRIDE)
            for j in range(2 * n):
                states[j] = kept[(task * points + point) * 2 * n + j]
            _rerun(
                kind, alpha, guard, u, kinds, steps, poles, B, base, n, out, states, shown, row, rows, H, channel
            )  # fmt: skip
            for k in range(rows - 1, -1, -1):
                if kinds[row + k] == 0:
                    continue
                place, committed = (row + k) * H + channel, kinds[row + k] == 1
                value = gy[place]
                for j in range(2 * n):
                    read[j] += shown[k * 2 * n + j] * value
                    g[j] = C[base + j] * value + (gx[own + j] if committed else 0.0)
                through, gap = _back(
                    kind, steps[place], u[place], alpha, guard, poles, B, base, n, states, k * 2 * n, g, sums
                )
                feed += value * u[place]
                gu[place] = through + D[channel] * value
                gsteps[place] = gap
                for j in range(2 * n):
                    gx[own + j] = g[j] if committed else gx[own + j] + g[j]
        gD[task] = feed
