"""The recurrence of a layer that is linear but for a few rectified states, in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctlssl.state_space import project

__all__ = ["almost_linear_scan", "rectified", "rectifier_slopes"]

_TILE = 16


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


def _filled(x: Tensor) -> Tensor:
    """Rows x (R, C) filled up with zeros to whole tiles, so that a product rounds each row alike: see `project`."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % _TILE, 0, -x.shape[0] % _TILE))


def _tiles(x: Tensor) -> Tensor:
    """Zeros, of the shape that x (R, C) is filled up to."""
    return torch.zeros_like(_filled(x))


class _Scan(torch.autograd.Function):
    """The adjoint is written out: autograd would keep half a dozen nodes a step and sum the gradient of W L times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor, b: Tensor, W: Tensor, z: Tensor, relus: int) -> Tensor:
        (B, L, N), weights = b.shape, _filled(W).mT
        a, f, b = (part.transpose(0, 1).contiguous() for part in (a, f, b))  # (L, B, N)
        states, seen = b.new_empty(L + 1, B, N), _tiles(z)  # seen: Phi*(z_{k-1}) in its tiles
        floor, own, mixed = _floor(z, relus), seen[:B, :N], torch.empty_like(seen)
        product = mixed[:B, :N]
        states[0] = z
        every = zip(a.unbind(), f.unbind(), b.unbind(), states[:-1].unbind(), states[1:].unbind(), strict=True)
        for keep, take, add, before, after in every:
            torch.maximum(before, floor, out=own)
            torch.mm(seen, weights, out=mixed)
            torch.addcmul(torch.addcmul(add, keep, before), take, product, out=after)
        ctx.save_for_backward(a, f, W, states)
        ctx.relus = relus
        return states[1:].transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, f, W, states = ctx.saved_tensors
        before, (B, N) = states[:-1], a.shape[1:]
        slopes, grad, weights = rectifier_slopes(before, ctx.relus), grad.transpose(0, 1).contiguous(), _filled(W)
        adjoint, carried, pushed = torch.empty_like(before), torch.zeros_like(states[0]), _tiles(states[0])
        mixed = torch.empty_like(pushed)
        own, product = pushed[:B, :N], mixed[:B, :N]  # adjoint times f, in its tiles, and what W makes of it
        every = zip(a.unbind(), f.unbind(), grad.unbind(), slopes.unbind(), adjoint.unbind(), strict=True)
        for keep, take, given, slope, here in reversed(list(every)):
            torch.add(given, carried, out=here)  # (B, N)
            torch.mul(here, take, out=own)
            torch.mm(pushed, weights, out=mixed)
            carried = torch.addcmul(here * keep, product, slope)
        seen = rectified(before, ctx.relus)
        through = adjoint * project(seen, W)
        of_weights = (adjoint * f).flatten(0, 1).mT @ seen.flatten(0, 1)
        per_row = (part.transpose(0, 1) for part in (adjoint * before, through, adjoint))  # (B, L, N)
        return *per_row, of_weights, carried, None
