r"""Liquid steps in plain torch: the reference of the fused loops, on any device, to any derivative.

Elementwise in the complex basis of a diagonal system x_k = a_k x_{k-1} + d_k, a_k = Abar_k + m_k; with z = h lambda

| form | Abar | m | d |
|---|---|---|---|
| paper | rule(z) | s Bbar u | Bbar u |
| exact | e^z | e^{h mu} - e^z, mu = lambda + s b u | h phi_1(h mu) b u |

s in [0, 1] is the guard: the largest with |a_k| <= 1 (paper) or Re mu <= 0 (exact).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctlssl.discretization import Rule, exact, gbt
from ctlssl.kernels.linear_scan import linear_scan
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs
from ctlssl.state_matrices.phi import phi_functions

__all__ = ["LiquidFactors", "guarded_rates", "linear_factors", "liquid_factors", "liquid_twin"]


class LiquidFactors(NamedTuple):
    """The numbers of every row, complex (B, L, H, n): Abar, the guarded liquid factor m, and d of a unit input."""

    decay: Tensor
    liquid: Tensor
    unit: Tensor


def liquid_factors(
    u: Tensor, steps: Tensor, poles: Tensor, B: Tensor, alpha: float, exact_form: bool, guard: bool
) -> LiquidFactors:
    """Abar, m and d / u of every row, in complex128.

    Args:
        u: inputs, (B, L, H).
        steps: gaps times step sizes, (B, L, H) float64.
        poles: eigenvalues of the pairs, (H, 2 n) float64.
        B: input map, (H, 2 n).
        alpha: of gbt, negative for the exact rule; not read by the exact form.
        exact_form: whether the liquid equation itself is solved, or the paper's step is taken.
        guard: whether m is scaled down where the state could grow.
    """
    h, poles, b = steps[..., None], split_pairs(poles), split_pairs(B.double())  # (B, L, H, 1), (H, n), (H, n)
    if exact_form:
        rates = guarded_rates(u, poles, b, guard)  # (B, L, H, n)
        power, held = phi_functions(h * rates, 1)
        decay = (h * poles).exp()
        return LiquidFactors(decay, power - decay, multiply(h * held, b.expand_as(held)))
    decay, unit = linear_factors(steps, poles, b, alpha)
    liquid = u.double()[..., None] * unit
    return LiquidFactors(decay, _guarded(decay, liquid, _room(h * poles, alpha)) if guard else liquid, unit)


def linear_factors(steps: Tensor, poles: Tensor, b: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Abar and Bbar of x' = lambda x + b u, complex (..., H, n), from steps (..., H) and complex poles, b (H, n)."""
    rule: Rule = gbt(alpha) if alpha >= 0 else exact
    h = steps[..., None]
    z = h * poles  # (..., H, n)
    decay, held, *_ = rule.scalars(z, ramp=False)
    return decay, multiply(h * held, b.expand_as(z))


def guarded_rates(u: Tensor, poles: Tensor, b: Tensor, guard: bool) -> Tensor:
    """Mu = lambda + s b u, complex (B, L, H, n), from complex poles and b (H, n)."""
    driven = u.double()[..., None] * b
    over = driven.real > -poles.real if guard else torch.zeros_like(driven.real, dtype=torch.bool)
    scale = torch.where(over, -poles.real / torch.where(over, driven.real, 1), 1)
    real = torch.where(over, 0, poles.real + driven.real)
    return torch.complex(real, poles.imag + scale * driven.imag)


def _room(z: Tensor, alpha: float) -> Tensor:
    """1 - |Abar|^2 without cancellation."""
    if alpha < 0:
        return -torch.expm1(2 * z.real)
    size = (1 - alpha * z.real) ** 2 + (alpha * z.imag) ** 2
    return ((2 * alpha - 1) * (z.real**2 + z.imag**2) - 2 * z.real) / size


def _guarded(decay: Tensor, liquid: Tensor, room: Tensor) -> Tensor:
    """S m with the largest s in [0, 1] for which |Abar + s m| <= 1: the root of |m|^2 s^2 + 2 p s = 1 - |Abar|^2."""
    q = liquid.real**2 + liquid.imag**2
    p = decay.real * liquid.real + decay.imag * liquid.imag
    over = q + 2 * p > room
    square = p * p + q * room
    root = torch.where(over & (square > 0), square, 1).sqrt() * (square > 0)
    ahead = p > 0
    early = room / torch.where(over & ahead, p + root, 1)
    late = (root - p) / torch.where(over, q, 1)
    return torch.where(over, torch.where(ahead, early, late), 1) * liquid


def liquid_twin(
    u: Tensor,
    kinds: Tensor,
    steps: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    alpha: float,
    exact_form: bool,
    guard: bool,
) -> tuple[Tensor, Tensor]:
    """C x + D u (B, L, H) and the last committed state (B, H, 2 n); arguments as `liquid_bank`."""
    inside = (kinds > 0)[..., None]
    u = torch.where(inside, u, 0)
    decay, liquid, unit = liquid_factors(u, steps, poles, B, alpha, exact_form, guard)
    factor, drive, first = (
        decay + liquid,
        u.double()[..., None] * unit,
        split_pairs(x.double()),
    )  # (B, L, H, n), (B, H, n)
    commits = (kinds == 1)[..., None, None]
    states = linear_scan(torch.where(commits, factor, 1), torch.where(commits, drive, 0), first)
    before = torch.cat([first[:, None], states[:, :-1]], dim=1)[:, : u.shape[1]]
    shown = join_pairs(torch.where(commits, states, multiply(factor, before) + drive))  # (B, L, H, 2 n)
    y = (C.double() * shown).sum(-1) + D.double() * u
    last = join_pairs(states[:, -1] if u.shape[1] else first)
    return torch.where(inside, y, 0).to(u.dtype), last.to(x.dtype)
