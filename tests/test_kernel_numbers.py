"""The arithmetic inside the diagonal loops: vectors, exponentials of any phase, polynomials, the layout in lanes."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest

from ctlssl.kernels import compiled_exponential
from ctlssl.kernels import compiled_simd as simd
from ctlssl.kernels.compiled_exponential import (
    adjoint_orders,
    exponential,
    exponential_alone,
    far_turns,
    near_turns,
    power,
    second_order,
)
from ctlssl.kernels.packing import fixed_slots, joined, kept_numbers, pack, pole_adjoints, sizes_of, split, unpack
from tests.contracts import generator

PRECISIONS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
HALF_DIGITS = {np.float32: 2.0**-24, np.float64: 2.0**-53}

in_lanes = numba.njit(error_model="numpy", fastmath={"contract", "nsz"})


def width(dtype):
    """How many lanes a vector has."""
    return simd.BYTES // np.dtype(dtype).itemsize


def whole_vectors(values, dtype):
    """Numbers (k,) in this precision, filled up with their last to whole vectors."""
    values = np.asarray(values, dtype)
    return np.concatenate([values, np.full(-len(values) % width(dtype), values[-1], dtype)])


@in_lanes
def arithmetic(a, b, c, out):
    x, y, z = simd.load(a, 0), simd.load(b, 0), simd.load(c, 0)
    simd.store(out[0], 0, simd.nearest(x))
    simd.store(out[1], 0, simd.flipped(x, simd.nearest(y)))
    simd.store(out[2], 0, simd.power_of_two(simd.exponent(simd.nearest(x * 40.0))))
    simd.store(out[3], 0, simd.clipped(x, y, z))
    simd.store(out[4], 0, simd.where_zero(simd.nearest(x), y, z))
    simd.store(out[5], 0, simd.larger(x, y))
    simd.store(out[6], 0, simd.fma(x, y, -simd.product(x, y)))
    simd.store(out[7], 0, simd.splat(a[1], x) + (-y / 2.0) * z - 1.0)
    out[8][0] = simd.total(x)
    simd.store(out[9], 0, simd.where_positive(x, y, z))
    simd.store(out[10], 0, simd.square_root(z * z))


@in_lanes
def fetched(numbers):
    there = simd.pointer(numbers)
    for place in (0, len(numbers), -(2**40), 2**40):
        simd.fetch(there, place)
    return there[0]


@PRECISIONS
def test_memory_may_be_asked_for_anywhere(dtype):
    assert fetched(np.ones(3, dtype)) == 1


@PRECISIONS
def test_lane_by_lane(dtype):
    """Against numpy and fractions, to the last bit but for the sums."""
    rng, kind = generator("lanes", dtype), np.finfo(dtype)
    for _ in range(20):
        a, b, c = (rng.uniform(-5, 5, width(dtype)).astype(dtype) for _ in range(3))
        a[0], a[1], b[0], c = 0.25, -3.5, 0.5, np.maximum(b, c)  # halves go to the even whole number
        out = np.zeros((11, width(dtype)), dtype)
        arithmetic(a, b, c, out)
        powers = np.clip(np.rint(a * dtype(40)), kind.minexp, kind.maxexp).astype(int)
        lost = [
            float(Fraction(float(x)) * Fraction(float(y)) - Fraction(float(x * y))) for x, y in zip(a, b, strict=True)
        ]
        expected = [
            np.rint(a), a * (-1.0) ** np.rint(b), [2.0 ** int(n) if n < kind.maxexp else np.inf for n in powers],
            np.clip(a, b, c), np.where(np.rint(a) == 0, b, c), np.maximum(a, b), lost,
        ]  # fmt: skip
        for found, wanted in zip(out, expected, strict=False):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(out[7], a[1] - b.astype(np.float64) / 2 * c - 1, atol=20 * HALF_DIGITS[dtype])
        np.testing.assert_array_equal(out[9:], [np.where(a > 0, b, c), np.sqrt(c * c)])
        assert out[8, 0] == pytest.approx(math.fsum(a), abs=100 * HALF_DIGITS[dtype])


@in_lanes
def extremes(a, out):
    simd.store(
        out[0], 0, simd.clipped(simd.load(a, 0), simd.splat(-2.0, simd.load(a, 0)), simd.splat(3.0, simd.load(a, 0)))
    )
    simd.store(out[1], 0, simd.exponent(simd.load(a, 0)))
    simd.store(out[2], 0, simd.power_of_two(simd.exponent(simd.load(a, 0))))


@PRECISIONS
def test_at_the_ends_of_the_range(dtype):
    """Infinity is cut to the ends and not-a-number to the low one; powers go from the least normal one to infinity."""
    a = whole_vectors([np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0, 0.0], dtype)[: width(dtype)]
    out = np.zeros((3, width(dtype)), dtype)
    extremes(a, out)
    np.testing.assert_array_equal(out[0, :6], [3, -2, -2, 3, -2, 0])
    low, high = np.finfo(dtype).minexp, np.finfo(dtype).maxexp
    np.testing.assert_array_equal(out[1, :6], [high, low, low, high, low, 0])
    np.testing.assert_array_equal(out[2, :6], [np.inf, 2.0**low, 2.0**low, np.inf, 2.0**low, 1])


@in_lanes
def exponentials(decay, h, rest, turns, phase, out):
    W = out.shape[2]
    for k in range(len(decay) // W):
        z = simd.load(decay, k * W), h, simd.load(rest, k * W), simd.load(turns, k * W)
        real, imag, parts = exponential(*z)
        angle = simd.load(phase, k * W)
        second, (whole, split) = second_order(parts, angle), power(parts)
        p, q = adjoint_orders((real, imag), parts, angle)
        for place, value in enumerate((real, imag, *second, *p, *q, *whole, *exponential_alone(*z), split)):
            simd.store(out[k, place], 0, value)


def steps(rng):
    """Real and imaginary parts of z, 1e-12 to 1e4 in modulus, Re z <= 0, among them both axes and whole turns."""
    size, angle = 10.0 ** rng.uniform(-12, 4, 600), rng.uniform(np.pi / 2, 3 * np.pi / 2, 600)
    angle[:100], angle[100:150], angle[150:200] = np.pi, np.pi / 2, np.pi / 2 + 10.0 ** rng.uniform(-9, -1, 50)
    x, y = np.minimum(size * np.cos(angle), 0), size * np.sin(angle)
    x[:100], y[:100], x[100:150] = -size[:100], 0, 0
    y[200:240] = 2 * np.pi * rng.integers(1, 9, 40) + 10.0 ** rng.uniform(-9, -1, 40)  # where e^z comes back to 1
    x[200:240] = -(10.0 ** rng.uniform(-9, -1, 40))
    return x, y


@pytest.mark.parametrize(
    ("dtype", "first", "higher"), [(np.float32, 5e-7, 1e-5), (np.float64, 5e-15, 1e-13)], ids=["float32", "float64"]
)
def test_exponentials_keep_their_digits(dtype, first, higher):
    """E, E - z, what the way back reads, and e^z, against mpmath from the same numbers, relative to their own size."""
    x, y = steps(generator("exponentials", dtype))
    half_turns, h = y / np.pi, dtype(0.75)
    turns = np.rint(half_turns)
    decay, rest, turns = (whole_vectors(v, dtype) for v in (x / math.log(2) / h, half_turns - turns, turns))
    phase = ((rest.astype(np.float64) + turns) * np.pi).astype(dtype)
    out = np.zeros((len(decay) // width(dtype), 13, width(dtype)), dtype)
    exponentials(decay, h, rest, turns, phase, out)
    out = np.moveaxis(out, 1, 0).reshape(13, -1).astype(float)
    worst = np.zeros(6)
    with mpmath.workdps(60):
        for k in range(len(decay)):
            growth = mpmath.log(2) * mpmath.mpf(float(decay[k])) * mpmath.mpf(float(h))
            z = mpmath.mpc(growth, mpmath.pi * (mpmath.mpf(float(rest[k])) + int(turns[k])))
            e, far = mpmath.expm1(z), out[12, k] != 0
            truths = e, e - z, e if far else e - z, e - z / 2 if far else e - z - z**2 / 2, mpmath.exp(z), e
            for place, truth in enumerate(truths):
                # Numbers that are not normal have fewer digits.
                if truth and abs(truth) > np.finfo(dtype).tiny / HALF_DIGITS[dtype]:
                    error = abs(mpmath.mpc(*out[2 * place : 2 * place + 2, k]) - truth) / abs(truth)
                    worst[place] = max(worst[place], float(error / (1 - growth if place == 4 else 1)))
    assert max(worst[[0, 4, 5]]) < first and max(worst[1:4]) < higher, worst


@in_lanes
def near(turn, low, h, h_low, out):
    W = out.shape[1]
    for k in range(len(turn) // W):
        rest, turns, phase = near_turns(simd.load(turn, k * W), simd.load(low, k * W), h, h_low)
        simd.store(out[0], k * W, rest)
        simd.store(out[1], k * W, turns)
        simd.store(out[2], k * W, phase)


def half_turns(frequency, gap):
    """h Im lambda / pi of float64 numbers."""
    return mpmath.mpf(float(frequency)) * mpmath.mpf(float(gap)) / mpmath.pi


def slots_of(frequencies, dtype):
    """What the loops keep of eigenvalues -0.1 + i frequency, and the lanes of a vector."""
    poles = np.concatenate([np.full(len(frequencies), -0.1), frequencies])[None]
    sizes = sizes_of(1, 1, 1, 1, len(frequencies), np.dtype(dtype).itemsize, False)
    return fixed_slots(poles, np.ones_like(poles), sizes, dtype), sizes


@PRECISIONS
def test_near_phases(dtype):
    """Fewer than 2^20 half turns: the rest against mpmath, as sharp as the precision lets it be."""
    rng = generator("near phases", dtype)
    for gap in 10.0 ** rng.uniform(-3, 3, 40):
        frequencies = rng.choice([-1, 1], width(dtype)) * 2.0 ** rng.uniform(-5, 20, width(dtype)) * np.pi / gap
        fixed, sizes = slots_of(frequencies, dtype)
        W, h = sizes.lanes, dtype(gap)
        slots, out = fixed.slots.reshape(-1, W), np.zeros((3, W), dtype)
        near(slots[1], slots[2], h, dtype(gap - h), out)
        with mpmath.workdps(40):
            for k, frequency in enumerate(frequencies):
                truth = half_turns(frequency, gap)
                assert abs(mpmath.mpf(float(out[0, k])) + int(out[1, k]) - truth) < 3 * HALF_DIGITS[dtype]
                assert abs(out[2, k] - float(truth * mpmath.pi)) <= 4 * HALF_DIGITS[dtype] * abs(out[2, k])
                assert abs(out[0, k]) < 0.6 and out[1, k] == np.rint(out[1, k])


@in_lanes
def far(turns64, gap, room, lanes):
    far_turns(turns64, 0, gap, room, lanes)


@PRECISIONS
def test_far_phases(dtype):
    """Up to 1e12 radians: the rest and odd or even, against mpmath."""
    rng = generator("far phases", dtype)
    for gap in [*10.0 ** rng.uniform(-3, 9, 40), 0.0]:
        frequencies = rng.choice([-1, 1], width(dtype)) * 10.0 ** rng.uniform(-2, 12, width(dtype)) / (gap or 1)
        fixed, sizes = slots_of(frequencies, dtype)
        room = np.zeros(3 * sizes.lanes, dtype)
        far(fixed.turns64, gap, room, sizes.lanes)
        rest, turns, phase = room.reshape(3, -1)
        with mpmath.workdps(50):
            for k, frequency in enumerate(frequencies):
                truth = half_turns(frequency, gap)
                whole = mpmath.nint(truth)
                wrong = mpmath.mpf(float(rest[k])) + int(turns[k]) - truth
                assert abs(wrong - 2 * mpmath.nint(wrong / 2)) < max(HALF_DIGITS[dtype], 1e-15)
                assert turns[k] in (0, 1, 2) and (turns[k] == 0) == (whole == 0)
                assert abs(phase[k] - float(truth * mpmath.pi)) <= 4 * HALF_DIGITS[dtype] * abs(phase[k])


def test_phases_beyond_all_digits_stay_finite():
    fixed, sizes = slots_of(np.full(8, 1e300), np.float64)
    room = np.zeros(3 * sizes.lanes)
    far(fixed.turns64, 1e5, room, sizes.lanes)
    assert np.isfinite(room).all() and (np.abs(room[: sizes.lanes]) <= 0.5).all()


POLYNOMIALS = {  # the whole, what the polynomial is for, what it is multiplied by, and the power in it
    "_GROWTH": (lambda t: 2**t, lambda t: 2**t - 1 - t * mpmath.log(2) - (t * mpmath.log(2)) ** 2 / 2, 3, 1),
    "_SINE": (lambda r: mpmath.sinpi(r), lambda r: mpmath.sinpi(r) - mpmath.pi * r, 3, 2),
    "_COSINE": (lambda r: 1 - mpmath.cospi(r), lambda r: 1 - mpmath.cospi(r) - (mpmath.pi * r) ** 2 / 2, 4, 2),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_are_below_the_rounding(name):
    """Over |t| <= 1/2: the error is under half of the last place of the whole, in either precision."""
    whole, part, multiplied, power = POLYNOMIALS[name]
    with mpmath.workdps(50):
        for numbers, bound in zip(getattr(compiled_exponential, name), (2.0**-25, 2.0**-54), strict=True):
            for t in mpmath.linspace(-0.5, 0.5, 402):
                found = t**multiplied * mpmath.polyval([mpmath.mpf(c) for c in numbers[::-1]], t**power)
                assert abs(found - part(t)) < bound * abs(whole(t))


SIZES = [(H, n) for H in (1, 2, 3, 7, 20) for n in (1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 64)]


@PRECISIONS
def test_layouts_lose_and_double_nothing(dtype):
    """Pack and unpack, split and joined; every lane that no number fills is 0."""
    for H, n in SIZES:
        sizes = sizes_of(2, 70, H, 1, n, np.dtype(dtype).itemsize, True)
        values = np.arange(1, 3 * H * n + 1).reshape(3, H, n).astype(dtype)
        lanes = pack(values, sizes, dtype)
        assert lanes.shape == (3, sizes.blocks * sizes.vectors, width(dtype)) and lanes.dtype == dtype
        np.testing.assert_array_equal(unpack(lanes, sizes), values)
        np.testing.assert_array_equal(np.sort(lanes[lanes != 0]), values.ravel())
        pairs = np.arange(1, 4 * H * n + 1).reshape(2, H, 2 * n).astype(dtype)
        flat = split(pairs, sizes, dtype)
        np.testing.assert_array_equal(joined(flat, sizes, (2,)), pairs)
        assert flat.ndim == 1 and kept_numbers((2, H, 2 * n), 70, np.dtype(dtype).itemsize) == 2 * flat.size
        with_imaginary = flat.reshape(2, -1, 2, width(dtype))
        np.testing.assert_array_equal(unpack(with_imaginary[:, :, 1], sizes), pairs[..., n:])


def test_adjoints_of_eigenvalues_by_complex_arithmetic():
    """Through b / lambda, b / lambda^2 and b / lambda^3, against differences of what they weight."""
    rng = generator("pole adjoints")
    poles, B = rng.standard_normal((2, 6)), rng.standard_normal((2, 6))
    sums = rng.standard_normal((8, 2, 3)) + 1j * rng.standard_normal((8, 2, 3))
    sums[[3, 4]] = rng.standard_normal((2, 2, 3))  # of an eigenvalue 0, which none of these is
    gpoles, gB = pole_adjoints(sums, poles, B, np.float64)
    p, b = poles[:, :3] + 1j * poles[:, 3:], B[:, :3] + 1j * B[:, 3:]
    expected = sums[0] - (b / p**2).conj() * sums[2] - 2 * (b / p**3).conj() * sums[6]
    np.testing.assert_allclose(gpoles, np.concatenate([expected.real, expected.imag], axis=1), rtol=1e-12)
    expected = (1 / p).conj() * sums[1] + (1 / p**2).conj() * sums[5] + sums[7]
    np.testing.assert_allclose(gB, np.concatenate([expected.real, expected.imag], axis=1), rtol=1e-12)
