"""The linear recurrence of matrices X_k = M_k X_{k-1} + B_k in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["matrix_scan"]


def matrix_scan(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """All states of X_k = M_k X_{k-1} + b_k, one matrix product a step.

    Args:
        M: transitions, (B, L, ..., N, N), real or complex.
        b: additions, (B, L, ..., N, P).
        x: state before the first step, (B, ..., N, P).

    Returns:
        The states X_1 .. X_L, (B, L, ..., N, P).

    Example:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
        >>> matrix_scan(turn, torch.zeros(1, 3, 2, 1), torch.tensor([[[1.0], [0.0]]])).flatten(2)
        tensor([[[ 0.,  1.],
                 [-1.,  0.],
                 [ 0., -1.]]])
    """
    return _Scan.apply(M, b, x)


def _loop(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    # Time first, so that the matrices of a step lie together.
    M, b = (part.transpose(0, 1).flatten(1, -3) for part in (M, b))  # (L, B ..., N, N), (L, B ..., N, P)
    out, x_k = torch.empty_like(b), x.flatten(0, -3)
    for k in range(len(b)):
        x_k = torch.baddbmm(b[k], M[k], x_k, out=out[k])
    return out.reshape(len(b), *x.shape).transpose(0, 1)


class _Scan(torch.autograd.Function):
    """The adjoint runs the same recurrence backward in time, so the backward pass is this function again.

    Autograd through the loop would keep a node a step; this keeps the transitions and the states.
    """

    @staticmethod
    def forward(ctx: Any, M: Tensor, b: Tensor, x: Tensor) -> Tensor:
        states = _loop(M, b, x)
        ctx.save_for_backward(M, x, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        M, x, states = ctx.saved_tensors
        if M.shape[1] == 0:
            return torch.zeros_like(M), torch.zeros_like(states), torch.zeros_like(x)
        later = torch.cat([M[:, 1:], torch.zeros_like(M[:, :1])], dim=1).mH  # of step k + 1
        adjoint = _Scan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # X_{k-1}
        return adjoint @ earlier.mH, adjoint, M[:, 0].mH @ adjoint[:, 0]
