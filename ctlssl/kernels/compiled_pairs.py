"""Complex numbers in lanes, as pairs of vectors."""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import lanes, load, store

__all__ = ["added", "conjugate_times", "keep", "pair", "plus", "real_part", "scaled", "times"]


@compiled(inline=True)
def pair(array, place):
    """Two vectors in a row."""
    return load(array, place), load(array, place + lanes(array))


@compiled(inline=True)
def keep(array, place, z):
    """Write them."""
    store(array, place, z[0])
    store(array, place + lanes(array), z[1])


@compiled(inline=True)
def added(array, place, z):
    """Add to two vectors in a row."""
    there = pair(array, place)
    keep(array, place, (there[0] + z[0], there[1] + z[1]))


@compiled(inline=True)
def plus(a, b):
    """A + b."""
    return a[0] + b[0], a[1] + b[1]


@compiled(inline=True)
def times(a, b):
    """A b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@compiled(inline=True)
def conjugate_times(a, b):
    """The conjugate of a, times b."""
    return a[0] * b[0] + a[1] * b[1], a[0] * b[1] - a[1] * b[0]


@compiled(inline=True)
def real_part(a, b):
    """Re of the conjugate of a, times b."""
    return a[0] * b[0] + a[1] * b[1]


@compiled(inline=True)
def scaled(a, s):
    """A times a real vector or number."""
    return a[0] * s, a[1] * s
