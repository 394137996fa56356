"""The recurrence of a diagonal A in plain torch: the reference of the fused loops, on any device, to any derivative."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctlssl.discretization import Rule, exact, gbt
from ctlssl.kernels.linear_scan import linear_scan
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs

__all__ = ["bank_twin", "states_twin"]


def states_twin(
    first: Tensor,
    second: Tensor | None,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    x: Tensor,
    kick: bool,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """What each row shows (B, L, G, 2 n), and the last committed state (B, G, 2 n).

    Args:
        first: drives of F, or kicks, (B, L, G, 2 n).
        second: drives of G, or None where the hold reads no ramp.
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (G, 2 n) float64.
        x: state before the first row, (B, G, 2 n).
        kick: whether the drive is added as it is.
        alpha: of gbt; negative for the exact rule.
    """
    rule: Rule = gbt(alpha) if alpha >= 0 else exact
    dtype = torch.promote_types(first.dtype, torch.complex64)
    distinct, place = _distinct(gaps)
    h = distinct.to(torch.float64)[:, None, None]  # (U, 1, 1)
    power, held, *ramp = rule.scalars(h * split_pairs(poles), second is not None)  # (U, G, n)

    def dealt(coefficient: Tensor) -> Tensor:
        return coefficient.to(dtype).index_select(0, place.flatten()).unflatten(0, place.shape)  # (B, L, G, n)

    addition = split_pairs(first) if kick else multiply(split_pairs(first), dealt(h * held))
    if second is not None:
        addition = addition + multiply(split_pairs(second), dealt(h * ramp[0]))
    power = dealt(power)
    commits = (kinds == 1)[..., None, None]
    start = split_pairs(x)  # (B, G, n)
    committed = linear_scan(torch.where(commits, power, 1), torch.where(commits, addition, 0), start)
    shown = committed
    if torch.compiler.is_compiling() or (kinds == 2).any():
        before = torch.cat([start[:, None], committed[:, :-1]], dim=1)  # (B, L, G, n)
        shown = torch.where(commits, committed, multiply(power, before) + addition)
    last = committed[:, -1] if committed.shape[1] else start
    return join_pairs(shown), join_pairs(last)


def bank_twin(
    u: Tensor,
    held: Tensor | None,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x of a bank, (B, L, H, M), and the last committed state; u, held (B, L, H), B (H, 2 n), C (H, M, 2 n).

    hold holds the weights (p_F, p_G, n_F, n_G, kick) of the hold.
    """
    p_F, p_G, n_F, n_G, kick = hold
    held = torch.zeros_like(u) if held is None else held
    if kick:
        drives = [B * (kick * u)[..., None]]
    else:
        drives = [B * (p * held + n * u)[..., None] for p, n in ((p_F, n_F), (p_G, n_G))]  # (B, L, H, 2 n)
    second = drives[1] if p_G or n_G else None
    shown, last = states_twin(drives[0], second, gaps, kinds, poles, x, bool(kick), alpha)
    y = (C * shown[..., None, :]).sum(-1)  # (B, L, H, M)
    return torch.where((kinds > 0)[..., None, None], y, 0), last


def _distinct(gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct gaps (U,) and the place of each row's gap among them (B, L)."""
    if gaps.requires_grad:  # equal gaps need gradients of their own
        return gaps.reshape(-1), torch.arange(gaps.numel(), device=gaps.device).reshape(gaps.shape)
    return gaps.unique(return_inverse=True)
