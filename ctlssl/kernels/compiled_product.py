"""Products of small matrices in the nearest memory, in one order of summing whatever stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import Vector, fetch, fused_product, lanes, load, splat, store, vector_pointer

__all__ = ["add_product", "add_product_fetching", "clear"]

_ROWS, _VECTORS = 4, 4


def _block(rows: int, vectors: int) -> Callable:
    """An intrinsic: out[r, v] += sum_k a[r, k] m[k, v] for few rows r and vectors v, all in registers."""

    @intrinsic
    def add(
        typing: Any, out: Any, place: Any, apart: Any, a: Any, at: Any, by_row: Any, by_k: Any, m: Any, start: Any,
        m_apart: Any, count: Any,
    ) -> Any:  # fmt: skip
        vector, index = Vector(m.dtype), types.intp

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            out, place, apart, *factors = args
            cells = [
                _cell(builder, vector, out, builder.add(place, builder.mul(apart, _number(r))), v)
                for r in range(rows)
                for v in range(vectors)
            ]
            for cell, value in zip(cells, _summed(builder, vector, cells, rows, vectors, factors), strict=True):
                builder.store(value, cell, align=vector.number.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(out, index, index, a, index, index, index, m, index, index, index), lower

    return add


def _number(k: int) -> Any:
    return ir.Constant(ir.IntType(64), k)


def _cell(builder: Any, vector: Vector, data: Any, place: Any, v: int) -> Any:
    return vector_pointer(builder, data, builder.add(place, _number(v * vector.lanes)), vector)


def _summed(builder: Any, vector: Vector, cells: list, rows: int, vectors: int, factors: list) -> list:
    """The loop over k, from what stands in the cells; at least one k."""
    a, at, by_row, by_k, m, start, m_apart, count = factors
    align = vector.number.bitwidth // 8
    first = [builder.load(cell, align=align) for cell in cells]
    before, loop = builder.block, builder.append_basic_block("product")
    after = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, totals = builder.phi(_number(0).type), [builder.phi(value.type) for value in first]
    row = builder.add(start, builder.mul(k, m_apart))
    right = [builder.load(_cell(builder, vector, m, row, v), align=align) for v in range(vectors)]
    column, sums = builder.add(at, builder.mul(k, by_k)), []
    for r in range(rows):
        left = builder.load(builder.gep(a, [builder.add(column, builder.mul(by_row, _number(r)))]))
        sums += [fused_product(builder, left, right[v], totals[r * vectors + v]) for v in range(vectors)]
    following = builder.add(k, _number(1))
    for phi, value, new in zip([k, *totals], [_number(0), *first], [following, *sums], strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return sums


_many, _row = _block(_ROWS, _VECTORS), _block(1, _VECTORS)
_column, _one = _block(_ROWS, 1), _block(1, 1)


@compiled(inside=True)
def add_product(out, place, apart, rows, vectors, a, at, by_row, by_k, m, start, m_apart, count):
    """out[r, :] += sum over k < count of a[r, k] m[k, :], a row of out and of m being so many vectors.

    Element (r, k) of a stands at `at` + r by_row + k by_k; rows of out and m stand so far apart.
    """
    add_product_fetching(out, place, apart, rows, vectors, a, at, by_row, by_k, m, start, m_apart, count, out, 0, 0)


@compiled(inside=True)
def add_product_fetching(
    out, place, apart, rows, vectors, a, at, by_row, by_k, m, start, m_apart, count, later, later_at, later_apart
):
    """The same; on the way memory is asked for what comes later, rows of so many numbers, as many as of out."""
    if count == 0:
        return
    W = lanes(m)
    whole, blocks = rows // _ROWS * _ROWS, vectors // _VECTORS * _VECTORS
    for r in range(0, whole, _ROWS):
        o, left = place + r * apart, at + r * by_row
        for j in range(r * later_apart, (r + _ROWS) * later_apart, W):
            fetch(later, later_at + j)
        for v in range(0, blocks, _VECTORS):
            _many(out, o + v * W, apart, a, left, by_row, by_k, m, start + v * W, m_apart, count)
        for v in range(blocks, vectors):
            _column(out, o + v * W, apart, a, left, by_row, by_k, m, start + v * W, m_apart, count)
    for r in range(whole, rows):
        o, left = place + r * apart, at + r * by_row
        for v in range(0, blocks, _VECTORS):
            _row(out, o + v * W, apart, a, left, by_row, by_k, m, start + v * W, m_apart, count)
        for v in range(blocks, vectors):
            _one(out, o + v * W, apart, a, left, by_row, by_k, m, start + v * W, m_apart, count)


@compiled(inside=True)
def clear(numbers, place, vectors):
    """Zeros in so many vectors."""
    W, zero = lanes(numbers), splat(0.0, load(numbers, place))
    for v in range(vectors):
        store(numbers, place + v * W, zero)
