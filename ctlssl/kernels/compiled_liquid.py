"""A bank of liquid diagonal systems: the factors of a row, step and read in one loop over time, all in float64.

A task is a series and the channels that share a vector, or one channel that fills several, laid out as in
`compiled_bank`. The formulas are those of `liquid_twin`; lanes that no eigenvalue fills are 0 throughout.
"""

from __future__ import annotations

import math

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_bank import channel_sums, deal, dealt
from ctlssl.kernels.compiled_exponential import exponential, near_turns, power, second_order
from ctlssl.kernels.compiled_pairs import keep, pair, plus, real_part, scaled, times
from ctlssl.kernels.compiled_simd import (
    fma,
    lanes,
    larger,
    load,
    pointer,
    product,
    square_root,
    store,
    where_positive,
    where_zero,
)
from ctlssl.kernels.packing import STRIDE

__all__ = [
    "BILINEAR", "EXACT", "HELD", "deal_rows", "exact_rate", "guard_scale", "grown", "held_room", "liquid_forward",
    "phi_one", "phi_slope", "resolvent", "run_liquid",
]  # fmt: skip

BILINEAR, HELD, EXACT = 0, 1, 2  # the paper's step by a gbt rule or the exact one; the liquid equation itself

_PER_PI, _PER_PI_LOW = 0.3183098861837907, -1.9678676675182486e-17  # 1 / pi as a sum
_PER_LOG2 = 1 / math.log(2)
_TINY = 1e-290


@compiled(inline=True)
def resolvent(pole, h, alpha):
    """R = 1 / (1 - alpha z), Abar = R (1 + (1 - alpha) z) and 1 - |Abar|^2 without cancellation, z = h lambda."""
    x, y = pole[0] * h, pole[1] * h
    below, beside = 1.0 - alpha * x, alpha * y
    size = 1.0 / (below * below + beside * beside)
    r = below * size, beside * size
    room = ((2 * alpha - 1) * (x * x + y * y) - 2.0 * x) * size
    return r, times(r, (1.0 + (1 - alpha) * x, (1 - alpha) * y)), room


@compiled(inline=True)
def grown(rate, h):
    """E = e^z - 1 of z = h rate, its parts and its phase, as `compiled_exponential` has them."""
    turn = product(rate[1], _PER_PI)
    low = fma(rate[1], _PER_PI, -turn) + rate[1] * _PER_PI_LOW
    rest, turns, phase = near_turns(turn, low, h, h - h)
    real, imag, parts = exponential(rate[0] * _PER_LOG2, h, rest, turns)
    return (real, imag), parts, phase


@compiled(inline=True)
def _inverse(x, y):
    """1 / z, and 0 where z is 0; and |z|^2."""
    size = x * x + y * y
    size = where_positive(size - _TINY, size, 0.0)
    over = where_zero(size, 0.0, 1.0 / where_zero(size, 1.0, size))
    return (x * over, -(y * over)), size


@compiled(inline=True)
def phi_one(e, parts, phase):
    """phi_1(z) = E / z."""
    inverse, size = _inverse(parts[0], phase)
    value = times(e, inverse)
    return where_zero(size, 1.0, value[0]), value[1]


@compiled(inline=True)
def phi_slope(e, parts, phase):
    """e^z and phi_1'(z) = (z e^z - E) / z^2, the numerator z E - (E - z) where z is small."""
    z, (full, _) = (parts[0], phase), power(parts)
    inverse, size = _inverse(*z)
    far, product_, less = times(z, full), times(z, e), second_order(parts, phase)
    real = where_positive(1.0 - size, product_[0] - less[0], far[0] - e[0])
    imag = where_positive(1.0 - size, product_[1] - less[1], far[1] - e[1])
    value = times(times((real, imag), inverse), inverse)
    return full, (where_zero(size, 0.5, value[0]), value[1])


@compiled(inline=True)
def held_room(pole, h):
    """1 - e^{2 Re z}."""
    none = h - h
    real, _, _ = exponential(pole[0] * (2 * _PER_LOG2), h, none, none)
    return -real


@compiled(inline=True)
def guard_scale(a, m, room, guard):
    """The largest s in [0, 1] with |a + s m| <= 1, the root it came from, and how far beyond 1 it was needed."""
    q, p = real_part(m, m), real_part(a, m)
    if guard:
        beyond = q + 2.0 * p - room
        root = square_root(larger(p * p + q * room, 0.0))
        scale = where_positive(p, room / (p + root), (root - p) / q)
        return where_positive(beyond, scale, 1.0), root, beyond
    return q - q + 1.0, q, q - q


@compiled(inline=True)
def exact_rate(pole, driven, guard):
    """Lambda + s b u, s, and how far Re(lambda + b u) is beyond 0."""
    beyond = pole[0] + driven[0]
    if guard:
        scale = where_positive(beyond, -pole[0] / driven[0], 1.0)
        return (where_positive(beyond, 0.0, beyond), pole[1] + scale * driven[1]), scale, beyond
    none = beyond - beyond
    return (beyond, pole[1] + driven[1]), none + 1.0, none


