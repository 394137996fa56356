"""The first-order linear recurrence x_k = a_k x_{k-1} + b_k in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["linear_scan"]


def linear_scan(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """All states of x_k = a_k x_{k-1} + b_k, elementwise.

    Args:
        a: factors, (B, L, ...), real or complex.
        b: additions, (B, L, ...).
        x: state before the first step, (B, ...).

    Returns:
        The states x_1 .. x_L, (B, L, ...).

    Example:
        >>> import torch
        >>> linear_scan(torch.full((1, 3), 0.5), torch.ones(1, 3), torch.zeros(1))
        tensor([[1.0000, 1.5000, 1.7500]])
    """
    return _Scan.apply(a, b, x)


def _loop(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    out = torch.empty_like(b)
    for k in range(b.shape[1]):
        x = torch.addcmul(b[:, k], a[:, k], x)
        out[:, k] = x
    return out


class _Scan(torch.autograd.Function):
    """The adjoint runs the same recurrence backward in time, so the backward pass is this function again.

    Autograd through the loop would keep a node a step; this keeps the factors and the states.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        states = _loop(a, b, x)
        ctx.save_for_backward(a, x, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, x, states = ctx.saved_tensors
        if a.shape[1] == 0:
            return torch.zeros_like(a), torch.zeros_like(states), torch.zeros_like(x)
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj()  # a_{k+1}
        adjoint = _Scan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # x_{k-1}
        return adjoint * earlier.conj(), adjoint, adjoint[:, 0] * a[:, 0].conj()
