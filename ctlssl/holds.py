r"""What the input is assumed to do between two samples.

Every hold is a set of numbers. With F(h) = h phi_1(h A) (or its rational approximation) the effect of a unit input
held over the gap, and G(h) = h phi_2(h A) that of a ramp from 0 to 1, the update is

    x_k = Abar(h) x_{k-1} + (p_F F + p_G G) B u_{k-1} + (n_F F + n_G G + kick I) B u_k.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["HOLDS", "IMPULSE", "LINEAR", "NEXT", "PREVIOUS", "Hold"]


@dataclasses.dataclass(frozen=True)
class Hold:
    """An assumption about the input between t_{k-1} and t_k.

    Args:
        name: its name.
        previous: weights (p_F, p_G) on the sample at t_{k-1}.
        next: weights (n_F, n_G) on the sample at t_k.
        kick: weight of the sample at t_k as a Dirac impulse.
    """

    name: str
    previous: tuple[float, float]
    next: tuple[float, float]
    kick: float = 0.0

    def value(self, fraction: Any, previous: Any, next: Any) -> Any:
        """The input at a fraction of the gap; numbers or tensors. An impulse is 0 inside the gap.

        Args:
            fraction: between 0 (t_{k-1}) and 1 (t_k).
            previous: the sample at t_{k-1}.
            next: the sample at t_k.

        Example:
            >>> LINEAR.value(0.25, previous=0.0, next=2.0)
            0.5
        """
        weights = self.previous[0] + fraction * self.previous[1], self.next[0] + fraction * self.next[1]
        return weights[0] * previous + weights[1] * next


NEXT = Hold("next", (0.0, 0.0), (1.0, 0.0))
PREVIOUS = Hold("previous", (1.0, 0.0), (0.0, 0.0))
LINEAR = Hold("linear", (1.0, -1.0), (0.0, 1.0))
IMPULSE = Hold("impulse", (0.0, 0.0), (0.0, 0.0), kick=1.0)

HOLDS = {hold.name: hold for hold in (NEXT, PREVIOUS, LINEAR, IMPULSE)}
