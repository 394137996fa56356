"""Vectors of 64 bytes as numbers of the compiled loops: 16 lanes of float32 or 8 of float64.

A compiler finds vectors in loops over arrays now and then; here they are there from the start, and it cuts them to
the width of the processor. The operators + - * / and unary - work lane by lane, with plain numbers too; a * b + c
may be rounded once, as everywhere in compiled loops, unless `product` made the product.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "BYTES", "as_number", "clipped", "exponent", "fetch", "flipped", "fma", "lanes", "larger", "load",
    "multiply_add", "nearest", "pointer", "polynomial", "power_of_two", "product", "splat", "store",
    "Vector", "fused_product", "square_root", "total", "totals", "vector_pointer", "where_positive", "where_zero",
    "wide_registers",
]  # fmt: skip

BYTES = 64


def wide_registers() -> bool:
    """Whether the processor that is compiled for has registers of a whole vector, and so 32 of them."""
    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]


class Vector(types.Type):
    """The type of a vector of numbers."""

    def __init__(self, number: types.Float) -> None:
        self.number, self.lanes = number, BYTES * 8 // number.bitwidth
        super().__init__(name=f"Vector({number})")


def _llvm(vector: Vector) -> ir.Type:
    return ir.VectorType(ir.FloatType() if vector.number == types.float32 else ir.DoubleType(), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _spread(context: Any, builder: Any, value: Any, kind: Any, vector: Vector) -> Any:
    """A number in every lane, vectors as they are."""
    if isinstance(kind, Vector):
        return value
    number = context.cast(builder, value, kind, vector.number)
    first = builder.insert_element(ir.Constant(_llvm(vector), ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), None))


def _register(op: Callable, name: str) -> None:
    @infer_global(op)
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [kind for kind in args if isinstance(kind, Vector)]
            usable = vectors and all(isinstance(kind, Vector | types.Number) for kind in args)
            return signature(vectors[0], *args) if usable else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        given = [_spread(context, builder, v, k, sig.return_type) for k, v in zip(sig.args, args, strict=True)]
        return getattr(builder, name)(*given, flags=("contract", "nsz"))

    pairs = [(Vector,)] if op is operator.neg else [(Vector, Vector), (Vector, types.Number), (types.Number, Vector)]
    for pair in pairs:
        lower_builtin(op, *pair)(lower)


for _op, _name in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
    (operator.neg, "fneg"),
):  # fmt: skip
    _register(_op, _name)


def _lanewise(count: int, build: Callable) -> Callable:
    """An intrinsic of `count` vectors or numbers, at least one of them a vector, whose result is one."""

    def typed(*kinds: Any) -> Any:
        vector = next(kind for kind in kinds if isinstance(kind, Vector))

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return build(builder, *(_spread(context, builder, v, k, vector) for k, v in zip(kinds, args, strict=True)))

        return vector(*kinds), lower

    @intrinsic
    def one(typing: Any, a: Any) -> Any:
        return typed(a)

    @intrinsic
    def two(typing: Any, a: Any, b: Any) -> Any:
        return typed(a, b)

    @intrinsic
    def three(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return typed(a, b, c)

    return (one, two, three)[count - 1]


def _fma(builder: Any, *args: Any) -> Any:
    kind = args[0].type
    name = f"llvm.fma.v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), args)


def _layout(kind: Any) -> tuple[float, Any, int, int]:
    """A number whose sum with a whole one has that in its lowest bits; integers of its size; mantissa bits; bias."""
    single = kind.element == ir.FloatType()
    bits, mantissa, bias = (32, 23, 127) if single else (64, 52, 1023)
    return 1.5 * 2.0**mantissa, ir.VectorType(ir.IntType(bits), kind.count), mantissa, bias


def _nearest(builder: Any, a: Any) -> Any:
    large = _constant(a.type, _layout(a.type)[0])
    return builder.fsub(builder.fadd(a, large), large)


def _flipped(builder: Any, value: Any, turns: Any) -> Any:
    large, whole, _, _ = _layout(value.type)
    odd = builder.bitcast(builder.fadd(turns, _constant(value.type, large)), whole)
    sign = builder.shl(odd, _constant(whole, whole.element.width - 1))
    return builder.bitcast(builder.xor(builder.bitcast(value, whole), sign), value.type)


def _power_of_two(builder: Any, n: Any) -> Any:
    large, whole, mantissa, bias = _layout(n.type)
    number = builder.bitcast(builder.fadd(n, _constant(n.type, large + bias)), whole)
    return builder.bitcast(builder.shl(number, _constant(whole, mantissa)), n.type)


def _clipped(builder: Any, a: Any, low: Any, high: Any) -> Any:
    a = builder.select(builder.fcmp_ordered(">", a, low), a, low)
    return builder.select(builder.fcmp_ordered("<", a, high), a, high)


def _exponent(builder: Any, a: Any) -> Any:
    bias = _layout(a.type)[3]
    return _clipped(builder, a, _constant(a.type, float(1 - bias)), _constant(a.type, float(bias + 1)))


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _where_positive(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, _constant(a.type, 0.0)), b, c)


def _square_root(builder: Any, a: Any) -> Any:
    name = f"llvm.sqrt.v{a.type.count}{'f32' if a.type.element == ir.FloatType() else 'f64'}"
    kind = ir.FunctionType(a.type, [a.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a])


def _where_zero(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.select(builder.fcmp_ordered("==", a, _constant(a.type, 0.0)), b, c)


fma = _lanewise(3, _fma)  # a b + c, rounded once
product = _lanewise(2, lambda builder, a, b: builder.fmul(a, b))  # a b, rounded for itself
nearest = _lanewise(1, _nearest)  # the nearest whole number, for |a| < 2^22 or 2^51
flipped = _lanewise(2, _flipped)  # value (-1)^turns, turns whole and as small
power_of_two = _lanewise(1, _power_of_two)  # 2^n, n whole, from the least normal exponent to the first that overflows
clipped = _lanewise(3, _clipped)  # between low and high; not-a-number becomes low
exponent = _lanewise(1, _exponent)  # between the exponents that power_of_two takes
larger = _lanewise(2, _larger)  # the larger of two
square_root = _lanewise(1, _square_root)
where_positive = _lanewise(3, _where_positive)  # b where a > 0, c elsewhere
where_zero = _lanewise(3, _where_zero)  # b where a = 0, c elsewhere


def polynomial(single: list[float], double: list[float]) -> Callable:
    """c_0 + c_1 x + ... by Horner's rule, with the coefficients for the precision of x."""

    def build(builder: Any, x: Any) -> Any:
        coefficients = single if x.type.element == ir.FloatType() else double
        value = _constant(x.type, coefficients[-1])
        for c in coefficients[-2::-1]:
            value = _fma(builder, value, x, _constant(x.type, c))
        return value

    return _lanewise(1, build)


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """Where the numbers of a contiguous array begin, to be read and written as p[k]; the caller keeps the array.

    Loops that hold arrays count their owners at every turn, which writes all vectors to memory and reads them again.
    """

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), lower


