"""The recurrence of a diagonal A in plain torch: the reference of the fused loops, on any device, to any derivative."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctlssl.discretization import Rule, exact, gbt
from ctlssl.kernels.linear_scan import linear_scan
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs

__all__ = ["bank_twin", "multi_twin"]


def _states(
    driven: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """What each row shows (B, L, G, 2 n), and the last committed state (B, G, 2 n), from B u (B, L, G, 2 n)."""
    rule: Rule = gbt(alpha) if alpha >= 0 else exact
    p_F, p_G, n_F, n_G, kick = hold
    ramp = not kick and bool(p_G or n_G)
    dtype = torch.promote_types(driven.dtype, torch.complex64)
    distinct, place = _distinct(gaps)
    h = distinct.to(torch.float64)[:, None, None]  # (U, 1, 1)
    power, held, *slope = rule.scalars(h * split_pairs(poles), ramp)  # (U, G, n)

    def dealt(coefficient: Tensor) -> Tensor:
        return coefficient.to(dtype).index_select(0, place.flatten()).unflatten(0, place.shape)  # (B, L, G, n)

    before = _held(driven, start, kinds) if p_F or p_G else driven  # (B, L, G, 2 n)
    if kick:
        addition = split_pairs(kick * driven)
    else:
        addition = multiply(split_pairs(p_F * before + n_F * driven), dealt(h * held))
    if ramp:
        addition = addition + multiply(split_pairs(p_G * before + n_G * driven), dealt(h * slope[0]))
    power = dealt(power)
    commits = (kinds == 1)[..., None, None]
    first = split_pairs(x)  # (B, G, n)
    committed = linear_scan(torch.where(commits, power, 1), torch.where(commits, addition, 0), first)
    shown = committed
    if torch.compiler.is_compiling() or (kinds == 2).any():
        earlier = torch.cat([first[:, None], committed[:, :-1]], dim=1)  # (B, L, G, n)
        shown = torch.where(commits, committed, multiply(power, earlier) + addition)
    last = committed[:, -1] if committed.shape[1] else first
    return join_pairs(torch.where((kinds > 0)[..., None, None], shown, 0)), join_pairs(last)


def bank_twin(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u (B, L, H, M) and the last committed state (B, H, 2 n); arguments as `diagonal_bank`."""
    inside = (kinds > 0)[..., None]
    u = torch.where(inside, u, 0)
    shown, last = _states(B * u[..., None], B * start[..., None], gaps, kinds, poles, x, hold, alpha)
    y = (C * shown[..., None, :]).sum(-1) + D * u[..., None]  # (B, L, H, M)
    return torch.where(inside[..., None], y, 0), last


def multi_twin(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u (B, L, H) and the last committed state (B, 1, 2 n); arguments as `diagonal_multi`."""
    inside = (kinds > 0)[..., None]
    u = torch.where(inside, u, 0)
    driven = (u @ B.mT)[:, :, None], (start @ B.mT)[:, None]
    shown, last = _states(*driven, gaps, kinds, poles, x, hold, alpha)
    return torch.where(inside, shown[:, :, 0] @ C.mT + D * u, 0), last


def _held(driven: Tensor, start: Tensor, kinds: Tensor) -> Tensor:
    """B u of the last committed row before each one, (B, L, G, 2 n)."""
    rows = torch.arange(1, kinds.shape[1] + 1, device=kinds.device)
    upto = torch.where(kinds == 1, rows, 0).cummax(1).values  # 0 is the state handed in
    place = torch.cat([upto.new_zeros(upto.shape[0], 1), upto[:, :-1]], dim=1)[:, : kinds.shape[1]]
    inputs = torch.cat([start[:, None], driven], dim=1)
    return inputs.gather(1, place[..., None, None].expand(-1, -1, *driven.shape[2:]))


def _distinct(gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct gaps (U,) and the place of each row's gap among them (B, L)."""
    if gaps.requires_grad or torch.compiler.is_exporting():  # equal gaps need gradients of their own
        return gaps.reshape(-1), torch.arange(gaps.numel(), device=gaps.device).reshape(gaps.shape)
    return gaps.unique(return_inverse=True)
