"""The system of a layer that is used again while the parameters stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace

__all__ = ["KeptSystem"]

_PLAIN = (Tensor, torch.nn.Parameter)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class KeptSystem:
    """The system of the last call that recorded no gradients, beside the parameters it was formed from.

    Parameters are compared bit by bit, which is a tenth of the work of forming the system: their version counters
    count neither edits through `.data` nor those of a numpy view. It is nobody's own: what copies or saves a layer gets
    an empty one.
    """

    def __init__(self) -> None:
        self._known: tuple[Discretization, list[Tensor], StateSpace] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return KeptSystem, ()

    def of(self, method: Discretization, parameters: list[Tensor], make: Callable[[], StateSpace]) -> StateSpace:
        """The system of these parameters, formed now if it is not known.

        Args:
            method: the discretization, whose hold may have a say in B.
            parameters: all that the system is formed from.
            make: forms it.
        """
        if torch.is_grad_enabled() or not _have_numbers(parameters):
            self._known = None
            return make()
        known = self._known  # read once: another thread may replace it
        if known is not None and known[0] is method and _same(known[1], parameters):
            return known[2]
        system, parameters = make().remembering(), [parameter.detach().clone() for parameter in parameters]
        self._known = (method, [_bits(p) for p in parameters], system) if _have_numbers(parameters) else None
        return system


def _have_numbers(parameters: list[Tensor]) -> bool:
    """Whether all hold numbers of their own on the CPU: a traced graph must not take them for constants."""
    try:
        for parameter in parameters:
            held = parameter.data_ptr() or not parameter.numel()
            if type(parameter) not in _PLAIN or not parameter.is_cpu or not held:
                return False
    except RuntimeError:  # under vmap and its like
        return False
    return True


def _same(before: list[Tensor], now: list[Tensor]) -> bool:
    try:
        for bits, parameter in zip(before, now, strict=True):
            found = _bits(parameter)
            if found.dtype != bits.dtype or found.shape != bits.shape or not torch.equal(found, bits):
                return False
    except RuntimeError:  # a tracer, to which numbers are not to be told
        return False
    return True


def _bits(numbers: Tensor) -> Tensor:
    """The numbers as integers: NaN is then itself, and -0 is not 0."""
    return numbers.view(_BITS[numbers.itemsize])
