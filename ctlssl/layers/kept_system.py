"""The system of a layer that is used again while the parameters stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace

__all__ = ["KeptSystem"]

_PLAIN = (Tensor, torch.nn.Parameter)
_NUMPY = (torch.float16, torch.float32, torch.float64)


class KeptSystem:
    """The system of the last call that recorded no gradients, beside the parameters it was formed from.

    Parameters are compared bit by bit, which is a tenth of the work of forming the system: their version counters
    count neither edits through `.data` nor those of a numpy view. It is nobody's own: what copies or saves a layer gets
    an empty one.
    """

    def __init__(self) -> None:
        self._known: tuple[Discretization, list[_Numbers], StateSpace] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return KeptSystem, ()

    def of(self, method: Discretization, parameters: list[Tensor], make: Callable[[], StateSpace]) -> StateSpace:
        """The system of these parameters, formed now if it is not known.

        Args:
            method: the discretization, whose hold may have a say in B.
            parameters: all that the system is formed from.
            make: forms it.
        """
        if torch.is_grad_enabled():
            self._known = None
            return make()
        known = self._known  # read once: another thread may replace it
        if known is not None and known[0] is method and _same(known[1], parameters):
            return known[2]
        self._known = None
        if not _have_numbers(parameters):
            return make()
        numbers = [_Numbers.of(parameter) for parameter in parameters]
        system = make().remembering()
        if _have_numbers(parameters):  # forming it may have moved them
            self._known = (method, numbers, system)
        return system


class _Numbers(NamedTuple):
    """A parameter as it was: where its numbers lie, and what they were."""

    address: int
    shape: torch.Size
    dtype: torch.dtype
    array: np.ndarray
    content: bytes

    @classmethod
    def of(cls, parameter: Tensor) -> _Numbers:
        # The array holds the memory: no other tensor can come to lie at its address.
        array = parameter.detach().numpy()
        return cls(parameter.data_ptr(), parameter.shape, parameter.dtype, array, array.tobytes())

    def are_those_of(self, parameter: Tensor) -> bool:
        """Whether the parameter has the same bits in the same place: NaN is then itself, and -0 is not 0."""
        return (
            parameter.data_ptr() == self.address
            and parameter.shape == self.shape
            and parameter.dtype == self.dtype
            and parameter.is_contiguous()
            and self.array.tobytes() == self.content
        )


def _have_numbers(parameters: list[Tensor]) -> bool:
    """Whether all hold numbers of their own on the CPU: a traced graph must not take them for constants."""
    try:
        for parameter in parameters:
            held = parameter.data_ptr() or not parameter.numel()
            plain = type(parameter) in _PLAIN and parameter.dtype in _NUMPY and parameter.is_contiguous()
            if not (plain and parameter.is_cpu and held):
                return False
    except RuntimeError:  # under vmap and its like
        return False
    return True


def _same(before: list[_Numbers], now: list[Tensor]) -> bool:
    try:
        return all(
            type(parameter) in _PLAIN and numbers.are_those_of(parameter)
            for numbers, parameter in zip(before, now, strict=True)
        )
    except RuntimeError:  # a tracer, to which numbers are not to be told
        return False
