"""A recurrence that is linear but for a few rectified states: compiled loops on CPU, plain torch anywhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.operators import array, fused
from ctlssl.state_space import project

__all__ = ["almost_linear_scan", "rectified", "rectifier_slopes"]


def rectified(z: Tensor, relus: int) -> Tensor:
    """Phi*(z): the last `relus` numbers of z (..., N) cut off below 0, the others as they are."""
    return torch.maximum(z, _floor(z, relus))


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
    return _Scan.apply(a, f, b, W, z, relus, given, interval)


def _floor(z: Tensor, relus: int) -> Tensor:
    """What no state goes below in Phi*, (N,)."""
    floor = z.new_full((z.shape[-1],), -math.inf)
    floor[z.shape[-1] - relus :] = 0
    return floor


class _Scan(torch.autograd.Function):
    """The adjoint is written out: autograd would keep half a dozen nodes a step and sum the gradient of W L times."""

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
        states, before = (_compiled_forward if fused(b) else _forward)(a, f, b, W, z, relus, given, interval)
        ctx.save_for_backward(a, f, W, before, given)
        ctx.relus, ctx.interval = relus, interval
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, f, W, before, given = ctx.saved_tensors
        back = _compiled_backward if fused(grad) else _backward
        adjoint, start = back(a, f, W, before, grad, ctx.relus, given, ctx.interval)
        seen = rectified(before, ctx.relus)
        of_weights = (adjoint * f).flatten(0, 1).mT @ seen.flatten(0, 1)
        return adjoint * before, adjoint * project(seen, W), adjoint, of_weights, start, None, None, None


def _compiled_forward(
    a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int, given: Tensor, interval: int
) -> tuple[Tensor, Tensor]:
    """The states after each row and before it, (B, L, N)."""
    from ctlssl.kernels import compiled_almost_linear

    states, before = (torch.empty_like(b, memory_format=torch.contiguous_format) for _ in range(2))
    before[:, :1] = z[:, None]
    arrays = (array(part) for part in (a, f, b, W.mT, _floor(z, relus), given))
    compiled_almost_linear.forward(*arrays, interval, before.numpy(), states.numpy())
    return states, before


def _compiled_backward(
    a: Tensor, f: Tensor, W: Tensor, before: Tensor, grad: Tensor, relus: int, given: Tensor, interval: int
) -> tuple[Tensor, Tensor]:
    """Adjoints of each row's state, (B, L, N), and of the state before the first, (B, N)."""
    from ctlssl.kernels import compiled_almost_linear

    adjoint, start = torch.empty_like(before), before.new_zeros(before.shape[0], before.shape[2])
    arrays = (array(part) for part in (a, f, W, _floor(W, relus), given))
    compiled_almost_linear.backward(*arrays, interval, array(before), array(grad), adjoint.numpy(), start.numpy())
    return adjoint, start


def _forward(
    a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int, given: Tensor, interval: int
) -> tuple[Tensor, Tensor]:
    """The same as `_compiled_forward` in plain torch."""
    states, before = [], []
    for k in range(b.shape[1]):
        z = torch.cat([given[:, k], z[:, given.shape[2] :]], dim=1) if k and k % interval == 0 else z  # (B, N)
        mixed = project(rectified(z, relus), W)
        before.append(z)
        z = torch.addcmul(torch.addcmul(b[:, k], a[:, k], z), f[:, k], mixed)
        states.append(z)
    return (torch.stack(states, dim=1), torch.stack(before, dim=1)) if states else (b, b)


def _backward(
    a: Tensor, f: Tensor, W: Tensor, before: Tensor, grad: Tensor, relus: int, given: Tensor, interval: int
) -> tuple[Tensor, Tensor]:
    """The same as `_compiled_backward` in plain torch."""
    slopes, adjoints, back = rectifier_slopes(before, relus), [], W.mT.contiguous()
    carried = before.new_zeros(before.shape[0], before.shape[2])
    for k in range(grad.shape[1] - 1, -1, -1):
        here = grad[:, k] + carried  # (B, N)
        carried = torch.addcmul(here * a[:, k], project(here * f[:, k], back), slopes[:, k])
        if k and k % interval == 0:
            carried[:, : given.shape[2]] = 0
        adjoints.append(here)
    return torch.stack(adjoints[::-1], dim=1) if adjoints else grad, carried