@intrinsic
def lanes(typing: Any, numbers: Any) -> Any:
    """How many of these numbers a vector holds."""
    count = BYTES * 8 // numbers.dtype.bitwidth
    return types.intp(numbers), lambda context, builder, sig, args: ir.Constant(ir.IntType(64), count)


@intrinsic
def as_number(typing: Any, numbers: Any, value: Any) -> Any:
    """A number of the kind that a pointer leads to."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.cast(builder, args[1], value, numbers.dtype)

    return numbers.dtype(numbers, value), lower


def vector_pointer(builder: Any, data: Any, place: Any, vector: Vector) -> Any:
    """LLVM's pointer to the vector at a place after a pointer."""
    return builder.bitcast(builder.gep(data, [place]), _llvm(vector).as_pointer())


def fused_product(builder: Any, number: Any, vector: Any, total: Any) -> Any:
    """LLVM's number * vector + total, rounded once."""
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(ir.Constant(vector.type, ir.Undefined), number, zero)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.type.count), None)
    return _fma(builder, builder.shuffle_vector(first, first, mask), vector, total)


def _pointer(context: Any, builder: Any, kind: Any, source: Any, place: Any, vector: Vector) -> Any:
    data = source if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, source).data
    return vector_pointer(builder, data, place, vector)


@intrinsic
def load(typing: Any, array: Any, place: Any) -> Any:
    """The vector that begins at a place after a pointer, or of a contiguous array (n,)."""
    vector = Vector(array.dtype)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, *args, vector)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), lower


@intrinsic
def store(typing: Any, array: Any, place: Any, value: Any) -> Any:
    """Write a vector to such a place, of its kind of number."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, *args[:2], value)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), lower


@intrinsic
def fetch(typing: Any, numbers: Any, place: Any) -> Any:
    """Ask for the memory around a place after a pointer, wherever that leads; nobody waits for it."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flag, there = ir.IntType(32), builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [there.type, flag, flag, flag])
        read, near, data = flag(0), flag(3), flag(1)
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [there.type], kind), [there, read, near, data])
        return context.get_dummy_value()

    return types.void(numbers, types.intp), lower


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """A b + c of plain numbers, rounded once."""
    return a(a, a, a), lambda context, builder, sig, args: builder.fma(*args)


@intrinsic
def splat(typing: Any, number: Any, like: Any) -> Any:
    """A number in every lane of a vector like another."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _spread(context, builder, args[0], number, like)

    return like(number, like), lower


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of the lanes, by halves."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, whole, width = args[0], ir.IntType(32), a.lanes
        while width > 1:
            width //= 2
            masks = (ir.Constant(ir.VectorType(whole, width), list(range(k, k + width))) for k in (0, width))
            value = builder.fadd(*(builder.shuffle_vector(value, value, mask) for mask in masks))
        return builder.extract_element(value, ir.Constant(whole, 0))

    return a.number(a), lower


@intrinsic
def totals(typing: Any, array: Any, place: Any) -> Any:
    """The sums of the lanes of as many vectors in a row as one has lanes, each rounded as `total` rounds it."""
    vector = Vector(array.dtype)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count, whole = vector.lanes, ir.IntType(32)
        first = _pointer(context, builder, array, *args, vector)
        places = [builder.gep(first, [ir.Constant(ir.IntType(64), k)]) for k in range(count)]
        rows = [builder.load(place, align=array.dtype.bitwidth // 8) for place in places]
        width = count
        while width > 1:  # of two vectors, halves of every part become parts of one
            starts = [range(part, part + width // 2) for part in range(0, 2 * count, width)]
            masks = [
                ir.Constant(ir.VectorType(whole, count), [lane + half for part in starts for lane in part])
                for half in (0, width // 2)
            ]
            rows = [
                builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks))
                for a, b in zip(rows[0::2], rows[1::2], strict=True)
            ]
            width //= 2
        return rows[0]

    return vector(array, types.intp), lower
