r"""Discretizations: a rule for e^{hA}, times a hold of the input.

| rule | Abar | F: unit input over the gap | G: ramp 0 to 1 over the gap |
|---|---|---|---|
| gbt(a), R = (I - a h A)^-1 | R (I + (1 - a) h A) | h R | a h R |
| exact | e^{hA} | h phi_1(hA) | h phi_2(hA) |

References:
    Gu, Johnson, Goel, Saab, Dao, Rudra, Re (2021), LSSL, for the generalized bilinear transform with variable steps.
    Zhang, Chen, Chen (2007), Performance recovery in digital implementation of analogue systems, for gbt.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ctlssl.holds import IMPULSE, LINEAR, NEXT, Hold
from ctlssl.state_matrices import Dense, StateMatrix
from ctlssl.state_matrices.diagonal import multiply
from ctlssl.state_matrices.phi import matrix_phi_functions, phi_functions

__all__ = ["METHODS", "Discretization", "Exact", "GeneralizedBilinear", "Rule", "exact", "gbt", "named_method"]


class Rule(ABC):
    """How e^{hA} and the effect of an input over a gap h are computed."""

    name: str
    tabulated: bool
    """Whether a structured matrix must become dense for this rule (one table entry a distinct gap)."""
    growing: bool
    """Whether a stable system can grow without bound at large gaps."""

    @abstractmethod
    def scalars(self, z: Tensor, ramp: bool = True) -> tuple[Tensor, ...]:
        """(Abar, F / h, G / h) of one eigenvalue, z = h lambda; without the last where no ramp is read."""

    @abstractmethod
    def matrices(self, A: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Abar, F, G) of dense matrices A (..., N, N) at gaps h (...)."""


@dataclasses.dataclass(frozen=True)
class GeneralizedBilinear(Rule):
    """Generalized bilinear transform: alpha = 0 forward Euler, 1/2 bilinear (Tustin), 1 backward Euler."""

    alpha: float
    tabulated = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"gbt(alpha) needs alpha between 0 and 1; found {self.alpha}")

    @property
    def name(self) -> str:
        """Name with its number."""
        return f"gbt({self.alpha:g})"

    @property
    def growing(self) -> bool:
        """True below 1/2: the rule is not A-stable."""
        return self.alpha < 0.5

    def scalars(self, z: Tensor, ramp: bool = True) -> tuple[Tensor, ...]:
        """(Abar, F / h, G / h) of one eigenvalue, z = h lambda."""
        resolvent = 1 / (1 - self.alpha * z)
        return multiply(1 + (1 - self.alpha) * z, resolvent), resolvent, self.alpha * resolvent

    def matrices(self, A: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Abar, F, G) of dense matrices A (..., N, N) at gaps h (...)."""
        hA = h[..., None, None] * A  # (..., N, N)
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        resolvent = torch.linalg.inv(eye - self.alpha * hA)
        if self.alpha >= 0.5:  # the Cayley form never multiplies by hA, which overflows the digits at huge gaps
            propagator = (resolvent - (1 - self.alpha) * eye) / self.alpha
        else:
            propagator = resolvent @ (eye + (1 - self.alpha) * hA)
        held = h[..., None, None] * resolvent
        return propagator, held, self.alpha * held

    def advance(self, A: StateMatrix, h: Tensor, x: Tensor, held: Tensor | float) -> Tensor:
        """One step Abar x + F held by the structure's own products, with a single solve.

        Args:
            A: the state matrix.
            h: gaps, (...).
            x: states, (..., N).
            held: B times the inputs weighted for F, (..., N), or 0; a ramp counts alpha times, since G = alpha F.
        """
        alpha, gap = self.alpha, h[..., None]
        if alpha >= 0.5:
            return A.solve_shifted(alpha * h, x / alpha + gap * held) - (1 / alpha - 1) * x
        moved = x + (1 - alpha) * gap * A.matmul(x) + gap * held
        return A.solve_shifted(alpha * h, moved) if alpha else moved


@dataclasses.dataclass(frozen=True)
class Exact(Rule):
    """The matrix exponential: no error but that of the hold."""

    name = "exact"
    tabulated = True
    growing = False

    def scalars(self, z: Tensor, ramp: bool = True) -> tuple[Tensor, ...]:
        """(Abar, F / h, G / h) of one eigenvalue, z = h lambda."""
        return phi_functions(z, top=2 if ramp else 1)

    def matrices(self, A: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Abar, F, G) of dense matrices A (..., N, N) at gaps h (...)."""
        gap = h[..., None, None]
        propagator, phi1, phi2 = matrix_phi_functions(gap * A)
        return propagator, gap * phi1, gap * phi2


exact = Exact()
"""The exact rule, e^{hA}: with a hold, what the differential equation gives along it."""


def gbt(alpha: float) -> GeneralizedBilinear:
    """The generalized bilinear transform with parameter alpha in [0, 1].

    Args:
        alpha: 0 forward Euler, 1/2 bilinear, 1 backward Euler; stable at every gap from 1/2 on.

    Raises:
        ValueError: alpha outside [0, 1].

    Example:
        >>> gbt(0.3).name
        'gbt(0.3)'
    """
    return GeneralizedBilinear(float(alpha))


@dataclasses.dataclass(frozen=True)
class Discretization:
    """A rule, a hold, and the order of convergence on a smooth input that follows (None where there is none).

    Args:
        rule: `gbt(alpha)` or `exact`.
        hold: what the input does between samples.
    """

    rule: Rule
    hold: Hold = NEXT

    @property
    def order(self) -> int | None:
        """Order of the global error in the largest gap, on a smooth input."""
        if self.hold.kick:
            return None
        second = self.hold is LINEAR and (self.rule is exact or self.rule == gbt(0.5))
        return 2 if second else 1

    @property
    def name(self) -> str:
        """Its usual name, or rule + hold."""
        return next((name for name, method in METHODS.items() if method == self), f"{self.rule.name}+{self.hold.name}")

    @property
    def ramped(self) -> bool:
        """Whether the hold reads the response to a ramp."""
        return bool(self.hold.previous[1] or self.hold.next[1])

    def needs_table(self, A: StateMatrix) -> bool:
        """Whether steps with this matrix go through dense matrices, one a distinct gap."""
        return self.rule.tabulated or isinstance(A, Dense)


METHODS = {
    "forward_euler": Discretization(gbt(0)),
    "bilinear": Discretization(gbt(0.5)),
    "backward_euler": Discretization(gbt(1)),
    "zoh": Discretization(exact),
    "foh": Discretization(exact, LINEAR),
    "trapezoid": Discretization(gbt(0.5), LINEAR),
    "impulse": Discretization(exact, IMPULSE),
}
"""The methods that have a name."""


def named_method(method: str | Rule | Discretization) -> Discretization:
    """A discretization from its name, a rule (with the hold `next`), or itself.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> named_method("foh").order
        2
    """
    if isinstance(method, Discretization):
        return method
    if isinstance(method, Rule):
        return Discretization(method)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}, gbt(alpha) or exact")
    return METHODS[method]
