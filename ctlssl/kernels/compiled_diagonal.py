r"""One row of a diagonal system for a vector of eigenvalues: what banks and multi-input systems share.

With z = h lambda, E = Abar - 1, a drive b (held over the gap) and a slope s (ramp, per unit of time), a step is

    exact    x_new = x + E p + P s / lambda^2,  P = E - z          gbt(a)    x_new = x + E p,  p = x + b / lambda

A kick is added afterwards. Its derivatives are, in the forms that keep their digits,

| | d x_new / d lambda = h m - P b / lambda^2 - 2 Q s / lambda^3 | d x_new / d h |
|---|---|---|
| exact, z small | m = x_new, P = E - z, Q = P - z^2 / 2 | lambda m + b + h s - P s / (lambda^2 h) |
| exact, else | m = e^z (p + s / lambda^2), P = E, Q = E - z / 2 | lambda m - P s / (lambda^2 h) |
| gbt(a), R = 1 / (1 - a z) | h R m alone, m = R (x + a h b) | R (lambda m + b) |
| a kick | h m (or h R m) alone, m = Abar x (or R x) | lambda m (or R lambda m) |

At h = 0 the slope stands for the whole rise s h, of which half counts in d x_new / d h (`slope` sets it).
Where lambda is 0 the limits take over: h b for E b / lambda, h^2 / 2 s for P s / lambda^2, h^3 / 6 s for Q s / lambda^3.
"""  # noqa: E501

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_exponential import (
    adjoint_orders,
    bilinear,
    exponential,
    exponential_alone,
    far_turns,
    near_turns,
    power,
    second_order,
)
from ctlssl.kernels.compiled_pairs import keep, pair, plus, scaled, times
from ctlssl.kernels.compiled_simd import as_number, lanes, load, where_zero
from ctlssl.kernels.packing import STRIDE

__all__ = [
    "DRIVE", "E", "FOUND", "GDRIVE", "GINPUT", "GPOLE", "GRAMP", "GSECOND", "GSTILL", "GSTILL2", "GTHIRD", "INPUT",
    "LEAN", "MEAN", "P", "POLE", "Q", "RAMP", "RISE", "SLOPE", "SLOTS", "STATE", "STILL", "STRIDE", "TRACE",
    "advance", "exact_growth", "growth", "lean_row", "slope", "small", "trace_row",
]  # fmt: skip

_FAR = 2.0**20
"""Half turns from which the phase is reduced in float64."""

# Slots of what stays the same over time, a vector each, two for complex numbers: log2 of the growth and half turns a
# unit of time, what rounding left of these, lambda, then b / lambda, b / lambda^2, b where lambda is 0, and b, of a
# unit input. Of the lanes of a vector that no eigenvalue fills all are 0.
_DECAY, _TURN, _TURN_LOW, POLE, DRIVE, RAMP, STILL, INPUT, SLOTS = 0, 1, 2, 3, 5, 7, 9, 11, 13
# Slots of a row kept for the way back: its state, E, m, P (R of a gbt rule), Q of a ramp and E - z of a ramp.
STATE, E, MEAN, P, Q, RISE, TRACE = 0, 2, 4, 6, 8, 10, 12
# Slots of a row of which little is kept: its state, E, and d x_new / d lambda.
SLOPE, LEAN = 4, 6
# Slots of sums over rows on the way back, for the derivatives of the slots above.
GPOLE, GDRIVE, GSECOND, GSTILL, GSTILL2, GRAMP, GTHIRD, GINPUT, FOUND = 0, 2, 4, 6, 8, 10, 12, 14, 16


