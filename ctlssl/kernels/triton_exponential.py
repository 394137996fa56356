r"""What a row makes of its gap on a GPU: E = e^z - 1, P = E - z and Q = P - z^2 / 2, with their digits near z = 0.

The same formulas as on the CPU: e^x - 1 and 1 - cos y from polynomials, which keep their digits where they are small,
and a phase counted in half turns. A phase below 2^20 half turns is a product of sums of two numbers, rounded once; a
larger one is reduced in float64. Complex numbers are pairs (real, imaginary). Checked in Triton's interpreter and
compiled for GPUs, but not yet timed on hardware.
"""

# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from ctlssl.kernels.triton_language import constant, jit, tl

__all__ = ["FAR", "bilinear", "exponential", "far_turns", "near_turns"]

FAR = constant(2.0**20)
"""Half turns from which the phase is reduced in float64."""

_PI, _LOG2 = constant(3.141592653589793), constant(0.6931471805599453)
_HALF_PI2, _HALF_LOG2_2 = constant(4.934802200544679), constant(0.2402265069591007)  # pi^2 / 2, log(2)^2 / 2

# Polynomials for float32 and float64 on |t| <= 1/2 and q = r^2, |r| <= 1/2; those of the loops on the CPU.


@jit
def _growth(t):
    """(2^t - 1 - t log 2 - (t log 2)^2 / 2) / t^3."""
    if t.dtype == tl.float64:
        value = 2.5720837507126973e-11 * t + 4.45413410358406e-10
        value = ((value * t + 7.054902343066185e-09) * t + 1.0178067267449427e-07) * t + 1.3215486798428963e-06
        value = ((value * t + 1.5252733820795803e-05) * t + 0.0001540353039337902) * t + 0.0013333558146423213
        value = (value * t + 0.009618129107628477) * t + 0.05550410866482158
    else:
        value = 1.5284575078689477e-05 * t + 0.00015444883953144928
        value = ((value * t + 0.0013333538240199892) * t + 0.009618103253031871) * t + 0.05550410866482158
    return value


@jit
def _sine(q):
    """(sin(pi r) - pi r) / r^3."""
    if q.dtype == tl.float64:
        value = 7.725743030789876e-07 * q + -2.1906201655131958e-05
        value = ((value * q + 0.00046630087411496363) * q + -0.007370430719634586) * q + 0.08214588659675232
        value = ((value * q + -0.599264529320343) * q + 2.55016403987734) * q + -5.16771278004997
    else:
        value = 0.07853971500294972 * q + -0.5987048583349611
        value = (value * q + 2.550136131421791) * q + -5.167712562123756
    return value


@jit
def _cosine(q):
    """(1 - cos(pi r) - (pi r)^2 / 2) / q^2."""
    if q.dtype == tl.float64:
        value = 1.3523014253614987e-07 * q + -4.301629605263098e-06
        value = ((value * q + 0.00010463780092867116) * q + -0.0019295742738202402) * q + 0.025806891387751215
        value = ((value * q + -0.2353306303588225) * q + 1.3352627688545886) * q + -4.0587121264167685
    else:
        value = 0.024859872308485197 * q + -0.23518351199834275
        value = (value * q + 1.3352554298361905) * q + -4.058712069105128
    return value


@jit
def _nearest(a):
    """The nearest whole number, for |a| < 2^22 or 2^51: what is left of it beside a number without fractions."""
    large: tl.constexpr = 6755399441055744.0 if a.dtype == tl.float64 else 12582912.0
    return (a + large) - large


@jit
def _signed_power(n, turns):
    """2^n (-1)^turns, n whole and between the least normal exponent and the first that overflows."""
    if n.dtype == tl.float64:
        bits = ((n.to(tl.int64) + 1023) << 52) ^ (turns.to(tl.int64) << 63)
        power = bits.to(tl.float64, bitcast=True)
    else:
        bits = ((n.to(tl.int32) + 127) << 23) ^ (turns.to(tl.int32) << 31)
        power = bits.to(tl.float32, bitcast=True)
    return power


@jit
def near_turns(turn, turn_low, h, h_low):
    """Half turns (turn + turn_low) (h + h_low) as a rest |r| <= 1/2 and whole ones, and the phase in radians."""
    whole = _nearest(turn * h)
    # One rounding, of a difference that is small: right whether or not the compiler fuses other products.
    rest = tl.fma(turn, h + tl.zeros_like(turn), -whole) + (turn * h_low + turn_low * h)
    return rest, whole, (rest + whole) * _PI


@jit
def far_turns(turn, turn_low, gap, dtype: tl.constexpr):
    """The same of any number of half turns, in float64; of whole ones 0 if there are none, else 1 or 2 by parity."""
    product = turn * gap
    whole = tl.floor(product + 0.5)
    rest = tl.fma(turn, gap + tl.zeros_like(turn), -whole) + turn_low * gap
    rest = tl.minimum(tl.maximum(rest, -0.5), 0.5)  # beyond 2^53 turns nothing is left of the phase
    parity = whole - 2 * tl.floor(whole * 0.5)
    kept = tl.where(whole == 0, 0.0, tl.where(parity == 0, 2.0, 1.0))
    return rest.to(dtype), kept.to(dtype), (product * _PI).to(dtype)


@jit
def exponential(decay, h, rest, turns, phase, ORDERS: tl.constexpr):
    """E, P and Q of z = log(2) decay h + i phase, phase = pi (rest + turns); of these the first `ORDERS`."""
    bias: tl.constexpr = 1023.0 if decay.dtype == tl.float64 else 127.0
    growth = decay * h
    power = tl.minimum(tl.maximum(growth, 1.0 - bias), 1.0 + bias)
    whole = _nearest(power)
    t, q = power - whole, rest * rest
    third = t * t * t * _growth(t)
    cubic, quartic = rest * q * _sine(q), q * q * _cosine(q)
    second = t * t * _HALF_LOG2_2 + third  # e^x - 1 - x where the power is 0
    sine, less = rest * _PI + cubic, q * _HALF_PI2 + quartic  # sin y, 1 - cos y
    scale = _signed_power(whole, turns)
    more = scale * (t * _LOG2 + second) + (scale - 1.0)
    e = more + 1.0
    E = more - e * less, e * sine
    P = E
    Q = E
    if ORDERS > 1:
        x = growth * _LOG2
        # Where neither a power of two nor half turns were split off, nothing need be subtracted.
        split = (whole != 0) | (turns != 0)
        P = tl.where(split, more - x, second) - e * less, tl.where(split, e * sine - phase, more * sine + cubic)
        Q = P
        if ORDERS > 2:
            near = third - (more * less + quartic), x * cubic + cubic + second * sine
            far = P[0] - 0.5 * (x * x - phase * phase), P[1] - x * phase
            Q = tl.where(split, far[0], near[0]), tl.where(split, far[1], near[1])
    return E, P, Q


@jit
def bilinear(pole, h, alpha: tl.constexpr):
    """E = Abar - 1 = z R and R = 1 / (1 - alpha z) of a generalized bilinear rule, z = h pole."""
    x, y = pole[0] * h, pole[1] * h
    below, beside = 1.0 - alpha * x, alpha * y
    size = 1.0 / (below * below + beside * beside)
    # 1 + alpha E would be R too, but has no digits left at large gaps.
    return ((x - alpha * (x * x + y * y)) * size, y * size), (below * size, beside * size)
