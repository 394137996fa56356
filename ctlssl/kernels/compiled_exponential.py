r"""What a row makes of its gap: E = Abar - 1 of 8 or 16 eigenvalues side by side, with all its digits near z = 0.

With z = h lambda the exact rule has E = e^z - 1, put together from 2^t - 1 and 1 - cos y, which keep their digits
where they are small. The phase is counted in half turns and as a sum of two numbers, so that none of it is lost.
"""

from __future__ import annotations

import math

import numpy as np

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import (
    exponent,
    flipped,
    fma,
    multiply_add,
    nearest,
    polynomial,
    power_of_two,
    product,
    where_zero,
)

__all__ = [
    "adjoint_orders", "bilinear", "exponential", "exponential_alone", "far_turns", "near_turns", "power",
    "second_order",
]  # fmt: skip

_LOG2, _PI = math.log(2), math.pi

# Through Chebyshev points of |t| <= 1/2 and |r| <= 1/2, q = r^2; errors below half of the last place of the whole.
# In float32, and in float64.
_GROWTH = (  # (2^t - 1 - t log 2 - (t log 2)^2 / 2) / t^3
    [0.05550410866482158, 0.009618103253031871, 0.0013333538240199892, 0.00015444883953144928, 1.5284575078689477e-05],
    [
        0.05550410866482158, 0.009618129107628477, 0.0013333558146423213, 0.0001540353039337902,
        1.5252733820795803e-05, 1.3215486798428963e-06, 1.0178067267449427e-07, 7.054902343066185e-09,
        4.45410341058704e-10, 2.5720837507126973e-11,
    ],
)  # fmt: skip
_SINE = (  # (sin(pi r) - pi r) / r^3
    [-5.167712562123756, 2.550136131421791, -0.5987048583349611, 0.07853971500294972],
    [
        -5.16771278004997, 2.55016403987734, -0.599264529320343, 0.08214588659675232, -0.007370430719634586,
        0.00046630087411496363, -2.1906201655131958e-05, 7.725743030789876e-07,
    ],
)  # fmt: skip
_COSINE = (  # (1 - cos(pi r) - (pi r)^2 / 2) / q^2
    [-4.058712069105128, 1.3352554298361905, -0.23518351199834275, 0.024859872308485197],
    [
        -4.0587121264167685, 1.3352627688545886, -0.2353306303588225, 0.025806891387751215, -0.0019295742738202402,
        0.00010463780092867116, -4.301629605263098e-06, 1.3523014253614987e-07,
    ],
)  # fmt: skip
_growth, _sine, _cosine = (polynomial(*rest) for rest in (_GROWTH, _SINE, _COSINE))
# (2^t - 1) / t, sin(pi r) / r and (1 - cos(pi r)) / q.
_whole_growth = polynomial(*([_LOG2, _LOG2**2 / 2, *rest] for rest in _GROWTH))
_whole_sine = polynomial(*([_PI, *rest] for rest in _SINE))
_whole_cosine = polynomial(*([_PI**2 / 2, *rest] for rest in _COSINE))


@compiled(inline=True)
def near_turns(turn, turn_low, h, h_low):
    """Half turns h Im lambda / pi as a rest |r| <= 1/2 and whole ones, and the phase in radians; fewer than 2^21."""
    p = product(turn, h)
    turns = nearest(p)
    rest = (p - turns) + (fma(turn, h, -p) + (turn * h_low + turn_low * h))
    return rest, turns, (rest + turns) * _PI


@compiled(inside=True)
def far_turns(turns64, place, gap, room, width):
    """The same of `width` lanes for any number of turns, into three slots of `room`.

    Of the whole turns only what the exponential asks is kept: 0 if there are none, else 1 or 2 as they are odd or even.
    """
    for j in range(width):
        turn, low = turns64[place + j], turns64[place + width + j]
        p = turn * gap
        whole = np.rint(p)
        rest = (p - whole) + (multiply_add(turn, gap, -p) + low * gap)
        odd = whole - 2 * np.floor(whole / 2)
        room[j] = min(max(rest, -0.5), 0.5)  # beyond 2^53 turns nothing is left of the phase
        room[width + j] = 0 if whole == 0 else 1 if odd else 2
        room[2 * width + j] = p * _PI


@compiled(inline=True)
def exponential(decay, h, rest, turns):
    """E = e^z - 1 of z = log(2) decay h + i pi (rest + turns), and its parts, from which come the higher orders."""
    growth = decay * h
    power = exponent(growth)
    whole = nearest(power)
    t, q = power - whole, rest * rest
    third, cubic, quartic = t * t * t * _growth(t), rest * q * _sine(q), q * q * _cosine(q)
    second = fma(t * t, _LOG2**2 / 2, third)  # e^x - 1 - x where the power is 0
    sine, less = fma(rest, _PI, cubic), fma(q, _PI**2 / 2, quartic)  # sin y, 1 - cos y
    scale = flipped(power_of_two(whole), turns)
    first = fma(t, _LOG2, second)
    more, e = fma(scale, first, scale - 1.0), fma(scale, first, scale)
    parts = growth * _LOG2, whole * whole + turns * turns, more, e, sine, less, cubic, quartic, second, third
    return more - e * less, e * sine, parts


@compiled(inline=True)
def exponential_alone(decay, h, rest, turns):
    """The same E in fewer operations, where nobody asks for the parts."""
    power = exponent(decay * h)
    whole = nearest(power)
    t, q = power - whole, rest * rest
    first, sine, less = t * _whole_growth(t), rest * _whole_sine(q), q * _whole_cosine(q)
    scale = flipped(power_of_two(whole), turns)
    e = fma(scale, first, scale)
    return fma(scale, first, scale - 1.0) - e * less, e * sine


@compiled(inline=True)
def second_order(parts, phase):
    """E - z: without the subtraction where neither a power of two nor half turns were split off."""
    x, split, more, e, sine, less, cubic, quartic, second, third = parts
    real = where_zero(split, second, more - x) - e * less
    return real, where_zero(split, fma(more, sine, cubic), e * sine - phase)


@compiled(inline=True)
def adjoint_orders(growth, parts, phase):
    """What d / d lambda reads in the place of E - z and E - z - z^2 / 2: where z is not small, E and E - z / 2."""
    x, split, more, e, sine, less, cubic, quartic, second, third = parts
    p = where_zero(split, second - e * less, growth[0]), where_zero(split, fma(more, sine, cubic), growth[1])
    real = where_zero(split, third - fma(more, less, quartic), growth[0] - 0.5 * x)
    return p, (real, where_zero(split, fma(x, cubic, cubic) + second * sine, growth[1] - 0.5 * phase))


@compiled(inline=True)
def power(parts):
    """E + 1 = e^z, exact also where it is small, and what is 0 where z is so small that nothing was split off."""
    x, split, more, e, sine, less, cubic, quartic, second, third = parts
    return (e - e * less, e * sine), split


@compiled(inline=True)
def bilinear(pole, frequency, h, alpha):
    """E = z R = Abar - 1 of a generalized bilinear rule, z = h (pole + i frequency), and R = 1 / (1 - alpha z)."""
    x, y = pole * h, frequency * h
    below, beside = 1.0 - alpha * x, alpha * y
    size = 1.0 / (below * below + beside * beside)
    return ((x - alpha * (x * x + y * y)) * size, y * size), (below * size, beside * size)
