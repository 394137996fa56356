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


def _compiled_forward(a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
    """The state before the first row and those of all rows, (B, 1 + L, N)."""
    from ctlssl.kernels import compiled_almost_linear

    states = torch.cat([z[:, None], torch.empty_like(b)], dim=1)
    given = (array(part) for part in (a, f, b, W.mT, _floor(z, relus)))
    compiled_almost_linear.forward(*given, states.numpy())
    return states


def _compiled_backward(
    a: Tensor, f: Tensor, W: Tensor, states: Tensor, grad: Tensor, relus: int
) -> tuple[Tensor, Tensor]:
    """Adjoints of each row's state, (B, L, N), and of the state before the first, (B, N)."""
    from ctlssl.kernels import compiled_almost_linear

    adjoint, carried = torch.empty_like(a, memory_format=torch.contiguous_format), torch.zeros_like(states[:, 0])
    given = (array(part) for part in (a, f, W, _floor(W, relus), states, grad))
    compiled_almost_linear.backward(*given, adjoint.numpy(), carried.numpy())
    return adjoint, carried


def _forward(a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
    """The same in plain torch."""
    states, floor = [z], _floor(z, relus)
    for keep, take, add in zip(a.unbind(1), f.unbind(1), b.unbind(1), strict=True):
        mixed = project(torch.maximum(states[-1], floor), W)  # (B, N)
        states.append(torch.addcmul(torch.addcmul(add, keep, states[-1]), take, mixed))
    return torch.stack(states, dim=1)


def _backward(a: Tensor, f: Tensor, W: Tensor, states: Tensor, grad: Tensor, relus: int) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    slopes, carried, adjoints = rectifier_slopes(states[:, :-1], relus), torch.zeros_like(states[:, 0]), []
    for k in range(grad.shape[1] - 1, -1, -1):
        adjoints.append(grad[:, k] + carried)  # (B, N)
        carried = torch.addcmul(adjoints[-1] * a[:, k], project(adjoints[-1] * f[:, k], W.mT), slopes[:, k])
    return (torch.stack(adjoints[::-1], dim=1) if adjoints else torch.zeros_like(grad)), carried


class _Scan(torch.autograd.Function):
    """The adjoint is written out: autograd would keep half a dozen nodes a step and sum the gradient of W L times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
        states = (_compiled_forward if fused(b) else _forward)(a, f, b, W, z, relus)  # (B, 1 + L, N)
        ctx.save_for_backward(a, f, W, states)
        ctx.relus = relus
        return states[:, 1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, f, W, states = ctx.saved_tensors
        adjoint, carried = (_compiled_backward if fused(grad) else _backward)(a, f, W, states, grad, ctx.relus)
        before = states[:, :-1]  # (B, L, N)
        seen = rectified(before, ctx.relus)
        of_weights = (adjoint * f).flatten(0, 1).mT @ seen.flatten(0, 1)
        return adjoint * before, adjoint * project(seen, W), adjoint, of_weights, carried, None
