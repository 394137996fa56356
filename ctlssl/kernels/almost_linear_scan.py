"""A recurrence that is linear but for a few rectified states: compiled loops on CPU, plain torch anywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.operators import array, fused
from ctlssl.state_space import project

__all__ = ["almost_linear_scan", "rectified", "rectifier_slopes"]


def rectified(z: Tensor, relus: int) -> Tensor:
    """Phi*(z): the last `relus` numbers of z (..., N) cut off below 0, the others as they are."""
    kept = z.shape[-1] - relus
    return torch.cat([z[..., :kept], z[..., kept:].relu()], dim=-1)


def rectifier_slopes(z: Tensor, relus: int) -> Tensor:
    """Slope of Phi* at each number of z (..., N): 1, and 0 where it is cut off."""
    slopes = torch.ones_like(z)
    rectifying = slice(z.shape[-1] - relus, None)
    slopes[..., rectifying] = (z[..., rectifying] > 0).to(z.dtype)
    return slopes


def almost_linear_scan(
    a: Tensor,
    f: Tensor,
    b: Tensor,
    W: Tensor,
    z: Tensor,
    relus: int,
    given: Tensor | None = None,
    interval: int = 0,
) -> Tensor:
    r"""All states of z_k = a_k z_{k-1} + f_k (W Phi*(z_{k-1})) + b_k, where Phi* rectifies the last few states.

    Args:
        a: factors, (B, L, N).
        f: factors of what comes from the other states, (B, L, N).
        b: additions, (B, L, N).
        W: weights, (N, N).
        z: state before the first step, (B, N).
        relus: how many states are rectified.
        given: what the first D states are overwritten by before every `interval`-th step, (B, L, D); of what stands in
            the other rows nothing is read, and no gradients go to it. None: nothing is overwritten.
        interval: steps between two times of that.

    Returns:
        The states z_1 .. z_L, (B, L, N), none of them overwritten.

    Example:
        >>> one = torch.ones(1, 3, 1)
        >>> almost_linear_scan(0 * one, one, -one, torch.tensor([[-2.0]]), torch.ones(1, 1), relus=1).flatten()
        tensor([-3., -1., -1.])
    """
    if given is None:
        given, interval = b.new_empty(*b.shape[:2], 0), 1
    return (_Scan.apply if fused(b) else _plain)(a, f, b, W, z, relus, given, interval)


def _plain(a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int, given: Tensor, interval: int) -> Tensor:
    """The same in plain torch, on any device and differentiable to any order."""
    states = []
    for k in range(b.shape[1]):
        if k and k % interval == 0:
            z = torch.cat([given[:, k].detach(), z[:, given.shape[2] :]], dim=1)  # (B, N)
        mixed = project(rectified(z, relus), W)
        z = torch.addcmul(torch.addcmul(b[:, k], a[:, k], z), f[:, k], mixed)
        states.append(z)
    return torch.stack(states, dim=1) if states else b


class _Scan(torch.autograd.Function):
    """The compiled loops; nothing of what is given to overwrite states gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        f: Tensor,
        b: Tensor,
        W: Tensor,
        z: Tensor,
        relus: int,
        given: Tensor,
        interval: int,
    ) -> Tensor:
        from ctlssl.kernels import compiled_almost_linear

        states, before = (torch.empty_like(b, memory_format=torch.contiguous_format) for _ in range(2))
        before[:, :1] = z[:, None]
        numbers = (array(part) for part in (a, f, b, W.mT))
        compiled_almost_linear.forward(*numbers, relus, array(given), interval, before.numpy(), states.numpy())
        ctx.save_for_backward(a, f, W, before, given)
        ctx.relus, ctx.interval = relus, interval
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from ctlssl.kernels import compiled_almost_linear

        a, f, W, before, given = ctx.saved_tensors
        adjoint, start = torch.empty_like(before), before.new_zeros(before.shape[0], before.shape[2])
        numbers, rows = (array(part) for part in (a, f, W)), (array(part) for part in (before, grad))
        places = adjoint.numpy(), start.numpy()
        compiled_almost_linear.backward(*numbers, ctx.relus, array(given), ctx.interval, *rows, *places)
        seen = rectified(before, ctx.relus)
        of_weights = (adjoint * f).flatten(0, 1).mT @ seen.flatten(0, 1)
        return adjoint * before, adjoint * project(seen, W), adjoint, of_weights, start, None, None, None
