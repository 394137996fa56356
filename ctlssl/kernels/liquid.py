"""The liquid recurrence of a bank as a torch operator over its fused loop, and its twin in plain torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.discretization import exact, gbt
from ctlssl.kernels.linear_scan import linear_scan
from ctlssl.kernels.operators import array, fused, operator, register_derivative
from ctlssl.kernels.thread_pool import run_tasks
from ctlssl.state_matrices.diagonal import join_pairs, multiply

__all__ = ["liquid_bank", "liquid_share", "liquid_twin"]


def liquid_bank(
    u: Tensor,
    steps: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    b: Tensor,
    c: Tensor,
    x: Tensor,
    alpha: float,
    guard: bool,
) -> tuple[Tensor, Tensor]:
    r"""Re(conj(c) x_k) of x_k = (Abar_k + s Bbar_k u_k) x_{k-1} + Bbar_k u_k, (B, L, H), and the last state (B, H, n).

    Args:
        u: inputs, (B, L, H).
        steps: step size of each channel, (H,) float64.
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues, (n,) complex128.
        b: input map, (H, n) complex128.
        c: output map, (H, n) complex128.
        x: state before the first row, (B, H, n) complex128.
        alpha: of gbt; negative for the exact rule.
        guard: whether s keeps |Abar + s Bbar u| from exceeding 1; else s = 1.
    """
    given = (u, steps, gaps, kinds, poles, b, c, x, alpha, guard)
    if not fused(u):
        return liquid_twin(*given)
    keep = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given)
    return _liquid(*given, keep)[:2]


def liquid_share(kept: Tensor, push: Tensor) -> Tensor:
    """The largest s <= 1 with |Abar + s push| <= 1; see `compiled_liquid`.

    Args:
        kept: Abar, complex, any shape, |Abar| <= 1.
        push: what the input adds to it, of the same shape.
    """
    square = push.real.square() + push.imag.square()
    cross = kept.real * push.real + kept.imag * push.imag
    room = (1 - kept.real.square() - kept.imag.square()).clamp(min=0)
    beyond = 2 * cross + square > room
    square, cross = torch.where(beyond, square, 1), torch.where(beyond, cross, 0)
    root = torch.where(beyond, cross.square() + square * room, 1).sqrt()
    # Of the two forms of the positive root the one without a difference.
    below = torch.where(cross > 0, cross + root, 1)
    return torch.where(beyond, torch.where(cross > 0, room / below, (root - cross) / square), 1)


def liquid_twin(
    u: Tensor,
    steps: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    b: Tensor,
    c: Tensor,
    x: Tensor,
    alpha: float,
    guard: bool,
) -> tuple[Tensor, Tensor]:
    """The same as `liquid_bank`, of the same arguments, in plain torch: differentiable to any order, on any device."""
    h = gaps[..., None, None] * steps[:, None]  # (B, L, H, 1)
    kept, held = (exact if alpha < 0 else gbt(alpha)).scalars(h * poles, ramp=False)[:2]  # (B, L, H, n)
    push = multiply(h * held, b) * u.double()[..., None]
    factor = kept + push * liquid_share(kept, push) if guard else kept + push
    commits = (kinds == 1)[..., None, None]
    states = linear_scan(torch.where(commits, factor, 1), torch.where(commits, push, 0), x)
    before = torch.cat([x[:, None], states[:, :-1]], dim=1)[:, : states.shape[1]]
    seen = join_pairs(torch.where(commits, states, multiply(factor, before) + push))  # (B, L, H, 2 n)
    y = torch.where(kinds[..., None] > 0, (seen * join_pairs(c)).sum(-1), 0)
    return y.to(u.dtype), states[:, -1] if states.shape[1] else x


def _run(u, steps, gaps, kinds, poles, b, c, x, alpha, guard, keep):  # noqa: ANN001, ANN202
    from ctlssl.kernels.compiled_liquid import STRIDE, liquid_forward

    (B, L, H), n = u.shape, len(poles)
    y, last = np.empty((B, L, H), array(u).dtype), array(x).copy()
    kept = np.empty((B, H, -(-L // STRIDE) if keep else 0, n), complex)
    given = [array(t) for t in (u, gaps, kinds, steps, poles, b, c)]

    def kernel(first: int, end: int) -> None:
        liquid_forward(first, end, H, *given, last, float(alpha), bool(guard), y, kept)

    run_tasks(kernel, B * H, u.numel() * n)
    return tuple(torch.from_numpy(part) for part in (y, last, kept))


def _fake(u, steps, gaps, kinds, poles, b, c, x, alpha, guard, keep):  # noqa: ANN001, ANN202
    from ctlssl.kernels.compiled_liquid import STRIDE

    parts = -(-u.shape[1] // STRIDE) if keep else 0
    return u.new_empty(u.shape), x.new_empty(x.shape), x.new_empty(u.shape[0], u.shape[2], parts, len(poles))


def _run_adjoint(gy, gend, kept, u, steps, gaps, kinds, poles, b, c, x, alpha, guard, clocked):  # noqa: ANN001, ANN202
    from ctlssl.kernels.compiled_liquid import liquid_back

    (B, L, H), n = u.shape, len(poles)
    gx, gu, ggaps = array(gend.resolve_conj()).copy(), np.zeros((B, L, H), array(u).dtype), np.zeros((H, B, L))
    gsteps, (gpoles, gb, gc) = np.zeros((B, H)), (np.zeros((B, H, n), complex) for _ in range(3))
    given = [array(t) for t in (u, gaps, kinds, steps, poles, b, c, kept)]

    def kernel(first: int, last: int) -> None:
        places = array(gy), gx, gu, ggaps, gsteps, gpoles, gb, gc
        liquid_back(first, last, H, *given, float(alpha), bool(guard), *places)

    run_tasks(kernel, B * H, u.numel() * n * 4)
    found = gu, gsteps.sum(0), ggaps.sum(0), gpoles.sum((0, 1)), gb.sum(0), gc.sum(0), gx
    return [torch.from_numpy(np.ascontiguousarray(part)) for part in found]


def _fake_adjoint(gy, gend, kept, u, steps, gaps, kinds, poles, b, c, x, alpha, guard, clocked):  # noqa: ANN001, ANN202
    return [t.new_empty(t.shape) for t in (u, steps, gaps, poles, b, c, x)]


_INPUTS = (
    "Tensor u, Tensor steps, Tensor gaps, Tensor kinds, Tensor poles, Tensor b, Tensor c, Tensor x, float alpha, "
    "bool guard"
)
_liquid: Any = operator(f"liquid_bank({_INPUTS}, bool keep) -> (Tensor y, Tensor end, Tensor kept)", _run, _fake)
_liquid_adjoint: Any = operator(
    f"liquid_bank_adjoint(Tensor gy, Tensor gend, Tensor kept, {_INPUTS}, bool clocked) -> Tensor[]",
    _run_adjoint,
    _fake_adjoint,
)
register_derivative(_liquid, _liquid_adjoint, liquid_twin, (0, 1, 2, 4, 5, 6, 7))