@compiled(inline=True)
def _phase(fixed, base, turns64, top, gap, room):
    """Half turns of a row, what is left and whole ones, and the phase; top is the largest of a unit gap."""
    W = lanes(fixed)
    if top * gap > _FAR:
        far_turns(turns64, base // SLOTS * 2, gap, room, W)
        return load(room, 0), load(room, W), load(room, 2 * W)
    h = as_number(fixed, gap)
    low = as_number(fixed, gap - h)
    return near_turns(load(fixed, base + _TURN * W), load(fixed, base + _TURN_LOW * W), h, low)


@compiled(inline=True)
def growth(fixed, base, turns64, top, gap, alpha, room):
    """E of a row, its parts and its phase; the slots of a vector begin at `base`."""
    W = lanes(fixed)
    h = as_number(fixed, gap)
    if alpha >= 0:
        e, r = bilinear(*pair(fixed, base + POLE * W), h, as_number(fixed, alpha))
        x = e[0]
        return e, (*r, x, x, x, x, x, x, x, x), x
    rest, turns, phase = _phase(fixed, base, turns64, top, gap, room)
    real, imag, parts = exponential(load(fixed, base + _DECAY * W), h, rest, turns)
    return (real, imag), parts, phase


@compiled(inline=True)
def exact_growth(fixed, base, turns64, top, gap, room):
    """E of a row by the exact rule, alone."""
    rest, turns, _ = _phase(fixed, base, turns64, top, gap, room)
    return exponential_alone(load(fixed, base + _DECAY * lanes(fixed)), as_number(fixed, gap), rest, turns)


@compiled(inline=True)
def small(e, p, value):
    """Value where z is small, in the sense of the table, 0 elsewhere, as E and P of a row tell."""
    none = value - value
    other = where_zero(e[0], where_zero(e[1], value, none), none)
    return where_zero(p[0] - e[0], where_zero(p[1] - e[1], other, value), value)


@compiled(inline=True)
def slope(gap):
    """1 / gap, or 1 where that is no number."""
    return 1 / gap if gap > 1e-30 else 1.0


@compiled(inline=True)
def advance(x, e, driven, risen, stilled, mode):
    """The state after a row.

    `driven` is b / lambda or a kick, `risen` P s / lambda^2, `stilled` what lambda = 0 adds.
    """
    alpha, ramp, kick, still = mode
    change = times(e, x if kick else plus(x, driven))
    if ramp:
        change = plus(change, risen)
    if still:
        change = plus(change, stilled)
    new = plus(x, change)
    return plus(new, driven) if kick else new


@compiled(inline=True)
def lean_row(trace, place, x, new, e, parts, phase, driven, second, v, h):
    """Keep of a row of the exact rule, without ramp, kick and eigenvalue 0, what all adjoints but the gap's read.

    `second` is b / lambda^2 of a unit input.
    """
    W = lanes(trace)
    keep(trace, place + STATE * W, new)
    keep(trace, place + E * W, e)
    full, split = power(parts)
    far = times(full, plus(x, driven))
    p, _ = adjoint_orders(e, parts, phase)
    through = times(p, scaled(second, v))
    real = where_zero(split, new[0], far[0]) * h - through[0]
    keep(trace, place + SLOPE * W, (real, where_zero(split, new[1], far[1]) * h - through[1]))


@compiled(inline=True)
def trace_row(trace, place, x, new, e, parts, phase, driven, ramped, b, h, mode):
    """Keep a row for the way back."""
    W = lanes(trace)
    alpha, ramp, kick, still = mode
    keep(trace, place + STATE * W, new)
    keep(trace, place + E * W, e)
    if alpha >= 0:
        r = parts[0], parts[1]
        keep(trace, place + MEAN * W, times(r, x if kick else plus(x, scaled(b, h * alpha))))
        keep(trace, place + P * W, r)
        return
    full, split = power(parts)
    if kick:
        keep(trace, place + MEAN * W, times(full, x))
        return
    far = plus(x, driven)
    if ramp:
        far = plus(far, ramped)
    far = times(full, far)
    keep(trace, place + MEAN * W, (where_zero(split, new[0], far[0]), where_zero(split, new[1], far[1])))
    p, q = adjoint_orders(e, parts, phase)
    keep(trace, place + P * W, p)
    if ramp:
        keep(trace, place + Q * W, q)
        keep(trace, place + RISE * W, second_order(parts, phase))
