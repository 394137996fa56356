"""The impulse response of a system that is not learned, kept from call to call: the Krylov matrix of LSSL-fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace
from ctlssl.views.krylov import ImpulseResponse, impulse_response

__all__ = ["KeptResponse"]


class KeptResponse:
    r"""The impulse response of the last call, beside the numbers it was formed from.

    With A, B, the step and the gap as before, only C is new: K_l = C Abar^l Bbar. Kept are every b-th of the Krylov
    vectors Abar^l Bbar, b near L / N (for a diagonal A, sqrt L), and the first log2(b) of the powers Abar^(2^k): what
    is missing between them, C Abar^a for a < b, costs no more than the product with them, and all of it is
    (1 + log2 b) N^2 numbers a channel, not N L.

    Numbers are compared each time, so that loading weights or writing into a buffer is noticed. It is nobody's own:
    what copies or saves a layer gets an empty one.

    References:
        Gu et al. (2021), LSSL, section 5 (LSSL-fixed caches the Krylov matrix).
    """

    def __init__(self) -> None:
        self._known: tuple[Discretization, type, list[Tensor], ImpulseResponse] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return KeptResponse, ()

    def of(self, system: StateSpace, method: Discretization, gap: Tensor) -> ImpulseResponse:
        """The impulse response, formed now if it is not known.

        Args:
            system: the continuous system; its C and D have no say.
            method: the discretization.
            gap: the one gap, a scalar.
        """
        numbers = [field for field, _ in system.A._fields()] + [system.B, gap]
        known = self._known  # read once: another thread may replace it
        if not _can_be_kept(numbers):
            return impulse_response(system, method, gap, fixed=True)
        if known is not None and known[:2] == (method, type(system.A)) and _same(known[2], numbers):
            return known[3]
        with torch.inference_mode(False), torch.no_grad():  # what inference mode makes can never be trained with
            response = impulse_response(system, method, gap, fixed=True, keep=True)
            self._known = (method, type(system.A), [part.clone() for part in numbers], response)
        return response

    @property
    def numbers(self) -> int:
        """How many float64 numbers are kept."""
        return 0 if self._known is None else self._known[3].numbers


def _can_be_kept(numbers: list[Tensor]) -> bool:
    """Whether these are plain constants: nothing that is differentiated or traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return not any(part.requires_grad or type(part) is not Tensor for part in numbers)


def _same(before: list[Tensor], now: list[Tensor]) -> bool:
    pairs = list(zip(before, now, strict=False))
    alike = len(before) == len(now) and all(a.shape == b.shape and a.device == b.device for a, b in pairs)
    return alike and all(torch.equal(a, b) for a, b in pairs)
