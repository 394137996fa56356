r"""The way back through a bank of liquid systems: rows run again from checkpoints, then backward.

With g the adjoint of a new state, g conj(x) is that of its factor and g that of its drive. The guard's scale s is the
root of |m|^2 s^2 + 2 p s = 1 - |Abar|^2, p = Re(conj(Abar) m), so with r = |m|^2 s + p and an adjoint v of s, those of
|m|^2, p and the room are -v s^2 / (2 r), -v s / r and v / (2 r).
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_bank import channel_sums, dealt
from ctlssl.kernels.compiled_liquid import (
    BILINEAR,
    EXACT,
    HELD,
    deal_rows,
    exact_rate,
    grown,
    guard_scale,
    held_room,
    phi_one,
    phi_slope,
    resolvent,
    run_liquid,
)
from ctlssl.kernels.compiled_pairs import conjugate_times, keep, pair, plus, real_part, scaled, times
from ctlssl.kernels.compiled_simd import lanes, load, pointer, store, where_positive
from ctlssl.kernels.packing import STRIDE

__all__ = ["SUMS", "liquid_backward"]

SUMS = 6
"""Slots of sums over rows of a vector: adjoints of the eigenvalues, of B and of C."""


@compiled(inline=True)
def _through_guard(a, m, room, guard, g, x):
    """Adjoints of Abar and m, and the factor, from the adjoint g of the new state and the state x before."""
    s, root, beyond = guard_scale(a, m, room, guard)
    ga = conjugate_times(x, g)
    gm = plus(scaled(ga, s), g)
    factor = plus(a, scaled(m, s))
    if guard:
        v = where_positive(beyond, where_positive(root, real_part(ga, m) / root, 0.0), 0.0)
        of_square, of_p = -(v * s * s), -(v * s)  # the first twice: d |m|^2 = 2 Re(conj(m) dm), as |Abar|^2
        gm = plus(gm, plus(scaled(m, of_square), scaled(a, of_p)))
        ga = plus(ga, plus(scaled(m, of_p), scaled(a, -v)))
    return ga, gm, factor


@compiled(inline=True)
def _paper_back(kind, pole, b, h, u, alpha, guard, g, x):
    """Adjoints of u, h, lambda, b and x of a row of the paper's step."""
    if kind == BILINEAR:
        r, a, room = resolvent(pole, h, alpha)
        slope = times(r, r)  # d Abar / d z
        turned = scaled(times(slope, b), h * alpha)  # d Bbar / d z
    else:
        e, parts, phase = grown(pole, h)
        r, room = phi_one(e, parts, phase), held_room(pole, h)
        a, bent = phi_slope(e, parts, phase)
        slope, turned = a, scaled(times(bent, b), h)
    unit = times(r, b)  # Bbar / h
    ga, gm, factor = _through_guard(a, scaled(unit, h * u), room, guard, g, x)
    gu = h * real_part(unit, gm)
    gm = scaled(gm, u)  # of Bbar
    gz = plus(conjugate_times(slope, ga), conjugate_times(turned, gm))
    gh = real_part(unit, gm) + real_part(pole, gz)
    return gu, gh, scaled(gz, h), scaled(conjugate_times(r, gm), h), conjugate_times(factor, g)


@compiled(inline=True)
def _exact_back(pole, b, h, u, guard, g, x):
    """The same of a row of the liquid equation itself."""
    driven = scaled(b, u)
    rate, s, beyond = exact_rate(pole, driven, guard)
    e, parts, phase = grown(rate, h)
    held = phi_one(e, parts, phase)
    a, bent = phi_slope(e, parts, phase)
    ga = conjugate_times(x, g)
    gz = plus(conjugate_times(a, ga), conjugate_times(scaled(times(bent, driven), h), g))
    gh = real_part(rate, gz) + real_part(times(held, driven), g)
    gx, gy = scaled(gz, h)  # of the rate
    gm, gw = scaled(conjugate_times(held, g), h)  # of b u
    gpole = gx, gy
    if guard:  # the rate is i (Im lambda + s Im b u), s = -Re lambda / Re b u
        back = gy * driven[1] / driven[0]
        gpole = where_positive(beyond, -back, gx), gy
        gx = where_positive(beyond, -(s * back), gx)
    gdriven = gm + gx, gw + s * gy
    return real_part(b, gdriven), gh, gpole, scaled(gdriven, u), conjugate_times(a, g)


