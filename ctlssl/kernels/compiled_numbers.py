"""Building blocks of compiled loops: the decorator, fused multiply-add, polynomials, powers of two.

This module and those that import it load numba; nothing imports them before the first kernel runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["compiled", "cosine", "exponential", "multiply_add", "phi1_slope", "phi3_series", "power_of_two", "sine"]


def compiled(function: Callable | None = None, *, reorder: bool = False, inline: bool = False) -> Callable:
    """Machine code without the interpreter's lock, kept on disk where a folder can be written.

    Args:
        function: what is compiled at its first call.
        inline: whether it becomes part of its callers, so that offsets given as numbers are constants in its loops.
        reorder: whether sums may be taken in vector lanes; never where an error-free transformation counts on order.
    """
    if function is None:
        return lambda function: compiled(function, reorder=reorder, inline=inline)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "forceinline": inline}
    options["fastmath"] = {"contract", "nsz", "reassoc"} if reorder else {"contract", "nsz"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the file nor in the user's own folder: compiled anew by each process
        return numba.njit(**options)(function)


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """A b + c, rounded once."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, a, a), build


@intrinsic
def power_of_two(typing: Any, m: Any) -> Any:
    """2^m of a whole number between the least normal exponent and the first that overflows, as float."""
    bits, shift, bias = (64, 52, 1023) if m == types.float64 else (32, 23, 127)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, whole = ir.IntType(32), ir.IntType(bits)
        exponent = builder.add(builder.fptosi(args[0], narrow), ir.Constant(narrow, bias))
        exponent = builder.sext(exponent, whole) if bits == 64 else exponent
        return builder.bitcast(builder.shl(exponent, ir.Constant(whole, shift)), args[0].type)

    return m(m), build


def _polynomial(single: Sequence[float], double: Sequence[float]) -> Callable:
    """c_0 + c_1 x + ..., by Horner's rule in the precision of x, which chooses the coefficients."""

    @intrinsic
    def evaluate(typing: Any, x: Any) -> Any:
        coefficients = double if x == types.float64 else single

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            value = ir.Constant(kind, coefficients[-1])
            for c in coefficients[-2::-1]:
                value = builder.fma(value, args[0], ir.Constant(kind, c))
            return value

        return x(x), build

    return evaluate


def _taylor(terms: Sequence[int], sign: int = 1) -> list[float]:
    return [sign**k / math.factorial(order) for k, order in enumerate(terms)]


# Arguments: r^2 with |r| <= pi/4 (sin r / r, cos r), and t with |t| <= log(2) / 2 ((e^t - 1) / t).
sine = _polynomial(*(_taylor(range(1, top, 2), -1) for top in (10, 18)))
cosine = _polynomial(*(_taylor(range(0, top, 2), -1) for top in (11, 19)))
exponential = _polynomial(*(_taylor(range(1, top)) for top in (9, 16)))


def _inside(single: Sequence[float], double: Sequence[float]) -> Callable:
    """A polynomial of z = real + i imag with |z|^2 = square <= 1: real arithmetic, two operations a term."""

    @intrinsic
    def evaluate(typing: Any, real: Any, square: Any, imag: Any) -> Any:
        coefficients = double if real == types.float64 else single

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, square, y = args
            twice, minus = builder.fadd(x, x), builder.fneg(square)
            later, value = ir.Constant(x.type, 0.0), ir.Constant(x.type, coefficients[-1])
            for c in coefficients[-2:0:-1]:
                bottom = builder.fma(minus, later, ir.Constant(x.type, c))
                later, value = value, builder.fma(twice, value, bottom)
            bottom = builder.fma(minus, later, ir.Constant(x.type, coefficients[0]))
            parts = [builder.fma(x, value, bottom), builder.fmul(y, value)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(real, 2)(real, real, real), build

    return evaluate


phi3_series = _inside(*(_taylor(range(3, top)) for top in (13, 21)))
phi1_slope = _inside(*([(k - 1) * c for k, c in enumerate(_taylor(range(2, top)), 2)] for top in (13, 21)))