@compiled(inline=True)
def _factors(kind, pole, b, h, u, alpha, guard):
    """The factor and the drive of a row."""
    if kind == EXACT:
        driven = scaled(b, u)
        rate, _, _ = exact_rate(pole, driven, guard)
        e, parts, phase = grown(rate, h)
        return power(parts)[0], times(scaled(phi_one(e, parts, phase), h), driven)
    if kind == HELD:
        e, parts, phase = grown(pole, h)
        a, unit, room = power(parts)[0], times(phi_one(e, parts, phase), b), held_room(pole, h)
    else:
        r, a, room = resolvent(pole, h, alpha)
        unit = times(r, b)
    m = scaled(unit, h * u)
    s, _, _ = guard_scale(a, m, room, guard)
    return plus(a, scaled(m, s)), m


@compiled(inline=True)
def _rows(kind, alpha, guard, maps, at, us, hs, alone, kinds, row, count, x, place, sums, fresh, trace, traced):
    W = lanes(maps[0])
    pole, b, c, state = pair(maps[0], at), pair(maps[1], at), pair(maps[2], at), pair(x, place)
    for k in range(count):
        if traced:
            keep(trace, 4 * k * W, state)
        if kinds[row + k] == 0:
            continue
        a, d = _factors(kind, pole, b, dealt(hs, 0, k, alone), dealt(us, 0, k, alone), alpha, guard)
        new = plus(times(a, state), d)
        if traced:
            keep(trace, (4 * k + 2) * W, new)
        else:
            shown = real_part(c, new)
            store(sums, k * W, shown if fresh else shown + load(sums, k * W))
        if kinds[row + k] == 1:
            state = new
    keep(x, place, state)


@compiled(inside=True)
def run_liquid(kind, alpha, guard, maps, at, us, hs, alone, kinds, row, count, x, place, sums, fresh, trace, traced):
    """`count` rows of one vector: C x goes to `sums`, or states before and after each row to `trace`.

    `maps` are eigenvalues, B and C in lanes, from `at` on those of the vector, as from `place` on its state in x; `us`
    and `hs` are inputs and steps that were dealt, of one channel `alone` or of several.
    """
    given = (maps, at, us, hs, alone, kinds, row, count, x, place, sums, fresh, trace, traced)
    if kind == BILINEAR:
        _rows(BILINEAR, alpha, guard, *given)
    elif kind == HELD:
        _rows(HELD, alpha, guard, *given)
    else:
        _rows(EXACT, alpha, guard, *given)


@compiled(inside=True)
def deal_rows(target, values, source, sizes, b, row, rows, channel, channels):
    """Numbers (B, L, H) of some rows and channels to their lanes."""
    for k in range(rows):
        for j in range(channels):
            values[k * channels + j] = source[(b * sizes.rows + row + k) * sizes.channels + channel + j]
    deal(target, 0, values, rows, channels, sizes.width)


@compiled
def liquid_forward(first, last, rooms, sizes, kind, alpha, guard, u, kinds, steps, poles, B, C, D, x, y, checkpoints):
    """Y (B, L, H), the last states in x, and the states before every STRIDE-th row where there is room for them."""
    us, hs, values, sums = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    u, kinds, steps, D = pointer(u), pointer(kinds), pointer(steps), pointer(D)
    maps = pointer(poles), pointer(B), pointer(C)
    x, y, kept = pointer(x), pointer(y), pointer(checkpoints)
    W, H, every = lanes(u), sizes.channels, sizes.blocks * sizes.vectors
    for task in range(first, last):
        b, block = task // sizes.blocks, task % sizes.blocks
        channel = block * sizes.together
        channels = min(sizes.together, H - channel)
        for row in range(0, sizes.rows, STRIDE):
            rows, start = min(STRIDE, sizes.rows - row), b * sizes.rows + row
            deal_rows(us, values, u, sizes, b, row, rows, channel, channels)
            deal_rows(hs, values, steps, sizes, b, row, rows, channel, channels)
            for part in range(sizes.vectors):
                vector = block * sizes.vectors + part
                place = (b * every + vector) * 2 * W
                if sizes.checkpoints:
                    keep(kept, ((b * sizes.checkpoints + row // STRIDE) * every + vector) * 2 * W, pair(x, place))
                run_liquid(
                    kind, alpha, guard, maps, vector * 2 * W, us, hs, channels == 1, kinds, start, rows, x, place,
                    sums, part == 0, sums, False,
                )  # fmt: skip
            channel_sums(values, sums, 0, rows, channels, sizes.width)
            for k in range(rows):
                if kinds[start + k] == 0:
                    continue
                for j in range(channels):
                    spot = (start + k) * H + channel + j
                    y[spot] = values[k * channels + j] + D[channel + j] * u[spot]
