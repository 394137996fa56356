"""The recurrence of a layer that is linear but for a few rectified states, in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctlssl.state_space import project

__all__ = ["almost_linear_scan", "rectified"]


def rectified(z: Tensor, relus: int) -> Tensor:
    """Phi*(z): the last `relus` numbers of z (..., N) cut off below 0, the others as they are."""
    return torch.maximum(z, _floor(z, relus))


def almost_linear_scan(a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
    r"""All states of z_k = a_k z_{k-1} + f_k (W Phi*(z_{k-1})) + b_k, where Phi* rectifies the last few states.

    Args:
        a: factors, (B, L, N).
        f: factors of what comes from the other states, (B, L, N).
        b: additions, (B, L, N).
        W: weights, (N, N).
        z: state before the first step, (B, N).
        relus: how many states are rectified.

    Returns:
        The states z_1 .. z_L, (B, L, N).

    Example:
        >>> one = torch.ones(1, 3, 1)
        >>> almost_linear_scan(0 * one, one, -one, torch.tensor([[-2.0]]), torch.ones(1, 1), relus=1).flatten()
        tensor([-3., -1., -1.])
    """
    return _Scan.apply(a, f, b, W, z, relus)


def _floor(z: Tensor, relus: int) -> Tensor:
    """What no state goes below in Phi*, (N,)."""
    floor = z.new_full((z.shape[-1],), -math.inf)
    floor[z.shape[-1] - relus :] = 0
    return floor


class _Scan(torch.autograd.Function):
    """The adjoint is written out: autograd would keep half a dozen nodes a step and sum the gradient of W L times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
        states, floor = b.new_empty(b.shape[1] + 1, *z.shape), _floor(z, relus)  # (1 + L, B, N)
        states[0] = z
        for k in range(b.shape[1]):
            mixed = project(torch.maximum(states[k], floor), W)  # (B, N)
            torch.addcmul(torch.addcmul(b[:, k], a[:, k], states[k]), f[:, k], mixed, out=states[k + 1])
        ctx.save_for_backward(a, f, W, states)
        ctx.relus = relus
        return states[1:].transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, f, W, states = ctx.saved_tensors
        before = states[:-1]  # (L, B, N)
        seen = rectified(before, ctx.relus)
        slopes = torch.ones_like(before)
        rectifying = slice(before.shape[-1] - ctx.relus, None)
        slopes[..., rectifying] = (before[..., rectifying] > 0).to(slopes.dtype)
        adjoint, carried = torch.empty_like(before), torch.zeros_like(states[0])
        back = W.mT.contiguous()
        for k in range(len(before) - 1, -1, -1):
            here = torch.add(grad[:, k], carried, out=adjoint[k])  # (B, N)
            carried = torch.addcmul(here * a[:, k], project(here * f[:, k], back), slopes[k])
        scaled = (adjoint * f.transpose(0, 1)).flatten(0, 1)  # (L B, N)
        through = (adjoint * project(seen, W)).transpose(0, 1)
        flat = adjoint.transpose(0, 1)
        return flat * before.transpose(0, 1), through, flat, scaled.mT @ seen.flatten(0, 1), carried, None
