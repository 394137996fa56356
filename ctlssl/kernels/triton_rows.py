r"""One row of a diagonal system on a GPU: what a gap makes of the eigenvalues, the step, and the step backward.

With b and d the drives held over the gap and growing over it from 0 to d, a step and its derivatives are

| rule | x_new - x | d x_new / d lambda | d x_new / d h |
|---|---|---|---|
| exact | E x + F b + G d | h x_new - h F_1 b - 2 h G_1 d | lambda x_new + b + d - G d / h |
| gbt(a) | E x + F b | F m | R (lambda m + b) |

with E = Abar - 1, m = x + a (x_new - x), R = 1 / (1 - a z), F = h R for gbt and E / lambda for the exact rule, whose
h F_1 = P / lambda^2, G = P / (lambda^2 h) and h G_1 = Q / (lambda^3 h); where lambda is 0 these are F = h, h^2 / 2,
h / 2 and h^2 / 6. A kick b is added afterwards, and the derivatives are those before it. Complex numbers are pairs
(real, imaginary) of tiles of any shape. Not yet timed on hardware.
"""

# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from ctlssl.kernels.triton_exponential import FAR, bilinear, exponential, far_turns, near_turns
from ctlssl.kernels.triton_language import constant, jit, tl

__all__ = [
    "advance", "advance_adjoint", "chosen", "conjugate_dot", "effects", "eigenvalues", "load_pair", "plus", "scaled",
    "store_pair",
]  # fmt: skip

TINY = constant(1e-16)
"""Gaps that count as 0 where something is divided by them."""


@jit
def load_pair(pointer, place, apart, mask):
    """A complex tile whose imaginary parts lie `apart` numbers after the real ones."""
    return tl.load(pointer + place, mask=mask, other=0.0), tl.load(pointer + place + apart, mask=mask, other=0.0)


@jit
def store_pair(pointer, place, apart, value, mask):
    """The way back."""
    tl.store(pointer + place, value[0], mask=mask)
    tl.store(pointer + place + apart, value[1], mask=mask)


@jit
def times(a, b):
    """Product a b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@jit
def conjugate_times(a, b):
    """Product of the conjugate of a, and b."""
    return a[0] * b[0] + a[1] * b[1], a[0] * b[1] - a[1] * b[0]


@jit
def conjugate_dot(a, b):
    """Real part of the conjugate of a times b: what is passed on to a real factor of a."""
    return a[0] * b[0] + a[1] * b[1]


@jit
def plus(a, b):
    """Sum."""
    return a[0] + b[0], a[1] + b[1]


@jit
def scaled(a, factor):
    """Product with a real factor."""
    return a[0] * factor, a[1] * factor


@jit
def chosen(condition, a, b):
    """One complex tile or the other."""
    return tl.where(condition, a[0], b[0]), tl.where(condition, a[1], b[1])


@jit
def reciprocal(h):
    """1 / h, and 0 where h counts as 0."""
    return tl.where(h > TINY, 1.0 / tl.maximum(h, TINY), 0.0)


@jit
def eigenvalues(fixed, turns64, place, size, mask):
    """What rows read of the eigenvalues at `place` (see `fixed_slots`), and the largest of their half turns."""
    decay = tl.load(fixed + place, mask=mask, other=0.0)
    turn, turn_low = load_pair(fixed + size, place, size, mask)
    zero = tl.load(fixed + 3 * size + place, mask=mask, other=0.0)
    pole, inverse = load_pair(fixed + 4 * size, place, size, mask), load_pair(fixed + 6 * size, place, size, mask)
    top = tl.max(tl.abs(tl.load(turns64 + place, mask=mask, other=0.0)))
    return decay, turn, turn_low, zero, pole, inverse, top


@jit
def effects(values, turns64, place, size, mask, gap, alpha: tl.constexpr, ORDERS: tl.constexpr):
    """What a row of gap `gap` (float64) makes of the eigenvalues: E, F, and h F_1 and h G_1 or, of gbt, R.

    Of the exact rule's E, h F_1, h G_1 only the first `ORDERS` are right.
    """
    decay, turn, turn_low, zero, pole, inverse, top = values
    h = gap.to(decay.dtype)
    if alpha >= 0:
        E, first = bilinear(pole, h, alpha)
        F = scaled(first, h)
        second = first
    else:
        if top * gap > FAR:
            whole64, rest64 = load_pair(turns64, place, size, mask)
            rest, turns, phase = far_turns(whole64, rest64, gap, decay.dtype)
        else:
            rest, turns, phase = near_turns(turn, turn_low, h, (gap - h.to(tl.float64)).to(decay.dtype))
        E, P, Q = exponential(decay, h, rest, turns, phase, ORDERS)
        F = times(E, inverse)
        F = F[0] + zero * h, F[1]
        first = F
        second = F
        if ORDERS > 1:
            first = times(times(P, inverse), inverse)
            first = first[0] + zero * (0.5 * h * h), first[1]
        if ORDERS > 2:
            # One division after the other: lambda^3 alone could leave the range of float32.
            second = scaled(times(times(times(Q, inverse), inverse), inverse), reciprocal(h))
            second = second[0] + zero * (h * h / 6), second[1]
    return E, F, first, second


@jit
def advance(x, E, F, first, b, d, h, RAMP: tl.constexpr, KICK: tl.constexpr):
    """The state after a row, and before its kick."""
    before = plus(x, times(E, x))
    if KICK:
        new = plus(before, b)
    else:
        before = plus(before, times(F, b))
        if RAMP:
            before = plus(before, times(first, scaled(d, reciprocal(h))))
        new = before
    return new, before


@jit
def advance_adjoint(
    x, before, E, F, first, second, b, d, g, pole, h,
    alpha: tl.constexpr, RAMP: tl.constexpr, KICK: tl.constexpr, CLOCKED: tl.constexpr,
):  # fmt: skip
    """Adjoints of x, b, d, lambda and h (a tile, real) from that of the new state, g."""
    back = conjugate_times(F, g)
    gx, gb = plus(g, conjugate_times(E, g)), back
    gd, gh = gx, gx[0]
    if alpha >= 0:
        mean = x[0] + alpha * (before[0] - x[0]), x[1] + alpha * (before[1] - x[1])
        gpole = conjugate_times(mean, back)
        if CLOCKED:
            slope = times(pole, mean) if KICK else plus(times(pole, mean), b)
            gh = conjugate_dot(times(first, slope), g)
    else:
        slope = scaled(before, h)
        if not KICK:
            slope = plus(slope, scaled(times(first, b), -1.0))
        if RAMP:
            slope = plus(slope, scaled(times(second, d), -2.0))
            gd = scaled(conjugate_times(first, g), reciprocal(h))
        gpole = conjugate_times(slope, g)
        if CLOCKED:
            slope = times(pole, before) if KICK else plus(times(pole, before), b)
            if RAMP:
                over = scaled(first, reciprocal(h) * reciprocal(h))
                over = tl.where(h > TINY, over[0], 0.5), over[1]
                slope = plus(slope, plus(d, scaled(times(over, d), -1.0)))
            gh = conjugate_dot(slope, g)
    if KICK:
        gb = g
    return gx, gb, gd, gpole, gh