@compiled(inline=True)
def _rows(
    kind, alpha, guard, maps, at, us, hs, gys, alone, kinds, row, count, trace, gx, place, sums, spot, gus, ghs, fresh
):  # fmt: skip
    W = lanes(maps[0])
    pole, b, c, later = pair(maps[0], at), pair(maps[1], at), pair(maps[2], at), pair(gx, place)
    gpole, gb, gc = pair(sums, spot), pair(sums, spot + 2 * W), pair(sums, spot + 4 * W)
    for k in range(count - 1, -1, -1):
        if kinds[row + k] == 0:
            continue
        u, h, gy = dealt(us, 0, k, alone), dealt(hs, 0, k, alone), dealt(gys, 0, k, alone)
        before, shown = pair(trace, 4 * k * W), pair(trace, (4 * k + 2) * W)
        committed = kinds[row + k] == 1
        g = scaled(c, gy)
        if committed:
            g = plus(g, later)
        gc = plus(gc, scaled(shown, gy))
        if kind == EXACT:
            gu, gh, of_pole, of_b, of_x = _exact_back(pole, b, h, u, guard, g, before)
        else:
            gu, gh, of_pole, of_b, of_x = _paper_back(kind, pole, b, h, u, alpha, guard, g, before)
        gpole, gb = plus(gpole, of_pole), plus(gb, of_b)
        later = of_x if committed else plus(later, of_x)
        store(gus, k * W, gu if fresh else gu + load(gus, k * W))
        store(ghs, k * W, gh if fresh else gh + load(ghs, k * W))
    keep(gx, place, later)
    keep(sums, spot, gpole)
    keep(sums, spot + 2 * W, gb)
    keep(sums, spot + 4 * W, gc)


@compiled(inside=True)
def _back(kind, alpha, guard, *given):
    """`count` rows backward for one vector; adjoints of inputs and steps go to `gus` and `ghs`, lane by lane."""
    if kind == BILINEAR:
        _rows(BILINEAR, alpha, guard, *given)
    elif kind == HELD:
        _rows(HELD, alpha, guard, *given)
    else:
        _rows(EXACT, alpha, guard, *given)


@compiled(inside=True)
def _collect(sizes, values, gus, ghs, gy, D, u, kinds, gu, gsteps, gD, b, row, rows, channel, channels):
    """Adjoints of u and of the steps from those of their lanes, and sums for D."""
    H, start = sizes.channels, b * sizes.rows + row
    channel_sums(values, gus, 0, rows, channels, sizes.width)
    for k in range(rows):
        if kinds[start + k] == 0:
            continue
        for j in range(channels):
            spot = (start + k) * H + channel + j
            gu[spot] = values[k * channels + j] + D[channel + j] * gy[spot]
            gD[b * H + channel + j] += gy[spot] * u[spot]
    channel_sums(values, ghs, 0, rows, channels, sizes.width)
    for k in range(rows):
        if kinds[start + k] == 0:
            continue
        for j in range(channels):
            gsteps[(start + k) * H + channel + j] = values[k * channels + j]


@compiled
def liquid_backward(
    first, last, rooms, sizes, kind, alpha, guard, u, kinds, steps, poles, B, C, D, checkpoints, gy, gx, gu, gsteps,
    sums, gD,
):  # fmt: skip
    """Adjoints of u and steps (B, L, H), of the states in gx, of D for each series, and sums of each series."""
    us, hs, values, gys = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    gus, ghs, trace, x = pointer(rooms[4]), pointer(rooms[5]), pointer(rooms[6]), pointer(rooms[7])
    u, kinds, steps, D = pointer(u), pointer(kinds), pointer(steps), pointer(D)
    maps = pointer(poles), pointer(B), pointer(C)
    kept, gy, gx, gu, gsteps = pointer(checkpoints), pointer(gy), pointer(gx), pointer(gu), pointer(gsteps)
    sums, gD = pointer(sums), pointer(gD)
    W, every = lanes(u), sizes.blocks * sizes.vectors
    for task in range(first, last):
        b, block = task // sizes.blocks, task % sizes.blocks
        channel = block * sizes.together
        channels = min(sizes.together, sizes.channels - channel)
        for row in range((sizes.rows - 1) // STRIDE * STRIDE, -1, -STRIDE):
            rows, start = min(STRIDE, sizes.rows - row), b * sizes.rows + row
            for target, source in ((us, u), (hs, steps), (gys, gy)):
                deal_rows(target, values, source, sizes, b, row, rows, channel, channels)
            for part in range(sizes.vectors):
                vector = block * sizes.vectors + part
                at, place = vector * 2 * W, (b * every + vector) * 2 * W
                keep(x, 0, pair(kept, ((b * sizes.checkpoints + row // STRIDE) * every + vector) * 2 * W))
                run_liquid(
                    kind, alpha, guard, maps, at, us, hs, channels == 1, kinds, start, rows, x, 0, trace, True, trace,
                    True,
                )  # fmt: skip
                _back(
                    kind, alpha, guard, maps, at, us, hs, gys, channels == 1, kinds, start, rows, trace, gx, place,
                    sums, (b * every + vector) * SUMS * W, gus, ghs, part == 0,
                )  # fmt: skip
            _collect(sizes, values, gus, ghs, gy, D, u, kinds, gu, gsteps, gD, b, row, rows, channel, channels)
