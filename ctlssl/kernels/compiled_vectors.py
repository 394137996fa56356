"""Short loops over all lanes of a slot as single vector operations.

A compiler unrolls loops this short into scalars before it looks for vectors; here they are vectors from the start.
Each function takes arrays followed by the place in them where a slot begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["LANES", "add_weighted", "borrowed", "inner", "lane_sum", "spread", "weighted"]

LANES = 32


class _Slots:
    """Loads and stores whole slots of the array arguments of an intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        self.number = context.get_data_type(signature.args[0].dtype)
        self.vector = ir.VectorType(self.number, LANES)
        self.align = 4 if self.number == ir.FloatType() else 8

    def _place(self, array: int, k: int) -> Any:
        builder, offset = self.builder, self.args[array + 1]
        data = self.context.make_array(self.signature.args[array])(self.context, builder, self.args[array]).data
        offset = builder.add(offset, ir.Constant(offset.type, k * LANES))
        return builder.bitcast(builder.gep(data, [offset]), self.vector.as_pointer())

    def load(self, array: int, k: int = 0) -> Any:
        """The k-th slot from the place on."""
        return self.builder.load(self._place(array, k), align=self.align)

    def store(self, value: Any, array: int, k: int = 0) -> Any:
        """Write it."""
        self.builder.store(value, self._place(array, k), align=self.align)
        return self.context.get_dummy_value()


def _on_slots(arrays: int, build: Callable[[Any, _Slots], Any], number: bool = False) -> Callable:
    """An intrinsic of a number of (array, place) pairs, followed by a number or not; build may return a number."""

    def typed(*given: Any) -> Any:
        result = types.void if build.__name__.startswith("_store") else given[0].dtype
        signature = result(*(types.intp if k % 2 and k < 2 * arrays else kind for k, kind in enumerate(given)))
        return signature, lambda context, builder, sig, args: build(builder, _Slots(context, builder, sig, args))

    @intrinsic
    def two(typing: Any, a: Any, i: Any, value: Any) -> Any:
        return typed(a, i, value)

    @intrinsic
    def one(typing: Any, a: Any, i: Any) -> Any:
        return typed(a, i)

    @intrinsic
    def three(typing: Any, a: Any, i: Any, b: Any, j: Any, c: Any, k: Any) -> Any:
        return typed(a, i, b, j, c, k)

    return three if arrays == 3 else two if number else one


def _sum(builder: Any, c: Any, a: Any, b: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _store_weighted(builder: Any, slots: _Slots) -> Any:
    weight = slots.load(2)
    slots.store(builder.fmul(weight, slots.load(4)), 0)
    return slots.store(builder.fmul(weight, slots.load(4, 1)), 0, 1)


def _store_sum(builder: Any, slots: _Slots) -> Any:
    weight = slots.load(2)
    slots.store(_sum(builder, slots.load(0), weight, slots.load(4)), 0)
    return slots.store(_sum(builder, slots.load(0, 1), weight, slots.load(4, 1)), 0, 1)


def _store_inner(builder: Any, slots: _Slots) -> Any:
    return slots.store(_sum(builder, builder.fmul(slots.load(2, 1), slots.load(4, 1)), slots.load(2), slots.load(4)), 0)


def _store_spread(builder: Any, slots: _Slots) -> Any:
    first = builder.insert_element(
        ir.Constant(slots.vector, ir.Undefined), slots.args[2], ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return slots.store(builder.shuffle_vector(first, first, zeros), 0)


def _halved(builder: Any, slots: _Slots) -> Any:
    value, whole = slots.load(0), ir.IntType(32)
    width = LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(whole, width), list(range(k, k + width))))
            for k in (0, width)
        ]
        value = builder.fadd(*halves)
    return builder.extract_element(value, ir.Constant(whole, 0))


weighted = _on_slots(3, _store_weighted)  # pairs target = weights * pairs factors
add_weighted = _on_slots(3, _store_sum)  # the same, added to the target
inner = _on_slots(3, _store_inner)  # target = Re a Re b + Im a Im b of pairs a, b
spread = _on_slots(1, _store_spread, number=True)  # target = a number
lane_sum = _on_slots(1, _halved)  # sum of a slot, by halves


@intrinsic
def borrowed(typing: Any, array: Any) -> Any:
    """The same array without its owner, which the caller keeps alive: its rows are then cut without counting them."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        for owner in ("meminfo", "parent"):
            setattr(view, owner, ir.Constant(getattr(view, owner).type, None))
        return view._getvalue()

    return array(array), build
