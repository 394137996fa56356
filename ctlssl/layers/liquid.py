"""Liquid state-space layer: a diagonal bank whose eigenvalues move with the input."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ctlssl.discretization import Discretization, Rule
from ctlssl.kernels.liquid import liquid_bank
from ctlssl.kernels.liquid_twin import LiquidFactors, guarded_rates, liquid_factors
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.liquid_bank import LiquidBank, rotations
from ctlssl.state_matrices.diagonal import join_pairs, split_pairs
from ctlssl.views import Integration
from ctlssl.views.integration import integrate_rates
from ctlssl.views.passes import nested_pass
from ctlssl.views.response import Rows

__all__ = ["LiquidLSSL"]

_FORMS = ("paper", "exact")


@final
class LiquidLSSL(LiquidBank):
    r"""A bank of diagonal systems x' = (lambda + b u) x + b u, y = C x + D u, elementwise in the complex basis.

    Each channel has a system of its own. Two steps are offered; h is the observed gap times the channel's step size:

        "paper"  x_k = (Abar(h) + s Bbar(h) u_k) x_{k-1} + Bbar(h) u_k
        "exact"  x_k = e^{h mu} x_{k-1} + h phi_1(h mu) b u_k,  mu = lambda + s b u_k

    with Abar and Bbar of x' = lambda x + b u by `method`. The second is the solution of the equation with the input
    held over the gap, and agrees with view="integration"; the first agrees with it to first order. All coefficients
    are formed in float64.

    An input can make the factor of the state larger than 1. The guard scales the liquid part, and not the drive, by
    the largest s in [0, 1] with |Abar + s Bbar u| <= 1, or Re(lambda + s b u) <= 0. It is exactly 1 wherever that
    holds already. Without it (`guard=False`) states can grow without bound.

    With `degree` P the expansion in powers of the liquid part m = (factor - Abar) is cut after P terms, by P nested
    scans z^1 = Abar z^1 + d, z^p = Abar z^p + m_k z^{p-1}_{k-1}, x = sum of z^p: products of at most P inputs (of P
    steps' inputs in the exact form). From P = L on nothing is cut.

    Args:
        channels: inputs and outputs H.
        state_size: real state dimensions N of each channel's system, even.
        form: "paper" or "exact".
        method: the rule of the paper's step, with the hold `next` and no growth of its own: "bilinear",
            "backward_euler", "zoh", gbt(alpha) from alpha = 1/2 on. The exact form needs none.
        degree: P, or None for the whole recurrence, which runs in one fused loop.
        measure: HiPPO measure of the start: "legs", "legt", "lagt", "fourier", "lin", "inv", "real".
        step_range: smallest and largest initial step size.
        guard: whether the liquid part is scaled down where the state could grow.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, H, N), or
        (B, P, H, N) with a degree.

    Raises:
        ValueError: counts below 1, an odd state size, unknown names, a method that can grow or has another hold.

    References:
        Hasani, Lechner, Wang, Chahine, Amini, Rus (2022), Liquid structural state-space models, arXiv:2209.12951.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = LiquidLSSL(channels=2, state_size=4, form="exact")
        >>> u, dt = torch.randn(3, 5, 2), torch.rand(3, 5)
        >>> y, state = layer(u, dt)
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 2, 4]))
        >>> torch.allclose(layer(u, dt, view="integration")[0], y, atol=1e-4)
        True
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        form: str = "paper",
        method: str | Rule | Discretization = "bilinear",
        degree: int | None = None,
        measure: str = "legs",
        step_range: tuple[float, float] = (1e-3, 1e-1),
        guard: bool = True,
    ) -> None:
        super().__init__(channels, state_size, method, degree, measure, step_range)
        if form not in _FORMS:
            raise ValueError(f"form is one of {', '.join(_FORMS)}; found {form!r}")
        self.form = form
        self.guard, self.growing = guard, not guard
        self.views = ("recurrence", "integration") if form == "exact" and degree is None else ("recurrence",)

    @property
    def _row_numbers(self) -> int:
        """One where the fused loops run, which keep what they need themselves."""
        return 1 if self.degree is None else super()._row_numbers

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(H, N), or (P, H, N) with a degree."""
        system = (self.channels, self.state_size)
        return system if self.degree is None else (self.degree, *system)

    def linear_form(self, rows: Rows) -> LinearForm:
        """The factors of each row as rotations of pairs, those of a degree in blocks below one another."""
        decay, liquid, unit = self._factors(rows)  # (B, L, H, n)
        if self.degree is None:
            transition = rotations(decay + liquid)
        else:
            eye = torch.eye(self.degree, dtype=torch.float64)
            kept, passed = torch.kron(eye, rotations(decay)), torch.kron(eye.roll(1, 0).tril(-1), rotations(liquid))
            transition = kept + passed
        return self._as_linear(transition, unit, rows, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        options = f"form={self.form!r}, method={self.method.name!r}, degree={self.degree}, guard={self.guard}"
        return f"{self.channels}, {self.state_size}, {options}"

    def _rule(self) -> tuple[float, bool, bool]:
        """Alpha, -1 for the exact rule; whether the form is exact; whether guarded."""
        return self._alpha, self.form == "exact", self.guard

    def _factors(self, rows: Rows) -> LiquidFactors:
        return liquid_factors(rows.u, self._steps(rows), self._poles(), self.B, *self._rule())

    def _run(self, rows: Rows, view: str | Integration) -> tuple[Tensor, Tensor]:
        maps = (self.B.double(), self.C.double(), self.D.double())
        if view != "recurrence":
            return self._integrated(rows, Integration() if view == "integration" else view)
        if self.degree is None:
            return liquid_bank(rows.u, rows.kinds, self._steps(rows), self._poles(), *maps, rows.start.x, *self._rule())
        decay, liquid, unit = self._factors(rows)
        first = split_pairs(rows.start.x.double())  # (B, P, H, n)
        shown, last = nested_pass(decay, liquid, rows.u.double()[..., None] * unit, rows, first)
        return self._read(join_pairs(shown), rows), join_pairs(last).to(rows.u.dtype)

    def _integrated(self, rows: Rows, solver: Integration) -> tuple[Tensor, Tensor]:
        steps, b = self._steps(rows)[..., None], split_pairs(self.B.double())  # (B, L, H, 1), (H, n)
        rates = guarded_rates(rows.u, split_pairs(self._poles()), b, self.guard)
        drives = (steps * rows.u.double()[..., None]) * b
        x, last = integrate_rates(steps * rates, drives, rows, rows.start.x.double(), solver)
        return self._read(x, rows), last.to(rows.u.dtype)
